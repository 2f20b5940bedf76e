"""Delivers lines to a log service, the LogDNA ingestion API first of all, and says what arrived.

Data goes one way through four roles: a `Line` is rendered by its `Destination` (`LogDNA` here),
packed into a `Batch`, posted by a `Sender` (which retries and splits), and comes back as a
`Receipt`. `Delivery` holds the four together, with a bounded number of requests in flight.

Delivery is at least once: a connection that breaks after the service took a batch is
indistinguishable from one that broke before, so that batch is sent again.
"""

from __future__ import annotations

import functools
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime

import orjson
import requests
import tenacity
from isal import isal_zlib

from connections.retry import RetryPolicy, TryAgain, Window, retry_after_seconds, retrying
from destinations.base import (
    Added,
    BatchRefused,
    DeliveryError,
    Destination,
    KeyRejected,
    Line,
    LineTooLong,
    LongLine,
    Receipt,
    ServiceUnavailable,
    Source,
    Variables,
    Verdict,
    fault_of_lines,
    verdict,
)
from destinations.batch import Batch, Packer
from destinations.exchange import Exchange, Traffic

log = logging.getLogger("flowlog.delivery")

HOSTNAME = "flowlogjob"
APP = "FLCE"
REGION_URL = "https://logs.{region}.logging.cloud.ibm.com"

BATCH_BYTES = 2_000_000
"""Size at which a request is closed, uncompressed: large enough that its cost per line vanishes,
small enough that several can be in flight in the memory of the smallest instance."""

GZIP = 16 + 15
"""What zlib calls a gzip member with the largest window."""


# --- LogDNA's own requests -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogDNA(Destination):
    """The LogDNA ingestion API (Mezmo docs, "Send Log Lines").

    `url` is the base URL without a path; `/logs/ingest` is added.
    """

    url: str
    key: str = field(repr=False)

    @classmethod
    def read(cls, env: Variables) -> LogDNA:
        """Where LOGDNA_ENDPOINT or LOGDNA_REGION says, with LOGDNA_INGESTION_KEY."""
        by_region = env.parsed("LOGDNA_REGION", _parse_region, "")
        url = env.url("LOGDNA_ENDPOINT", by_region).removesuffix("/logs/ingest")
        if not env.text("LOGDNA_ENDPOINT") and not env.text("LOGDNA_REGION"):
            env.fault("LOGDNA_ENDPOINT is not set, nor is LOGDNA_REGION: one of them must be")
        return cls(url, env.secret("LOGDNA_INGESTION_KEY"))

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


def _parse_region(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,63}", text):
        raise ValueError("is not a region, such as us-south")
    return REGION_URL.format(region=text)


def _escaped(text: bytes) -> bytes:
    """UTF-8 as it stands inside a string of JSON."""
    return orjson.dumps(text.decode())[1:-1]


# --- sending -------------------------------------------------------------------------------------


class Sender:
    """Posts batches; safe to use from several threads."""

    def __init__(
        self,
        destination: Destination,
        policy: RetryPolicy,
        no_retries: threading.Event,
        connections: int,
    ) -> None:
        """`no_retries`, once set, ends every wait between tries and permits no further one."""
        self.traffic = Traffic()
        self.fatal: DeliveryError | None = None
        self.window = Window(connections)
        self._destination = destination
        self._policy = policy
        self._no_retries = no_retries
        self._exchange = Exchange(destination, policy, self.traffic, connections)

    def send(self, batch: Batch) -> Receipt:
        """Send `batch` until there is a final answer for every line of it."""
        try:
            answer = self._post_with_retries(batch)
        except (KeyRejected, ServiceUnavailable) as error:
            # Nothing else will work, so waiting requests need not be tried again.
            self.fatal = self.fatal or error
            self._no_retries.set()
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
        tries = retrying(
            self._policy,
            sleep=tenacity.sleep_using_event(self._no_retries),
            ended=self._no_retries.is_set,
            on_wait=self._log_retry,
        )
        try:
            for attempt in tries:
                with attempt:
                    number = attempt.retry_state.attempt_number
                    return self._post_once(body, len(batch), first=number == 1)
        except TryAgain as error:
            raise ServiceUnavailable(
                f"{self._destination.name} did not take the lines: {error};"
                f" look at {self._destination.endpoint_setting} and the service's status"
            ) from None
        raise AssertionError("unreachable: tenacity returns or raises")

    def _log_retry(self, error: TryAgain, tries: int, seconds: float) -> None:
        log.warning(
            "%s: %s; try %d follows in %.1f s", self._destination.name, error, tries + 1, seconds
        )

    def _post_once(self, body: bytes, lines: int, *, first: bool) -> Verdict:
        """One request. Returns DELIVERED or SPLIT, raises for everything else."""
        with self.window.slot() as halvings:
            if self.fatal:
                raise self.fatal
            response = self._exchange.post(body, first=first)
        status = response.status_code
        match verdict(status):
            case Verdict.DELIVERED:
                self.window.good()
                return Verdict.DELIVERED
            case Verdict.RETRY:
                if status in (429, 503):
                    self.window.overloaded(halvings)
                after = retry_after_seconds(response.headers.get("Retry-After"), datetime.now(UTC))
                raise TryAgain(f"it answered {status}", after)
            case Verdict.KEY_REJECTED if self._destination.replaced_credentials(response):
                raise TryAgain("its token had expired", after=0)
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
            permanent=fault_of_lines(status),
        )


# --- delivery ------------------------------------------------------------------------------------


class Delivery:
    """Lines in, receipts out, with at most `concurrency` requests in flight.

    Belongs to one thread. `stop_requested` is asked while it waits: once it says True, nothing is
    tried again, and requests in flight have `GRACE_SECONDS` left to be answered.
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
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.fatal: DeliveryError | None = None
        self.on_wait: Callable[[], None] = lambda: None
        """Called again and again while this waits for an answer."""
        self._destination = destination
        self._concurrency = concurrency
        self._stop_requested = stop_requested
        self._deadline: float | None = None
        self._no_retries = threading.Event()
        self._packer = Packer(destination, batch_bytes)
        self._sender = Sender(destination, policy or RetryPolicy(), self._no_retries, concurrency)
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
        """Send the pending batch, although it is not full."""
        rest = self._packer.take()
        if rest:
            self._submit(rest)

    def receipts(self, *, wait: bool = False) -> Iterator[Receipt]:
        """The receipts that have come in since the last call; with `wait`, waits a moment."""
        self._collect(self._POLL_SECONDS if wait else 0)
        receipts, self._receipts = self._receipts, []
        yield from receipts

    def flush(self, *, send: bool = True) -> Iterator[Receipt]:
        """Send the pending batch, or drop it, and wait for the receipts of all that was sent."""
        if send:
            self.send()
        else:
            self._packer.take()
        while self._in_flight:
            self._collect(self._POLL_SECONDS)
        yield from self.receipts()

    def close(self) -> None:
        """Queued requests are cancelled; those in flight are left alone."""
        self._no_retries.set()
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
        if self._stop_requested() and self._deadline is None:
            self._deadline = time.monotonic() + self.GRACE_SECONDS
            self._no_retries.set()
        if timeout:
            self.on_wait()
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
