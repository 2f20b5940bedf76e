"""Delivers lines to the LogDNA ingestion API and says which of them arrived.

Data goes one way through four roles: a `Line` is rendered by its destination (`LogDNA`), packed
into a `Batch`, posted by a `Sender` (which retries and splits), and comes back as a `Receipt`.
`Delivery` holds the four together, with a bounded number of requests in flight.

Delivery is at least once: a connection that dies after the service took a batch is
indistinguishable from one that died before, so that batch is sent again.
"""

from __future__ import annotations

import enum
import gzip
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import requests
import tenacity
from requests.adapters import HTTPAdapter

log = logging.getLogger("flowlog.delivery")

HOSTNAME = "flowlogjob"
APP = "FLCE"

REQUEST_LIMIT_BYTES = 10_000_000
"""Largest request body, before compression (Mezmo docs, "Send Log Lines": 10 MB)."""

LINE_LIMIT_BYTES = 16 * 1024
"""The service cuts a longer line (LogDNA ingestion API: 16 KB)."""


@dataclass(frozen=True, slots=True)
class Line:
    """One log line: `text` as it is to be read, `timestamp` in UTC milliseconds."""

    text: str
    timestamp: int
    level: str = "INFO"


# --- what an answer means ------------------------------------------------------------------------


class Verdict(enum.Enum):
    """What an HTTP status of the service means for the batch it answers."""

    DELIVERED = "delivered"
    RETRY = "retry"
    SPLIT = "split"
    REFUSED = "refused"
    KEY_REJECTED = "key rejected"


def verdict(status: int) -> Verdict:
    """The meaning of `status`; contract, section 5."""
    if 200 <= status < 300:
        return Verdict.DELIVERED
    if status == 429 or 500 <= status < 600:
        return Verdict.RETRY
    if status in (401, 403):
        return Verdict.KEY_REJECTED
    if status == 413:
        return Verdict.SPLIT
    return Verdict.REFUSED


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110, 10.2.3), or None where it says nothing.

    The header holds either seconds or an HTTP date; a date in the past means "now".
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


# --- errors --------------------------------------------------------------------------------------


class DeliveryError(Exception):
    """Lines were not delivered; the text says why and which setting to look at."""


class KeyRejected(DeliveryError):
    """401 or 403: nothing else will work with this key."""


class ServiceUnavailable(DeliveryError):
    """The service gave no usable answer for as long as it may be tried."""


class BatchRefused(DeliveryError):
    """The service understood the batch and does not want it."""


class LineTooLong(DeliveryError):
    """A single line does not fit into one request."""


class _TryAgain(Exception):
    """One failed attempt; `after` is what the service's Retry-After asked for, in seconds."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


# --- batches -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogDNA:
    """The service: where it is, with which key, and what its requests look like.

    `url` is the base URL without a path; `/logs/ingest` is added.
    """

    url: str
    key: str = field(repr=False)
    max_request_bytes: int = 4_000_000
    """Size at which a request is closed, uncompressed; under REQUEST_LIMIT_BYTES."""

    name = "the log service"
    endpoint_setting = "LOGDNA_ENDPOINT or LOGDNA_REGION"
    key_setting = "LOGDNA_INGESTION_KEY"
    prefix, separator, suffix = b'{"lines":[', b",", b"]}"

    def element(self, line: Line) -> bytes:
        """The line as one element of a request's list."""
        return (
            f'{{"line":{_json_string(line.text)},"timestamp":{line.timestamp},'
            f'"level":"{line.level}","app":"{APP}","hostname":"{HOSTNAME}"}}'
        ).encode()

    def post(
        self, session: requests.Session, body: bytes, timeout: tuple[float, float]
    ) -> requests.Response:
        """Post one gzip-compressed request body."""
        return session.post(
            f"{self.url}/logs/ingest",
            params={"hostname": HOSTNAME, "now": str(int(time.time() * 1000))},
            data=body,
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
            auth=(self.key, ""),
            timeout=timeout,
            # A redirect would carry the key to a host nobody named.
            allow_redirects=False,
        )


