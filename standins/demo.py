"""`make run`: the job at work, against the stand-ins, on flow logs that look like real ones.

Every run is a process of its own with nothing in its environment but what Code Engine would set.
All numbers but the job's own summary come from what the ingestion stand-in received.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from standins.destination import log_service
from standins.flowlogs import FlowLogObject, flow_log_objects
from standins.iam import IAM
from standins.ingestion import LogService
from standins.store import Store

PROJECT = Path(__file__).parent.parent
BUCKET = "my-flow-logs"
API_KEY = "demo-api-key"
INGESTION_KEY = "demo-ingestion-key"
OBJECTS, ROWS = 300, 20
DESTINATIONS = ("logdna", "cloud-logs", "otlp")


@dataclass(frozen=True, slots=True)
class Place:
    """The three services, and the environment of a job that uses them."""

    store: Store
    ingestion: LogService
    environ: dict[str, str]

    def start(self, **settings: str) -> subprocess.Popen[str]:
        """Start the job as Code Engine would."""
        return subprocess.Popen(
            [sys.executable, "flowlog.py"],
            cwd=PROJECT,
            env={**self.environ, **settings},
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **settings: str) -> dict[str, Any]:
        """Run the job, show its log, and return its summary."""
        return finish(self.start(**settings))


def finish(job: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a job, show its log; its summary. Raises RuntimeError where it failed."""
    log = job.communicate(timeout=120)[1].splitlines()
    for line in log:
        print(f"    {line if len(line) <= 200 else line[:197] + '...'}")
    if job.returncode != 0:
        raise RuntimeError(f"the job exited with {job.returncode}")
    summary: dict[str, Any] = json.loads(log[-1].removeprefix("summary "))
    return summary


def event(key: str) -> str:
    """CE_DATA for a new object (Code Engine docs, "Object Storage event producer")."""
    return json.dumps(
        {
            "bucket": BUCKET,
            "endpoint": "",
            "key": key,
            "notification": {"event_type": "Object:Write"},
            "operation": "Object:Write",
        }
    )


@contextmanager
def services(destination: str) -> Iterator[Place]:
    """The stand-ins, on free ports of this machine."""
    with ExitStack() as stack:
        iam = stack.enter_context(IAM(API_KEY))
        store = stack.enter_context(Store(iam))
        service, settings = log_service(destination, iam, INGESTION_KEY)
        stack.enter_context(service)
        home = stack.enter_context(tempfile.TemporaryDirectory())
        store.create_bucket(BUCKET)
        environ = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": home,
            "COS_BUCKET": BUCKET,
            "COS_ENDPOINT": store.url,
            "COS_CRN": "crn:v1:bluemix:public:cloud-object-storage:global:a/demo:instance::",
            "APIKEY": API_KEY,
            "IAM_ENDPOINT": iam.url,
            **settings,
        }
        yield Place(store, service, environ)


def upload(place: Place, objects: list[FlowLogObject]) -> int:
    """Put the objects into the bucket; how many rows they hold."""
    for item in objects:
        place.store.put(BUCKET, item.key, item.body)
    return sum(item.rows for item in objects)


def check(what: str, got: int, expected: int) -> None:
    """Say what the log service received, and stop where that is not what was uploaded."""
    print(f"  {what}: {got:,} lines received, {expected:,} rows were uploaded\n")
    if got != expected:
        raise RuntimeError("these numbers should be the same")


def main() -> None:
    """Three steps: everything, one event, a catch-up."""
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


if __name__ == "__main__":
    main()
