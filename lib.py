"""From the bucket to log lines: which objects, in what order, what a line holds, and the modes.

Data flows one way: keys are listed and sorted, objects are read ahead, decoded into log lines and
delivered; receipts settle the objects, in order. A mode decides which keys are pushed, and what is
written to STATE afterwards.
"""

from __future__ import annotations

import enum
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from bucket.errors import ObjectError, ObjectNotFound, StoreError
from bucket.listing import ALWAYS, Listing, ObjectRef, Period
from bucket.shard import Shard
from bucket.state import StateError, StateObject
from bucket.store import Store, decoded
from connections.stop import Stop
from connections.values import iso_milliseconds
from destinations.base import Line, Source
from destinations.block import Block
from logdna_synchronous import APP, Delivery
from push.blocks import block_of
from push.decoder import FlowLog, Unreadable, decode
from push.encoder import render
from push.ledger import Tally
from push.loop import OnProgress, OnSettled, Pusher, log_deleted
from push.reader import Reader
from push.selection import OBJECT, Selection
from push.state_exchange import StateExchange

if TYPE_CHECKING:
    from bucket.interfaces import Hours

log = logging.getLogger("flowlog.lib")


# --- which objects, in what order ----------------------------------------------------------------


class Operation(enum.Enum):
    """What happened to the object of an event."""

    WRITE = "Object:Write"
    DELETE = "Object:Delete"


@dataclass(frozen=True, slots=True)
class Event:
    """What `CE_DATA` says; `bucket` is empty if it names none."""

    key: str
    bucket: str = ""
    operation: Operation = Operation.WRITE


@dataclass(frozen=True, slots=True)
class Scope:
    """Which keys of the bucket this run handles, and which of their flows and fields it sends."""

    prefix: str
    state_key: str
    shard: Shard
    period: Period = ALWAYS
    """Without an event, only objects written in this period are pushed."""
    selection: Selection = field(default_factory=Selection)
    job_run: str = ""  # the same in all retries; empty if it has no name

    def holds(self, key: str) -> bool:
        """Whether this listed key is a flow log of this shard."""
        return key != self.state_key and key.startswith(self.prefix) and self.shard.holds(key)

    def nothing_to_do(self, event: Event) -> str | None:
        """Why there is nothing to do for this event; None if its object is to be pushed."""
        if event.operation is Operation.DELETE:
            return "the object was deleted, not written"
        # In the events of some stores the key is percent-encoded once more.
        keys = {event.key, decoded(event.key) or event.key}
        if self.state_key in keys:
            return "this is the STATE object, not a flow log"
        if not any(key.startswith(self.prefix) for key in keys):
            return f"not a flow log: its key does not start with FLOWLOG_PREFIX {self.prefix!r}"
        if not self.shard.holds(event.key):
            return "the key belongs to another instance of the array"
        return None


# --- what a line holds ---------------------------------------------------------------------------

REPEATED_LIMIT_BYTES = 512 * 1024 * 1024
"""Limit for the object's own fields, repeated in every line; 250,000 real lines come close."""


@dataclass(slots=True)
class Lines:
    """One line for each entry that is wanted; contract, section 4. Iterating raises Unreadable."""

    flow_log: FlowLog
    key: str
    selection: Selection = field(default_factory=Selection)
    filtered: int = 0
    """How many flows the filter has left out so far."""
    _added: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        digest = sha256(self.key.encode()).hexdigest()
        self._added = {"_app": APP, "key": self.key, OBJECT: digest[:16]}

    @property
    def source(self) -> Source:
        """Where the flows come from, and the fields that all their lines have."""
        shared = self.selection.shared(self.flow_log.fields, self._added)
        return replace(source_of(self.flow_log), fields=shared)

    def block(self) -> Block | None:
        """All lines at once, if the object's text allows that."""
        block = block_of(self.flow_log, self.selection, self._added, milliseconds)
        if block:
            self.filtered = len(self.flow_log.entries) - len(block.like)
        return block

    def __iter__(self) -> Iterator[Line]:
        self.filtered = 0
        fields, added = self.flow_log.fields, self._added
        captured = fields.get("capture_end_time")
        wanted = self.selection.tester(fields, added)
        parts = self.selection.renderer(fields, added)
        for row, entry in enumerate(self.selection.noted(fields, self.flow_log.entries)):
            if not wanted(entry, row):
                self.filtered += 1
                continue
            head, own, tail, values = parts(entry, row)
            yield Line(
                own,
                milliseconds(entry.get("end_time") or captured),
                entry.get("action") == "rejected",
                head,
                tail,
                values,
            )


