"""Stand-in of the `ibmcloud` CLI: strict about commands and flags, and keeps an account's state.

    CLOUD=state.json python -m standins.ibmcloud ce job get --name flowlog

It knows what deploy/ runs, with the syntax and the words of IBM's documentation. Where those do not
show what the CLI prints, it prints the least that is needed. The state holds every call, and may
say which call is to fail: `{"fail": {"call": 3, "text": "...", "done": false}}`; `done` means that
only the answer is lost.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

State = dict[str, Any]
Flags = dict[str, list[str]]
Run = Callable[[State, str, Flags, list[str]], Any]

BARE = ("--force", "--follow", "--build-clear", "--registry-secret-clear")
EMPTY = {"calls": [], "projects": {}, "profiles": {}, "authorizations": []}


class Failed(Exception):
    """What the CLI says as it fails."""


def selected(state: State) -> State:
    """The selected project."""
    if state.get("selected") not in state["projects"]:
        raise Failed("No project is selected. Use 'ibmcloud ce project select'.")
    return state["projects"][state["selected"]]  # type: ignore[no-any-return]


def id_of(thing: Any) -> str:
    """An ID that looks like one of IBM Cloud; the same thing has the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(thing)))


def project(state: State, command: str, flags: Flags, _: list[str]) -> Any:
    """Create, get, select or delete a project."""
    projects, (name,) = state["projects"], flags["--name"]
    if command.endswith("create"):
        if name in projects:
            raise Failed(f"A project named '{name}' already exists.")
        guid = id_of(name)
        crn = f"crn:v1:bluemix:public:codeengine:us-south:a/1:{guid}::"
        kinds: State = {kind: {} for kind in (*CHECKS, "jobrun")}
        projects[name] = {"guid": guid, "crn": crn, **kinds}
    if name not in projects:
        raise Failed(f"A project with the name '{name}' was not found.")
    if command.endswith("get"):
        return {"guid": projects[name]["guid"], "crn": projects[name]["crn"]}
    if command.endswith("delete"):
        del projects[name]
    state["selected"] = name
    return "OK"


def in_project(state: State, command: str, flags: Flags, _: list[str]) -> Any:
    """Create, update, get or delete a thing of a project."""
    kind, verb = command.split()[-2:]
    things, (name,) = selected(state)[kind], flags.pop("--name")
    if verb != "create" and name not in things:
        raise Failed(f"The {kind} '{name}' was not found.")
    if verb == "create" and name in things:
        raise Failed(f"A {kind} named '{name}' already exists.")
    if verb in ("get", "delete"):
        return things[name] if verb == "get" else things.pop(name) and "OK"
    things[name] = {"name": name, **CHECKS[kind](state, flags, things.get(name, {}))}
    return "OK"


def data(_: State, flags: Flags, before: State) -> State:
    """A secret or a configmap; an update keeps the keys that it does not name."""
    pairs = list(flags.get("--from-literal", []))
    for file in map(Path, flags.get("--from-env-file", [])):
        if [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] != [0o600, 0o700]:
            raise Failed(f"others can read {file}")
        pairs += file.read_text().splitlines()
    values = {**before.get("data", {}), **dict(pair.split("=", 1) for pair in pairs)}
    for key in flags.get("--rm", []):
        del values[key]
    return {"data": values}


def job(state: State, flags: Flags, before: State) -> State:
    """A job, with the files it is built from; an update keeps what it does not name."""
    flat: State = {name: values[-1] for name, values in flags.items()}
    for kind in ("configmap", "secret"):
        if flat.get(f"--env-from-{kind}", "-") not in ("-", *selected(state)[kind]):
            raise Failed(f"There is no {kind} of this name.")
    if ("--image" in flat) == ("--build-source" in flat):
        raise Failed("Specify either --image or --build-source.")
    if "--build-source" in flat:
        source = Path(flat["--build-source"])
        files = [str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()]
        flat["files"] = sorted(files)
    kept = before
    for flag in ("--build-clear", "--registry-secret-clear"):
        if flat.pop(flag, None):
            gone = flag.removesuffix("clear")
            kept = {name: kept[name] for name in kept if not f"{name}-".startswith(gone)}
    return {**kept, **flat}


