"""Ticks of follow mode over many interfaces: `python -m bench.interfaces [INTERFACES [DAYS]]`.

Nothing is new in any of them, which is what a timer's run finds most of the time.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from bench.measure import JOB, Process, Run, Wrong, fleet

TICKS_A_DAY, HOURS_A_DAY = 288, 24
CLASS_A, CLASS_B = 0.005 / 1000, 0.0004 / 1000
"""USD for a PUT or LIST, and for a GET (IBM Cloud, Object Storage, Standard plan, regional)."""


def tick(interfaces: int, days: int, *, late: bool = False) -> tuple[Run, Counter[str]]:
    """One tick's run over TLS, and what it asked of the store: LIST, PUT, GET, and keys told."""
    with fleet(interfaces, days, late) as where:
        settings = {**where.environ, **where.over_tls, "FLOWLOG_MODE": "follow"}
        run = Process(JOB, settings).finish()
        asked = Counter(json.loads(where.ask("/-/asked")))
    if run.summary["objects"] or asked["LIST"] < interfaces:
        raise Wrong(f"nothing is new, and each interface is to be looked at: {run.summary}")
    return run, asked


def main() -> None:
    """Print what a tick takes, and a day of ticks."""
    interfaces, days = (
        int(text) for text in [*sys.argv[1:], *("10000", "90")[len(sys.argv) - 1 :]]
    )
    print(
        f"{interfaces} interfaces, {days} days: {interfaces * days * 288:,} objects in the bucket"
    )
    day = Counter[str]()
    for late, times in ((False, TICKS_A_DAY - HOURS_A_DAY), (True, HOURS_A_DAY)):
        run, asked = tick(interfaces, days, late=late)
        print(f"a tick{' that looks for late objects' if late else ''}: {run.wall:.1f} s", end=" ")
        print(f"({run.cpu:.1f} s CPU), {run.peak:.0f} MiB, asks {dict(asked)}")
        for name in ("LIST", "PUT", "GET"):
            day[name] += times * asked[name]
    cost = (day["LIST"] + day["PUT"]) * CLASS_A + day["GET"] * CLASS_B
    print(f"a day of {TICKS_A_DAY} ticks without anything new: {dict(day)}, {cost:.2f} USD")


if __name__ == "__main__":
    main()
