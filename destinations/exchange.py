"""One HTTP exchange with a log service: the request out, the answer in, up to 64 KiB of it."""

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
    """What went over the wire; `bytes_sent` counts request bodies as sent, retries included.

    `remarks` counts the answers that took the lines and said something beside that.
    """

    requests: int = 0
    retries: int = 0
    bytes_sent: int = 0
    remarks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, size: int, first: bool) -> None:
        """One request of `size` bytes is about to go out."""
        with self.lock:
            self.requests += 1
            self.bytes_sent += size
            self.retries += not first

    def count_remark(self) -> None:
        """An answer has a remark."""
        with self.lock:
            self.remarks += 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `text` is empty where it can't be read."""

    response: requests.Response
    text: bytes

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.response.status_code

    @property
    def retry_after(self) -> float | None:
        """The seconds that a Retry-After asks for."""
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
        # An answer is short, and one that is compressed anyway might not be readable.
        self._session.headers["Accept-Encoding"] = "identity"

    def post(self, body: bytes, *, first: bool) -> Answer:
        """Post, and read the answer. Raises DeliveryError, or TryAgain where there is no answer."""
        self._traffic.count(len(body), first)
        timeout = (self._policy.connect_seconds, self._policy.answer_seconds)
        try:
            with time_limit(self._policy.answer_seconds):
                response = self._destination.post(self._session, body, timeout)
                return Answer(response, _text(response))
        except TooSlow:
            raise TryAgain("it gave no whole answer in time") from None
        except _BROKEN_CONNECTION as error:
            raise TryAgain(_connection_problem(error)) from None
        except requests.RequestException as error:
            raise TryAgain(f"its answer is unusable ({type(error).__name__})") from None


def _text(response: requests.Response) -> bytes:
    """What follows the headers; empty where it gets lost or can't be decoded.

    It is read to its end, so that the connection can be used again.
    """
    try:
        text: bytes = response.raw.read(ANSWER_LIMIT_BYTES + 1, decode_content=True)
    except (urllib3.exceptions.HTTPError, OSError):
        response.close()
        return b""
    # Behind an interim answer (1xx) the real one may follow: no other request may take it.
    if len(text) > ANSWER_LIMIT_BYTES or response.status_code < 200:
        response.close()
    return text[:ANSWER_LIMIT_BYTES]


def _connection_problem(error: requests.RequestException) -> str:
    """What happened, without the URL and the address of an object that the library's text holds."""
    if isinstance(error, requests.Timeout):
        return "it gave no answer in time"
    if is_unverified(error):
        return "its TLS certificate could not be verified"
    if isinstance(error, requests.exceptions.SSLError):
        return "no TLS connection could be made"
    return "it could not be reached, or the connection broke"
