"""Runs whole processes against the services of `bench.server`, and measures and checks each one.

A process that starts others lends them its own peak of memory until they have begun (Linux counts
it so), so this one stays small: it imports neither the job nor matplotlib.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import certifi

PROJECT = Path(__file__).parents[1]
JOB = ("flowlog.py",)
REFERENCE = ("-m", "bench.reference")
BUCKET = "flow-logs"
MIB = 1024 * 1024
ENDPOINTS = (
    "COS_ENDPOINT",
    "IAM_ENDPOINT",
    "LOGDNA_ENDPOINT",
    "CLOUD_LOGS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
CHOICES = {"FLOWLOG_FIELDS", "FLOWLOG_WHERE"}
"""Settings that make other lines than all of them in full."""


class Wrong(Exception):
    """A measured run did not do its work, so its figures mean nothing."""


@dataclass(frozen=True, slots=True)
class Workload:
    """So many objects of so many rows; `rows` 0: keys alone, with empty objects."""

    objects: int
    rows: int

    def __str__(self) -> str:
        return f"{self.objects:,} by {self.rows:,}"


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds that the services add to a GET or HEAD, to a listing, and to a POST."""

    get: int = 0
    listing: int = 0
    post: int = 0


NONE, WIDE = Latency(), Latency(25, 50, 80)


@dataclass(frozen=True, slots=True)
class Run:
    """What a process took: seconds of wall time and of CPU (user and system), peak RSS in MiB."""

    wall: float
    cpu: float
    peak: float
    log: str = field(repr=False)

    @property
    def summary(self) -> dict[str, Any]:
        """The job's own account, its last line."""
        last = self.log.rstrip().rpartition("\n")[2]
        if not last.startswith("summary "):
            raise Wrong(f"no summary: {self.log[-500:]}")
        fields: dict[str, Any] = json.loads(last.removeprefix("summary "))
        return fields


# --- processes -----------------------------------------------------------------------------------


class Process:
    """One measured process, from its start on."""

    def __init__(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        before: Callable[[], None] | None = None,
    ) -> None:
        """`before` is called in the new process, before it becomes Python."""
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `finish`
        self._started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=PROJECT,
            env={"PATH": os.environ.get("PATH", ""), **environ},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            preexec_fn=before,
        )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def seconds(self) -> float:
        """How long it has been running."""
        return time.perf_counter() - self._started

    def log(self) -> str:
        """What it has written so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode()

    def wait_for(self, text: str, seconds: float) -> None:
        """Wait until it has written this."""
        end = time.monotonic() + seconds
        while text not in self.log():
            if time.monotonic() > end:
                raise Wrong(f"no {text!r} within {seconds} s: {self.log()[-500:]}")
            time.sleep(0.05)

    def finish(self, code: int = 0) -> Run:
        """Wait for its end, which must be this exit code."""
        _, status, used = os.wait4(self.pid, 0)
        wall = time.perf_counter() - self._started
        self._process.returncode = os.waitstatus_to_exitcode(status)
        log = self.log()
        self._log.close()
        if self._process.returncode != code:
            raise Wrong(f"exit code {self._process.returncode}, not {code}: {log[-500:]}")
        # In KiB on Linux, in bytes on macOS (getrusage(2) of both).
        unit = 1 if sys.platform == "darwin" else 1024
        return Run(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * unit / MIB, log)


def inside(*arguments: object, environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The answer of `bench.inside` in a process of its own."""
    run = Process(("-m", "bench.inside", *map(str, arguments)), environ or {}).finish()
    answer: dict[str, Any] = json.loads(run.log)
    return answer


# --- services ------------------------------------------------------------------------------------


