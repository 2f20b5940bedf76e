"""IBM Cloud Logs as a destination.

IBM Cloud docs, Cloud Logs, "Sending logs by using the API" and "Limits".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
import requests
from requests.auth import AuthBase

from connections.iam import TokenError, Tokens
from destinations import answers
from destinations.base import Destination, KeyRejected, Line, LongLine, Source, Variables

APPLICATION = "vpc-flow-logs"

INFO, WARNING = 3, 4

UNKNOWN_SUBSYSTEM = "unknown"
"""The required subsystem, if an object names no VPC."""


@dataclass(frozen=True, slots=True)
class CloudLogs(Destination):
    """The ingestion API of an IBM Cloud Logs instance.

    `url` is the instance's ingress URL without a path; `/logs/v1/singles` is added. An empty
    `subsystem` means the id of the VPC.
    """

    url: str
    tokens: Tokens = field(repr=False)
    application: str
    subsystem: str = ""

    @classmethod
    def read(cls, env: Variables) -> CloudLogs:
        """The destination by CLOUD_LOGS_ENDPOINT, with tokens of the job's credentials."""
        url = env.url("CLOUD_LOGS_ENDPOINT").removesuffix("/logs/v1/singles")
        env.required("CLOUD_LOGS_ENDPOINT")
        return cls(
            url,
            env.tokens(),
            env.parsed("CLOUD_LOGS_APPLICATION", _parse_label, APPLICATION),
            env.parsed("CLOUD_LOGS_SUBSYSTEM", _parse_label, ""),
        )

    name = "IBM Cloud Logs"
    endpoint_setting = "CLOUD_LOGS_ENDPOINT"
    key_setting = "APIKEY (or the trusted profile), which needs the role Sender on this instance"
    prefix, suffix = b"[", b"]"
    # The API docs say 2 MB, the limits page says 10 MiB.
    request_limit_bytes = 2_000_000
    line_limit_bytes = 32_000
    long_line = LongLine.DROPPED
    # Whether the service takes compressed requests is not documented.
    compressed = False
    # The service indexes values of up to 256 characters; a key is longer.
    extra_fields = ("_object",)
    # The service refuses lines older than 24 hours; half an hour is left for retries.
    oldest_hours = 23.5
    newest_hours = 4 - 1 / 60

    def around(self, source: Source, now: int) -> Callable[[Line], tuple[bytes, bytes]]:
        """A function that returns the text before and after a line's own text in its element."""
        subsystem = self.subsystem or source.vpc_id or UNKNOWN_SUBSYSTEM
        always = {"applicationName": self.application, "subsystemName": subsystem}
        if source.interface_id:
            always["computerName"] = source.interface_id
        start = orjson.dumps(always)[:-1] + b',"text":'

        def around(line: Line) -> tuple[bytes, bytes]:
            severity = WARNING if line.rejected else INFO
            time = self.timestamp(line, now)
            after = b'%b,"severity":%d,"timestamp":%d}' % (line.tail, severity, time)
            return start + line.head, after

        return around

    def limited_size(self, line: Line, element: bytes) -> int:
        """The size in bytes to which the limit for a line applies: the whole element."""
        return len(element)

    def post(
        self, session: requests.Session, body: bytes, timeout: tuple[float, float]
    ) -> requests.Response:
        """Post a body with a valid token. Raises KeyRejected if there is none."""
        try:
            token = self.tokens.get_token()
        except TokenError as error:
            raise KeyRejected(str(error)) from None
        return session.post(
            f"{self.url}/logs/v1/singles",
            data=body,
            headers={"Content-Type": "application/json"},
            # With an `auth`, since ~/.netrc would replace a plain header.
            auth=_Bearer(token),
            timeout=timeout,
            stream=True,
            # A redirect would send the token to an unknown host.
            allow_redirects=False,
        )

    def meaning(self, status: int, text: bytes, lines: int) -> answers.Meaning:
        """What an answer to a request with this many lines means."""
        return answers.cloud_logs(status, text, lines)

    def replaced_credentials(self, rejected: requests.Response) -> bool:
        """Whether the next request will use another token than the rejected one."""
        header = rejected.request.headers["Authorization"]
        return self.tokens.replace(str(header).removeprefix("Bearer "))


def _parse_label(text: str) -> str:
    if len(text) > 100 or not text.isprintable():
        raise ValueError("is not a name of at most 100 printable characters")
    return text


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request
