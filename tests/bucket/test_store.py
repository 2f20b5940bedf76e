"""Answers of the store about objects and STATE, with the job as a process."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import quote

import pytest

from bucket.errors import ObjectError, StoreError, Unanswered, explain_answer, explained
from standins.faults import Answer, Fault, Reset
from standins.flowlogs import FlowLogObject, flow_log_object
from standins.store import SLOW_DOWN, S3Request, s3_error
from tests.faults import objects
from tests.harness import BUCKET, PREFIX, Place, Result, event, lines_of
from tests.test_modes import STATE, put_in_order, run_worker, start_worker, state

ITEM = flow_log_object(1, 3, datetime(2026, 11, 24, 10, tzinfo=UTC))
MODES = ("simple", "remember", "catch-up")


@pytest.mark.parametrize(
    ("status", "code", "of_bucket", "of_object"),
    [
        (408, "", "Unanswered", "Unanswered"),
        (425, "", "Unanswered", "Unanswered"),
        (429, "TooManyRequests", "Unanswered", "Unanswered"),
        (500, "InternalError", "Unanswered", "Unanswered"),
        (503, "SlowDown", "Unanswered", "Unanswered"),
        (599, "", "Unanswered", "Unanswered"),
        (400, "RequestTimeout", "Unanswered", "Unanswered"),
        (301, "PermanentRedirect", "StoreError", "StoreError"),
        (307, "TemporaryRedirect", "StoreError", "StoreError"),
        (400, "InvalidRequest", "StoreError", "ObjectRefused"),
        (405, "MethodNotAllowed", "StoreError", "ObjectRefused"),
        (401, "", "StoreError", "StoreError"),
        (403, "AccessDenied", "StoreError", "ObjectForbidden"),
        (403, "InvalidObjectState", "StoreError", "ObjectArchived"),
        (403, "InvalidAccessKeyId", "StoreError", "StoreError"),
        (403, "SignatureDoesNotMatch", "StoreError", "StoreError"),
        (403, "RequestTimeTooSkewed", "StoreError", "StoreError"),
        (404, "NoSuchKey", "StoreError", "ObjectNotFound"),
        (404, "NoSuchBucket", "StoreError", "StoreError"),
        (404, "", "StoreError", "StoreError"),
        (412, "PreconditionFailed", "StoreError", "PreconditionRefused"),
    ],
)
def test_what_an_answer_means(status: int, code: str, of_bucket: str, of_object: str) -> None:
    assert type(explain_answer(status, code, "b")).__name__ == of_bucket
    error = explain_answer(status, code, "b", "k", 7)
    assert type(error).__name__ == of_object
    if isinstance(error, Unanswered):
        assert error.after == 7
    if isinstance(error, ObjectError):
        assert error.permanent == (of_object in ("ObjectRefused", "ObjectArchived"))


def test_a_name_that_can_not_be_resolved_is_waited_for() -> None:
    import urllib3

    with pytest.raises(Unanswered, match="NameResolutionError"), explained():
        urllib3.HTTPConnectionPool("no-such-name.invalid").urlopen("GET", "/", retries=False)
    with pytest.raises(StoreError, match="COS_ENDPOINT"), explained():
        raise urllib3.exceptions.LocationParseError("x")


SLOW_DNS = """
import socket
left, real = [1] * 3, socket.getaddrinfo
def resolve(host, *rest, **more):
    if left:
        left.pop()
        raise socket.gaierror(-2, "Name or service not known")
    return real(host, *rest, **more)
