"""The fault table: one row for each fault, and how a run handles it.

`python -m tests.faults` prints the table of docs/reliability.md.
"""

from __future__ import annotations

import functools
import gzip
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from standins.faults import Answer, Cut, Drip, Fault, Reset, Silence
from standins.flowlogs import FlowLogObject, expected_lines, flow_log_objects
from standins.http import HTTPRequest, relay
from standins.ingestion import Ingestion
from standins.store import SLOW_DOWN, S3Request, s3_error
from tests.harness import BUCKET, PREFIX, Place

ALL, NONE = "all", "none"
BATCH = "one request"
"""Lines are repeated only if a connection breaks after the service accepted a request."""

DESTINATIONS = ("logdna", "cloud-logs", "otlp")
NAMES = {"logdna": "LogDNA", "cloud-logs": "Cloud Logs", "otlp": "OTLP"}
REDIRECT = Answer(307, {"Location": "http://localhost:9/"})
ERROR = Answer(200, body=b'{"status":"error","error":"try later"}')
ALL_BYTES = 1_000_000
"""More than any answer has."""
PATIENCE = {"FLOWLOG_RETRY_SECONDS": "6"}
"""A single answer may then take two seconds."""


def patience(faults: Iterable[Fault | None]) -> dict[str, str]:
    """Shorter only if an answer is slow, so that a slow machine does not look like a fault."""
    return PATIENCE if any(isinstance(fault, Silence | Drip) for fault in faults) else {}


@dataclass(frozen=True, slots=True)
class Row:
    """One fault. `arrange` sets it up and returns further settings.

    `failed` numbers the objects that are named as not delivered, or is ALL or NONE; `missing`
    counts the flows that do not arrive, where it is not all flows of these objects; `remarks` is
    that of the summary. `on_the_wire`: what breaks is the connection, and not what an answer says.
    """

    fault: str
    arrange: Callable[[Place, Sequence[FlowLogObject]], dict[str, str] | None]
    says: str
    code: int = 0
    failed: str | tuple[int, ...] = NONE
    skipped: tuple[int, ...] = ()
    repeated: str = NONE
    rows: int = 5
    destinations: tuple[str, ...] = DESTINATIONS
    limits: tuple[tuple[str, int], ...] = ()
    missing: int | None = None
    remarks: int = 0
    on_the_wire: bool = False

    def named(self, objects: Sequence[FlowLogObject]) -> set[str]:
        """The keys that are named as not delivered."""
        if self.failed == ALL:
            return {item.key for item in objects}
        if self.failed == NONE:
            return set()
        return {objects[int(number)].key for number in self.failed}


MANY_ROWS = 900
"""With this many rows, two objects need more than one request of 2 MB."""


# --- the log service -----------------------------------------------------------------------------


def answers(*faults: Fault | None) -> Callable[[Place, Sequence[FlowLogObject]], dict[str, str]]:
    """The next requests to the log service get these answers."""

    def arrange(place: Place, _: Sequence[FlowLogObject]) -> dict[str, str]:
        place.ingestion.script.next(faults)
        return patience(faults)

    return arrange


def always(fault: Fault, after: int = 0) -> Callable[[Place, Sequence[FlowLogObject]], None]:
    """Every request to the log service except the first ones gets this answer."""

    def arrange(place: Place, _: Sequence[FlowLogObject]) -> None:
        place.ingestion.script.next([None] * after)
        place.ingestion.script.always(fault)

    return arrange


def having(
    arrange: Callable[[Place, Sequence[FlowLogObject]], None], **settings: str
) -> Callable[[Place, Sequence[FlowLogObject]], dict[str, str]]:
    """The same, and the job has these settings."""

    def both(place: Place, objects: Sequence[FlowLogObject]) -> dict[str, str]:
        arrange(place, objects)
        return settings

    return both


impatient = functools.partial(having, FLOWLOG_RETRY_SECONDS="0.5")
# Requests that are sent at the same time can arrive in any order.
one_by_one = functools.partial(having, FLOWLOG_CONCURRENCY="1")


def past_date(place: Place, _: Sequence[FlowLogObject]) -> None:
    at = format_datetime(datetime.now(UTC) - timedelta(seconds=5), usegmt=True)
    place.ingestion.script.next([Answer(429, {"Retry-After": at})])


