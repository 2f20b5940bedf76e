"""deploy/code-engine.sh against a recording stand-in of the `ibmcloud` CLI."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run import settings as job
from standins.ibmcloud import authorization, mutates
from test_flowlog_to_logdna import Unusable, read_ini
from tests.desk import (
    CLOUD_LOGS,
    COS_GUID,
    CRN,
    ENV,
    LOGS_GUID,
    ONE_CHANGE,
    SCRIPT,
    SUMMARY,
    Desk,
    Done,
    deployed_things,
)
from tests.harness import PROJECT, SECRETS, settings_read

# --- up ------------------------------------------------------------------------------------------

FROM_NOTHING = [
    "ce project create",
    "iam authorization-policy-create",
    "iam service-id-create",
    "iam service-policy-create",
    "iam service-api-key-create",
    "ce secret create",
    "ce configmap create",
    "ce job create",
    "ce subscription cos create",
]


def test_up_from_nothing(desk: Desk) -> None:
    done = desk.up()
    assert done.changes == FROM_NOTHING
    state, project = desk.account.state, desk.project
    (service_id,) = state["service_ids"].values()
    assert project["secret"]["flowlog-secret"] == {
        "APIKEY": service_id["keys"]["flowlog-key"],
        "LOGDNA_INGESTION_KEY": SECRETS["LOGDNA_INGESTION_KEY"],
    }
    assert project["configmap"]["flowlog-config"] == {
        "COS_BUCKET": "my-flow-logs",
        "COS_ENDPOINT": "s3.direct.us-south.cloud-object-storage.appdomain.cloud",
        "COS_CRN": CRN,
        "LOGDNA_ENDPOINT": "https://logs.mezmo.com",
    }
    assert project["subscription"]["flowlog"] == {
        "--name": "flowlog",
        "--destination-type": "job",
        "--destination": "flowlog",
        "--bucket": "my-flow-logs",
        "--event-type": "write",
        "--prefix": "ibm_vpc_flowlogs_",
    }
    assert project["job"]["flowlog"]["--retrylimit"] == "3"
    (policy,) = service_id["policies"].values()
    assert policy == {
        "--roles": "Content Reader",
        "--service-name": "cloud-object-storage",
        "--service-instance": COS_GUID,
        "--resource-type": "bucket",
        "--resource": "my-flow-logs",
    }


def test_up_twice_changes_nothing(desk: Desk) -> None:
    desk.up()
    before = desk.account.state
    again = desk.up()
    assert not [call for call in again.calls if mutates(call)]
    assert desk.account.state == before


def test_up_for_cloud_logs_may_send_too(desk: Desk) -> None:
    desk.env |= CLOUD_LOGS
    desk.up()
    (service_id,) = desk.account.state["service_ids"].values()
    roles = {
        each["--service-instance"]: each["--roles"] for each in service_id["policies"].values()
    }
    assert roles == {COS_GUID: "Content Reader", LOGS_GUID: "Sender"}
    assert list(desk.project["secret"]["flowlog-secret"]) == ["APIKEY"]
    assert not [call for call in desk.up().calls if mutates(call)]


def test_a_mode_with_state_may_write(desk: Desk) -> None:
    desk.env["FLOWLOG_MODE"] = "catch-up"
    assert "Writer" in desk.up().call("iam service-policy-create")


@pytest.mark.parametrize(
    "given",
    [
        {"APIKEY": SECRETS["APIKEY"]},
        {
            "COS_HMAC_ACCESS_KEY_ID": "canary-id",
            "COS_HMAC_SECRET_ACCESS_KEY": SECRETS["COS_HMAC_SECRET_ACCESS_KEY"],
        },
    ],
    ids=["an API key", "HMAC"],
)
def test_no_service_id_where_the_file_has_credentials(desk: Desk, given: dict[str, str]) -> None:
    desk.env |= given
    assert not [change for change in desk.up().changes if "service" in change]
    assert desk.project["secret"]["flowlog-secret"] == given | {
        "LOGDNA_INGESTION_KEY": SECRETS["LOGDNA_INGESTION_KEY"]
    }


@ONE_CHANGE
def test_a_changed_setting_changes_only_what_it_concerns(
    desk: Desk, env: dict[str, str], deploy: dict[str, str], expected: list[str]
) -> None:
    desk.up()
    made_key = desk.project["secret"]["flowlog-secret"]["APIKEY"]
    desk.env |= env
    desk.deploy |= deploy
    assert desk.up().changes == expected
    secret, config = (desk.project[kind] for kind in ("secret", "configmap"))
    # Only what had a value is blanked.
    assert {*secret["flowlog-secret"], *config["flowlog-config"]} <= {*ENV, *env, "APIKEY"}
    pod = {**secret["flowlog-secret"], **config["flowlog-config"]}
    for name, value in (ENV | env | {"APIKEY": env.get("APIKEY", made_key)}).items():
        if name != "COS_ENDPOINT":
            assert pod[name] == value
    assert not [call for call in desk.up().calls if mutates(call)]


def test_a_key_that_leaves_the_file_is_replaced_by_one_that_is_made(desk: Desk) -> None:
    desk.env["APIKEY"] = "canary-own"
    desk.up()
    desk.env.pop("APIKEY")
    assert "iam service-api-key-create" in desk.up().changes
    assert desk.project["secret"]["flowlog-secret"]["APIKEY"].startswith("canary-made-key-")


def test_what_was_removed_by_hand_comes_back(desk: Desk) -> None:
    desk.up()
    state = desk.account.state
    state["service_ids"].clear()
    state["authorizations"].clear()
    state["projects"]["flowlog"]["job"].clear()
    desk.account.state = state
    desk.up()
    (service_id,) = desk.account.state["service_ids"].values()
    assert desk.project["secret"]["flowlog-secret"]["APIKEY"] == service_id["keys"]["flowlog-key"]
    assert desk.project["job"] and desk.account.state["authorizations"]


RECORD = ("configmap", "flowlog-record")


@pytest.mark.parametrize("record", [None, {"note": "of someone else"}])
def test_what_others_made_is_not_touched(desk: Desk, record: dict[str, str] | None) -> None:
    desk.up()
    desk.change(*RECORD, to=record)
    state = desk.account.state
    done = desk.run("up")
    assert done.code == 1
    for name in ("job flowlog", "secret flowlog-secret", "service ID flowlog-flowlog-us-south"):
        assert name in done.text
    assert ("configmap flowlog-record\n" in done.text) is (record is not None)
    said = "record is there, but does not say" if record else "says that `up` made anything"
    assert said in desk.run("status").text
    assert said in desk.run("backfill").text
    done = desk.run("down", "--yes")
    assert done.code == (1 if record else 0), "an odd record may be one that isn't understood"
    assert said in done.text and "service-id-delete" in done.text
    assert desk.account.state == state


def test_a_record_that_cannot_be_read_is_not_taken_for_none(desk: Desk) -> None:
    desk.up()
    desk.intercept('*"configmap get --name flowlog-record"*', "echo; exit")
    for command in (["up", "--adopt"], ["down", "--yes"], ["backfill"], ["status"]):
        done = desk.run(*command)
        assert done.code == 1
        assert "failed: ibmcloud ce configmap get --name flowlog-record" in done.text
        assert done.changes == []


def test_a_service_id_of_others_beside_a_new_project(desk: Desk) -> None:
    desk.up()
    ours = desk.account.state["service_ids"]
    desk.down("--project")
    desk.account.set(service_ids=ours)
    done = desk.run("up")
    assert done.code == 1
    assert f"to remove it: {desk.command('down', '--project')}" in done.text
    desk.down("--project")
    assert desk.account.state["projects"] == {} and desk.account.state["service_ids"] == ours


@pytest.mark.parametrize("kind", ["secret", "configmap", "job", "subscription"])
@pytest.mark.parametrize(
    "text", ["503", "You are not authorized to do this.", "It already exists."]
)
def test_what_up_never_made_is_not_its_own(desk: Desk, kind: str, text: str) -> None:
    """Others make it before `up` comes to it, or because `up` was refused to."""
    command = "subscription cos" if kind == "subscription" else kind
    desk.up()
    name = next(name for name in desk.project[kind] if "record" not in name)
    desk.down("--project")
    if text == "503":
        desk.fail_once('*"service-id-create"*', text)
    else:
        desk.fail_once(f'*"{command} create --name {name} "*', text)
    assert desk.run("up").code == 1
    theirs = {"--image": "of others"} if kind == "job" else {"x": "y"}
    desk.change(kind, name, to=theirs)
    done = desk.run("up")
    assert done.code == 1
    assert f"not made by this script, but of the same name:\n  {kind} {name}" in done.text
    assert f"{kind} {name}" in desk.down().text.partition("Left as it is:")[2]
    assert desk.project[kind][name] == theirs


def test_what_is_there_unseen_stays_others(desk: Desk) -> None:
    """A service that is slow to show what others made."""
    desk.account.set(fail={"command": "ce configmap create", "when": "after", "text": "503"})
    desk.run("up")  # the project, and the record of it
    desk.account.set(fail=None)
    desk.change("secret", "flowlog-secret", to={"x": "y"})
    shown = desk.folder / "shown"
    desk.intercept('*"secret get"*', f"[ -e {shown} ] || {{ echo secret not found; exit 1; }}")
    for _ in range(3):
        assert "already exists" in desk.run("up").text
    shown.touch()
    assert "not made by this script" in desk.run("up").text
    desk.down()
    assert desk.project["secret"] == {"flowlog-secret": {"x": "y"}}


@pytest.mark.parametrize("command", ["subscription cos", "job", "secret"])
def test_a_refusal_after_it_was_made(desk: Desk, command: str) -> None:
    """Where it is there after all, `up` goes on with it."""
    text = "It was created but is not ready: not authorized to read the bucket."
    create = f"ce {command} create --name flowlog"
    desk.account.set(fail={"command": create, "when": "after", "text": text})
    assert f"failed: ibmcloud {create}" in desk.run("up").text
    desk.account.set(fail=None)
    desk.up()
    desk.down()
    assert not desk.project["subscription"] and not desk.project["job"]
    assert not desk.project["secret"]


def test_a_refusal_after_the_authorization_was_made(desk: Desk) -> None:
    text = "It was made, but you are not authorized to read it."
    create = "iam authorization-policy-create"
    desk.account.set(fail={"command": create, "when": "after", "text": text})
    assert f"failed: ibmcloud {create}" in desk.run("up").text
    desk.account.set(fail=None)
    desk.up()
    desk.down()
    assert desk.account.state["authorizations"] == []


def test_an_authorization_that_anothers_subscription_of_the_same_name_needs(desk: Desk) -> None:
    desk.fail_once('*"subscription cos create"*', "You are not authorized to do this.")
    desk.run("up")
    theirs = {"--bucket": "my-flow-logs", "--destination": "other"}
    desk.change("subscription", "flowlog", to=theirs)
    assert "subscription flowlog of this project may need it" in desk.down().text
    assert len(desk.account.state["authorizations"]) == 1
    assert desk.project["subscription"] == {"flowlog": theirs}


def test_a_refusal_is_told_also_where_it_cannot_be_noted(desk: Desk) -> None:
    desk.intercept('*"job create"*', "echo You are not authorized to do this. >&2; exit 1")
    desk.intercept('*"job get"*|*"JOB=none"*', "echo 503 >&2; exit 1")
    desk.run("up")
    desk.account.program.write_text(desk.account.program.read_text().replace('*"job get"*|', ""))
    told = desk.run("up").text
    assert "You are not authorized to do this." in told and "lacks a right" in told


def test_status_says_what_others_made(desk: Desk) -> None:
    desk.fail_once('*"job create"*', "You are not authorized to do this.")
    desk.run("up")
    desk.change("job", "flowlog", to={"--image": "of others"})
    assert "others'   job flowlog" in desk.run("status").text


def test_a_role_that_is_not_given_is_not_looked_at(desk: Desk) -> None:
    desk.env |= {"COS_HMAC_ACCESS_KEY_ID": "x", "COS_HMAC_SECRET_ACCESS_KEY": "canary"}
    desk.env |= {**CLOUD_LOGS, "FLOWLOG_MODE": "remember"}
    desk.deploy["cos_role"] = "Reader"
    assert desk.run("up", "--dry-run").code == 0


def test_down_with_the_project_names_what_others_made_in_it(desk: Desk) -> None:
    desk.fail_once('*"job create"*', "You are not authorized to do this.")
    desk.run("up")
    desk.change("job", "flowlog", to={"--image": "of others"})
    asked, _, left = desk.down("--project").text.partition("Left as it is:")
    assert "ALL that is in it, job flowlog, with its runs and their logs (not made by" in asked
    assert "job flowlog" not in left


def test_what_up_may_have_made_is_its_own(desk: Desk) -> None:
    """An answer that got lost, and a service that is slow to show what it has made."""
    desk.fail_once('*"job create"*', "503")
    assert "failed: ibmcloud ce job create" in desk.run("up").text
    desk.change("job", "flowlog", to={"--image": "x"})
    desk.intercept(
        '*"job get"*', f"[ -e {desk.folder}/shown ] || {{ echo job not found; exit 1; }}"
    )
    assert "already exists" in desk.run("up").text
    (desk.folder / "shown").touch()
    desk.up()
    desk.down()
    assert desk.project["job"] == {}


def test_a_service_id_that_could_not_be_made_is_not_ours(desk: Desk) -> None:
    desk.fail_once('*"service-id-create"*', "You are not authorized to do this.")
    done = desk.run("up")
    assert done.code == 1 and "You are not authorized" in done.text
    # The administrator, who was asked, makes it.
    theirs = {"flowlog-flowlog-us-south": {"policies": {}, "keys": {"other": "canary"}}}
    desk.account.set(service_ids=theirs)
    assert "not made by this script" in desk.run("up").text
    desk.down()
    assert desk.account.state["service_ids"] == theirs


@pytest.mark.parametrize("record", [None, {"note": "of someone else"}])
def test_what_is_taken_over_is_what_the_file_says(
    desk: Desk, record: dict[str, str] | None
) -> None:
    """Nothing of an older deployment may stay, such as a setting that wins over the file's."""
    desk.up()
    fresh = desk.account.state
    desk.change(*RECORD, to=record)
    desk.change("configmap", "flowlog-config", "FLOWLOG_MODE", to="catch-up")
    desk.change("configmap", "flowlog-config", "APIKEY", to="older")
    desk.change("secret", "flowlog-secret", "COS_HMAC_ACCESS_KEY_ID", to="older")
    desk.change("job", "flowlog", "--env", to=["FLOWLOG_MODE=catch-up"])
    state = desk.account.state
    state["service_ids"]["flowlog-flowlog-us-south"]["keys"]["other"] = "canary-other"
    desk.account.state = state
    desk.up("--adopt")
    assert deployed_things(desk.account.state) == deployed_things(fresh)
    assert not [call for call in desk.up().calls if mutates(call)]