socket.getaddrinfo = resolve
"""


def test_a_name_that_dns_knows_only_after_a_while(place: Place) -> None:
    expected = place.put(ITEM)
    from tests.harness import finish

    result = finish(start_worker(place, before=SLOW_DNS, FLOWLOG_MODE="simple"))
    assert result.code == 0, result.log
    assert "retrying in" in result.log
    assert place.received() == expected


# --- keys of events ------------------------------------------------------------------------------


def finished(place: Place) -> None:
    """The catch-up has finished; events push all objects that are written later."""
    place.store.clock_offset = -100
    assert run_worker(place).code == 0
    place.store.clock_offset = 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("safe", ["/", ""])
def test_a_key_that_is_encoded_once_more_than_it_is(place: Place, mode: str, safe: str) -> None:
    if mode == "catch-up":
        finished(place)
    expected = place.put(ITEM)
    result = place.run(FLOWLOG_MODE=mode, CE_DATA=event(quote(ITEM.key, safe=safe)))
    assert result.code == 0, result.log
    assert place.received() == expected
    assert result.summary["objects"] == 1
    if mode == "remember":
        assert json.loads(place.store.get(BUCKET, STATE) or b"")["key"] == ITEM.key


@pytest.mark.parametrize("mode", MODES)
def test_a_key_is_not_decoded_if_there_is_such_an_object(place: Place, mode: str) -> None:
    if mode == "catch-up":
        finished(place)
    encoded = dataclasses.replace(ITEM, key=quote(ITEM.key))
    place.put(ITEM, encoded)
    assert place.run(FLOWLOG_MODE=mode, CE_DATA=event(encoded.key)).code == 0
    assert place.received() == lines_of(encoded)


@pytest.mark.parametrize("mode", MODES)
def test_an_object_under_neither_key_is_missing(place: Place, mode: str) -> None:
    result = place.run(FLOWLOG_MODE=mode, CE_DATA=event(quote(ITEM.key)))
    if mode != "catch-up":
        assert "deleted before it was read" in result.log
        assert result.summary["skipped"] == 1
    assert result.code == 0


# --- objects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["InvalidObjectState", "MethodNotAllowed"])
def test_catch_up_finishes_although_an_object_is_not_handed_out(place: Place, code: str) -> None:
    items = objects(2, 6)
    put_in_order(place, items)
    fault = s3_error(403 if code == "InvalidObjectState" else 405, code)
    place.store.script.rule(
        lambda request: fault if (request.operation, request.key) == ("GET", items[2].key) else None
    )
    result = run_worker(place)
    assert result.failed().keys() == {items[2].key}
    assert state(place)["status"] == "finished"
    assert state(place)["failed"] == [items[2].key]
    assert place.received() == lines_of(*items[:2], *items[3:])


@pytest.mark.parametrize("data", ["", event(PREFIX)])
def test_an_object_of_no_bytes_is_skipped(place: Place, data: str) -> None:
    place.store.put(BUCKET, PREFIX, b"")
    result = place.run(CE_DATA=data)
    assert result.code == 0
    assert (result.summary["skipped"], result.summary["objects"]) == (1, 0)
    assert place.ingestion.requests == []


def test_an_object_whose_collector_lost_flows_is_warned_about(place: Place) -> None:
    document = ITEM.document | {"state": "skip data"}
    item = FlowLogObject(ITEM.key, gzip.compress(json.dumps(document).encode()), 3, document)
    expected = place.put(item, *objects(2, 3))
    result = place.run()
    assert result.code == 0
    assert result.summary["incomplete"] == 1
    assert f"WARNING the collector lost flows of this interval: {item.key}" in result.log
    assert place.received() == expected


@pytest.mark.parametrize("separator", [b",", b", "], ids=["flat", "plain"])
def test_an_unreadable_object_is_not_counted_as_incomplete(place: Place, separator: bytes) -> None:
    entries = separator.join((b'{"a":"1"}', b'{"b":2x}'))
    place.store.put(BUCKET, PREFIX, b'{"state":"skip data","flow_logs":[%b]}' % entries)
    result = place.run()
    assert (result.code, result.summary["failed_total"]) == (1, 1)
    assert result.summary["incomplete"] == 0


# --- STATE ---------------------------------------------------------------------------------------


def changes(fault: Fault) -> Callable[[S3Request], Fault | None]:
    """A bucket in which objects can be created but not changed."""
    written: list[str] = []

    def rule(request: S3Request) -> Fault | None:
        if request.operation == "DELETE" or (request.operation == "PUT" and written):
            return fault
        if request.operation == "PUT" and request.headers.get("if-none-match"):
            written.append(request.key)
        return None

    return rule


LOCKED = [
    s3_error(403, "AccessDenied"),
    s3_error(403, "ObjectLocked"),
    s3_error(409, "ObjectLocked"),
    Answer(400, {}, b"<Error><Code>InvalidRequest</Code><Message>retention</Message></Error>"),
]


@pytest.mark.parametrize("mode", ["remember", "catch-up"])
@pytest.mark.parametrize("answer", LOCKED, ids=lambda answer: str(answer.status))
def test_a_locked_state_is_told_from_a_missing_role(
    place: Place, mode: str, answer: Answer
) -> None:
    place.put(ITEM)
    place.store.script.rule(changes(answer))
    result = place.run(FLOWLOG_MODE=mode, CE_DATA=event(ITEM.key))
    assert result.code == 1
    assert "let FLOWLOG_STATE_BUCKET name a bucket without one" in result.log
    assert "Writer" not in result.log


@pytest.mark.parametrize("mode", ["remember", "catch-up"])
def test_state_can_be_in_another_bucket(place: Place, mode: str) -> None:
    expected = place.put(ITEM)
    place.store.create_bucket("states")
    rule = changes(s3_error(403, "AccessDenied"))
    place.store.script.rule(lambda request: None if "/states/" in request.target else rule(request))
    if mode == "remember":
        result = place.run(FLOWLOG_MODE=mode, FLOWLOG_STATE_BUCKET="states",
                           CE_DATA=event(ITEM.key))  # fmt: skip
    else:
        result = run_worker(place, FLOWLOG_STATE_BUCKET="states")
    assert result.code == 0, result.log
    assert place.store.get("states", STATE)
    assert place.store.get(BUCKET, STATE) is None
    assert place.received() == expected


def away(place: Place, fault: Fault, times: int) -> None:
    """After the first one, every write of STATE gets this fault this many times first."""
    left = [0, 0, times]

    def rule(request: S3Request) -> Fault | None:
        if request.operation != "PUT" or request.headers.get("if-match", "").startswith('"no-'):
            return None
        left[0] += 1
        if left[0] <= 2 or left[0] % (times + 1) == 0:
            return None
        return fault

    place.store.script.rule(rule)


@pytest.mark.parametrize(
    "fault", [SLOW_DOWN, s3_error(500, "InternalError"), Reset(), Reset(accept=True)], ids=str
)
def test_a_store_that_is_away_while_state_must_be_written(place: Place, fault: Fault) -> None:
    items = objects(2, 6)
    put_in_order(place, items)
    away(place, fault, 2)
    result: Result = run_worker(place)
    assert result.code == 0, result.log
    assert state(place)["status"] == "finished"
    assert place.received() == lines_of(*items)
