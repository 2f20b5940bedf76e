"""The content of STATE in each mode, and the decisions that follow from it."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

from bucket.listing import Period
from bucket.state import LEASE_SECONDS, Snapshot, StateUnreadable, latest_time_before

NAMED_FAILURES = 100
"""STATE names at most this many objects that could not be delivered."""

NAMED_FAILURES_BYTES = 200 * 1024
"""And at most this many bytes of keys; a key has up to 1,024, JSON may need six for each."""


class HasTime(Protocol):
    """An object's place in the order of pushing: by time, then by key."""

    @property
    def last_modified(self) -> int:
        """In seconds since the epoch."""

    @property
    def key(self) -> str:
        """The object's key."""


# --- remember ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Remembered:
    """STATE of remember mode: the oldest object that an event has pushed.

    `bare`: it was written by an older deployment, as the key alone.
    """

    last_modified: int
    key: str
    bare: bool = False

    def wants(self, other: HasTime) -> bool:
        """Whether a run without an event pushes `other`: it is not newer and not this object."""
        return other.last_modified <= self.last_modified and other.key != self.key

    def older_than(self, other: HasTime) -> bool:
        """Whether this object is older than `other`, or the same."""
        return (self.last_modified, self.key) <= (other.last_modified, other.key)

    def content(self) -> bytes:
        """The content of STATE."""
        return dump({"mode": "remember", "key": self.key, "last_modified": self.last_modified})


def read_remembered(snapshot: Snapshot, state_key: str, prefix: str) -> Remembered:
    """Parse STATE of remember mode. Raises StateUnreadable.

    A bare key must start with `prefix`, as every remembered key does. It is given the time of STATE
    itself, the only known time, which is not before the object's own.
    """
    fields = fields_of(snapshot)
    if fields is None:  # not JSON
        key = snapshot.content.decode("utf-8", "replace").strip()
        if key.startswith(prefix) and len(key.encode()) <= 1024 and key.isprintable():
            return Remembered(snapshot.last_modified, key, bare=True)
    elif fields.get("mode") == "remember":
        match fields:
            case {"version": 1, "key": str(key), "last_modified": int(last_modified)}:
                return Remembered(last_modified, key)
    raise unreadable(state_key, "remember", fields)