def subscription(state: State, flags: Flags, before: State) -> State:
    """A subscription, for which the job must exist, and for a bucket's the right to hear."""
    flat: State = {name: values[-1] for name, values in flags.items()}
    if flat["--destination"] not in selected(state)["job"]:
        raise Failed("The job of this destination was not found.")
    if "--bucket" in flat:
        if selected(state)["guid"] not in json.dumps(state["authorizations"]):
            raise Failed("The project is not authorized: Notifications Manager is needed.")
        if state.get("applies_after", 0) > 0:
            state["applies_after"] -= 1
            raise Failed("The policy does not apply yet.")
    return {**before, **flat}


CHECKS: dict[str, Callable[[State, Flags, State], State]] = {
    "secret": data, "configmap": data, "job": job, "cron": subscription, "cos": subscription,
}  # fmt: skip


def policy(flags: Flags, roles: str) -> State:
    """A policy as IAM's API has it."""
    values = [{"name": flag, "value": value[0]} for flag, value in flags.items()]
    named = [{"display_name": role} for role in roles.split(",")]
    return {"id": id_of([values, named]), "roles": named, "resources": [{"attributes": values}]}


def profile(state: State, command: str, flags: Flags, words: list[str]) -> Any:
    """What the commands about trusted profiles do; the first word is the profile's name."""
    profiles, name, verb = state["profiles"], words[0], command.removeprefix("iam trusted-profile")
    if verb == "-create":
        if name in profiles:
            raise Failed(f"Trusted profile {name} already exists.")
        about = {"name": name, "description": flags["--description"][0]}
        profiles[name] = {"": about, "-links": [], "-policies": []}
    if name not in profiles:
        raise Failed(f"Trusted profile {name} was not found.")
    one = profiles[name]
    if verb == "-delete":
        del profiles[name]
    elif verb == "-link-create":
        one["-links"].append({"link": {flag: value[0] for flag, value in flags.items()}})
    elif verb == "-policy-create":
        one["-policies"].append(policy(flags, flags.pop("--roles")[0]))
    elif verb == "-policy-delete":
        one["-policies"] = [each for each in one["-policies"] if each["id"] != words[1]]
    return one.get(verb, "OK")


def authorize(state: State, _: str, flags: Flags, words: list[str]) -> str:
    """`codeengine cloud-object-storage ROLE`."""
    flags["service"] = [words[1]]
    state["authorizations"].append(policy(flags, words[2]))
    return "OK"


def submit(state: State, _: str, flags: Flags, __: list[str]) -> str:
    """A run."""
    selected(state)["jobrun"][flags["--name"][0]] = flags
    return "OK"


def run_state(state: State, *_: Any) -> Any:
    """The `polls` of the state, one after the other, the last one stays; once its log was read."""
    polls = state.setdefault("polls", [{"status": "completed"}])
    if not state.get("followers"):
        return {"status": "running"}
    return polls.pop(0) if len(polls) > 1 else polls[0]


def logs(state: State, _: str, flags: Flags, __: list[str]) -> str:
    """The log of a run. Following it fails at first if the state says that it `begins_later`."""
    if state.pop("begins_later", False):
        raise Failed("The instance has not started.")
    if "--follow" in flags:
        state.setdefault("followers", []).append(os.getpid())
    return str(state.get("log", "summary {}"))


