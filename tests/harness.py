"""Runs the job as Code Engine would: a process, its environment, its log, its exit code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import Any

from standins.authority import Authority
from standins.cloud_logs import CloudLogs
from standins.destination import log_service
from standins.flowlogs import FlowLogObject, expected_lines
from standins.iam import IAM
from standins.ingestion import LogService, compact
from standins.store import Store

NIGHTLY = bool(os.environ.get("FLOWLOG_NIGHTLY"))
"""Whether to run slow tests too; `make nightly` sets it."""

PROJECT = Path(__file__).parent.parent
BUCKET = "flow-logs"
REAL = PROJECT.parent / "shared" / "data" / "real-2020-06-04.gz"

SECRETS = {
    "APIKEY": "canary-api-key-A1b2C3d4",
    "LOGDNA_INGESTION_KEY": "canary-ingestion-E5f6G7h8",
    "COS_HMAC_SECRET_ACCESS_KEY": "canary-hmac-secret-I9j0K1l2",
}
ACCESS_KEY_ID = "hmac-access-key-id"
PREFIX = "ibm_vpc_flowlogs_v1/"


def settings_read() -> set[str]:
    """The names of all variables that the job reads, as its code spells them."""
    files = [PROJECT / "logdna_synchronous.py", *(PROJECT / "run").glob("*.py")]
    files += (PROJECT / "destinations").glob("*.py")
    text = "".join(file.read_text() for file in files)
    return set(re.findall(r'(?:env|self|environ)\.\w+\(\s*"([A-Z_]{3,})"', text))


@dataclass(frozen=True, slots=True)
class Result:
    """The exit code and output of a finished run."""

    code: int
    log: str
    out: str

    @property
    def summary(self) -> dict[str, Any]:
        """The last line's JSON."""
        last = self.log.splitlines()[-1]
        assert last.startswith("summary "), self.log
        summary: dict[str, Any] = json.loads(last.removeprefix("summary "))
        return summary

    def failed(self) -> dict[str, str]:
        """Reason by key."""
        return {entry["key"]: entry["error"] for entry in self.summary["failed"]}


@dataclass(frozen=True, slots=True)
class Place:
    """The services of one test, and the environment of a job that uses them."""

    iam: IAM
    store: Store
    ingestion: LogService
    environ: dict[str, str]

    def start(self, **settings: str) -> subprocess.Popen[str]:
        return start({**self.environ, **settings})

    def run(self, **settings: str) -> Result:
        return finish(self.start(**settings))

    def put(self, *objects: FlowLogObject) -> Counter[str]:
        """Upload objects; return the lines that they should become."""
        for item in objects:
            self.store.put(BUCKET, item.key, item.body)
        return lines_of(*objects)

    def received(self) -> Counter[str]:
        """The lines that arrived; those in IBM Cloud Logs without the field that is only there."""
        return Counter(map(self.plain, self.ingestion.texts))

    def secure(
        self, authority: Authority, folder: Path, others: Mapping[str, SSLContext] | None = None
    ) -> None:
        """Let all services talk TLS with certificates of this authority, which the job is told.

        `others` has the contexts of services that are to have another one, by their names here.
        """
        bundle = folder / "authority.pem"
        bundle.write_text(authority.certificate)
        contexts = dict.fromkeys(("iam", "store", "ingestion"), authority.context())
        for name, context in {**contexts, **(others or {})}.items():
            service = getattr(self, name)
            before = service.url
            service.secure(context)
            for setting, value in self.environ.items():
                self.environ[setting] = value.replace(before, service.url)
        self.environ["SSL_CERT_FILE"] = str(bundle)

    def plain(self, text: str) -> str:
        """A line as LogDNA would have received it."""
        return without_object(text) if isinstance(self.ingestion, CloudLogs) else text


def without_object(text: str) -> str:
    """A line without its field `_object`, which must be there, and right."""
    line = json.loads(text)
    assert line.pop("_object") == short_name(line["key"])
    return compact(line)


def short_name(key: str) -> str:
    """The `_object` of an object with this key."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def start(environ: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "flowlog.py"],
        cwd=PROJECT,
        env={name: value for name, value in environ.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(job: subprocess.Popen[str]) -> Result:
    out, log = job.communicate(timeout=120)
    return Result(job.returncode, log, out)


def lines_of(*objects: FlowLogObject) -> Counter[str]:
    """The lines that these objects should become."""
    return Counter(line for item in objects for line in expected_lines(item.document, item.key))


def event(key: object, **fields: object) -> str:
    """CE_DATA of a new object."""
    return json.dumps(
        {
            "bucket": BUCKET,
            "endpoint": "",
            "key": key,
            "notification": {"event_type": "Object:Write", "object_length": "587"},
            "operation": "Object:Write",
            **fields,
        }
    )


@contextmanager
def services(destination: str = "logdna", **limits: int) -> Iterator[Place]:
    """New stand-ins with an empty bucket, and credentials for bearer tokens."""
    with IAM(SECRETS["APIKEY"]) as iam, Store(iam) as store:
        service, settings = log_service(destination, iam, SECRETS["LOGDNA_INGESTION_KEY"], **limits)
        with service as sink:
            store.create_bucket(BUCKET)
            environ = {
                "PATH": os.environ.get("PATH", ""),
                "COS_BUCKET": BUCKET,
                "COS_ENDPOINT": store.url,
                "COS_CRN": "crn:v1:bluemix:public:cloud-object-storage:global:a/1:2::",
                "APIKEY": SECRETS["APIKEY"],
                "IAM_ENDPOINT": iam.url,
                "LOG": "INFO",
                **settings,
            }
            yield Place(iam, store, sink, environ)
