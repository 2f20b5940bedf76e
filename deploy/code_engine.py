"""Deploys the job to IBM Cloud Code Engine: up, backfill, status, logs, down.

    python deploy/code_engine.py up --ini test.ini --dry-run

`deploy/plan.py` says which commands those are; this file looks up what is there, and runs them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from deploy.plan import (  # noqa: E402
    INSIDE,
    SECRET_FILE,
    SOURCE_COPY,
    Deployment,
    Failed,
    Found,
    Json,
    Words,
    read_deployment,
    shown,
)
from desk.ini import read_ini  # noqa: E402
from run.settings import Unusable  # noqa: E402

POLL_SECONDS = float(os.environ.get("FLOWLOG_POLL_SECONDS", "5"))
APPLY_TRIES = 5
"""How often a subscription is tried: the right to hear of new objects can take a while to apply."""
LOST_POLLS = 60
NO_JOB = "there is no job: run `up` first"
MISSING = re.compile("not found|does not exist|doesn't exist|not be found|no .* found", re.I)
# The CLI's trace would show the bodies of requests, and with them keys.
QUIET = {"IBMCLOUD_TRACE": "false", "IBMCLOUD_COLOR": "false", "IBMCLOUD_VERSION_CHECK": "false"}
ADVICE = (
    ("logged in|log in|login", "Run `ibmcloud login` (`--sso` where your company has it)."),
    ("not a registered command|plug-in", "Run `ibmcloud plugin install code-engine`."),
    ("resource group", "Set resource_group in [deploy] to one of `ibmcloud resource groups`."),
    ("authorized|forbidden|permission|access", "Your account lacks a role; see docs/deploy.md."),
)


class CLI:
    """Prints each command and runs it; in a dry run only what changes nothing in the account."""

    def __init__(self, d: Deployment, *, dry_run: bool) -> None:
        self.dry_run = dry_run
        self._secrets = list(d.secrets.values())
        self._blind = dry_run and not shutil.which("ibmcloud")
        if self._blind:
            print(
                "# no ibmcloud command here, so this is for an account that has nothing of it yet"
            )

    def run(self, words: Words, *, reads: bool = False) -> str:
        """Run it, in a dry run only where it `reads`; what it prints. Raises Failed."""
        print(shown(words), flush=True)
        tries = APPLY_TRIES if words[:4] == ("ce", "subscription", "cos", "create") else 1
        while not self._blind and (reads or not self.dry_run):
            done, tries = self._call(words), tries - 1
            if not done.returncode:
                return self._without_secrets(done.stdout)
            if not tries:
                raise self._failed(words, done)
            if "already exists" in done.stderr + done.stdout:
                words = tuple("update" if word == "create" else word for word in words)
            time.sleep(3 * POLL_SECONDS)
        return ""

    def ask(self, words: Words) -> Json:
        """The JSON of a look-up, None where the thing is not there. Raises Failed."""
        done = None if self._blind else self._call(words)
        there = done is not None and not done.returncode
        print(shown(words) + ("" if there or done is None else "  # not there"), flush=True)
        if done is None or (not there and MISSING.search(done.stdout + done.stderr)):
            return None
        try:
            # Some commands say what they do before they print it.
            found = re.search(r"[\[{].*", done.stdout, re.DOTALL) if there else None
            return json.JSONDecoder().raw_decode(found[0] if found else done.stdout)[0]
        except ValueError:
            raise self._failed(words, done) from None

    def start(self, words: Words) -> subprocess.Popen[bytes]:
        """Start a command that prints until it is stopped."""
        print(shown(words), flush=True)
        command, environ = ["ibmcloud", *words], os.environ | QUIET
        return subprocess.Popen(
            command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, process_group=0
        )

    def _call(self, words: Words) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["ibmcloud", *words], cwd=ROOT, env=os.environ | QUIET, stdin=subprocess.DEVNULL,
                capture_output=True, text=True,
            )  # fmt: skip
        except FileNotFoundError:
            raise Failed(
                "there is no ibmcloud command; docs/deploy.md says how to get it"
            ) from None

    def _failed(self, words: Words, done: subprocess.CompletedProcess[str]) -> Failed:
        said = self._without_secrets((done.stdout + done.stderr).strip())
        last = "".join(f"\n  | {line}" for line in said.splitlines()[-12:])
        advice = [text for pattern, text in ADVICE if re.search(pattern, said, re.IGNORECASE)][:1]
        go_on = "Then run the same command again: what is done already is only brought up to date."
        return Failed("\n".join([f"failed: {shown(words)}{last}", *advice, go_on]))

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


# --- the five commands ---------------------------------------------------------------------------


def look(cli: CLI, d: Deployment, *, create: bool = False) -> Found:
    """Go to the project, made where it is missing if `create`, and look up what is there."""
    cli.run(d.words("target -r {region} -g {resource_group}"), reads=True)
    get = d.words("ce project get --name {project} --output json")
    project, asked = cli.ask(get), d.look_ups()
    created = project is None and create
    if created:
        cli.run(d.words("ce project create --name {project}"))
        project = cli.ask(get) or {"guid": "PROJECT_GUID", "crn": "PROJECT_CRN"}
    if project is not None:
        if not {"guid", "crn"} <= project.keys():
            raise Failed("can't find the guid and the crn of the project in what the CLI prints")
        cli.run(d.words("ce project select --name {project}"), reads=not created)
    found: dict[str, Json] = {"project": project, "created": created}
    for kind, words in asked.items():
        inside = kind in INSIDE and (project is None or created)
        # A profile that is not there has neither links nor policies.
        if not inside and (kind not in ("links", "policies") or found["profile"] is not None):
            found[kind] = cli.ask(words)
    return found


def up(cli: CLI, d: Deployment, _: argparse.Namespace) -> int:
    """Make the account as the ini file says."""
    for name in d.unused:
        print(f"# not uploaded: {name}, which the job does not need here")
    plan = d.plan_up(look(cli, d, create=True))
    with contextlib.nullcontext() if cli.dry_run else files(d):
        for words in plan:
            cli.run(words)
    return 0


@contextlib.contextmanager
def files(d: Deployment) -> Iterator[None]:
    """The secrets, and a copy of what the image is built from; gone afterwards, whatever happens.

    The whole folder must not be sent to the builder, since the ini file with its keys is in it.
    """
    work, source = ROOT / Path(SECRET_FILE).parent, d.options["source"]
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    try:
        secrets = "".join(f"{name}={text}\n" for name, text in d.secrets.items())
        (ROOT / SECRET_FILE).touch(mode=0o600)
        (ROOT / SECRET_FILE).write_text(secrets)
        if source and "://" not in source:
            copy_source(ROOT / source, ROOT / SOURCE_COPY)
        yield
    finally:
        shutil.rmtree(work, ignore_errors=True)


def copy_source(source: Path, copy: Path) -> None:
    """Copy what .dockerignore lets through. Raises Failed where it does not say so file by file."""
    try:
        ignore = (source / ".dockerignore").read_text().splitlines()
    except OSError:
        ignore = []
    if "*" not in ignore or not (source / "Dockerfile").is_file():
        raise Failed(f"{source} needs a Dockerfile, and a .dockerignore with a line * and !NAMEs")
    names = [line[1:].strip("/") for line in ignore if line.startswith("!")]
    for name in ("Dockerfile", ".dockerignore", *names):
        for path in source.glob(name):
            target = copy / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, target)


def backfill(cli: CLI, d: Deployment, _: argparse.Namespace) -> int:
    """Push all that is in the bucket in a large run; show its log, and end as it ends."""
    if look(cli, d).get("job") is None and not cli.dry_run:
        raise Failed(NO_JOB)
    run = f"{d.options['name']}-backfill-{datetime.now(UTC):%Y%m%d%H%M%S}"
    # A retry goes on from STATE; without that it would send again what was sent.
    goes_on = d.options["mode"] in ("follow", "catch-up")
    size = 1 if goes_on else int(d.options["array_size"])
    submit = "ce jobrun submit --job {name} --name {run} --cpu {backfill_cpu}"
    submit += " --memory {backfill_memory} --maxexecutiontime 86400 --retrylimit {retries}"
    submit += f" --array-size {size}" if size > 1 else ""
    cli.run(d.words(submit, run=run, retries="3" if goes_on else "0"))
    logs = d.words("ce jobrun logs --jobrun {run} --follow", run=run)
    get = d.words("ce jobrun get --name {run} --output json", run=run)
    if cli.dry_run:
        for words in (logs, get):
            print(shown(words))
        return 0
    print("# it goes on if you interrupt this")
    return watch(cli, logs, get, size)


def watch(cli: CLI, logs: Words, get: Words, size: int) -> int:
    """Show the log of a run while it lasts; 0 where all its instances have succeeded.

    The log is read while it is written, since it may be gone when the run has ended; and following
    it does not end by itself. It fails where the run has not begun, so it is started again.
    """
    process, unknown = cli.start(logs), 0
    try:
        while True:
            over, failed = ended(cli.ask(get), size)
            unknown = unknown + 1 if failed is None else 0
            if unknown == LOST_POLLS:
                raise Failed(f"can't tell how the run is doing: {shown(get)}")
            time.sleep(POLL_SECONDS)
            if over:
                break
            if process.poll():
                process = cli.start(logs)
    finally:
        # The CLI leaves the work to a process of its plug-in.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    print(f"# {size - (failed or 0)} of {size} instances succeeded")
    return 1 if failed else 0


def ended(run: Json, size: int) -> tuple[bool, int | None]:
    """Whether all instances of a run are over, and how many failed; None where it is not said.

    The CLI prints a run as Code Engine's API has it, or as Kubernetes does, counts in `status`.
    """
    status = (run or {}).get("status")
    counts = status if isinstance(status, dict) else (run or {}).get("status_details") or {}
    if not status and not counts:
        return False, None
    succeeded, failed = (int(counts.get(name) or 0) for name in ("succeeded", "failed"))
    if status in ("completed", "failed"):
        return True, max(failed, 1) if status == "failed" else 0
    return succeeded + failed >= size, failed


def status(cli: CLI, d: Deployment, _: argparse.Namespace) -> int:
    """Show what is there, and the recent runs."""
    found = look(cli, d)
    ours, others = d.ours(found)
    runs = (
        cli.run(d.words("ce jobrun list --job {name}"), reads=True)
        if found.get("job") is not None
        else ""
    )
    for kind in ("profile", *INSIDE):
        said = (
            "there" if kind in ours else "without this deployment's mark" if kind in others else "-"
        )
        print(f"{kind:10} {said}")
    print(runs, end="")
    return 0


def logs(cli: CLI, d: Deployment, given: argparse.Namespace) -> int:
    """Show the log of a run, of the newest one where none is named."""
    if look(cli, d).get("job") is None:
        raise Failed(NO_JOB)
    run = given.run or newest(cli.ask(d.words("ce jobrun list --job {name} --output json")))
    if not run:
        raise Failed("there is no run; those of a subscription are deleted after 10 minutes")
    print(cli.run(d.words("ce jobrun logs --jobrun {run}", run=run), reads=True), end="")
    return 0


def newest(runs: Json) -> str:
    """The name of the run that was made last, empty where there is none."""
    listed = runs.get("items", []) if isinstance(runs, dict) else runs or []
    # Kubernetes has both in `metadata`.
    named = [{**run, **run.get("metadata", {})} for run in listed]
    times = [
        (run.get("created_at") or run.get("creationTimestamp") or "", run["name"]) for run in named
    ]
    return max(times, default=("", ""))[1]


def down(cli: CLI, d: Deployment, given: argparse.Namespace) -> int:
    """Remove what `up` made, after a question."""
    found = look(cli, d)
    plan = d.plan_down(found, with_project=given.project)
    kept = [
        f"bucket {d.options['bucket']}",
        *(f"{kind}, not made by `up`" for kind in d.ours(found)[1]),
    ]
    kept += [] if given.project else [f"project {d.options['project']}"]
    print("# stays: " + "; ".join(kept))
    if not plan:
        print("# there is nothing of this deployment")
    if plan and not cli.dry_run and not given.yes:
        print("This is to be run:", *map(shown, plan), sep="\n")
        if input("Remove all of it? Type yes: ") != "yes":
            raise Failed("nothing was removed")
    for words in plan:
        cli.run(words)
    return 0


COMMANDS: dict[str, Callable[[CLI, Deployment, argparse.Namespace], int]] = {
    "up": up, "backfill": backfill, "status": status, "logs": logs, "down": down,
}  # fmt: skip


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    about = "\n".join(f"{name}: {command.__doc__}" for name, command in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, help=about)
    parser.add_argument("--ini", type=Path, default=Path("test.ini"), help="see test.ini.example")
    parser.add_argument("--dry-run", action="store_true", help="look up, print, change nothing")
    parser.add_argument("--run", help="logs: of this run")
    parser.add_argument("--yes", action="store_true", help="down: don't ask")
    parser.add_argument(
        "--project", action="store_true", help="down: the project too, if up made it"
    )
    return parser.parse_args()


def main() -> int:
    """Do what the command line says; 0, 1 where something failed, 2 where the ini file is wrong."""
    given = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        d = read_deployment(*read_ini(given.ini))
        return COMMANDS[given.command](CLI(d, dry_run=given.dry_run), d, given)
    except Unusable as unusable:
        print(f"{given.ini} can't be used:", *unusable.faults, sep="\n  ", file=sys.stderr)
        return 2
    except Failed as failed:
        print(failed, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
