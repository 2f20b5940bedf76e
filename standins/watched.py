"""A bucket to show a report of: three VPCs, silent and new interfaces, and failed objects."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from bucket.marks import Marks
from bucket.state_follow import Following, Parked
from standins.faults import Answer
from standins.flowlogs import flow_log_object
from standins.store import Store

DAYS = 7
ARCHIVED = Answer(403, body=b"<Error><Code>InvalidObjectState</Code></Error>")
NAMES = ("front", "orders", "archive")
SUBNETS_EACH, INTERFACES_EACH = 2, 2
SILENT, NEW, PATCHY = 2, 5, 8
"""Which interfaces have been silent for a day, began yesterday, or have gaps."""


def renamed(key: str, number: int) -> str:
    """The key as one of an interface in one of three VPCs, each with two subnets."""
    vpc, subnet = NAMES[number // 4], number // INTERFACES_EACH
    before, _, rest = key.partition("/vpc-id=")
    _, _, behind = rest.partition("/endpoint-type=")
    crn = "crn%3Av1%3Abluemix%3Apublic%3Ais%3Aus-south%3Aa%2F1%3A%3A"
    return (
        f"{before}/vpc-id={crn}vpc%3Ar006-{vpc}/subnet-id={crn}subnet%3A0717-{vpc}-{subnet % 2}"
        f"/endpoint-type={behind}"
    )


def is_there(number: int, ago: timedelta, rng: random.Random) -> bool:
    """Whether the interface wrote an object this long ago."""
    if number == SILENT:
        return ago > timedelta(hours=26)
    if number == NEW:
        return ago < timedelta(hours=30)
    if number == PATCHY:
        hour = int(ago.total_seconds()) // 3600
        return not 40 <= hour < 52 and (hour % 31 or rng.random() < 0.4) != 0
    return True


def objects(now: datetime, days: int) -> Iterator[tuple[str, bytes, datetime]]:
    """Key, content and time of all objects: one every five minutes for each interface."""
    rng = random.Random(1)
    for number in range(len(NAMES) * SUBNETS_EACH * INTERFACES_EACH):
        # One content for all objects of an interface, since making them takes longest.
        body = flow_log_object(number, 20, now, number).body
        for minutes in range(1, days * 24 * 60, 5):
            if not is_there(number, timedelta(minutes=minutes), rng):
                continue
            end = now - timedelta(minutes=minutes)
            yield renamed(flow_log_object(0, 0, end, number).key, number), body, end


def fill(store: Store, bucket: str, days: int = DAYS) -> Following:
    """Fill the bucket, with STATE of follow mode: a lag of half an hour, two parked objects."""
    now = datetime.now(UTC)
    keys: list[str] = []
    for key, body, written in objects(now, days):
        store.put(bucket, key, body, written)
        keys.append(key)
    refused = keys[-60:-20:20]
    store.script.rule(lambda request: ARCHIVED if request.key in refused else None)
    seconds = int(time.time())
    mark = (seconds - 1800, "")
    parked = tuple(Parked(store.written(bucket, key), key, seconds - 900) for key in refused)
    marks = Marks(mark, mark)
    state = Following(worker=None, mark=marks.mark, late_mark=marks.late, parked=parked)
    store.put(bucket, "first_logged", state.content())
    return state
