"""Follow mode, end to end: a timer's runs, with real processes and a real store."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bucket.flowkeys import interface_of
from standins.faults import Answer
from standins.flowlogs import FlowLogObject, flow_log_object, flow_log_objects
from standins.store import S3Request, s3_error
from tests.harness import BUCKET, Place, Result, finish, lines_of

STATE = "first_logged"
TIMER = {"FLOWLOG_MODE": "follow", "CE_TYPE": "dev.knative.sources.ping", "CE_DATA": "{}"}
HOUR, DAY = 3600, 86_400


@pytest.fixture
def objects() -> list[FlowLogObject]:
    """Objects of the last 15 minutes, in the order in which they are written."""
    return in_order(60, 2)


def in_order(count: int, rows: int) -> list[FlowLogObject]:
    newest = datetime.now(UTC) - timedelta(minutes=3)
    found = flow_log_objects(count, rows, newest=newest)
    return sorted(found, key=lambda item: (item.document["capture_end_time"], item.key))


def put(place: Place, objects: list[FlowLogObject]) -> None:
    """Upload them like a collector: soon after the flows."""
    for item in objects:
        end = datetime.fromisoformat(item.document["capture_end_time"])
        place.store.put(BUCKET, item.key, item.body, end + timedelta(seconds=20))


def tick(place: Place, **settings: str) -> Result:
    return place.run(**TIMER, **settings)


def state(place: Place) -> dict[str, Any]:
    content = place.store.get(BUCKET, STATE)
    assert content is not None
    fields: dict[str, Any] = json.loads(content)
    return fields


def refuse(*keys: str) -> Callable[[S3Request], Answer | None]:
    """No permission to read these objects; without any, all objects."""

    def rule(request: S3Request) -> Answer | None:
        read = request.operation == "GET" and request.key != STATE
        refused = read and (not keys or request.key in keys)
        return s3_error(403, "AccessDenied") if refused else None

    return rule


# --- the marks -----------------------------------------------------------------------------------


def test_each_run_of_the_timer_pushes_new_objects(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects[:40])
    for size, last in ((40, 39), (0, 39), (20, 59), (0, 59)):
        if size == 20:
            put(place, objects[40:])
        result = tick(place)
        assert (result.code, result.summary["objects"]) == (0, size), result.log
        assert result.summary["lag_seconds"] == 0
        assert (state(place)["worker"], state(place)["mark"][1]) == (None, objects[last].key)
    assert place.received() == lines_of(*objects)


def test_a_quiet_tick_reads_each_interface_once(place: Place, objects: list[FlowLogObject]) -> None:
    interfaces = {interface_of(item.key) for item in objects}
    put(place, objects)
    tick(place)
    place.store.requests.clear()
    assert tick(place).code == 0
    operations = place.store.operations()
    assert operations.count("LIST") <= 2 * len(interfaces)
    assert operations.count("GET") == 2  # STATE, and the clock
    assert operations.count("PUT") == 3  # the precondition is tried, then claim and release


def test_objects_that_have_not_settled_are_pushed_by_the_next_run(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects[:5])
    place.store.put(BUCKET, objects[5].key, objects[5].body)
    assert tick(place).summary["objects"] == 5
    place.store.clock_offset = 30
    assert tick(place).summary["objects"] == 1
    assert place.received() == lines_of(*objects[:6])


def test_the_first_run_begins_at_the_configured_time(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects)
    since = datetime.fromisoformat(objects[40].document["capture_end_time"])
    assert tick(place, FLOWLOG_SINCE=since.isoformat()).code == 0
    new = [item for item in objects if item.document["capture_end_time"] >= f"{since:%FT%TZ}"]
    assert 20 <= len(new) < 60
    assert place.received() == lines_of(*new)
    # Later there is a mark, and only the mark counts.
    assert tick(place, FLOWLOG_SINCE="7d").summary["objects"] == 0


def test_late_objects_are_found_within_the_hour(place: Place, objects: list[FlowLogObject]) -> None:
    put(place, objects)
    tick(place)
    yesterday = datetime.now(UTC) - timedelta(hours=20)
    late = flow_log_object(7, 3, yesterday, interface=1, number=77)
    place.store.put(BUCKET, late.key, late.body)
    assert tick(place).summary["objects"] == 0
    place.store.clock_offset = HOUR
    for found in (1, 0):
        assert tick(place).summary["objects"] == found
    assert place.received() == lines_of(*objects, late)


def test_keys_of_another_form_are_found_at_once(place: Place, objects: list[FlowLogObject]) -> None:
    put(place, objects)
    tick(place)
    for key in ("ibm_vpc_flowlogs_v1/a/notes.gz", "ibm_vpc_flowlogs_v2/x/00000001.gz"):
        moment = datetime.now(UTC) - timedelta(seconds=30)
        place.store.put(BUCKET, key, b'{"flow_logs":[{}]}', moment)
    assert [tick(place).summary["objects"] for _ in "ab"] == [2, 0]


def test_follow_continues_from_a_finished_catch_up(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects[:40])
    assert place.run(FLOWLOG_MODE="catch-up").code == 0
    place.store.clock_offset = 120
    for item in objects[40:]:
        place.store.put(BUCKET, item.key, item.body, datetime.now(UTC) + timedelta(seconds=60))
    assert tick(place).summary["objects"] == 20
    assert place.received() == lines_of(*objects)
    assert state(place)["mode"] == "follow"


def test_an_unfinished_catch_up_is_left_alone(place: Place) -> None:
    text = json.dumps({"version": 1, "mode": "catch-up", "status": "working", "worker": None})
    place.store.put(BUCKET, STATE, text.encode())
    result = tick(place)
    assert result.code == 1
    assert "catch-up" in result.log and STATE in result.log
    assert place.store.get(BUCKET, STATE) == text.encode()


# --- one worker at a time ------------------------------------------------------------------------


def test_a_tick_leaves_another_one_alone_that_is_at_work(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects)
    place.ingestion.script.always(Answer(503))
    first = place.start(**TIMER, CE_JOBRUN="first")
    wait_for(lambda: len(place.ingestion.requests) > 0)
    second = tick(place, CE_JOBRUN="second")
    assert second.code == 0 and "is at work" in second.log
    place.ingestion.script.always(None)
    assert finish(first).code == 0
    assert place.received() == lines_of(*objects)


def test_a_tick_that_was_killed_is_taken_over_from(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects)
    place.ingestion.script.always(Answer(503))
    first = place.start(**TIMER, CE_JOBRUN="first")
    wait_for(lambda: len(place.ingestion.requests) > 0)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    place.ingestion.script.always(None)
    assert tick(place, CE_JOBRUN="second").summary["objects"] == 0
    place.store.clock_offset = 16 * 60
    assert tick(place, CE_JOBRUN="third").summary["objects"] == 60
    assert place.received() == lines_of(*objects)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- what can't be delivered ---------------------------------------------------------------------


def test_a_service_that_takes_nothing_stops_the_mark(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects)
    place.ingestion.script.always(Answer(401))
    result = tick(place)
    assert result.code == 1
    assert 10 * 60 < result.summary["lag_seconds"] < HOUR
    assert (state(place)["mark"], state(place)["worker"]) == (None, None)
    place.ingestion.script.always(None)
    assert tick(place).summary["lag_seconds"] == 0
    assert place.received() == lines_of(*objects)


def test_an_object_that_can_not_be_read_is_parked(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects[:50])
    # The first one as well, for which it is not yet clear whether others can be read.
    stuck = [objects[0], objects[20], objects[49]]
    place.store.script.rule(refuse(*(item.key for item in stuck)))
    others = [item for item in objects[:50] if item not in stuck]
    result = tick(place)
    assert result.code == 1
    assert result.failed().keys() == {item.key for item in stuck}
    assert {one["key"] for one in state(place)["parked"]} == {item.key for item in stuck}
    assert place.received() == lines_of(*others)
    # They do not delay later objects.
    put(place, objects[50:])
    result = tick(place)
    assert (result.code, result.summary["objects"]) == (1, 10)
    assert result.failed().keys() == {item.key for item in stuck}
    assert result.summary["lag_seconds"] > 0
    place.store.script.rule(refuse(objects[49].key))
    assert (tick(place).code, len(state(place)["parked"])) == (1, 1)
    place.store.script.rule(None)
    assert (tick(place).code, tick(place).code) == (0, 0)
    assert place.received() == lines_of(*objects)
    assert state(place)["parked"] == []


def test_a_parked_object_is_given_up_after_seven_days(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects)
    place.store.script.rule(refuse(objects[10].key))
    assert tick(place).code == 1
    place.store.clock_offset = 7 * DAY - 60
    assert (tick(place).code, len(state(place)["parked"])) == (1, 1)
    place.store.clock_offset = 7 * DAY + 60
    result = tick(place)
    assert (result.code, state(place)["parked"]) == (1, [])
    assert f"given up: it could not be read for 7 days: {objects[10].key}" in result.log
    assert tick(place).code == 0


def test_a_role_that_is_taken_away_moves_nothing(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects[:30])
    tick(place)
    put(place, objects[30:])
    before = state(place)["mark"]
    place.store.script.rule(refuse())
    result = tick(place)
    assert result.code == 1
    assert (state(place)["mark"], state(place)["parked"]) == (before, [])
    assert "no object could be read" in result.log
    place.store.script.rule(None)
    assert tick(place).code == 0
    assert place.received() == lines_of(*objects)


def test_more_than_a_hundred_unreadable_objects_mean_a_wrong_setting(place: Place) -> None:
    many = in_order(130, 1)
    put(place, many)
    place.store.script.rule(refuse(*(item.key for item in many[1:])))
    result = tick(place)
    assert result.code == 1
    assert "more than 100 objects can't be read" in result.log
    assert len(state(place)["parked"]) == 100
    assert state(place)["mark"][1] == many[100].key
    place.store.script.rule(None)
    assert tick(place).code == 0
    assert place.received() == lines_of(*many)


def test_a_damaged_object_is_named_once_and_passed(
    place: Place, objects: list[FlowLogObject]
) -> None:
    put(place, objects)
    place.store.put(BUCKET, objects[5].key, b"\x1f\x8b damaged", datetime.now(UTC) - timedelta(60))
    result = tick(place)
    assert result.failed().keys() == {objects[5].key}
    assert tick(place).code == 0
    assert place.received() == lines_of(*objects[:5], *objects[6:])
