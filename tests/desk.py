"""A desk from which deploy/code-engine.sh is run, against a stand-in of the `ibmcloud` CLI."""

from __future__ import annotations

import copy
import os
import re
import shlex
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from standins.ibmcloud import Account, command_of, mutates
from tests.harness import PROJECT, SECRETS

SCRIPT = PROJECT / "deploy" / "code-engine.sh"
COS_GUID = "11111111-2222-3333-4444-555555555555"
LOGS_GUID = "66666666-7777-8888-9999-aaaaaaaaaaaa"
CRN = f"crn:v1:bluemix:public:cloud-object-storage:global:a/{'7' * 32}:{COS_GUID}::"

ENV = {
    "COS_BUCKET": "my-flow-logs",
    "COS_ENDPOINT": "s3.us-south.cloud-object-storage.appdomain.cloud",
    "COS_CRN": CRN,
    "LOGDNA_INGESTION_KEY": SECRETS["LOGDNA_INGESTION_KEY"],
    "LOGDNA_ENDPOINT": "https://logs.mezmo.com",
}
CLOUD_LOGS = {
    "LOGDNA_INGESTION_KEY": "",
    "LOGDNA_ENDPOINT": "",
    "LOG_DESTINATION": "cloud-logs",
    "CLOUD_LOGS_ENDPOINT": f"https://{LOGS_GUID}.ingress.us-south.logs.cloud.ibm.com",
}
DEPLOY = {"image": "ghcr.io/someone/flowlog:1.0.0"}
SUMMARY = 'summary {"mode":"simple","objects":3,"failed":[],"version":"1.0.0"}'


@dataclass(frozen=True, slots=True)
class Done:
    """What one run of the script left behind."""

    code: int
    text: str
    calls: list[list[str]]

    @property
    def changes(self) -> list[str]:
        """The commands that changed something in the account, notes of the record left out."""
        return [
            command_of(call)
            for call in self.calls
            if mutates(call) and "flowlog-record" not in call
        ]

    def call(self, command: str) -> list[str]:
        """The one call of this command that is no note of the record."""
        (call,) = (
            each
            for each in self.calls
            if command_of(each) == command and "flowlog-record" not in each
        )
        return call


def heed_signals() -> None:
    """Signals that were ignored when a shell began, as by `nohup` or `&`, it can't ever hear."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@dataclass(slots=True)
class Desk:
    """A person's machine: an ini file, and the CLI of an account."""

    folder: Path
    account: Account
    env: dict[str, str] = field(default_factory=lambda: dict(ENV))
    deploy: dict[str, str] = field(default_factory=lambda: dict(DEPLOY))
    shell: tuple[str, ...] = ("bash",)
    shown: list[Done] = field(default_factory=list)

    @property
    def ini(self) -> Path:
        return self.folder / "my.ini"

    def write_ini(self) -> None:
        sections = {"env": self.env, "deploy": self.deploy}
        self.ini.write_text(
            "".join(
                f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
                for name, values in sections.items()
            )
        )

    def run(self, *arguments: str, stdin: str = "") -> Done:
        self.write_ini()
        return self.run_as_it_is(*arguments, "--ini", str(self.ini), stdin=stdin)

    def run_as_it_is(self, *arguments: str, stdin: str = "", **environ: str) -> Done:
        """Run with the ini file that is there. No file of the script may be left behind."""
        files = self.folder / "tmp"
        files.mkdir(exist_ok=True)
        self.account.calls()
        process = subprocess.run(
            [*self.shell, str(SCRIPT), *arguments],
            env={
                "PATH": f"{self.account.program.parent}:{os.environ['PATH']}",
                "TMPDIR": str(files),
                "FLOWLOG_POLL_SECONDS": "0",
                **environ,
            },
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            preexec_fn=heed_signals,
        )
        assert not list(files.iterdir()), "files were left behind"
        self.shown.append(Done(process.returncode, process.stdout, self.account.calls()))
        return self.shown[-1]

    def command(self, *arguments: str) -> str:
        """How the script tells a person to call it with this ini file."""
        return shlex.join([str(SCRIPT), *arguments, "--ini", str(self.ini)])

    def intercept(self, pattern: str, commands: str) -> None:
        """Have the CLI do this in the shell, before any call whose arguments match a glob."""
        program = self.account.program
        first = program.read_text().replace(
            "\nexec", f'\ncase "$*" in {pattern}) {commands};; esac\nexec', 1
        )
        program.write_text(first)

    def fail_once(self, pattern: str, text: str) -> None:
        """Have the first call whose arguments match a glob fail with a text."""
        mark = self.folder / "failed"
        self.intercept(pattern, f'[ -e {mark} ] || {{ >{mark}; echo "{text}" >&2; exit 1; }}')

    def interrupt(self, pattern: str, number: str, then: str) -> None:
        """Have a call whose arguments match a glob send the script a signal, and go on so."""
        pid = self.folder / "pid"
        self.shell = ("bash", "-c", f'echo $$ >{pid}; exec bash "$@"', "bash")
        self.intercept(pattern, f"kill -{number} $(cat {pid}); {then}")

    def assert_no_secret_was_shown(self) -> None:
        """Neither output nor any argument holds a secret; all the test's secrets start so."""
        for done in self.shown:
            assert "canary" not in done.text
            assert not [call for call in done.calls if "canary" in " ".join(call)]

    def change(self, *path: str, to: Any = None) -> None:
        """Change a thing of the project behind the script's back, or remove it."""
        state = self.account.state
        things = state["projects"]["flowlog"]
        for name in path[:-1]:
            things = things[name]
        if to is None:
            del things[path[-1]]
        else:
            things[path[-1]] = to
        self.account.state = state

    def up(self, *arguments: str) -> Done:
        done = self.run("up", *arguments)
        assert done.code == 0, done.text
        return done

    def down(self, *arguments: str) -> Done:
        done = self.run("down", "--yes", *arguments)
        assert done.code == 0, done.text
        return done

    @property
    def project(self) -> dict[str, Any]:
        project: dict[str, Any] = self.account.state["projects"]["flowlog"]
        return project


