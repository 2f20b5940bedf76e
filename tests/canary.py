"""Searches the output of a run for the secrets of the tests."""

from __future__ import annotations

import base64

from tests.harness import SECRETS, Place, Result


def assert_no_secret(place: Place, result: Result) -> None:
    output = result.log + result.out
    secrets = [*SECRETS.values(), *place.iam.issued]
    for secret in secrets:
        for text in (secret, f"{secret}:", f":{secret}", f"x:{secret}"):
            # Depending on its position, the encoded text has one of three forms.
            for shift in range(3):
                encoded = base64.b64encode(b"\0" * shift + text.encode()).decode()
                assert encoded[4:-4] not in output
        assert secret not in output
