"""Requests to the store over HTTP, with about a third of the CPU of the SDK's client.

The SDK needs some 7,000 function calls to build, validate, sign, send and parse a request, which is
more than all other work for a flow log; and creating its client takes as long as reading a hundred
objects. Only its signature is needed here. Its client also has its own rules for retries, proxies
and certificates, which would apply to some requests only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import quote, urlencode

import urllib3

from connections.get import Getter
from connections.iam import Tokens
from connections.network import network, tls_context
from connections.pools import pool
from connections.retry import RetryPolicy, retry_after_seconds
from connections.time_limit import time_limit
from connections.values import content_length

EXCHANGE_FACTOR = 5
"""A whole exchange may take this many times the limit for a single read, if that leaves time for a
retry."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The store's answer; look up its headers in lower case. `size` is its Content-Length."""

    status: int
    headers: Mapping[str, str]
    size: int
    content: bytes = field(repr=False)

    @property
    def error_code(self) -> str:
        """The S3 error code, empty if there is none (S3 API, "Error responses")."""
        found = re.search(rb"<Code>([A-Za-z0-9]{1,64})</Code>", self.content)
        return found[1].decode() if found else ""

    @property
    def retry_after(self) -> float | None:
        """The store's `Retry-After` in seconds, if it sent one."""
        return retry_after_seconds(self.headers.get("retry-after"), datetime.now(UTC))


@dataclass(frozen=True, slots=True)
class Request:
    """A request about one object of the bucket; or about the bucket, with a query and no key.

    Content of more than `limit` bytes is not read.
    """

    method: str
    key: str
    limit: int
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)

    @property
    def target(self) -> str:
        """What follows the bucket in the URL."""
        target = quoted(self.key)
        if self.query:
            target += "?" + urlencode(self.query, quote_via=quote, safe="-_.~")
        return target


class Authorization(Protocol):
    """Makes the headers that authorize a request."""

    def headers(self, request: Request, url: str) -> dict[str, str]:
        """The headers that the request to `url` needs besides its own."""

    def replace(self, refused: Mapping[str, str]) -> bool:
        """Whether other headers than the refused ones are available, and may work."""


class Bearer:
    """IAM tokens."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    def headers(self, request: Request, url: str) -> dict[str, str]:
        """The headers that the request to `url` needs besides its own."""
        return {"Authorization": f"Bearer {self._tokens.get_token()}"}

    def replace(self, refused: Mapping[str, str]) -> bool:
        """Whether other headers than the refused ones are available, and may work."""
        return self._tokens.replace(refused["Authorization"].removeprefix("Bearer "))


class Signature:
    """HMAC credentials, as AWS Signature Version 4."""

    def __init__(self, access_key_id: str, secret_access_key: str, region: str) -> None:
        # Runs with bearer tokens don't need these imports, which take long for a run with an event.
        from ibm_botocore.auth import S3SigV4Auth
        from ibm_botocore.awsrequest import AWSRequest
        from ibm_botocore.credentials import Credentials

        self._request = AWSRequest
        self._signer = S3SigV4Auth(Credentials(access_key_id, secret_access_key), "s3", region)

    def headers(self, request: Request, url: str) -> dict[str, str]:
        """The headers that the request to `url` needs besides its own."""
        signed = self._request(request.method, url, dict(request.headers), request.body)
        self._signer.add_auth(signed)
        return dict(signed.headers)

    def replace(self, refused: Mapping[str, str]) -> bool:
        """Whether other headers than the refused ones are available: never."""
        return False


class Fetcher:
    """Makes requests about one bucket; safe to use from `connections` threads at a time."""

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        authorization: Authorization,
        connections: int,
        policy: RetryPolicy,
    ) -> None:
        self._url = f"{endpoint}/{bucket}/"
        self._path = urllib3.util.parse_url(self._url).path or "/"
        self._authorization = authorization
        self._pool = functools.partial(pool, endpoint, connections)
        self._getter = getter(endpoint, policy.connect_seconds, policy.answer_seconds)
        self._timeout = policy.connect_seconds, policy.answer_seconds
        self._exchange_seconds = max(
            policy.answer_seconds,
            min(EXCHANGE_FACTOR * policy.answer_seconds, policy.seconds / 2),
        )

    def ask(self, request: Request) -> Answer:
        """Make a request; once more if its token had expired.

        Raises TokenUnavailable, TokenError; and TooSlow, NotConnected, UnusableAnswer or urllib3's
        HTTPError if there is no complete answer.
        """
        url = self._url + request.target
        headers = self._authorization.headers(request, url)
        answer = self._ask(request, headers)
        if answer.status in (401, 403) and self._authorization.replace(headers):
            answer = self._ask(request, self._authorization.headers(request, url))
        return answer

    def _ask(self, request: Request, headers: Mapping[str, str]) -> Answer:
        sent = {**request.headers, **headers}
        target = self._path + request.target
        if self._getter and request.method == "GET":
            got = self._getter.get(target, sent, request.limit, self._exchange_seconds)
            return Answer(got.status, got.headers, got.size, got.content)
        return self._ask_by_urllib3(request, target, sent)

    @functools.cached_property
    def _urllib3(self) -> tuple[urllib3.HTTPConnectionPool, str]:
        # A run that only reads objects does not need it.
        return self._pool()

    def _ask_by_urllib3(self, request: Request, target: str, headers: Mapping[str, str]) -> Answer:
        connections, before = self._urllib3
        with time_limit(self._exchange_seconds):
            response = connections.urlopen(
                request.method,
                before + target,
                body=request.body,
                headers={**headers, "Accept-Encoding": "identity"},
                timeout=urllib3.Timeout(*self._timeout),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            size = content_length(response.headers.get("content-length")) or 0
            if size > request.limit and request.method != "HEAD":
                response.close()
                content = b""
            else:
                # Reading to the end raises if the answer is shorter than its Content-Length. One
                # without a length is read up to one byte over the limit.
                content = response.read(None if size else request.limit + 1)
                response.release_conn()
        return Answer(response.status, response.headers, max(size, len(content)), content)


def getter(endpoint: str, connect_seconds: float, answer_seconds: float) -> Getter | None:
    """The fast way to GET; None if there is a proxy for the endpoint."""
    if network().proxies_for(endpoint):
        return None
    tls = tls_context() if endpoint.startswith("https:") else None
    return Getter(endpoint, connect_seconds, answer_seconds, tls)


def quoted(key: str) -> str:
    """A key, percent-encoded for the path of a URL."""
    # This is enough for the keys of flow logs, and five times faster.
    return (
        key.replace("%", "%25").replace("=", "%3D") if _SIMPLE_KEY(key) else quote(key, safe="/~")
    )


_SIMPLE_KEY = re.compile("[A-Za-z0-9/%=._~-]*").fullmatch
