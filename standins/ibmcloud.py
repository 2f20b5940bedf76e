"""Stand-in of the `ibmcloud` CLI: strict about commands and flags, and keeps an account's state.

    CLOUD=state.json python -m standins.ibmcloud ce job get --name flowlog

It knows what deploy/ runs, with the syntax and the words of IBM's documentation. Where those do not
show what the CLI prints, it prints the least that is needed. The state holds every call, and may
say which call is to fail: `{"fail": {"call": 3, "text": "...", "done": false}}`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import stat
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

State = dict[str, Any]
Flags = dict[str, list[str]]

STORE = "--from-literal --from-env-file --rm"
JOB = (
    "--image --build-source --build-strategy --build-clear! --registry-secret"
    " --registry-secret-clear! --env-from-configmap --env-from-secret"
    " --trusted-profiles-enabled --cpu --memory --retrylimit --maxexecutiontime"
)
CRON = "--destination-type --destination --schedule"
COS = "--destination-type --destination --bucket --event-type --prefix --wait-timeout"
RUN = "--job --cpu --memory --maxexecutiontime --retrylimit --array-size --name"
POLICY = "--roles --service-name --service-instance --resource-type --resource"
LINK = "--name --cr-type --link-crn --link-component-type --link-component-name"


class Failed(Exception):
    """What the CLI says as it fails."""


def project(state: State) -> State:
    """The selected project."""
    if state.get("selected") not in state["projects"]:
        raise Failed("No project is selected. Use 'ibmcloud ce project select'.")
    return state["projects"][state["selected"]]  # type: ignore[no-any-return]


def in_project(kind: str, verb: str) -> Callable[[State, Flags, list[str]], Any]:
    """What create, update, get and delete do to one kind of thing."""

    def run(state: State, flags: Flags, _: list[str]) -> Any:
        things, (name,) = project(state)[kind], flags["--name"]
        if verb != "create" and name not in things:
            raise Failed(f"The {kind} '{name}' was not found.")
        if verb == "create" and name in things:
            raise Failed(f"A {kind} named '{name}' already exists.")
        if verb == "get":
            return things[name]
        if verb == "delete":
            return things.pop(name) and "OK"
        made = CHECKS[kind](state, flags, things.get(name, {}))
        things[name] = {"name": name, **made}
        return "OK"

    return run


def data(state: State, flags: Flags, before: State) -> State:
    """A secret or a configmap; an update keeps the keys that it does not name."""
    pairs = list(flags.get("--from-literal", []))
    for file in flags.get("--from-env-file", []):
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (Path(file), Path(file).parent)]
        if modes != [0o600, 0o700]:
            raise Failed(f"others can read {file}")
        pairs += Path(file).read_text().splitlines()
    values = {**before.get("data", {}), **dict(pair.split("=", 1) for pair in pairs)}
    for key in flags.get("--rm", []):
        del values[key]
    return {"data": values}


def job(state: State, flags: Flags, before: State) -> State:
    """A job, with what it is built from; an update keeps what it does not name."""
    flat: State = {name: values[-1] for name, values in flags.items() if name != "--name"}
    for kind in ("configmap", "secret"):
        if flat.get(f"--env-from-{kind}", "-") not in ("-", *project(state)[kind]):
            raise Failed(f"There is no {kind} of this name.")
    if "--build-source" in flat and "://" not in flat["--build-source"]:
        source = Path(flat["--build-source"])
        files = sorted(str(f.relative_to(source)) for f in source.rglob("*") if f.is_file())
        flat["files"] = files
    made = {**before, **flat}
    for flag, gone in (("--build-clear", "--build-"), ("--registry-secret-clear", "--registry-")):
        if flag in flat:
            made = {name: made[name] for name in made if not name.startswith(gone)}
    if ("--image" in flat) == ("--build-source" in flat):
        raise Failed("Specify either --image or --build-source.")
    return made


def subscription(state: State, flags: Flags, before: State) -> State:
    """A subscription, for which the job must be there, and for a bucket's the right to hear."""
    flat: State = {name: values[-1] for name, values in flags.items() if name != "--name"}
    if flat["--destination"] not in project(state)["job"]:
        raise Failed("The job of this destination was not found.")
    if "--bucket" in flat:
        guid = project(state)["guid"]
        if not any(guid in json.dumps(right) for right in state["authorizations"]):
            raise Failed("The project is not authorized: Notifications Manager is needed.")
        if state.get("applies_after", 0) > 0:
            state["applies_after"] -= 1
            raise Failed("The policy does not apply yet.")
    return {**before, **flat}