def refused(
    status: int, *lines: tuple[int, int]
) -> Callable[[Place, Sequence[FlowLogObject]], None]:
    """Requests with one of these lines (object, row) are refused as a whole."""

    def arrange(place: Place, objects: Sequence[FlowLogObject]) -> None:
        bad = {texts_of(objects[number])[row] for number, row in lines}
        place.ingestion.refusal = lambda text: status if place.plain(text) in bad else None

    return arrange


def one_refused(place: Place, objects: Sequence[FlowLogObject]) -> None:
    """Requests with a line of the second object are refused as a whole."""
    key = objects[1].key
    place.ingestion.refusal = lambda text: 400 if key in text else None


def partial_success(place: Place, _: Sequence[FlowLogObject]) -> None:
    """The receiver refuses some records, and says how many, but not which."""
    response = ExportLogsServiceResponse()
    response.partial_success.rejected_log_records = 3
    response.partial_success.error_message = "too old"
    place.ingestion.script.always(Answer(200, body=response.SerializeToString()))


def not_at_first(status: int, every: int) -> Callable[[Place, Sequence[FlowLogObject]], None]:
    """One in this many lines gets this status the first time that it is sent."""

    def arrange(place: Place, objects: Sequence[FlowLogObject]) -> None:
        texts = [text for item in objects for text in texts_of(item)]
        left = set(texts[::every])

        def line_status(text: str) -> int:
            if text not in left:
                return 200
            left.remove(text)
            return status

        logdna(place).line_status = line_status

    return arrange


def never(status: int, *lines: tuple[int, int]) -> Callable[[Place, Sequence[FlowLogObject]], None]:
    """These lines (object, row) have this status in a 207 each time that they are sent."""

    def arrange(place: Place, objects: Sequence[FlowLogObject]) -> None:
        bad = {texts_of(objects[number])[row] for number, row in lines}
        logdna(place).line_status = lambda text: status if text in bad else 200

    return arrange


def logdna(place: Place) -> Ingestion:
    """The log service, which is LogDNA here."""
    assert isinstance(place.ingestion, Ingestion)
    return place.ingestion


def texts_of(item: FlowLogObject) -> list[str]:
    """The lines of an object, in their order."""
    return list(expected_lines(item.document, item.key))


def both(
    *arrangements: Callable[[Place, Sequence[FlowLogObject]], object],
) -> Callable[[Place, Sequence[FlowLogObject]], None]:
    """One thing and the other."""

    def arrange(place: Place, objects: Sequence[FlowLogObject]) -> None:
        for each in arrangements:
            each(place, objects)

    return arrange


def in_words(place: Place, _: Sequence[FlowLogObject]) -> None:
    """The service accepts the lines with an undocumented text."""
    place.ingestion.accepted = Answer(200, body=b"not all logs were accepted")


def revoked_at(number: int) -> Callable[[Place, Sequence[FlowLogObject]], None]:
    """The token has expired when this request arrives."""

    def arrange(place: Place, _: Sequence[FlowLogObject]) -> None:
        def rule(_: HTTPRequest) -> Fault | None:
            if len(place.ingestion.requests) == number:
                place.iam.revoke_all()
            return None

        place.ingestion.script.rule(rule)

    return arrange


