"""One HTTP exchange with a log service: sends the request, reads up to 64 KiB of the answer."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

import requests
import urllib3

from connections.pools import is_unverified, session
from connections.retry import RetryPolicy, TryAgain, retry_after_seconds
from connections.time_limit import TooSlow, time_limit
from destinations.base import Destination

ANSWER_LIMIT_BYTES = 64 * 1024

_BROKEN_CONNECTION = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


@dataclass(slots=True)
class Traffic:
    """What was sent; `bytes_sent` counts request bodies as sent, including retries.

    `remarks` counts answers that accepted the lines and had other text.
    """

    requests: int = 0
    retries: int = 0
    bytes_sent: int = 0
    remarks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, size: int, first: bool) -> None:
        """Count a request of `size` bytes that is about to be sent."""
        with self.lock:
            self.requests += 1
            self.bytes_sent += size
            self.retries += not first

    def count_remark(self) -> None:
        """Count an answer with a remark."""
        with self.lock:
            self.remarks += 1


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; `text` is empty if it can't be read."""

    response: requests.Response
    text: bytes

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status_code

    @property
    def retry_after(self) -> float | None:
        """The Retry-After in seconds, if there is one."""
        value = self.response.headers.get("Retry-After")
        return retry_after_seconds(value, datetime.now(UTC))


class Exchange:
    """Posts encoded requests and reads the answers; safe to use from several threads."""

    def __init__(
        self, destination: Destination, policy: RetryPolicy, traffic: Traffic, connections: int
    ) -> None:
        self._destination = destination
        self._policy = policy
        self._traffic = traffic
        self._session = session(connections)
        # Answers are short, and a compressed one might not be readable.
        self._session.headers["Accept-Encoding"] = "identity"

    def post(self, body: bytes, *, first: bool) -> Answer:
        """Post, and read the answer. Raises DeliveryError, or TryAgain if there is no answer."""
        self._traffic.count(len(body), first)
        timeout = (self._policy.connect_seconds, self._policy.answer_seconds)
        try:
            with time_limit(self._policy.answer_seconds):
                response = self._destination.post(self._session, body, timeout)
                return Answer(response, _text(response))
        except TooSlow:
            raise TryAgain("it gave no complete answer in time") from None
        except _BROKEN_CONNECTION as error:
            raise TryAgain(_connection_problem(error)) from None
        except requests.RequestException as error:
            raise TryAgain(f"its answer is unusable ({type(error).__name__})") from None


def _text(response: requests.Response) -> bytes:
    """The body of an answer; empty if it is incomplete or can't be decoded.

    It is read to the end, so that the connection can be reused.
    """
    try:
        text: bytes = response.raw.read(ANSWER_LIMIT_BYTES + 1, decode_content=True)
    except (urllib3.exceptions.HTTPError, OSError):
        response.close()
        return b""
    # After an interim answer (1xx) the final one may follow: don't reuse the connection.
    if len(text) > ANSWER_LIMIT_BYTES or response.status_code < 200:
        response.close()
    return text[:ANSWER_LIMIT_BYTES]


def _connection_problem(error: requests.RequestException) -> str:
    """The problem, without the URL and the object address in the text of the library."""
    if isinstance(error, requests.Timeout):
        return "it gave no answer in time"
    if is_unverified(error):
        return "its TLS certificate could not be verified"
    if isinstance(error, requests.exceptions.SSLError):
        return "no TLS connection could be made"
    return "it could not be reached, or the connection broke"
