"""Packs rendered lines into batches, and splits batches."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from destinations.base import Destination, LineTooLong

BATCH_LINES = 10_000
"""Far more than a request usually holds. The answer may have a status for each of them, and is read
up to 64 KiB."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rendered lines in order, and the number of the object that owns each.

    `content` is the elements with commas between them. Line i ends before `ends[i]` and begins
    behind the comma at `ends[i - 1]`. `owners[i]` owns the lines from `firsts[i]` on.
    """

    content: bytes | bytearray
    ends: array[int]
    owners: tuple[int, ...]
    firsts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ends)

    def parts(self, destination: Destination) -> tuple[bytes | bytearray, ...]:
        """The text of the request, in pieces, not encoded yet."""
        return destination.prefix, self.content, destination.suffix

    def body(self, destination: Destination) -> bytes:
        """The same in one piece."""
        return b"".join(self.parts(destination))

    def counts(self) -> Counter[int]:
        """Lines by owner."""
        counts: Counter[int] = Counter()
        for owner, first, end in zip(
            self.owners, self.firsts, (*self.firsts[1:], len(self)), strict=True
        ):
            counts[owner] += end - first
        return counts

    def owner_of(self, index: int) -> int:
        """The owner of one line."""
        return self.owners[bisect_right(self.firsts, index) - 1]

    def select(self, indices: Sequence[int]) -> Batch:
        """A batch of some of the lines; `indices` ascend."""
        lines = [self.content[self.ends[i - 1] + 1 if i else 0 : self.ends[i]] for i in indices]
        owners, firsts = list[int](), list[int]()
        for position, index in enumerate(indices):
            owner = self.owner_of(index)
            if not owners or owners[-1] != owner:
                owners.append(owner)
                firsts.append(position)
        # Each line but the first has a comma before it.
        ends = accumulate((len(line) + 1 for line in lines), initial=-1)
        return Batch(b",".join(lines), array("I", [*ends][1:]), tuple(owners), tuple(firsts))

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches that together are this one, in the same order; it has two lines at least."""
        middle = self._middle()
        cut = self.ends[middle - 1]
        run = bisect_right(self.firsts, middle - 1)
        other = bisect_right(self.firsts, middle)
        return (
            Batch(self.content[:cut], self.ends[:middle], self.owners[:run], self.firsts[:run]),
            Batch(
                self.content[cut + 1 :],
                array("I", (end - cut - 1 for end in self.ends[middle:])),
                self.owners[other - 1 :],
                (0, *(first - middle for first in self.firsts[other:])),
            ),
        )

    def _middle(self) -> int:
        """Where to halve: between two objects if that is near, since objects fail as a whole."""
        half, quarter = len(self) // 2, len(self) // 4
        near = min(self.firsts, key=lambda first: abs(first - half))
        return near if abs(near - half) <= quarter and near else half


class Packer:
    """Packs rendered lines into batches of at most `limit` bytes and BATCH_LINES lines."""

    def __init__(self, destination: Destination, limit: int) -> None:
        self._destination = destination
        self._around = len(destination.prefix) + len(destination.suffix)
        self._limit = min(limit, destination.request_limit_bytes) - self._around
        self._clear()

    def _clear(self) -> None:
        # One buffer instead of thousands of small objects, whose allocation costs more time than
        # their content.
        self._content = bytearray()
        self._ends = array("I")
        self._owners: list[int] = []
        self._firsts: list[int] = []

    def add(self, owner: int, element: bytes) -> Batch | None:
        """Add one rendered line; the batch that had no more room for it, if there was one.

        Raises LineTooLong for a line that is over the service's limit for a whole request.
        """
        full = None
        room = self._limit - len(self._content) - 1
        if len(element) > room or len(self._ends) >= BATCH_LINES:
            limit = self._destination.request_limit_bytes
            if self._around + len(element) > limit:
                raise LineTooLong(
                    f"a line of {len(element)} bytes does not fit into one request"
                    f" of at most {limit} bytes"
                )
            full = self.take()
        if self._ends:
            self._content += b","
        if not self._owners or self._owners[-1] != owner:
            self._owners.append(owner)
            self._firsts.append(len(self._ends))
        self._content += element
        self._ends.append(len(self._content))
        return full

    def take(self) -> Batch | None:
        """The pending batch, or None if it is empty."""
        if not self._ends:
            return None
        batch = Batch(self._content, self._ends, tuple(self._owners), tuple(self._firsts))
        self._clear()
        return batch
