"""The ini file that the tester and the deployment share, and what the job gets of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from desk.ini import KEYS, in_the_cloud, read_ini, variables_read
from run.settings import Unusable
from tests.run.test_settings import HMAC_WAY, IAM_WAY

ALL_KEYS = {**IAM_WAY, **HMAC_WAY}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't read"),
        ("[other]\na = b\n", "no section [env]"),
        ("apikey = secret-text\n", "line 1 is not in ini format"),
        ("[env]\napikey secret-text\n", "is not in ini format"),
        ("[env]\napikey = a\nAPIKEY = secret-text\n", "line 3 is not in ini format"),
        ("[env]\napikey = a\n  secret-text\n", "the value of APIKEY goes on in another line"),
        ("[env]\nlog = INFO\n[deploy]\ncpu = 1\n 2\n", "the value of cpu goes on in another line"),
    ],
)
def test_an_unusable_ini_file(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "test.ini"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Unusable) as caught:
        read_ini(path)
    assert said in str(caught.value)
    assert "secret-text" not in str(caught.value)


def test_an_ini_file_is_taken_literally(tmp_path: Path) -> None:
    path = tmp_path / "test.ini"
    text = "\ufeff[env]\n# no = setting\nApiKey = a%b=c;d#e\nEMPTY =\n[deploy]\nname = x\n"
    path.write_text(text, encoding="utf-8")
    assert read_ini(path) == ({"APIKEY": "a%b=c;d#e"}, {"name": "x"})


def test_the_cloud_gets_no_key_but_the_one_that_is_asked_for() -> None:
    ours = in_the_cloud(ALL_KEYS, "profile", "the-profile")
    assert not KEYS & ours.keys() and ours["IAM_PROFILE_NAME"] == "the-profile"
    with_key = in_the_cloud(ALL_KEYS, "apikey", "the-profile")
    assert KEYS & with_key.keys() == {"APIKEY"} and "IAM_PROFILE_NAME" not in with_key


def test_a_profile_that_is_there_already_is_taken() -> None:
    cloud = in_the_cloud({**IAM_WAY, "IAM_PROFILE_ID": "Profile-1"}, "profile", "the-profile")
    assert "IAM_PROFILE_NAME" not in cloud


@pytest.mark.parametrize("host", ["s3.", "s3.private.", "s3.direct.", "https://s3."])
def test_the_direct_endpoint_is_used_in_the_cloud(host: str) -> None:
    name = "us-south.cloud-object-storage.appdomain.cloud"
    cloud = in_the_cloud({"COS_ENDPOINT": f"{host}{name}"}, "profile", "p")
    scheme = "https://" if "://" in host else ""
    assert cloud["COS_ENDPOINT"] == f"{scheme}s3.direct.{name}"
    other = in_the_cloud({"COS_ENDPOINT": "https://minio.example.com"}, "profile", "p")
    assert other["COS_ENDPOINT"] == "https://minio.example.com"


def test_what_the_job_does_not_read_is_left_out() -> None:
    other = {"CLOUD_LOGS_ENDPOINT": "x.example.com", "FLOWLOG_MODUS": "follow"}
    read, faults = variables_read({**IAM_WAY, **other, "LOG": "DEBUG"})
    assert read == {**IAM_WAY, "LOG": "DEBUG"}
    assert faults == []


def test_what_is_wrong_is_said_and_the_text_of_the_example_is_wrong() -> None:
    _, faults = variables_read({**IAM_WAY, "APIKEY": "put-your-api-key-here", "LOG": "loud"})
    assert "APIKEY has the text of the example" in faults
    assert any(fault.startswith("LOG ") for fault in faults)
