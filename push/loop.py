"""Cloud Object Storage and flow logs: keys, objects, lines, and the modes that push them.

Data goes one way: keys are listed and put in order, objects are read ahead, decoded into log lines
and handed to `logdna_synchronous.Delivery`; its receipts settle the objects, in order. What a mode
decides is which keys are pushed, and what is remembered afterwards.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import logging
import math
import random
import re
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import orjson
import tenacity

from bucket.listing import Failures, Listing, ObjectRef, Page, read_page
from bucket.state import (
    CatchUp,
    PreconditionFailed,
    Remembered,
    Replaced,
    Snapshot,
    StateError,
    StateObject,
    Status,
    cutoff,
    read_catch_up,
    read_remembered,
    worker_is_gone,
)
from connections.pools import TooSlow
from logdna_synchronous import APP, Delivery, Line, Receipt, Source
from push.decoder import UNPACKED_LIMIT_BYTES, FlowLog, Unreadable, decode
from push.worker import Worker

if TYPE_CHECKING:
    from bucket.fetch import Answer, Authorization, Tokens

log = logging.getLogger("flowlog.lib")

P = ParamSpec("P")
T = TypeVar("T")

STATE_LIMIT_BYTES = 64 * 1024
_STATE_TRIES = 10
_RACE_SECONDS = 0.5

CONCURRENCY = 32
"""Objects read at the same time."""

READ_AHEAD_BYTES = 16 * 1024 * 1024
"""Bound of what is read ahead, compressed; the next object in turn is always permitted."""

CALL_SECONDS = 600.0
"""Bound of any other exchange with the store, retries included, such as a page of the listing."""

OPEN_OBJECTS = 20_000
"""Objects whose lines were handed over but which are not settled, since one before them isn't. With
more of them reading waits, so that a single request that hangs costs time and not memory."""

STOPPING_SECONDS = 5.0
"""Bound of an exchange about STATE once the run is to end."""

PROGRESS_SECONDS = 5.0
PAGE_LIMIT_BYTES = 16 * 1024 * 1024
"""A thousand keys of 1,024 bytes, each of them encoded, take 4 MiB."""

READ_TRIES = 5
FIRST_WAIT_SECONDS = 0.2
"""The wait before the second try is random up to this, and doubled each time."""

BROKEN_READS_IN_A_ROW = 3
"""So many objects in a row that can't be read mean the store, not the objects."""


# --- errors --------------------------------------------------------------------------------------


class StoreError(Exception):
    """The bucket can't be used as it is set up; the text says which setting to look at."""


class StoreUnavailable(StoreError):
    """The store gave no usable answer, although it was asked several times."""


class ObjectError(Exception):
    """One object can't be delivered; the others are not affected."""


class ObjectGone(ObjectError):
    """The object was deleted before it was read."""


class ObjectRefused(ObjectError):
    """The store does not hand out this object."""


class ObjectTooLarge(ObjectError):
    """The object is larger as stored than a flow log may be once unpacked."""


class PreconditionRefused(ObjectError):
    """The store refused a write because its precondition does not hold."""


class ReadInterrupted(ObjectError):
    """The body did not arrive whole, although it was asked for several times."""


class Stopped(Exception):
    """The run was told to stop while it waited for the store."""


# --- keys ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shares of all keys."""

    index: int = 0
    count: int = 1

    def holds(self, key: str) -> bool:
        """Whether `key` belongs to this share.

        Depends on nothing but the key, so that instances that list at different moments agree. By
        a checksum that adds: the keys of an interface count up and so take turns, which is more
        even than the chance of a better hash.
        """
        return self.count == 1 or zlib.adler32(key.encode()) % self.count == self.index


# --- the store -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HMAC:
    """HMAC credentials, for any S3-compatible store."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IAM:
    """An IAM API key and the COS instance it is for; `url` is IAM's base URL."""

    api_key: str = field(repr=False)
    instance_crn: str
    url: str


@dataclass(frozen=True, slots=True)
class Body:
    """An object as stored, and when it was written (seconds since the epoch)."""

    content: bytes
    last_modified: int


def signing_region(endpoint: str) -> str:
    """The region a SigV4 signature names, read from COS's host names; else `us-east-1`."""
    found = re.search(r"s3\.(?:direct\.|private\.)?([a-z0-9-]+)\.cloud-object-storage\.", endpoint)
    return found[1] if found else "us-east-1"


