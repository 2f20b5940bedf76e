"""The push loop: reads objects in order, delivers their lines, and settles them by receipts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

from bucket.errors import ObjectError, ObjectNotFound, StoreError
from bucket.listing import ObjectRef
from bucket.state import StateError, StateLost
from bucket.store import Body
from connections.stop import Stopped
from connections.unforeseen import describe
from destinations.base import Added, Line, Receipt, Source
from destinations.block import Block
from logdna_synchronous import Delivery
from push.decoder import Unreadable
from push.ledger import Ledger, Settled, Tally
from push.reader import Reader

log = logging.getLogger("flowlog.push")

T = TypeVar("T")

OPEN_OBJECTS = 20_000
"""At most this many objects wait for an older one to settle, their own lines handed over. Then
reading pauses, so that one request without an answer costs time and not memory."""


class PushEnded(Exception):
    """A push can't continue; the text says why. What it did not deliver is in the tally."""


class Progress(NamedTuple):
    """Progress of a push, in objects."""

    settled: int
    total: int
    seconds: float

    def __str__(self) -> str:
        rate = self.settled / self.seconds if self.seconds else 0.0
        left = f"{(self.total - self.settled) / rate:.0f} s" if rate else "unknown"
        return (
            f"progress: {self.settled} of {self.total} objects,"
            f" {rate:.1f} objects/s, time left {left}"
        )


OnSettled = Callable[[Sequence[Settled]], None]
"""Called with settled objects, in the order of the push; may raise PushEnded to end it."""

OnProgress = Callable[[Progress], None]


class Lines(Protocol):
    """The lines of one object; iterating raises Unreadable."""

    @property
    def source(self) -> Source:
        """Where the flows come from."""

    @property
    def filtered(self) -> int:
        """How many flows the filter has left out so far."""

    def block(self) -> Block | None:
        """All lines at once, if the object's text allows that."""

    def __iter__(self) -> Iterator[Line]:
        """Render the lines, one by one."""


LinesOf = Callable[[bytes, str], Lines]
"""The lines of an object, given its content as stored and its key. Raises Unreadable."""


def log_deleted(key: str) -> None:
    """Log that there is no such object: as a rule it was deleted before it was read."""
    log.warning("not in the bucket, or deleted before it was read: nothing to push: %s", key)