LOG_SERVICE = [
    Row("429 with `Retry-After` in seconds", answers(Answer(429, {"Retry-After": "0"})), "429"),
    Row("429 with `Retry-After` as a date", past_date, "429"),
    *(
        Row(f"{status} three times", answers(*[Answer(status, {"Retry-After": "0"})] * 3),
            f"it answered {status}")
        for status in (502, 503, 504)
    ),
    Row("500 three times", answers(*[Answer(500, {"Retry-After": "0"})] * 3), "it answered 500",
        destinations=("logdna", "cloud-logs")),
    Row("500, which may not be sent again", answers(Answer(500)), "refused the lines (500)", 1, ALL,
        destinations=("otlp",)),
    Row("200 with records that were not accepted", partial_success, "refused 3 of", 1, ALL,
        destinations=("otlp",), repeated="not received"),
    Row("a reset before the answer", answers(Reset()), "the connection broke", on_the_wire=True),
    Row("a reset in the middle of the answer", answers(Reset(accept=True, after_bytes=10)),
        "the connection broke", repeated=BATCH, on_the_wire=True),
    Row("an answer that is lost", answers(None, Reset(accept=True)),
        "the connection broke", repeated=BATCH, rows=MANY_ROWS, on_the_wire=True),
    Row("a connection that is closed before the answer", answers(Cut(ALL_BYTES)),
        "the connection broke", repeated=BATCH, on_the_wire=True),
    Row("200 with an answer that ends too early", answers(Cut(1)), "summary", on_the_wire=True),
    Row("connections that are closed after each answer", one_by_one(always(Cut(0))), "summary",
        rows=MANY_ROWS, on_the_wire=True),
    # The wait for an answer and the exchange as a whole end at nearly the same time; either may be
    # first, and each has its own message.
    Row("no answer, once", answers(Silence()), "answer in time",
        on_the_wire=True),
    Row("an answer that arrives byte by byte", answers(Drip(0.2)),
        "it gave no complete answer in time", repeated=BATCH, on_the_wire=True),
    *(
        Row("200 with a body that is not JSON", answers(Answer(200, body=b"<html>")), says,
            repeated="not received", remarks=remarks, destinations=(destination,))
        for destination, says, remarks in (
            ("logdna", "summary", 0), ("cloud-logs", "<html>", 1), ("otlp", "<html>", 1))
    ),
    Row("a redirect", always(REDIRECT),
        "refused the lines (307)", 1, ALL),
    Row("401 in the middle of a run", one_by_one(always(Answer(401), after=1)),
        "rejected the key (401)", 1, "some", rows=MANY_ROWS),
    Row("a token that expires in the middle of a run", revoked_at(1), "its token had expired",
        destinations=("cloud-logs",)),
    *(
        Row(f"{status} because of one line", refused(status, (1, 3)),
            f"refused the lines ({status})", 1, (1,), missing=1)
        for status in (400, 422)
    ),
    Row("400 because of one object", one_refused, "a line is not acceptable", 1, (1,),
        rows=MANY_ROWS),
    Row("400 for every request", always(Answer(400)), "refused the lines (400)", 1, ALL),
    Row("a token that expires while a request is split",
        both(refused(400, (1, 3)), revoked_at(4)), "its token had expired", 1, (1,), missing=1,
        destinations=("cloud-logs",)),
    Row("503 while a request is split",
        both(refused(400, (1, 3)), answers(None, None, Answer(503), Reset())), "it answered 503", 1,
        (1,), missing=1),
    Row("408 and 425, twice each", answers(*[Answer(408), Answer(425)] * 2), "it answered 425",
        destinations=("logdna", "cloud-logs")),
    Row("408, which may not be sent again", answers(Answer(408)), "refused the lines (408)", 1, ALL,
        destinations=("otlp",)),
    Row("207: one line in three is not accepted at first", not_at_first(500, every=3),
        "it did not take 7 of 20 (500)", destinations=("logdna",)),
    Row("207: two lines are refused", never(400, (0, 2), (2, 4)), "refused the lines (400)", 1,
        (0, 2), missing=2, destinations=("logdna",)),
    Row("207: one line is never accepted", impatient(never(500, (1, 1))),
        "it did not take 1 of 1 (500)", 1, (1,), missing=1, destinations=("logdna",)),
    Row("207, and 503 when its lines are sent again",
        both(not_at_first(429, every=3), answers(None, Answer(503), Reset())), "it answered 503",
        destinations=("logdna",)),
    Row("207 while a request is split", both(refused(400, (1, 3)), not_at_first(500, every=3)),
        "(500)", 1, (1,), missing=1, destinations=("logdna",)),
    Row("207 that does not fit the lines", answers(Answer(207, body=b'{"status":[200]}')),
        "does not say which lines it took", destinations=("logdna",)),
    Row("200 that reports an error, once", answers(ERROR), "with an error: try later",
        destinations=("logdna",)),
    Row("200 that reports an error, always", impatient(always(ERROR)), "with an error: try later",
        1, ALL, destinations=("logdna",)),
    Row("200 with a text that not all was accepted", in_words, "not all logs were accepted",
        destinations=("cloud-logs",), remarks=1),
    Row("413: requests are too large", lambda place, _: None, "summary",
        limits=(("body_limit", 10_000),)),
    Row("413: even a single line is too large", lambda place, _: None, "refused the lines (413)", 1,
        ALL, limits=(("body_limit", 500),)),
    Row("503, always", impatient(always(Answer(503))), "it answered 503", 1, ALL),
    Row("503 asking to wait for an hour", always(Answer(503, {"Retry-After": "3600"})),
        "it answered 503", 1, ALL),
    Row("no answer, always", impatient(always(Silence())), "answer in time", 1, ALL),
]  # fmt: skip


