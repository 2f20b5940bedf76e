"""Stand-in of the `ibmcloud` CLI: records every call, keeps an account's state, strict about flags.

A program called `ibmcloud`, to be first on PATH, hands each call to an `Account`. It knows what
deploy/code-engine.sh uses, with syntax and words as IBM's documentation has them. Where that
doesn't show what the CLI prints (marked "assumed"), this prints the least that the script needs.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import shlex
import socketserver
import stat
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

State = dict[str, Any]
Arguments = dict[str, Any]

FLAG, VALUE, LIST = "flag", "value", "list"
NAMED = {"--name": VALUE}
DATA = {**NAMED, "--from-literal": LIST, "--from-env-file": VALUE}
JOB = {
    **NAMED,
    "--image": VALUE,
    "--build-source": VALUE,
    "--build-strategy": VALUE,
    "--registry-secret": VALUE,
    "--env-from-secret": LIST,
    "--env-from-configmap": LIST,
    "--cpu": VALUE,
    "--memory": VALUE,
    "--retrylimit": VALUE,
    "--maxexecutiontime": VALUE,
}
SUBSCRIPTION = {
    **NAMED,
    "--destination-type": VALUE,
    "--destination": VALUE,
    "--bucket": VALUE,
    "--event-type": VALUE,
    "--prefix": VALUE,
}
REMOVE = {**NAMED, "--force": FLAG}
READ = {**NAMED, "--output": VALUE}
POLICY = {
    "--roles": VALUE,
    "--service-name": VALUE,
    "--service-instance": VALUE,
    "--resource-type": VALUE,
    "--resource": VALUE,
}
AUTHORIZATION = {"--source-service-instance-name": VALUE, "--target-service-instance-id": VALUE}


class Failed(Exception):
    """The call failed; the text is what the CLI says."""


def _new_id() -> str:
    return str(uuid.uuid4())


# --- the project and what is in it ---------------------------------------------------------------


def target(state: State, args: Arguments) -> str:
    state["region"] = args.get("-r") or state.get("region")
    return f"Region: {state['region']}"


def project_create(state: State, args: Arguments) -> str:
    name = args["--name"]
    if name in state["projects"]:
        raise Failed(f"A project with the name '{name}' already exists.")
    kinds = ("secret", "configmap", "job", "subscription", "jobrun")
    state["projects"][name] = {"id": _new_id(), **{kind: {} for kind in kinds}}
    state["selected"] = name
    return f"Creating project '{name}'...\nOK"


def project_get(state: State, args: Arguments) -> str:
    project = _project(state, args["--name"])
    return f"OK\n\nName:    {args['--name']}\nID:      {project['id']}\nStatus:  active"


def project_select(state: State, args: Arguments) -> str:
    _project(state, args["--name"])
    state["selected"] = args["--name"]
    return "OK"


def project_delete(state: State, args: Arguments) -> str:
    _project(state, args["--name"])
    del state["projects"][args["--name"]]
    state["selected"] = None
    return "OK"


def _project(state: State, name: str) -> State:
    if name not in state["projects"]:
        raise Failed(f"A project with the name '{name}' was not found.")
    project: State = state["projects"][name]
    return project


def _selected(state: State) -> State:
    if not state.get("selected"):
        raise Failed("No project is selected. Use 'ibmcloud ce project select'.")
    return _project(state, state["selected"])


def _things(state: State, kind: str) -> State:
    things: State = _selected(state)[kind]
    return things


def _thing(state: State, kind: str, name: str) -> State:
    things = _things(state, kind)
    if name not in things:
        raise Failed(f"Resource '{name}' ({kind}) was not found.")
    thing: State = things[name]
    return thing


def _pairs(args: Arguments) -> dict[str, str]:
    """The data of a secret or configmap. Raises Failed, also where others can read the file."""
    lines = list(args.get("--from-literal", []))
    if "--from-env-file" in args:
        path = Path(args["--from-env-file"])
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise Failed(f"{path} can be read by others: mode {mode:o}")
        lines += path.read_text().splitlines()
    if not lines:
        raise Failed("Incorrect Usage: no --from-literal and no --from-env-file")
    return dict(line.split("=", 1) for line in lines)


def create(kind: str, make: Callable[[Arguments], State]) -> Callable[[State, Arguments], str]:
    def run(state: State, args: Arguments) -> str:
        things, name = _things(state, kind), args["--name"]
        if name in things:
            raise Failed(f"A {kind} with the name '{name}' already exists.")
        things[name] = make(args)
        return "OK"

    return run


def update(kind: str, make: Callable[[Arguments], State]) -> Callable[[State, Arguments], str]:
    """Changes what is named and keeps the rest, as the documentation of `update` has it."""

    def run(state: State, args: Arguments) -> str:
        _thing(state, kind, args["--name"]).update(make(args))
        return "OK"

    return run


def get(kind: str) -> Callable[[State, Arguments], str]:
    def run(state: State, args: Arguments) -> str:
        thing = _thing(state, kind, args["--name"])
        if kind == "configmap" and args.get("--output") == "json":
            return json.dumps({"name": args["--name"], "data": thing}, indent=2)
        return f"OK\n\nName:  {args['--name']}"

    return run


def delete(kind: str) -> Callable[[State, Arguments], str]:
    def run(state: State, args: Arguments) -> str:
        _thing(state, kind, args["--name"])
        del _things(state, kind)[args["--name"]]
        return "OK"

    return run


def _job(args: Arguments) -> State:
    return {name: value for name, value in args.items() if name.startswith("--")}


def job_create(state: State, args: Arguments) -> str:
    if ("--image" in args) == ("--build-source" in args):
        raise Failed("Incorrect Usage: one of --image and --build-source is required")
    for kind in ("secret", "configmap"):
        for name in args.get(f"--env-from-{kind}", []):
            _thing(state, kind, name)
    return create("job", _job)(state, args)


def subscription_create(state: State, args: Arguments) -> str:
    _thing(state, "job", args["--destination"])
    project = _selected(state)["id"]
    if not any(project in json.dumps(each) for each in state["authorizations"]):
        raise Failed("The project lacks the 'Notifications Manager' role on the COS instance.")
    return create("subscription", _job)(state, args)


def subscription_list(state: State, args: Arguments) -> str:
    """Assumed: a list of Kubernetes objects."""
    items = [
        {"metadata": {"name": name}, "spec": {"bucket": each["--bucket"]}}
        for name, each in _things(state, "subscription").items()
    ]
    return json.dumps({"apiVersion": "v1", "items": items}, indent=2)


# --- runs ----------------------------------------------------------------------------------------


def jobrun_submit(state: State, args: Arguments) -> str:
    _thing(state, "job", args["--job"])
    # What the run will do is decided by the test: {"failed": N, "polls": N, "log": [...]}.
    plan = state.get("run", {})
    size = int(args.get("--array-size", 1))
    run = {"size": size, "polls": 0, "failed": 0, "log": [], **plan}
    run["created"] = f"2026-11-25T03:{len(_things(state, 'jobrun')):02}:00Z"
    _things(state, "jobrun")[args["--name"]] = run
    return "OK"


def jobrun_get(state: State, args: Arguments) -> str:
    """Assumed: the counts of a run's instances, as its text form shows them."""
    run = _thing(state, "jobrun", args["--name"])
    if run["polls"] > 0:
        run["polls"] -= 1
        counts = {"pending": run["size"]}
    else:
        counts = {"failed": run["failed"], "succeeded": run["size"] - run["failed"]}
    return json.dumps({"name": args["--name"], "status_details": counts}, indent=2)


