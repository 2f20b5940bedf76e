"""What deploy/code-engine.sh leaves, shows and says where a call fails or a signal comes."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from typing import Any

import pytest

from standins.ibmcloud import Account, mutates
from tests.desk import (
    ONE_CHANGE,
    SUMMARY,
    Desk,
    deployed_things,
    normal,
    settled,
)
from tests.harness import SECRETS


@ONE_CHANGE
def test_a_change_that_fails_and_is_taken_back_leaves_nothing_behind(
    desk: Desk, env: dict[str, str], deploy: dict[str, str], expected: list[str]
) -> None:
    """Wherever it stops: the last thing was done, though the answer says otherwise."""
    original = dict(desk.env), dict(desk.deploy)
    desk.up()
    deployed = desk.account.state
    for number in itertools.count():
        desk.env, desk.deploy = desk.env | env, desk.deploy | deploy
        fail = {"number": number, "when": "after", "text": "503"}
        desk.account.state = {**deployed, "mutations": 0, "fail": fail}
        if desk.run("up").code == 0:
            break
        desk.account.set(fail=None)
        broken = desk.account.state
        desk.env, desk.deploy = dict(original[0]), dict(original[1])
        if deployed_things(broken) != deployed_things(deployed):
            told = desk.run("status").text
            assert re.search("^  (unsure|changed|missing) ", told, re.M), told
        desk.up()
        assert deployed_things(desk.account.state) == deployed_things(deployed)
        assert not [call for call in desk.up().calls if mutates(call)]
    assert number >= len(expected)


STEPS = 21
"""Calls of an `up` from nothing that change something; test_failing_at_each_step checks it."""


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The state that an undisturbed `up` leaves."""
    folder = tmp_path_factory.mktemp("complete")
    with Account(folder) as account:
        Desk(folder, account).up()
    assert account.state["mutations"] == STEPS
    return settled(account.state)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(STEPS))
def test_failing_at_each_step(desk: Desk, complete: dict[str, Any], number: int, when: str) -> None:
    """`after`: it was done, but the answer says otherwise, as where a connection breaks."""
    fail = {"number": number, "when": when, "text": "503: the service is not available"}
    desk.account.set(fail=fail)
    done = desk.run("up")
    assert done.code == 1
    assert "503: the service is not available" in done.text
    assert f"Go on with: {desk.command('up')}\n" in done.text
    assert number == 0 or "There now: project flowlog" in done.text
    desk.account.set(fail=None)
    desk.up()
    found = settled(desk.account.state)
    # What can't be known any more counts as not made by `up`, so that `down` leaves it.
    unknown = (number, when) in ((0, "after"), (1, "before"))
    assert ("count as one that was there before" in done.text) is (number < 2)
    if unknown:
        found["projects"]["flowlog"]["configmap"]["flowlog-record"]["PROJECT"] = "made"
    assert normal(found) == normal(complete)


def test_a_project_is_known_for_made_as_soon_as_there_is_one(desk: Desk) -> None:
    desk.fail_once('*"secret get"*', "503")
    done = desk.run("up")
    assert done.code == 1
    assert "There now: project flowlog, configmap flowlog-record." in done.text
    desk.up()
    desk.down("--project")
    assert desk.account.state["projects"] == {}


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("You are not authorized to access this resource.", "lacks a right"),
        ("The secret already exists.", "Run the same command again"),
        ("You exceeded the limit of configmaps; quota", "A limit of the account"),
        ("FAILED\nNot logged in. Use 'ibmcloud login' to log in.", "ibmcloud login"),
        (f"bad value {SECRETS['LOGDNA_INGESTION_KEY']}", "bad value ***"),
    ],
)
def test_a_failure_is_explained(desk: Desk, text: str, advice: str) -> None:
    desk.account.set(fail={"number": 9, "when": "before", "text": text})
    done = desk.run("up")
    assert done.code == 1
    assert advice in done.text


def test_a_failure_without_a_word_is_told(desk: Desk) -> None:
    desk.intercept('*"secret create"*', "exit 1")
    done = desk.run("up")
    assert done.code == 1
    assert "gave no reason" in done.text and "Go on with: " in done.text


@pytest.mark.parametrize("command", ["up", "backfill", "status", "logs", "down"])
def test_an_expired_login_is_said_in_one_sentence(desk: Desk, command: str) -> None:
    desk.account.set(login="expired")
    done = desk.run(command)
    assert done.code == 1
    assert "The login has expired or there is none: run `ibmcloud login`" in done.text
    assert len(done.calls) == 1