# --- modes with a worker -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The part of STATE that all modes with a worker have.

    `worker` is the name of the job run that works, None after it has released STATE. `claim` tells
    two processes of one job run apart. `sequence` grows with every write, so that no two contents,
    and no two ETags, are the same. All objects up to `mark`, as (last_modified, key), have settled.
    """

    worker: str | None
    claim: str = ""
    sequence: int = 0
    mark: tuple[int, str] | None = None

    def next(self, **changes: Any) -> Self:
        """The same with changes and the next sequence number."""
        return dataclasses.replace(self, **{"sequence": self.sequence + 1, **changes})

    def has_passed(self, other: HasTime) -> bool:
        """Whether the mark has reached or passed this object."""
        return self.mark is not None and (other.last_modified, other.key) <= self.mark

    def refusal(self, snapshot: Snapshot, run: str) -> str | None:
        """Why the job run `run` may not become the worker now; None if it may.

        It may if the worker has released STATE, or shows no sign of life, or was an earlier try of
        the same job run: Code Engine retries a job run only after it has ended. Both times are
        from one answer of the store, so only the store's clock counts.
        """
        lease_is_over = snapshot.date - snapshot.last_modified >= LEASE_SECONDS
        if self.worker in (None, run) or lease_is_over:
            return None
        return f"worker {self.worker} is at work; it pushes all that there is to push"

    def claimed(self, run: str, claim: str, snapshot: Snapshot) -> Self:
        """The STATE with which the job run `run` becomes the worker."""
        return self.next(worker=run, claim=claim)

    @property
    def time_is_needed(self) -> bool:
        """Whether STATE's own time holds information that its content does not have yet.

        Then it must be read before the next write of STATE, which changes the time.
        """
        return False

    def rebased(self, before: Self, now: Self, snapshot: Snapshot) -> Self:
        """This worker's STATE, merged with a change by another run from `before` to `now`.

        The change may also be this worker's own earlier write, which got no answer.
        """
        return dataclasses.replace(self, sequence=now.sequence)

    def content(self) -> bytes:
        """The content of STATE."""
        raise NotImplementedError


class Status(enum.Enum):
    """The phase of a catch-up; it only changes to the next one."""

    WORKING = "working"
    CLOSING = "closing"
    FINISHED = "finished"

    def follows(self, other: Status) -> bool:
        """Whether this one comes after the other."""
        order = list(Status)
        return order.index(self) > order.index(other)


class Duty(enum.Enum):
    """Who pushes the object that an event names."""

    PUSH = "the event's run pushes it"
    WORKER = "the worker will push it"
    PASSED = "the worker is past it"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp(Work):
    """STATE of catch-up mode.

    The worker pushes objects up to and including `cutoff`, events push later ones. None while it is
    unknown; in the write that begins `closing` it follows from the time of that STATE.
    `failed` are the first keys that could not be delivered, `failed_total` is the number of all.
    """

    status: Status = Status.WORKING
    cutoff: int | None = None
    failed_total: int = 0
    failed: tuple[str, ...] = ()

    @classmethod
    def beginning(cls, period: Period, now: float) -> CatchUp:
        """STATE of a first run, which pushes the objects of this period.

        If the period has ended by now, its end is the cutoff: events push later objects.
        """
        until = period.until
        return cls(
            worker=None,
            mark=None if period.since is None else (period.since, ""),
            cutoff=until - 1 if until is not None and until <= now else None,
        )

    def is_left(self, ref: HasTime) -> bool:
        """Whether the worker must still push the object, as far as is known."""
        in_time = self.cutoff is None or ref.last_modified <= self.cutoff
        return in_time and not self.has_passed(ref)

    def content(self) -> bytes:
        """The content of STATE."""
        fields = dataclasses.asdict(self) | {"status": self.status.value}
        return dump({"mode": "catch-up"} | fields)

    def cutoff_at(self, snapshot: Snapshot) -> int | None:
        """The time up to which the worker pushes objects; None: it pushes all.

        An object that was written before `closing` can have a later time, from another clock.
        """
        if self.time_is_needed:
            return latest_time_before(snapshot)
        return self.cutoff

    @property
    def time_is_needed(self) -> bool:
        """Whether the cutoff follows from STATE's own time."""
        return self.status is Status.CLOSING and self.cutoff is None

    def duty(self, ref: HasTime, cutoff: int | None) -> Duty:
        """Who pushes the object that an event names. An object in `failed` may be pushed again."""
        if cutoff is not None and ref.last_modified > cutoff:
            return Duty.PUSH
        if not self.has_passed(ref) and self.status is not Status.FINISHED:
            return Duty.WORKER
        return Duty.PUSH if ref.key in self.failed else Duty.PASSED

    def refusal(self, snapshot: Snapshot, run: str) -> str | None:
        """Why the job run `run` may not become the worker now; None if it may."""
        if self.status is Status.FINISHED:
            return "the catch-up has finished; delete STATE to start over"
        return super(CatchUp, self).refusal(snapshot, run)

    def claimed(self, run: str, claim: str, snapshot: Snapshot) -> CatchUp:
        """The STATE with which the job run `run` becomes the worker."""
        return self.next(worker=run, claim=claim, cutoff=self.cutoff_at(snapshot))

    def without_failure(self, key: str) -> CatchUp:
        """The same after this object was pushed."""
        if key not in self.failed:
            return self
        failed = tuple(name for name in self.failed if name != key)
        return dataclasses.replace(self, failed=failed, failed_total=self.failed_total - 1)

    def next_without_failure(self, key: str, snapshot: Snapshot) -> CatchUp:
        """The STATE that a run with an event writes after it has pushed this failure."""
        return self.without_failure(key).next(cutoff=self.cutoff_at(snapshot))

    def with_failure(self, key: str) -> CatchUp:
        """The same with one more object that could not be delivered; each is counted once."""
        if key in self.failed:
            return self
        failed = (*self.failed, key)
        if len(failed) > NAMED_FAILURES or len(json.dumps(failed)) > NAMED_FAILURES_BYTES:
            failed = self.failed
        return dataclasses.replace(self, failed=failed, failed_total=self.failed_total + 1)

    def rebased(self, before: CatchUp, now: CatchUp, snapshot: Snapshot) -> CatchUp:
        """This worker's STATE, merged with a change by another run from `before` to `now`.

        Runs with an event remove failures that they have pushed.
        """
        view = dataclasses.replace(
            self,
            sequence=now.sequence,
            status=now.status if now.status.follows(self.status) else self.status,
            cutoff=now.cutoff_at(snapshot) if self.cutoff is None else self.cutoff,
        )
        for key in before.failed:
            if key not in now.failed:
                view = view.without_failure(key)
        return view


def read_catch_up(snapshot: Snapshot, state_key: str) -> CatchUp:
    """Parse STATE of catch-up mode. Raises StateUnreadable."""
    fields = fields_of(snapshot) or {}
    match fields:
        case {
            "version": 1,
            "mode": "catch-up",
            "status": "working" | "closing" | "finished" as status,
            "worker": str() | None as worker,
            "sequence": int(sequence),
            "mark": ([int(), str()] | None) as mark,
            "cutoff": int() | None as cutoff,
            "failed_total": int(failed_total),
            "failed": list(failed),
        } if status != "finished" or cutoff is not None:
            return CatchUp(
                worker=worker,
                claim=str(fields.get("claim", "")),  # version 1.0 wrote none
                sequence=sequence,
                mark=(mark[0], mark[1]) if mark else None,
                status=Status(status),
                cutoff=cutoff,
                failed_total=failed_total,
                failed=tuple(map(str, failed)),
            )
    raise unreadable(state_key, "catch-up", fields)


# --- the text ------------------------------------------------------------------------------------


def dump(fields: Mapping[str, object]) -> bytes:
    """The content of STATE with these fields."""
    return json.dumps({"version": 1, **fields}, ensure_ascii=False).encode()


def fields_of(snapshot: Snapshot) -> dict[str, Any] | None:
    """The fields of STATE; empty if it is JSON but not an object; None if it is not JSON."""
    try:
        fields = json.loads(snapshot.content)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else {}


def unreadable(state_key: str, mode: str, fields: Mapping[str, object] | None) -> StateUnreadable:
    """The error of a mode that can't use the content of STATE."""
    written = (fields or {}).get("mode")
    what = (
        f"was written by FLOWLOG_MODE {written!r}"
        if written in ("remember", "catch-up", "follow") and written != mode
        else "holds something that this program did not write"
    )
    return StateUnreadable(
        f"the STATE object {state_key!r} {what}; it is left as it is. Look at FLOWLOG_MODE and"
        " KEY_FIRST_LOGGED, or delete that object to start over"
    )