def jobrun_logs(state: State, args: Arguments) -> str:
    run = _thing(state, "jobrun", args["--jobrun"])
    return "\n".join(["Getting logs for all instances of job run...", "OK", "", *run["log"]])


def jobrun_list(state: State, args: Arguments) -> str:
    """Assumed: a list of objects with `name` and a time of creation."""
    runs = _things(state, "jobrun")
    if args.get("--output") == "json":
        items = [{"created_at": run["created"], "name": name} for name, run in runs.items()]
        return json.dumps(items, indent=2)
    return "\n".join(["Name", *runs])


# --- IAM -----------------------------------------------------------------------------------------


def service_id(state: State, args: Arguments) -> State:
    name = args["words"][0]
    if name not in state["service_ids"]:
        raise Failed(f"Service ID {name} was not found.")
    found: State = state["service_ids"][name]
    return found


def service_id_get(state: State, args: Arguments) -> str:
    service_id(state, args)
    return "OK"


def service_id_create(state: State, args: Arguments) -> str:
    """The real one makes a second service ID of the same name; that would be a fault here."""
    name = args["words"][0]
    if name in state["service_ids"]:
        raise Failed(f"made twice: service ID {name}")
    state["service_ids"][name] = {"policies": {}, "keys": {}}
    return "OK"