class Served:
    """Services in a process of their own.

    `said` is what that process has announced; `folder` is for a file with certificates.
    """

    def __init__(self, said: Mapping[str, Any], folder: Path) -> None:
        self._port: int = said["port"]
        self._tls_port: int = said["tls_port"]
        # As long as a list that is in use, since reading it is a part of what TLS costs.
        self._authorities = folder / "authorities.pem"
        self._authorities.write_text(certifi.contents() + said["authority"])

    @property
    def environ(self) -> dict[str, str]:
        """The settings that lead to them."""
        return {
            **dict.fromkeys(ENDPOINTS, f"http://127.0.0.1:{self._port}"),
            "COS_BUCKET": BUCKET,
            "COS_CRN": "crn:v1:bluemix:public:cloud-object-storage:global:a/1:2::",
            "APIKEY": "an-api-key",
            "LOGDNA_INGESTION_KEY": "an-ingestion-key",
        }

    @property
    def over_tls(self) -> dict[str, str]:
        """The settings that lead to them over TLS, in place of those of the same names."""
        return {
            **dict.fromkeys(ENDPOINTS, f"https://127.0.0.1:{self._tls_port}"),
            "REQUESTS_CA_BUNDLE": str(self._authorities),
        }

    def ask(self, target: str) -> bytes:
        """What they say of themselves."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request("GET", target)
        content = connection.getresponse().read()
        connection.close()
        return content


class Services(Served):
    """The services of one workload."""

    def __init__(self, said: Mapping[str, Any], folder: Path) -> None:
        super().__init__(said, folder)
        self.first_key: str = said["first_key"]
        self._expected: dict[str, Any] = said["expected"]
        self._expected_first: dict[str, Any] = said["expected_first"]

    @property
    def event(self) -> dict[str, str]:
        """The setting that makes a run push the first object alone."""
        return {"CE_DATA": json.dumps({"bucket": BUCKET, "key": self.first_key})}

    def reset(self, latency: Latency) -> None:
        """Forget what was received; from now on answer with this latency."""
        self.ask(
            f"/-/reset?get={latency.get / 1000}&listing={latency.listing / 1000}"
            f"&post={latency.post / 1000}"
        )

    def check(self, *, event: bool = False) -> None:
        """Raises Wrong unless every row has arrived, once, since the last reset."""
        received = json.loads(self.ask("/-/received"))
        expected = self._expected_first if event else self._expected
        for name in ("lines", "distinct", "checksum"):
            if received[name] != expected[name]:
                raise Wrong(f"{name} received: {received[name]}, expected: {expected[name]}")

    def check_counts(self, summary: Mapping[str, Any]) -> None:
        """Raises Wrong unless every row has arrived or was left out, as this summary says."""
        arrived = json.loads(self.ask("/-/received"))["lines"]
        rows = self._expected["lines"]
        if (arrived, rows) != (summary["lines_delivered"], summary["rows"]):
            raise Wrong(f"{arrived} lines received of {rows}, and the job says: {summary}")
        if arrived + summary["filtered"] != rows:
            raise Wrong(f"{arrived} lines and {summary['filtered']} filtered are not {rows}")

    def measure(
        self,
        arguments: Sequence[str],
        settings: Mapping[str, str] | None = None,
        latency: Latency = NONE,
        before: Callable[[], None] | None = None,
    ) -> Run:
        """One checked run."""
        self.reset(latency)
        settings = settings or {}
        run = Process(arguments, {**self.environ, **settings}, before).finish()
        if settings.keys() & CHOICES:
            self.check_counts(run.summary)
        else:
            self.check(event="CE_DATA" in settings)
        return run


@contextmanager
def _started(module: str, *arguments: object) -> Iterator[tuple[dict[str, Any], Path]]:
    """A process with services: what it announces in a line of JSON, and a folder for a while."""
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
        )
        try:
            assert server.stdout is not None
            yield json.loads(server.stdout.readline()), Path(folder)
        finally:
            server.send_signal(signal.SIGKILL)
            server.communicate()


@contextmanager
def services(workload: Workload) -> Iterator[Services]:
    """Services with the objects of the workload."""
    with _started("bench.server", workload.objects, workload.rows) as (said, folder):
        yield Services(said, folder)


@contextmanager
def fleet(interfaces: int, days: int, late: bool) -> Iterator[Served]:
    """The services of a tick of follow mode over so many interfaces; see `bench.fleet_server`."""
    with _started("bench.fleet_server", interfaces, days, int(late)) as (said, folder):
        yield Served(said, folder)


# --- side by side --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contender:
    """One of several that are measured side by side."""

    arguments: Sequence[str]
    settings: Mapping[str, str] = field(default_factory=dict)
    times: int = 1


@dataclass(frozen=True, slots=True)
class Median:
    """The medians of several runs, and the largest peak of any."""

    wall: float
    cpu: float
    peak: float
    runs: tuple[Run, ...] = field(repr=False)


def median(runs: Sequence[Run]) -> Median:
    """The medians of runs."""
    return Median(
        statistics.median(run.wall for run in runs),
        statistics.median(run.cpu for run in runs),
        max(run.peak for run in runs),
        tuple(runs),
    )


def side_by_side(
    where: Services, latency: Latency, contenders: Mapping[str, Contender]
) -> dict[str, Median]:
    """Measure the contenders in turns, since a machine is faster at one time than at another."""
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for turn in range(max(one.times for one in contenders.values())):
        for name, one in contenders.items():
            if turn < one.times:
                runs[name].append(where.measure(one.arguments, one.settings, latency))
    return {name: median(done) for name, done in runs.items()}
