"""From the bucket to log lines: which objects, in what order, what a line holds, and the modes.

Data goes one way: keys are listed and put in order, objects are read ahead, decoded into log lines
and delivered; receipts settle the objects, in order. A mode decides which keys are pushed, and what
is remembered afterwards.
"""

from __future__ import annotations

import enum
import functools
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256

from bucket.errors import ObjectError, ObjectGone
from bucket.listing import ALWAYS, Listing, ObjectRef, Period
from bucket.state import (
    CatchUp,
    Remembered,
    Replaced,
    StateError,
    StateObject,
    Status,
    cutoff,
    read_catch_up,
    read_remembered,
    worker_is_gone,
)
from bucket.store import Store
from connections.stop import Stop
from destinations.base import Line, Source
from logdna_synchronous import APP, Delivery
from push.decoder import FlowLog, decode
from push.ledger import Tally
from push.loop import OnProgress, OnSettled, Pusher, say_gone
from push.reader import InterruptibleState, Reader
from push.selection import OBJECT, Selection
from push.worker import Worker

log = logging.getLogger("flowlog.lib")

_STATE_TRIES = 10
_RACE_SECONDS = 0.5


# --- which objects, in what order ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shares of all keys."""

    index: int = 0
    count: int = 1

    def holds(self, key: str) -> bool:
        """Whether `key` belongs to this share.

        Depends on nothing but the key, so that instances that list at different moments agree. By
        a checksum that adds: the keys of an interface count up and so take turns, which is more
        even than the chance of a better hash.
        """
        return self.count == 1 or zlib.adler32(key.encode()) % self.count == self.index


class Operation(enum.Enum):
    """What happened to the object of an event."""

    WRITE = "Object:Write"
    DELETE = "Object:Delete"


@dataclass(frozen=True, slots=True)
class Event:
    """What `CE_DATA` says; `bucket` is empty where it doesn't."""

    key: str
    bucket: str = ""
    operation: Operation = Operation.WRITE


@dataclass(frozen=True, slots=True)
class Scope:
    """Which keys of the bucket concern this run, and what is sent of their flows."""

    prefix: str
    state_key: str
    shard: Shard
    period: Period = ALWAYS
    """When an object that no event names was written."""
    selection: Selection = field(default_factory=Selection)

    def holds(self, key: str) -> bool:
        """Whether this listed key is a flow log of this shard."""
        return key != self.state_key and key.startswith(self.prefix) and self.shard.holds(key)

    def nothing_to_do(self, event: Event) -> str | None:
        """Why this event asks for nothing, or None if its object is to be pushed."""
        if event.operation is Operation.DELETE:
            return "the object was deleted, not written"
        if event.key == self.state_key:
            return "this is the STATE object, not a flow log"
        if not event.key.startswith(self.prefix):
            return f"no flow log, its key does not start with FLOWLOG_PREFIX {self.prefix!r}"
        if not self.shard.holds(event.key):
            return "the key belongs to another instance of the array"
        return None


# --- what a line holds ---------------------------------------------------------------------------


@dataclass(slots=True)
class Lines:
    """The lines of one object; contract, section 4. Iterating raises Unreadable."""

    flow_log: FlowLog
    key: str
    selection: Selection
    filtered: int = 0
    """How many flows were left out so far."""

    @property
    def source(self) -> Source:
        """Where the flows come from."""
        return source_of(self.flow_log)

    def __iter__(self) -> Iterator[Line]:
        fields, key = self.flow_log.fields, self.key
        added = {"_app": APP, "key": key, OBJECT: sha256(key.encode()).hexdigest()[:16]}
        captured = fields.get("capture_end_time")
        wanted = self.selection.where and self.selection.where.tester(fields, added)
        parts = self.selection.renderer(fields, added)
        for row, entry in enumerate(self.selection.entries(self.flow_log)):
            if wanted and not wanted(entry, row):
                self.filtered += 1
                continue
            head, own, tail = parts(entry, row)
            yield Line(
                own,
                milliseconds(entry.get("end_time") or captured),
                entry.get("action") == "rejected",
                head,
                tail,
            )


def lines(flow_log: FlowLog, key: str, selection: Selection | None = None) -> Lines:
    """One line for each entry that is wanted; all are where nothing is selected."""
    return Lines(flow_log, key, selection or Selection())


def lines_of(selection: Selection, content: bytes, key: str) -> Lines:
    """The lines of an object as stored. Raises Unreadable."""
    return Lines(decode(content), key, selection)


def source_of(flow_log: FlowLog) -> Source:
    """What the object says of where its flows come from."""
    vpc, interface = (flow_log.fields.get(name) for name in ("vpc_crn", "network_interface_id"))
    return Source(
        # A CRN ends with the id (IBM Cloud docs, "Cloud Resource Names").
        vpc.rpartition(":")[2] if isinstance(vpc, str) else "",
        interface if isinstance(interface, str) else "",
    )


def milliseconds(text: object) -> int | None:
    """`text` (ISO 8601, UTC where it names no zone) since the epoch; None where it is unusable."""
    return _milliseconds(text) if isinstance(text, str) else None


