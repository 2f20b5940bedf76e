"""Delivers lines to a log service, such as the LogDNA ingestion API, and reports the results.

Data flows one way: a `Line` is rendered by its `Destination` (`LogDNA` here), packed into a
`Batch`, posted by a `Sender` (which retries and splits), and its result is a `Receipt`. `Delivery`
connects the four, with a limited number of requests in flight.

Delivery is at least once: if a connection breaks, it is unknown whether the service accepted the
batch, so it is sent again.
"""

from __future__ import annotations

import functools
import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import orjson
import requests

from connections.retry import Retrying, RetryPolicy, TryAgain, Window
from connections.unforeseen import describe
from destinations import answers
from destinations.base import (
    Added,
    DeliveryError,
    Destination,
    Failure,
    KeyRejected,
    Line,
    LongLine,
    Receipt,
    ServiceUnavailable,
    Source,
    Variables,
)
from destinations.batch import Batch, Packer
from destinations.block import Block
from destinations.exchange import Exchange, Traffic
from destinations.in_flight import LinesNotAccepted, Part, Result
from destinations.intake import add_block, add_lines
from destinations.messages import Messages

log = logging.getLogger("flowlog.delivery")

HOSTNAME = "flowlogjob"
APP = "FLCE"
REGION_URL = "https://logs.{region}.logging.cloud.ibm.com"

BATCH_BYTES = 2_000_000
"""Size of a full request, uncompressed: large enough to make its overhead per line negligible, and
small enough to have several in flight in the memory of the smallest instance. The larger it is, the
less `SPLIT_REQUESTS` tell apart."""

SPLIT_REQUESTS = 64
"""Most requests for a batch to find out which of its lines are refused."""

PENDING_SECONDS = 3.0
"""A line waits at most this long for others to fill its request."""


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
        """The destination by LOGDNA_ENDPOINT or LOGDNA_REGION, with LOGDNA_INGESTION_KEY."""
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

    def around(self, source: Source, now: int) -> Callable[[Line], tuple[bytes, bytes]]:
        """A function that returns the text before and after a line's own text in its element."""
        shared = functools.lru_cache(maxsize=4)(_escaped)

        def around(line: Line) -> tuple[bytes, bytes]:
            after = b'%b","timestamp":%d,"level":"%b","app":"FLCE","hostname":"%b"}' % (
                shared(line.tail),
                self.timestamp(line, now),
                b"WARN" if line.rejected else b"INFO",
                HOSTNAME.encode(),
            )
            return b'{"line":"' + shared(line.head), after

        return around

    def quoted(self, text: bytes) -> bytes:
        """A text, escaped for an element: as part of a JSON string."""
        return _escaped(text)

    def post(
        self, session: requests.Session, body: bytes, timeout: tuple[float, float]
    ) -> requests.Response:
        """Post an encoded body."""
        return session.post(
            f"{self.url}/logs/ingest",
            params={"hostname": HOSTNAME, "now": str(int(time.time() * 1000))},
            data=body,
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
            auth=(self.key, ""),
            timeout=timeout,
            stream=True,
            # A redirect would send the key to an unknown host.
            allow_redirects=False,
        )

    def meaning(self, status: int, text: bytes, lines: int) -> answers.Meaning:
        """What an answer to a request with this many lines means."""
        return answers.logdna(status, text, lines)


def _parse_region(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,63}", text):
        raise ValueError("is not a region, such as us-south")
    return REGION_URL.format(region=text)


def _escaped(text: bytes) -> bytes:
    """UTF-8, escaped as part of a JSON string."""
    return orjson.dumps(text.decode())[1:-1]


# --- sending -------------------------------------------------------------------------------------


