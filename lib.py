"""From the bucket to log lines: which objects, in what order, what a line holds, and the modes.

Data goes one way: keys are listed and put in order, objects are read ahead, decoded into log lines
and delivered; receipts settle the objects, in order. A mode decides which keys are pushed, and what
is remembered afterwards.
"""

from __future__ import annotations

import enum
import functools
import logging
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from bucket.errors import ObjectError, ObjectGone
from bucket.interfaces import Walk
from bucket.listing import ALWAYS, Listing, ObjectRef, Period
from bucket.marks import beginning_at
from bucket.state import StateChanged, StateError, StateObject
from bucket.state_text import (
    CatchUp,
    Following,
    Remembered,
    Status,
    read_catch_up,
    read_following,
    read_remembered,
)
from bucket.store import Store
from connections.stop import Stop
from destinations.base import Line, Source
from logdna_synchronous import APP, Delivery
from push.catch_up import (
    CatchUpWorker,
    push_unless_the_workers,
    strike_out,
    warn_of_failures,
)
from push.decoder import FlowLog, decode
from push.encoder import render
from push.follow import Follower
from push.ledger import Tally
from push.loop import OnProgress, OnSettled, Pusher, say_gone
from push.reader import Reader
from push.state_exchange import StateExchange
from push.survey import Survey
from push.worker import claim

log = logging.getLogger("flowlog.lib")

_STATE_TRIES = 10


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
    """Which keys of the bucket concern this run."""

    prefix: str
    state_key: str
    shard: Shard
    period: Period = ALWAYS
    """When an object that no event names was written."""
    job_run: str = ""
    """The name of this job run, the same in all its tries; empty where it has none."""

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


def lines_of(content: bytes, key: str) -> tuple[Source, Iterator[Line]]:
    """The lines of an object as stored, and where its flows come from. Raises Unreadable."""
    flow_log = decode(content)
    return source_of(flow_log), lines(flow_log, key)


def lines(flow_log: FlowLog, key: str) -> Iterator[Line]:
    """One line an entry; contract, section 4. Raises Unreadable."""
    fields, added = flow_log.fields, {"_app": APP, "key": key}
    captured = fields.get("capture_end_time")
    parts = _parts(fields, added)
    for entry in flow_log.entries:
        head, own, tail = parts(entry)
        yield Line(
            own,
            milliseconds(entry.get("end_time") or captured),
            entry.get("action") == "rejected",
            head,
            tail,
        )


def _parts(
    fields: Mapping[str, Any], added: Mapping[str, Any]
) -> Callable[[Mapping[str, Any]], tuple[bytes, bytes, bytes]]:
    """Renders the fields, an entry, and what is added, as one JSON object; later ones win.

    What all lines share is rendered once, unless an entry has a field of the same name.
    """
    always = fields.keys() | added.keys()
    head = b"{%b," % render({name: fields[name] for name in fields if name not in added})[1:-1]
    tail = b",%b" % render(added)[1:]
    apart = bool(fields) and fields.keys().isdisjoint(added)

    def parts(entry: Mapping[str, Any]) -> tuple[bytes, bytes, bytes]:
        if apart and entry and always.isdisjoint(entry):
            return head, render(entry)[1:-1], tail
        return b"", render({**fields, **entry, **added}), b""

    return parts


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
        self.job_run = scope.job_run or secrets.token_hex(4)
        self._reader = Reader(store, stop)
        self._exchange = StateExchange(store, stop, store.policy)
        self.state = StateObject(self._exchange, scope.state_key)
        self._delivery = delivery
        self._pusher = Pusher(self._reader, delivery, lines_of, tally, on_progress)

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
                if self.scope.holds(ref.key) and wanted(ref):
                    listing.append(ref)
            after_page()
        listing.sort()
        return listing

    def newest(
        self,
        begin: int | None,
        wanted: Callable[[ObjectRef], bool],
        after_page: Callable[[], None],
    ) -> Listing:
        """The wanted flow logs, oldest first; of interfaces, those of the hour of `begin` or later.

        Raises StoreError, Stopped.
        """
        survey = Survey(self._reader, lambda ref: self.scope.holds(ref.key) and wanted(ref))
        return survey.listed(Walk(self.scope.prefix, begin), after_page)

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

    def while_waiting(self, call: Callable[[], None]) -> None:
        """Call this again and again while the run waits for the store or the log service.

        Not while it waits for STATE: the call may be an exchange about STATE itself.
        """
        self._reader.on_wait = self._delivery.on_wait = call

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
        """Queued reads and requests are cancelled."""
        self._reader.close()
        self._exchange.close()
        self._delivery.close()


# --- modes ---------------------------------------------------------------------------------------


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
    """Event: push the object, and remember the oldest one. No event: push what is older."""
    memory = _memory(job)
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
        except StateChanged:
            continue
        return
    raise StateError(f"the STATE object {job.scope.state_key!r} keeps changing; nothing is lost")


def catch_up(job: Job, event: Event | None) -> None:
    """The first run becomes the worker and pushes all; once it closes, events push theirs."""
    first = CatchUp.beginning(job.scope.period, time.time())
    snapshot = job.state.read()
    state = read_catch_up(snapshot, job.scope.state_key) if snapshot else first
    if event:
        state = push_unless_the_workers(job, event.key, state, snapshot)
    warn_of_failures(state)
    if event and (state.status is Status.FINISHED or job.tally.failed_total):
        return
    if held := claim(job, first, read_catch_up, snapshot):
        CatchUpWorker(job, held).run()


def follow(job: Job, event: Event | None) -> None:
    """A timer's run pushes what is past the mark, and lets go; events have nothing to do."""
    if event:
        log.info("nothing to do for %s: the timer's runs find it", event.key)
        job.tally.skipped += 1
        return
    first = Following.beginning(beginning_at(job.scope.period.since))
    if held := claim(job, first, read_following, job.state.read()):
        Follower(job, held, job.scope.period.until).run()


def push_named(mode: str) -> Mode:
    """For an object that a person has named: it is pushed whatever the mode says.

    Of what the modes remember, only the failures of a catch-up change by it.
    """
    return _push_named_in_catch_up if mode == "catch-up" else simple


def _push_named_in_catch_up(job: Job, event: Event | None) -> None:
    simple(job, event)
    if event and job.tally.objects:
        strike_out(job, event.key)


Mode = Callable[[Job, Event | None], None]

MODES: Mapping[str, Mode] = {
    "simple": simple,
    "remember": remember,
    "catch-up": catch_up,
    "follow": follow,
}
"""By the value of FLOWLOG_MODE."""
