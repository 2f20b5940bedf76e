"""The STATE object in its bucket, and how it may be changed.

STATE is small JSON under one key of the bucket; bucket/state_text.py says what is in it. It is
written only on a precondition (COS docs, "Conditional requests"), so that of two runs that change
it at once exactly one succeeds, and the other one learns of it. docs/modes.md draws the states and
argues why nothing is lost.

All times are whole seconds of the store's own clock, since the epoch.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from bucket.errors import Unanswered

T = TypeVar("T")

SETTLING_SECONDS = 10
"""By how long an upload may become visible after the time it bears."""

CLOCK_SKEW_SECONDS = 5
"""By how much the clocks of the store's machines may differ."""

LEASE_SECONDS = 15 * 60
"""A worker that hasn't written STATE for so long is taken for dead."""


_MAX_REFUSALS = 5
"""So many times a write may be refused although STATE is as its precondition says."""


class StateError(Exception):
    """STATE can't be used; the text names it and says what to do."""


class StateUnreadable(StateError):
    """STATE holds something that this mode doesn't understand. It is left as it is."""


class StateUnavailable(StateError):
    """The store has not answered about STATE for as long as any request may take."""


class UnsafeStore(StateError):
    """The store ignores preconditions on PUT, on which these modes depend."""


class StateChanged(StateError):
    """Another run has changed STATE since this one read it; `now` is what is there instead."""

    def __init__(self, key: str, now: Snapshot | None) -> None:
        super().__init__(f"the STATE object {key!r} was changed by another run")
        self.now = now


class StateLost(StateError):
    """STATE was this run's and is not any more: the run must stop at once."""


class Replaced(StateLost):
    """Another run has become the worker."""


class PreconditionFailed(Exception):
    """The store refused a write because STATE was not as the precondition said."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """STATE as one answer of the store gave it; `date` is the store's clock at that moment."""

    content: bytes
    etag: str
    last_modified: int
    date: int


class Patience(Protocol):
    """How long the store is asked about STATE for one purpose: FLOWLOG_RETRY_SECONDS in all."""

    def wait(self, unanswered: Unanswered) -> None:
        """Wait before the next try. Raises StateUnavailable once the time is over, and Stopped."""


class StateStore(Protocol):
    """What the protocol needs of the bucket. All requests raise Unanswered, StoreError, Stopped."""

    def get_state(self, key: str) -> Snapshot | None:
        """STATE, or None if there is none."""

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        """Write STATE if its ETag still is `etag`, or, with None, if there is none.

        Returns the new ETag. Raises PreconditionFailed.
        """

    def delete_state(self, key: str) -> None:
        """Delete STATE."""

    def patience(self) -> Patience:
        """The time for one purpose, which begins now."""


def has_settled(last_modified: int, date: int) -> bool:
    """Whether every upload that bears `last_modified` is visible once the store's clock is `date`.

    Both are cut to whole seconds, so one more second is needed than the settling time itself; and
    they may be of two machines whose clocks differ.
    """
    return seconds_to_settle(last_modified, date) <= 0


def seconds_to_settle(last_modified: int, date: int) -> int:
    """How many seconds later than `date` the store's clock must be for that; at most 0: none."""
    return last_modified + SETTLING_SECONDS + CLOCK_SKEW_SECONDS + 1 - date


def settled_until(date: int) -> int:
    """The latest time whose uploads are all visible once the store's clock is `date`."""
    return date - seconds_to_settle(0, 0)


def latest_time_before(snapshot: Snapshot) -> int:
    """The latest time that an object can bear that was written before STATE was."""
    return snapshot.last_modified + CLOCK_SKEW_SECONDS


class Outcome(enum.Enum):
    """What has become of a write, as far as STATE tells."""

    WRITTEN = "written"
    NOT_WRITTEN = "not written"
    CHANGED = "changed by another run"


def outcome(content: bytes, etag: str | None, now: Snapshot | None) -> Outcome:
    """What has become of writing `content` in place of the text with `etag` (None: of no text).

    Asked where the answer doesn't tell. Also a write that was refused may have been carried out:
    what was refused is then its repetition. No two writes have the same text, so what holds this
    one's was written; where STATE still is what it was, the same write can safely be sent again,
    since at most one of the two is carried out.
    """
    if now is not None and now.content == content:
        return Outcome.WRITTEN
    if (now.etag if now else None) == etag:
        return Outcome.NOT_WRITTEN
    return Outcome.CHANGED


class StateObject:
    """STATE in its bucket, changed only on preconditions.

    Every method raises StateUnavailable where the store doesn't answer in the time for one request.
    """

    def __init__(self, store: StateStore, key: str) -> None:
        self.key = key
        self._store = store

    def read(self) -> Snapshot | None:
        """STATE as it is now."""
        return self._answer(lambda: self._store.get_state(self.key), self._store.patience())

    def write(self, content: bytes, etag: str | None) -> str:
        """Write STATE if it still is the one with `etag` (None: if there is none); the new ETag.

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
                unclear, refusals = Unanswered(str(refused)), refusals + 1
            except Unanswered as unanswered:
                unclear = unanswered
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
            patience.wait(unclear)

    def check_preconditions(self, snapshot: Snapshot | None) -> None:
        """Make sure that the store honours preconditions, by a write that it must refuse.

        Raises UnsafeStore. On such a store nothing is changed but the time that STATE bears.
        """
        content = snapshot.content if snapshot else b"probe"
        if self._is_refused(content, '"no-such-etag"'):
            return
        if not snapshot:
            self._store.delete_state(self.key)
        raise UnsafeStore(_UNSAFE)

    def _check_creation(self, content: bytes) -> None:
        """Make sure that STATE, which is there now, can't be created. Raises UnsafeStore.

        Of two runs that both believe to have created it, each finds out here.
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
        """Ask until there is an answer."""
        while True:
            try:
                return ask()
            except Unanswered as unanswered:
                patience.wait(unanswered)


_UNSAFE = (
    "this object store ignores preconditions (If-Match, If-None-Match) on PUT, so runs side by side"
    " would overwrite each other's STATE; use FLOWLOG_MODE simple with it"
)
