"""Tracks which objects are done, and counts the results of a run."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bucket.keys import Keys
from bucket.listing import ObjectRef
from destinations.base import Receipt


class Settled(NamedTuple):
    """An object whose result is final: delivered where `error` is None."""

    ref: ObjectRef
    rows: int = 0
    """Flows of the object that were read, including those that a filter left out."""
    error: str | None = None
    skipped: bool = False
    permanent: bool = True
    """Whether another run would fail too: the object is at fault, not a service or permission."""
    filtered: int = 0
    unread: bool = False
    """Whether the object could not be read."""


@dataclass(slots=True)
class _OpenObject:
    ref: ObjectRef
    lines: int = 0
    filtered: int = 0
    accepted: int = 0
    all_added: bool = False
    error: str | None = None
    skipped: bool = False
    permanent: bool = True
    unread: bool = False

    @property
    def settled(self) -> bool:
        return self.all_added and (self.error is not None or self.accepted == self.lines)


class Ledger:
    """Tracks which objects are done: those of which every line was accepted.

    Objects are opened in the order in which they are to settle; each is identified by a number.
    """

    def __init__(self) -> None:
        self._objects: dict[int, _OpenObject] = {}
        self._oldest = self._next = 0

    def __len__(self) -> int:
        return len(self._objects)

    def open(self, ref: ObjectRef) -> int:
        """Add an object; return its number."""
        number, self._next = self._next, self._next + 1
        self._objects[number] = _OpenObject(ref)
        return number

    def add_lines(self, number: int, count: int, filtered: int = 0) -> None:
        """Add `count` lines, which were handed over for delivery, to the object's.

        And `filtered` flows that a filter has left out.
        """
        self._objects[number].lines += count
        self._objects[number].filtered += filtered

    def close(self, number: int, *, skipped: bool = False) -> None:
        """No more lines of this object follow; `skipped`: it has nothing to push."""
        self._objects[number].all_added = True
        self._objects[number].skipped = skipped

    def fail(
        self, number: int, error: str, *, permanent: bool = True, unread: bool = False
    ) -> None:
        """Mark the object as failed; if it already is, the first reason is kept."""
        entry = self._objects.get(number)
        if entry and entry.error is None:
            entry.error, entry.permanent, entry.unread = error, permanent, unread

    def record(self, receipt: Receipt) -> None:
        """Record the result of a batch."""
        for number, count in receipt.accepted.items():
            # A failed object settles without waiting for its other batches.
            if entry := self._objects.get(number):
                entry.accepted += count
        for number, failure in receipt.failed.items():
            self.fail(number, failure.reason, permanent=failure.permanent)

    def settled(self) -> Iterator[Settled]:
        """Remove and return the settled objects that have no open object before them."""
        # By number: finding a dictionary's first entry would scan all deleted ones.
        while (entry := self._objects.get(self._oldest)) and entry.settled:
            del self._objects[self._oldest]
            self._oldest += 1
            yield Settled(
                entry.ref,
                entry.lines + entry.filtered,
                entry.error,
                entry.skipped,
                entry.permanent,
                entry.filtered,
                entry.unread,
            )

    def give_up(self, error: str) -> Iterator[Settled]:
        """Remove all open objects, settled as failed with this error."""
        for number in list(self._objects):
            self.fail(number, error, permanent=False)
            self.close(number)
        yield from self.settled()


class Failures:
    """Keys and why each of them failed, in the order of their failure, in little memory.

    Most failures share a few reasons; after too many different ones, new reasons are shortened.
    """

    _DIFFERENT_REASONS = 10_000

    def __init__(self) -> None:
        self._keys = Keys()
        self._reasons = array("L")
        self._numbers: dict[str, int] = {}

    def append(self, key: str, reason: str) -> None:
        """Add a failure."""
        if len(self._numbers) >= self._DIFFERENT_REASONS:
            reason = reason.partition(":")[0]
        self._keys.append(key)
        self._reasons.append(self._numbers.setdefault(reason, len(self._numbers)))

    def __len__(self) -> int:
        return len(self._reasons)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        texts = list(self._numbers)
        return ((self._keys[i], texts[number]) for i, number in enumerate(self._reasons))


@dataclass(slots=True)
class Tally:
    """The results of a run so far; contract, section 6."""

    objects: int = 0
    rows: int = 0
    lines_delivered: int = 0
    skipped: int = 0
    filtered: int = 0
    """Rows that FLOWLOG_WHERE left out."""
    incomplete: int = 0
    """Objects whose collector lost flows."""
    failed: Failures = field(default_factory=Failures)
    """Key and reason of each object that was begun and not delivered."""
    not_begun: Sequence[ObjectRef] = ()
    not_begun_reason: str = ""
    lag_seconds: int | None = None
    """Age of the oldest object that is visible in the bucket and not pushed; None: unknown."""

    @property
    def failed_total(self) -> int:
        """Objects that should have been delivered and were not."""
        return len(self.failed) + len(self.not_begun)

    def record(self, settled: Settled) -> None:
        """Count a settled object."""
        self.rows += settled.rows
        self.filtered += settled.filtered
        if settled.error is not None:
            self.failed.append(settled.ref.key, settled.error)
        elif settled.skipped:
            self.skipped += 1
        else:
            self.objects += 1
