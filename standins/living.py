"""A bucket that gets new objects while a timer starts runs, on a fast clock.

Each step moves the store's clock forward by five minutes; each interface writes an object, and then
a run of follow mode starts, as a cron subscription would start it.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from standins.faults import Silence
from standins.flowlogs import FlowLogObject, flow_log_object
from standins.place import BUCKET, Place, event
from standins.store import SLOW_DOWN, S3Request

TICK_SECONDS, LEASE_SECONDS = 300, 900
SETTLED_SECONDS = 20
TIMER = {"FLOWLOG_MODE": "follow", "CE_TYPE": "dev.knative.sources.ping", "CE_DATA": "{}"}


@dataclass
class Living:
    """What was written, the exit code of each run, and which lines a killed run may repeat."""

    place: Place
    interfaces: int
    rows: int = 1
    rows_written: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    by_killed: set[str] = field(default_factory=set)
    random: random.Random = field(default_factory=lambda: random.Random(19))
    steps: int = 0

    @property
    def now(self) -> datetime:
        """The time by the store's clock."""
        return datetime.now(UTC) + timedelta(seconds=self.place.store.clock_offset)

    def lost(self) -> int:
        """Number of rows that were written and not received; all rows are different."""
        return self.rows_written - len(set(self.place.ingestion.texts))

    def doubled(self) -> set[str]:
        """Rows that were received more than once."""
        return {text for text, count in Counter(self.place.ingestion.texts).items() if count > 1}

    def five_minutes(self) -> list[FlowLogObject]:
        """Each interface writes an object with its flows of the last five minutes."""
        self.place.store.clock_offset += TICK_SECONDS - SETTLED_SECONDS
        self.steps += 1
        end = self.now
        objects = [
            flow_log_object(self.steps, self.rows, end, interface, self.steps)
            for interface in range(self.interfaces)
        ]
        for item in objects:
            self.place.store.put(BUCKET, item.key, item.body)
            self.rows_written += item.rows
        self.place.store.clock_offset += SETTLED_SECONDS
        return objects

    def start(self, **settings: str) -> subprocess.Popen[str]:
        """Start a run of the timer."""
        return self.place.start(**TIMER, **settings)

    def finish(self, *runs: subprocess.Popen[str]) -> None:
        """Wait for runs to end; print the log of one that fails."""
        for run in runs:
            log = run.communicate(timeout=300)[1]
            self.exits[run.returncode] += 1
            if run.returncode > 0:
                print(*(f"    {line[:200]}" for line in log.splitlines()[-4:]), sep="\n")

    def kill(self, run: subprocess.Popen[str]) -> None:
        """Kill a run after it has delivered, before it writes STATE: its lines may come twice."""
        before = len(self.place.ingestion.texts)

        def hold(request: S3Request) -> Silence | None:
            delivered = len(self.place.ingestion.texts) > before
            return Silence() if delivered and request.operation == "PUT" else None

        self.place.store.script.rule(hold)
        deadline = time.monotonic() + 60
        while len(self.place.ingestion.texts) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        run.kill()
        self.finish(run)
        self.place.store.script.rule(None)
        self.by_killed |= set(self.place.ingestion.texts[before:])

    def worker(self, names: Iterable[str]) -> str:
        """Which of these job runs is the worker, according to STATE. Raises TimeoutError."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            content = self.place.store.get(BUCKET, "first_logged")
            worker = json.loads(content)["worker"] if content else None
            if worker in names:
                return str(worker)
            time.sleep(0.005)
        raise TimeoutError("none of the runs has become the worker")

    def events(self, objects: list[FlowLogObject], share: float) -> None:
        """Some events arrive, the others are lost; follow mode needs none of them."""
        chosen = self.random.sample(objects, round(share * len(objects)))
        for item in chosen:
            self.finish(self.place.start(FLOWLOG_MODE="follow", CE_DATA=event(item.key)))

    def store_away(self) -> None:
        """For two minutes the store only answers 503, and runs of the timer fail."""
        self.place.store.script.always(SLOW_DOWN)
        self.finish(self.start(FLOWLOG_RETRY_SECONDS="3"))
        self.place.store.clock_offset += 120
        self.place.store.script.always(None)