def test_an_authorization_that_was_there_is_kept(desk: Desk) -> None:
    desk.up()
    state = desk.account.state
    project = state["projects"]["flowlog"]
    for kind in ("configmap", "secret", "job", "subscription"):
        project[kind].clear()
    state["service_ids"].clear()
    other = authorization("codeengine", "other", "cloud-object-storage", COS_GUID, "Reader")
    state["authorizations"].append(other)
    desk.account.state = state
    assert "iam authorization-policy-create" not in desk.up().changes
    done = desk.run("down", "--yes")
    assert "it was there before" in done.text
    (kept,) = (each for each in state["authorizations"] if each != other)
    assert f"ibmcloud iam authorization-policy-delete {kept['id']}" in done.text
    assert desk.account.state["authorizations"] == state["authorizations"]


def test_another_deployment_on_the_same_bucket_is_warned_of(desk: Desk) -> None:
    assert "WARNING" not in desk.up().text
    desk.deploy |= {"name": "second", "project": "flowlog"}
    said = desk.up().text
    assert "WARNING: subscription flowlog of this project is on bucket my-flow-logs too" in said
    assert "WARNING" not in desk.up().text, "once"
    desk.deploy |= {"name": "third", "project": "third"}
    assert "WARNING: 1 other Code Engine projects may hear" in desk.up().text


