"""One HTTP exchange with a log service: the request out, the whole answer in."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import requests
import urllib3

from connections.pools import session
from connections.retry import RetryPolicy, TryAgain
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
    """What went over the wire; `bytes_sent` counts request bodies as sent, retries included."""

    requests: int = 0
    retries: int = 0
    bytes_sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, size: int, first: bool) -> None:
        """One request of `size` bytes is about to go out."""
        with self.lock:
            self.requests += 1
            self.bytes_sent += size
            self.retries += not first


class Exchange:
    """Posts encoded requests and reads the answers; safe to use from several threads."""

    def __init__(
        self, destination: Destination, policy: RetryPolicy, traffic: Traffic, connections: int
    ) -> None:
        self._destination = destination
        self._policy = policy
        self._traffic = traffic
        self._session = session(connections)

    def post(self, body: bytes, *, first: bool) -> requests.Response:
        """Post, and read the answer. Raises DeliveryError or TryAgain where there is none."""
        self._traffic.count(len(body), first)
        timeout = (self._policy.connect_seconds, self._policy.answer_seconds)
        try:
            with time_limit(self._policy.answer_seconds):
                response = self._destination.post(self._session, body, timeout)
                _drain(response)
        except TooSlow:
            raise TryAgain("it gave no whole answer in time") from None
        except _BROKEN_CONNECTION as error:
            raise TryAgain(_connection_problem(error)) from None
        except requests.RequestException as error:
            raise TryAgain(f"its answer is unusable ({type(error).__name__})") from None
        if response.status_code < 200:
            raise TryAgain(f"it answered {response.status_code}, which is no answer")
        return response


def _drain(response: requests.Response) -> None:
    """Read what follows the headers, so that the connection can be used again.

    Its content does not matter: the status has said what became of the lines, also where the rest
    of the answer gets lost or can't be decoded.
    """
    try:
        response.raw.read(ANSWER_LIMIT_BYTES, decode_content=False)
        more = response.raw.read(1, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError):
        more = b"?"
    # Behind an interim answer (1xx) the real one may follow: no other request may take it.
    if more or response.status_code < 200:
        response.close()


def _connection_problem(error: requests.RequestException) -> str:
    """What happened, without the URL and the address of an object that the library's text holds."""
    if isinstance(error, requests.Timeout):
        return "it gave no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate could not be verified"
    return "it could not be reached, or the connection broke"