class Pusher:
    """Pushes objects in their order; every one of them ends up in the tally."""

    def __init__(
        self,
        reader: Reader,
        delivery: Delivery,
        lines_of: LinesOf,
        tally: Tally,
        on_progress: OnProgress,
    ) -> None:
        self._reader = reader
        self._delivery = delivery
        self._lines_of = lines_of
        self._tally = tally
        self._on_progress = on_progress

    def push(self, refs: Sequence[ObjectRef], on_settled: OnSettled) -> None:
        """Push the objects; `on_settled` is called with each of them once it has settled.

        Raises PushEnded if not all of them were begun or no more lines can be delivered: the run
        is stopped, the store or the log service can't be used, or `on_settled` raised it.
        """
        if refs:
            log.info("pushing %d object%s", len(refs), "" if len(refs) == 1 else "s")
        push = _Push(refs, on_settled, self._on_progress, self._tally)
        try:
            reading_ended = _why_ended(self._begin_all, push)
            flush_ended = _why_ended(push.settle_and_report, self._delivery.flush())
        except StateLost:
            # Record requests in flight, but send no more: this run no longer owns STATE.
            push.settle(self._delivery.flush(send=False))
            raise
        except Exception as error:
            # An unexpected error that concerns no single object.
            self._end_after_error(push, describe(error))
            raise
        delivery_ended = self._delivery.ended_by and str(self._delivery.ended_by)
        if reason := reading_ended or flush_ended or delivery_ended:
            push.record_undelivered(reason)
            raise PushEnded(reason)

    def _end_after_error(self, push: _Push, reason: str) -> None:
        """Settle what can be settled; the rest is recorded as not delivered in any case."""
        try:
            push.settle(self._delivery.flush())
        finally:
            push.record_undelivered(reason)

    def _begin_all(self, push: _Push) -> None:
        def while_waiting() -> None:
            self._settle_answered(push)

        for ref, body in self._reader.bodies(push.refs, while_waiting):
            self._begin(push, ref, body)
            self._settle_answered(push)
            while len(push.ledger) > OPEN_OBJECTS:
                # With few lines left by a filter, the oldest ones may wait for a full batch.
                self._delivery.send()
                push.settle_and_report(self._delivery.receipts(wait=True))
            if self._delivery.ended_by:
                raise PushEnded(str(self._delivery.ended_by))

    def _settle_answered(self, push: _Push) -> None:
        """Settle what was answered so far; send lines that have waited long for a full batch."""
        self._delivery.send_old()
        push.settle_and_report(self._delivery.receipts())

    def _begin(self, push: _Push, ref: ObjectRef, body: Body | Exception) -> None:
        """Hand over all lines of one object for delivery.

        This is the only place where an error becomes the failure of a single object.
        """
        push.begun += 1
        number, nothing = push.ledger.open(ref), False
        try:
            if isinstance(body, Exception):
                raise body
            if not body.content:
                log.info("empty object, nothing to push: %s", ref.key)
                nothing = True
            else:
                self._add_lines(push.ledger, number, ref.key, body.content)
        except _ENDS_THE_PUSH:
            raise
        except ObjectNotFound:
            log_deleted(ref.key)
            nothing = True
        except (ObjectError, Unreadable) as error:
            permanent = isinstance(error, Unreadable) or error.permanent
            unread = isinstance(error, ObjectError)
            push.ledger.fail(number, str(error), permanent=permanent, unread=unread)
        except Exception as error:
            # While reading, it may be the store's fault; while decoding, it would happen again.
            unread = body is error
            push.ledger.fail(number, describe(error), permanent=not unread, unread=unread)
        push.ledger.close(number, skipped=nothing)

    def _add_lines(self, ledger: Ledger, number: int, key: str, content: bytes) -> None:
        lines = self._lines_of(content, key)
        source = lines.source
        added = self._add(number, lines, source)
        # Only now is it known that all of the object can be read.
        if source.incomplete:
            log.warning("the collector lost flows of this interval: %s", key)
            self._tally.incomplete += 1
        ledger.add_lines(number, added.lines, lines.filtered)
        if added.refused:
            ledger.fail(number, added.refused)
        if added.cut:
            log.warning(
                "the service will truncate %d lines, which are too long for it: %s", added.cut, key
            )

    def _add(self, number: int, lines: Lines, source: Source) -> Added:
        block = lines.block() if self._delivery.takes_blocks else None
        added = block and self._delivery.add_block(number, block, source)
        return added or self._delivery.add(number, lines, source)


class _Push:
    """One push: which objects it has begun, and which have settled."""

    def __init__(
        self,
        refs: Sequence[ObjectRef],
        on_settled: OnSettled,
        on_progress: OnProgress,
        tally: Tally,
    ) -> None:
        self.refs = refs
        self.ledger = Ledger()
        self.begun = 0
        self._settled = 0
        self._started = time.monotonic()
        self._on_settled: OnSettled = on_settled
        self._on_progress = on_progress
        self._tally = tally

    def record_undelivered(self, reason: str) -> None:
        """Count what was not delivered as failed: open objects, and those not begun."""
        for entry in self.ledger.give_up(reason):
            self._tally.record(entry)
        if rest := self.refs[self.begun :]:
            self._tally.not_begun, self._tally.not_begun_reason = rest, reason

    def settle(self, receipts: Iterable[Receipt]) -> list[Settled]:
        """Record these receipts; return the objects that they have settled."""
        for receipt in receipts:
            self._tally.lines_delivered += receipt.accepted.total()
            self.ledger.record(receipt)
        settled = list(self.ledger.settled())
        for entry in settled:
            self._tally.record(entry)
        self._settled += len(settled)
        return settled

    def settle_and_report(self, receipts: Iterable[Receipt]) -> None:
        """The same, then call `on_progress` and `on_settled`. Raises PushEnded."""
        settled = self.settle(receipts)
        seconds = time.monotonic() - self._started
        self._on_progress(Progress(self._settled, len(self.refs), seconds))
        try:
            self._on_settled(settled)
        except PushEnded:
            # It must not be called with objects after the one at which it ended the push.
            self._on_settled = lambda _: None
            raise


_ENDS_THE_PUSH = (PushEnded, StoreError, StateError, Stopped)


def _why_ended(step: Callable[[T], None], argument: T) -> str | None:
    """Do one step of a push; return why it ended early, or None."""
    try:
        step(argument)
    except StateLost:
        raise
    except (PushEnded, StoreError, StateError) as error:
        return str(error)
    except Stopped:
        return "the run was told to stop"
    return None