def authorized_by_others(desk: Desk, instance: str) -> dict[str, Any]:
    """Someone else has the project hear of objects in this COS instance."""
    state = desk.account.state
    others = authorization(
        "codeengine", desk.project["id"], "cloud-object-storage", instance, "Notifications Manager"
    )
    state["authorizations"].append(others)
    desk.account.state = state
    return others


def test_an_authorization_goes_with_the_instance_it_was_made_for(desk: Desk) -> None:
    desk.up()
    others = authorized_by_others(desk, LOGS_GUID)
    desk.env["COS_CRN"] = CRN.replace(COS_GUID, LOGS_GUID)
    # Without an `up` for the new instance, `down` removes the old one's and not the other.
    before = desk.account.state
    desk.down()
    assert desk.account.state["authorizations"] == [others]
    desk.account.state = before
    desk.up()
    assert desk.account.state["authorizations"] == [others]
    desk.down()
    assert desk.account.state["authorizations"] == [others]


def test_an_authorization_of_others_never_becomes_ours(desk: Desk) -> None:
    desk.up()
    authorized_by_others(desk, LOGS_GUID)
    desk.env["COS_CRN"] = CRN.replace(COS_GUID, LOGS_GUID)
    desk.up()
    # The one on the first instance is gone by now; this is another one.
    authorized_by_others(desk, COS_GUID)
    state = desk.account.state
    desk.up()
    desk.down()
    assert desk.account.state["authorizations"] == state["authorizations"]


def test_an_authorization_of_others_is_none_of_two_that_are_ours(desk: Desk) -> None:
    desk.up()
    # The second one is made, but the first one isn't removed yet.
    desk.env["COS_CRN"] = CRN.replace(COS_GUID, LOGS_GUID)
    desk.fail_once('*"policy-delete"*', "503")
    assert desk.run("up").code == 1
    third = LOGS_GUID.replace("6", "9")
    authorized_by_others(desk, third)
    desk.env["COS_CRN"] = CRN.replace(COS_GUID, third)
    desk.up()
    desk.down()
    (left,) = desk.account.state["authorizations"]
    assert third in str(left)


@pytest.mark.parametrize(
    ("text", "code"), [("The policy already exists.", 0), ("You are not authorized to do this.", 1)]
)
def test_an_authorization_that_could_not_be_made_is_not_ours(
    desk: Desk, text: str, code: int
) -> None:
    """An administrator makes it, or has made it in a way that isn't found in the list."""
    desk.fail_once('*"authorization-policy-create"*', text)
    if code == 0:
        desk.intercept('*"subscription cos create"*', "echo OK; exit")
    done = desk.run("up")
    assert done.code == code, done.text
    assert (text in done.text) is (code == 1)
    authorized_by_others(desk, COS_GUID)
    desk.up()
    desk.down()
    assert len(desk.account.state["authorizations"]) == 1


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("answer", ["echo 503 >&2; exit 1", "echo OK; exit", "echo '[]'; exit"])
def test_an_authorization_that_another_deployment_needs_is_left(
    desk: Desk, listed: bool, answer: str
) -> None:
    desk.up()
    first = dict(desk.deploy), dict(desk.env)
    desk.deploy |= {"name": "second", "project": "flowlog"}
    desk.up()
    if not listed:
        desk.intercept('*"subscription cos list"*', answer)
    authorizations = desk.account.state["authorizations"]
    deployed = desk.account.state
    desk.deploy, desk.env = dict(first[0]), dict(first[1])
    # Another COS instance, and the end of the first deployment.
    desk.env["COS_CRN"] = CRN.replace(COS_GUID, LOGS_GUID)
    moved = desk.up()
    assert desk.account.state["authorizations"][:1] == authorizations
    desk.account.state, desk.env = deployed, dict(first[1])
    ended = desk.down()
    assert desk.account.state["authorizations"] == authorizations
    for done in (moved, ended):
        assert f"subscription {'second' if listed else '(unknown)'} of this project" in done.text
        remove = f"ibmcloud iam authorization-policy-delete {authorizations[0]['id']}"
        assert remove in done.text
    # With the project, nothing is left that needs it.
    desk.account.state = deployed
    desk.down("--project")
    assert desk.account.state["authorizations"] == []


@pytest.mark.parametrize("command", ["up", "down"])
@pytest.mark.parametrize("listed", [True, False])
def test_an_authorization_that_was_left_is_not_forgotten(
    desk: Desk, command: str, listed: bool
) -> None:
    desk.up()
    first = dict(desk.deploy)
    desk.deploy |= {"name": "second", "project": "flowlog"}
    desk.up()
    before = desk.account.program.read_text()
    if not listed:
        desk.intercept('*"subscription cos list"*', "echo; exit")
    desk.deploy = dict(first)
    desk.env["COS_CRN"] = CRN.replace(COS_GUID, LOGS_GUID)
    desk.up()
    again = desk.up()
    assert not [call for call in again.calls if mutates(call)]
    (older, newer) = desk.account.state["authorizations"]
    assert f"authorization-policy-delete {older['id']}" in again.text
    assert f"authorization on COS instance {COS_GUID}" in desk.run("status").text
    # Nothing needs it any more.
    desk.account.program.write_text(before)
    desk.change("subscription", "second")
    if command == "up":
        desk.up()
    else:
        desk.down()
    assert desk.account.state["authorizations"] == ([newer] if command == "up" else [])