def create_client(endpoint: str, credentials: HMAC | IAM, answer_seconds: float = 60.0) -> Any:
    """An S3 client of the IBM COS SDK, for everything but listing and reading objects.

    Made from `ibm_botocore`, the core of the SDK: `ibm_boto3` adds resources and transfers on top,
    which nothing here needs, and an event's run is mostly start-up. Imported here for the same
    reason.
    """
    from ibm_botocore.config import Config
    from ibm_botocore.session import Session

    # Nothing but what the environment of the contract says: no profile or config file of some
    # other tool that happens to live on the machine.
    unset = (None, None, None, None)
    session = Session({"profile": unset, "config_file": unset, "credentials_file": unset})
    config = Config(
        signature_version="oauth" if isinstance(credentials, IAM) else "s3v4",
        region_name=signing_region(endpoint),
        s3={"addressing_style": "path"},
        retries={"mode": "standard", "total_max_attempts": 5},
        connect_timeout=min(10.0, answer_seconds),
        read_timeout=answer_seconds,
        # The newer checksums are AWS's; COS and others that speak S3 need not know them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    if isinstance(credentials, IAM):
        keys = {
            "ibm_service_instance_id": credentials.instance_crn,
            "token_manager": tokens_for(credentials.api_key, credentials.url),
        }
    else:
        keys = {
            "aws_access_key_id": credentials.access_key_id,
            "aws_secret_access_key": credentials.secret_access_key,
        }
    return session.create_client("s3", endpoint_url=endpoint, config=config, **keys)


def tokens_for(api_key: str, iam_url: str) -> Tokens:
    """The IAM tokens of an API key, the same ones for every use of it."""
    from bucket.fetch import tokens

    return tokens(api_key, iam_url)


def authorization(endpoint: str, credentials: HMAC | IAM) -> Authorization:
    """What shows the store that objects may be read."""
    from bucket.fetch import Bearer, Signature

    if isinstance(credentials, IAM):
        return Bearer(tokens_for(credentials.api_key, credentials.url))
    return Signature(
        credentials.access_key_id, credentials.secret_access_key, signing_region(endpoint)
    )


@contextmanager
def explained(bucket: str, key: str | None = None) -> Iterator[None]:
    """Turns the errors of the SDK and of urllib3 into StoreError and ObjectError.

    `key` where one object is meant.
    """
    from ibm_botocore import exceptions as sdk
    from urllib3 import exceptions as http

    from bucket.fetch import TokenError

    try:
        yield
    except sdk.ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise explain_answer(status, code, bucket, key) from None
    except TokenError as error:
        raise StoreError(str(error)) from None
    except (
        sdk.EndpointConnectionError,
        sdk.ConnectTimeoutError,
        sdk.SSLError,
        http.NewConnectionError,
        http.ConnectTimeoutError,
        http.ProxyError,
        http.SSLError,
    ) as error:
        raise StoreUnavailable(
            f"the object store can't be reached ({type(error).__name__}); look at COS_ENDPOINT"
            " (a `.direct.` one is reached from inside IBM Cloud only)"
        ) from None
    except (sdk.BotoCoreError, http.HTTPError, TooSlow) as error:
        what = f"the object store gave no whole answer ({type(error).__name__})"
        raise ReadInterrupted(what) if key else StoreUnavailable(what) from None


def explain_answer(
    status: int, code: str, bucket: str, key: str | None = None
) -> StoreError | ObjectError:
    """The error that an answer of the store stands for, by HTTP status and S3 error code.

    `key` says that one object was asked for: then a refusal concerns only that object.
    """
    answer = f"the object store answered {status} {code}"
    if code == "NoSuchBucket":
        return StoreError(f"there is no bucket {bucket!r} at this endpoint; look at COS_BUCKET")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return StoreError(
            f"{answer}; look at COS_HMAC_ACCESS_KEY_ID and COS_HMAC_SECRET_ACCESS_KEY"
        )
    if key is not None and code == "NoSuchKey":
        return ObjectGone("the object is not in the bucket any more")
    if status == 404:
        return StoreError(f"{answer}, as no object store does; look at COS_ENDPOINT")
    if key is not None and status in (409, 412):
        return PreconditionRefused(answer)
    if status in (401, 403):
        refused = (
            f"{answer}: no permission to read; look at the role of the key, COS_CRN, COS_BUCKET"
        )
        return ObjectRefused(refused) if key is not None and status == 403 else StoreError(refused)
    if status in (301, 307, 308):
        return StoreError(f"{answer}: the bucket is in another region; look at COS_ENDPOINT")
    if status >= 500 or status == 429:
        return ReadInterrupted(answer) if key is not None else StoreUnavailable(answer)
    return ObjectRefused(answer) if key is not None else StoreError(f"{answer}; look at COS_BUCKET")


# The SDK's client sends a request again by itself; for a plain GET it is done here.
_again = tenacity.Retrying(
    retry=tenacity.retry_if_exception_type((ReadInterrupted, StoreUnavailable)),
    wait=tenacity.wait_random_exponential(multiplier=2 * FIRST_WAIT_SECONDS, max=5),
    stop=tenacity.stop_after_attempt(READ_TRIES - 1),
    reraise=True,
)


def _retried(function: Callable[P, T]) -> Callable[P, T]:
    """Tries the function up to `READ_TRIES` times.

    The first time without tenacity, whose accounts take half as long as the whole read.
    """

    @functools.wraps(function)
    def tried(*arguments: P.args, **keywords: P.kwargs) -> T:
        try:
            return function(*arguments, **keywords)
        except (ReadInterrupted, StoreUnavailable):
            time.sleep(random.uniform(0, FIRST_WAIT_SECONDS))
        return _again.copy()(function, *arguments, **keywords)

    return tried


class Store:
    """One bucket. Errors come out as StoreError (nothing works) or ObjectError.

    Objects are read by at most `concurrency` threads at the same time; the store may let them wait
    for `answer_seconds`.
    """

    def __init__(
        self,
        endpoint: str,
        credentials: HMAC | IAM,
        bucket: str,
        concurrency: int = CONCURRENCY,
        answer_seconds: float = 60.0,
    ) -> None:
        from bucket.fetch import Fetcher

        self.bucket = bucket
        self.concurrency = concurrency
        self._access = (endpoint, credentials, answer_seconds)
        self._fetcher = Fetcher(
            endpoint, bucket, authorization(endpoint, credentials), concurrency, answer_seconds
        )
        self._etag_is_checksum = True
        self._mismatches: dict[str, str] = {}

    @functools.cached_property
    def _client(self) -> Any:
        # An event's run in simple mode does without.
        return create_client(*self._access)

    def pages(self, prefix: str) -> Iterator[list[ObjectRef]]:
        """The listing of all keys that start with `prefix`, page by page, in the store's order."""
        # Encoded, because XML can't hold every character that a key can.
        query = {"encoding-type": "url", "list-type": "2", "prefix": prefix}
        more: str | None = ""
        while more is not None:
            page = self._page({"continuation-token": more, **query} if more else query)
            yield page.refs
            if page.more == more:
                raise StoreError("the object store's listing does not end; look at COS_ENDPOINT")
            more = page.more

    @_retried
    def _page(self, query: Mapping[str, str]) -> Page:
        with explained(self.bucket):
            answer = self._fetcher.get("", PAGE_LIMIT_BYTES, query)
        if answer.status != 200:
            raise explain_answer(answer.status, answer.error_code, self.bucket)
        try:
            return read_page(answer.content)
        except ValueError as error:
            raise StoreUnavailable(
                f"the object store's listing is unusable: {error}; look at COS_ENDPOINT"
            ) from None

    @_retried
    def read(self, key: str) -> Body:
        """Read one whole object. Raises StoreError or ObjectError."""
        with explained(self.bucket, key):
            answer = self._fetcher.get(key, UNPACKED_LIMIT_BYTES)
        if answer.status != 200:
            raise explain_answer(answer.status, answer.error_code, self.bucket, key)
        if answer.size > UNPACKED_LIMIT_BYTES:
            raise ObjectTooLarge(f"too large: over {UNPACKED_LIMIT_BYTES} bytes as stored")
        self._check_intact(key, answer)
        try:
            written = parsedate_to_datetime(answer.headers.get("Last-Modified", ""))
        except ValueError:
            raise ReadInterrupted("the object store did not say when it was written") from None
        return Body(answer.content, _seconds(written))

    def _check_intact(self, key: str, answer: Answer) -> None:
        """Compare the content with the checksum that an ETag is, as a rule.

        With some kinds of encryption it isn't one (S3 API, "Object": ETag), so content that comes
        the same a second time is believed. Raises ReadInterrupted.
        """
        etag = answer.headers.get("ETag", "").strip('"')
        if not self._etag_is_checksum or not re.fullmatch("[0-9a-f]{32}", etag):
            return
        checksum = hashlib.md5(answer.content, usedforsecurity=False).hexdigest()
        if checksum == etag:
            return
        if self._mismatches.pop(key, None) != checksum:
            self._mismatches[key] = checksum
            raise ReadInterrupted("the object's content does not match its ETag")
        self._etag_is_checksum = False
        log.warning("ETags are no checksums here, gzip's own will have to do: %s", key)

    def stat(self, key: str) -> ObjectRef:
        """What the store says of an object without its content. Raises ObjectGone."""
        from ibm_botocore.exceptions import ClientError

        with explained(self.bucket, key):
            try:
                answer = self._client.head_object(Bucket=self.bucket, Key=key)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                answer = None
        if answer is None:
            # An answer to HEAD has no text that would tell a missing object from a wrong endpoint.
            body = self.read(key)
            return ObjectRef(body.last_modified, key, len(body.content))
        return ObjectRef(_seconds(answer["LastModified"]), key, answer["ContentLength"])

    def get_state(self, key: str) -> Snapshot | None:
        """STATE, or None if there is none."""
        try:
            with explained(self.bucket, key):
                answer = self._client.get_object(Bucket=self.bucket, Key=key)
                content = answer["Body"].read(STATE_LIMIT_BYTES + 1)
        except ObjectGone:
            return None
        except ObjectError as error:
            raise StoreError(f"the STATE object {key!r} can't be read: {error}") from None
        return Snapshot(content, answer["ETag"], _seconds(answer["LastModified"]), _date(answer))

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        """Write STATE if it has `etag` (None: if there is none). Raises PreconditionFailed."""
        condition = {"If-None-Match": "*"} if etag is None else {"If-Match": etag}

        # put_object of ibm-cos-sdk 2.16 has no parameters for these headers.
        def add_condition(params: dict[str, Any], **_: object) -> None:
            params["headers"].update(condition)

        events = self._client.meta.events
        events.register("before-call.s3.PutObject", add_condition)
        try:
            with explained(self.bucket, key):
                answer = self._client.put_object(Bucket=self.bucket, Key=key, Body=content)
        except (ObjectGone, PreconditionRefused) as error:
            # If-Match on an object that isn't there is answered with 404 or 412.
            raise PreconditionFailed(str(error)) from None
        except ObjectError as error:
            raise StoreError(
                f"the STATE object {key!r} can't be written: {error};"
                " these modes need the role Writer (or Object Writer) on the bucket"
            ) from None
        finally:
            events.unregister("before-call.s3.PutObject", add_condition)
        return str(answer["ETag"])

    def delete_state(self, key: str) -> None:
        """Delete STATE."""
        with explained(self.bucket, key):
            self._client.delete_object(Bucket=self.bucket, Key=key)


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _date(answer: Mapping[str, Any]) -> int:
    """The store's clock, from the `Date` header (RFC 9110, 6.6.1) of an answer."""
    text = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        return _seconds(parsedate_to_datetime(text))
    except ValueError:
        raise StoreError("the object store answers without a Date; look at COS_ENDPOINT") from None


# --- flow logs -----------------------------------------------------------------------------------


def milliseconds(text: object) -> int | None:
    """`text` (ISO 8601, UTC where it names no zone) since the epoch; None where it is unusable."""
    return _milliseconds(text) if isinstance(text, str) else None


# The flows of an object end in the same few hundred seconds.
@functools.lru_cache(maxsize=1024)
def _milliseconds(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def render(fields: Mapping[str, Any]) -> bytes:
    """Compact JSON in UTF-8.

    By `orjson`, in a fifteenth of the time of the standard library, which has to do where `orjson`
    refuses: integers of over 64 bits, lone surrogates, deep nesting. Raises Unreadable.
    """
    try:
        return orjson.dumps(fields)
    except TypeError:
        pass
    try:
        return _compact(fields).encode()
    except UnicodeEncodeError:
        # A lone surrogate is legal as an escape in JSON but has no UTF-8: leave it escaped.
        return _escaped(fields).encode()
    except RecursionError:
        raise Unreadable("bad JSON: nested too deeply") from None


_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_escaped = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def lines(flow_log: FlowLog, key: str) -> Iterator[Line]:
    """One line an entry; contract, section 4. Raises Unreadable."""
    fields, added = flow_log.fields, {"_app": APP, "key": key}
    captured = fields.get("capture_end_time")
    parts = _parts(fields, added)
    for entry in flow_log.entries:
        head, own, tail = parts(entry)
        yield Line(
            own,
            milliseconds(entry.get("end_time") or captured),
            entry.get("action") == "rejected",
            head,
            tail,
        )


def _parts(
    fields: Mapping[str, Any], added: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], tuple[bytes, bytes, bytes]]:
    """Renders the fields, an entry, and what is added, as one JSON object; later ones win.

    What all lines share is rendered once, unless an entry has a field of the same name.
    """
    always = fields.keys() | added.keys()
    head = b"{%b," % render({name: fields[name] for name in fields if name not in added})[1:-1]
    tail = b",%b" % render(added)[1:]
    apart = bool(fields) and fields.keys().isdisjoint(added)

    def parts(entry: Mapping[str, Any]) -> tuple[bytes, bytes, bytes]:
        if apart and entry and always.isdisjoint(entry):
            return head, render(entry)[1:-1], tail
        return b"", render({**fields, **entry, **added}), b""

    return parts


def source_of(flow_log: FlowLog) -> Source:
    """What the object says of where its flows come from."""
    vpc, interface = (flow_log.fields.get(name) for name in ("vpc_crn", "network_interface_id"))
    return Source(
        # A CRN ends with the id (IBM Cloud docs, "Cloud Resource Names").
        vpc.rpartition(":")[2] if isinstance(vpc, str) else "",
        interface if isinstance(interface, str) else "",
    )


# --- pushing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settled:
    """An object about which nothing more will come: delivered where `error` is None."""

    ref: ObjectRef
    rows: int = 0
    error: str | None = None
    gone: bool = False
    permanent: bool = True
    """Whether another run would fail again: the fault of the object, not of wire or rights."""


@dataclass(slots=True)
class _OpenObject:
    ref: ObjectRef
    rows: int = 0
    accepted: int = 0
    all_added: bool = False
    error: str | None = None
    gone: bool = False
    permanent: bool = True

    @property
    def settled(self) -> bool:
        return self.all_added and (self.error is not None or self.accepted == self.rows)


class Ledger:
    """Knows which objects are done: those of which every line was accepted.

    Objects are opened in the order in which they are to settle; each is known by its number.
    """

    def __init__(self) -> None:
        self._objects: dict[int, _OpenObject] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._objects)

    def open(self, ref: ObjectRef) -> int:
        """Start the account of an object; its number."""
        number, self._next = self._next, self._next + 1
        self._objects[number] = _OpenObject(ref)
        return number

    def add_lines(self, number: int, count: int) -> None:
        """So many more lines of the object were handed over for delivery."""
        self._objects[number].rows += count

    def close(self, number: int, *, gone: bool = False) -> None:
        """No more lines of this object follow."""
        self._objects[number].all_added = True
        self._objects[number].gone = gone

    def fail(self, number: int, error: str, *, permanent: bool = True) -> None:
        """The object can't become done any more; the first reason given is kept."""
        entry = self._objects.get(number)
        if entry and entry.error is None:
            entry.error, entry.permanent = error, permanent

    def book(self, receipt: Receipt) -> None:
        """Enter what became of a batch."""
        for number, count in receipt.accepted.items():
            # A failed object settles without waiting for its other batches.
            if entry := self._objects.get(number):
                entry.accepted += count
        for number, error in receipt.failed.items():
            self.fail(number, error, permanent=receipt.permanent)

    def settled(self) -> Iterator[Settled]:
        """Take out the settled objects, as far as no older one is open before them."""
        while self._objects:
            number, entry = next(iter(self._objects.items()))
            if not entry.settled:
                return
            del self._objects[number]
            yield Settled(entry.ref, entry.rows, entry.error, entry.gone, entry.permanent)


