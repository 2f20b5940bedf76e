"""deploy/code_engine.py against a stand-in of the CLI: what it does to an account, and says."""

from __future__ import annotations

import fcntl
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import code_engine
from standins import ibmcloud
from tests.deploy.dry_runs import BLOCK, PAGE, page_with_dry_runs
from tests.deploy.test_plan import ENV, IMAGE
from tests.harness import NIGHTLY, PROJECT

SECRETS = ("canary-ingestion-key", "canary-key-of-the-desk")
READS = ("get", "list", "logs", "target", "select")


CALL = code_engine.CLI._call


def answered(words: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """What the CLI's stand-in does, in this process."""
    said, code = ibmcloud.answer([*words])
    out, err = ("", said) if code else (said, "")
    return subprocess.CompletedProcess(words, code, stdout=out, stderr=err)


class Desk:
    """A person with an ini file, a CLI and an account."""

    def __init__(self, folder: Path, capsys: Any, patch: pytest.MonkeyPatch) -> None:
        self.ini, self.state, self._capsys, self._patch = (
            folder / "test.ini", folder / "cloud.json", capsys, patch,
        )  # fmt: skip
        self.write(env=ENV, deploy=IMAGE)
        self.cloud = {"calls": [], "projects": {}, "profiles": {}, "authorizations": []}
        program = folder / "bin" / "ibmcloud"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -m standins.ibmcloud "$@"\n')
        program.chmod(0o755)
        patch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        patch.setenv("CLOUD", str(self.state))
        patch.setattr(code_engine, "POLL_SECONDS", 0.01)
        patch.chdir(PROJECT)
        # A process for each call is slow, so only some tests `start_processes`.
        patch.setattr(code_engine.CLI, "_call", lambda _, words: answered(words))
        self.said = ""

    @property
    def cloud(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.state.read_text())
        return state

    @cloud.setter
    def cloud(self, state: dict[str, Any]) -> None:
        self.state.write_text(json.dumps(state))

    def start_processes(self) -> None:
        self._patch.setattr(code_engine.CLI, "_call", CALL)

    def change(self, **fields: Any) -> None:
        self.cloud = {**self.cloud, **fields}

    def write(self, env: dict[str, str], deploy: dict[str, str]) -> None:
        sections = (("env", env), ("deploy", deploy))
        lines = [
            f"[{n}]\n" + "".join(f"{k} = {v}\n" for k, v in each.items()) for n, each in sections
        ]
        self.ini.write_text("\n".join(lines))

    def run(self, *arguments: str, answer: str = "yes") -> int:
        self.change(calls=[])
        self._patch.setattr(sys, "argv", ["code_engine.py", *arguments, "--ini", str(self.ini)])
        self._patch.setattr("builtins.input", lambda _: answer)
        before = signal.getsignal(signal.SIGTERM)
        try:
            return code_engine.main()
        finally:
            signal.signal(signal.SIGTERM, before)
            out, err = self._capsys.readouterr()
            self.said = out + err
            assert not any(secret in self.said + str(self.cloud["calls"]) for secret in SECRETS)
            assert not (PROJECT / ".deploy").exists()

    def account(self) -> Any:
        """What is there, without what is different each time."""
        text = json.dumps({k: v for k, v in self.cloud.items() if k not in ("calls", "fail")})
        ids = {each: f"ID{n}" for n, each in enumerate(dict.fromkeys(re.findall(
            r"[0-9a-f]{8}-[0-9a-f-]{27}", text)))}  # fmt: skip
        for each, name in ids.items():
            text = text.replace(each, name)
        return json.loads(text)

    @property
    def project(self) -> dict[str, Any]:
        (project,) = self.cloud["projects"].values()
        assert isinstance(project, dict)
        return project

    def changes(self) -> list[list[str]]:
        calls = self.cloud["calls"]
        return [call for call in calls if not {*call[:4]} & {*READS} and "--output" not in call]


@pytest.fixture
def desk(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Desk]:
    # One at a time: the program has one folder for its files, that of the project.
    with (tmp_path_factory.getbasetemp().parent / "deploy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Desk(tmp_path, capsys, monkeypatch)


def sample(steps: list[int]) -> list[int]:
    """Some of the steps by day, the first and the last among them; all of them by night."""
    last = len(steps) - 1
    return steps if NIGHTLY else [steps[0], steps[last // 3], steps[2 * last // 3], steps[last]]


def printed(text: str) -> list[list[str]]:
    """The commands that were printed, as a shell would read them."""
    lines = text.replace(" \\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("ibmcloud")]


def test_up_from_nothing_then_again(desk: Desk) -> None:
    desk.start_processes()
    assert desk.run("up") == 0, desk.said
    project, (profile,) = desk.project, desk.cloud["profiles"].values()
    assert {kind: list(project[kind]) for kind in ("job", "cron", "cos")} == {
        "job": ["flowlog"], "cron": ["flowlog"], "cos": [],
    }  # fmt: skip
    secret = project["secret"]["flowlog-secret"]["data"]
    assert secret == {"LOGDNA_INGESTION_KEY": ENV["LOGDNA_INGESTION_KEY"]}
    assert (len(profile["policies"]), len(profile["links"])) == (1, 1)
    assert desk.cloud["authorizations"] == []
    before = desk.account()
    assert desk.run("up") == 0, desk.said
    after = desk.account()
    for state in (before, after):
        for kind in ("--build-clear", "--registry-secret-clear"):
            state["projects"]["flowlog"]["job"]["flowlog"].pop(kind, None)
    assert before == after


@pytest.mark.parametrize("mode", ["follow", "simple"])
def test_a_dry_run_prints_what_a_run_runs_and_changes_nothing(desk: Desk, mode: str) -> None:
    desk.write(ENV, {**IMAGE, "mode": mode})
    for there in ("nothing", "all of it"):
        before = desk.account()
        assert desk.run("up", "--dry-run") == 0, desk.said
        assert desk.account() == before
        assert desk.changes() == []
        planned = printed(desk.said)
        assert desk.run("up") == 0, desk.said
        assert printed(desk.said) == desk.cloud["calls"]
        if there == "nothing":
            ids = desk.project
            planned = json.loads(
                json.dumps(planned)
                .replace("PROJECT_GUID", ids["guid"])
                .replace("PROJECT_CRN", ids["crn"])
            )
        assert planned == desk.cloud["calls"], there
    assert desk.run("down", "--dry-run") == 0
    assert desk.changes() == []
    planned = printed(desk.said)
    assert desk.run("down", "--yes") == 0
    assert planned == desk.cloud["calls"]


@pytest.mark.parametrize("done", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("mode", ["follow", "simple"] if NIGHTLY else ["follow"])
def test_up_that_fails_at_any_step_goes_on(desk: Desk, mode: str, done: bool) -> None:
    desk.write(ENV, {**IMAGE, "mode": mode})
    assert desk.run("up") == 0
    calls, whole = desk.cloud["calls"], desk.account()
    whole["projects"]["flowlog"]["configmap"]["flowlog-config"]["data"].pop("DEPLOYED_PROJECT")
    # An answer that gets lost matters where something was changed.
    changes = [step for step, call in enumerate(calls) if call in desk.changes()]
    for step in sample(changes if done else [*range(len(calls))]):
        desk.change(projects={}, profiles={}, authorizations=[])
        desk.change(fail={"call": step, "text": "The service is down.", "done": done})
        # The subscription to a bucket is tried again at once.
        lasts = "cos" not in calls[step][:3]
        assert desk.run("up") == (1 if lasts else 0), (step, desk.said)
        if lasts:
            assert "The service is down." in desk.said and "same command again" in desk.said
        desk.change(fail={})
        assert desk.run("up") == 0, (step, desk.said)
        account = desk.account()
        account["projects"]["flowlog"]["configmap"]["flowlog-config"]["data"].pop(
            "DEPLOYED_PROJECT", None
        )
        for kind in ("--build-clear", "--registry-secret-clear"):
            account["projects"]["flowlog"]["job"]["flowlog"].pop(kind, None)
        assert account == whole, (step, calls[step])


def test_down_that_fails_at_any_step_goes_on(desk: Desk) -> None:
    assert desk.run("up") == 0
    there = desk.cloud
    assert desk.run("down") == 0
    for step in sample([*range(len(desk.cloud["calls"]))]):
        desk.cloud = {**there, "fail": {"call": step, "text": "The service is down."}}
        assert desk.run("down") == 1, step
        desk.change(fail={})
        assert desk.run("down") == 0, (step, desk.said)
        (project,) = desk.cloud["projects"].values()
        assert not any(project[kind] for kind in ("job", "cron", "secret", "configmap")), step
        assert desk.cloud["profiles"] == {}


def test_down_shows_the_list_asks_and_leaves_the_rest(desk: Desk) -> None:
    assert desk.run("up") == 0
    before = desk.account()
    assert desk.run("down", answer="no") == 1
    assert desk.account() == before
    assert "ce job delete --name flowlog" in desk.said
    assert "stays: bucket logs; project flowlog" in desk.said
    state = desk.cloud
    state["projects"]["flowlog"]["job"]["of-someone-else"] = {"name": "of-someone-else"}
    desk.cloud = state
    assert desk.run("down") == 0
    assert list(desk.project["job"]) == ["of-someone-else"]
    assert desk.run("down") == 0
    assert "nothing of this deployment" in desk.said


def test_down_with_the_project_only_where_up_made_it(desk: Desk) -> None:
    assert desk.run("up") == 0
    assert desk.run("down", "--project") == 0
    assert desk.cloud["projects"] == {} and desk.cloud["profiles"] == {}
    assert desk.run("down") == 0, "there is no project, and nothing to remove"


def test_a_right_that_does_not_apply_yet_is_waited_for_but_not_for_ever(desk: Desk) -> None:
    desk.write(ENV, {**IMAGE, "mode": "simple"})
    desk.change(applies_after=code_engine.APPLY_TRIES - 1)
    assert desk.run("up") == 0, desk.said
    desk.change(projects={}, profiles={}, authorizations=[], applies_after=code_engine.APPLY_TRIES)
    assert desk.run("up") == 1
    assert "The policy does not apply yet." in desk.said


def test_a_build_gets_the_files_of_the_image_alone(desk: Desk) -> None:
    desk.write(ENV, {"source": "."})
    assert desk.run("up") == 0, desk.said
    files = desk.project["job"]["flowlog"]["files"]
    assert {"Dockerfile", ".dockerignore", "flowlog.py", "run/settings.py"} <= {*files}
    assert not [f for f in files if f.endswith((".ini", ".pyc", ".example")) or "test" in f]


def test_what_others_made_is_refused(desk: Desk) -> None:
    assert desk.run("up") == 0
    state = desk.cloud
    del state["projects"]["flowlog"]["configmap"]["flowlog-config"]
    desk.cloud = state
    assert desk.run("up") == 1
    assert "not made by this deployment" in desk.said and desk.changes() == []


@pytest.mark.parametrize(
    ("polls", "code"),
    [
        ([{"status": "running"}, {"status": "completed"}], 0),
        ([{}, {"status": "failed", "status_details": {"failed": "1"}}], 1),
        ([{"status": {"running": 1}}, {"status": {"succeeded": 1}}], 0),
        ([{"status": {"succeeded": 0, "failed": 1}}], 1),
        ([{"metadata": {}}], 1),
    ],
)
def test_backfill_ends_as_the_run_does(desk: Desk, polls: list[Any], code: int) -> None:
    assert desk.run("backfill") == 1
    assert "run `up` first" in desk.said
    assert desk.run("up") == 0
    desk.change(polls=polls, log="summary {}")
    assert desk.run("backfill") == code
    ((_, run),) = desk.project["jobrun"].items()
    assert (run["--memory"], run["--retrylimit"]) == (["4G"], ["3"])


def test_a_backfill_of_a_mode_without_state_is_an_array_that_is_not_repeated(desk: Desk) -> None:
    desk.write(ENV, {**IMAGE, "mode": "simple", "array_size": "4"})
    assert desk.run("up") == 0
    desk.change(polls=[{"status": {"succeeded": 3}}, {"status": {"succeeded": 3, "failed": 1}}])
    assert desk.run("backfill") == 1
    assert "3 of 4 instances succeeded" in desk.said
    ((_, run),) = desk.project["jobrun"].items()
    assert (run["--array-size"], run["--retrylimit"]) == (["4"], ["0"])


def test_status_and_logs(desk: Desk) -> None:
    assert desk.run("status") == 0
    assert desk.run("logs") == 1
    assert desk.run("up") == 0
    assert desk.run("logs") == 1
    assert "no run" in desk.said
    assert desk.run("backfill") == 0
    assert desk.run("status") == 0
    assert "job        there" in desk.said and "cos        -" in desk.said
    desk.change(log="a line with canary-ingestion-key")
    assert desk.run("logs") == 0
    assert "a line with ***" in desk.said


def test_what_is_wrong_with_the_desk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.change(fail={"call": 0, "text": "Not logged in."})
    assert desk.run("up") == 1
    assert "`ibmcloud login`" in desk.said
    monkeypatch.setenv("PATH", "")
    desk.start_processes()
    assert desk.run("up") == 1
    assert "no ibmcloud command" in desk.said
    desk.write({}, {})
    assert desk.run("up") == 2
    assert "COS_BUCKET is not set" in desk.said


def test_it_starts_as_a_program() -> None:
    command = [sys.executable, "deploy/code_engine.py", "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and "--dry-run" in done.stdout


def test_the_docs_have_the_dry_runs() -> None:
    assert [found[1] for found in BLOCK.findall(PAGE.read_text())] == [
        "mezmo",
        "cloud-logs",
        "events",
    ]
    assert page_with_dry_runs() == PAGE.read_text(), "python -m tests.deploy.dry_runs"