def test_an_instance_is_the_same_in_capitals(desk: Desk) -> None:
    guid = "ABCDEF01-2222-3333-4444-555555555555"
    desk.env["COS_CRN"] = CRN.replace(COS_GUID, guid)
    desk.up()
    assert guid.lower() in str(desk.account.state["authorizations"])
    assert not [call for call in desk.up().calls if mutates(call)]


def test_the_project_is_not_removed_with_anothers_subscription_unnamed(desk: Desk) -> None:
    desk.up()
    first = dict(desk.deploy)
    desk.deploy |= {"name": "second", "project": "flowlog"}
    desk.up()
    desk.deploy = first
    assert "ALL that is in it, subscription second too" in desk.run("down", "--project").text


LISTS = [
    # What the lists of policies may say, and whether `up` can go on.
    ("echo '[]'; exit", True),
    ("echo null; exit", True),
    ("""echo '{"policies": null}'; exit""", True),
    ("echo Policies were not found. >&2; exit 1", True),
    ("echo OK; echo No policies found.; exit", True),
    ("echo No policy was found >&2; exit 1", True),
    ("echo; exit", False),
    ("echo host not found >&2; exit 1", False),
    ("echo Service ID not found >&2; exit 1", False),
    ("echo OK; exit", False),
    ("echo Forbidden: no policy allows this >&2; exit 1", False),
]


@pytest.mark.parametrize(("answer", "none"), LISTS)
def test_only_an_empty_list_means_that_there_is_nothing(
    desk: Desk, answer: str, none: bool
) -> None:
    desk.env["FLOWLOG_MODE"] = "remember"
    desk.up()
    desk.env["FLOWLOG_MODE"] = "simple"
    desk.intercept('*"service-policies"*', answer)
    done = desk.run("up")
    assert done.code == (0 if none else 1), done.text
    assert ("iam service-policy-create" in done.changes) is none
    desk.intercept('*"authorization-policies"*', answer)
    desk.intercept('*"authorization-policy-create"*', "echo already exists >&2; exit 1")
    done = desk.run("up")
    assert done.code == (0 if none else 1), done.text


def test_up_says_that_an_older_authorization_is_not_listed(desk: Desk) -> None:
    desk.up()
    desk.account.set(authorizations=[])
    desk.env["COS_CRN"] = CRN.replace(COS_GUID, LOGS_GUID)
    assert f"counts as gone: the authorization on COS instance {COS_GUID}" in desk.up().text
    assert COS_GUID not in desk.up().text


def test_down_names_an_authorization_that_is_not_found(desk: Desk) -> None:
    desk.up()
    desk.account.set(authorizations=[])
    assert f"an authorization on COS instance {COS_GUID}" in desk.down().text


def test_a_subscription_is_renewed_where_the_others_cannot_be_listed(desk: Desk) -> None:
    desk.up()
    desk.intercept('*"subscription cos list"*', "echo 503 >&2; exit 1")
    desk.env["FLOWLOG_PREFIX"] = "flows/"
    assert "ce subscription cos create" in desk.up().changes
    assert desk.project["subscription"]["flowlog"]["--prefix"] == "flows/"


def test_a_registry_secret_that_leaves_the_file_leaves_the_job(desk: Desk) -> None:
    desk.deploy["registry_secret"] = "registry"
    desk.up()
    desk.deploy.pop("registry_secret")
    assert desk.up().changes == ["ce job delete", "ce job create"]
    assert "--registry-secret" not in desk.project["job"]["flowlog"]
    desk.deploy["memory"] = "1G"
    assert desk.up().changes == ["ce job update"]


def test_a_key_that_was_made_leaves_the_secret_where_none_is_needed(desk: Desk) -> None:
    desk.env |= {
        "COS_HMAC_ACCESS_KEY_ID": "canary-id",
        "COS_HMAC_SECRET_ACCESS_KEY": "canary-secret",
    }
    needed = {**CLOUD_LOGS, "LOGDNA_INGESTION_KEY": ENV["LOGDNA_INGESTION_KEY"]}
    before = dict(desk.env)
    desk.env |= needed
    desk.up()
    assert desk.project["secret"]["flowlog-secret"]["APIKEY"]
    desk.env = before
    assert "changed   secret" in desk.run("status").text
    desk.up()
    assert not desk.project["secret"]["flowlog-secret"]["APIKEY"]


# --- from source ---------------------------------------------------------------------------------


@pytest.fixture
def checkout(desk: Desk) -> Path:
    """A folder that an image is built from, which the ini file names."""
    folder = desk.folder / "checkout"
    folder.mkdir()
    for name, text in {
        "Dockerfile": "FROM x\n",
        ".dockerignore": "*\n!flowlog.py\n!lib.py\n",
        "flowlog.py": "1\n",
        "lib.py": "2\n",
        "test.ini": "canary\n",
    }.items():
        (folder / name).write_text(text)
    desk.deploy = {"source": str(folder)}
    return folder


def test_a_build_from_source_takes_only_what_the_image_needs(desk: Desk, checkout: Path) -> None:
    sent, modes = desk.folder / "sent", desk.folder / "modes"
    list_files = f"find . -type f | sort >{sent}; stat -c %a . * .[a-z]* >{modes}"
    desk.intercept('*"job create"*', f'(cd "$TMPDIR"/*/source && {list_files})')
    call = desk.up().call("ce job create")
    assert call[call.index("--build-source") + 1].endswith("/source")
    assert set(modes.read_text().split()) == {"755", "644"}, "the image's user is not the owner"
    assert sent.read_text().split() == [
        "./.dockerignore",
        "./Dockerfile",
        "./flowlog.py",
        "./lib.py",
    ]
    assert desk.up().changes == []
    (checkout / "test.ini").write_text("canary-2\n")
    assert desk.up().changes == []
    (checkout / "flowlog.py").write_text("1\n2\n")
    (checkout / "lib.py").write_text("")
    assert desk.up().changes == ["ce job update"]
    assert desk.up("--rebuild").changes == ["ce job update"]


@pytest.mark.parametrize("text", ["*\n!flowlog.py\n!lib.py", "*\r\n!flowlog.py\r\n!lib.py\r\n"])
def test_a_file_that_is_named_in_an_odd_line_is_sent(desk: Desk, checkout: Path, text: str) -> None:
    (checkout / ".dockerignore").write_bytes(text.encode())
    desk.up()
    for name in ("flowlog.py", "lib.py"):
        (checkout / name).write_text("new\n")
        assert desk.up().changes == ["ce job update"]


def test_a_rebuild_that_fails_is_made_up_for(desk: Desk, checkout: Path) -> None:
    desk.up()
    desk.account.set(mutations=0, fail={"number": 1, "when": "before", "text": "503"})
    done = desk.run("up", "--rebuild")
    assert done.code == 1
    assert f"Go on with: {desk.command('up', '--rebuild')}" in done.text
    desk.account.set(fail=None)
    assert desk.up().changes == ["ce job update"]


