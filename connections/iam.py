"""IAM bearer tokens, for the bucket and for IBM Cloud Logs."""

from __future__ import annotations

import functools
import math
import re
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import requests
from ibm_botocore.credentials import DefaultTokenManager, TokenManager

from connections.pools import session
from connections.time_limit import TooSlow, time_limit

IAM_SECONDS = 10.0
"""For one whole exchange with IAM."""

RENEWAL_SECONDS = 60.0
"""A token that was refused is renewed at most this often: a refusal may have other reasons."""

_ASK_SECONDS = 0.5
"""How long a token is used before its manager is asked again."""


class TokenError(Exception):
    """IAM gives no token; the text says which setting to look at."""


_GRANT = "urn:ibm:params:oauth:grant-type:"

COMPUTE_RESOURCE_TOKEN = "/var/run/secrets/codeengine.cloud.ibm.com/compute-resource-token/token"
"""Where Code Engine puts the token of a job that may use trusted profiles."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An IAM API key, to be exchanged for tokens."""

    value: str = field(repr=False)

    refusal = "IAM refused the API key; look at APIKEY and IAM_ENDPOINT"

    def form(self) -> dict[str, str]:
        """The form of an exchange."""
        return {"grant_type": f"{_GRANT}apikey", "apikey": self.value}

    def authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Name the client that IBM's own tools name, bx:bx."""
        request.headers["Authorization"] = "Basic Yng6Yng="
        return request


@dataclass(frozen=True, slots=True)
class TrustedProfile:
    """A trusted profile, for which the token of the compute resource is exchanged.

    `setting` is the variable that names it, IAM_PROFILE_NAME or IAM_PROFILE_ID. The exchange is
    that of ContainerAuthenticator in ibm-cloud-sdk-core.
    """

    setting: str
    value: str
    token_file: Path

    @property
    def refusal(self) -> str:
        """What to look at where IAM refuses it."""
        return (
            f"IAM refused the trusted profile {self.value!r}; look at {self.setting}, and whether"
            " the profile has a link to this job in this Code Engine project"
        )

    def form(self) -> dict[str, str]:
        """The form of an exchange. Raises TokenError.

        Code Engine renews the token in place, so the file is read for each exchange.
        """
        try:
            token = self.token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise TokenError(
                f"there is no compute resource token at {self.token_file}"
                f" ({type(error).__name__}): the job must be created or updated with"
                " --trusted-profiles-enabled=true"
            ) from None
        profile = self.setting.removeprefix("IAM_").lower()
        return {"grant_type": f"{_GRANT}cr-token", "cr_token": token, profile: self.value}

    def authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add nothing, and keep `requests` from adding what ~/.netrc says of this host."""
        return request


Identity = ApiKey | TrustedProfile


@dataclass(frozen=True, slots=True)
class IAM:
    """Who the job is, and the COS instance that it reads; `url` is IAM's base URL."""

    identity: Identity
    instance_crn: str
    url: str

    def tokens(self) -> Tokens:
        """The tokens of this identity."""
        return tokens_for(self.identity, self.url)


class Tokens(TokenManager):  # type: ignore[misc]
    """IAM bearer tokens of the SDK's token manager, which renews them before they expire."""

    def __init__(self, identity: Identity, iam_url: str) -> None:
        self._identity = identity
        self._url = f"{iam_url}/identity/token"
        self._lock = threading.Lock()
        self._renewed = -RENEWAL_SECONDS
        self._manager = DefaultTokenManager(auth_function=self._issue)
        self._token, self._asked = "", -math.inf

    def get_token(self) -> str:
        """A valid token. Raises TokenError."""
        # While one thread fetches the first token, the SDK hands None to the others after 5 s.
        with self._lock:
            # The manager's look at the clock takes longer than the rest of making a request.
            if time.monotonic() - self._asked > _ASK_SECONDS:
                self._token = self._ask()
                self._asked = time.monotonic()
            return self._token

    def _ask(self) -> str:
        try:
            token = self._manager.get_token()
        except (requests.RequestException, TooSlow, ValueError, KeyError) as error:
            what = f"IAM can't be reached or understood ({type(error).__name__})"
            raise TokenError(f"{what}; look at IAM_ENDPOINT") from None
        if not token:
            raise TokenError("IAM gave no token; look at IAM_ENDPOINT and its status")
        return str(token)

    def _issue(self) -> dict[str, object]:
        """A new token (IAM Identity Services API, "Create an IAM access token").

        In place of the SDK's own request, which follows redirects with the key in its body. What
        fails here is tried three times by the token manager. Raises TokenError, and what
        `requests` raises.
        """
        form = self._identity.form()
        with session(1) as opened, time_limit(IAM_SECONDS):
            answer = opened.post(
                self._url,
                data={**form, "response_type": "cloud_iam"},
                auth=self._identity.authorize,
                headers={"Accept": "application/json"},
                timeout=IAM_SECONDS,
                allow_redirects=False,
            )
        if answer.status_code == 200:
            return _issued(answer.json())
        if answer.status_code in (400, 401, 403):
            raise TokenError(self._identity.refusal)
        raise TokenError(
            f"IAM gave no token, it answered {answer.status_code}; look at IAM_ENDPOINT"
        )

    def set_from_config(self, config: object) -> None:
        """The SDK's client offers its proxies; `requests` finds its own in the environment."""

    def replace(self, refused: str) -> bool:
        """Whether another token than the refused one can be had; fetches it where it must.

        False where the refused token is new: then the refusal has another reason.
        """
        with self._lock:
            self._asked = -math.inf
            if self._ask() != refused:
                return True
            if time.monotonic() - self._renewed < RENEWAL_SECONDS:
                return False
            self._renewed = time.monotonic()
            self._manager.stop_refresh_thread()
            self._manager = DefaultTokenManager(auth_function=self._issue)
            return True


def _issued(answer: object) -> dict[str, object]:
    """IAM's answer, if it is what the token manager needs. Raises ValueError."""
    fields: dict[str, object] = answer if isinstance(answer, dict) else {}
    match fields:
        case {"access_token": str(token), "token_type": str(), "expires_in": int()}:
            if re.fullmatch("[!-~]+", token):
                return fields
    raise ValueError("no token in it")


@functools.cache
def tokens_for(identity: Identity, iam_url: str) -> Tokens:
    """The tokens of this identity, the same ones for everybody who asks."""
    return Tokens(identity, iam_url)