# The flows of an object end in the same few hundred seconds.
@functools.lru_cache(maxsize=1024)
def _milliseconds(text: str) -> int | None:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


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
        self._reader = Reader(store, stop)
        self.state = StateObject(InterruptibleState(self._reader), scope.state_key)
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

        Raises StoreError, Stopped.
        """
        listing = Listing()
        for page in self._reader.pages(self.scope.prefix):
            for ref in page:
                if self.scope.holds(ref.key) and self.scope.period.holds(ref) and wanted(ref):
                    listing.append(ref)
            after_page()
        listing.sort()
        return listing

    def stat(self, key: str) -> ObjectRef | None:
        """The object as the store knows it; None where it is gone, or can't be looked up.

        The first is logged and counted as skipped, the second as failed.
        """
        try:
            return self._reader.call(self._reader.store.stat, key)
        except ObjectGone:
            say_gone(key)
            self.tally.skipped += 1
        except ObjectError as error:
            self.tally.failed.append(key, str(error))
        return None

    def pause(self, seconds: float) -> None:
        """Wait. Raises Stopped."""
        self._reader.pause(seconds)

    def push(self, refs: Sequence[ObjectRef], on_settled: OnSettled = lambda _: None) -> None:
        """Push the objects in their order; every one of them ends up in the tally.

        `on_settled` hears of each of them once it has settled. Raises PushEnded.
        """
        self._pusher.push(refs, on_settled)

    def send_pending(self) -> None:
        """Send pending lines, so that their objects can settle, without waiting for an answer."""
        self._delivery.send()

    def close(self) -> None:
        """Queued reads and requests are cancelled; fields that no flow had are warned about."""
        self.scope.selection.warn_of_fields_not_met()
        self._reader.close()
        self._delivery.close()


# --- modes ---------------------------------------------------------------------------------------


def simple(job: Job, event: Event | None) -> None:
    """Event: push the object. No event: push all."""
    if event:
        job.push([ObjectRef(0, event.key)])
    else:
        _push_all(job, job.listed())


def _push_all(job: Job, refs: Listing) -> None:
    if not refs:
        log.info("nothing to do: the bucket holds no flow log for this run")
    job.push(refs)


def remember(job: Job, event: Event | None) -> None:
    """Event: push the object, and remember the oldest one. No event: push what is older."""
    memory = _memory(job)
    if event is None:
        _push_all(job, job.listed(lambda ref: memory is None or memory.wants(ref)))
        return
    ref = job.stat(event.key)
    if ref is None:
        return
    if memory is None or not memory.older_than(ref):
        job.state.check_preconditions(job.state.read())
    job.push([ref])
    if job.tally.objects:
        _remember(job, Remembered(ref.last_modified, ref.key))


def _memory(job: Job) -> Remembered | None:
    """What STATE remembers, if there is one."""
    snapshot = job.state.read()
    if snapshot is None:
        return None
    memory = read_remembered(snapshot, job.scope.state_key, job.scope.prefix)
    if not memory.bare:
        return memory
    if ref := job.stat(memory.key):
        return replace(memory, last_modified=ref.last_modified)
    log.warning(
        "STATE %r holds a bare key whose object is gone: taking the time of STATE for it,"
        " so objects that events have pushed just before may be sent again",
        job.scope.state_key,
    )
    return memory


def _remember(job: Job, pushed: Remembered) -> None:
    """Let STATE name the object, unless it names an older one."""
    for _ in range(_STATE_TRIES):
        snapshot, memory = job.state.read(), _memory(job)
        if memory and memory.older_than(pushed):
            return
        try:
            job.state.write(pushed.content(), snapshot.etag if snapshot else None)
        except Replaced:
            continue
        return
    raise StateError(f"the STATE object {job.scope.state_key!r} keeps changing; nothing is lost")


def catch_up(job: Job, event: Event | None) -> None:
    """The first run becomes the worker and pushes all; once it closes, events push theirs."""
    own = event
    for _ in range(_STATE_TRIES):
        snapshot = job.state.read()
        if snapshot is None:
            job.state.check_preconditions(None)
            worker = Worker.start(job)
        else:
            state = read_catch_up(snapshot, job.scope.state_key)
            divide = cutoff(state, snapshot)
            if own and divide is not None:
                _push_if_newer(job, own, divide)
                if job.tally.failed_total:
                    return
                own = None
            if state.status is Status.FINISHED or not worker_is_gone(state, snapshot):
                _say_state(state, event)
                return
            job.state.check_preconditions(snapshot)
            worker = Worker.take_over(job, state, snapshot)
        if worker:
            worker.run()
            return
        # Another run was faster: look again what there is to do.
        job.pause(_RACE_SECONDS)
    raise StateError(f"the STATE object {job.scope.state_key!r} can't be created; nothing is lost")


def _push_if_newer(job: Job, event: Event, divide: int) -> None:
    """Push the event's object unless it is the worker's."""
    ref = job.stat(event.key)
    if ref and ref.last_modified > divide:
        job.push([ref])
    elif ref:
        log.info("the worker has pushed this object, or will: %s", event.key)


def _say_state(state: CatchUp, event: Event | None) -> None:
    if state.status is not Status.FINISHED:
        log.info("worker %s is at work; it pushes everything up to its closing", state.worker)
    elif event is None:
        log.info("nothing to do: the catch-up has finished; delete STATE to start over")
    if state.failed_total:
        log.warning(
            "the catch-up could not deliver %d objects, among them: %s",
            state.failed_total,
            ", ".join(state.failed),
        )


def follow(job: Job, event: Event | None) -> None:
    """A timer's mode: each run goes on at the mark; events have nothing to do."""
    if event:
        log.info("nothing to do for %s: the timer's runs find it", event.key)
        job.tally.skipped += 1
        return
    raise StateError("FLOWLOG_MODE follow does not push anything yet")


MODES: Mapping[str, Callable[[Job, Event | None], None]] = {
    "simple": simple,
    "remember": remember,
    "catch-up": catch_up,
    "follow": follow,
}
"""By the value of FLOWLOG_MODE."""