def lines_of(selection: Selection, content: bytes, key: str) -> Lines:
    """The lines of an object as stored. Raises Unreadable."""
    flow_log = decode(content)
    if len(flow_log.entries) * len(render(flow_log.fields)) > REPEATED_LIMIT_BYTES:
        raise Unreadable("too large: the fields repeated in every line take too much memory in all")
    return Lines(flow_log, key, selection)


def source_of(flow_log: FlowLog) -> Source:
    """Where the flows come from, according to the object."""
    # A CRN ends with the id (IBM Cloud docs, "Cloud Resource Names").
    vpc_id = _label(flow_log.fields.get("vpc_crn")).rpartition(":")[2]
    interface_id = _label(flow_log.fields.get("network_interface_id"))
    # IBM Cloud docs, VPC, "Viewing flow log objects".
    incomplete = flow_log.fields.get("state") == "skip data"
    return Source(vpc_id, interface_id, incomplete)


def _label(value: object) -> str:
    """A text that UTF-8 can encode: a lone surrogate, which JSON can escape, becomes a `?`."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def milliseconds(text: object) -> int | None:
    """`text` (ISO 8601, UTC if it names no zone) since the epoch; None if it is unusable."""
    return _milliseconds(text) if isinstance(text, str) else None


# All flows of an object end within a few hundred seconds, so few times differ.
_milliseconds = functools.lru_cache(maxsize=1024)(iso_milliseconds)


# --- what the modes share ------------------------------------------------------------------------


class Job:
    """One run: the bucket's objects in order, the push of them, and STATE."""

    def __init__(
        self,
        store: Store,
        delivery: Delivery,
        stop: Stop,
        scope: Scope,
        tally: Tally,
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        self.tally = tally
        self.scope = scope
        self.job_run = scope.job_run or os.urandom(4).hex()
        self._reader = Reader(store, stop)
        self._exchange = StateExchange(store, stop, store.policy)
        self.state = StateObject(self._exchange, scope.state_key)
        self._delivery = delivery
        self._pusher = Pusher(
            self._reader, delivery, partial(lines_of, scope.selection), tally, on_progress
        )

    def listed(
        self,
        wanted: Callable[[ObjectRef], bool] = lambda _: True,
        after_page: Callable[[], None] = lambda: None,
    ) -> Listing:
        """The wanted flow logs of this shard, oldest first; contract, section 7.

        If it fails midway, what was listed is reported as not begun. Raises StoreError, Stopped.
        """
        listing, empty = Listing(), True
        try:
            for page in self._reader.pages(self.scope.prefix):
                for ref in page:
                    empty = False
                    if self.scope.holds(ref.key) and wanted(ref):
                        listing.append(ref)
                after_page()
        except StateError:
            raise
        except Exception as error:
            listing.sort()
            self.tally.not_begun = listing
            self.tally.not_begun_reason = f"the listing failed: {str(error) or 'stopped'}"
            raise
        listing.sort()
        if empty:
            self._warn_of_other_keys()
        return listing

    def _warn_of_other_keys(self) -> None:
        """Warn if the bucket holds keys, but none that starts with the prefix."""
        try:
            page = next(self._reader.pages(""), [])
        except StoreError:
            return  # perhaps the role permits only keys with the prefix
        others = [ref.key for ref in page if ref.size and ref.key != self.scope.state_key]
        if others:
            text = "no key starts with FLOWLOG_PREFIX %r; the bucket holds others, such as %r"
            log.warning(text, self.scope.prefix, others[0])

    def newest(
        self,
        hours: Hours | None,
        wanted: Callable[[ObjectRef], bool],
        after_page: Callable[[], None],
    ) -> Listing:
        """The wanted flow logs, oldest first; of each interface only these hours (None: all).

        Raises StoreError, Stopped.
        """
        from bucket.interfaces import Walk
        from push.survey import Survey

        survey = Survey(self._reader, lambda ref: self.scope.holds(ref.key) and wanted(ref))
        return survey.listed(Walk(self.scope.prefix, hours), after_page)

    def stat(self, key: str) -> ObjectRef | None:
        """The object's time and size; None if it was deleted, which counts as skipped, or can't be
        looked up, which counts as failed."""
        try:
            return self._reader.call(self._reader.store.stat, key)
        except ObjectNotFound:
            log_deleted(key)
            self.tally.skipped += 1
        except ObjectError as error:
            self.tally.failed.append(key, str(error))
        return None

    def while_waiting(self, call: Callable[[], None]) -> None:
        """Call this repeatedly while the run waits for the store or the log service, but not while
        it waits for STATE: the call itself may read or write STATE."""
        self._reader.on_wait = self._delivery.on_wait = call

    def pause(self, seconds: float) -> None:
        """Wait. Raises Stopped."""
        self._reader.pause(seconds)

    def push(self, refs: Sequence[ObjectRef], on_settled: OnSettled = lambda _: None) -> None:
        """Push the objects in their order; every one of them ends up in the tally.

        `on_settled` is called with each of them once it has settled. Raises PushEnded.
        """
        self._pusher.push(refs, on_settled)

    def send_pending(self) -> None:
        """Send pending lines, so that their objects can settle; does not wait for an answer."""
        self._delivery.send()

    def close(self) -> None:
        """Cancel queued reads and requests; warn of selected fields that no flow had."""
        self.scope.selection.warn_of_fields_not_met()
        self._reader.close()
        self._exchange.close()
        self._delivery.close()


# --- modes ---------------------------------------------------------------------------------------

# A mode imports its own modules when it starts: a run for an event is mostly start.


def simple(job: Job, event: Event | None) -> None:
    """Event: push the object. No event: push all."""
    if event:
        job.push([ObjectRef(0, event.key)])
    else:
        _push_all(job, job.listed(job.scope.period.holds))


def _push_all(job: Job, refs: Listing) -> None:
    if not refs:
        log.info("nothing to do: the bucket holds no flow log for this run")
    job.push(refs)


def remember(job: Job, event: Event | None) -> None:
    """Event: push the object, and remember the oldest one. No event: push all older ones."""
    from push.remember import memory_of, remember_pushed

    memory = memory_of(job, job.scope.prefix)
    if event is None:
        period = job.scope.period
        wanted = job.listed(lambda ref: period.holds(ref) and (not memory or memory.wants(ref)))
        _push_all(job, wanted)
        return
    ref = job.stat(event.key)
    if ref is None:
        return
    if memory is None or not memory.older_than(ref):
        job.state.check_preconditions(job.state.read())
    job.push([ref])
    if job.tally.objects:
        remember_pushed(job, job.scope.prefix, ref)


def catch_up(job: Job, event: Event | None) -> None:
    """The first run becomes the worker and pushes all; after its cutoff, events push theirs."""
    from bucket.state_text import CatchUp, Status, read_catch_up
    from push.catch_up import CatchUpWorker, push_unless_left_to_worker, warn_of_failures
    from push.worker import claim

    first = CatchUp.beginning(job.scope.period, time.time())
    snapshot = job.state.read()
    state = read_catch_up(snapshot, job.scope.state_key) if snapshot else first
    if event:
        state = push_unless_left_to_worker(job, event.key, state, snapshot)
    warn_of_failures(state)
    if event and (state.status is Status.FINISHED or job.tally.failed_total):
        return
    if held := claim(job, first, read_catch_up, snapshot):
        CatchUpWorker(job, held).run()


def follow(job: Job, event: Event | None) -> None:
    """A timer's run pushes what is past the mark and releases STATE; events do nothing."""
    if event:
        log.info("nothing to do for %s: a run of the timer will push it", event.key)
        job.tally.skipped += 1
        return
    from bucket.marks import beginning_at
    from bucket.state_follow import Following, read_following
    from push.follow import Follower
    from push.worker import claim

    first = Following.beginning(beginning_at(job.scope.period.since))
    if held := claim(job, first, read_following, job.state.read()):
        Follower(job, held, job.scope.period.until).run()


def push_named(mode: str) -> Mode:
    """Pushes an object that a person names, in any mode; the marks in STATE do not move."""
    from push.named import push_all_named

    return lambda job, event: push_all_named(job, [event.key] if event else [], mode)


def push_keys(keys: Sequence[str]) -> Callable[[str], Mode]:
    """The same for any number of objects."""
    from push.named import push_all_named

    return lambda mode: lambda job, _: push_all_named(job, keys, mode)


Mode = Callable[[Job, Event | None], None]

MODES: Mapping[str, Mode] = {
    "simple": simple,
    "remember": remember,
    "catch-up": catch_up,
    "follow": follow,
}
"""For each value of FLOWLOG_MODE."""