@dataclass(slots=True)
class Tally:
    """What a run has come to so far; contract, section 6."""

    objects: int = 0
    rows: int = 0
    lines_delivered: int = 0
    skipped: int = 0
    failed: Failures = field(default_factory=Failures)
    """Key and reason of each object that was begun and not delivered."""
    not_begun: Sequence[ObjectRef] = ()
    not_begun_because: str = ""

    @property
    def failed_total(self) -> int:
        """Objects that were to be delivered and were not."""
        return len(self.failed) + len(self.not_begun)

    def book(self, settled: Settled) -> None:
        """Enter a settled object."""
        self.rows += settled.rows
        if settled.error is not None:
            self.failed.append(settled.ref.key, settled.error)
        elif settled.gone:
            self.skipped += 1
        else:
            self.objects += 1


class Stop:
    """Whether the run was asked to end, and by which signal.

    The handler only assigns: it may interrupt the main thread anywhere, also inside a lock.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a push is; `total` in objects."""

    settled: int
    total: int
    seconds: float

    def __str__(self) -> str:
        rate = self.settled / self.seconds if self.seconds else 0.0
        left = f"{(self.total - self.settled) / rate:.0f} s" if rate else "unknown"
        return (
            f"progress: {self.settled} of {self.total} objects,"
            f" {rate:.1f} objects/s, time left {left}"
        )