def settled(state: dict[str, Any]) -> dict[str, Any]:
    """The state without what differs each time: IDs, and the key that was made."""
    text = repr({**state, "mutations": 0, "fail": None})
    marks: dict[str, str] = {}
    pattern = (
        r"canary-made-key-[0-9a-f-]{36}|(?<![0-9a-f])[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    )
    text = re.sub(pattern, lambda found: marks.setdefault(found[0], f"id{len(marks)}"), text)
    result: dict[str, Any] = eval(text)  # the text was made by repr, two lines above
    return result


def normal(state: dict[str, Any]) -> dict[str, Any]:
    """Independent of the order in which things were noted; an empty value counts as unset."""
    for project in state["projects"].values():
        for kind in ("secret", "configmap"):
            for name, data in project[kind].items():
                project[kind][name] = {key: value for key, value in data.items() if value}
    return {**settled(state), "projects": state["projects"]}


def deployed_things(state: dict[str, Any]) -> dict[str, Any]:
    """What counts of a state: neither the notes of `up`, nor IDs, nor what is empty."""
    state = copy.deepcopy(state)
    state["projects"]["flowlog"]["configmap"].pop("flowlog-record")
    for each in state["service_ids"].values():
        each["policies"] = sorted(map(str, each["policies"].values()))
    return normal(settled(state))


CHANGES: list[tuple[dict[str, str], dict[str, str], list[str]]] = [
    ({"LOGDNA_INGESTION_KEY": "canary-new"}, {}, ["ce secret update"]),
    ({"LOG": "DEBUG"}, {}, ["ce configmap update"]),
    ({"LOGDNA_ENDPOINT": "", "LOGDNA_REGION": "us-south"}, {}, ["ce configmap update"]),
    ({}, {"memory": "0.5G", "cpu": "0.25"}, ["ce job update"]),
    ({}, {"image": "ghcr.io/someone/flowlog:1.0.1"}, ["ce job update"]),
    ({}, {"registry_secret": "registry"}, ["ce job update"]),
    (
        {"FLOWLOG_PREFIX": "flows/"},
        {},
        ["ce configmap update", "ce subscription cos delete", "ce subscription cos create"],
    ),
    (
        {"FLOWLOG_MODE": "remember"},
        {},
        ["iam service-policy-delete", "iam service-policy-create", "ce configmap update"],
    ),
    ({"APIKEY": "canary-own"}, {}, ["ce secret update"]),
    (
        {
            "APIKEY": "",
            "COS_HMAC_ACCESS_KEY_ID": "canary-id",
            "COS_HMAC_SECRET_ACCESS_KEY": "canary-secret",
        },
        {},
        ["ce secret update"],
    ),
    (
        {"COS_CRN": CRN.replace(COS_GUID, LOGS_GUID)},
        {},
        [
            "iam authorization-policy-create",
            "iam service-policy-delete",
            "iam service-policy-create",
            "ce configmap update",
            "iam authorization-policy-delete",
        ],
    ),
    (
        CLOUD_LOGS,
        {},
        [
            "iam service-policy-delete",
            "iam service-policy-create",
            "iam service-policy-create",
            "ce secret update",
            "ce configmap update",
        ],
    ),
]
ONE_CHANGE = pytest.mark.parametrize(
    ("env", "deploy", "expected"), CHANGES, ids=[str(i) for i in range(len(CHANGES))]
)