def test_a_login_that_expires_on_the_way_is_no_missing_thing(desk: Desk) -> None:
    desk.up()
    said = "Token not found. Log in again."
    desk.intercept("*", f'[ "$1" = target ] || {{ echo "{said}"; exit 1; }}')
    done = desk.run("up")
    assert done.code == 1
    assert "ibmcloud login" in done.text
    assert "creating" not in done.text


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("A resource of that name was not found.", True),
        ("No projects found.", True),
        ("'flowlog' could not be found in us-south", True),
        ("The project in account A was not found.", True),
        ("Project 'flowlog' in the resource group Default was not found.", True),
        ("The project does not exist in the catalog in us-south.", True),
        ("Secret 'x' not found.", False),
        ("FAILED: exec ce: executable file not found in PATH", False),
        ("Provided API key could not be found.", False),
        ("Project flowlog: IAM token not found", False),
        ("Resource group Default was not found.", False),
        ("Resource group flowlog was not found.", False),
        ("No resource group found.", False),
        ("Getting project flowlog...\nFAILED\nUser 'me@x' was not found.", False),
        ("You are not authorized to access project flowlog, or it does not exist.", False),
        ("Not logged in. Use 'ibmcloud login' to log in.", False),
        ("'ce' is not a registered command: plug-in not found", False),
        ("500: could not reach the server", False),
        ("dial tcp: lookup iam.cloud.ibm.com: host not found", False),
        ("404 page not found", False),
    ],
)
def test_only_a_missing_thing_counts_as_one(desk: Desk, text: str, missing: bool) -> None:
    desk.intercept("*", f'[ "$1" = target ] || {{ echo "{text}" >&2; exit 1; }}')
    done = desk.run("up")
    assert done.code == 1
    assert ("creating project" in done.text) is missing
    assert text.splitlines()[-1] in done.text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("host not found", "IBM Cloud was not reached"),
        ("404 page not found", "IBM Cloud was not reached"),
        ("Provided API key could not be found.", "ibmcloud login"),
        ("Account 7777 was not found.", "does not exist"),
        ("", "no reason that is known"),
    ],
)
def test_what_cannot_be_reached_is_not_taken_for_removed(
    desk: Desk, text: str, reason: str
) -> None:
    desk.up()
    desk.intercept('*"project get"*', f'echo "{text}" >&2; exit 1')
    done = desk.run("down", "--yes")
    assert done.code == 1
    assert "failed: ibmcloud ce project get" in done.text and reason in done.text
    assert "nothing to remove" not in done.text and "service-id-delete" not in done.text


def can_read(desk: Desk) -> bool:
    """Whether the job has a key, of a service ID that may do something."""
    key = desk.project["secret"]["flowlog-secret"]["APIKEY"]
    return any(
        key in each["keys"].values() and each["policies"]
        for each in desk.account.state["service_ids"].values()
    )


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_service_id_that_is_made_anew_is_not_used_half_way(desk: Desk, when: str) -> None:
    desk.up()
    desk.account.set(service_ids={})
    removed = desk.account.state
    for number in itertools.count():
        fail = {"number": number, "when": when, "text": "503"}
        desk.account.state = {**removed, "mutations": 0, "fail": fail}
        if desk.run("up").code == 0:
            break
        desk.account.set(fail=None, run={"log": [SUMMARY]})
        told, done = desk.run("status").text, desk.run("backfill")
        if can_read(desk) and done.code == 0:
            continue
        assert re.search("^  (unsure|missing) ", told, re.M), told
        assert done.code == 1, done.text
        assert f"run `{desk.command('up')}` first" in done.text
    assert number >= 4
    assert can_read(desk)


def test_without_the_cli_it_says_where_to_get_it(desk: Desk) -> None:
    desk.write_ini()
    desk.account.program.unlink()
    done = desk.run_as_it_is("up", "--ini", str(desk.ini))
    assert done.code == 1
    assert "ibmcloud plugin install code-engine" in done.text


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(7))
def test_down_goes_on_where_it_failed(desk: Desk, number: int, when: str) -> None:
    desk.up()
    deployed = desk.account.state
    for more in ([], ["--project"]):
        fail = {"number": number, "when": when, "text": "503"}
        desk.account.state = {**deployed, "mutations": 0, "fail": fail}
        done = desk.run("down", "--yes", *more)
        assert done.code == 1
        assert "down stopped half way" in done.text
        assert f"Go on with: {desk.command('down', '--yes', *more)}\n" in done.text
        desk.account.set(fail=None)
        desk.down(*more)
        state = desk.account.state
        assert (state["service_ids"], state["authorizations"]) == ({}, [])
        if more:
            assert state["projects"] == {}
        else:
            kinds = ("secret", "configmap", "job", "subscription")
            assert not any(state["projects"]["flowlog"][kind] for kind in kinds)


def test_down_does_not_mind_what_someone_else_removes_meanwhile(desk: Desk) -> None:
    desk.up()
    desk.fail_once('*"job delete"*', "Job 'flowlog' was not found.")
    desk.down()


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("service-id-delete", "Resource group Default was not found."),
        ("job delete", "Provided API key could not be found."),
    ],
)
def test_down_does_not_take_another_thing_for_the_one_it_removes(
    desk: Desk, pattern: str, text: str
) -> None:
    desk.up()
    desk.fail_once(f'*"{pattern}"*', text)
    done = desk.run("down", "--yes")
    assert done.code == 1 and text in done.text
    assert "flowlog-record" in desk.project["configmap"]
    desk.down()
    assert desk.account.state["service_ids"] == {}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("iam service-id ", "No service ID found."),
        (
            "iam service-id ",
            "Getting it from account x...\nFAILED\nIn account x it was not found: service ID",
        ),
        ("iam service-api-key ", "API key not found."),
        ("configmap get", "The config map was not found."),
        ("iam service-id ", "ServiceId not found."),
    ],
)
def test_a_thing_that_is_missing_may_be_called_by_its_kind(
    desk: Desk, pattern: str, text: str
) -> None:
    desk.intercept(f'*"{pattern}"*', f'echo "{text}" >&2; exit 1')
    desk.up()


