"""The plan of a deployment: the commands for each case of what is wanted and what exists.

What the first `up` runs is in docs/deploy.md for three ini files, and a test holds it there.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from typing import Any

import pytest

from deploy import code_engine
from deploy.code_engine import Deployment, Failed
from desk.ini import read_ini
from run import masking
from run.settings import Unusable
from standins import ibmcloud
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
IMAGE = {"image": "icr.io/a/flowlog:1"}
MARK = "deploy/code_engine.py: flowlog in project flowlog, us-south"
PROFILE = "flowlog-flowlog-us-south"
NOTHING: dict[str, Any] = {"project": {"guid": "GUID", "crn": "crn:v1:GUID::"}}


def deployment(*changes: dict[str, str], **deploy: str) -> Deployment:
    env = {name: text for each in (ENV, *changes) for name, text in each.items()}
    return Deployment(env, deploy or IMAGE)


def up(d: Deployment, found: dict[str, Any] = NOTHING) -> list[str]:
    return [shlex.join(words) for words in d.plan_up(found)]


def after(d: Deployment, **changes: Any) -> dict[str, Any]:
    """What look-ups give after `up`, apart from `changes`."""
    state = json.loads(json.dumps(ibmcloud.EMPTY))
    ibmcloud.call(state, ["ce", "project", "create", "--name", "flowlog"])
    state["projects"]["flowlog"] |= NOTHING["project"]
    for words in d.plan_up(NOTHING):
        # The file with the secrets exists only while `up` runs.
        pairs = [f"--from-literal={name}=x" for name in d.secrets]
        ibmcloud.call(state, [*words[:-2], *pairs] if "--from-env-file" in words else [*words])
    found = dict(NOTHING)
    for kind, command in (code_engine.THINGS | code_engine.IAM_LOOK_UPS).items():
        with contextlib.suppress(ibmcloud.Failed):
            words = d.words(f"{command} --output json", verb="get")
            found[kind] = json.loads(ibmcloud.call(state, [*words]))
    for number, policy in enumerate(found.get("policies", [])):
        policy["id"] = f"policy-{number}"
    return found | changes


# --- up ------------------------------------------------------------------------------------------

SECRET = "ce secret create --name flowlog-secret --from-env-file .deploy/secret.env"
POLICY = f"iam trusted-profile-policy-create {PROFILE} --roles"
ON_COS = f"--service-name cloud-object-storage --service-instance {COS} --resource-type bucket"


def test_the_first_time_there_is_no_secret_without_a_key() -> None:
    d = deployment(CLOUD_LOGS, {"FLOWLOG_STATE_BUCKET": "state"})
    plan = up(d)
    assert d.secrets == {} and "secret" not in str(plan) and "canary" not in str(plan)
    assert [command for command in plan if command.startswith(POLICY)] == [
        f"{POLICY} 'Content Reader' {ON_COS} --resource logs",
        f"{POLICY} 'Content Reader,Object Writer' {ON_COS} --resource state",
        f"{POLICY} Sender --service-name logs --service-instance {LOGS}",
    ]
    assert d.unused == ["APIKEY", "LOGDNA_ENDPOINT", "LOGDNA_INGESTION_KEY"]


@pytest.mark.parametrize("mode", ["follow", "simple", "catch-up"])
@pytest.mark.parametrize("destination", [{}, CLOUD_LOGS], ids=["mezmo", "cloud-logs"])
def test_again_everything_is_updated_and_nothing_created(
    mode: str, destination: dict[str, str]
) -> None:
    d = deployment(destination, mode=mode, **IMAGE)
    plan = up(d, after(d))
    kinds = ["configmap", *(["secret"] if d.secrets else []), "job"]
    kinds.append(f"subscription {'cron' if mode == 'follow' else 'cos'}")
    assert [command.split(" --")[0] for command in plan] == [f"ce {k} update" for k in kinds]
    assert "--rm" not in str(plan) and "DEPLOYED_PROJECT" not in str(plan)
    assert "--image icr.io/a/flowlog:1 --build-clear --registry-secret-clear" in plan[-2]


def test_another_mode_changes_the_trigger_first_and_the_rights() -> None:
    assert deployment(region="eu-de"), "a timer works in another region than that of the bucket"
    follow, simple = deployment(), deployment(mode="simple", **IMAGE)
    plan = up(simple, after(follow))
    assert plan[0] == "ce subscription cron delete --name flowlog --force"
    assert plan[4] == f"{POLICY} 'Content Reader' {ON_COS} --resource logs"
    assert plan[5].startswith("iam authorization-policy-create codeengine")
    assert plan[6] == f"iam trusted-profile-policy-delete {PROFILE} policy-0 --force"
    assert plan[7].startswith("ce subscription cos create") and len(plan) == 8
    plan = up(follow, after(simple))
    assert plan[0] == "ce subscription cos delete --name flowlog --force"
    assert plan[-1].startswith("ce subscription cron create")
    assert "authorization" not in str(plan) and "link" not in str(plan)


def test_another_destination_takes_the_key_of_the_old_one_away() -> None:
    mezmo, cloud_logs = deployment(), deployment(CLOUD_LOGS)
    plan = up(cloud_logs, after(mezmo))
    assert plan[0].endswith(" --rm LOGDNA_ENDPOINT")
    assert plan[1] == "ce secret update --name flowlog-secret --rm LOGDNA_INGESTION_KEY"
    assert "--env-from-secret flowlog-secret" in plan[2], "the job refers to it already"
    assert plan[3] == f"{POLICY} Sender --service-name logs --service-instance {LOGS}"
    again = up(cloud_logs, after(cloud_logs, secret={"name": "flowlog-secret"}))
    assert "ce secret" not in str(again) and "--env-from-secret flowlog-secret" in again[1]
    back = up(mezmo, after(cloud_logs))
    assert SECRET in back
    assert f"iam trusted-profile-policy-delete {PROFILE} policy-1 --force" in back


def test_from_the_profile_to_an_api_key_and_back() -> None:
    profile, key = deployment(), deployment(credentials="apikey", **IMAGE)
    assert sorted(key.secrets) == ["APIKEY", "LOGDNA_INGESTION_KEY"] and key.unused == []
    plan = up(key, after(profile))
    assert plan[0].endswith(" --rm IAM_PROFILE_NAME")
    assert "--trusted-profiles-enabled=false" in plan[2]
    assert plan[3:-1] == [f"iam trusted-profile-delete {PROFILE} --force"]
    back = up(profile, after(key))
    assert back[1] == f"{SECRET} --rm APIKEY".replace("create", "update")
    assert back[3].startswith(f"iam trusted-profile-create {PROFILE} --description")
    assert back[5].startswith(f"iam trusted-profile-link-create {PROFILE} --name flowlog")


def test_a_profile_of_ones_own_is_used_and_not_touched() -> None:
    plan = up(deployment({"IAM_PROFILE_NAME": "ours"}))
    assert not any(command.startswith("iam ") for command in plan)
    assert "--trusted-profiles-enabled=true" in str(plan)


def test_headers_and_passwords_are_secrets() -> None:
    otlp = {"LOG_DESTINATION": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://otlp.example.com"}
    otlp["OTEL_EXPORTER_OTLP_HEADERS"] = "x-key=canary-header"
    proxy = {"HTTPS_PROXY": "http://canary-word@proxy:80", "HTTP_PROXY": "http://proxy:80"}
    d = deployment(otlp, proxy)
    assert sorted(d.secrets) == ["HTTPS_PROXY", "OTEL_EXPORTER_OTLP_HEADERS"]
    assert "canary" not in str(up(d)) and "HTTP_PROXY=http://proxy:80" in up(d)[0]
    assert all(map(code_engine.SECRET.fullmatch, (*masking._SECRETS, *masking._SECRET_LISTS)))


def test_what_the_image_comes_from() -> None:
    folder, image = deployment(name="flowlog"), deployment()
    private = deployment(registry_secret="mine", **IMAGE)
    assert "--build-source .deploy/source --build-strategy dockerfile --env" in up(folder)[2]
    assert "clear" not in str(up(folder, after(image)))
    assert "--image icr.io/a/flowlog:1 --build-clear --reg" in up(image, after(folder))[2]
    update = up(private, after(image))[2]
    assert "--registry-secret mine" in update and "secret-clear" not in update


def replaced(old: str = "", new: str = "", **fields: Any) -> bool:
    """Whether `up` replaces the policy of a deployment in which `old` was changed to `new`."""
    d = deployment()
    found = after(d)
    text = json.dumps(found["policies"][0])
    assert old in text
    found["policies"] = [{**json.loads(text.replace(old, new)), **fields}]
    plan = up(d, found)
    created = f"{POLICY} 'Content Reader,Object Writer' {ON_COS} --resource logs" in plan
    assert created == (f"iam trusted-profile-policy-delete {PROFILE} policy-0 --force" in plan)
    return created


def test_a_policy_is_ours_only_if_it_says_the_same() -> None:
    prefix = "crn:v1:bluemix:public:cloud-object-storage::::serviceRole:"
    crns = [{"role_id": f"{prefix}{name}"} for name in ("ContentReader", "ObjectWriter")]
    more = [*crns, {"display_name": "Manager"}]
    assert not replaced()
    assert not replaced(roles=crns)
    assert not replaced(roles=None, control={"grant": {"roles": crns}})
    assert replaced('"Object Writer"', '"Writer"')
    assert replaced('"logs"', '"logs-of-others"') and replaced('"logs"', '"other-logs"')
    assert replaced('"logs"', '"others"', logs="a key of this name is no bucket")
    assert replaced(COS, LOGS)
    assert replaced(roles=more)
    assert replaced(roles=None, control={"grant": {"roles": more}})


def test_a_value_with_spaces_or_quotes_stays_one_argument() -> None:
    d = deployment({"FLOWLOG_PREFIX": "a b'$(c) --d"}, mode="simple", project="My logs", **IMAGE)
    words = d.plan_up(NOTHING)[-1]
    assert words[words.index("--prefix") + 1] == "a b'$(c) --d"
    assert shlex.split(code_engine.shown(words).replace("\\\n", "")) == ["ibmcloud", *words]
    assert d.words("ce project get --name {project}")[-1] == "My logs"
    assert d.options["profile"] == "flowlog-My-logs-us-south"


# --- what others made, and down ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cron", "cos", "job", "secret", "configmap", "profile"])
def test_what_others_made_is_not_touched(kind: str) -> None:
    d, theirs = deployment(), {kind: {"data": {"A": "b"}, "description": "someone's"}}
    with pytest.raises(Failed, match=f"not made by this deployment: {kind}"):
        up(d, {**NOTHING, **theirs})
    assert d.plan_down({**NOTHING, **theirs}) == []
    kept = str(d.plan_down(after(d, **theirs)))
    assert ("trusted-profile-delete" in kept) == (kind != "profile")


def test_down_removes_its_own_the_mark_last() -> None:
    d = deployment()
    assert [shlex.join(words) for words in d.plan_down(after(d))] == [
        f"iam trusted-profile-delete {PROFILE} --force",
        "ce subscription cron delete --name flowlog --force",
        "ce job delete --name flowlog --force",
        "ce secret delete --name flowlog-secret --force",
        "ce configmap delete --name flowlog-config --force",
    ]


def test_down_with_a_project_only_if_up_created_it() -> None:
    d = deployment()
    found = after(d)
    with pytest.raises(Failed, match="did not create"):
        d.plan_down(found, with_project=True)
    found["configmap"]["data"]["DEPLOYED_PROJECT"] = code_engine.BY_UP
    assert "DEPLOYED_PROJECT" not in str(up(d, found)), "an update keeps it"
    plan = d.plan_down(found, with_project=True)
    assert plan[:-1] == d.plan_down(found)[:-1], "the mark stays, so a `down` that fails goes on"
    assert plan[-1] == ("ce", "project", "delete", "--name", "flowlog", "--force")


# --- the ini file --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "deploy", "said"),
    [
        ({}, {"cos_role": "Writer"}, "[deploy] has no setting cos_role"),
        ({}, {"name": "Flow"}, "name in [deploy] can't be 'Flow'"),
        ({}, {"credentials": "hmac"}, "credentials in [deploy] can't be 'hmac'"),
        ({}, {"mode": "fast"}, "FLOWLOG_MODE"),
        ({}, {"region": "eu-de", "mode": "simple"}, "in the bucket's region, us-south"),
        ({"COS_ENDPOINT": "https://minio.example.com"}, {}, "region in [deploy] can't be ''"),
        ({"COS_CRN": "crn:v1:x:ACCOUNT:INSTANCE::"}, {}, "COS_CRN is not the CRN"),
        ({"LOGDNA_INGESTION_KEY": ""}, {}, "LOGDNA_INGESTION_KEY is not set"),
        ({"LOGDNA_INGESTION_KEY": "put-your-key-here"}, {}, "text of the example"),
        ({**CLOUD_LOGS, "CLOUD_LOGS_ENDPOINT": "x.example.com"}, {}, "https://GUID.ingress"),
        ({"FLOWLOG_CONCURRENCY": "many"}, {}, "FLOWLOG_CONCURRENCY"),
    ],
)
def test_a_fault(env: dict[str, str], deploy: dict[str, str], said: str) -> None:
    with pytest.raises(Unusable, match=re.escape(said)) as caught:
        deployment(env, **deploy)
    assert "canary" not in str(caught.value)


def test_the_example_says_what_is_missing_and_knows_every_option() -> None:
    text = (PROJECT / "test.ini.example").read_text()
    with pytest.raises(Unusable) as caught:
        Deployment(*read_ini(PROJECT / "test.ini.example"))
    said = "\n".join(caught.value.faults)
    assert "LOGDNA_INGESTION_KEY has the text of the example" in said
    assert "COS_CRN is not" in said and "APIKEY" not in said and "[deploy]" not in said
    own = text[text.index("[deploy]") :]
    assert [name for name in code_engine.DEFAULTS if f"{name} = " not in own] == []
