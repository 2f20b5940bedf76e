"""The STATE object in its bucket, and how it may be changed.

STATE is small JSON under one key of the bucket; bucket/state_text.py defines its content. It is
written only with a precondition (COS docs, "Conditional requests"): if two runs change it at the
same time, exactly one succeeds, and the other one gets an error. docs/modes.md draws the states and
argues why nothing is lost.

All times are whole seconds of the store's own clock, since the epoch.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from bucket.errors import Unanswered

T = TypeVar("T")

SETTLING_SECONDS = 10
"""An upload may become visible this long after its `Last-Modified` time."""

CLOCK_SKEW_SECONDS = 5
"""The clocks of the store's machines may differ by this much."""

LEASE_SECONDS = 15 * 60
"""A worker that has not written STATE for this long counts as dead."""

_MAX_REFUSALS = 5
"""A write may be refused this many times although its precondition holds."""


class StateError(Exception):
    """STATE can't be used; the text names the object and says what to do."""


class StateUnreadable(StateError):
    """STATE holds something that this mode can't read. It is not changed."""


class StateUnavailable(StateError):
    """The store did not answer about STATE until the time for retries was over."""


class UnsafeStore(StateError):
    """The store ignores preconditions on PUT, which these modes need."""


class StateChanged(StateError):
    """Another run has changed STATE since this run read it; `now` is the new one."""

    def __init__(self, key: str, now: Snapshot | None) -> None:
        super().__init__(f"the STATE object {key!r} was changed by another run")
        self.now = now


class StateLost(StateError):
    """This run no longer owns STATE, and must stop at once."""


class Replaced(StateLost):
    """Another run has become the worker."""


class PreconditionFailed(Exception):
    """The store refused a write because its precondition did not hold."""


class Snapshot(NamedTuple):
    """STATE in one answer of the store; `date` is the store's clock at that moment."""

    content: bytes
    etag: str
    last_modified: int
    date: int


class Patience(Protocol):
    """Limits the retries for one purpose: FLOWLOG_RETRY_SECONDS in all."""

    def wait(self, unanswered: Unanswered) -> None:
        """Wait before the next try. Raises StateUnavailable once the time is over, and Stopped."""


class StateStore(Protocol):
    """The requests about STATE. All of them raise Unanswered, StoreError, Stopped."""

    def get_state(self, key: str) -> Snapshot | None:
        """STATE, or None if there is none."""

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        """Write STATE if its ETag is still `etag`, or, with None, if there is no STATE.

        Returns the new ETag. Raises PreconditionFailed.
        """

    def delete_state(self, key: str) -> None:
        """Delete STATE."""

    def patience(self) -> Patience:
        """The time limit and waits for one purpose, starting now."""


def has_settled(last_modified: int, date: int) -> bool:
    """Whether all uploads with the time `last_modified` are visible at `date` of the store's clock.

    Both times are whole seconds, rounded down, so one second more than the settling time is needed;
    and they may come from two machines whose clocks differ.
    """
    return seconds_to_settle(last_modified, date) <= 0


def seconds_to_settle(last_modified: int, date: int) -> int:
    """Seconds from `date` until all uploads of `last_modified` are visible; 0 or less: they are."""
    return last_modified + SETTLING_SECONDS + CLOCK_SKEW_SECONDS + 1 - date


def settled_until(date: int) -> int:
    """The latest time whose uploads are all visible at `date` of the store's clock."""
    return date - seconds_to_settle(0, 0)


def latest_time_before(snapshot: Snapshot) -> int:
    """The latest time that an object can have if it was written before STATE."""
    return snapshot.last_modified + CLOCK_SKEW_SECONDS


class Outcome(enum.Enum):
    """The result of a write, as STATE shows it."""

    WRITTEN = "written"
    NOT_WRITTEN = "not written"
    CHANGED = "changed by another run"


def outcome(content: bytes, etag: str | None, now: Snapshot | None) -> Outcome:
    """The result of a write without a clear answer; it replaced `etag` (None: created STATE).

    A refused write may have been carried out as well, if the refusal was for its retry. No two
    writes have the same content, so STATE with this content shows that it was written. If STATE is
    unchanged, the write can safely be sent again, since at most one of the two is carried out.
    """
    if now is not None and now.content == content:
        return Outcome.WRITTEN
    if (now.etag if now else None) == etag:
        return Outcome.NOT_WRITTEN
    return Outcome.CHANGED


class StateObject:
    """STATE in its bucket, changed only with preconditions.

    Every method raises StateUnavailable if the store does not answer in the time for retries.
    """

    def __init__(self, store: StateStore, key: str) -> None:
        self.key = key
        self._store = store

    def read(self) -> Snapshot | None:
        """Read STATE; None if there is none."""
        return self._answer(lambda: self._store.get_state(self.key), self._store.patience())

    def write(self, content: bytes, etag: str | None) -> str:
        """Write STATE if its ETag is still `etag` (None: if there is none); return the new ETag.

        Raises StateChanged.
        """
        written = self._written(content, etag)
        if etag is None:
            self._check_creation(content)
        return written

    def _written(self, content: bytes, etag: str | None) -> str:
        patience, refusals = self._store.patience(), 0
        while True:
            try:
                return self._store.put_state(self.key, content, etag)
            except PreconditionFailed as refused:
                reason, refusals = Unanswered(str(refused)), refusals + 1
            except Unanswered as unanswered:
                reason = unanswered
            now = self._answer(lambda: self._store.get_state(self.key), patience)
            match outcome(content, etag, now):
                case Outcome.WRITTEN if now:
                    return now.etag
                case Outcome.CHANGED:
                    raise StateChanged(self.key, now)
            if refusals >= _MAX_REFUSALS:
                raise StateError(
                    f"the STATE object {self.key!r} can't be written: the object store refuses"
                    " preconditions that hold; look at COS_ENDPOINT"
                )
            patience.wait(reason)

    def check_preconditions(self, snapshot: Snapshot | None) -> None:
        """Check that the store supports preconditions, by a write that it must refuse.

        Raises UnsafeStore. If the store ignores them, only the time of STATE has changed.
        """
        content = snapshot.content if snapshot else b"probe"
        if self._is_refused(content, '"no-such-etag"'):
            return
        if not snapshot:
            self._store.delete_state(self.key)
        raise UnsafeStore(_UNSAFE)

    def _check_creation(self, content: bytes) -> None:
        """Check that STATE, which exists now, can't be created again. Raises UnsafeStore.

        If two runs have both created it, each of them notices here.
        """
        if not self._is_refused(content, None):
            self._store.delete_state(self.key)
            raise UnsafeStore(_UNSAFE)

    def _is_refused(self, content: bytes, etag: str | None) -> bool:
        """Whether the store refuses this write."""

        def put() -> bool:
            try:
                self._store.put_state(self.key, content, etag)
            except PreconditionFailed:
                return True
            return False

        return self._answer(put, self._store.patience())

    def _answer(self, ask: Callable[[], T], patience: Patience) -> T:
        """Repeat the request until there is an answer."""
        while True:
            try:
                return ask()
            except Unanswered as unanswered:
                patience.wait(unanswered)


_UNSAFE = (
    "this object store ignores preconditions (If-Match, If-None-Match) on PUT, so runs at the same"
    " time would overwrite each other's STATE; use FLOWLOG_MODE simple with it"
)