@pytest.mark.parametrize(
    ("ignored", "said"),
    [
        (None, "SOURCE has no .dockerignore"),
        (".git\n!*\n", "SOURCE has no .dockerignore with a line *"),
        ("*\n!*.py\n", "SOURCE has no file *.py"),
        ("*\n!gone.py\n", "SOURCE has no file gone.py"),
    ],
)
def test_a_source_that_cannot_be_built(
    desk: Desk, checkout: Path, ignored: str | None, said: str
) -> None:
    (checkout / ".dockerignore").unlink()
    if ignored is not None:
        (checkout / ".dockerignore").write_text(ignored)
    done = desk.run("up")
    assert (done.code, done.calls) == (2, [])
    assert said in done.text


# --- dry run -------------------------------------------------------------------------------------


def without_paths(calls: list[list[str]]) -> list[list[str]]:
    return [[re.sub(r"/.*/(?=[a-z.]+$)", "TMP/", word) for word in call] for call in calls]


def printed(done: Done) -> list[list[str]]:
    """The commands of a dry run, as a shell would read them."""
    lines = [shlex.split(line) for line in done.text.splitlines()]
    assert all(line[0] == "ibmcloud" for line in lines), done.text
    return [line[1:] for line in lines]


@pytest.mark.parametrize("more", [{}, CLOUD_LOGS, {"APIKEY": SECRETS["APIKEY"]}])
def test_a_dry_run_prints_what_up_runs(desk: Desk, more: dict[str, str]) -> None:
    desk.env |= more
    dry = desk.run("up", "--dry-run")
    assert dry.code == 0
    assert dry.calls == []
    real = desk.up()
    assert without_paths(printed(dry)) == without_paths(real.calls)


def test_a_dry_run_of_down_prints_what_down_runs(desk: Desk) -> None:
    desk.up()
    dry = desk.run("down", "--dry-run", "--project")
    assert (dry.code, dry.calls) == (0, [])
    real = desk.run("down", "--yes", "--project")
    ids = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|AUTHORIZATION_ID"
    assert [re.sub(ids, "ID", shlex.join(call)) for call in printed(dry)] == [
        re.sub(ids, "ID", shlex.join(call)) for call in real.calls
    ]


@pytest.mark.parametrize("command", ["backfill", "status", "logs"])
def test_the_other_dry_runs_run_nothing(desk: Desk, command: str) -> None:
    done = desk.run(command, "--dry-run")
    assert (done.code, done.calls) == (0, [])
    assert printed(done)


# --- backfill, logs, status ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "array", "retries", "size"),
    [
        ("simple", "8", "0", "8"),
        ("simple", "1", "0", None),
        ("remember", "4", "0", "4"),
        ("catch-up", "8", "3", None),
    ],
)
def test_backfill_fits_the_mode(
    desk: Desk, mode: str, array: str, retries: str, size: str | None
) -> None:
    desk.env["FLOWLOG_MODE"] = mode
    desk.deploy["array_size"] = array
    desk.up()
    count = int(size or 1)
    desk.account.set(run={"polls": 2, "log": ["INFO pushing 3 objects", *[SUMMARY] * count]})
    done = desk.run("backfill")
    assert done.code == 0, done.text
    call = done.call("ce jobrun submit")
    options = dict(itertools.pairwise(call))
    assert options["--retrylimit"] == retries
    assert options.get("--array-size") == size
    assert options["--maxexecutiontime"] == "86400"
    assert "INFO pushing 3 objects" in done.text
    assert done.text.splitlines()[-count:] == [SUMMARY] * count


def test_backfill_of_a_run_that_fails(desk: Desk) -> None:
    desk.deploy["array_size"] = "4"
    desk.up()
    desk.account.set(run={"failed": 1, "log": [f"[x] {SUMMARY}"] * 3})
    done = desk.run("backfill")
    assert done.code == 1
    assert "1 of 4 instances" in done.text
    assert "1 of 4 instances left no summary" in done.text
    assert "--array-size-var-override 4" in done.text
    assert done.text.splitlines()[-1] == SUMMARY


def test_backfill_says_when_it_cannot_tell(desk: Desk) -> None:
    desk.up()
    desk.intercept('*"jobrun get"*', 'echo "{}"; exit')
    done = desk.run("backfill")
    assert done.code == 1
    assert "can't tell how run" in done.text


@pytest.mark.parametrize(
    ("text", "code"), [("503: try later", 0), ("Not logged in. Use 'ibmcloud login'.", 1)]
)
def test_backfill_polls_on_where_one_call_fails(desk: Desk, text: str, code: int) -> None:
    desk.up()
    desk.account.set(run={"polls": 2, "log": [SUMMARY]})
    desk.fail_once('*"jobrun get"*', text)
    done = desk.run("backfill")
    assert done.code == code, done.text
    assert ("it goes on" in done.text and text in done.text) is (code == 1)


def test_backfill_gives_up_only_where_every_poll_fails(desk: Desk) -> None:
    """Many polls may fail in the days that a run can take, as long as others come through."""
    desk.up()
    desk.account.set(run={"polls": 70, "log": [SUMMARY]})
    odd = desk.folder / "odd"
    desk.intercept(
        '*"jobrun get"*', f"[ -e {odd} ] && rm {odd} || {{ >{odd}; echo 503 >&2; exit 1; }}"
    )
    done = desk.run("backfill")
    assert done.code == 0, done.text


def test_a_log_is_shown_as_long_as_the_run_lasts(desk: Desk) -> None:
    desk.up()
    desk.account.set(run={"log": [SUMMARY]})
    followed, ending = desk.folder / "followed", desk.folder / "ending"
    running = """echo '{"status_details": {"running": 1}}'; exit"""
    desk.intercept(
        '*"jobrun get"*',
        f"[ -e {ending} ] || {{ [ ! -e {followed} ] || >{ending}; {running}; }}",
    )
    wait = f"until [ -e {ending} ]; do sleep 0.01; done"
    desk.intercept('*"--follow"*', f">{followed}; {wait}; echo the end of the log; exit")
    done = desk.run("backfill")
    assert done.code == 0, done.text
    assert "the end of the log" in done.text and "could not be followed" not in done.text


def test_a_log_that_hangs_does_not_keep_backfill_waiting(desk: Desk) -> None:
    desk.up()
    desk.account.set(run={"polls": 3, "log": [SUMMARY]})
    # The CLI has its plug-in do the work; `Desk` waits for whatever can still write.
    desk.intercept('*"--follow"*', "sleep 1000; exit")
    done = desk.run("backfill")
    assert done.code == 0, done.text
    assert "could not be followed to its end" in done.text
    assert done.text.splitlines()[-1] == SUMMARY


