"""Deploys the job to IBM Cloud Code Engine: up, backfill, status, logs, down.

    python deploy/code_engine.py up --ini test.ini --dry-run

`Deployment` derives the commands; `Account` looks up what exists, by name, and runs them.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep, strftime
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from desk.ini import COS_HOST, PROFILES, in_the_cloud, read_ini, variables_read  # noqa: E402
from run.settings import Unusable  # noqa: E402

Words = tuple[str, ...]
# What exists, by kind, as the CLI prints it; `created` has a mark if `up` created the project.
Found = dict[str, Any]

# Section [deploy]; project, region and mode have defaults that depend on the rest of the file.
DEFAULTS = {
    "name": "flowlog", "project": "", "region": "", "resource_group": "Default", "mode": "",
    "schedule": "*/5 * * * *", "credentials": "profile", "image": "", "registry_secret": "",
    "cpu": "0.125", "memory": "0.25G", "retry_limit": "3", "max_execution_time": "7200",
}  # fmt: skip
# What goes to the secret: by its name, or because it has a password, as the URL of a proxy may.
SECRET, PASSWORD = re.compile("APIKEY|.*_KEY|.*_HEADERS"), re.compile("//[^/?#]+@|[^/?#]:[^/?#]+@")
GUID = "([0-9a-fA-F-]{36})"
COS_CRN, INGRESS = rf"^crn:v1:.*:cloud-object-storage:.*:{GUID}:", rf"^(?:https://)?{GUID}\."
FORMS = {"name": "[a-z][a-z0-9-]{0,23}[a-z0-9]", "region": ".+", "credentials": "profile|apikey"}

# What `up` creates, in the order of removal: the configmap has the mark, so it goes last.
THINGS = {
    "profile": "iam trusted-profile-{verb} {profile}",
    "cron": "ce subscription cron {verb} --name {name}",
    "cos": "ce subscription cos {verb} --name {name}",
    "job": "ce job {verb} --name {name}",
    "secret": "ce secret {verb} --name {name}-secret",
    "configmap": "ce configmap {verb} --name {name}-config",
}
IAM_LOOK_UPS = {
    "profile": "iam trusted-profile {profile}",
    "links": "iam trusted-profile-links {profile}",
    "policies": "iam trusted-profile-policies {profile}",
    "authorizations": "iam authorization-policies",
}
POLICY = "iam trusted-profile-policy-create {profile} --roles {roles} --service-name "
ON_BUCKET = "cloud-object-storage --service-instance {cos} --resource-type bucket --resource {on}"
ON_LOGS = "logs --service-instance {logs}"
DELETE_POLICY = "iam trusted-profile-policy-delete {profile} {id} --force"
LINK = "iam trusted-profile-link-create {profile} --name {name} --cr-type CE --link-crn {crn}"
LINK += " --link-component-type job --link-component-name {name}"
AUTHORIZE = "iam authorization-policy-create codeengine cloud-object-storage {roles}"
AUTHORIZE += " --source-service-instance-id {guid} --target-service-instance-id {cos}"
TRIGGERS = {
    "cron": "--destination-type job --destination {name} --schedule {schedule}",
    "cos": "--destination-type job --destination {name} --bucket {COS_BUCKET} --event-type write"
    " --prefix {prefix} --wait-timeout 300",
}
SUBMIT = "ce jobrun submit --job {name} --name {run} --cpu 1 --memory 4G --maxexecutiontime 86400"
READ, WRITE, SEND, NOTIFY = "Content Reader", "Object Writer", "Sender", "Notifications Manager"
# Keys of the configmap: whose the deployment is, and that `up` created the project.
MARK, CREATED, BY_UP = "DEPLOYED_BY", "DEPLOYED_PROJECT", "created by up"
# They exist only while `up` runs, and only its user can read them.
WORK, SECRET_FILE, SOURCE_COPY = map(Path, (".deploy", ".deploy/secret.env", ".deploy/source"))

POLL_SECONDS, LOST_POLLS = 5.0, 60
# An authorization that was just given can take a while to apply.
SUBSCRIBE_SECONDS, SUBSCRIBE_TRIES = 15.0, 5
MISSING = re.compile("not found|does not exist|doesn't exist|not be found|no .* found", re.I)
# The state of a run: a word in the form of Code Engine's API, counts in that of Kubernetes.
ENDED = re.compile('"status": ?"(completed|failed)"|"(succeeded|failed)": ?"?[1-9]')


class Failed(Exception):
    """A command failed, or would change what someone else made; the text says what to do."""


class Deployment:
    """A checked ini file, and the commands that it needs: nothing here runs them.

    `options` fill the commands, `settings` go to the configmap, `secrets` to the secret.
    `makes_profile`: the job uses the trusted profile that `up` creates, and no other credentials.
    """

    def __init__(self, env: dict[str, str], deploy: dict[str, str]) -> None:
        """Check both sections. Raises Unusable with everything that is wrong with them."""
        place = "".join(COS_HOST.findall(env.get("COS_ENDPOINT", "")))
        o = DEFAULTS | {"region": place, "mode": env.get("FLOWLOG_MODE", "follow")} | deploy
        o["project"] = o["project"] or o["name"]
        o["trigger"] = "cron" if o["mode"] == "follow" else "cos"
        o["prefix"] = env.get("FLOWLOG_PREFIX", "ibm_vpc_flowlogs_")
        o["profile"] = f"{o['name']}-{o['project']}-{o['region']}".replace(" ", "-")
        o["mark"] = f"deploy/code_engine.py: {o['name']} in project {o['project']}, {o['region']}"
        cloud = in_the_cloud(env, o["credentials"], o["profile"]) | {"FLOWLOG_MODE": o["mode"]}
        read, faults = variables_read(cloud)
        o["cos"] = "".join(re.findall(COS_CRN, env.get("COS_CRN", "")))
        o["logs"] = "".join(re.findall(INGRESS, read.get("CLOUD_LOGS_ENDPOINT", "")))
        self.secrets = {n: t for n, t in read.items() if SECRET.fullmatch(n) or PASSWORD.search(t)}
        self.settings = {name: text for name, text in read.items() if name not in self.secrets}
        self.options, self.unused = o | self.settings, sorted(env.keys() - read.keys())
        self.makes_profile = read.get("IAM_PROFILE_NAME") == o["profile"]
        faults += [f"[deploy] has no setting {name}" for name in deploy if name not in DEFAULTS]
        bad = [name for name, form in FORMS.items() if not re.fullmatch(form, o[name])]
        faults += [f"{name} in [deploy] can't be {o[name]!r}" for name in bad]
        if not o["cos"]:
            faults += ["COS_CRN is not the CRN of a Cloud Object Storage instance"]
        if "CLOUD_LOGS_ENDPOINT" in read and self.makes_profile and not o["logs"]:
            faults += ["CLOUD_LOGS_ENDPOINT is not https://GUID.ingress.REGION.logs.cloud.ibm.com"]
        if o["trigger"] == "cos" and place not in ("", o["region"]):
            faults += [f"the bucket's events need a project in the bucket's region, {place}"]
        if faults:
            raise Unusable(dict.fromkeys(faults))

    def words(self, command: str, **more: str) -> Words:
        """The arguments of a command. Whatever is filled in stays one argument."""
        return tuple(word.format(**self.options | more) for word in command.split())

    def plan_up(self, found: Found) -> list[Words]:
        """What makes the account as the ini file says. Raises Failed if something is not ours."""
        if others := self.kinds(found, ours=False):
            raise Failed(f"not made by this deployment: {', '.join(others)}. Choose another name.")
        trigger = self.options["trigger"]
        plan = [self.delete(kind) for kind in {*TRIGGERS} - {trigger} if kind in found]
        settings = {**self.settings, MARK: self.options["mark"], **found.get("created", {})}
        pairs = [w for name in settings for w in ("--from-literal", f"{name}={settings[name]}")]
        file = ["--from-env-file", str(SECRET_FILE)] if self.secrets else []
        for kind, kept, flags in ("configmap", settings, pairs), ("secret", self.secrets, file):
            gone = set(found.get(kind, {}).get("data") or ()) - kept.keys() - {CREATED}
            rm = [word for key in sorted(gone) for word in ("--rm", key)]
            if flags or rm:
                plan.append((*self.upsert(kind, found), *flags, *rm))
        plan += [self.upsert("job", found, self.job_flags(found)), *self.plan_iam(found)]
        return [*plan, self.upsert(trigger, found, TRIGGERS[trigger])]

    def plan_down(self, found: Found, *, with_project: bool = False) -> list[Words]:
        """What removes this deployment and nothing else, its mark last. Raises Failed."""
        plan = [self.delete(kind) for kind in self.kinds(found, ours=True)]
        if with_project and not has(found.get("configmap"), BY_UP):
            raise Failed("`up` did not create this project, so nothing was removed")
        project = self.words("ce project delete --name {project} --force")
        return [*plan[:-1], project] if with_project else plan

    def kinds(self, found: Found, *, ours: bool) -> list[str]:
        """The things with the mark of this deployment, or those of its names without it."""
        marked = dict.fromkeys(THINGS, has(found.get("configmap"), self.options["mark"]))
        marked["profile"] = has(found.get("profile"), self.options["mark"])
        return [kind for kind in THINGS if kind in found and marked[kind] is ours]

    def upsert(self, kind: str, found: Found, flags: str = "") -> Words:
        """Create it, or update it if it exists."""
        return self.words(f"{THINGS[kind]} {flags}", verb="update" if kind in found else "create")

    def delete(self, kind: str) -> Words:
        """Remove it."""
        return self.words(f"{THINGS[kind]} --force", verb="delete")

    def job_flags(self, found: Found) -> str:
        """Everything the job should have; `update` keeps what is neither named nor cleared."""
        image, private = self.options["image"], self.options["registry_secret"]
        again, token = "job" in found, str(bool(PROFILES & self.settings.keys())).lower()
        flags = {
            "--image {image}": image,
            "--build-clear": image and again,
            f"--build-source {SOURCE_COPY} --build-strategy dockerfile": not image,
            "--registry-secret {registry_secret}": private,
            "--registry-secret-clear": image and again and not private,
            "--env-from-configmap {name}-config": True,
            "--env-from-secret {name}-secret": self.secrets or "secret" in found,
            f"--trusted-profiles-enabled={token} --cpu {{cpu}} --memory {{memory}}": True,
            "--retrylimit {retry_limit} --maxexecutiontime {max_execution_time}": True,
        }
        return " ".join(flag for flag, wanted in flags.items() if wanted)

    def plan_iam(self, found: Found) -> list[Words]:
        """The trusted profile with its rights and no others; removed where it is not used."""
        o, bucket, policies = self.options, self.settings["COS_BUCKET"], found.get("policies", [])
        state = self.settings.get("FLOWLOG_STATE_BUCKET", bucket)
        roles = {bucket: READ} | ({} if o["mode"] == "simple" else {state: f"{READ},{WRITE}"})
        wanted = [self.words(POLICY + ON_BUCKET, roles=roles[on], on=on) for on in roles]
        wanted += [self.words(POLICY + ON_LOGS, roles=SEND)] if o["logs"] else []
        wanted.append(self.words(LINK, crn=found["project"]["crn"]))
        plan = [] if "profile" in found else [self.upsert("profile", found, "--description {mark}")]
        if not self.makes_profile:
            plan = [self.delete("profile")] if "profile" in found else []
            wanted, policies = [], []
        if o["trigger"] == "cos":
            wanted.append(self.words(AUTHORIZE, roles=NOTIFY, guid=found["project"]["guid"]))
        there = [*policies, *found.get("links", []), *found.get("authorizations", [])]
        plan += [create for create in wanted if not any(made_by(create, each) for each in there)]
        extra = [each for each in policies if not any(made_by(create, each) for create in wanted)]
        return plan + [self.words(DELETE_POLICY, id=policy["id"]) for policy in extra]


def made_by(create: Words, thing: Any) -> bool:
    """Whether this command of IAM makes it: it has all the arguments, and no other role."""
    texts = {text for word in create[3:] if word[:2] != "--" for text in word.split(",")}
    # Where version 1 and version 2 of IAM's API have them.
    roles = thing.get("roles") or thing.get("control", {}).get("grant", {}).get("roles") or []
    return has(thing, *texts) and len(roles) == len(texts & {READ, WRITE, SEND, NOTIFY})


def has(thing: Any, *texts: str) -> bool:
    """Whether it has all these texts, at any depth: versions of the CLI nest them differently."""
    plain, *wanted = (json.dumps(each).replace(" ", "").lower() for each in (thing, *texts))
    # IAM may name a role by its CRN, which ends in `:ObjectWriter`. Before a colon stands a key.
    return all(re.search(f'[":]{re.escape(text[1:])}(?!:)', plain) for text in wanted)


def shown(words: Words) -> str:
    """A command as a shell would take it; a long one with a line for each flag."""
    line = shlex.join(("ibmcloud", *words))
    parts = (f"\\\n    {word}" if word[:2] == "--" else shlex.quote(word) for word in words)
    return line if len(line) <= 100 else " ".join(("ibmcloud", *parts))


class Account:
    """Prints each command and runs it; in a dry run only what changes nothing in the account."""

    def __init__(self, d: Deployment, given: argparse.Namespace) -> None:
        self.d, self.given = d, given

    def up(self) -> None:
        """Create or update everything as the ini file says."""
        print("# in the secret:", ", ".join(self.d.secrets) or "nothing")
        print("# not uploaded:", ", ".join(self.d.unused) or "nothing")
        plan = self.d.plan_up(self.look(create=True))
        try:
            if not self.given.dry_run:
                self.write_files()
            for words in plan:
                self.run(words)
        finally:
            shutil.rmtree(WORK, ignore_errors=True)

    def write_files(self) -> None:
        """The secrets, and what the image is built from: not the ini file with its keys."""
        shutil.rmtree(WORK, ignore_errors=True)
        WORK.mkdir(mode=0o700)
        SECRET_FILE.touch(mode=0o600)
        SECRET_FILE.write_text("".join(f"{n}={text}\n" for n, text in self.d.secrets.items()))
        SOURCE_COPY.mkdir()
        names = re.findall("(?m)^!(.+)", Path(".dockerignore").read_text())
        for name in ("Dockerfile", ".dockerignore", *names):
            copy = shutil.copytree if Path(name).is_dir() else shutil.copy
            copy(name, SOURCE_COPY / name)

    def backfill(self) -> None:
        """Push all objects of the bucket in a large run; show its log, and end with its result."""
        if "job" not in self.d.kinds(self.look(), ours=True):
            raise Failed("this deployment has no job: run `up` first")
        run = strftime(f"{self.d.options['name']}-backfill-%Y%m%d%H%M%S")
        # A retry goes on from STATE; without that it would send again what was sent.
        goes_on = self.d.options["mode"] in ("follow", "catch-up")
        self.run(self.d.words(f"{SUBMIT} --retrylimit {3 if goes_on else 0}", run=run))
        logs = self.d.words("ce jobrun logs --jobrun {run} --follow", run=run)
        get = self.d.words("ce jobrun get --name {run} --output json", run=run)
        print(shown(logs), shown(get), "# it goes on if you interrupt this", sep="\n", flush=True)
        if self.given.dry_run:
            return
        command, lost, ended = ["ibmcloud", *logs], 0, None
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        try:
            while not ended and lost < LOST_POLLS:
                # Following the log fails where the run has not begun, and does not end by itself.
                if process.poll():
                    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
                said = self.call(get)[1]
                ended, lost = ENDED.search(said), 0 if '"status"' in said else lost + 1
                sleep(POLL_SECONDS)
        finally:
            # The CLI leaves the work to a process of its plug-in.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        if not ended or "failed" in ended.groups():
            raise Failed("the run has failed" if ended else "can't tell how the run is doing")

    def status(self) -> None:
        """Show what exists, and the recent runs."""
        self.look()
        print(self.run(self.d.words("ce jobrun list --job {name}"), reads=True))

    def logs(self) -> None:
        """Show the log of the newest run."""
        self.look()
        runs = self.ask(self.d.words("ce jobrun list --job {name} --output json")) or []
        # Kubernetes has them in `items`, and the name and time of each in `metadata`.
        runs = [r.get("metadata", r) for r in (runs["items"] if isinstance(runs, dict) else runs)]
        runs.sort(key=lambda run: run.get("created_at") or run.get("creationTimestamp") or "")
        if not runs:
            raise Failed("there is no run; those of a subscription are deleted after 10 minutes")
        logs = self.d.words("ce jobrun logs --jobrun {run}", run=runs[-1]["name"])
        print(self.run(logs, reads=True))

    def down(self) -> None:
        """Remove what `up` created, after a question."""
        found = self.look()
        plan = self.d.plan_down(found, with_project=self.given.project)
        print("# stays: the bucket", *self.d.kinds(found, ours=False), sep=", ")
        if plan and not self.given.dry_run:
            print("This is to be run:", *map(shown, plan), sep="\n")
            if input("Remove it, and with a project all that is in it? Type yes: ") != "yes":
                raise Failed("nothing was removed")
        for words in plan:
            self.run(words)

    def look(self, *, create: bool = False) -> Found:
        """Select the project, created if `create` and it is missing, and look up what exists."""
        self.run(self.d.words("target -r {region} -g {resource_group}"), reads=True)
        get = self.d.words("ce project get --name {project} --output json")
        found: Found = {"project": self.ask(get)}
        if create and not found["project"]:
            self.run(self.d.words("ce project create --name {project}"))
            dry = {"guid": "PROJECT_GUID", "crn": "PROJECT_CRN"} if self.given.dry_run else {}
            found = {"project": self.ask(get) or dry, "created": {CREATED: BY_UP}}
        if not found["project"]:
            raise Failed("there is no such project: run `up` first")
        self.run(self.d.words("ce project select --name {project}"), reads="created" not in found)
        look_ups = IAM_LOOK_UPS if "created" in found else THINGS | IAM_LOOK_UPS
        for kind, command in look_ups.items():
            wanted = kind != "authorizations" or self.d.options["trigger"] == "cos"
            if wanted and ("profile" in found or kind not in ("links", "policies")):
                thing = self.ask(self.d.words(f"{command} --output json", verb="get"))
                found |= {} if thing is None else {kind: thing}
        return found

    def run(self, words: Words, *, reads: bool = False) -> str:
        """Run it, in a dry run only if it `reads`; what it prints. Raises Failed."""
        print(shown(words), flush=True)
        if self.given.dry_run and not reads:
            return ""
        code, said = self.call(words)
        tries = SUBSCRIBE_TRIES if "--wait-timeout" in words else 1
        while code and (tries := tries - 1):
            sleep(SUBSCRIBE_SECONDS)
            code, said = self.call(words)
        if code:
            raise Failed(said)
        return said

    def ask(self, words: Words) -> Any:
        """The JSON of a look-up, None if the thing does not exist. Raises Failed."""
        code, said = self.call(words)
        missing = code and MISSING.search(said)
        print(shown(words) + ("  # does not exist" if missing else ""), flush=True)
        try:
            # Some commands say what they do before they print it.
            text = "" if code else re.sub(r"(?ms)\A.*?^(?=[\[{])", "", said)
            return None if missing else json.loads(text)
        except ValueError:
            raise Failed(said if code else "what this printed is not JSON") from None

    def call(self, words: Words) -> tuple[int, str]:
        """Its exit code and what it prints, without secrets."""
        command = ["ibmcloud", *words]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        more = f"{done.stderr}\nThen run the same command again: it goes on where it failed."
        said = done.stdout + (more if done.returncode else "")
        for secret in self.d.secrets.values():
            said = said.replace(secret, "***")
        return done.returncode, said


def main() -> int:
    """Do what the command line says: 0, 1 if something failed, 2 if the ini file is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["up", "backfill", "status", "logs", "down"])
    parser.add_argument("--ini", type=Path, default=Path("test.ini"), help="see test.ini.example")
    parser.add_argument("--dry-run", action="store_true", help="look up, print, change nothing")
    parser.add_argument("--project", action="store_true", help="down: the project too")
    given = parser.parse_args()
    # The CLI's trace would show the bodies of requests, and with them keys.
    os.environ |= {f"IBMCLOUD_{name}": "false" for name in ("TRACE", "COLOR", "VERSION_CHECK")}
    # The same signal again must not interrupt the removal of the secrets.
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, lambda n, _: (signal.signal(n, signal.SIG_IGN), sys.exit(128 + n)))
    try:
        account = Account(Deployment(*read_ini(given.ini)), given)
        os.chdir(ROOT)
        getattr(account, given.command)()
    except (Unusable, Failed, OSError, EOFError) as error:
        print(*getattr(error, "faults", [error]), sep="\n", file=sys.stderr)
        return 2 if isinstance(error, Unusable) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