def service_id_delete(state: State, args: Arguments) -> str:
    service_id(state, args)
    del state["service_ids"][args["words"][0]]
    return "OK"


def policies(state: State, args: Arguments) -> str:
    found = service_id(state, args)["policies"]
    return json.dumps([{"roles": [{"a": 1}], "id": key, **each} for key, each in found.items()])


def policy_create(state: State, args: Arguments) -> str:
    found = service_id(state, args)["policies"]
    wanted = {name: value for name, value in args.items() if name.startswith("--")}
    if wanted in found.values():
        raise Failed("The policy already exists.")
    found[_new_id()] = wanted
    return "OK"


def policy_delete(state: State, args: Arguments) -> str:
    del service_id(state, args)["policies"][args["words"][1]]
    return "OK"


def key_get(state: State, args: Arguments) -> str:
    keys = state["service_ids"].get(args["words"][1], {"keys": {}})["keys"]
    if args["words"][0] not in keys:
        raise Failed(f"API key {args['words'][0]} was not found.")
    return "OK"


def key_create(state: State, args: Arguments) -> str:
    name, owner = args["words"]
    keys = state["service_ids"][owner]["keys"]
    if name in keys:
        raise Failed(f"made twice: API key {name}")
    keys[name] = f"canary-made-key-{_new_id()}"
    key = {"name": name, "apikey": keys[name]}
    Path(args["--file"]).write_text(json.dumps(key, indent=2))
    return "OK"


def key_delete(state: State, args: Arguments) -> str:
    key_get(state, args)
    del state["service_ids"][args["words"][1]]["keys"][args["words"][0]]
    return "OK"


def authorizations(state: State, args: Arguments) -> str:
    return json.dumps(state["authorizations"], indent=2)


def authorization_create(state: State, args: Arguments) -> str:
    source, service, role = args["words"]
    project = _project(state, args["--source-service-instance-name"])["id"]
    wanted = authorization(source, project, service, args["--target-service-instance-id"], role)
    if any({**each, "id": ""} == {**wanted, "id": ""} for each in state["authorizations"]):
        raise Failed("The authorization policy already exists.")
    state["authorizations"].append(wanted)
    return "OK"


def authorization(source: str, project: str, service: str, instance: str, role: str) -> State:
    """One authorization in the form of the IAM policy API."""

    def attributes(name: str, guid: str) -> State:
        return {
            "attributes": [
                {"name": "serviceName", "value": name},
                {"name": "serviceInstance", "value": guid},
            ]
        }

    return {
        "id": _new_id(),
        "type": "authorization",
        "subjects": [attributes(source, project)],
        "roles": [{"display_name": role}],
        "resources": [attributes(service, instance)],
    }


def authorization_delete(state: State, args: Arguments) -> str:
    rest = [each for each in state["authorizations"] if each["id"] != args["words"][0]]
    if len(rest) == len(state["authorizations"]):
        raise Failed("The authorization policy was not found.")
    state["authorizations"] = rest
    return "OK"


