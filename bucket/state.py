"""The STATE object: what the modes remember between runs, and how it may be changed.

STATE is small JSON under one key of the bucket. It is written only on a precondition (COS docs,
"Conditional requests"), so that of two runs that change it at once exactly one succeeds, and the
other one learns of it. docs/catch-up.md draws the states and argues why nothing is lost.

All times are whole seconds of the store's own clock, since the epoch.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

SETTLING_SECONDS = 10
"""By how long an upload may become visible after the time it bears."""

LEASE_SECONDS = 15 * 60
"""A worker that hasn't written STATE for so long is taken for dead."""

NAMED_FAILURES = 20
"""STATE names so many objects that could not be delivered (a key has at most 1,024 bytes)."""

_CONFLICT_TRIES = 5


class StateError(Exception):
    """STATE can't be used; the text names it and says what to do."""


class StateUnreadable(StateError):
    """STATE holds something that this mode doesn't understand. It is left as it is."""


class UnsafeStore(StateError):
    """The store ignores preconditions on PUT, on which these modes depend."""


class Replaced(StateError):
    """Somebody else has changed STATE since this run read or wrote it."""


class PreconditionFailed(Exception):
    """The store refused a write because STATE was not as the precondition said."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """STATE as one answer of the store gave it; `date` is the store's clock at that moment."""

    content: bytes
    etag: str
    last_modified: int
    date: int


class HasTime(Protocol):
    """An object's place in the order of pushing: by time, then by key."""

    @property
    def last_modified(self) -> int:
        """In seconds since the epoch."""

    @property
    def key(self) -> str:
        """The object's key."""


class StateStore(Protocol):
    """What the protocol needs of the bucket."""

    def get_state(self, key: str) -> Snapshot | None:
        """STATE, or None if there is none."""

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        """Write STATE if its ETag still is `etag`, or, with None, if there is none.

        Returns the new ETag. Raises PreconditionFailed.
        """

    def delete_state(self, key: str) -> None:
        """Delete STATE."""


def has_settled(last_modified: int, date: int) -> bool:
    """Whether every upload that bears `last_modified` is visible once the store's clock is `date`.

    Both are cut to whole seconds, so one more second is needed than the settling time itself.
    """
    return date > last_modified + SETTLING_SECONDS


# --- what STATE says -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Remembered:
    """STATE of remember mode: the oldest object that an event has pushed.

    `bare` marks one of an older deployment, which holds just the key as text.
    """

    last_modified: int
    key: str
    bare: bool = False

    def wants(self, other: HasTime) -> bool:
        """Whether a run without an event pushes `other`: not newer, and not the one named."""
        return other.last_modified <= self.last_modified and other.key != self.key

    def older_than(self, other: HasTime) -> bool:
        """Whether the object named here is older than `other`, or the same."""
        return (self.last_modified, self.key) <= (other.last_modified, other.key)

    def content(self) -> bytes:
        """The text of STATE."""
        return _dump({"mode": "remember", "key": self.key, "last_modified": self.last_modified})


class Status(enum.Enum):
    """How far a catch-up is; it only ever goes on to the next one."""

    WORKING = "working"
    CLOSING = "closing"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True)
class CatchUp:
    """STATE of catch-up mode.

    `worker` names the run that works, None once it has let go. `mark` is the newest object, as
    (last_modified, key), up to which every object was seen and settled. `cutoff` divides the
    worker's objects (up to and including it) from those that events push; None while `closing`
    is being written, then it is the time that this very STATE bears. `sequence` makes every text
    that is ever written differ, so that no two have the same ETag.
    """

    status: Status
    worker: str | None
    sequence: int = 0
    mark: tuple[int, str] | None = None
    cutoff: int | None = None
    failed_total: int = 0
    failed: tuple[str, ...] = ()

    def content(self) -> bytes:
        """The text of STATE."""
        fields = dataclasses.asdict(self) | {"status": self.status.value}
        return _dump({"mode": "catch-up"} | fields)

    def next(self, **changes: Any) -> CatchUp:
        """The same with changes and the next sequence number."""
        return dataclasses.replace(self, sequence=self.sequence + 1, **changes)

    def has_passed(self, other: HasTime) -> bool:
        """Whether the mark has reached or passed this object."""
        return self.mark is not None and (other.last_modified, other.key) <= self.mark


def _dump(fields: Mapping[str, object]) -> bytes:
    return json.dumps({"version": 1, **fields}, ensure_ascii=False).encode()