_json_string = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True, slots=True)
class Batch:
    """Rendered lines in order, each with the number of the object that owns it."""

    owners: tuple[int, ...]
    elements: tuple[bytes, ...]

    def body(self, destination: LogDNA) -> bytes:
        """The request body, uncompressed."""
        return destination.prefix + destination.separator.join(self.elements) + destination.suffix

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches that together are this one, in the same order."""
        middle = len(self.owners) // 2
        return (
            Batch(self.owners[:middle], self.elements[:middle]),
            Batch(self.owners[middle:], self.elements[middle:]),
        )


class Packer:
    """Packs rendered lines into batches of at most `destination.max_request_bytes`."""

    def __init__(self, destination: LogDNA) -> None:
        self._destination = destination
        self._empty = len(destination.prefix) + len(destination.suffix)
        self._clear()

    def _clear(self) -> None:
        self._owners: list[int] = []
        self._elements: list[bytes] = []
        self._size = self._empty

    def add(self, owner: int, element: bytes) -> Batch | None:
        """Add one rendered line; the batch that had no more room for it, if there was one.

        Raises LineTooLong for a line that is over the service's limit for a whole request.
        """
        size = len(element) + len(self._destination.separator)
        if self._empty + size > REQUEST_LIMIT_BYTES:
            raise LineTooLong(
                f"a line of {len(element)} bytes does not fit into one request"
                f" of at most {REQUEST_LIMIT_BYTES} bytes"
            )
        full = None
        if self._elements and self._size + size > self._destination.max_request_bytes:
            full = self.take()
        self._owners.append(owner)
        self._elements.append(element)
        self._size += size
        return full

    def take(self) -> Batch | None:
        """The batch as far as it got, or None if nothing is in it."""
        if not self._elements:
            return None
        batch = Batch(tuple(self._owners), tuple(self._elements))
        self._clear()
        return batch


# --- sending -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch, by object: lines accepted, and why the others were not.

    `fatal` is set where the failure will meet every other batch too.
    """

    accepted: Counter[int]
    failed: dict[int, str] = field(default_factory=dict)
    fatal: DeliveryError | None = None


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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one request is tried: at most `tries` times, within `seconds`.

    Between tries the wait is random up to `first_wait`, doubled each time, at most `longest_wait`
    seconds ("full jitter"); a `Retry-After` takes its place. One that would lead past `seconds`
    ends the tries at once.
    """

    tries: int = 10
    seconds: float = 180.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    connect_timeout: float = 10.0
    read_timeout: float = 60.0


class Sender:
    """Posts batches; safe to use from several threads."""

    def __init__(
        self,
        destination: LogDNA,
        policy: RetryPolicy,
        hurry: threading.Event,
        connections: int,
    ) -> None:
        """`hurry`, once set, ends every wait between tries and permits no further try."""
        self.traffic = Traffic()
        self._destination = destination
        self._policy = policy
        self._hurry = hurry
        self._session = requests.Session()
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=connections))
        self._backoff = tenacity.wait_random_exponential(
            multiplier=policy.first_wait, max=policy.longest_wait
        )

    def send(self, batch: Batch) -> Receipt:
        """Send `batch` until there is a final answer for every line of it."""
        try:
            answer = self._post_with_retries(batch)
        except (KeyRejected, ServiceUnavailable) as error:
            return Receipt(Counter(), dict.fromkeys(batch.owners, str(error)), error)
        except BatchRefused as error:
            return Receipt(Counter(), dict.fromkeys(batch.owners, str(error)))
        if answer is Verdict.SPLIT:
            first, second = (self.send(half) for half in batch.halves())
            return Receipt(
                first.accepted + second.accepted,
                first.failed | second.failed,
                first.fatal or second.fatal,
            )
        return Receipt(Counter(batch.owners))

    def _post_with_retries(self, batch: Batch) -> Verdict:
        # Level 1: flow logs are so repetitive that a higher one costs far more time than it saves.
        body = gzip.compress(batch.body(self._destination), compresslevel=1, mtime=0)
        policy = self._policy
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TryAgain),
            wait=self._wait,
            stop=(
                tenacity.stop_after_attempt(policy.tries)
                | tenacity.stop_before_delay(policy.seconds)
                | tenacity.stop_when_event_set(self._hurry)
            ),
            sleep=tenacity.sleep_using_event(self._hurry),
            before_sleep=self._say_retry,
            reraise=True,
        )
        try:
            for attempt in retrying:
                with attempt:
                    number = attempt.retry_state.attempt_number
                    return self._post_once(body, len(batch.owners), first=number == 1)
        except _TryAgain as error:
            raise ServiceUnavailable(
                f"{self._destination.name} did not take the lines: {error};"
                f" look at {self._destination.endpoint_setting} and the service's status"
            ) from None
        raise AssertionError("unreachable: tenacity returns or raises")

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _TryAgain) and error.after is not None:
            return error.after
        return self._backoff(state)

    def _say_retry(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning(
            "%s: %s; try %d follows in %.1f s",
            self._destination.name,
            error,
            state.attempt_number + 1,
            state.upcoming_sleep,
        )

    def _post_once(self, body: bytes, lines: int, *, first: bool) -> Verdict:
        """One request. Returns DELIVERED or SPLIT, raises for everything else."""
        self.traffic.count(len(body), first)
        timeout = (self._policy.connect_timeout, self._policy.read_timeout)
        try:
            response = self._destination.post(self._session, body, timeout)
        except _BROKEN_CONNECTION as error:
            raise _TryAgain(_connection_problem(error)) from None
        except requests.RequestException as error:
            raise BatchRefused(
                f"the request could not be made ({type(error).__name__});"
                f" look at {self._destination.endpoint_setting}"
            ) from None
        status = response.status_code
        match verdict(status):
            case Verdict.DELIVERED:
                return Verdict.DELIVERED
            case Verdict.RETRY:
                after = retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC))
                raise _TryAgain(f"it answered {status}", after)
            case Verdict.KEY_REJECTED:
                raise KeyRejected(
                    f"{self._destination.name} rejected the key ({status});"
                    f" look at {self._destination.key_setting}"
                )
            case Verdict.SPLIT if lines > 1:
                return Verdict.SPLIT
        raise BatchRefused(
            f"{self._destination.name} refused the lines ({status});"
            f" if it refuses all of them, look at {self._destination.endpoint_setting}"
        )


_BROKEN_CONNECTION = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


def _connection_problem(error: requests.RequestException) -> str:
    """What happened, without the URL and the address of an object that the library's text holds."""
    if isinstance(error, requests.Timeout):
        return "it gave no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate could not be verified"
    return "it could not be reached, or the connection broke"