class Reader:
    """Reads objects ahead with several requests in flight and hands them out in order."""

    _POLL_SECONDS = 0.1

    def __init__(self, store: Store, stop: Stop) -> None:
        self.store = store
        self._stop = stop
        self._pool = ThreadPoolExecutor(store.concurrency, thread_name_prefix="reader")

    def pages(self, prefix: str) -> Iterator[list[ObjectRef]]:
        """The listing, page by page. Raises Stopped, StoreError."""
        pages = self.store.pages(prefix)
        while (page := self.call(next, pages, None)) is not None:
            yield page

    def bodies(self, refs: Iterable[ObjectRef]) -> Iterator[tuple[ObjectRef, Body | ObjectError]]:
        """The objects in order, or why there is none. Raises Stopped, StoreError."""
        waiting: deque[tuple[ObjectRef, Future[Body]]] = deque()
        ahead = 0
        for ref in refs:
            while waiting and (
                len(waiting) >= 2 * self.store.concurrency or ahead + ref.size > READ_AHEAD_BYTES
            ):
                ahead -= waiting[0][0].size
                yield self._next(waiting)
            waiting.append((ref, self._pool.submit(self.store.read, ref.key)))
            ahead += ref.size
        while waiting:
            yield self._next(waiting)

    def _next(
        self, waiting: deque[tuple[ObjectRef, Future[Body]]]
    ) -> tuple[ObjectRef, Body | ObjectError]:
        ref, future = waiting.popleft()
        try:
            body = self._wait(future)
        except ObjectError as error:
            return ref, error
        # An event doesn't say when its object was written; a listing does, and its word stays.
        return ref if ref.last_modified else replace(ref, last_modified=body.last_modified), body

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """`function(*arguments)`. Raises Stopped where the run is to end before it answers.

        And StoreUnavailable where the answer goes on and on.
        """
        return self._wait(self._pool.submit(function, *arguments), CALL_SECONDS)

    def finish(self, function: Callable[..., T], *arguments: object) -> T:
        """The same, but a run that is to end still waits a little: it has something to record."""
        return self._wait(self._pool.submit(function, *arguments), CALL_SECONDS, STOPPING_SECONDS)

    def _wait(self, future: Future[T], seconds: float = math.inf, stopping: float = 0.0) -> T:
        """The future's result; unlike a plain wait it notices that the run is to end.

        It has `stopping` seconds left from then on.
        """
        end, last = time.monotonic() + seconds, math.inf
        while (now := time.monotonic()) < end:
            if self._stop.requested():
                last = min(last, now + stopping)
            if now >= last:
                raise Stopped
            try:
                return future.result(self._POLL_SECONDS)
            except FutureTimeout:
                if future.done():
                    raise
        raise StoreUnavailable(f"the object store gave no whole answer within {seconds:g} s")

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`. Raises Stopped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._stop.requested():
                raise Stopped
            # Not an Event: a signal's handler could not set it while this thread waits on it.
            time.sleep(min(left, self._POLL_SECONDS))

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Interruptible:
    """STATE's part of the store, asked so that a signal is noticed meanwhile."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def get_state(self, key: str) -> Snapshot | None:
        return self._reader.finish(self._reader.store.get_state, key)

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        return self._reader.finish(self._reader.store.put_state, key, content, etag)

    def delete_state(self, key: str) -> None:
        self._reader.finish(self._reader.store.delete_state, key)


class Operation(enum.Enum):
    """What happened to the object of an event."""

    WRITE = "Object:Write"
    DELETE = "Object:Delete"


@dataclass(frozen=True, slots=True)
class Event:
    """What `CE_DATA` says; `bucket` is empty where it doesn't."""

    key: str
    bucket: str = ""
    operation: Operation = Operation.WRITE


@dataclass(frozen=True, slots=True)
class Scope:
    """Which keys of the bucket concern this run."""

    prefix: str
    state_key: str
    shard: Shard

    def holds(self, key: str) -> bool:
        """Whether this listed key is a flow log of this shard."""
        return key != self.state_key and key.startswith(self.prefix) and self.shard.holds(key)

    def nothing_to_do(self, event: Event) -> str | None:
        """Why this event asks for nothing, or None if its object is to be pushed."""
        if event.operation is Operation.DELETE:
            return "the object was deleted, not written"
        if event.key == self.state_key:
            return "this is the STATE object, not a flow log"
        if not event.key.startswith(self.prefix):
            return f"no flow log, its key does not start with FLOWLOG_PREFIX {self.prefix!r}"
        if not self.shard.holds(event.key):
            return "the key belongs to another instance of the array"
        return None


Follow = Callable[[Sequence[Settled]], str | None]


class BrokenReads:
    """Counts the reads in a row that failed on the way."""

    def __init__(self) -> None:
        self._count = 0

    def too_many(self, body: Body | ObjectError) -> str | None:
        """Why it makes no sense to read on, once there were too many."""
        self._count = self._count + 1 if isinstance(body, ReadInterrupted) else 0
        if self._count < BROKEN_READS_IN_A_ROW:
            return None
        return f"{self._count} reads in a row failed, the last one so: {body}; look at COS_ENDPOINT"


class Job:
    """What the modes share: the listing in order, and the push loop with its accounts."""

    def __init__(
        self,
        store: Store,
        delivery: Delivery,
        stop: Stop,
        scope: Scope,
        tally: Tally,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.tally = tally
        self.scope = scope
        self._reader = Reader(store, stop)
        self.state = StateObject(_Interruptible(self._reader), scope.state_key)
        self._delivery = delivery
        self._on_progress = on_progress or LoggedProgress()

    def listed(
        self,
        wanted: Callable[[ObjectRef], bool] = lambda _: True,
        after_page: Callable[[], None] = lambda: None,
    ) -> Listing:
        """The wanted flow logs of this shard, oldest first; contract, section 7.

        Raises StoreError, Stopped.
        """
        listing = Listing()
        for page in self._reader.pages(self.scope.prefix):
            for ref in page:
                if self.scope.holds(ref.key) and wanted(ref):
                    listing.append(ref)
            after_page()
        listing.sort()
        return listing

    def stat(self, key: str) -> ObjectRef | None:
        """The object as the store knows it; None, said and counted, where it is gone."""
        try:
            return self._reader.call(self._reader.store.stat, key)
        except ObjectGone:
            self._say_gone(key)
            self.tally.skipped += 1
        except ObjectError as error:
            self.tally.failed.append(key, str(error))
        return None

    def pause(self, seconds: float) -> None:
        """Wait. Raises Stopped."""
        self._reader.pause(seconds)

    def push(self, refs: Sequence[ObjectRef], follow: Follow = lambda _: None) -> bool:
        """Push the objects in their order; every one of them ends up in the tally.

        After each object `follow` hears of those that have settled since, in that same order, and
        may end the push by giving a reason. Returns whether the push came to its end: it doesn't
        when the run is stopped or nothing more can be read or delivered, and then names what was
        not begun.
        """
        if refs:
            log.info("pushing %d object%s", len(refs), "" if len(refs) == 1 else "s")
        ledger = Ledger()
        begun, settled, started, because = 0, 0, time.monotonic(), None
        broken_reads = BrokenReads()

        def settle(receipts: Iterable[Receipt]) -> str | None:
            nonlocal settled
            entries = self._settle(ledger, receipts)
            settled += len(entries)
            self._on_progress(Progress(settled, len(refs), time.monotonic() - started))
            return follow(entries)

        try:
            for ref, body in self._reader.bodies(refs):
                begun += 1
                self._add(ledger, ref, body)
                because = (
                    settle(self._delivery.receipts(wait=len(ledger) > OPEN_OBJECTS))
                    or broken_reads.too_many(body)
                    or (self._delivery.fatal and str(self._delivery.fatal))
                )
                if because:
                    break
        except StoreError as error:
            because = str(error)
        except Stopped:
            because = "the run was told to stop"
        except StateError:
            # What is on its way still counts; what is in hand is no longer this run's to send.
            self._settle(ledger, self._delivery.flush(send=False))
            raise
        because = settle(self._delivery.flush()) or because
        if refs[begun:]:
            self.tally.not_begun, self.tally.not_begun_because = refs[begun:], because or ""
        return because is None and self._delivery.fatal is None

    def send_now(self) -> None:
        """Send what was collected so far, so that it can settle, without waiting for an answer."""
        self._delivery.send()

    def _settle(self, ledger: Ledger, receipts: Iterable[Receipt]) -> list[Settled]:
        for receipt in receipts:
            self.tally.lines_delivered += receipt.accepted.total()
            ledger.book(receipt)
        settled = list(ledger.settled())
        for entry in settled:
            self.tally.book(entry)
        return settled

    def _say_gone(self, key: str) -> None:
        log.warning("gone before it was read, nothing to push: %s", key)

    def _add(self, ledger: Ledger, ref: ObjectRef, body: Body | ObjectError) -> None:
        """Hand all lines of one object over for delivery."""
        number = ledger.open(ref)
        if isinstance(body, ObjectGone):
            self._say_gone(ref.key)
        elif isinstance(body, ObjectError):
            ledger.fail(number, str(body), permanent=isinstance(body, ObjectTooLarge))
        else:
            try:
                self._add_lines(ledger, number, ref.key, decode(body.content))
            except Unreadable as error:
                ledger.fail(number, str(error))
        ledger.close(number, gone=isinstance(body, ObjectGone))

    def _add_lines(self, ledger: Ledger, number: int, key: str, flow_log: FlowLog) -> None:
        added = self._delivery.add(number, lines(flow_log, key), source_of(flow_log))
        ledger.add_lines(number, added.lines)
        if added.refused:
            ledger.fail(number, added.refused)
        if added.cut:
            log.warning("the service cuts %d lines, which are too long for it: %s", added.cut, key)

    def close(self) -> None:
        """Let go of the threads."""
        self._reader.close()
        self._delivery.close()


class LoggedProgress:
    """Says in the log, every few seconds, how far a push is."""

    def __init__(self) -> None:
        self._said_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Say it, if it is time."""
        if progress.seconds < self._said_at:  # another push
            self._said_at = 0.0
        if progress.seconds - self._said_at >= PROGRESS_SECONDS:
            self._said_at = progress.seconds
            log.info("%s", progress)


# --- modes ---------------------------------------------------------------------------------------


def simple(job: Job, event: Event | None) -> None:
    """Event: push the object. No event: push all."""
    job.push([ObjectRef(0, event.key)] if event else _some(job.listed()))


def _some(refs: Listing) -> Listing:
    if not refs:
        log.info("nothing to do: the bucket holds no flow log for this run")
    return refs


def remember(job: Job, event: Event | None) -> None:
    """Event: push the object, and remember the oldest one. No event: push what is older."""
    memory = _memory(job)
    if event is None:
        job.push(_some(job.listed(lambda ref: memory is None or memory.wants(ref))))
        return
    ref = job.stat(event.key)
    if ref is None:
        return
    if memory is None or not memory.older_than(ref):
        job.state.check_preconditions(job.state.read())
    if job.push([ref]) and job.tally.objects:
        _remember(job, Remembered(ref.last_modified, ref.key))


def _memory(job: Job) -> Remembered | None:
    """What STATE remembers, if there is one."""
    snapshot = job.state.read()
    if snapshot is None:
        return None
    memory = read_remembered(snapshot, job.scope.state_key, job.scope.prefix)
    if not memory.bare:
        return memory
    if ref := job.stat(memory.key):
        return replace(memory, last_modified=ref.last_modified)
    log.warning(
        "STATE %r holds a bare key whose object is gone: taking the time of STATE for it,"
        " so objects that events have pushed just before may be sent again",
        job.scope.state_key,
    )
    return memory


def _remember(job: Job, pushed: Remembered) -> None:
    """Let STATE name the object, unless it names an older one."""
    for _ in range(_STATE_TRIES):
        snapshot, memory = job.state.read(), _memory(job)
        if memory and memory.older_than(pushed):
            return
        try:
            job.state.write(pushed.content(), snapshot.etag if snapshot else None)
        except Replaced:
            continue
        return
    raise StateError(f"the STATE object {job.scope.state_key!r} keeps changing; nothing is lost")


def catch_up(job: Job, event: Event | None) -> None:
    """The first run becomes the worker and pushes all; once it closes, events push theirs."""
    own = event
    for _ in range(_STATE_TRIES):
        snapshot = job.state.read()
        if snapshot is None:
            job.state.check_preconditions(None)
            worker = Worker.start(job)
        else:
            state = read_catch_up(snapshot, job.scope.state_key)
            divide = cutoff(state, snapshot)
            if own and divide is not None:
                if not _push_if_newer(job, own, divide):
                    return
                own = None
            if state.status is Status.FINISHED or not worker_is_gone(state, snapshot):
                _say_state(state, event)
                return
            job.state.check_preconditions(snapshot)
            worker = Worker.take_over(job, state, snapshot)
        if worker:
            worker.run()
            return
        # Another run was faster: look again what there is to do.
        job.pause(_RACE_SECONDS)
    raise StateError(f"the STATE object {job.scope.state_key!r} can't be created; nothing is lost")


def _push_if_newer(job: Job, event: Event, divide: int) -> bool:
    """Push the event's object unless it is the worker's; whether the run may go on."""
    ref = job.stat(event.key)
    if ref is None:
        return not job.tally.failed_total
    if ref.last_modified > divide:
        return job.push([ref]) and not job.tally.failed_total
    log.info("the worker has pushed this object, or will: %s", event.key)
    return True


def _say_state(state: CatchUp, event: Event | None) -> None:
    if state.status is not Status.FINISHED:
        log.info("worker %s is at work; it pushes everything up to its closing", state.worker)
    elif event is None:
        log.info("nothing to do: the catch-up has finished; delete STATE to start over")
    if state.failed_total:
        log.warning(
            "the catch-up could not deliver %d objects, among them: %s",
            state.failed_total,
            ", ".join(state.failed),
        )


MODES: Mapping[str, Callable[[Job, Event | None], None]] = {
    "simple": simple,
    "remember": remember,
    "catch-up": catch_up,
}
"""By the value of FLOWLOG_MODE."""
