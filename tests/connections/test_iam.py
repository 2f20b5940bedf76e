"""Tokens of a trusted profile, for the bucket and for IBM Cloud Logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import requests

from connections.iam import TokenError, Tokens, TrustedProfile
from standins.flowlogs import flow_log_objects
from standins.iam import IAM
from tests.harness import Place, services

CR_TOKEN = "canary-cr-token-M3n4O5p6"
RENEWED = "canary-cr-token-renewed-Q7r8"
PROFILE, PROFILE_ID = "flowlog", "Profile-1234"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with services("cloud-logs") as place:
        place.iam.link(PROFILE, PROFILE_ID, CR_TOKEN)
        (tmp_path / "token").write_text(f"{CR_TOKEN}\n")
        del place.environ["APIKEY"]
        place.environ["CR_TOKEN_FILENAME"] = str(tmp_path / "token")
        yield place


@pytest.mark.parametrize(
    "named", [{"IAM_PROFILE_NAME": PROFILE}, {"IAM_PROFILE_ID": PROFILE_ID}], ids=["name", "id"]
)
def test_a_profile_reads_the_bucket_writes_state_and_sends(
    place: Place, named: dict[str, str]
) -> None:
    expected = place.put(*flow_log_objects(2, 3))
    result = place.run(FLOWLOG_MODE="catch-up", LOG="DEBUG", **named)
    assert result.code == 0, result.log
    assert place.received() == expected
    assert CR_TOKEN not in result.log
    assert len(place.iam.requests) == 1, "one token for the bucket and for the log service"


def test_hmac_for_the_bucket_and_a_profile_for_the_log_service(place: Place) -> None:
    place.store._iam = None  # any credentials will do for the bucket
    expected = place.put(*flow_log_objects(1, 3))
    hmac = {"COS_HMAC_ACCESS_KEY_ID": "a", "COS_HMAC_SECRET_ACCESS_KEY": "an-hmac-secret"}
    result = place.run(IAM_PROFILE_NAME=PROFILE, **hmac)
    assert result.code == 0, result.log
    assert place.received() == expected


def test_the_profile_is_used_if_there_is_also_an_api_key(place: Place) -> None:
    expected = place.put(*flow_log_objects(1, 1))
    result = place.run(IAM_PROFILE_NAME=PROFILE, APIKEY="a-wrong-key")
    assert result.code == 0, result.log
    assert "APIKEY is not used" in result.log
    assert place.received() == expected


def test_netrc_adds_nothing_to_the_exchange(place: Place, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("default login somebody password else\n")
    (tmp_path / ".netrc").chmod(0o600)
    place.put(*flow_log_objects(1, 1))
    assert place.run(IAM_PROFILE_NAME=PROFILE, HOME=str(tmp_path)).code == 0


def test_a_missing_token_says_how_the_job_must_be_made(place: Place, tmp_path: Path) -> None:
    (tmp_path / "token").unlink()
    place.put(*flow_log_objects(1, 1))
    result = place.run(IAM_PROFILE_NAME=PROFILE)
    assert result.code == 1
    assert "--trusted-profiles-enabled=true" in result.log
    assert "Traceback" not in result.log
    assert not place.iam.requests


@pytest.mark.parametrize("wrong", [{"IAM_PROFILE_NAME": "other"}, {"IAM_PROFILE_ID": PROFILE}])
def test_a_refusal_names_the_profile_and_the_link(place: Place, wrong: dict[str, str]) -> None:
    place.put(*flow_log_objects(1, 1))
    result = place.run(**wrong)
    assert result.code == 1
    ((setting, profile),) = wrong.items()
    assert f"IAM refused the trusted profile '{profile}'; look at {setting}" in result.log
    assert "link" in result.log
    assert CR_TOKEN not in result.log
    assert not place.received()


def test_the_compute_token_is_read_anew_for_each_exchange(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(CR_TOKEN)
    with IAM("unused") as iam:
        iam.link(PROFILE, PROFILE_ID, CR_TOKEN)
        tokens = Tokens(TrustedProfile("IAM_PROFILE_NAME", PROFILE, file), iam.url)
        first = tokens.get_token()
        # The platform renews the compute resource token, and the service refuses the old token.
        file.write_text(RENEWED)
        iam.link(PROFILE, PROFILE_ID, RENEWED)
        iam.revoke_all()
        assert tokens.replace(first)
        assert iam.is_valid(tokens.get_token())
        forms = [parse_qs(request.body.decode()) for request in iam.requests]
    assert [form["cr_token"] for form in forms] == [[CR_TOKEN], [RENEWED]]
    for form in forms:
        assert form.keys() == {"grant_type", "response_type", "cr_token", "profile_name"}


def test_a_file_that_holds_no_token_is_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    profile = TrustedProfile("IAM_PROFILE_NAME", PROFILE, tmp_path / "token")
    with pytest.raises(TokenError, match="trusted-profiles-enabled"):
        Tokens(profile, "http://127.0.0.1:1").get_token()
    with pytest.raises(TokenError, match=str(tmp_path)):
        profile.form()


def test_the_stand_in_wants_the_exchange_as_documented() -> None:
    """So that the tests above fail for an exchange that the real IAM would refuse."""
    form = {
        "grant_type": "urn:ibm:params:oauth:grant-type:cr-token",
        "response_type": "cloud_iam",
        "cr_token": CR_TOKEN,
        "profile_name": PROFILE,
    }
    with IAM("unused") as iam:
        iam.link(PROFILE, PROFILE_ID, CR_TOKEN)
        url = f"{iam.url}/identity/token"
        answer = requests.post(url, data=form)
        assert answer.status_code == 200
        assert "refresh_token" not in json.loads(answer.text)
        for change in (
            {"cr_token": RENEWED},
            {"profile_id": PROFILE_ID},
            {"profile_name": "other"},
            {"apikey": "k"},
        ):
            assert requests.post(url, data={**form, **change}).status_code == 400, change
        assert requests.post(url, data=form, auth=("bx", "bx")).status_code == 400
