"""What can happen to the process: signals at any time, closed files, other users, kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from standins.faults import Answer, Fault, Silence
from standins.flowlogs import flow_log_objects
from standins.http import HTTPRequest
from standins.store import S3Request
from tests.canary import assert_no_secret
from tests.harness import BUCKET, PROJECT, Place, event, finish, lines_of


def in_place_of(
    fault: Fault | None, notify: Callable[[], None]
) -> Callable[[object], Fault | None]:
    """A rule that signals the request before it is answered."""

    def rule(_: object) -> Fault | None:
        notify()
        return fault

    return rule


# --- the start -----------------------------------------------------------------------------------

WITHOUT_SDK = (
    "import os, sys, flowlog\n"
    "end = os._exit\n"
    "os._exit = lambda code: end(99 if 'ibm_botocore' in sys.modules else code)\n"
    "flowlog.main()"
)


def test_a_run_with_a_bearer_token_starts_without_the_sdk(place: Place) -> None:
    item = next(iter(flow_log_objects(1, 2)))
    expected = place.put(item)
    environ = {**place.environ, "CE_DATA": event(item.key)}
    command = [sys.executable, "-c", WITHOUT_SDK]
    assert subprocess.run(command, cwd=PROJECT, env=environ, capture_output=True).returncode == 0
    assert place.received() == expected


# --- signals -------------------------------------------------------------------------------------

MOMENTS = ["before the listing", "while it lists", "while it reads", "while it sends", "later",
           "while it waits for the next try", "while no answer comes"]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_any_moment(place: Place, moment: str, number: signal.Signals) -> None:
    items = list(flow_log_objects(40, 5))[::-1]
    expected = place.put(*items)
    jobs: list[subprocess.Popen[str]] = []

    def stop() -> None:
        jobs[0].send_signal(number)

    def store_rule(operation: str, count: int) -> Callable[[S3Request], Fault | None]:
        seen = Counter[str]()

        def rule(request: S3Request) -> Fault | None:
            seen[request.operation] += 1
            if request.operation == operation and seen[operation] == count:
                stop()
            return None

        return rule

    settings = {}
    match moment:
        case "before the listing":
            place.iam.script.rule(in_place_of(None, stop))
        case "while it lists":
            place.store.script.rule(store_rule("LIST", 1))
        case "while it reads":
            place.store.script.rule(store_rule("GET", 20))
        case "while it sends":
            place.ingestion.script.rule(in_place_of(None, stop))
        case "while it waits for the next try":
            place.ingestion.script.rule(in_place_of(Answer(503, {"Retry-After": "100"}), stop))
        case "while no answer comes":
            place.ingestion.script.rule(in_place_of(Silence(), stop))
            settings = {"FLOWLOG_RETRY_SECONDS": "3"}
        case _:
            place.store.script.rule(store_rule("GET", 40))
    jobs.append(place.start(LOG="DEBUG", **settings))
    result = finish(jobs[0])
    assert result.code == 128 + number, result.log
    assert_no_secret(place, result)
    assert "Traceback" not in result.log
    received, failed = place.received(), result.failed().keys()
    for item in items:
        if item.key not in failed and result.summary["objects"]:
            assert lines_of(item) - received == Counter(), "neither sent nor named"
    assert not received - expected
    assert result.summary["lines_delivered"] == received.total()
    if result.summary["objects"]:
        assert result.summary["objects"] + result.summary["failed_total"] == len(items)


# --- where the job finds itself ------------------------------------------------------------------


@pytest.mark.parametrize(
    "redirection", ["2>&-", "0<&- 1>&- 2>&-", "2>/dev/full", "1>/dev/full 2>/dev/full"]
)
def test_a_log_that_can_not_be_written(place: Place, redirection: str) -> None:
    expected = place.put(*flow_log_objects(30, 5))
    job = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "flowlog.py"],
        env=place.environ,
        cwd=PROJECT,
        timeout=100,
        check=False,
    )
    assert job.returncode == 0
    assert place.received() == expected
    assert all(request.body.startswith(b"\x1f\x8b") for request in place.ingestion.requests)


def test_a_reader_of_the_log_that_went_away(place: Place) -> None:
    expected = place.put(*flow_log_objects(30, 5))
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        job = subprocess.run(
            [sys.executable, "flowlog.py"], env=place.environ, cwd=PROJECT, stderr=write_end,
            timeout=100, check=False,
        )  # fmt: skip
    finally:
        os.close(write_end)
    assert job.returncode == 0
    assert place.received() == expected


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_user_that_does_not_exist_and_may_write_nowhere(place: Place, tmp_path: Path) -> None:
    """An arbitrary uid without home and write permission, in a folder that it can't read."""
    expected = place.put(*flow_log_objects(30, 5))
    closed = tmp_path / "closed"
    closed.mkdir(0o111)

    def become_nobody() -> None:
        os.setgroups([])
        os.setgid(987_654)
        os.setuid(987_654)

    # That user must be able to read the code, wherever this checkout is.
    needed = [PROJECT, Path(sys.prefix), Path(sys.executable).resolve()]
    if any(not parent.stat().st_mode & 0o001 for path in needed for parent in path.parents):
        pytest.skip("this checkout or this Python is out of reach for other users")
    job = subprocess.run(
        [sys.executable, "-B", str(PROJECT / "flowlog.py")],
        env={**place.environ, "HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
        cwd=closed,
        preexec_fn=become_nobody,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
        check=False,
    )
    assert job.returncode == 0, job.stderr
    assert place.received() == expected


READ_ONLY = ("unshare", "--mount", "sh", "-c",
             'mount --bind / / && mount -o remount,ro,bind / && exec "$@"', "sh")  # fmt: skip


@pytest.mark.parametrize("mode", ["simple", "remember"])
def test_a_file_system_that_is_read_only(place: Place, mode: str) -> None:
    probe = subprocess.run([*READ_ONLY, "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("mounting is not permitted here")
    touch = subprocess.run([*READ_ONLY, "touch", str(PROJECT / "x")], capture_output=True)
    assert touch.returncode, "it really is read-only"
    (item,) = flow_log_objects(1, 5)
    expected = place.put(item)
    job = subprocess.run(
        [*READ_ONLY, sys.executable, "flowlog.py"],
        env={**place.environ, "FLOWLOG_MODE": mode, "CE_DATA": event(item.key)},
        cwd=PROJECT,
        timeout=100,
        check=False,
    )
    assert job.returncode == 0
    assert place.received() == expected


# --- kill -9 -------------------------------------------------------------------------------------


def test_kill_in_the_middle_and_then_a_second_run(place: Place) -> None:
    """In simple mode nothing is stored of a killed run, so the second one sends all again."""
    items = list(flow_log_objects(600, 10))
    expected = place.put(*items)
    jobs: list[subprocess.Popen[str]] = []

    def kill_at_the_third(_: HTTPRequest) -> None:
        if len(place.ingestion.requests) == 3:
            jobs[0].kill()

    place.ingestion.script.rule(kill_at_the_third)
    jobs.append(place.start())
    jobs[0].communicate(timeout=100)
    assert jobs[0].returncode == -signal.SIGKILL
    assert 0 < place.received().total() < expected.total()
    place.ingestion.script.rule(None)
    assert place.run().code == 0
    received = place.received()
    assert received.keys() == expected.keys(), "the union is complete"
    assert max(received.values()) == 2, "what the first run had sent is there twice, no more"


def test_nothing_is_stored_in_the_bucket_by_simple_mode(place: Place) -> None:
    place.put(*flow_log_objects(3, 2))
    assert place.run().code == 0
    assert place.store.get(BUCKET, "first_logged") is None
    assert {"LIST", "GET"} == set(place.store.operations())
