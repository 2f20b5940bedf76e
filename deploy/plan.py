"""What a deployment is made of, and the list of `ibmcloud` commands that brings it about.

Pure: the commands follow from the ini file and from what was looked up in the account, so that a
dry run shows, and a test compares, exactly what a run would do. Nothing is remembered between two
runs: a thing is looked up by its name, then created, or updated with all that it is to have.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from desk.ini import COS_HOST, KEYS, PROFILES, in_the_cloud, variables_read
from run.settings import Unusable

Json = Any
Words = tuple[str, ...]
Found = Mapping[str, Json]
"""By kind what was looked up, None where it is not there; `project` has a guid and a crn."""

# [deploy], all of it. The empty ones are optional, or worked out in `read_deployment`.
DEFAULTS = {
    "name": "flowlog", "project": "", "region": "", "resource_group": "Default", "mode": "",
    "schedule": "*/5 * * * *", "credentials": "profile", "image": "", "source": "",
    "registry_secret": "", "cpu": "0.125", "memory": "0.25G", "retry_limit": "",
    "max_execution_time": "7200", "array_size": "1", "backfill_cpu": "1", "backfill_memory": "4G",
}  # fmt: skip
FORMS = {
    "name": "[a-z][a-z0-9-]{0,23}[a-z0-9]", "region": "[a-z]+-[a-z]+",
    "mode": "follow|simple|remember|catch-up", "credentials": "|".join(KEYS),
    "array_size": "[1-9][0-9]{0,2}",
    # Only a registry's host and a tag may have capitals.
    "image": r"(([\w.:-]+/)?[a-z0-9][a-z0-9._/-]*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?)?",
}  # fmt: skip
SECRETS = {"LOGDNA_INGESTION_KEY", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"}
SECRETS = SECRETS.union(*KEYS.values())
READ, WRITE, SEND = "Content Reader", "Object Writer", "Sender"
# Keys of the configmap: whose the deployment is, and that `up` created its project.
MARK, CREATED = "DEPLOYED_BY", "DEPLOYED_PROJECT"
# Only there while `up` runs, for nobody else to read.
SECRET_FILE, SOURCE_COPY = ".deploy/secret.env", ".deploy/source"
GUID = "([0-9a-fA-F-]{36})"
# What stands in the project, in the order in which it goes; the last one bears the mark.
INSIDE = {
    "cron": "ce subscription cron {verb} --name {name}",
    "cos": "ce subscription cos {verb} --name {name}",
    "job": "ce job {verb} --name {name}",
    "secret": "ce secret {verb} --name {name}-secret",
    "configmap": "ce configmap {verb} --name {name}-config",
}
OUTSIDE = {
    "profile": "iam trusted-profile {profile}",
    "links": "iam trusted-profile-links {profile}",
    "policies": "iam trusted-profile-policies {profile}",
    "authorizations": "iam authorization-policies",
}


class Failed(Exception):
    """A command failed, or would touch what someone else made; the text says what to do."""


# --- what is to be run ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Deployment:
    """A checked ini file: `settings` are for the configmap, `secrets` for the secret.

    `options` are those of [deploy] and what else fills the templates. `follows` says that a timer
    starts the job, and not the bucket's events; `makes_profile` that it proves who it is by the
    trusted profile of this deployment. `unused` are names in [env] that the job does not read.
    """

    options: Mapping[str, str]
    settings: Mapping[str, str]
    secrets: Mapping[str, str] = field(repr=False)
    follows: bool
    makes_profile: bool
    unused: Words

    def words(self, template: str, **more: str) -> Words:
        """The arguments of a command. Whatever is filled in stays one argument."""
        return tuple(word.format(**self.options, **more) for word in template.split())

    def look_ups(self) -> dict[str, Words]:
        """The commands that look up what this deployment may have made."""
        asked = INSIDE | OUTSIDE
        if self.follows:
            del asked["authorizations"]
        return {kind: self.words(asked[kind] + " --output json", verb="get") for kind in asked}

    def ours(self, found: Found) -> tuple[list[str], list[str]]:
        """The kinds that this deployment made, and those of its names that someone else made."""
        there = [kind for kind in ("profile", *INSIDE) if found.get(kind) is not None]
        marked = {"profile": self.options["mark"] in strings(found.get("profile"))}
        marked |= dict.fromkeys(INSIDE, MARK in keys_of(found.get("configmap")))
        return [k for k in there if marked[k]], [k for k in there if not marked[k]]

    def plan_up(self, found: Found) -> list[Words]:
        """What makes the account as the ini file says. Raises Failed for what is not ours."""
        ours, others = self.ours(found)
        if others:
            what = "\n".join(shown(self.look_ups()[kind]) for kind in others)
            advice = "Choose another name in [deploy], or remove what is there yourself."
            raise Failed(f"not made by this deployment, though it has its names:\n{what}\n{advice}")
        trigger, other = ("cron", "cos") if self.follows else ("cos", "cron")
        start = "--schedule {schedule}"
        if not self.follows:
            start = "--bucket {bucket} --event-type write --prefix {prefix} --wait-timeout 300"
        return [
            *([self.remove(other)] if other in ours else []),
            *self.data(found),
            *self.profile(found),
            self.job(found),
            *self.rights(found),
            self.upsert(trigger, found, "--destination-type job --destination {name} " + start),
        ]

    def upsert(self, kind: str, found: Found, rest: str = "", **more: str) -> Words:
        """Creates it, or updates it where it is there."""
        verb = "create" if found.get(kind) is None else "update"
        return self.words(f"{INSIDE[kind]} {rest}", verb=verb, **more)

    def remove(self, kind: str) -> Words:
        """Removes it."""
        if kind == "profile":
            return self.words("iam trusted-profile-delete {profile} -f")
        return self.words(INSIDE[kind] + " --force", verb="delete")

    def data(self, found: Found) -> list[Words]:
        """The configmap and the secret, with these values and no others."""
        created = {CREATED: "yes"} if found.get("created") else {}
        settings = {**self.settings, MARK: self.options["mark"], **created}
        pairs = [w for name in settings for w in ("--from-literal", f"{name}={settings[name]}")]
        gone = keys_of(found.get("configmap")) - settings.keys() - {CREATED}
        plan = [(*self.upsert("configmap", found), *pairs, *rm(gone))]
        if self.secrets or found.get("secret") is not None:
            file = f"--from-env-file {SECRET_FILE}" if self.secrets else ""
            gone = keys_of(found.get("secret")) - self.secrets.keys()
            plan.append((*self.upsert("secret", found, file), *rm(gone)))
        return plan

    def job(self, found: Found) -> Words:
        """The job. What `create` leaves unset, `update` has to clear in so many words."""
        option, update = self.options, found.get("job") is not None
        words = "--image {image} --build-clear" if update else "--image {image}"
        if option["source"]:
            words = "--build-source {folder} --build-strategy dockerfile"
        if option["registry_secret"]:
            words += " --registry-secret {registry_secret}"
        elif update and option["image"]:
            words += " --registry-secret-clear"
        words += " --env-from-configmap {name}-config"
        if self.secrets or found.get("secret") is not None:
            words += " --env-from-secret {name}-secret"
        words += " --trusted-profiles-enabled={enabled} --cpu {cpu} --memory {memory}"
        words += " --retrylimit {retry_limit} --maxexecutiontime {max_execution_time}"
        folder = option["source"] if "://" in option["source"] else SOURCE_COPY
        enabled = "true" if PROFILES & self.settings.keys() else "false"
        return self.upsert("job", found, words, folder=folder, enabled=enabled)

    def profile(self, found: Found) -> list[Words]:
        """The trusted profile with its policies and no others; removed where it is not used."""
        there, has = found.get("profile") is not None, found.get("policies") or []
        if not self.makes_profile:
            return [self.remove("profile")] if there else []
        create = self.words("iam trusted-profile-create {profile} --description {mark}")
        wanted = self.policies()
        new = [each for each in wanted if not any(grants(policy, each) for policy in has)]
        old = [policy["id"] for policy in has if not any(grants(policy, each) for each in wanted)]
        delete = "iam trusted-profile-policy-delete {profile} {policy} -f"
        removed = [self.words(delete, policy=policy) for policy in old]
        return [*([] if there else [create]), *new, *removed]

    def policies(self) -> list[Words]:
        """What grants the least that the job needs."""
        bucket, roles = self.options["bucket"], {}
        if self.options["credentials"] == "profile":
            roles[bucket] = READ
            if self.options["mode"] != "simple":
                roles[self.settings.get("FLOWLOG_STATE_BUCKET", bucket)] = f"{READ},{WRITE}"
        create = "iam trusted-profile-policy-create {profile} --roles {roles}"
        cos = " --service-name cloud-object-storage --service-instance {cos}"
        cos += " --resource-type bucket --resource {where}"
        plan = [self.words(create + cos, roles=roles[where], where=where) for where in roles]
        logs = " --service-name logs --service-instance {logs}"
        return plan + ([self.words(create + logs, roles=SEND)] if self.options["logs"] else [])

    def rights(self, found: Found) -> list[Words]:
        """That the job may use the profile, and that the project may hear of new objects."""
        guid, crn = found["project"]["guid"], found["project"]["crn"]
        link = "iam trusted-profile-link-create {profile} --name {name} --cr-type CE"
        link += " --link-crn {crn} --link-component-type job --link-component-name {name}"
        hear = "iam authorization-policy-create codeengine cloud-object-storage {role}"
        hear += " --source-service-instance-id {guid} --target-service-instance-id {cos}"
        plan = []
        if self.makes_profile and not any_has(found.get("links"), crn, self.options["name"]):
            plan.append(self.words(link, crn=crn))
        has = any_has(found.get("authorizations"), guid, self.options["cos"])
        if not self.follows and not has:
            plan.append(self.words(hear, guid=guid, role="Notifications Manager"))
        return plan

    def plan_down(self, found: Found, *, with_project: bool = False) -> list[Words]:
        """What removes this deployment and nothing else, its mark last. Raises Failed."""
        plan = [self.remove(kind) for kind in self.ours(found)[0]]
        if not with_project:
            return plan
        if CREATED not in keys_of(found.get("configmap")):
            raise Failed("`up` did not create this project, so nothing was removed")
        # The right to hear of new objects bears no mark, but it is the project's alone.
        guid, listed = found["project"]["guid"], found.get("authorizations") or []
        delete = "iam authorization-policy-delete {right} -f"
        rights = [each["id"] for each in listed if any_has([each], guid, self.options["cos"])]
        project = self.words("ce project delete --name {project} --force")
        return [*plan[:-1], *(self.words(delete, right=right) for right in rights), project]


def strings(value: Json) -> set[str]:
    """All texts in it: versions of the CLI nest them differently."""
    if isinstance(value, (dict, list)):
        parts = value.values() if isinstance(value, dict) else value
        return set().union(*map(strings, parts))
    return {value} if isinstance(value, str) else set()


def any_has(there: Json, *texts: str) -> bool:
    """Whether one of those that are there has all these texts."""
    return any(set(texts) <= strings(each) for each in there or [])


def keys_of(thing: Json) -> set[str]:
    """The keys of a configmap or secret, none where it is not there. Raises Failed."""
    if thing is not None and not isinstance(thing.get("data"), dict):
        raise Failed("can't read the keys of a configmap or secret in what the CLI prints")
    return set(thing["data"]) if thing else set()


def rm(keys: set[str]) -> list[str]:
    """The arguments that take these keys out."""
    return [word for key in sorted(keys) for word in ("--rm", key)]


def grants(policy: Json, create: Words) -> bool:
    """Whether IAM's policy is what this command makes; it may name a role by its CRN."""
    said = {text.rsplit(":", 1)[-1].replace(" ", "").lower() for text in strings(policy)}
    roles, *where = create[4::2]
    known = (READ, WRITE, SEND)
    granted = [role for role in known if role.replace(" ", "").lower() in said]
    return roles.split(",") == granted and {text.lower() for text in where} <= said | {"bucket"}


