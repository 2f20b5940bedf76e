"""Delivers lines to a log service, the LogDNA ingestion API first of all, and says what arrived.

Data goes one way through four roles: a `Line` is rendered by its `Destination` (`LogDNA` here),
packed into a `Batch`, posted by a `Sender` (which retries and splits), and comes back as a
`Receipt`. `Delivery` holds the four together, with a bounded number of requests in flight.

Delivery is at least once: a connection that dies after the service took a batch is
indistinguishable from one that died before, so that batch is sent again.
"""

from __future__ import annotations

import enum
import functools
import logging
import threading
import time
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import ClassVar, NamedTuple

import orjson
import requests
import tenacity
import urllib3
from isal import isal_zlib

from connections import pools

log = logging.getLogger("flowlog.delivery")

HOSTNAME = "flowlogjob"
APP = "FLCE"

BATCH_BYTES = 2_000_000
"""Size at which a request is closed, uncompressed: large enough that its cost per line vanishes,
small enough that several can be in flight in the memory of the smallest instance."""

GZIP = 16 + 15
"""What zlib calls a gzip member with the largest window."""

ANSWER_LIMIT_BYTES = 64 * 1024
MILLISECONDS_PER_HOUR = 60 * 60 * 1000


class Line(NamedTuple):
    """One flow as a log line: compact JSON in UTF-8, and the flow's own time in UTC milliseconds.

    The text comes in three parts, since lines of one object have the first and the last in common,
    which are three quarters of it. `time` is None where the flow names none that can be read.
    """

    own: bytes
    time: int | None = None
    rejected: bool = False
    head: bytes = b""
    tail: bytes = b""

    @property
    def text(self) -> bytes:
        """All of the line."""
        return b"%b%b%b" % (self.head, self.own, self.tail)

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.head) + len(self.own) + len(self.tail)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the lines of one object come from; empty where the object doesn't say."""

    vpc_id: str = ""
    interface_id: str = ""


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


_FAULT_OF_THE_LINES = frozenset((400, 413, 422))
"""Other refusals, such as 404 or a redirect, tell of a service that is not where it should be."""


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
    """401, 403, or no token at all: nothing else will work with this key."""


class ServiceUnavailable(DeliveryError):
    """The service gave no usable answer for as long as it may be tried."""


class BatchRefused(DeliveryError):
    """The service does not want this batch; `permanent` where that is the fault of its lines."""

    def __init__(self, what: str, *, permanent: bool = False) -> None:
        super().__init__(what)
        self.permanent = permanent


class LineTooLong(DeliveryError):
    """A single line does not fit into one request."""


class _TryAgain(Exception):
    """One failed attempt; `after` is what the service's Retry-After asked for, in seconds."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


# --- destinations --------------------------------------------------------------------------------


class LongLine(enum.Enum):
    """What the service does with a line that is over its limit."""

    CUT = "cut"
    DROPPED = "dropped"


class Destination(ABC):
    """A log service: where it is, and how its requests differ from those of others."""

    name: ClassVar[str]
    endpoint_setting: ClassVar[str]
    key_setting: ClassVar[str]
    prefix: ClassVar[bytes]
    suffix: ClassVar[bytes]
    """What stands around the elements of a request; commas stand between them."""
    request_limit_bytes: ClassVar[int]
    line_limit_bytes: ClassVar[int]
    long_line: ClassVar[LongLine]
    oldest_hours: ClassVar[float] = 24
    newest_hours: ClassVar[float] = 24
    """A line whose time is further away from now bears the time of sending."""

    @abstractmethod
    def renderer(self, source: Source, now: int) -> Callable[[Line], bytes]:
        """Makes lines of this source into elements of a request. `now` in UTC milliseconds."""

    def limited_size(self, line: Line, element: bytes) -> int:
        """The size in bytes to which the limit for a line applies."""
        return line.size

    @abstractmethod
    def encode(self, parts: Iterable[bytes | bytearray]) -> bytes:
        """The body of a request as it goes over the wire; `parts` in a row are its text."""

    @abstractmethod
    def post(
        self, session: requests.Session, body: bytes, timeout: tuple[float, float]
    ) -> requests.Response:
        """Post one encoded body; the answer's own is not read yet.

        Raises what `requests` raises, and DeliveryError.
        """

    def renewed(self, rejected: requests.Response) -> bool:
        """Whether the rejected credentials had expired, and the next request bears new ones."""
        return False

    def timestamp(self, line: Line, now: int) -> int:
        """The line's time, or `now` where the service would not take it; UTC milliseconds."""
        if line.time is None:
            return now
        age = now - line.time
        usable = (
            -self.newest_hours * MILLISECONDS_PER_HOUR
            <= age
            <= self.oldest_hours * MILLISECONDS_PER_HOUR
        )
        return line.time if usable else now


