"""The plan of a deployment: the commands for each case of what is wanted and what is there."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy.plan import DEFAULTS, SECRETS, Deployment, Failed, read_deployment
from desk.ini import read_ini
from run import masking
from run.settings import Unusable
from tests.harness import PROJECT

COS, LOGS = "1" * 8 + "-1111-1111-1111-" + "1" * 12, "2" * 8 + "-2222-2222-2222-" + "2" * 12
ENV = {
    "COS_BUCKET": "logs",
    "COS_ENDPOINT": "s3.us-south.cloud-object-storage.appdomain.cloud",
    "COS_CRN": f"crn:v1:bluemix:public:cloud-object-storage:global:a/1:{COS}::",
    "LOGDNA_ENDPOINT": "https://logs.mezmo.com",
    "LOGDNA_INGESTION_KEY": "canary-ingestion-key",
    "APIKEY": "canary-key-of-the-desk",
}
CLOUD_LOGS = {
    "LOG_DESTINATION": "cloud-logs",
    "CLOUD_LOGS_ENDPOINT": f"https://{LOGS}.ingress.us-south.logs.cloud.ibm.com",
}
HMAC = {"COS_HMAC_ACCESS_KEY_ID": "canary-id", "COS_HMAC_SECRET_ACCESS_KEY": "canary-secret"}
IMAGE = {"image": "icr.io/a/flowlog:1"}
PROJECT_FOUND = {"project": {"guid": "GUID", "crn": "CRN"}}
MARK = "deploy/code_engine.py: flowlog in project flowlog, us-south"
PROFILE = "flowlog-flowlog-us-south"


def deployment(*changes: dict[str, str], **deploy: str) -> Deployment:
    env = dict(ENV)
    for change in changes:
        env |= change
    return read_deployment(env, deploy or IMAGE)


def faults(*changes: dict[str, str], **deploy: str) -> str:
    with pytest.raises(Unusable) as caught:
        deployment(*changes, **deploy)
    return "\n".join(caught.value.faults)


def up(d: Deployment, **found: Any) -> list[str]:
    return [shlex.join(words) for words in d.plan_up({**PROJECT_FOUND, **found})]


def found_after(d: Deployment) -> dict[str, Any]:
    """What look-ups give after `up`, in the forms that the CLI may print."""
    policies = [
        {"id": f"policy-{number}", "roles": [{"display_name": r} for r in words[4].split(",")],
         "resources": [{"attributes": [{"value": value} for value in words[6::2]]}]}
        for number, words in enumerate(d.policies() if d.makes_profile else [])
    ]  # fmt: skip
    trigger = {"cron": {}} if d.follows else {"cos": {}}
    secret = {"secret": {"data": dict.fromkeys(d.secrets, "x")}} if d.secrets else {}
    profile = {
        "profile": {"id": "Profile-1", "description": d.options["mark"]},
        "links": [{"id": "link", "link": {"crn": "CRN", "component_name": "flowlog"}}],
        "policies": policies,
    }
    return {
        "configmap": {"data": {**d.settings, "DEPLOYED_BY": d.options["mark"]}},
        "job": {"name": "flowlog"},
        "authorizations": [{"id": "right", "subjects": ["GUID"], "resources": [COS]}],
        **trigger, **secret, **(profile if d.makes_profile else {}),
    }  # fmt: skip


# --- up ------------------------------------------------------------------------------------------

CONFIGMAP = (
    "ce configmap create --name flowlog-config --from-literal COS_BUCKET=logs --from-literal"
    " COS_ENDPOINT=s3.direct.us-south.cloud-object-storage.appdomain.cloud --from-literal"
    f" COS_CRN={ENV['COS_CRN']} --from-literal"
)
POLICY = f"iam trusted-profile-policy-create {PROFILE} --roles"
ON_COS = f"--service-name cloud-object-storage --service-instance {COS} --resource-type bucket"
JOB = (
    "--env-from-configmap flowlog-config --env-from-secret flowlog-secret"
    " --trusted-profiles-enabled=true --cpu 0.125 --memory 0.25G --retrylimit {retries}"
    " --maxexecutiontime 7200"
)
LINK = (
    f"iam trusted-profile-link-create {PROFILE} --name flowlog --cr-type CE --link-crn CRN"
    " --link-component-type job --link-component-name flowlog"
)
TIMER = (
    "ce subscription cron create --name flowlog --destination-type job --destination flowlog"
    " --schedule '*/5 * * * *'"
)
EVENTS = (
    "ce subscription cos create --name flowlog --destination-type job --destination flowlog"
    " --bucket logs --event-type write --prefix ibm_vpc_flowlogs_ --wait-timeout 300"
)
SECRET = "ce secret create --name flowlog-secret --from-env-file .deploy/secret.env"
CREATE_PROFILE = f"iam trusted-profile-create {PROFILE} --description '{MARK}'"


def test_the_first_time_to_mezmo() -> None:
    d = deployment()
    assert up(d, created=True) == [
        f"{CONFIGMAP} LOGDNA_ENDPOINT=https://logs.mezmo.com --from-literal"
        f" IAM_PROFILE_NAME={PROFILE} --from-literal FLOWLOG_MODE=follow"
        f" --from-literal 'DEPLOYED_BY={MARK}' --from-literal DEPLOYED_PROJECT=yes",
        SECRET,
        CREATE_PROFILE,
        f"{POLICY} 'Content Reader,Object Writer' {ON_COS} --resource logs",
        f"ce job create --name flowlog --image icr.io/a/flowlog:1 {JOB.format(retries=1)}",
        LINK,
        TIMER,
    ]
    assert d.secrets == {"LOGDNA_INGESTION_KEY": ENV["LOGDNA_INGESTION_KEY"]}
    assert d.unused == ("APIKEY",)
    assert "canary" not in repr(d)


def test_the_first_time_to_cloud_logs_there_is_no_secret_at_all() -> None:
    d = deployment(CLOUD_LOGS)
    plan = up(replace(d, settings={**d.settings, "FLOWLOG_STATE_BUCKET": "state"}))
    assert d.secrets == {}
    assert not any("secret" in command for command in plan)
    assert [command for command in plan if command.startswith(POLICY)] == [
        f"{POLICY} 'Content Reader' {ON_COS} --resource logs",
        f"{POLICY} 'Content Reader,Object Writer' {ON_COS} --resource state",
        f"{POLICY} Sender --service-name logs --service-instance {LOGS}",
    ]
    assert {"LOGDNA_ENDPOINT", "LOGDNA_INGESTION_KEY", "APIKEY"} <= set(d.unused)


def test_the_first_time_with_events() -> None:
    assert up(deployment(mode="simple", **IMAGE))[1:] == [
        SECRET,
        CREATE_PROFILE,
        f"{POLICY} 'Content Reader' {ON_COS} --resource logs",
        f"ce job create --name flowlog --image icr.io/a/flowlog:1 {JOB.format(retries=3)}",
        LINK,
        "iam authorization-policy-create codeengine cloud-object-storage 'Notifications Manager'"
        f" --source-service-instance-id GUID --target-service-instance-id {COS}",
        EVENTS,
    ]


@pytest.mark.parametrize("mode", ["follow", "simple", "remember", "catch-up"])
@pytest.mark.parametrize("destination", [{}, CLOUD_LOGS], ids=["mezmo", "cloud-logs"])
def test_again_everything_is_updated_and_nothing_made(
    mode: str, destination: dict[str, str]
) -> None:
    d = deployment(destination, mode=mode, **IMAGE)
    plan = up(d, **found_after(d))
    trigger = "cron" if mode == "follow" else "cos"
    kinds = ["configmap", *(["secret"] if d.secrets else []), "job", f"subscription {trigger}"]
    assert [command.split(" --")[0] for command in plan] == [f"ce {k} update" for k in kinds]
    assert not any("--rm" in command for command in plan)
    assert "--image icr.io/a/flowlog:1 --build-clear --registry-secret-clear" in plan[-2]


def test_another_mode_changes_the_trigger_first_and_the_rights() -> None:
    follow, simple = deployment(), deployment(mode="simple", **IMAGE)
    plan = up(simple, **{**found_after(follow), "authorizations": []})
    assert plan[0] == "ce subscription cron delete --name flowlog --force"
    assert f"{POLICY} 'Content Reader' {ON_COS} --resource logs" in plan
    assert f"iam trusted-profile-policy-delete {PROFILE} policy-0 -f" in plan
    assert plan[-1] == EVENTS
    plan = up(follow, **found_after(simple))
    assert plan[0] == "ce subscription cos delete --name flowlog --force"
    assert plan[-1] == TIMER
    assert plan[-2].startswith("ce job update"), "the link stays"


def test_another_destination_takes_the_key_of_the_old_one_away() -> None:
    plan = up(deployment(CLOUD_LOGS), **found_after(deployment()))
    assert plan[0].endswith(" --rm LOGDNA_ENDPOINT")
    assert plan[1] == "ce secret update --name flowlog-secret --rm LOGDNA_INGESTION_KEY"
    assert plan[2] == f"{POLICY} Sender --service-name logs --service-instance {LOGS}"
    assert "--env-from-secret flowlog-secret" in plan[3], "a reference that it has"
    back = up(deployment(), **found_after(deployment(CLOUD_LOGS)))
    assert SECRET in back
    assert any(command.endswith("-delete " + f"{PROFILE} policy-1 -f") for command in back)


@pytest.mark.parametrize(
    ("credentials", "secrets", "profile", "policies"),
    [
        ("profile", [], True, 2),
        ("apikey", ["APIKEY"], False, 0),
        ("hmac", sorted(HMAC), True, 1),
    ],
)
def test_credentials(credentials: str, secrets: list[str], profile: bool, policies: int) -> None:
    d = deployment(CLOUD_LOGS, HMAC, credentials=credentials, **IMAGE)
    assert sorted(d.secrets) == secrets
    assert d.makes_profile is profile
    plan = up(d)
    assert sum(command.startswith(POLICY) for command in plan) == policies
    assert any(f"--trusted-profiles-enabled={str(profile).lower()}" in each for each in plan)
    if not profile:
        again = up(d, **found_after(deployment(CLOUD_LOGS)))
        assert f"iam trusted-profile-delete {PROFILE} -f" in again


def test_the_headers_for_an_opentelemetry_backend_are_a_secret() -> None:
    otlp = {
        "LOG_DESTINATION": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://otlp.example.com",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=canary-header",
    }
    d = deployment(otlp)
    assert d.secrets == {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=canary-header"}
    assert d.settings["OTEL_EXPORTER_OTLP_ENDPOINT"] == "https://otlp.example.com"


def test_a_profile_of_ones_own_is_used_and_not_touched() -> None:
    d = deployment({"IAM_PROFILE_NAME": "ours"})
    assert not any(command.startswith("iam ") for command in up(d))
    assert any("--trusted-profiles-enabled=true" in command for command in up(d))


def test_a_policy_may_name_its_roles_by_crn() -> None:
    d, found = deployment(), found_after(deployment())
    prefix = "crn:v1:bluemix:public:cloud-object-storage::::serviceRole:"
    found["policies"][0]["roles"] = [f"{prefix}ContentReader", f"{prefix}ObjectWriter"]
    assert not any("policy" in command for command in up(d, **found))


def test_what_the_image_comes_from() -> None:
    there = found_after(deployment())
    built = deployment(source=".")
    assert "--build-source .deploy/source --build-strategy dockerfile --env" in up(built)[4]
    (update,) = [c for c in up(built, **there) if c.startswith("ce job update")]
    assert "clear" not in update
    remote = deployment(source="https://git.example.com/flowlog", registry_secret="r")
    assert "--build-source https://git.example.com/flowlog --build-" in up(remote)[4]
    private = deployment(registry_secret="mine", **IMAGE)
    (update,) = [c for c in up(private, **there) if c.startswith("ce job update")]
    assert "--registry-secret mine" in update and "secret-clear" not in update


def test_a_value_with_spaces_or_quotes_stays_one_argument() -> None:
    d = deployment({"FLOWLOG_PREFIX": "a b'$(c)"}, mode="simple", project="My logs", **IMAGE)
    plan = d.plan_up(PROJECT_FOUND)
    assert plan[-1][plan[-1].index("--prefix") + 1] == "a b'$(c)"
    assert d.words("ce project get --name {project}")[-1] == "My logs"
    assert d.options["profile"] == "flowlog-My-logs-us-south"


# --- what is of others ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cron", "cos", "job", "secret", "configmap", "profile"])
def test_what_others_made_is_not_touched(kind: str) -> None:
    theirs = {kind: {"data": {}, "description": "someone's"}}
    with pytest.raises(Failed, match="not made by this deployment"):
        up(deployment(), **theirs)
    d = deployment()
    assert d.plan_down({**PROJECT_FOUND, **theirs}) == []
    if kind == "profile":
        kept = d.plan_down({**PROJECT_FOUND, **found_after(d), **theirs})
        assert not any("trusted-profile-delete" in command for command in kept)


def test_what_cannot_be_read_is_not_guessed() -> None:
    with pytest.raises(Failed, match="can't read the keys"):
        up(deployment(), configmap={"name": "flowlog-config"})


# --- down ----------------------------------------------------------------------------------------


def test_down_removes_its_own_the_mark_last() -> None:
    d = deployment()
    assert [shlex.join(words) for words in d.plan_down({**PROJECT_FOUND, **found_after(d)})] == [
        f"iam trusted-profile-delete {PROFILE} -f",
        "ce subscription cron delete --name flowlog --force",
        "ce job delete --name flowlog --force",
        "ce secret delete --name flowlog-secret --force",
        "ce configmap delete --name flowlog-config --force",
    ]


def test_down_with_a_project_only_if_up_created_it() -> None:
    d = deployment(mode="simple", **IMAGE)
    found = {**PROJECT_FOUND, **found_after(d)}
    with pytest.raises(Failed, match="did not create"):
        d.plan_down(found, with_project=True)
    found["configmap"]["data"]["DEPLOYED_PROJECT"] = "yes"
    plan = [shlex.join(words) for words in d.plan_down(found, with_project=True)]
    assert plan[-2:] == [
        "iam authorization-policy-delete right -f",
        "ce project delete --name flowlog --force",
    ]
    assert not any("configmap" in command for command in plan), "a `down` that fails goes on"


# --- the ini file --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "deploy", "said"),
    [
        ({}, {"cos_role": "Writer", **IMAGE}, "[deploy] has no setting cos_role"),
        ({}, {"name": "Flow"}, "name in [deploy] can't be 'Flow'"),
        ({}, {"mode": "fast", **IMAGE}, "mode in [deploy]"),
        ({}, {"credentials": "none", **IMAGE}, "credentials in [deploy]"),
        ({}, {"image": "ghcr.io/OWNER/flowlog:1"}, "image in [deploy]"),
        ({}, {"name": "x"}, "needs image or source"),
        ({}, {"source": ".", **IMAGE}, "needs image or source"),
        ({}, {"region": "eu-de", "mode": "simple", **IMAGE}, "in the bucket's region, us-south"),
        ({"COS_ENDPOINT": "https://minio.example.com"}, IMAGE, "region in [deploy] can't be ''"),
        ({"COS_CRN": "crn:v1:x:ACCOUNT:INSTANCE::"}, IMAGE, "COS_CRN is not the CRN"),
        ({"LOGDNA_INGESTION_KEY": ""}, IMAGE, "LOGDNA_INGESTION_KEY is not set"),
        ({"LOGDNA_INGESTION_KEY": "put-your-key-here"}, IMAGE, "text of the example"),
        ({**CLOUD_LOGS, "CLOUD_LOGS_ENDPOINT": "x.example.com"}, IMAGE, "https://GUID.ingress"),
        ({"FLOWLOG_CONCURRENCY": "many"}, IMAGE, "FLOWLOG_CONCURRENCY"),
    ],
)
def test_a_fault(env: dict[str, str], deploy: dict[str, str], said: str) -> None:
    assert said in faults(env, **deploy)


def test_all_faults_are_said_at_once_without_a_secret() -> None:
    text = faults({"COS_BUCKET": "a/b", "LOGDNA_ENDPOINT": ""}, name="-", colour="red")
    for said in ("COS_BUCKET", "LOGDNA_ENDPOINT", "name in", "colour", "image or source"):
        assert said in text
    assert "canary" not in text


def test_follow_needs_no_project_in_the_region_of_the_bucket() -> None:
    assert deployment(region="eu-de", **IMAGE).options["region"] == "eu-de"


def test_the_example_says_what_is_missing_and_knows_every_option() -> None:
    text = (PROJECT / "test.ini.example").read_text()
    env, deploy = read_ini(PROJECT / "test.ini.example")
    with pytest.raises(Unusable) as caught:
        read_deployment(env, deploy)
    said = "\n".join(caught.value.faults)
    assert "LOGDNA_INGESTION_KEY has the text of the example" in said
    assert "COS_CRN is not" in said and "APIKEY" not in said and "[deploy]" not in said
    own = text[text.index("[deploy]") :]
    assert [name for name in DEFAULTS if f"{name} = " not in own] == []


def test_every_secret_of_the_job_goes_to_the_secret() -> None:
    assert set(masking._SECRETS) <= SECRETS


@pytest.mark.parametrize("path", sorted((PROJECT / "deploy" / "examples").glob("*.ini")))
def test_the_examples_can_be_used(path: Path) -> None:
    assert read_deployment(*read_ini(path)).plan_up(PROJECT_FOUND)