# --- the object store ----------------------------------------------------------------------------


def first_get(*faults: Fault) -> Callable[[Place, Sequence[FlowLogObject]], dict[str, str]]:
    """The first reads of the first object get these faults."""

    def arrange(place: Place, objects: Sequence[FlowLogObject]) -> dict[str, str]:
        left = list(faults)

        def rule(request: S3Request) -> Fault | None:
            if (request.operation, request.key) == ("GET", objects[0].key) and left:
                return left.pop(0)
            return None

        place.store.script.rule(rule)
        return patience(faults)

    return arrange


def one_object(fault: Fault) -> Callable[[Place, Sequence[FlowLogObject]], None]:
    """Every read of the first object gets this fault."""

    def arrange(place: Place, objects: Sequence[FlowLogObject]) -> None:
        place.store.script.rule(
            lambda request: (
                fault if (request.operation, request.key) == ("GET", objects[0].key) else None
            )
        )

    return arrange


def listing(*faults: Fault) -> Callable[[Place, Sequence[FlowLogObject]], None]:
    """The first requests for the listing get these faults."""

    def arrange(place: Place, _: Sequence[FlowLogObject]) -> None:
        left = list(faults)
        place.store.script.rule(
            lambda request: left.pop(0) if request.operation == "LIST" and left else None
        )

    return arrange


def wrong_etag(times: int) -> Callable[[Place, Sequence[FlowLogObject]], dict[str, str]]:
    """The first object has an ETag that is not the checksum of its content."""

    def arrange(place: Place, objects: Sequence[FlowLogObject]) -> dict[str, str]:
        answer = Answer(
            200,
            {"ETag": f'"{"0" * 32}"', "Last-Modified": "Tue, 24 Nov 2026 10:00:00 GMT"},
            objects[0].body if times > 1 else objects[0].body[:-9] + b"corrupted",
        )
        return first_get(*[answer] * times)(place, objects)

    return arrange


def expired(place: Place, objects: Sequence[FlowLogObject]) -> None:
    """The token of the listing has expired when the first object is read."""
    left = [True]

    def rule(request: S3Request) -> Fault | None:
        if request.operation == "GET" and left:
            left.clear()
            place.iam.revoke_all()
        return None

    place.store.script.rule(rule)


def deleted(place: Place, objects: Sequence[FlowLogObject]) -> None:
    """The first object is deleted after it was listed."""

    def rule(request: S3Request) -> Fault | None:
        if request.operation == "GET":
            place.store.delete(BUCKET, objects[0].key)
        return None

    place.store.script.rule(rule)


def replaced(place: Place, objects: Sequence[FlowLogObject]) -> None:
    """The first object is written again, with the same flows, after it was listed."""
    content = gzip.compress(b" " + gzip.decompress(objects[0].body))

    def rule(request: S3Request) -> Fault | None:
        if request.operation == "GET":
            place.store.put(BUCKET, objects[0].key, content)
        return None

    place.store.script.rule(rule)


def iam(*faults: Fault) -> Callable[[Place, Sequence[FlowLogObject]], None]:
    """The next requests to IAM get these answers."""

    def arrange(place: Place, _: Sequence[FlowLogObject]) -> None:
        place.iam.script.next(faults)

    return arrange


def iam_always(fault: Fault) -> Callable[[Place, Sequence[FlowLogObject]], dict[str, str]]:
    """Every request to IAM gets this answer, and the job does not retry for long."""

    def arrange(place: Place, _: Sequence[FlowLogObject]) -> dict[str, str]:
        place.iam.script.always(fault)
        return {"FLOWLOG_RETRY_SECONDS": "0.5"}

    return arrange


def expired_while_iam_is_away(place: Place, objects: Sequence[FlowLogObject]) -> None:
    """The token is refused in the middle of a run, and IAM can't issue another one at once."""
    expired(place, objects)
    place.iam.script.next([None, Answer(503), Answer(429, {"Retry-After": "1"})])


