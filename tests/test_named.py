"""What was not delivered is named after every error, also an unexpected one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import pytest

import destinations.cloud_logs
import lib
import logdna_synchronous
from standins.faults import Answer
from standins.flowlogs import flow_log_objects
from standins.store import S3Request
from tests.harness import BUCKET, PREFIX, Place, Result, event, lines_of
from tests.test_modes import put_in_order
from tests.wire import CHANGED, ENVIRON, GOOD, KEY, LISTING, answer, part, wire

Run = Callable[..., Result]

YEAR = "Tue, 24 Nov 20261234567 10:00:00 GMT"
EVENT = {**ENVIRON, "CE_DATA": event(KEY)}


def instead(**answers: bytes) -> Callable[[int, bytes], bytes]:
    """The good answers, except these."""
    given = {name.replace("_", " "): content for name, content in answers.items()}
    return lambda port, request: {**GOOD, **given}[part(port, request)]


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    with wire(monkeypatch) as run:
        yield run


@pytest.mark.parametrize("destination", ["logdna", "cloud-logs"])
def test_an_answer_that_can_not_be_used_is_a_named_failure(one: Run, destination: str) -> None:
    environ = {**EVENT, "LOG_DESTINATION": destination}
    for answers, said in (
        (instead(log_service=answer(503, b"", Retry_After=YEAR)), "503"),
        (instead(object=answer(200, b"{}", Last_Modified=YEAR)), "when the object was written"),
    ):
        result = one(environ, answers)
        assert result.code == 1, result.log
        assert said in result.failed()[KEY]


def test_two_equal_content_lengths_are_one(one: Run) -> None:
    twice = GOOD["object"].replace(b"Date:", b"Content-Length: %d\r\nDate:" % len(_body("object")))
    result = one(EVENT, instead(object=twice))
    assert result.code == 0, result.log
    assert result.summary["lines_delivered"] == 2


def _body(name: str) -> bytes:
    return GOOD[name].partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    "listing",
    [
        LISTING.replace(b"2026-11-24T", b"20261234567-11-24T"),
        LISTING.replace(b"<Size>", b"<Size>-"),
        LISTING.replace(PREFIX.encode(), b"x" * 2_000),
        LISTING.replace(b"UTF-8", b"UTF-800"),
    ],
)
def test_a_listing_that_can_not_be_used(one: Run, listing: bytes) -> None:
    result = one(ENVIRON, instead(listing=answer(200, listing)))
    assert result.code == 1, result.log
    assert result.failed() or "not delivered: all objects of bucket flow-logs" in result.log
    assert "fault of this program" not in result.log


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COS_ENDPOINT", "s3..example.com"),
        ("COS_ENDPOINT", f"{'x' * 64}.example.com"),
        ("IAM_ENDPOINT", "https://iam..cloud.ibm.com"),
        ("LOGDNA_ENDPOINT", f"https://logs.{'x' * 64}"),
        ("REQUESTS_CA_BUNDLE", "/does/not/exist"),
        ("SSL_CERT_FILE", "/" + "x" * 5_000),
        ("ALL_PROXY", "socks5h://localhost:1080"),
        ("HTTPS_PROXY", f"http://{'x' * 64}:3128"),
        ("HTTPS_PROXY", "http://proxy..example:3128"),
        ("HTTPS_PROXY", "http://[::1:3128"),
        ("LOGDNA_INGESTION_KEY", "1"),
        ("APIKEY", "1234567"),
    ],
)
def test_unusable_network_settings_are_faults(one: Run, name: str, value: str) -> None:
    result = one({**EVENT, name: value})
    assert result.code == 2, result.log
    assert f"{name} " in result.log
    assert result.summary["objects"] == 0


def test_a_prefix_that_no_key_has_is_warned_of(place: Place) -> None:
    place.put(*flow_log_objects(2, 1))
    result = place.run(FLOWLOG_PREFIX="ibm_vpc_flowlog_")
    assert result.code == 0
    assert "WARNING no key starts with FLOWLOG_PREFIX 'ibm_vpc_flowlog_'" in result.log
    empty = place.run(COS_BUCKET=BUCKET, FLOWLOG_PREFIX="ibm_vpc_flowlogs_")
    assert "no key starts" not in empty.log


# --- unexpected errors ---------------------------------------------------------------------------


def broken(*_: object) -> None:
    raise KeyError("nobody foresaw this")


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (lib, "decode"),
        (lib.Lines, "block"),
        (logdna_synchronous.Delivery, "add_block"),
        (logdna_synchronous.LogDNA, "post"),
    ],
)
def test_an_unforeseen_error_is_the_failure_of_its_object(
    one: Run, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    monkeypatch.setattr(where, name, broken)
    for environ in (ENVIRON, EVENT):
        result = one(environ)
        assert result.code == 1, result.log
        assert "KeyError: 'nobody foresaw this'" in result.failed()[KEY]
        assert result.summary["failed_total"] == 1


@pytest.mark.parametrize(("where", "name"), [(lib, "Job"), (lib.Listing, "sort")])
def test_an_unforeseen_error_of_the_run_ends_it_with_a_sentence(
    one: Run, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    monkeypatch.setattr(where, name, broken)
    result = one(ENVIRON)
    assert result.code == 1
    assert "please report it: KeyError" in result.log
    assert "not delivered: all objects of bucket flow-logs" in result.log


def test_an_unforeseen_error_in_an_events_run_names_its_object(
    one: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lib, "Job", broken)
    result = one(EVENT)
    assert result.code == 1
    assert "please report it" in result.failed()[KEY]


# --- runs that end early -------------------------------------------------------------------------


def test_objects_listed_before_the_listing_failed_are_named(place: Place) -> None:
    items = list(flow_log_objects(1_001, 1))
    place.put(*items)

    def rule(request: S3Request) -> Answer | None:
        pages = sum(one == "LIST" for one in place.store.operations())
        return Answer(403) if request.operation == "LIST" and pages > 1 else None

    place.store.script.rule(rule)
    result = place.run()
    assert result.code == 1
    assert result.summary["failed_total"] == 1_000
    assert "the listing failed" in next(iter(result.failed().values()))


@pytest.mark.parametrize("mode", ["simple", "remember", "catch-up"])
def test_the_object_of_a_run_that_can_not_begin_is_named(place: Place, mode: str) -> None:
    (item,) = flow_log_objects(1, 1)
    place.put(item)
    place.store.script.rule(lambda _: Answer(403))
    result = place.run(CE_DATA=event(item.key), FLOWLOG_MODE=mode)
    assert result.code == 1, result.log
    assert result.failed().keys() == {item.key}


# --- hostile objects -----------------------------------------------------------------------------


def test_cloud_logs_takes_a_vpc_with_a_lone_surrogate(
    one: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b'{"vpc_crn":"a:\\ud800","network_interface_id":"\\udfff","flow_logs":[{"n":1}]}'
    taken = []
    post = destinations.cloud_logs.CloudLogs.post

    def noting(self: object, session: object, body: bytes, timeout: object) -> object:
        taken.append(json.loads(body))
        return post(self, session, body, timeout)  # type: ignore[arg-type]

    monkeypatch.setattr(destinations.cloud_logs.CloudLogs, "post", noting)
    environ = {**EVENT, "LOG_DESTINATION": "cloud-logs"}
    result = one(environ, instead(object=answer(200, content, Last_Modified=CHANGED)))
    assert result.code == 0, result.log
    assert [line["subsystemName"] for lines in taken for line in lines] == ["?"]


def nested(levels: int) -> bytes:
    return b'{"a":%b%b,"action":"accepted"}' % (b"[" * levels, b"]" * levels)


PADDING = b'{"text":"%b"},' % (b"x" * 1_000)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b'{"flow_logs":[' + PADDING * 3_000 + nested(985) + b"]}",
            "bad JSON",
        ),
        (b'{"flow_logs":[{"a":1},' + nested(985) + b"]}", "bad JSON"),
        (b'{"flow_logs":[{"a":1},' + nested(600) + b"]}", "nested"),
        (gzip.compress(b'{"flow_logs":[{}' + b",{}" * 20_000_000 + b"]}", 9), "entries"),
        (b'{"flow_logs":[{}' + b",{}" * 600_000 + b"]}", "entries"),
        (b'{"a":"%b","flow_logs":[{}' % (b"x" * 1_000_000) + b",{}" * 3_000 + b"]}", "repeated"),
    ],
    ids=[
        "nested, walked",
        "nested",
        "nested less",
        "entries in 60 KiB",
        "entries",
        "a field of a megabyte",
    ],
)
def test_a_hostile_object_fails_before_any_line_of_it(one: Run, content: bytes, said: str) -> None:
    result = one(EVENT, instead(object=answer(200, content, Last_Modified=CHANGED)))
    assert result.code == 1, result.log
    assert said in result.failed()[KEY]
    assert result.summary["requests"] == 0


def test_good_objects_are_delivered_despite_a_hostile_one(either: Place) -> None:
    good = list(flow_log_objects(3, 2))
    put_in_order(either, good)
    either.store.put(BUCKET, PREFIX + "nested", b'{"flow_logs":[' + nested(985) + b"]}")
    result = either.run()
    assert result.code == 1
    assert result.failed().keys() == {PREFIX + "nested"}
    assert either.received() == lines_of(*good)