@dataclass(frozen=True, slots=True)
class LogDNA(Destination):
    """The LogDNA ingestion API (Mezmo docs, "Send Log Lines").

    `url` is the base URL without a path; `/logs/ingest` is added.
    """

    url: str
    key: str = field(repr=False)

    name = "the log service"
    endpoint_setting = "LOGDNA_ENDPOINT or LOGDNA_REGION"
    key_setting = "LOGDNA_INGESTION_KEY"
    prefix, suffix = b'{"lines":[', b"]}"
    request_limit_bytes = 10_000_000
    line_limit_bytes = 16 * 1024
    long_line = LongLine.CUT

    def renderer(self, source: Source, now: int) -> Callable[[Line], bytes]:
        """Makes lines into elements of a request. `now` in UTC milliseconds."""
        shared = functools.lru_cache(maxsize=4)(_escaped)

        def render(line: Line) -> bytes:
            return b'{"line":"%b%b%b","timestamp":%d,"level":"%b","app":"FLCE","hostname":"%b"}' % (
                shared(line.head),
                _escaped(line.own),
                shared(line.tail),
                self.timestamp(line, now),
                b"WARN" if line.rejected else b"INFO",
                HOSTNAME.encode(),
            )

        return render

    def encode(self, parts: Iterable[bytes | bytearray]) -> bytes:
        """The body of a request as it goes over the wire: compressed."""
        # Level 1: flow logs are so repetitive that a higher one costs more time than it saves. And
        # part by part, since a copy of the whole text costs as much time again, and its memory.
        packer = isal_zlib.compressobj(level=1, wbits=GZIP)
        return b"".join([*map(packer.compress, parts), packer.flush()])

    def post(
        self, session: requests.Session, body: bytes, timeout: tuple[float, float]
    ) -> requests.Response:
        """Post one encoded body."""
        return session.post(
            f"{self.url}/logs/ingest",
            params={"hostname": HOSTNAME, "now": str(int(time.time() * 1000))},
            data=body,
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
            auth=(self.key, ""),
            timeout=timeout,
            stream=True,
            # A redirect would carry the key to a host nobody named.
            allow_redirects=False,
        )


def _escaped(text: bytes) -> bytes:
    """UTF-8 as it stands inside a string of JSON."""
    return orjson.dumps(text.decode())[1:-1]


# --- batches -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Rendered lines in order, and the number of the object that owns each.

    `content` is the elements with commas between them. Line i ends before `ends[i]` and begins
    behind the comma at `ends[i - 1]`. `owners[i]` owns the lines from `firsts[i]` on.
    """

    content: bytes | bytearray
    ends: array[int]
    owners: tuple[int, ...]
    firsts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ends)

    def parts(self, destination: Destination) -> tuple[bytes | bytearray, ...]:
        """The text of the request, in pieces, not encoded yet."""
        return destination.prefix, self.content, destination.suffix

    def body(self, destination: Destination) -> bytes:
        """The same in one piece."""
        return b"".join(self.parts(destination))

    def counts(self) -> Counter[int]:
        """Lines by owner."""
        counts: Counter[int] = Counter()
        for owner, first, end in zip(
            self.owners, self.firsts, (*self.firsts[1:], len(self)), strict=True
        ):
            counts[owner] += end - first
        return counts

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches that together are this one, in the same order."""
        middle = len(self) // 2
        cut = self.ends[middle - 1]
        run = bisect_right(self.firsts, middle - 1)
        other = bisect_right(self.firsts, middle)
        return (
            Batch(self.content[:cut], self.ends[:middle], self.owners[:run], self.firsts[:run]),
            Batch(
                self.content[cut + 1 :],
                array("I", (end - cut - 1 for end in self.ends[middle:])),
                self.owners[other - 1 :],
                (0, *(first - middle for first in self.firsts[other:])),
            ),
        )


class Packer:
    """Packs rendered lines into batches of at most `limit` bytes."""

    def __init__(self, destination: Destination, limit: int) -> None:
        self._destination = destination
        self._around = len(destination.prefix) + len(destination.suffix)
        self._limit = min(limit, destination.request_limit_bytes) - self._around
        self._clear()

    def _clear(self) -> None:
        # One buffer instead of thousands of small objects: their memory would cost more time than
        # their making.
        self._content = bytearray()
        self._ends = array("I")
        self._owners: list[int] = []
        self._firsts: list[int] = []

    def add(self, owner: int, element: bytes) -> Batch | None:
        """Add one rendered line; the batch that had no more room for it, if there was one.

        Raises LineTooLong for a line that is over the service's limit for a whole request.
        """
        full = None
        if len(self._content) + 1 + len(element) > self._limit:
            limit = self._destination.request_limit_bytes
            if self._around + len(element) > limit:
                raise LineTooLong(
                    f"a line of {len(element)} bytes does not fit into one request"
                    f" of at most {limit} bytes"
                )
            full = self.take()
        if self._ends:
            self._content += b","
        if not self._owners or self._owners[-1] != owner:
            self._owners.append(owner)
            self._firsts.append(len(self._ends))
        self._content += element
        self._ends.append(len(self._content))
        return full

    def take(self) -> Batch | None:
        """The batch as far as it got, or None if nothing is in it."""
        if not self._ends:
            return None
        batch = Batch(self._content, self._ends, tuple(self._owners), tuple(self._firsts))
        self._clear()
        return batch


