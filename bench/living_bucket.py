"""An hour of a living bucket on a fast clock: `python -m bench.living_bucket [INTERFACES]`.

Events get lost, ticks overlap, three workers are killed, the store is away for two minutes. Prints
what was lost and what came twice.
"""

from __future__ import annotations

import sys

from standins.living import LEASE_SECONDS, Living
from standins.place import services

STEPS = 12
KILLED_AT = (1, 5, 9)
AWAY_AT = 7


def an_hour(living: Living) -> None:
    """The hour, and the ticks after it until all leases are over."""
    for step in range(STEPS):
        objects = living.five_minutes()
        living.events(objects, 3 / len(objects))
        ticks = {name: living.start(CE_JOBRUN=name) for name in (f"{step}-a", f"{step}-b")}
        if step in KILLED_AT:
            living.kill(ticks.pop(living.worker(ticks)))
        living.finish(*ticks.values())
        if step == AWAY_AT:
            living.store_away()
        print(f"  minute {5 * step + 5}: {living.lost()} rows not received yet")
    living.place.store.clock_offset += LEASE_SECONDS
    living.finish(living.start())


def main() -> None:
    """Print the hour."""
    interfaces = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with services("logdna") as place:
        living = Living(place, interfaces)
        print(f"An hour of {interfaces} interfaces that write an object every five minutes")
        an_hour(living)
        doubled = living.doubled()
        received = len(place.ingestion.texts)
        print(f"{living.rows_written} rows written, {received} lines received")
        print(f"{living.lost()} lost, {len(doubled)} came twice or more,", end=" ")
        print(f"{len(doubled - living.by_killed)} of these not sent by a killed run before")
        print(f"exit codes: {dict(living.exits)}")


if __name__ == "__main__":
    main()