# --- the program ---------------------------------------------------------------------------------

FORCED = {"-f": FLAG}
JSON = {"--output": VALUE}
COMMANDS: dict[str, tuple[Callable[[State, Arguments], str], dict[str, str], int]] = {
    "target": (target, {"-r": VALUE, "-g": VALUE}, 0),
    "ce project create": (project_create, NAMED, 0),
    "ce project get": (project_get, NAMED, 0),
    "ce project select": (project_select, NAMED, 0),
    "ce project delete": (project_delete, REMOVE, 0),
    "ce secret create": (create("secret", _pairs), DATA, 0),
    "ce secret update": (update("secret", _pairs), DATA, 0),
    "ce secret get": (get("secret"), NAMED, 0),
    "ce secret delete": (delete("secret"), REMOVE, 0),
    "ce configmap create": (create("configmap", _pairs), DATA, 0),
    "ce configmap update": (update("configmap", _pairs), DATA, 0),
    "ce configmap get": (get("configmap"), READ, 0),
    "ce configmap delete": (delete("configmap"), REMOVE, 0),
    "ce job create": (job_create, JOB, 0),
    "ce job update": (update("job", _job), JOB, 0),
    "ce job get": (get("job"), NAMED, 0),
    "ce job delete": (delete("job"), REMOVE, 0),
    "ce subscription cos create": (subscription_create, SUBSCRIPTION, 0),
    "ce subscription cos get": (get("subscription"), NAMED, 0),
    "ce subscription cos list": (subscription_list, JSON, 0),
    "ce subscription cos delete": (delete("subscription"), REMOVE, 0),
    "ce jobrun submit": (
        jobrun_submit,
        {**JOB, "--job": VALUE, "--array-size": VALUE, "--env": LIST},
        0,
    ),
    "ce jobrun get": (jobrun_get, READ, 0),
    "ce jobrun list": (jobrun_list, {"--job": VALUE, "--output": VALUE}, 0),
    "ce jobrun logs": (jobrun_logs, {"--jobrun": VALUE, "--follow": FLAG}, 0),
    "iam service-id": (service_id_get, {}, 1),
    "iam service-id-create": (service_id_create, {"--description": VALUE}, 1),
    "iam service-id-delete": (service_id_delete, FORCED, 1),
    "iam service-policies": (policies, JSON, 1),
    "iam service-policy-create": (policy_create, POLICY, 1),
    "iam service-policy-delete": (policy_delete, FORCED, 2),
    "iam service-api-key": (key_get, {}, 2),
    "iam service-api-key-create": (key_create, {"--description": VALUE, "--file": VALUE}, 2),
    "iam service-api-key-delete": (key_delete, FORCED, 2),
    "iam authorization-policies": (authorizations, JSON, 0),
    "iam authorization-policy-create": (authorization_create, AUTHORIZATION, 3),
    "iam authorization-policy-delete": (authorization_delete, FORCED, 1),
}

LOCAL = ("target", "ce project select")
READS = (" get", " list", " logs", "iam service-id", "policies", "iam service-api-key")


def mutates(argv: list[str]) -> bool:
    """Whether a call changes anything in the account."""
    name = command_of(argv)
    return name not in LOCAL and not name.endswith(READS)


def command_of(argv: list[str]) -> str:
    """The command's words, without its arguments."""
    for count in range(len(argv), 0, -1):
        if (name := " ".join(argv[:count])) in COMMANDS:
            return name
    raise Failed(f"'{shlex.join(argv[:3])}' is not a registered command. See 'ibmcloud help'.")