# --- secrets -------------------------------------------------------------------------------------


TRACES = [
    *((("bash", "-x"), command) for command in ("up", "backfill", "status", "logs", "down")),
    (("bash", "-xv"), "up"),
    (("env", "SHELLOPTS=xtrace:verbose:noclobber:keyword", "bash"), "up"),
]


@pytest.mark.parametrize(("traced", "command"), TRACES)
def test_no_trace_shows_a_secret(desk: Desk, traced: tuple[str, ...], command: str) -> None:
    desk.env["FLOWLOG_PREFIX"] = "flows/"
    if command != "up":
        desk.up()
    desk.shell = traced
    desk.account.set(run={"log": [SUMMARY]})
    done = desk.run(command, *(["--yes"] if command == "down" else []))
    # What was shown is looked at for secrets at the end of every test.
    assert done.code == (1 if command == "logs" else 0), done.text


def test_the_trace_of_the_cli_is_switched_off(desk: Desk) -> None:
    desk.up()
    done = desk.run_as_it_is("status", "--ini", str(desk.ini), IBMCLOUD_TRACE="true")
    assert "recent runs" in done.text
    assert "REQUEST" not in done.text


def test_a_secret_is_masked_in_what_the_cli_says_in_every_form(desk: Desk) -> None:
    secret = "canary\\<&\"'x"
    desk.env["LOGDNA_INGESTION_KEY"] = secret
    html = json.dumps(secret).replace("<", "\\u003c").replace("&", "\\u0026")
    said = desk.folder / "said"
    said.write_text(f"plain {secret}; JSON {json.dumps(secret)}; Go {html}\n")
    desk.intercept('*"secret create"*', f"cat {said} >&2; exit 1")
    done = desk.run("up")
    assert done.code == 1
    assert 'plain ***; JSON "***"; Go "***"' in done.text


def test_a_key_is_in_no_file_once_it_is_read(desk: Desk) -> None:
    files = desk.folder / "files"
    desk.intercept('*"secret create"*', f'grep -rl apikey "$TMPDIR" >{files}')
    desk.up()
    assert files.read_text() == ""


def test_a_secret_passes_in_a_file_that_only_its_owner_reads(desk: Desk) -> None:
    call = desk.up().call("ce secret create")
    assert "--from-env-file" in call and "--from-literal" not in call
    # That the file's mode was 0600, and that it is gone, is seen to by the stand-in and `Desk`.


@pytest.mark.parametrize(("number", "code"), [("TERM", 143), ("INT", 130), ("HUP", 143)])
def test_a_signal_leaves_no_key_behind(desk: Desk, number: str, code: int) -> None:
    desk.interrupt('*"secret create"*', number, then="exit 1")
    done = desk.run("up")
    # `Desk` looks for files that were left behind.
    assert done.code == code
    assert "up stopped half way" in done.text


def test_a_reader_that_goes_away_does_not_keep_it_from_saying_what_there_is(desk: Desk) -> None:
    errors, gone = desk.folder / "errors", desk.folder / "gone"
    reader = f"{{ read -r _; exec <&-; >{gone}; }}"
    command = f'bash "$@" 2>{errors} | {reader}; exit ${{PIPESTATUS[0]}}'
    desk.shell = ("bash", "-c", command, "bash")
    desk.intercept('*"project create"*', f"until [ -e {gone} ]; do sleep 0.01; done")
    done = desk.run("up")
    assert done.code == 141
    assert "up stopped half way" in errors.read_text()


def test_no_other_program_is_given_a_secret(desk: Desk) -> None:
    """Any user of a machine can list the arguments of all its programs."""
    desk.env["APIKEY"] = SECRETS["APIKEY"]
    desk.shell = ("env", "SHELLOPTS=allexport", "bash")
    log = desk.folder / "arguments"
    for name in ("awk", "cat", "cp", "cut", "grep", "head", "mktemp", "rm", "sed", "sha256sum",
                 "sort", "tail", "tr"):  # fmt: skip
        wrapper = desk.account.program.parent / name
        wrapper.write_text(
            f'#!/bin/sh\n(echo {name} "$@"; env) >>{log}\nexec {shutil.which(name)} "$@"\n'
        )
        wrapper.chmod(0o755)
    desk.up()
    desk.env.pop("APIKEY")
    desk.up()
    desk.run("status")
    assert "sha256sum" in log.read_text()
    assert "canary" not in log.read_text()