# --- sending -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch, by object: lines accepted, and why the others were not.

    `fatal` is set where the failure will meet every other batch too; `permanent` where the failed
    lines would be refused again by a service that is well and correctly set up.
    """

    accepted: Counter[int]
    failed: dict[int, str] = field(default_factory=dict)
    fatal: DeliveryError | None = None
    permanent: bool = False


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
    ends the tries at once. A single exchange has `answer_seconds`, however slowly bytes come.
    """

    tries: int = 10
    seconds: float = 180.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    connect_seconds: float = 10.0
    answer_seconds: float = 60.0


class Window:
    """How many requests may be on the wire at once.

    Halved when the service is overloaded, once for all requests that were on the wire by then; one
    more for every windowful of good answers (additive increase, multiplicative decrease: RFC 5681,
    3.1).
    """

    def __init__(self, most: int) -> None:
        self.size = float(most)
        self._most = most
        self._open = 0
        self._halvings = 0
        self._changed = threading.Condition()

    @contextmanager
    def slot(self) -> Iterator[int]:
        """A place on the wire, as soon as there is one; what `overloaded` wants to know."""
        with self._changed:
            self._changed.wait_for(lambda: self._open < int(self.size))
            self._open += 1
            halvings = self._halvings
        try:
            yield halvings
        finally:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def good(self) -> None:
        """A request was answered well."""
        with self._changed:
            self.size = min(self._most, self.size + 1 / self.size)
            self._changed.notify_all()

    def overloaded(self, halvings: int) -> None:
        """A request was answered with 429 or 503."""
        with self._changed:
            if halvings == self._halvings:
                self._halvings += 1
                self.size = max(1.0, self.size / 2)


class Sender:
    """Posts batches; safe to use from several threads."""

    def __init__(
        self,
        destination: Destination,
        policy: RetryPolicy,
        hurry: threading.Event,
        connections: int,
    ) -> None:
        """`hurry`, once set, ends every wait between tries and permits no further try."""
        self.traffic = Traffic()
        self.fatal: DeliveryError | None = None
        self.window = Window(connections)
        self._destination = destination
        self._policy = policy
        self._hurry = hurry
        self._session = pools.session(connections)
        self._backoff = tenacity.wait_random_exponential(
            multiplier=policy.first_wait, max=policy.longest_wait
        )

    def send(self, batch: Batch) -> Receipt:
        """Send `batch` until there is a final answer for every line of it."""
        try:
            answer = self._post_with_retries(batch)
        except (KeyRejected, ServiceUnavailable) as error:
            # Nothing else will work, so what waits for its turn need not try.
            self.fatal = self.fatal or error
            self._hurry.set()
            return Receipt(Counter(), dict.fromkeys(batch.owners, str(error)), error)
        except BatchRefused as error:
            failed = dict.fromkeys(batch.owners, str(error))
            return Receipt(Counter(), failed, permanent=error.permanent)
        if answer is Verdict.SPLIT:
            first, second = (self.send(half) for half in batch.halves())
            return Receipt(
                first.accepted + second.accepted,
                first.failed | second.failed,
                first.fatal or second.fatal,
                any(half.failed for half in (first, second))
                and all(half.permanent for half in (first, second) if half.failed),
            )
        return Receipt(batch.counts())

    def _post_with_retries(self, batch: Batch) -> Verdict:
        body = self._destination.encode(batch.parts(self._destination))
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
                    return self._post_once(body, len(batch), first=number == 1)
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
        with self.window.slot() as halvings:
            response = self._exchange(body, first=first)
        status = response.status_code
        match verdict(status):
            case Verdict.DELIVERED:
                self.window.good()
                return Verdict.DELIVERED
            case Verdict.RETRY:
                if status in (429, 503):
                    self.window.overloaded(halvings)
                after = retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC))
                raise _TryAgain(f"it answered {status}", after)
            case Verdict.KEY_REJECTED if self._destination.renewed(response):
                raise _TryAgain("its token had expired", after=0)
            case Verdict.KEY_REJECTED:
                raise KeyRejected(
                    f"{self._destination.name} rejected the key ({status});"
                    f" look at {self._destination.key_setting}"
                )
            case Verdict.SPLIT if lines > 1:
                return Verdict.SPLIT
        raise BatchRefused(
            f"{self._destination.name} refused the lines ({status});"
            f" if it refuses all of them, look at {self._destination.endpoint_setting}",
            permanent=status in _FAULT_OF_THE_LINES,
        )

    def _exchange(self, body: bytes, *, first: bool) -> requests.Response:
        """Post, and read the answer. Raises DeliveryError or _TryAgain where there is none."""
        if self.fatal:
            raise self.fatal
        self.traffic.count(len(body), first)
        timeout = (self._policy.connect_seconds, self._policy.answer_seconds)
        try:
            with pools.time_limit(self._policy.answer_seconds):
                response = self._destination.post(self._session, body, timeout)
                _read_away(response)
        except pools.TooSlow:
            raise _TryAgain("it gave no whole answer in time") from None
        except _BROKEN_CONNECTION as error:
            raise _TryAgain(_connection_problem(error)) from None
        except requests.RequestException as error:
            raise _TryAgain(f"its answer is unusable ({type(error).__name__})") from None
        if response.status_code < 200:
            raise _TryAgain(f"it answered {response.status_code}, which is no answer")
        return response