def parse(argv: list[str]) -> tuple[Callable[[State, Arguments], str], Arguments]:
    """The command and its arguments. Raises Failed for a flag it doesn't know."""
    name = command_of(argv)
    run, flags, words = COMMANDS[name]
    args: Arguments = {"words": []}
    rest = iter(argv[len(name.split()) :])
    for word in rest:
        if not word.startswith("-"):
            args["words"].append(word)
            continue
        kind = flags.get(word)
        if kind is None:
            raise Failed(f"Incorrect Usage: flag provided but not defined: {word}")
        value = True if kind == FLAG else next(rest, None)
        if value is None:
            raise Failed(f"Incorrect Usage: flag needs an argument: {word}")
        if kind == LIST:
            args.setdefault(word, []).append(value)
        else:
            args[word] = value
    if len(args["words"]) != words or ("--name" in flags and "--name" not in args):
        raise Failed("Incorrect Usage: an argument is missing, or there is one too many")
    return run, args


def answer(state: State, argv: list[str]) -> str:
    """What one call prints. Raises Failed."""
    login = state.get("login", "there")
    if login == "expired":
        raise Failed("Your session has expired. Use 'ibmcloud login' to log in again.")
    run, args = parse(argv)
    failing = state.get("fail")
    fails = bool(failing) and _is_meant(failing, argv, state["mutations"])
    state["mutations"] += mutates(argv)
    if not fails:
        return run(state, args)
    if failing["when"] == "after":
        run(state, args)
    raise Failed(failing["text"])


def _is_meant(failing: State, argv: list[str], number: int) -> bool:
    """Whether a call is to fail: one that begins so, or the change of this number."""
    if "command" in failing:
        return " ".join(argv).startswith(failing["command"])
    return mutates(argv) and failing["number"] == number


EMPTY: State = {"projects": {}, "service_ids": {}, "authorizations": [], "mutations": 0}

# Starting a Python for each of a hundred calls would take longer than everything else here.
PROGRAM = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/{port} || exit 1
printf '%s\\0' "$#" "${{IBMCLOUD_TRACE-}}" "$@" >&3
IFS= read -r code <&3
[ "$code" = 0 ] || exec >&2 # assumed: errors go there
cat <&3
exit "$code"
"""


class Account:
    """One account: its state, the calls that were made, and a program `ibmcloud` that makes them.

    A context manager; the program works inside of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = EMPTY
        self._calls: list[list[str]] = []
        self._lock = threading.Lock()
        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def state(self) -> State:
        """A copy of the state as it is now; assign it to change it."""
        return copy.deepcopy(self._state)

    @state.setter
    def state(self, state: State) -> None:
        self._state = copy.deepcopy(state)

    def set(self, **values: Any) -> None:
        """Change some of the state's fields."""
        self.state = {**self.state, **values}

    def calls(self) -> list[list[str]]:
        """The argument lists of all calls since the last time this was asked."""
        calls, self._calls = self._calls, []
        return calls

    @property
    def program(self) -> Path:
        """The program; its folder belongs first on PATH."""
        return self.folder / "bin" / "ibmcloud"

    def __enter__(self) -> Self:
        self.program.parent.mkdir(parents=True)
        self.program.write_text(PROGRAM.format(port=self._server.server_address[1]))
        self.program.chmod(0o755)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[socketserver.StreamRequestHandler]:
        account = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                read = functools.partial(_read_word, self.rfile)
                count, trace = int(read()), read()
                code, text = account.answer([read() for _ in range(count)], trace)
                self.wfile.write(f"{code}\n{text}\n".encode())

        return Handler

    def answer(self, argv: list[str], trace: str) -> tuple[int, str]:
        """Exit code and output of one call."""
        with self._lock:
            self._calls.append(argv)
            told = "REQUEST: a trace shows the keys here\n" if trace not in ("", "false") else ""
            try:
                return 0, told + answer(self._state, argv)
            except Failed as failed:
                return 1, f"{told}FAILED\n{failed}"


def _read_word(stream: io.BufferedIOBase) -> str:
    """The next text that ends with a zero byte."""
    word = bytearray()
    while (byte := stream.read(1)) not in (b"\0", b""):
        word += byte
    return word.decode()
