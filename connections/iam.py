"""IAM bearer tokens, for the bucket and for IBM Cloud Logs."""

from __future__ import annotations

import functools
import math
import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import requests

from connections.pools import is_unverified, session
from connections.retry import RetryPolicy, TryAgain, retry_after_seconds
from connections.time_limit import TooSlow, seconds_left, time_limit

IAM_SECONDS = 10.0
"""Time limit for a whole exchange with IAM."""

RENEWAL_SECONDS = 60.0
"""A refused token is replaced at most this often: the refusal may have another reason."""

_RENEWED_AT = 0.8
"""A token is renewed after this part of its lifetime, as in the IBM Cloud SDKs, so that it is still
valid for some time if IAM can't be reached."""


class TokenError(Exception):
    """IAM refuses to issue a token; the text says which setting to look at."""


class TokenUnavailable(TryAgain):
    """IAM issues no token now; the request is retried in `after` seconds."""


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
        """Use the client id of IBM's own tools, bx:bx."""
        request.headers["Authorization"] = "Basic Yng6Yng="
        return request


@dataclass(frozen=True, slots=True)
class TrustedProfile:
    """A trusted profile, for which the token of the compute resource is exchanged.

    `setting` is the variable that names it, IAM_PROFILE_NAME or IAM_PROFILE_ID. The exchange is the
    one of ContainerAuthenticator in ibm-cloud-sdk-core.
    """

    setting: str
    value: str
    token_file: Path

    @property
    def refusal(self) -> str:
        """The message if IAM refuses it."""
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
        """Add nothing; with an `auth`, `requests` does not read ~/.netrc for this host."""
        return request


Identity = ApiKey | TrustedProfile


@dataclass(frozen=True, slots=True)
class IAM:
    """The job's identity, and the COS instance that it reads; `url` is IAM's base URL."""

    identity: Identity
    instance_crn: str
    url: str

    def tokens(self) -> Tokens:
        """The tokens of this identity."""
        return tokens_for(self.identity, self.url)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; times in seconds of the monotonic clock. It is used until refused."""

    text: str = field(repr=False)
    issued: float
    lifetime: float

    def is_due(self, now: float) -> bool:
        """Whether it is time to renew it."""
        return now >= self.issued + _RENEWED_AT * self.lifetime


class Tokens:
    """IAM bearer tokens, cached until it is time to renew them; safe to use from several threads.

    This never waits between tries: callers get TokenUnavailable, and treat it as if their own
    service could not be reached. So all threads wait, and then one of them asks IAM.
    """

    def __init__(self, identity: Identity, iam_url: str) -> None:
        self._identity = identity
        self._url = f"{iam_url}/identity/token"
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._replaced = -math.inf
        self._tries = 0
        self._problem = ""
        self._ask_at = -math.inf

    def get_token(self) -> str:
        """A token: the cached one until it is refused, also if IAM can't renew it now.

        Raises TokenUnavailable, TokenError.
        """
        token = self._token
        if token and not token.is_due(time.monotonic()):
            return token.text
        # A thread that has a token uses it while another thread renews it.
        if not self._lock.acquire(timeout=0 if token else seconds_left()):
            if token:
                return token.text
            raise TooSlow("another thread waits for IAM")
        try:
            return self._renewed().text
        except TokenUnavailable:
            if self._token:
                return self._token.text
            raise
        finally:
            self._lock.release()

    def replace(self, refused: str) -> bool:
        """Whether to try another token than the refused one, which `get_token` then fetches.

        False if a token was replaced a moment ago: then the refusal has another reason.
        """
        with self._lock:
            if self._token is None or self._token.text != refused:
                return True
            if time.monotonic() - self._replaced < RENEWAL_SECONDS:
                return False
            self._replaced = time.monotonic()
            self._token = None
            return True

    def _renewed(self) -> Token:
        """A token that is not due for renewal; asks IAM, but not before `_ask_at`."""
        now = time.monotonic()
        if self._token and not self._token.is_due(now):
            return self._token
        if now < self._ask_at:
            raise TokenUnavailable(self._problem, self._ask_at - now)
        try:
            self._token = self._issue()
        except TokenUnavailable as error:
            self._tries += 1
            wait = RetryPolicy(math.inf).wait(self._tries, 0, error.after, random.random())
            self._problem, self._ask_at = str(error), time.monotonic() + (wait or 0)
            raise TokenUnavailable(self._problem, wait) from None
        self._tries = 0
        return self._token

    def _issue(self) -> Token:
        """A new token (IAM Identity Services API, "Create an IAM access token").

        Does not use the SDK, which follows redirects with the key in the body. Raises TokenError,
        TokenUnavailable.
        """
        form = self._identity.form()
        try:
            with session(1) as opened, time_limit(IAM_SECONDS):
                asked = time.monotonic()
                answer = opened.post(
                    self._url,
                    data={**form, "response_type": "cloud_iam"},
                    auth=self._identity.authorize,
                    headers={"Accept": "application/json"},
                    timeout=IAM_SECONDS,
                    allow_redirects=False,
                )
            if answer.status_code != 200:
                raise explain_refusal(answer.status_code, answer.headers, self._identity)
            return issued(answer.json(), asked)
        except (requests.RequestException, TooSlow, ValueError) as error:
            what = f"IAM can't be reached or understood ({type(error).__name__})"
            if is_unverified(error):
                raise TokenError(f"{what}: its certificate can't be verified; {_CA}") from None
            raise TokenUnavailable(f"{what}; look at IAM_ENDPOINT") from None


_CA = "look at REQUESTS_CA_BUNDLE and SSL_CERT_FILE"


def explain_refusal(
    status: int, headers: Mapping[str, str], identity: Identity
) -> TokenError | TokenUnavailable:
    """The error that an answer of IAM without a token means, by its status."""
    what = f"IAM gave no token, it answered {status}; look at IAM_ENDPOINT"
    if status in (408, 425, 429) or status >= 500:
        after = retry_after_seconds(headers.get("Retry-After"), datetime.now(UTC))
        return TokenUnavailable(f"{what} and its status", after)
    if status in (400, 401, 403):
        return TokenError(identity.refusal)
    return TokenError(what)


def issued(answer: object, now: float) -> Token:
    """The token in IAM's answer. Raises ValueError."""
    match answer:
        case {"access_token": str(text), "token_type": str(), "expires_in": int(lifetime)}:
            if re.fullmatch("[!-~]+", text):
                return Token(text, now, lifetime)
    raise ValueError("the answer has no token")


@functools.cache
def tokens_for(identity: Identity, iam_url: str) -> Tokens:
    """The tokens of this identity, shared by all callers."""
    return Tokens(identity, iam_url)