CHECKS: dict[str, Callable[[State, Flags, State], State]] = {
    "secret": data, "configmap": data, "job": job, "cron": subscription, "cos": subscription,
}  # fmt: skip


def profile(verb: str) -> Callable[[State, Flags, list[str]], Any]:
    """What the commands about trusted profiles do; the first word is the profile's name."""

    def run(state: State, flags: Flags, words: list[str]) -> Any:
        profiles, name = state["profiles"], words[0]
        if verb == "create":
            if name in profiles:
                raise Failed(f"Trusted profile {name} already exists.")
            about = {"id": f"Profile-{uuid.uuid4()}", "name": name}
            about["description"] = flags["--description"][0]
            profiles[name] = {"about": about, "links": [], "policies": []}
            return about
        if name not in profiles:
            raise Failed(f"Trusted profile {name} was not found.")
        one, new = profiles[name], {"id": str(uuid.uuid4())}
        if verb == "delete":
            del profiles[name]
        elif verb == "link-create":
            one["links"].append({**new, "link": {k: v[0] for k, v in flags.items()}})
        elif verb == "policy-create":
            roles = [{"display_name": role} for role in flags.pop("--roles")[0].split(",")]
            values = [{"name": flag, "value": value[0]} for flag, value in flags.items()]
            one["policies"].append({**new, "roles": roles, "resources": [{"attributes": values}]})
        elif verb == "policy-delete":
            one["policies"] = [each for each in one["policies"] if each["id"] != words[1]]
        return one.get(verb, "OK")

    return run


def authorize(state: State, flags: Flags, words: list[str]) -> str:
    """`codeengine cloud-object-storage ROLE`."""
    if words != ["codeengine", "cloud-object-storage", "Notifications Manager"]:
        raise Failed("Incorrect Usage.")
    state["authorizations"].append({"id": str(uuid.uuid4()), **flags})
    return "OK"


def withdraw(state: State, _: Flags, words: list[str]) -> str:
    """Take an authorization away."""
    left = [each for each in state["authorizations"] if each["id"] != words[0]]
    state["authorizations"] = left
    return "OK"


def create_project(state: State, flags: Flags, _: list[str]) -> str:
    """A project with nothing in it."""
    (name,), guid = flags["--name"], str(uuid.uuid4())
    if name in state["projects"]:
        raise Failed(f"A project named '{name}' already exists.")
    kinds = {kind: {} for kind in (*CHECKS, "jobrun")}
    crn = f"crn:v1:bluemix:public:codeengine:us-south:a/1:{guid}::"
    state["projects"][name] = {"guid": guid, "crn": crn, **kinds}
    return "OK"


def at_project(verb: str) -> Callable[[State, Flags, list[str]], Any]:
    """Get, select or delete a project."""

    def run(state: State, flags: Flags, _: list[str]) -> Any:
        (name,) = flags["--name"]
        if name not in state["projects"]:
            raise Failed(f"A project with the name '{name}' was not found.")
        if verb == "delete":
            del state["projects"][name]
        state["selected"] = name
        about = state["projects"].get(name, {})
        return {"guid": about["guid"], "crn": about["crn"]} if verb == "get" else "OK"

    return run


def submit(state: State, flags: Flags, _: list[str]) -> str:
    """A run; what it comes to is the state's `run`."""
    (name,) = flags["--name"]
    if flags["--job"][0] not in project(state)["job"]:
        raise Failed("The job was not found.")
    project(state)["jobrun"][name] = {"name": name, "created_at": "2026-01-01", **flags}
    return "OK"


def run_state(state: State, flags: Flags, _: list[str]) -> Any:
    """What the state says of a run, one poll after the other; the last one stays."""
    polls = state.setdefault("polls", [{"status": "completed"}])
    return polls.pop(0) if len(polls) > 1 else polls[0]