class Delivery:
    """Lines in, receipts out, with at most `concurrency` requests in flight.

    Belongs to one thread. `stopping` is asked while it waits: once it says True, nothing is tried
    again and what is in flight has `GRACE_SECONDS` left to be answered.
    """

    CONCURRENCY = 2
    GRACE_SECONDS = 10.0
    _POLL_SECONDS = 0.1

    def __init__(
        self,
        destination: LogDNA,
        *,
        policy: RetryPolicy | None = None,
        concurrency: int = CONCURRENCY,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.fatal: DeliveryError | None = None
        self._destination = destination
        self._concurrency = concurrency
        self._stopping = stopping
        self._deadline: float | None = None
        self._hurry = threading.Event()
        self._packer = Packer(destination)
        self._sender = Sender(destination, policy or RetryPolicy(), self._hurry, concurrency)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="sender")
        self._in_flight: dict[Future[Receipt], Batch] = {}
        self._receipts: list[Receipt] = []

    @property
    def traffic(self) -> Traffic:
        """What went over the wire so far."""
        return self._sender.traffic

    def add(self, owner: int, line: Line) -> None:
        """Take one line of object `owner`; waits while all requests are in flight.

        Raises LineTooLong for a line that no request can hold.
        """
        full = self._packer.add(owner, self._destination.element(line))
        if full:
            self._submit(full)

    def send(self) -> None:
        """Send what is in hand without waiting for a full batch."""
        rest = self._packer.take()
        if rest:
            self._submit(rest)

    def receipts(self) -> Iterator[Receipt]:
        """The receipts that have come in since the last call; never waits."""
        self._collect(timeout=0)
        receipts, self._receipts = self._receipts, []
        yield from receipts

    def flush(self) -> Iterator[Receipt]:
        """Send what is in hand and wait until there is a receipt for everything."""
        self.send()
        while self._in_flight:
            self._collect(self._POLL_SECONDS)
        yield from self.receipts()

    def close(self) -> None:
        """Let go of the threads; whatever still is in flight is left to itself."""
        self._hurry.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, batch: Batch) -> None:
        while len(self._in_flight) >= self._concurrency:
            self._collect(self._POLL_SECONDS)
        if self.fatal:
            self._refuse(batch, self.fatal)
        else:
            self._in_flight[self._pool.submit(self._sender.send, batch)] = batch

    def _collect(self, timeout: float) -> None:
        """Turn finished requests into receipts, waiting for one up to `timeout` seconds."""
        if self._stopping() and self._deadline is None:
            self._deadline = time.monotonic() + self.GRACE_SECONDS
            self._hurry.set()
        for future in wait(self._in_flight, timeout, FIRST_COMPLETED).done:
            del self._in_flight[future]
            receipt = future.result()
            self._receipts.append(receipt)
            if receipt.fatal and not self.fatal:
                self.fatal = receipt.fatal
                self._hurry.set()
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._give_up()

    def _give_up(self) -> None:
        late = ServiceUnavailable("no answer came before the run had to end")
        self.fatal = self.fatal or late
        batches, self._in_flight = list(self._in_flight.values()), {}
        for batch in batches:
            self._refuse(batch, late)

    def _refuse(self, batch: Batch, error: DeliveryError) -> None:
        self._receipts.append(Receipt(Counter(), dict.fromkeys(batch.owners, str(error))))