@pytest.mark.parametrize("always", [False, True])
def test_a_log_that_is_not_given_at_once(desk: Desk, always: bool) -> None:
    desk.up()
    desk.account.set(run={"log": [SUMMARY]})
    desk.intercept('*"--follow"*', "exit")
    if always:
        desk.intercept('*"jobrun logs"*', "echo 503 >&2; exit 1")
    else:
        desk.fail_once('*"jobrun logs"*', "503")
    done = desk.run("backfill")
    assert done.code == 0, done.text
    assert (done.text.splitlines()[-1] == SUMMARY) is not always
    assert ("the log could not be read again" in done.text and "503" in done.text) is always


def test_a_submission_whose_answer_is_lost_is_followed(desk: Desk) -> None:
    desk.up()
    desk.account.set(
        run={"log": [SUMMARY]}, mutations=0, fail={"number": 0, "when": "after", "text": "503"}
    )
    done = desk.run("backfill")
    assert done.code == 0, done.text
    assert len(desk.project["jobrun"]) == 1


@pytest.mark.parametrize(
    ("text", "begun"), [("503", True), ("Not logged in. Use 'ibmcloud login'.", False)]
)
def test_a_submission_that_may_have_gone_through_is_named(
    desk: Desk, text: str, begun: bool
) -> None:
    desk.up()
    desk.intercept('*"jobrun submit"*|*"jobrun get"*', f'echo "{text}" >&2; exit 1')
    done = desk.run("backfill")
    assert done.code == 1
    look = re.search(
        "may have begun .* look: ibmcloud ce jobrun get --name flowlog-backfill-", done.text
    )
    assert bool(look) is begun
    assert text in done.text and "failed: ibmcloud ce jobrun submit" in done.text


def test_a_signal_ends_the_following_at_once(desk: Desk) -> None:
    desk.up()
    desk.account.set(run={"polls": 1, "log": [SUMMARY]})
    # It would outlast the time that `Desk` gives the script.
    desk.interrupt('*"--follow"*', "TERM", then="sleep 1000; exit")
    done = desk.run("backfill")
    assert done.code == 143
    assert "the run goes on" in done.text


@pytest.mark.parametrize(
    ("env", "deploy"),
    [
        (None, {}),
        ({"FLOWLOG_MODE": "catch-up"}, {}),
        ({"LOGDNA_INGESTION_KEY": "canary-new"}, {}),
        ({}, {"image": "ghcr.io/someone/flowlog:1.0.1"}),
        ({}, {"cos_role": "Writer"}),
    ],
    ids=["not up", "configmap", "secret", "job", "policies"],
)
def test_backfill_wants_what_is_deployed_to_be_what_the_file_says(
    desk: Desk, env: dict[str, str] | None, deploy: dict[str, str]
) -> None:
    if env is not None:
        desk.up()
        desk.env, desk.deploy = desk.env | env, desk.deploy | deploy
    done = desk.run("backfill")
    assert done.code == 1
    assert f"run `{desk.command('up')}` first" in done.text
    assert "ce jobrun submit" not in done.changes


@pytest.mark.parametrize(
    "thing",
    ["service ID flowlog-flowlog-us-south", "secret flowlog-secret", "configmap flowlog-config"],
)
def test_backfill_wants_what_a_run_needs(desk: Desk, thing: str) -> None:
    desk.up()
    kind, name = thing.rsplit(" ", 1)
    if kind == "service ID":
        desk.account.set(service_ids={})
    else:
        desk.change(kind, name)
    done = desk.run("backfill")
    assert done.code == 1
    assert f"{thing} does not exist: run `{desk.command('up')}` first" in done.text
    assert desk.project["jobrun"] == {}


def test_logs_of_a_run_that_is_not_there(desk: Desk) -> None:
    desk.up()
    done = desk.run("logs", "--run", "nope")
    assert done.code == 1
    assert "look at --run" in done.text


def test_logs_shows_the_latest_run(desk: Desk) -> None:
    desk.up()
    assert "there is no run" in desk.run("logs").text
    state = desk.account.state
    # The newest is neither the first or last of the list, nor by name.
    for name, hour in (("flowlog-b", 1), ("flowlog-c", 3), ("by-hand", 2), ("flowlog-a", 0)):
        run = {"log": [f"this is {name}"], "created": f"2026-11-25T0{hour}:00:00Z"}
        state["projects"]["flowlog"]["jobrun"][name] = run
    desk.account.state = state
    assert "this is flowlog-c" in desk.run("logs").text
    assert "this is flowlog-a" in desk.run("logs", "--run", "flowlog-a").text
    desk.change("jobrun", "by-hand", "created", to="2026-11-25T09:00:00Z")
    assert "this is by-hand" in desk.run("logs").text


def test_status_says_what_is_there_and_what_differs(desk: Desk) -> None:
    assert "nothing is deployed" in desk.run("status").text
    desk.up()
    done = desk.run("status")
    assert done.text.count("  there     ") == 6
    assert "  missing   " not in done.text and "  changed   " not in done.text
    desk.env["LOG"] = "DEBUG"
    state = desk.account.state
    state["projects"]["flowlog"]["subscription"].clear()
    desk.account.state = state
    done = desk.run("status")
    assert done.code == 0
    assert "  missing   subscription flowlog" in done.text
    assert "  changed   configmap flowlog-config" in done.text
    assert not [call for call in done.calls if mutates(call)]


# --- down ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["no\n", "", "y\n"])
def test_down_asks_first(desk: Desk, answer: str) -> None:
    desk.up()
    before = desk.account.state
    done = desk.run("down", stdin=answer)
    assert done.code == 1
    assert "nothing was removed" in done.text
    assert desk.account.state == before


def test_down_removes_its_own_and_nothing_else(desk: Desk) -> None:
    desk.up()
    state = desk.account.state
    state["projects"]["flowlog"]["job"]["other"] = {"--image": "x"}
    state["service_ids"]["other"] = {"policies": {}, "keys": {}}
    other = authorization(
        "codeengine", "other", "cloud-object-storage", COS_GUID, "Notifications Manager"
    )
    state["authorizations"].append(other)
    desk.account.state = state
    done = desk.run("down", stdin="yes\n")
    assert done.code == 0, done.text
    state = desk.account.state
    project = state["projects"]["flowlog"]
    assert project["job"] == {"other": {"--image": "x"}}
    assert not project["secret"] and not project["configmap"] and not project["subscription"]
    assert list(state["service_ids"]) == ["other"]
    assert state["authorizations"] == [other]
    assert "project flowlog, which `up` made" in done.text
    assert "bucket my-flow-logs" in done.text
    assert "nothing to remove" in desk.run("down").text


def test_down_leaves_a_project_that_was_there(desk: Desk) -> None:
    desk.up()
    desk.run("down", "--yes")
    desk.up()
    done = desk.run("down", "--yes", "--project")
    assert "project flowlog: it was there before" in done.text
    assert "flowlog" in desk.account.state["projects"]


@pytest.mark.parametrize("gone", ["project", "record"])
def test_down_names_a_service_id_that_outlived_the_rest(desk: Desk, gone: str) -> None:
    desk.up()
    state = desk.account.state
    if gone == "project":
        del state["projects"]["flowlog"]
    else:
        del state["projects"]["flowlog"]["configmap"]["flowlog-record"]
    desk.account.state = state
    done = desk.run("down", "--yes")
    assert done.code == 0
    assert "ibmcloud iam service-id-delete flowlog-flowlog-us-south" in done.text
    assert desk.account.state == state