def shown(words: Words) -> str:
    """A command as a shell would take it, a flag and its value never on two lines."""
    lines = ["ibmcloud"]
    for part in re.split(r" (?=--)", shlex.join(words)):
        if len(lines[-1]) + len(part) > 96 and part.startswith("--"):
            lines[-1] += " \\"
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return "\n".join(lines)


# --- what the ini file says ----------------------------------------------------------------------


def read_deployment(env: Mapping[str, str], deploy: Mapping[str, str]) -> Deployment:
    """Check both sections. Raises Unusable with all that is wrong with them."""
    o = DEFAULTS | dict(deploy)
    place = COS_HOST.search(env.get("COS_ENDPOINT", ""))
    o["project"] = o["project"] or o["name"]
    o["region"] = o["region"] or (place[1] if place else "")
    o["mode"] = o["mode"] or env.get("FLOWLOG_MODE", "") or "follow"
    # What fails in a run of the timer is tried again by the next one anyway.
    o["retry_limit"] = o["retry_limit"] or ("1" if o["mode"] == "follow" else "3")
    o["profile"] = f"{o['name']}-{o['project']}-{o['region']}".replace(" ", "-")
    o["mark"] = f"deploy/code_engine.py: {o['name']} in project {o['project']}, {o['region']}"
    cloud = in_the_cloud(env, o["credentials"], o["profile"]) | {"FLOWLOG_MODE": o["mode"]}
    read, faults = variables_read(cloud)
    url = read.get("CLOUD_LOGS_ENDPOINT", "")
    cos = re.match(f"crn:v1:.*:cloud-object-storage:[^:]*:[^:]*:{GUID}:", env.get("COS_CRN", ""))
    logs = re.match(rf"(?:https://)?{GUID}\.", url)
    o |= {"cos": cos[1].lower() if cos else "", "logs": logs[1].lower() if logs else ""}
    o["bucket"] = env.get("COS_BUCKET", "")
    o["prefix"] = env.get("FLOWLOG_PREFIX", "ibm_vpc_flowlogs_")
    secrets = {name: text for name, text in read.items() if name in SECRETS}
    settings = {name: text for name, text in read.items() if name not in SECRETS}
    makes_profile = settings.get("IAM_PROFILE_NAME") == o["profile"]
    faults += [f"[deploy] has no setting {name}" for name in deploy if name not in DEFAULTS]
    bad = [name for name, form in FORMS.items() if not re.fullmatch(form, o[name])]
    faults += [f"{name} in [deploy] can't be {o[name]!r}" for name in bad]
    if bool(o["image"]) == bool(o["source"]):
        faults.append("[deploy] needs image or source, and not both")
    if not cos:
        faults.append("COS_CRN is not the CRN of a Cloud Object Storage instance")
    if url and makes_profile and not logs:
        faults.append("CLOUD_LOGS_ENDPOINT is not https://GUID.ingress.REGION.logs.cloud.ibm.com")
    if o["mode"] != "follow" and place and place[1] != o["region"]:
        faults.append(f"the bucket's events need a project in the bucket's region, {place[1]}")
    if faults:
        raise Unusable(dict.fromkeys(faults))
    unused = tuple(sorted(env.keys() - read.keys()))
    return Deployment(o, settings, secrets, o["mode"] == "follow", makes_profile, unused)
