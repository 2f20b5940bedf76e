"""Lists and reads objects, with about a third of the CPU that the SDK's client takes.

The SDK builds, validates, signs, sends, parses and hooks every request in some 7,000 function
calls, which for flow logs is more than all the rest of the work together; and making its client
takes as long as reading a hundred objects. What a GET really needs of it is used here: its
signature and its tokens. Everything else, of which there is little, is left to its client.
"""

from __future__ import annotations

import functools
import math
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote, urlencode

import requests
import urllib3
from ibm_botocore.auth import S3SigV4Auth
from ibm_botocore.awsrequest import AWSRequest
from ibm_botocore.credentials import Credentials, DefaultTokenManager, TokenManager

from connections import pools

CONNECT_SECONDS = 10.0

EXCHANGE_FACTOR = 5
"""One whole GET may take so many times as long as the wait for more bytes."""

_ASK_SECONDS = 0.5
"""How long a token is used before its manager is asked again."""

IAM_SECONDS = 10.0
"""For one whole exchange with IAM."""

RENEWAL_SECONDS = 60.0
"""A token that was refused is renewed at most this often: a refusal may have other reasons."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The store's answer; the names of its headers in any case. `size` is its Content-Length."""

    status: int
    headers: Mapping[str, str]
    size: int
    content: bytes = field(repr=False)

    @property
    def error_code(self) -> str:
        """The S3 error code, empty where there is none (S3 API, "Error responses")."""
        found = re.search(rb"<Code>([A-Za-z0-9]{1,64})</Code>", self.content)
        return found[1].decode() if found else ""


class TokenError(Exception):
    """IAM gives no token; the text says which setting to look at."""


class Tokens(TokenManager):  # type: ignore[misc]
    """IAM bearer tokens of the SDK's token manager, which renews them before they expire."""

    def __init__(self, api_key: str, iam_url: str) -> None:
        self._api_key = api_key
        self._url = f"{iam_url}/identity/token"
        self._lock = threading.Lock()
        self._renewed = -RENEWAL_SECONDS
        self._manager = DefaultTokenManager(auth_function=self._issue)
        self._token, self._asked = "", -math.inf

    def get_token(self) -> str:
        """A valid token. Raises TokenError."""
        # While one thread fetches the first token, the SDK hands None to the others after 5 s.
        with self._lock:
            # Its look at the clock takes longer than the rest of the making of a request.
            if time.monotonic() - self._asked > _ASK_SECONDS:
                self._token = self._ask()
                self._asked = time.monotonic()
            return self._token

    def _ask(self) -> str:
        try:
            token = self._manager.get_token()
        except (requests.RequestException, pools.TooSlow, ValueError, KeyError) as error:
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
        with pools.session(1) as session, pools.time_limit(IAM_SECONDS):
            answer = session.post(
                self._url,
                data={
                    "grant_type": "urn:ibm:params:oauth:grant-type:apikey",
                    "response_type": "cloud_iam",
                    "apikey": self._api_key,
                },
                # The client that IBM's own tools name; without one ~/.netrc would be asked.
                auth=("bx", "bx"),
                headers={"Accept": "application/json"},
                timeout=IAM_SECONDS,
                allow_redirects=False,
            )
        if answer.status_code == 200:
            return _issued(answer.json())
        if answer.status_code in (400, 401, 403):
            raise TokenError("IAM refused the API key; look at APIKEY and IAM_ENDPOINT")
        raise TokenError(
            f"IAM gave no token, it answered {answer.status_code}; look at IAM_ENDPOINT"
        )

    def set_from_config(self, config: object) -> None:
        """The SDK's client offers its proxies; `requests` finds its own in the environment."""

    def renew(self, refused: str) -> bool:
        """Whether there is, or can be, another token than the one that was refused."""
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
    """What IAM answers, if it is what the token manager needs. Raises ValueError."""
    fields: dict[str, object] = answer if isinstance(answer, dict) else {}
    match fields:
        case {"access_token": str(token), "token_type": str(), "expires_in": int()}:
            if re.fullmatch("[!-~]+", token):
                return fields
    raise ValueError("no token in it")


@functools.cache
def tokens(api_key: str, iam_url: str) -> Tokens:
    """The tokens of this API key, the same ones for everybody who asks."""
    return Tokens(api_key, iam_url)


class Authorization(Protocol):
    """How a request shows that it may be made."""

    def headers(self, url: str) -> dict[str, str]:
        """The headers of a GET of `url`."""

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Whether other headers than the refused ones may work."""


class Bearer:
    """IAM tokens."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def headers(self, url: str) -> dict[str, str]:
        """The headers of a GET of `url`."""
        return {"Authorization": f"Bearer {self._tokens.get_token()}"}

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Whether other headers than the refused ones may work."""
        return self._tokens.renew(refused["Authorization"].removeprefix("Bearer "))


class Signature:
    """HMAC credentials, as AWS Signature Version 4."""

    def __init__(self, access_key_id: str, secret_access_key: str, region: str) -> None:
        self._signer = S3SigV4Auth(Credentials(access_key_id, secret_access_key), "s3", region)

    def headers(self, url: str) -> dict[str, str]:
        """The headers of a GET of `url`."""
        request = AWSRequest("GET", url)
        self._signer.add_auth(request)
        return dict(request.headers)

    def renew(self, refused: Mapping[str, str]) -> bool:
        """Whether other headers than the refused ones may work: never."""
        return False


class Fetcher:
    """GETs objects of one bucket; safe to use from `connections` threads."""

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        authorization: Authorization,
        connections: int,
        answer_seconds: float,
    ) -> None:
        self._url = f"{endpoint}/{bucket}/"
        self._path = urllib3.util.parse_url(self._url).path or "/"
        self._authorization = authorization
        self._pool, self._before = pools.pool(endpoint, connections)
        self._timeout = urllib3.Timeout(
            connect=min(CONNECT_SECONDS, answer_seconds), read=answer_seconds
        )
        self._exchange_seconds = EXCHANGE_FACTOR * answer_seconds

    def get(self, key: str, limit: int, query: Mapping[str, str] | None = None) -> Answer:
        """GET one object; without its content if that has more than `limit` bytes.

        With an empty key and a query it is a question about the bucket. Raises TooSlow, and
        urllib3's HTTPError where the answer is not whole.
        """
        target = quoted(key)
        if query:
            target += "?" + urlencode(query, quote_via=quote, safe="-_.~")
        headers = self._authorization.headers(self._url + target)
        answer = self._get(target, headers, limit)
        if answer.status in (401, 403) and self._authorization.renew(headers):
            answer = self._get(target, self._authorization.headers(self._url + target), limit)
        return answer

    def _get(self, target: str, headers: Mapping[str, str], limit: int) -> Answer:
        with pools.time_limit(self._exchange_seconds):
            response = self._pool.urlopen(
                "GET",
                self._before + self._path + target,
                headers={**headers, "Accept-Encoding": "identity"},
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            size = int(response.headers.get("Content-Length") or 0)
            if size > limit:
                response.close()
                content = b""
            else:
                # Read to its end, an answer that is shorter than it says raises. One without a
                # length is read a byte further than it may be long.
                content = response.read(None if size else limit + 1)
                response.release_conn()
        return Answer(response.status, response.headers, max(size, len(content)), content)


def quoted(key: str) -> str:
    """A key as it stands in the path of a URL."""
    # The keys of flow logs need no more than this, and it is five times faster.
    return key.replace("%", "%25").replace("=", "%3D") if _PLAIN(key) else quote(key, safe="/~")


_PLAIN = re.compile("[A-Za-z0-9/%=._~-]*").fullmatch
