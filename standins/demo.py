"""`make run`: runs the job against the stand-ins, with realistic flow logs.

Each run is a separate process whose environment has only what Code Engine would set. All numbers
except the job's own summary are from what the stand-in of the log service received.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta

from standins.flowlogs import FlowLogObject, flow_log_objects
from standins.living import LEASE_SECONDS, Living
from standins.place import BUCKET, Place, event, finish, services

OBJECTS, ROWS = 300, 20
DESTINATIONS = ("logdna", "cloud-logs", "otlp")
INTERFACES, KILLED_AT = 8, 15


def upload(place: Place, objects: list[FlowLogObject]) -> int:
    """Put the objects into the bucket; return how many rows they have."""
    for item in objects:
        place.store.put(BUCKET, item.key, item.body)
    return sum(item.rows for item in objects)


def check(what: str, got: int, expected: int) -> None:
    """Print what the log service received; stop if that is not what was uploaded."""
    print(f"  {what}: {got:,} lines received, {expected:,} rows were uploaded\n")
    if got != expected:
        raise RuntimeError("these numbers should be the same")


def main() -> None:
    """Four steps: everything, one event, a catch-up, a timer."""
    now = datetime.now(UTC)
    backlog = list(flow_log_objects(OBJECTS, ROWS, seed=1, newest=now))
    later = list(flow_log_objects(3, ROWS, seed=2, newest=now + timedelta(minutes=5)))
    destination = sys.argv[1] if len(sys.argv) > 1 else "logdna"
    if destination not in DESTINATIONS:
        sys.exit(f"the destination must be one of: {', '.join(DESTINATIONS)}")
    with services(destination) as place:
        print(f"1. A run without an event pushes all {OBJECTS} objects")
        rows = upload(place, backlog)
        place.run()
        check("everything", len(place.ingestion.received), rows)

        print("2. An event pushes its object")
        rows += upload(place, later[:1])
        place.run(CE_DATA=event(later[0].key))
        check("with the event", len(place.ingestion.received), rows)
        print("  One of the lines, as the log service shows it:")
        print("    " + place.ingestion.shown().replace("\n", "\n    ") + "\n")

    with services(destination) as place:
        show_catch_up(place, backlog, later[1:])
    with services(destination) as place:
        show_follow(place)


def show_catch_up(place: Place, backlog: list[FlowLogObject], later: list[FlowLogObject]) -> None:
    """A worker, an event while it works, and one after it has finished."""
    print("3. Catch-up: the first run works, the events leave it alone, then push themselves")
    rows = upload(place, backlog)
    worker = place.start(FLOWLOG_MODE="catch-up")
    deadline = time.monotonic() + 30
    while place.store.get(BUCKET, "first_logged") is None:
        if time.monotonic() > deadline:
            raise RuntimeError("the worker has not created STATE")
        time.sleep(0.01)
    rows += upload(place, later[:1])
    print("  An event while the worker is at work:")
    place.run(FLOWLOG_MODE="catch-up", CE_DATA=event(later[0].key))
    print("  The worker (its last pass waits until the store's clock has settled, about 11 s):")
    finish(worker)
    check("the worker pushed both the backlog and that object", len(place.ingestion.received), rows)
    rows += upload(place, later[1:])
    print("  An event after it has finished:")
    place.run(FLOWLOG_MODE="catch-up", CE_DATA=event(later[1].key))
    check("in the end", len(place.ingestion.received), rows)


def show_follow(place: Place) -> None:
    """Runs of a timer while objects are written; one of the runs is killed."""
    print("4. Follow: a timer's runs, on a fast clock; nobody raises an event")
    living = Living(place, INTERFACES, ROWS)
    for minute in range(5, 31, 5):
        living.five_minutes()
        run = living.start()
        if minute == KILLED_AT:
            living.kill(run)
            print(f"  minute {minute}: the run is killed after it has delivered; its lease begins")
        else:
            living.finish(run)
            print(f"  minute {minute}: {living.rows_written} rows written, {living.lost()} missing")
    print("  The last of them took over, and began at the mark. One more finds nothing:")
    place.store.clock_offset += LEASE_SECONDS
    finish(living.start())
    doubled = len(living.doubled())
    print(f"  in the end: {living.lost()} of {living.rows_written} rows missing,", end=" ")
    print(f"{doubled} twice, all of them sent by the run that was killed\n")
    if living.lost() or living.doubled() - living.by_killed:
        raise RuntimeError("nothing should be missing, and nothing else twice")


if __name__ == "__main__":
    main()