STORE = "--name --from-literal --from-env-file --rm"
JOB = (
    "--name --image --build-source --build-strategy --build-clear --registry-secret"
    " --registry-secret-clear --env-from-configmap --env-from-secret"
    " --trusted-profiles-enabled --cpu --memory --retrylimit --maxexecutiontime"
)
CRON = "--name --destination-type --destination --schedule"
COS = "--name --destination-type --destination --bucket --event-type --prefix --wait-timeout"
POLICY = "--roles --service-name --service-instance --resource-type --resource"
LINK = "--name --cr-type --link-crn --link-component-type --link-component-name"
RIGHT = "--source-service-instance-id --target-service-instance-id"
COMMANDS: dict[str, tuple[Run, str]] = {
    "target": (lambda *_: "OK", "-r -g"),
    "ce project create": (project, "--name"),
    "ce project get": (project, "--name --output"),
    "ce project select": (project, "--name"),
    "ce project delete": (project, "--name --force"),
    "ce jobrun submit": (submit, "--job --cpu --memory --maxexecutiontime --retrylimit --name"),
    "ce jobrun get": (run_state, "--name --output"),
    "ce jobrun list": (lambda state, *_: state.get("runs"), "--job --output"),
    "ce jobrun logs": (logs, "--jobrun --follow"),
    "iam trusted-profile": (profile, "--output"),
    "iam trusted-profile-links": (profile, "--output"),
    "iam trusted-profile-policies": (profile, "--output"),
    "iam trusted-profile-create": (profile, "--description"),
    "iam trusted-profile-delete": (profile, "--force"),
    "iam trusted-profile-link-create": (profile, LINK),
    "iam trusted-profile-policy-create": (profile, POLICY),
    "iam trusted-profile-policy-delete": (profile, "--force"),
    "iam authorization-policies": (lambda state, *_: state["authorizations"], "--output"),
    "iam authorization-policy-create": (authorize, RIGHT),
}
for _kind, _flags in (
    ("secret", STORE), ("configmap", STORE), ("job", JOB),
    ("subscription cron", CRON), ("subscription cos", COS),
):  # fmt: skip
    COMMANDS |= {f"ce {_kind} {verb}": (in_project, _flags) for verb in ("create", "update")}
    COMMANDS[f"ce {_kind} get"] = (in_project, "--name --output")
    COMMANDS[f"ce {_kind} delete"] = (in_project, "--name --force")


def call(state: State, argv: list[str]) -> str:
    """What one call prints. Raises Failed, also for what the CLI does not know."""
    fail = state.get("fail") or {"call": -1}
    fails = len(state["calls"]) == fail["call"]
    state["calls"].append(argv)
    if fails and not fail.get("done"):
        raise Failed(fail["text"])
    command = " ".join(argv)
    name = max(each for each in COMMANDS if f"{command} ".startswith(f"{each} "))
    run, known = COMMANDS[name]
    flags: Flags = {}
    words: list[str] = []
    rest = iter(argv[len(name.split()) :])
    for word in rest:
        flag, equals, value = word.partition("=")
        if not flag.startswith("-"):
            words.append(word)
        elif flag not in known.split():
            raise Failed(f"Incorrect Usage: flag provided but not defined: {flag}")
        else:
            given = "true" if flag in BARE else value if equals else next(rest)
            flags.setdefault(flag, []).append(given)
    said = run(state, name, flags, words)
    if fails:
        raise Failed(fail["text"])
    return said if isinstance(said, str) else json.dumps(said, indent=2)


def answer(argv: list[str]) -> tuple[str, int]:
    """What one call prints, and its exit code; others wait, since a log is followed meanwhile."""
    with Path(os.environ["CLOUD"]).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state: State = json.load(file)
        try:
            if os.environ["IBMCLOUD_TRACE"] != "false":
                raise Failed("The trace shows what is sent.")
            said, code = "Getting it [as you] ...\n" * (argv[0] == "iam") + call(state, argv), 0
        except Failed as failed:
            said, code = f"FAILED\n{failed}", 1
        Path(file.name).write_text(json.dumps(state))
    return said, code


def install(folder: Path) -> dict[str, str]:
    """Make it the `ibmcloud` of a new account; the variables that this takes."""
    (folder / "cloud.json").write_text(json.dumps(EMPTY))
    program = folder / "ibmcloud"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -m standins.ibmcloud "$@"\n')
    program.chmod(0o755)
    cloud = str(folder / "cloud.json")
    return {"PATH": f"{folder}:/usr/bin:/bin", "CLOUD": cloud, "IBMCLOUD_TRACE": "true"}


if __name__ == "__main__":
    text, exit_code = answer(sys.argv[1:])
    print(text, file=sys.stderr if exit_code else sys.stdout, flush=True)
    if "--follow" in sys.argv and not exit_code:
        # As the CLI: the log of a run that has ended is followed all the same.
        signal.pause()
    sys.exit(exit_code)
