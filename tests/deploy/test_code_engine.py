"""deploy/code_engine.py against a stand-in of the CLI: what it does to an account, and prints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import code_engine
from standins import ibmcloud
from tests.deploy.dry_runs import BLOCK, PAGE, page_with_dry_runs
from tests.deploy.test_plan import ENV, IMAGE
from tests.harness import NIGHTLY, PROJECT

SECRETS = ("canary-ingestion-key", "canary-key-of-the-desk")
CHANGES = re.compile("^(ce|iam) .*(create|update|delete|submit)")


class Desk:
    """A person with an ini file, a CLI and an account."""

    def __init__(self, folder: Path, capfd: Any, patch: pytest.MonkeyPatch) -> None:
        self.ini, self.state, self.root = folder / "a.ini", folder / "cloud.json", folder / "root"
        self._capfd, self._patch, self.said, self.stop_at, self.stop_by = capfd, patch, "", "", 0
        self.write(ENV, IMAGE)
        for name, value in ibmcloud.install(folder).items():
            patch.setenv(name, value)
        # The program writes its files into its own folder, so each test gets a folder.
        self.root.mkdir()
        for path in PROJECT.iterdir():
            (self.root / path.name).symlink_to(path)
        patch.chdir(self.root)
        patch.setattr(code_engine, "ROOT", self.root)
        self.pauses, pause = [], code_engine.sleep
        patch.setattr(code_engine, "sleep", lambda s: pause(0.01) or self.pauses.append(s))
        patch.setattr(code_engine.subprocess, "run", self._call)

    def _call(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """What the stand-in does, in this process."""
        assert options["stdin"] == subprocess.DEVNULL, "nobody answers the CLI's questions"
        said, code = ibmcloud.answer(command[1:])
        if self.stop_at and self.stop_at in " ".join(command):
            os.kill(os.getpid(), self.stop_by)
        out, err = ("", said) if code else (said, "")
        return subprocess.CompletedProcess(command, code, stdout=out, stderr=err)

    @property
    def cloud(self) -> Any:
        return json.loads(self.state.read_text())

    def change(self, **fields: Any) -> None:
        self.state.write_text(json.dumps({**self.cloud, **fields}))

    def write(self, env: dict[str, str], deploy: dict[str, str]) -> None:
        lines = ["[env]", *(f"{name} = {text}" for name, text in env.items())]
        lines += ["[deploy]", *(f"{name} = {text}" for name, text in deploy.items())]
        self.ini.write_text("\n".join(lines))

    def run(self, *arguments: str, answer: str = "yes") -> int:
        self.change(calls=[])
        self._patch.setattr(sys, "argv", ["code_engine.py", *arguments, "--ini", str(self.ini)])
        self._patch.setattr("builtins.input", lambda _: answer)
        before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            return code_engine.main()
        except SystemExit as stopped:
            return int(str(stopped.code))
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
            self.said = "".join(self._capfd.readouterr())
            assert not any(secret in self.said + str(self.cloud["calls"]) for secret in SECRETS)
            assert not (self.root / ".deploy").exists()

    def account(self) -> Any:
        """What exists, without its runs and which command has created the project."""
        kept = {kind: self.cloud[kind] for kind in ("projects", "profiles", "authorizations")}
        for project in kept["projects"].values():
            project["jobrun"] = {}
            for data in project["configmap"].values():
                data["data"].pop("DEPLOYED_PROJECT", None)
        return kept

    @property
    def project(self) -> Any:
        (project,) = self.cloud["projects"].values()
        return project

    def changes(self) -> list[list[str]]:
        return [call for call in self.cloud["calls"] if CHANGES.search(" ".join(call))]


@pytest.fixture
def desk(tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, capfd, monkeypatch)


def sample(steps: list[int]) -> list[int]:
    """Some of the steps by day, the first and the last among them; all of them by night."""
    return steps if NIGHTLY else [*steps[:: len(steps) // 3], steps[-1]]


def printed(text: str) -> list[list[str]]:
    """The commands that were printed, as a shell would read them."""
    lines = text.replace(" \\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("ibmcloud")]


@pytest.mark.parametrize("mode", ["follow", "simple"])
def test_a_dry_run_prints_what_a_run_runs_and_changes_nothing(desk: Desk, mode: str) -> None:
    desk.write(ENV, {**IMAGE, "mode": mode})
    for there in ("nothing", "all of it"):
        before = desk.account()
        desk.change(selected="another project")
        assert desk.run("up", "--dry-run") == 0, desk.said
        assert desk.account() == before and desk.changes() == []
        planned = printed(desk.said)
        assert desk.run("up") == 0, desk.said
        assert printed(desk.said) == desk.cloud["calls"]
        ids = {f"PROJECT_{name.upper()}": desk.project[name] for name in ("guid", "crn")}
        planned = [[ids.get(word, word) for word in words] for words in planned]
        assert planned == desk.cloud["calls"], there
        assert before == desk.account() or there == "nothing", "another `up` changes nothing"
    assert desk.run("backfill", "--dry-run") == desk.run("down", "--dry-run") == 0
    assert desk.changes() == [] and desk.project["jobrun"] == {}
    planned = printed(desk.said)
    assert desk.run("down") == 0
    assert planned == desk.cloud["calls"]


@pytest.mark.parametrize("done", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("mode", ["follow", "simple"] if NIGHTLY else ["follow"])
def test_up_that_fails_at_any_step_goes_on(desk: Desk, mode: str, done: bool) -> None:
    desk.write(ENV, {**IMAGE, "mode": mode})
    assert desk.run("up") == 0
    calls, whole = desk.cloud["calls"], desk.account()
    # An answer that gets lost matters where something was changed.
    changes = [step for step, call in enumerate(calls) if call in desk.changes()]
    for step in sample(changes if done else [*range(len(calls))]):
        fail = {"call": step, "text": "It is down.", "done": done}
        desk.change(**ibmcloud.EMPTY, fail=fail)
        # The subscription to a bucket is tried again at once.
        again = calls[step][:4] == ["ce", "subscription", "cos", "create"] and not done
        assert desk.run("up") == (0 if again else 1), (step, desk.said)
        assert again or "run the same command again" in desk.said
        desk.change(fail={})
        assert desk.run("up") == 0, (step, desk.said)
        assert desk.account() == whole, (step, calls[step])


def test_down_that_fails_at_any_step_goes_on(desk: Desk) -> None:
    assert desk.run("up") == 0
    there = desk.cloud
    assert desk.run("down") == 0
    for step in sample([*range(len(desk.cloud["calls"]))]):
        desk.change(**there, fail={"call": step, "text": "It is down."})
        assert desk.run("down") == 1, step
        desk.change(fail={})
        assert desk.run("down") == 0, (step, desk.said)
        assert not any(desk.project[kind] for kind in ibmcloud.CHECKS), step
        assert desk.cloud["profiles"] == {}


def test_down_shows_the_list_asks_and_leaves_the_rest(desk: Desk) -> None:
    assert desk.run("up") == 0
    before = desk.account()
    assert desk.run("down", answer="no") == 1
    assert desk.account() == before
    assert "ce job delete --name flowlog" in desk.said and "nothing was removed" in desk.said
    state = desk.cloud
    state["projects"]["flowlog"]["job"]["of-others"] = {"name": "of-others"}
    state["profiles"]["flowlog-flowlog-us-south"][""]["description"] = "of others"
    desk.change(**state)
    assert desk.run("down") == 0
    assert "stays: the bucket, profile" in desk.said
    assert list(desk.project["job"]) == ["of-others"] and len(desk.cloud["profiles"]) == 1
    assert desk.run("up") == 1
    assert "not made by this deployment: profile" in desk.said and desk.changes() == []
    desk.write(ENV, {**IMAGE, "name": "of-others", "project": "flowlog"})
    assert desk.run("backfill") == 1 and desk.changes() == []


def test_down_with_the_project_removes_all_of_it(desk: Desk) -> None:
    assert desk.run("up") == desk.run("down", "--project") == 0
    assert desk.cloud["projects"] == desk.cloud["profiles"] == {}
    assert desk.run("down") == 1 and "no such project" in desk.said


def test_a_right_that_does_not_apply_yet_is_waited_for_but_not_for_ever(desk: Desk) -> None:
    desk.write(ENV, {**IMAGE, "mode": "simple"})
    desk.change(applies_after=code_engine.SUBSCRIBE_TRIES - 1)
    assert desk.run("up") == 0, desk.said
    desk.change(**ibmcloud.EMPTY, applies_after=code_engine.SUBSCRIBE_TRIES)
    assert desk.run("up") == 1
    assert "The policy does not apply yet." in desk.said


def test_a_build_gets_the_files_of_the_image_alone(desk: Desk) -> None:
    (desk.root / "private.ini").write_text("[env]\nAPIKEY = canary-key-of-the-desk\n")
    desk.write(ENV, {})
    assert desk.run("up") == 0, desk.said
    files = desk.project["job"]["flowlog"]["files"]
    assert {"Dockerfile", ".dockerignore", "flowlog.py", "run/settings.py"} <= {*files}
    assert not [f for f in files if f.endswith((".ini", ".example")) or "test" in f or ".env" in f]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_no_secret_behind(desk: Desk, number: int) -> None:
    desk.stop_at, desk.stop_by = "ce secret create", number
    assert desk.run("up") == 128 + number
    assert desk.changes()[-1][:3] == ["ce", "secret", "create"]


@pytest.mark.parametrize(
    ("mode", "retries", "code", "polls"),
    [
        ("follow", "3", 0, [{"status": "running"}, {"status": "completed"}]),
        ("catch-up", "3", 1, [{}, {"status": "failed", "status_details": {"failed": "1"}}]),
        ("simple", "0", 0, [{"status": {"running": 1}}, {"status": {"succeeded": 1, "failed": 0}}]),
        ("remember", "0", 1, [{"status": {"succeeded": 0, "failed": 1}}]),
        ("follow", "3", 1, [{"metadata": {}}]),
    ],
)
def test_backfill_shows_the_log_and_ends_as_the_run_does(
    desk: Desk, mode: str, retries: str, code: int, polls: list[Any]
) -> None:
    assert desk.run("backfill") == 1 and "run `up` first" in desk.said
    desk.write(ENV, {**IMAGE, "mode": mode})
    assert desk.run("up") == 0
    desk.change(polls=polls, log="summary {}", begins_later=True)
    assert desk.run("backfill") == code
    polls = [call for call in desk.cloud["calls"] if call[:3] == ["ce", "jobrun", "get"]]
    assert len(desk.pauses) == len(polls), "one also at the end, for the last lines of the log"
    assert desk.said.count("jobrun get") == 1 and "summary {}" in desk.said
    (run,) = desk.project["jobrun"].values()
    assert (run["--memory"], run["--retrylimit"]) == (["4G"], [retries])
    (follower,) = desk.cloud["followers"]
    with contextlib.suppress(ChildProcessError):
        assert os.WTERMSIG(os.waitpid(follower, 0)[1]) == signal.SIGTERM


def test_status_and_logs(desk: Desk) -> None:
    assert desk.run("up") == 0
    assert desk.run("logs") == 1
    assert "there is no run" in desk.said
    desk.change(runs="{ data: canary-in-base64 }")
    assert desk.run("logs") == 1
    assert "is not JSON" in desk.said and "canary" not in desk.said
    runs = [{"name": name, "created_at": time} for name, time in (("new", "3"), ("old", "2"))]
    for listed in (runs, {"items": [{"metadata": run} for run in runs]}):
        desk.change(runs=listed, log="a line with canary-ingestion-key")
        assert desk.run("logs") == 0
        assert desk.cloud["calls"][-1] == ["ce", "jobrun", "logs", "--jobrun", "new"]
        assert "a line with ***" in desk.said
    assert desk.run("status") == 0
    assert '"new"' in desk.said and "ce subscription cos get" in desk.said


def test_what_is_wrong_with_the_desk(desk: Desk) -> None:
    desk.change(fail={"call": 1, "text": "Not logged in."})
    assert desk.run("up") == 1
    assert "Not logged in." in desk.said and desk.changes() == []
    desk.change(fail={"call": 3, "text": "The project that was just created was not found."})
    assert desk.run("up") == 1
    assert "no such project" in desk.said and len(desk.changes()) == 1
    desk.write({"LOGDNA_INGESTION_KEY": "canary-ingestion-key"}, {"name": "-", "colour": "red"})
    assert desk.run("up") == 2
    for said in ("COS_BUCKET is not set", "LOGDNA_ENDPOINT", "name in [deploy]", "colour"):
        assert said in desk.said


def test_it_runs_as_a_program_with_the_cli_as_a_process(desk: Desk) -> None:
    command = [sys.executable, PROJECT / "deploy/code_engine.py", "status", "--ini", desk.ini]
    done = subprocess.Popen(command, cwd=desk.root, stderr=subprocess.PIPE, text=True)
    assert "there is no such project" in done.communicate()[1] and done.returncode == 1
    done = subprocess.Popen(command, env={"PATH": ""}, stderr=subprocess.PIPE, text=True)
    assert "'ibmcloud'" in done.communicate()[1] and done.returncode == 1


def test_the_docs_have_the_dry_runs() -> None:
    assert len(BLOCK.findall(PAGE.read_text())) == 3
    assert page_with_dry_runs() == PAGE.read_text(), "python -m tests.deploy.dry_runs"
