"""The tester for a desk: what it makes of an ini file, and that it runs the real job."""

from __future__ import annotations

import configparser
import json
import os
import pty
import subprocess
import sys
import termios
from collections import Counter
from pathlib import Path

import pytest

import test_flowlog_to_logdna as tester
from bucket.state_text import CatchUp, Status
from run.settings import DESTINATIONS, read_settings
from standins.flowlogs import FlowLogObject, flow_log_objects
from tests.canary import assert_no_secret
from tests.harness import BUCKET, PROJECT, Place, Result, lines_of, without_object
from tests.test_modes import put_in_order


@pytest.fixture
def objects() -> list[FlowLogObject]:
    return list(flow_log_objects(6, 3))[::-1]


def write_ini(folder: Path, settings: dict[str, str]) -> Path:
    """An ini file with names in lower case, as people write them."""
    path = folder / "test.ini"
    lines = [f"{name.lower()} = {value}\n" for name, value in settings.items() if name != "PATH"]
    path.write_text("[env]\n" + "".join(lines))
    return path


def run(place: Place, folder: Path, *arguments: str, **settings: str) -> Result:
    ini = write_ini(folder, {**place.environ, **settings})
    done = subprocess.run(
        [sys.executable, "test_flowlog_to_logdna.py", str(ini), *arguments],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return Result(done.returncode, done.stderr, done.stdout)


def test_one_object_as_a_subscription_would(
    either: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    """It finds the newest one by itself, or takes the one that is named."""
    put_in_order(either, objects)
    either.store.put(BUCKET, "other/thing", b"x")
    found = run(either, tmp_path)
    assert found.code == 0, found.log
    assert either.received() == lines_of(objects[-1])
    named = run(either, tmp_path, "--key", objects[2].key)
    assert named.code == 0, named.log
    assert either.received() == lines_of(objects[-1], objects[2])
    assert named.summary["objects"] == 1
    assert_no_secret(either, named)


def test_all_objects(either: Place, objects: list[FlowLogObject], tmp_path: Path) -> None:
    put_in_order(either, objects)
    result = run(either, tmp_path, "--all")
    assert result.code == 0, result.log
    assert either.received() == lines_of(*objects)


@pytest.mark.parametrize("mode", ["simple", "remember", "catch-up"])
def test_what_a_person_names_is_pushed_whatever_the_mode(
    place: Place, objects: list[FlowLogObject], tmp_path: Path, mode: str
) -> None:
    """And nothing is remembered of it, except that it is no failure of a catch-up any more."""
    put_in_order(place, objects)
    finished = CatchUp(
        worker=None, status=Status.FINISHED, mark=(10**10, "z"), cutoff=10**10,
        failed_total=2, failed=(objects[2].key, "another"),
    )  # fmt: skip
    if mode == "catch-up":
        place.store.put(BUCKET, "first_logged", finished.content())
    result = run(place, tmp_path, "--key", objects[2].key, FLOWLOG_MODE=mode)
    assert result.code == 0, result.log
    assert place.received() == lines_of(objects[2])
    content = place.store.get(BUCKET, "first_logged")
    if mode == "catch-up":
        assert content and json.loads(content)["failed"] == ["another"]
    else:
        assert content is None


@pytest.mark.parametrize("mode", ["simple", "remember", "catch-up"])
def test_a_dry_run_prints_the_lines_and_changes_nothing(
    either: Place, objects: list[FlowLogObject], tmp_path: Path, mode: str
) -> None:
    put_in_order(either, objects)
    result = run(
        either, tmp_path, "--all", "--dry-run",
        FLOWLOG_MODE=mode, LOGDNA_ENDPOINT="", LOGDNA_INGESTION_KEY="", CLOUD_LOGS_ENDPOINT="",
    )  # fmt: skip
    assert result.code == 0, result.log
    shown = result.out.splitlines()
    if either.environ.get("LOG_DESTINATION") == "cloud-logs":
        shown = [without_object(text) for text in shown]
    assert Counter(shown) == lines_of(*objects)
    assert either.ingestion.requests == []
    assert set(either.store.operations()) == {"LIST", "GET"}


def test_a_bar_on_a_terminal(place: Place, objects: list[FlowLogObject], tmp_path: Path) -> None:
    put_in_order(place, objects)
    ini = write_ini(tmp_path, place.environ)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    job = subprocess.Popen(
        [sys.executable, "test_flowlog_to_logdna.py", str(ini), "--all"],
        cwd=PROJECT, env={"PATH": os.environ["PATH"], "TERM": "xterm"}, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:
        pass  # what Linux answers once the other side is closed
    os.close(ours)
    assert job.wait(100) == 0
    assert b"6/6" in shown


def test_settings_are_checked_as_the_job_checks_them(place: Place, tmp_path: Path) -> None:
    result = run(place, tmp_path, COS_BUCKET="", APIKEY="")
    assert result.code == 2
    assert "COS_BUCKET" in result.log and "APIKEY" in result.log
    assert "Traceback" not in result.log


def test_an_empty_bucket_is_said(place: Place, tmp_path: Path) -> None:
    result = run(place, tmp_path)
    assert result.code == 2
    assert "holds no flow log" in result.log


def test_endpoints_that_a_desk_can_not_reach_are_swapped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    inside = {
        "COS_ENDPOINT": "s3.direct.us-south.cloud-object-storage.appdomain.cloud",
        "IAM_ENDPOINT": "https://private.iam.cloud.ibm.com",
        "CLOUD_LOGS_ENDPOINT": "https://guid.ingress.private.us-south.logs.cloud.ibm.com",
        "APIKEY": "secret-text",
    }
    outside = tester.reachable_from_desk(inside)
    assert outside == {
        "COS_ENDPOINT": "s3.us-south.cloud-object-storage.appdomain.cloud",
        "IAM_ENDPOINT": "https://iam.cloud.ibm.com",
        "CLOUD_LOGS_ENDPOINT": "https://guid.ingress.us-south.logs.cloud.ibm.com",
        "APIKEY": "secret-text",
    }
    said = capsys.readouterr().err
    assert said.count("can't be reached from a desk") == 3
    assert "secret-text" not in said
    assert tester.reachable_from_desk(outside) == outside


@pytest.mark.parametrize("destination", DESTINATIONS)
def test_the_example_needs_nothing_but_keys(destination: str) -> None:
    """Uncommenting what belongs to a destination is all there is to do; every name is known."""
    ini = configparser.ConfigParser(interpolation=None)
    text = (PROJECT / "test.ini.example").read_text()
    ini.read_string(text)
    environ = {name.upper(): value for name, value in ini["env"].items()}
    environ["LOG_DESTINATION"] = destination
    if destination == "cloud-logs":
        ini.read_string(text.replace("\n# CLOUD_LOGS_", "\nCLOUD_LOGS_"))
        environ |= {name.upper(): value for name, value in ini["env"].items()}
        environ = {name: value for name, value in environ.items() if "LOGDNA" not in name}
        environ["LOG_DESTINATION"] = destination
    if destination == "otlp":
        ini.read_string(text.replace("\n# OTEL_", "\nOTEL_"))
        environ |= {name.upper(): value for name, value in ini["env"].items()}
        environ["LOG_DESTINATION"] = destination
    assert read_settings(environ)