def test_down_with_the_project(desk: Desk) -> None:
    desk.up()
    desk.down("--project")
    state = desk.account.state
    assert (state["projects"], state["service_ids"], state["authorizations"]) == ({}, {}, [])
    assert "nothing to remove" in desk.run("down").text


# --- the ini file --------------------------------------------------------------------------------


def test_everything_that_is_missing_is_named_at_once(desk: Desk) -> None:
    desk.env, desk.deploy = {"FLOWLOG_MODE": "sometimes"}, {"cpu": "much"}
    done = desk.run("up")
    assert (done.code, done.calls) == (2, [])
    for name in ("COS_BUCKET", "COS_ENDPOINT", "COS_CRN", "LOGDNA_INGESTION_KEY",
                 "LOGDNA_ENDPOINT", "FLOWLOG_MODE", "REGION", "IMAGE", "CPU"):  # fmt: skip
        assert name in done.text


FAULTS: list[tuple[dict[str, str], dict[str, str], str]] = [
    ({"APIKEI": "canary"}, {}, "line 7: [env] has no setting of this name"),
    ({}, {"colour": "red"}, "line 9: [deploy] has no setting of this name"),
    ({"LOGDNA_INGESTION_KEY": "put-your-ingestion-key-here"}, {}, "text of the example"),
    (
        {"COS_CRN": "crn:v1:bluemix:public:cloud-object-storage:global:a/A:INSTANCE::"},
        {},
        "COS_CRN",
    ),
    ({}, {"region": "eu-de"}, "must be in one region"),
    (
        {"COS_ENDPOINT": "s3.us.cloud-object-storage.appdomain.cloud"},
        {"region": "us"},
        "needs a regional bucket",
    ),
    ({}, {"source": "."}, "only one of them"),
    ({}, {"image": "", "source": "https://me:canary@host/x"}, "without a user, a key or a query"),
    ({}, {"image": "", "source": "https://host/x?key=canary"}, "SOURCE is not a repository's URL"),
    ({}, {"image": "", "source": "/nowhere"}, "SOURCE is neither"),
    ({}, {"array_size": "0"}, "ARRAY_SIZE must be"),
    ({}, {"array_size": "00"}, "ARRAY_SIZE is not a whole number"),
    ({}, {"image": "ghcr.io/OWNER/flowlog:1.0.0"}, "IMAGE is not an image"),
    ({}, {"retry_limit": "often"}, "RETRY_LIMIT is not a whole number"),
    ({}, {"cos_role": "Manager"}, "COS_ROLE is not"),
    ({"FLOWLOG_MODE": "remember"}, {"cos_role": "Reader"}, "COS_ROLE is Reader, but"),
    ({}, {"name": "Flow Log"}, "NAME is not"),
    ({"COS_HMAC_ACCESS_KEY_ID": "a"}, {}, "are a pair"),
    ({"LOG_DESTINATION": "syslog"}, {}, "LOG_DESTINATION is not"),
    ({**CLOUD_LOGS, "CLOUD_LOGS_ENDPOINT": "https://logs.example"}, {}, "INSTANCE_GUID"),
    ({"COS_BUCKET": "A B"}, {}, "COS_BUCKET is not"),
    ({"LOG": "verbose"}, {}, "LOG is not"),
    ({"FLOWLOG_CONCURRENCY": "many"}, {}, "FLOWLOG_CONCURRENCY is not"),
    ({"FLOWLOG_RETRY_SECONDS": "-1"}, {}, "FLOWLOG_RETRY_SECONDS is not"),
    ({"APIKEY": "first\nCanary-half=="}, {}, "line 8: [env] has no setting of this name"),
    ({"APIKEY": "first\nx=y\nx=Canary-half"}, {}, "line 9: its name is there twice"),
    ({"LOGDNA_REGION": "x y"}, {}, "LOGDNA_REGION is not"),
    ({"IAM_ENDPOINT": "ftp://x"}, {}, "IAM_ENDPOINT is not"),
    (
        {"FLOWLOG_MODE": "catch-up", "KEY_FIRST_LOGGED": "ibm_vpc_flowlogs_state"},
        {},
        "KEY_FIRST_LOGGED begins with",
    ),
    ({"COS_BUCKET": "a\n  b"}, {}, "line 2: its value goes on over more"),
]


@pytest.mark.parametrize(("env", "deploy", "said"), FAULTS, ids=[said for *_, said in FAULTS])
def test_a_setting_that_cannot_be(
    desk: Desk, env: dict[str, str], deploy: dict[str, str], said: str
) -> None:
    desk.env |= env
    desk.deploy |= deploy
    done = desk.run("up")
    assert (done.code, done.calls) == (2, [])
    assert said in done.text


@pytest.mark.parametrize(
    "endpoint",
    ["s3.us-south.", "s3.private.us-south.", "https://s3.us-south.", "s3.direct.us-south."],
)
def test_the_direct_endpoint_is_used_in_the_cloud(desk: Desk, endpoint: str) -> None:
    desk.env["COS_ENDPOINT"] = endpoint + "cloud-object-storage.appdomain.cloud"
    desk.up()
    used = desk.project["configmap"]["flowlog-config"]["COS_ENDPOINT"]
    assert (
        used.removeprefix("https://") == "s3.direct.us-south.cloud-object-storage.appdomain.cloud"
    )


ODD = [
    "[env]\nLOG=a\n",
    "\ufeff[env]\nlog = a\n",
    "[env]\r\nLog : a\r\nLOGDNA_ENDPOINT = b:c=d\r\n",
    "[env]\nLOG = a = b : c\n",
    "[env]\nLOG:a=b\n",
    "[env]\nLOG = 100%(x)s %% $HOME `x` \\n 'q' \"w\" ; no # comment\n",
    "# LOG = a\n; x\n[env]\n  # LOG = b\n\t; LOG = c\nLOG = # d\n",
    "[env]\nLOG =\n",
    "[env]\nLOG =   \n\nAPIKEY = x\n",
    "[env]\n  LOG = a\n  APIKEY = b\n",
    "[env]\n  LOG = a\nAPIKEY = b\n",
    "[other]\nLOG = a\n[env] ; x\nLOG = b\n[more]\nLOG = c\n",
    "[DEFAULT]\nLOG = a\nAPIKEY = z\n[env]\nLOG = b\n",
    "[env]\nLOG\t=\ta\t\n",
    "[env]\nLOG = a\n\n\n[x]\n",
    "[env]\nLOG = [b]\n[deploy]\n[c]]\n",
    "[env]\nLOG = caf\u00e9 \u2713\n",
    # refused by both
    "LOG = a\n",
    "[env\nLOG = a\n",
    "[env]\nLOG\n",
    "[env]\n= a\n",
    "[env]\nLOG = a\nlog = b\n",
    "[env]\n[env]\n",
    "[Env]\nLOG = a\n",
    "",
    "[]\nLOG = a\n",
    "[env]\nCOS_BUCKET = a\n  b\n",
    "[env]\nCOS_BUCKET =\n  b\n",
]