def read_remembered(snapshot: Snapshot, state_key: str, prefix: str) -> Remembered:
    """STATE of remember mode. Raises StateUnreadable.

    A bare key must start with `prefix`, as every key that was ever remembered did; it is given the
    time of STATE itself, the only one at hand: no older than the object's own.
    """
    fields = _fields(snapshot)
    if fields is None:  # not JSON
        key = snapshot.content.decode("utf-8", "replace").strip()
        if key.startswith(prefix) and len(key.encode()) <= 1024 and key.isprintable():
            return Remembered(snapshot.last_modified, key, bare=True)
    elif fields.get("mode") == "remember":
        match fields:
            case {"version": 1, "key": str(key), "last_modified": int(last_modified)}:
                return Remembered(last_modified, key)
    raise _unreadable(state_key, "remember", fields)


def read_catch_up(snapshot: Snapshot, state_key: str) -> CatchUp:
    """STATE of catch-up mode. Raises StateUnreadable."""
    fields = _fields(snapshot)
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
                Status(status),
                worker,
                sequence,
                (mark[0], mark[1]) if mark else None,
                cutoff,
                failed_total,
                tuple(map(str, failed)),
            )
    raise _unreadable(state_key, "catch-up", fields)


def _fields(snapshot: Snapshot) -> dict[str, Any] | None:
    try:
        fields = json.loads(snapshot.content)
    except (ValueError, RecursionError):
        return None
    return fields if isinstance(fields, dict) else {}


def _unreadable(state_key: str, mode: str, fields: Mapping[str, object] | None) -> StateUnreadable:
    written = (fields or {}).get("mode")
    what = (
        f"was written by FLOWLOG_MODE {written!r}"
        if written in ("remember", "catch-up") and written != mode
        else "holds something that this program did not write"
    )
    return StateUnreadable(
        f"the STATE object {state_key!r} {what}; it is left as it is. Look at FLOWLOG_MODE and"
        " KEY_FIRST_LOGGED, or delete that object to start over"
    )


def cutoff(state: CatchUp, snapshot: Snapshot) -> int | None:
    """The time up to which objects are the worker's; None while all of them are."""
    if state.status is Status.CLOSING and state.cutoff is None:
        return snapshot.last_modified
    return state.cutoff


def worker_is_gone(state: CatchUp, snapshot: Snapshot) -> bool:
    """Whether another run may take over: the worker has let go, or shows no sign of life.

    Judged by the store's clock alone, both times being from one answer.
    """
    return state.worker is None or snapshot.date - snapshot.last_modified >= LEASE_SECONDS


# --- how STATE is changed ------------------------------------------------------------------------


class StateObject:
    """STATE in its bucket, changed only on preconditions."""

    def __init__(self, store: StateStore, key: str) -> None:
        self.key = key
        self._store = store

    def read(self) -> Snapshot | None:
        """STATE as it is now."""
        return self._store.get_state(self.key)

    def write(self, content: bytes, etag: str | None) -> str:
        """Write STATE if it still is the one with `etag` (None: if there is none); the new ETag.

        A request whose answer got lost may have been carried out and then refused when it was sent
        again, so a refusal counts only when STATE doesn't hold `content`. Raises Replaced.
        """
        for _ in range(_CONFLICT_TRIES):
            try:
                written = self._store.put_state(self.key, content, etag)
                if etag is None:
                    self._check_creation(content)
                return written
            except PreconditionFailed:
                now = self.read()
                if now and now.content == content:
                    return now.etag
                if (now.etag if now else None) != etag:
                    break
        raise Replaced(f"the STATE object {self.key!r} was changed by another run")

    def check_preconditions(self, snapshot: Snapshot | None) -> None:
        """Make sure that the store honours preconditions, by a write that it must refuse.

        Raises UnsafeStore. On such a store nothing is changed but the time that STATE bears.
        """
        try:
            self._store.put_state(
                self.key, snapshot.content if snapshot else b"probe", '"no-such-etag"'
            )
        except PreconditionFailed:
            return
        if not snapshot:
            self._store.delete_state(self.key)
        raise UnsafeStore(_UNSAFE)

    def _check_creation(self, content: bytes) -> None:
        """Make sure that STATE, which is there now, can't be created. Raises UnsafeStore.

        Of two runs that both believe to have created it, each finds out here.
        """
        try:
            self._store.put_state(self.key, content, None)
        except PreconditionFailed:
            return
        self._store.delete_state(self.key)
        raise UnsafeStore(_UNSAFE)


_UNSAFE = (
    "this object store ignores preconditions (If-Match, If-None-Match) on PUT, so runs side by side"
    " would overwrite each other's STATE; use FLOWLOG_MODE simple with it"
)
