"""The stand-ins of all services, and the job as Code Engine would start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from standins.destination import log_service
from standins.iam import IAM
from standins.ingestion import LogService
from standins.store import Store

PROJECT = Path(__file__).parent.parent
BUCKET = "my-flow-logs"
API_KEY = "demo-api-key"
INGESTION_KEY = "demo-ingestion-key"


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
        """Run the job, print its log and return its summary."""
        return finish(self.start(**settings))


def finish(job: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for a job, print its log and return its summary. Raises RuntimeError if it failed."""
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