def function_of_the_script(name: str) -> str:
    function = re.search(rf"^{name}\(\) \{{.*?^\}}$", SCRIPT.read_text(), re.M | re.S)
    assert function
    return function[0]


TEXTS = st.text(st.sampled_from('ab,{}[]\\"\n: \u00e9'), max_size=8)
VALUES = st.recursive(
    TEXTS | st.none() | st.integers(),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXTS, each, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    objects=st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=4),
    indent=st.sampled_from([None, 2]),
    within=st.booleans(),
)
def test_a_list_of_objects_is_taken_apart(
    objects: list[dict[str, Any]], indent: int | None, within: bool
) -> None:
    answer: Any = {"kind": "List, [of] \\", "items": objects, "more": [{"x": 1}]}
    text = json.dumps(answer if within else objects, indent=indent)
    text = "OK\n" * within + text
    command = f"{function_of_the_script('json_objects')}\nLC_ALL=C json_objects"
    # The field before the list has a bracket in its text, which is none.
    done = subprocess.run(["bash", "-c", command], input=text, capture_output=True, text=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == objects


def read_by_the_script(path: Path) -> dict[str, str] | None:
    """Section [env] as the script reads it; None where it finds a fault."""
    command = f'{function_of_the_script("read_section")}\nLC_ALL=C read_section env "$1"'
    out = subprocess.run(
        ["bash", "-c", command, "bash", str(path)],
        capture_output=True,
        check=True,
    ).stdout.decode()
    lines = [line.split(" ", 2) for line in out.splitlines()]
    if any(kind != "value" for kind, *_ in lines):
        return None
    assert all(line.isdecimal() for _, line, _ in lines)
    return dict(text.split("=", 1) for *_, text in lines)


def read_by_the_tester(path: Path) -> dict[str, str] | None:
    try:
        values = read_ini(path)
    except Unusable:
        return None
    # No setting can hold a line break; the script says so at once, the job when it runs.
    return None if any("\n" in value for value in values.values()) else values


@pytest.mark.parametrize("text", ODD)
def test_the_script_and_the_tester_read_the_same(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.ini"
    path.write_bytes(text.encode())
    assert read_by_the_script(path) == read_by_the_tester(path)


def test_the_example_is_read_by_both(desk: Desk) -> None:
    example = PROJECT / "test.ini.example"
    assert read_by_the_script(example) == read_ini(example)
    done = desk.run_as_it_is("up", "--dry-run", "--ini", str(example))
    assert done.code == 2, "it has to be filled in first"
    filled = example.read_text().replace("ACCOUNT:INSTANCE", f"a:{COS_GUID}")
    filled = re.sub(r"(?<== )put-your-\S*", "canary", filled)
    filled = filled.replace("/OWNER/", "/someone/")
    desk.ini.write_text(filled)
    done = desk.run_as_it_is("up", "--dry-run", "--ini", str(desk.ini))
    assert done.code == 0, done.text


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("FLOWLOG_CONCURRENCY", "0 1 9 08 10 99 100 199 200 249 250 256 257 300 999"),
        ("FLOWLOG_RETRY_SECONDS", "0 0.5 060 999.9 1000 1199.9 1200 1200.0 1200.1 1201 1300 9999"),
    ],
)
def test_a_number_that_the_job_refuses_is_refused_before(
    desk: Desk, name: str, values: str
) -> None:
    environ = ENV | {"APIKEY": "x"}
    for value in values.split():
        desk.env[name] = value
        try:
            job.read_settings(environ | {name: value})
            expected = 0
        except job.Unusable:
            expected = 2
        assert desk.run("up", "--dry-run").code == expected, value


def test_the_script_knows_every_setting_of_the_job() -> None:
    names = settings_read()
    names -= {"CE_DATA", "CE_TYPE", "JOB_INDEX", "JOB_ARRAY_SIZE", "JOB_INDEX_RETRY_COUNT"}
    lists = re.findall(r"^(?:SECRETS|SETTINGS)=\((.*?)\)", SCRIPT.read_text(), re.M | re.S)
    assert set(" ".join(lists).split()) == names
    assert set(job._SECRETS) <= set(lists[0].split())


# --- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sideways"],
        ["up", "down"],
        ["up", "--ini"],
        ["up", "--colour"],
        # Each would do something else than what it says.
        ["backfill", "--run", "x"],
        ["backfill", "--rebuild"],
        ["status", "--adopt"],
        ["up", "--yes"],
        ["up", "--project"],
    ],
)
def test_a_wrong_command_line(desk: Desk, arguments: list[str]) -> None:
    done = desk.run_as_it_is(*arguments)
    assert (done.code, done.calls) == (2, [])
    assert "--help" in done.text


@pytest.mark.parametrize("bash", ["", "3.2"], ids=["as it is", "as on macOS"])
def test_what_to_do_next_can_be_pasted(desk: Desk, bash: str) -> None:
    desk.write_ini()
    path = desk.folder / "it's my.ini"
    path.write_text(desk.ini.read_text())
    desk.account.set(fail={"number": 3, "when": "before", "text": "503"})
    done = desk.run_as_it_is("up", "--adopt", "--ini", str(path), BASH_COMPAT=bash)
    (line,) = (line for line in done.text.splitlines() if line.startswith("Go on with: "))
    assert shlex.split(line.removeprefix("Go on with: ")) == [
        str(SCRIPT), "up", "--adopt", "--ini", str(path)
    ]  # fmt: skip
    desk.account.set(fail=None)
    done = desk.run_as_it_is("backfill", "--ini", str(path), BASH_COMPAT=bash)
    (advice,) = re.findall(r"run `(.*)` first", done.text)
    assert shlex.split(advice) == [str(SCRIPT), "up", "--ini", str(path)]


def test_the_file_and_the_script_may_be_named_from_where_one_is(desk: Desk) -> None:
    desk.deploy = {"source": "."}
    desk.write_ini()
    desk.ini.rename(desk.folder / "a=b.ini")
    desk.shell = ("bash", "-c", f'cd {desk.folder}; exec bash "$@"', "bash")
    done = desk.run_as_it_is("up", "--dry-run", "--ini", "a=b.ini")
    assert done.code == 0, done.text
    command = f'cd {PROJECT}; shift; exec bash deploy/code-engine.sh "$@"'
    desk.shell = ("bash", "-c", command, "bash")
    path = str(desk.folder / "a=b.ini")
    done = desk.run_as_it_is("up", "--dry-run", "--ini", path, CDPATH=str(PROJECT))
    assert done.code == 0, done.text


def test_help(desk: Desk) -> None:
    done = desk.run_as_it_is("--help")
    assert done.code == 0
    for word in ("up", "backfill", "status", "logs", "down", "--dry-run", "--ini"):
        assert word in done.text


@pytest.mark.parametrize("name", ["none.ini", ""])
def test_a_file_that_is_not_there(desk: Desk, name: str) -> None:
    done = desk.run_as_it_is("up", "--ini", f"{desk.folder}/{name}")
    assert done.code == 2
    assert "copy test.ini.example" in done.text


def shellcheck(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "shellcheck"
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def test_shellcheck() -> None:
    checked = shellcheck(str(SCRIPT))
    assert checked.returncode == 0, checked.stdout
