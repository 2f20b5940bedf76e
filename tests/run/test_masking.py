"""No secret is printed, and masking never breaks the summary."""

from __future__ import annotations

import json

import pytest

from bucket.listing import ObjectRef
from push.ledger import Tally
from run.masking import Mask, secrets_of
from run.report import summary


@pytest.mark.parametrize(
    "name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "COS_ENDPOINT", "IAM_ENDPOINT"]
)
@pytest.mark.parametrize("before", ["http://", ""])
def test_passwords_in_urls_are_secrets(name: str, before: str) -> None:
    mask = Mask(secrets_of({name: f"{before}me:pass%40word-1@proxy:3128/"}))
    for form in ("pass%40word-1", "pass@word-1", "me:pass%40word-1@"):
        assert form not in mask(f"can't reach {form} at all")
    assert mask("can't reach me at proxy:3128") == "can't reach me at proxy:3128"


def test_tokens_that_are_not_known_in_advance() -> None:
    token = "eyJraWQiOiIyMDI2In0.eyJpYW1faWQiOiJJQk1pZCJ9.c2lnbmF0dXJl_-"
    assert token not in Mask([])(f"it answered: {token}!")
    assert Mask([])("Authorization: Bearer abc.def") == "Authorization: Bearer ***"


@pytest.mark.parametrize(
    "secret", ['"objects"', "failed_total", "delivered", '":0,"rows":', "1.0.0"]
)
def test_masking_leaves_the_summary_json(secret: str) -> None:
    tally = Tally(objects=1)
    tally.failed.append(f"key of {secret}", f"why {secret}")
    tally.not_begun, tally.not_begun_reason = [ObjectRef(1, "other")], f"as {secret}"
    text = summary("simple", tally, None, 0.5, Mask([secret]))
    found = json.loads(text.removeprefix("summary "))
    assert (found["objects"], found["failed_total"], found["version"]) == (1, 2, "1.0.0")
    assert [entry["error"] for entry in found["failed"]] == ["why ***", "as ***"]
    assert found["failed"][0]["key"] == "key of ***"
