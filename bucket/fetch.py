"""Reads objects and listings over HTTP, with about a third of the CPU of the SDK's client.

The SDK builds, validates, signs, sends and parses every request in some 7,000 function calls, which
for flow logs is more than all the rest of the work together; and making its client takes as long
as reading a hundred objects. A GET needs only two things of it, its signature and its tokens, and
those are used here. All other requests are few and are left to its client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote, urlencode

import urllib3
from ibm_botocore.auth import S3SigV4Auth
from ibm_botocore.awsrequest import AWSRequest
from ibm_botocore.credentials import Credentials

from connections.iam import Tokens
from connections.pools import pool
from connections.time_limit import time_limit

CONNECT_SECONDS = 10.0

EXCHANGE_FACTOR = 5
"""One whole GET may take so many times as long as the wait for more bytes."""


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


class Authorization(Protocol):
    """How a request shows that it may be made."""

    def headers(self, url: str) -> dict[str, str]:
        """The headers of a GET of `url`."""

    def replace(self, refused: Mapping[str, str]) -> bool:
        """Whether other headers than the refused ones can be had, and may work."""


class Bearer:
    """IAM tokens."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def headers(self, url: str) -> dict[str, str]:
        """The headers of a GET of `url`."""
        return {"Authorization": f"Bearer {self._tokens.get_token()}"}

    def replace(self, refused: Mapping[str, str]) -> bool:
        """Whether other headers than the refused ones can be had, and may work."""
        return self._tokens.replace(refused["Authorization"].removeprefix("Bearer "))


class Signature:
    """HMAC credentials, as AWS Signature Version 4."""

    def __init__(self, access_key_id: str, secret_access_key: str, region: str) -> None:
        self._signer = S3SigV4Auth(Credentials(access_key_id, secret_access_key), "s3", region)

    def headers(self, url: str) -> dict[str, str]:
        """The headers of a GET of `url`."""
        request = AWSRequest("GET", url)
        self._signer.add_auth(request)
        return dict(request.headers)

    def replace(self, refused: Mapping[str, str]) -> bool:
        """Whether other headers than the refused ones can be had: never."""
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
        self._pool, self._before = pool(endpoint, connections)
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
        if answer.status in (401, 403) and self._authorization.replace(headers):
            answer = self._get(target, self._authorization.headers(self._url + target), limit)
        return answer

    def _get(self, target: str, headers: Mapping[str, str], limit: int) -> Answer:
        with time_limit(self._exchange_seconds):
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