Run = Callable[[State, Flags, list[str]], Any]
COMMANDS: dict[str, tuple[Run, str]] = {
    "target": (lambda *_: "OK", "-r -g"),
    "ce project create": (create_project, "--name"),
    "ce project get": (at_project("get"), "--name --output"),
    "ce project select": (at_project("select"), "--name"),
    "ce project delete": (at_project("delete"), "--name --force!"),
    "ce jobrun submit": (submit, RUN),
    "ce jobrun get": (run_state, "--name --output"),
    "ce jobrun list": (lambda s, *_: [*project(s)["jobrun"].values()], "--job --output"),
    "ce jobrun logs": (lambda s, *_: s.get("log", "summary {}"), "--jobrun --follow!"),
    "iam trusted-profile": (profile("about"), "--output"),
    "iam trusted-profile-links": (profile("links"), "--output"),
    "iam trusted-profile-policies": (profile("policies"), "--output"),
    "iam trusted-profile-create": (profile("create"), "--description"),
    "iam trusted-profile-delete": (profile("delete"), "-f!"),
    "iam trusted-profile-link-create": (profile("link-create"), LINK),
    "iam trusted-profile-policy-create": (profile("policy-create"), POLICY),
    "iam trusted-profile-policy-delete": (profile("policy-delete"), "-f!"),
    "iam authorization-policies": (lambda s, *_: s["authorizations"], "--output"),
    "iam authorization-policy-create": (
        authorize,
        "--source-service-instance-id --target-service-instance-id",
    ),
    "iam authorization-policy-delete": (withdraw, "-f!"),
}
for _kind, _words, _flags in (
    ("secret", "ce secret", STORE), ("configmap", "ce configmap", STORE), ("job", "ce job", JOB),
    ("cron", "ce subscription cron", CRON), ("cos", "ce subscription cos", COS),
):  # fmt: skip
    for _verb in ("create", "update"):
        COMMANDS[f"{_words} {_verb}"] = (in_project(_kind, _verb), f"--name {_flags}")
    COMMANDS[f"{_words} get"] = (in_project(_kind, "get"), "--name --output")
    COMMANDS[f"{_words} delete"] = (in_project(_kind, "delete"), "--name --force!")


def parse(argv: list[str]) -> tuple[Run, Flags, list[str]]:
    """The command, its flags and its words. Raises Failed for what the CLI does not know."""
    names = [" ".join(argv[:count]) for count in (3, 4, 2, 1)]
    name = next((each for each in sorted(names, key=len, reverse=True) if each in COMMANDS), None)
    if name is None:
        raise Failed(f"'{shlex.join(argv[:3])}' is not a registered command. See 'ibmcloud help'.")
    run, known = COMMANDS[name]
    flags: Flags = {}
    words: list[str] = []
    rest = iter(argv[len(name.split()) :])
    for word in rest:
        flag, equals, value = word.partition("=")
        if not word.startswith("-"):
            words.append(word)
        elif f"{flag}!" in known.split():
            flags.setdefault(flag, []).append("true")
        elif flag in known.split():
            flags.setdefault(flag, []).append(value if equals else next(rest))
        else:
            raise Failed(f"Incorrect Usage: flag provided but not defined: {flag}")
    return run, flags, words


def call(state: State, argv: list[str]) -> str:
    """What one call prints. Raises Failed."""
    fail = state.get("fail", {})
    fails = fail and len(state["calls"]) == fail["call"]
    state["calls"].append(argv)
    if fails and not fail.get("done"):
        raise Failed(fail["text"])
    run, flags, words = parse(argv)
    said = run(state, flags, words)
    if fails:
        raise Failed(fail["text"])
    return said if isinstance(said, str) else json.dumps(said, indent=2)


def answer(argv: list[str]) -> tuple[str, int]:
    """What one call prints, and its exit code; others wait, since a log is followed meanwhile."""
    with Path(os.environ["CLOUD"]).open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state: State = json.load(file)
        try:
            said, code = call(state, argv), 0
        except Failed as failed:
            said, code = f"FAILED\n{failed}", 1
        file.seek(0)
        json.dump(state, file)
        file.truncate()
    return said, code


if __name__ == "__main__":
    text, exit_code = answer(sys.argv[1:])
    print(text, file=sys.stderr if exit_code else sys.stdout)
    sys.exit(exit_code)