def renewal_fails(place: Place, _: Sequence[FlowLogObject]) -> None:
    """Every token is due for renewal at once, and IAM issues no second one."""
    place.iam.lifetime = 0
    place.iam.valid_for = 3600
    place.iam.script.next([None])
    place.iam.script.always(Answer(503))


def all_reads(place: Place, fault: Fault, seconds: float) -> None:
    """After two objects were read, every read gets this fault for some time."""
    read: list[float] = []

    def rule(request: S3Request) -> Fault | None:
        if request.operation != "GET":
            return None
        read.append(time.monotonic())
        return fault if len(read) > 2 and time.monotonic() < read[2] + seconds else None

    place.store.script.rule(rule)


def slow_down(place: Place, _: Sequence[FlowLogObject]) -> None:
    all_reads(place, SLOW_DOWN, 1.5)


def late(place: Place, _: Sequence[FlowLogObject]) -> dict[str, str]:
    """The store can be reached only two seconds after the job has its token."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]

    def rule(_: HTTPRequest) -> Fault | None:
        threading.Timer(2, relay, (port, int(place.store.url.rpartition(":")[2]))).start()
        return None

    place.iam.script.rule(rule)
    return {"COS_ENDPOINT": f"{place.store.url.rpartition(':')[0]}:{port}"}


def stale(place: Place, _: Sequence[FlowLogObject]) -> dict[str, str]:
    """Every answer is whole, and then the connection is closed without having announced it."""
    place.store.script.always(Cut(0))
    return {"FLOWLOG_CONCURRENCY": "1"}


def several(fault: Fault, count: int) -> Callable[[Place, Sequence[FlowLogObject]], None]:
    """Every read of the first objects gets this fault."""

    def arrange(place: Place, objects: Sequence[FlowLogObject]) -> None:
        keys = {item.key for item in objects[:count]}
        place.store.script.rule(
            lambda request: fault if request.operation == "GET" and request.key in keys else None
        )

    return arrange


IAM = [
    Row("503 twice", iam(Answer(503), Answer(503)), "summary"),
    Row("429 with `Retry-After`, four times", iam(*[Answer(429, {"Retry-After": "0"})] * 4),
        "it answered 429"),
    Row("503, always", iam_always(Answer(503)), "look at IAM_ENDPOINT", 1),
    Row("429 asking to wait for an hour", iam(Answer(429, {"Retry-After": "3600"})),
        "look at IAM_ENDPOINT", 1),
    Row("503 and 429 when a token has expired in the middle of a run", expired_while_iam_is_away,
        "it answered 503"),
    Row("503 while the token is still valid", renewal_fails, "summary"),
    Row("a reset before the answer", iam(Reset()), "summary", on_the_wire=True),
    Row("no answer, once", iam(Silence()), "summary", on_the_wire=True),
    Row("a refusal", iam(*[Answer(400)] * 9), "look at APIKEY", 1),
    Row("a redirect", iam(*[REDIRECT] * 9), "look at IAM_ENDPOINT", 1),
    Row("200 with a body that is not JSON", iam_always(Answer(200, body=b"<html>")),
        "look at IAM_ENDPOINT", 1),
    Row("200 without a token", iam_always(Answer(200, body=b"[]")), "look at IAM_ENDPOINT", 1),
]  # fmt: skip

STORE = [
    Row("503 SlowDown, twice", first_get(SLOW_DOWN, SLOW_DOWN), "summary"),
    Row("503 SlowDown for every read, for some time", slow_down, "503 SlowDown"),
    Row("503 SlowDown for one object, always", one_object(SLOW_DOWN), "503 SlowDown", 1, (0,)),
    Row("500 for three objects, always", several(s3_error(500, "InternalError"), 3),
        "500 InternalError", 1, (0, 1, 2)),
    Row("503 asking to wait for an hour", listing(s3_error(503, "SlowDown",
        {"Retry-After": "3600"})), "503 SlowDown", 1),
    Row("503, always", having(listing(*[SLOW_DOWN] * 99), FLOWLOG_RETRY_SECONDS="0.5"),
        "503 SlowDown", 1),
    Row("a store that can be reached only later", late, "can't be reached",
        on_the_wire=True),
    Row("no answer, once", first_get(Silence()), "summary", on_the_wire=True),
    Row("an answer that arrives byte by byte", first_get(Drip(0.2)), "summary", on_the_wire=True),
    Row("a reset before the answer", first_get(Reset()), "summary", on_the_wire=True),
    Row("a reset in the middle of an object", first_get(Reset(accept=True, after_bytes=100)),
        "summary", on_the_wire=True),
    Row("a body shorter than its `Content-Length`", first_get(Cut(50)), "summary",
        on_the_wire=True),
    Row("a body that is always short", one_object(Cut(50)), "no complete answer", 1, (0,),
        on_the_wire=True),
    Row("connections that are closed after each answer", stale, "summary", on_the_wire=True),
    Row("a body that does not match its ETag", wrong_etag(1), "summary"),
    Row("an ETag that is not an MD5", wrong_etag(5), "ETags are not MD5 here"),
    Row("a token that expires in the middle of a run", expired, "summary"),
    Row("403 on one object", one_object(s3_error(403, "AccessDenied")), "403 AccessDenied", 1,
        (0,)),
    Row("403 on the listing", listing(*[s3_error(403, "AccessDenied")] * 9), "403 AccessDenied", 1),
    Row("an archived object", one_object(s3_error(403, "InvalidObjectState")), "archived", 1, (0,)),
    *(
        Row(f"{status} on one object", one_object(s3_error(status, code)), "refuses to return", 1,
            (0,))
        for status, code in ((400, "InvalidRequest"), (405, "MethodNotAllowed"))
    ),
    Row("an object deleted between listing and reading", deleted, "deleted before it was read",
        skipped=(0,)),
    Row("an object replaced between listing and reading", replaced, "summary"),
    Row("a page of the listing that fails three times", listing(SLOW_DOWN,
        s3_error(429, "TooManyRequests", {"Retry-After": "0"}), SLOW_DOWN), "503 SlowDown"),
    Row("a page of the listing that is cut short", listing(Cut(100)), "summary", on_the_wire=True),
    Row("an answer that is not a listing",
        having(listing(*[Answer(200, body=b"<html></html>")] * 99), FLOWLOG_RETRY_SECONDS="0.5"),
        "look at COS_ENDPOINT", 1),
]  # fmt: skip


# --- hostile objects -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hostile:
    """One object among good ones: the lines it gives, or why it is refused.

    `by_otlp` are the lines where an attribute can't hold what JSON can.
    """

    what: str
    make: Callable[[], bytes]
    lines: tuple[str, ...] = ()
    refused: str = ""
    by_otlp: tuple[str, ...] = ()

    def lines_at(self, destination: str) -> tuple[str, ...]:
        """The lines that this destination receives."""
        return self.by_otlp if self.by_otlp and destination == "otlp" else self.lines

    skipped: int = 0


KEY = PREFIX + "hostile"
GOOD = b'{"a":1,"flow_logs":[{"b":2}]}'
END = f'"_app":"FLCE","key":"{KEY}"}}'
GOOD_LINE = f'{{"a":1,"b":2,{END}'


def flows(entries: bytes) -> bytes:
    return b'{"flow_logs":[' + entries + b"]}"


def bomb() -> bytes:
    """About a megabyte that unpacks to 10 GB: the same flushed block of spaces, repeated."""
    packer = zlib.compressobj(9, wbits=31)
    begin = packer.compress(b'{"flow_logs":[{}') + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b" " * (10 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return begin + block * 1000


def value(text: bytes) -> Callable[[], bytes]:
    return lambda: flows(b'{"a":' + text + b"}")


def plain(content: bytes) -> Callable[[], bytes]:
    return lambda: content


HOSTILE = [
    Hostile("truncated gzip", lambda: gzip.compress(GOOD)[:-3], refused="bad gzip"),
    Hostile("several gzip members", lambda: gzip.compress(GOOD[:9]) + gzip.compress(GOOD[9:]),
            (GOOD_LINE,)),
    Hostile("a gzip bomb: 1 MB that unpacks to 10 GB", bomb, refused="too large"),
    Hostile("garbage after the gzip", lambda: gzip.compress(GOOD) + b"garbage",
            refused="bad gzip"),
    Hostile("invalid UTF-8", value(b'"\xff"'), refused="bad JSON"),
    Hostile("a UTF-8 BOM", plain(b"\xef\xbb\xbf" + GOOD), (GOOD_LINE,)),
    Hostile("NaN", value(b"NaN"), refused="NaN is not JSON"),
    Hostile("Infinity", value(b"-Infinity"), refused="-Infinity is not JSON"),
    Hostile("10,000 levels of nesting", value(b"[" * 10_000 + b"]" * 10_000), refused="bad JSON"),
    Hostile("an integer of 5,000 digits", value(b"9" * 5_000), refused="bad JSON"),
    Hostile("an integer of 100 digits", value(b"9" * 100), (f'{{"a":{"9" * 100},{END}',),
            by_otlp=(f'{{"a":"{"9" * 100}",{END}',)),
    Hostile("duplicate fields", plain(flows(b'{"a":1,"a":2}')), (f'{{"a":2,{END}',)),
    Hostile("`flow_logs` that is null", plain(b'{"flow_logs":null}'), refused="no list"),
    Hostile("`flow_logs` that is a string", plain(b'{"flow_logs":"x"}'), refused="no list"),
    Hostile("`flow_logs` that is an object", plain(b'{"flow_logs":{}}'), refused="no list"),
    Hostile("`flow_logs` that holds a number", plain(flows(b"{},1")), refused="not an object"),
    Hostile("an entry with fields `key` and `_app`", plain(flows(b'{"key":"x","_app":"y"}')),
            (f'{{"key":"{KEY}","_app":"FLCE"}}',), by_otlp=(f"{{{END}",)),
    Hostile("a lone surrogate", value(b'"\\ud800"'), (f'{{"a":"\\ud800",{END}',),
            by_otlp=(f'{{"a":"\\\\ud800",{END}',)),
    Hostile("an entry over the limit on unpacked size", value(b'"' + b"x" * 65_000_000 + b'"'),
            refused="too large"),
    Hostile("a million entries", lambda: gzip.compress(flows(b",".join(
        [b'{"a":"some text of a flow that makes this entry as large as a small one is"}']
        * 1_000_000)), 1), refused="too large"),
    Hostile("no entries", plain(b'{"flow_logs":[]}')),
    Hostile("nothing at all, as in a folder's marker", plain(b""), skipped=1),
]  # fmt: skip


# --- the table of docs/reliability.md ------------------------------------------------------------


OBJECTS = 4
HEAD = ("fault", "flows", "received", "not delivered", "twice", "exit", "look for")


def _cells(row: Row) -> tuple[str, ...]:
    """Flows in the bucket, received, not delivered (all of them named), and received twice."""
    flows = row.rows * OBJECTS
    missing = row.rows * len(row.failed) if isinstance(row.failed, tuple) else 0
    missing = missing if row.missing is None else row.missing
    missing += row.rows * len(row.skipped)
    received, lost = f"{flows - missing:,}", f"{missing:,}" if missing else "0"
    if row.failed == "some":
        received, lost = "a part", "the rest"
    elif row.failed == ALL or (row.code and row.failed == NONE):
        received, lost = "0", f"{flows:,}"
    twice = "one request" if row.repeated == BATCH else "0"
    note = "" if len(row.destinations) > 1 else f" ({NAMES[row.destinations[0]]})"
    return (row.fault + note, f"{flows:,}", received, lost, twice, str(row.code), f"`{row.says}`")


def _hostile_cells(row: Hostile) -> tuple[str, ...]:
    """Only the faulty object; the good ones are always delivered."""
    says = f"`{row.refused or 'summary'}`"
    code = str(int(bool(row.refused)))
    return (
        row.what,
        "-",
        str(len(row.lines)),
        "that object" if code == "1" else "0",
        "0",
        code,
        says,
    )


def table() -> str:
    """The table of docs/reliability.md, in Markdown."""
    groups: Iterable[tuple[str, Iterable[tuple[str, ...]]]] = (
        ("**the log service**", map(_cells, LOG_SERVICE)),
        ("**the object store**", map(_cells, STORE)),
        ("**IAM**", map(_cells, IAM)),
        ("**hostile objects**", map(_hostile_cells, HOSTILE)),
    )
    lines = [HEAD, ("---",) * len(HEAD)]
    for name, rows in groups:
        lines += [(name, *[""] * (len(HEAD) - 1)), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def objects(rows: int, count: int = OBJECTS) -> list[FlowLogObject]:
    """Objects for one row, oldest first."""
    return list(flow_log_objects(count, rows))[::-1]


if __name__ == "__main__":
    print(table())