def _read_away(response: requests.Response) -> None:
    """Read what follows the headers, so that the connection can be used again.

    Nothing of it matters: the status has said what became of the lines, also where the rest of the
    answer gets lost or can't be decoded.
    """
    try:
        response.raw.read(ANSWER_LIMIT_BYTES, decode_content=False)
        more = response.raw.read(1, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError):
        more = b"?"
    # Behind an interim answer (1xx) the real one may follow: no other request may take it.
    if more or response.status_code < 200:
        response.close()


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


@dataclass(frozen=True, slots=True)
class Added:
    """What `Delivery.add` took: how many lines, how many the service will cut, and what it won't
    take at all: the reason, where there is such a line."""

    lines: int = 0
    cut: int = 0
    refused: str | None = None


class Delivery:
    """Lines in, receipts out, with at most `concurrency` requests in flight.

    Belongs to one thread. `stopping` is asked while it waits: once it says True, nothing is tried
    again and what is in flight has `GRACE_SECONDS` left to be answered.
    """

    GRACE_SECONDS = 10.0
    _POLL_SECONDS = 0.1

    def __init__(
        self,
        destination: Destination,
        *,
        policy: RetryPolicy | None = None,
        concurrency: int = 1,
        batch_bytes: int = BATCH_BYTES,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.fatal: DeliveryError | None = None
        self._destination = destination
        self._concurrency = concurrency
        self._stopping = stopping
        self._deadline: float | None = None
        self._hurry = threading.Event()
        self._packer = Packer(destination, batch_bytes)
        self._sender = Sender(destination, policy or RetryPolicy(), self._hurry, concurrency)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="sender")
        self._in_flight: dict[Future[Receipt], Batch] = {}
        self._receipts: list[Receipt] = []

    @property
    def traffic(self) -> Traffic:
        """What went over the wire so far."""
        return self._sender.traffic

    def add(self, owner: int, lines: Iterable[Line], source: Source) -> Added:
        """Take the lines of object `owner`; waits while all requests are in flight."""
        destination = self._destination
        render = destination.renderer(source, int(time.time() * 1000))
        count = long = 0
        refused = None
        for line in lines:
            count += 1
            element = render(line)
            if destination.limited_size(line, element) > destination.line_limit_bytes:
                long += 1
                if destination.long_line is LongLine.DROPPED:
                    continue
            try:
                full = self._packer.add(owner, element)
            except LineTooLong as error:
                refused = str(error)
                continue
            if full:
                self._submit(full)
        if long and destination.long_line is LongLine.DROPPED:
            limit = destination.line_limit_bytes
            return Added(count, 0, f"{long} lines are over the service's limit of {limit} bytes")
        return Added(count, long, refused)

    def send(self) -> None:
        """Send what is in hand without waiting for a full batch."""
        rest = self._packer.take()
        if rest:
            self._submit(rest)

    def receipts(self, *, wait: bool = False) -> Iterator[Receipt]:
        """The receipts that have come in since the last call; with `wait`, waits a moment."""
        self._collect(self._POLL_SECONDS if wait else 0)
        receipts, self._receipts = self._receipts, []
        yield from receipts

    def flush(self, *, send: bool = True) -> Iterator[Receipt]:
        """Send what is in hand, or drop it, and wait until there is a receipt for what was sent."""
        if send:
            self.send()
        else:
            self._packer.take()
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
            self.fatal = self.fatal or receipt.fatal
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