class Sender:
    """Posts batches; safe to use from several threads."""

    def __init__(
        self,
        destination: Destination,
        policy: RetryPolicy,
        connections: int,
        no_more_waits: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        """`no_more_waits`, once set, ends all waits between tries and prevents new ones."""
        self.traffic = Traffic()
        self.ended_by: DeliveryError | None = None
        self._ending = threading.Lock()
        self.window = Window(connections)
        self._destination = destination
        self._no_more_waits = no_more_waits
        self._exchange = Exchange(destination, policy, self.traffic, connections)
        self._messages = Messages(destination)
        self._retrying = Retrying(
            policy,
            sleep=sleep or no_more_waits.wait,
            clock=clock,
            ended=no_more_waits.is_set,
            on_wait=self._messages.log_wait,
        )
        self._splitting_helps = True

    def send(self, batch: Batch) -> Receipt:
        """Send `batch` until there is a final answer for every line of it."""
        result, parts, requests = Result(may_split=self._splitting_helps), deque([batch]), 0
        # Larger parts first, so that the parts left undecided at the end are small.
        while parts and requests < SPLIT_REQUESTS and not result.ended_by:
            parts.extend(self._send_part(parts.popleft(), result))
            requests += 1
        for part in parts:
            if result.ended_by:
                result.end(part, result.ended_by)
            else:
                reason = self._messages.refused_together(SPLIT_REQUESTS)
                result.fail(part.owners, reason, permanent=True)
        if result.accepted:
            self._splitting_helps = True
        elif requests > 1 and not result.ended_by:
            self._splitting_helps = False
        return result.receipt()

    def _send_part(self, lines: Batch, result: Result) -> tuple[Batch, ...]:
        """Send lines until each of them has its final answer, and record that in `result`.

        Returns two batches to send instead, if the service does not say which lines it refuses.
        """
        part = Part(lines, self._destination)
        try:
            return self._retrying(lambda: self._try(part, result))
        except TryAgain as error:
            reason = self._messages.not_accepted(error)
            if isinstance(error, LinesNotAccepted) and result.accepted:
                # The service works, except for these lines: others can still be delivered.
                result.fail(part.lines.owners, reason, permanent=False)
            else:
                self._end(part, result, ServiceUnavailable(reason))
        except DeliveryError as error:
            self._end(part, result, error)
        return ()

    def _end(self, part: Part, result: Result, error: DeliveryError) -> None:
        """Record an error that all other requests would get too, and end their retries.

        The first such error is the cause of the others: they report it, not their own.
        """
        with self._ending:
            self.ended_by = self.ended_by or error
        result.end(part.lines, self.ended_by)
        self._no_more_waits.set()

    def _try(self, part: Part, result: Result) -> tuple[Batch, ...]:
        """One request. Raises TryAgain, or DeliveryError if no other request would work."""
        with self.window.slot() as halvings:
            if self.ended_by:
                raise self.ended_by
            part.tries += 1
            answer = self._exchange.post(part.body, first=part.tries == 1)
        meaning = self._destination.meaning(answer.status, answer.text, len(part.lines))
        if isinstance(meaning, answers.Retry | answers.ByLine) and meaning.overloaded:
            self.window.overloaded(halvings)
        match meaning:
            case answers.Delivered(remark):
                self.window.good()
                if remark:
                    self.traffic.count_remark()
                    self._messages.log_remark(remark)
                result.accept(part.lines)
            case answers.ByLine():
                refused = self._messages.refused(*meaning.refusals)
                part.record(meaning, result, refused, answer.retry_after)
            case answers.SomeRefused(count, why):
                reason = self._messages.refused_some(count, len(part.lines), why)
                result.fail(part.lines.owners, reason, permanent=True)
            case answers.Retry(why):
                raise TryAgain(why, answer.retry_after)
            case answers.KeyRefused(status):
                if self._destination.replaced_credentials(answer.response):
                    raise TryAgain("its token had expired", after=0)
                raise KeyRejected(self._messages.key_rejected(status))
            case answers.LinesRefused() if len(part.lines) > 1 and result.may_split:
                self._messages.log_reason(answer)
                return part.lines.halves()
            case answers.LinesRefused(status) | answers.RequestRefused(status):
                self._messages.log_reason(answer)
                # With several lines it is unknown which of them would be refused again.
                alone = isinstance(meaning, answers.LinesRefused) and len(part.lines) == 1
                reason = self._messages.refused(status)
                result.fail(part.lines.owners, reason, permanent=alone)
        return ()


# --- delivery ------------------------------------------------------------------------------------


class Delivery:
    """Lines in, receipts out, with at most `concurrency` requests in flight.

    For use by one thread. It polls `stop_requested` while it waits: once that is True, no request
    waits for another try, and those in flight have `GRACE_SECONDS` left. `ended_by` is the error
    after which no batch is sent.
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
        self.ended_by: DeliveryError | None = None
        self.takes_blocks = destination.takes_blocks
        self.on_wait: Callable[[], None] = lambda: None
        """Called repeatedly while this waits for an answer."""
        self._destination = destination
        self._concurrency = concurrency
        self._stop_requested = stop_requested
        self._deadline: float | None = None
        self._no_more_waits = threading.Event()
        self._packer = Packer(destination, batch_bytes)
        policy = policy or RetryPolicy()
        self._sender = Sender(destination, policy, concurrency, self._no_more_waits)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="sender")
        self._in_flight: dict[Future[Receipt], Batch] = {}
        self._receipts: list[Receipt] = []

    @property
    def traffic(self) -> Traffic:
        """What was sent so far."""
        return self._sender.traffic

    def add(self, owner: int, lines: Iterable[Line], source: Source) -> Added:
        """Add the lines of object `owner`; waits while too many requests are in flight."""
        return add_lines(self._packer, owner, lines, source, self._submit_full)

    def add_block(self, owner: int, block: Block, source: Source) -> Added | None:
        """The same for a block, much faster; None if its lines must be added one by one."""
        return add_block(self._packer, owner, block, source, self._submit_full)

    def _submit_full(self, batch: Batch) -> bool:
        """Send a full batch; return whether to add more lines of the same object."""
        self._submit(batch)
        self._collect(0)
        return self.ended_by is None

    def send(self) -> None:
        """Send the pending batch, even if it is not full."""
        rest = self._packer.take()
        if rest:
            self._submit(rest)

    def send_old(self) -> None:
        """Send the pending batch if its oldest line has waited for `PENDING_SECONDS`."""
        waited = time.monotonic() - self._packer.begun if len(self._packer) else 0.0
        if waited >= PENDING_SECONDS and len(self._in_flight) < self._concurrency:
            self.send()

    def receipts(self, *, wait: bool = False) -> Iterator[Receipt]:
        """The receipts since the last call; with `wait`, waits a moment for one."""
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
        """Cancel queued requests; those in flight are not awaited."""
        self._no_more_waits.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, batch: Batch) -> None:
        while len(self._in_flight) >= self._concurrency:
            self._collect(self._POLL_SECONDS)
        if self.ended_by:
            self._refuse(batch, self.ended_by)
        else:
            self._in_flight[self._pool.submit(self._sender.send, batch)] = batch

    def _collect(self, timeout: float) -> None:
        """Turn finished requests into receipts, waiting for one up to `timeout` seconds."""
        if self._stop_requested() and self._deadline is None:
            self._deadline = time.monotonic() + self.GRACE_SECONDS
            self._no_more_waits.set()
        if timeout:
            self.on_wait()
        for future in wait(self._in_flight, timeout, FIRST_COMPLETED).done:
            batch = self._in_flight.pop(future)
            receipt = self._receipt(future, batch)
            self._receipts.append(receipt)
            self.ended_by = self.ended_by or receipt.ended_by
        if self._deadline is not None and time.monotonic() > self._deadline:
            self._give_up()

    def _receipt(self, future: Future[Receipt], batch: Batch) -> Receipt:
        """The result of a batch; an unexpected error is the failure of its objects."""
        error = future.exception()
        if isinstance(error, Exception):
            return Receipt(Counter(), dict.fromkeys(batch.owners, Failure(describe(error))))
        return future.result()

    def _give_up(self) -> None:
        late = ServiceUnavailable("no answer came before the run had to end")
        self.ended_by = self.ended_by or late
        batches, self._in_flight = list(self._in_flight.values()), {}
        for batch in batches:
            self._refuse(batch, late)

    def _refuse(self, batch: Batch, error: DeliveryError) -> None:
        self._receipts.append(Receipt(Counter(), dict.fromkeys(batch.owners, Failure(str(error)))))
