"""Packs rendered lines into batches, and splits batches."""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from destinations.base import Destination, LineTooLong, Run
from destinations.block import Elements

BATCH_LINES = 13_000
"""Far more lines than a request usually has. The answer may have a status for each of them, and is
read up to 64 KiB."""


class _Text:
    """The elements of a batch, in memory or in the encoded body, which is far smaller."""

    def __init__(self, content: bytes | bytearray) -> None:
        self.content: Callable[[], bytes | bytearray] = lambda: content

    def move_to(self, body: bytes, spans: Sequence[slice], destination: Destination) -> None:
        """Keep only the body, whose text has the elements at these positions."""

        def unpack() -> bytes:
            text = destination.decode(body)
            return destination.separator.join([text[span] for span in spans])

        self.content = unpack


@dataclass(frozen=True, slots=True)
class Batch:
    """Rendered lines in order, and the number of the object that owns each.

    `content` is the elements with a separator of one byte between them. Line i ends before
    `ends[i]` and begins after the separator at `ends[i - 1]`. `owners[i]` owns the lines from
    `firsts[i]` on; `heads` has what the lines of an owner share.
    """

    _text: _Text
    ends: array[int]
    owners: tuple[int, ...]
    firsts: tuple[int, ...]
    heads: Mapping[int, bytes]

    def __len__(self) -> int:
        return len(self.ends)

    def _spans(self) -> Iterator[tuple[int, int, int]]:
        """Each owner with the number of its first line, and the number after its last line."""
        return zip(self.owners, self.firsts, (*self.firsts[1:], len(self)), strict=True)

    def runs(self) -> Iterator[Run]:
        """The elements of each owner, in order."""
        for owner, first, end in self._spans():
            start = self.ends[first - 1] + 1 if first else 0
            yield Run(self.heads[owner], start, self.ends[end - 1])

    @property
    def content(self) -> bytes | bytearray:
        """The elements with a separator between them; slow once they are encoded."""
        return self._text.content()

    def body(self, destination: Destination) -> bytes:
        """The body of its request, which then replaces the elements in memory.

        The elements are needed again only if the service refuses lines of the request.
        """
        content = self.content
        parts = list(destination.parts(content, self.runs()))
        body = destination.encode(parts)
        self._text.move_to(body, list(_spans_of(content, parts)), destination)
        return body

    def counts(self) -> Counter[int]:
        """The number of lines of each owner."""
        counts: Counter[int] = Counter()
        for owner, first, end in self._spans():
            counts[owner] += end - first
        return counts

    def owner_of(self, index: int) -> int:
        """The owner of one line."""
        return self.owners[bisect_right(self.firsts, index) - 1]

    def select(self, indices: Sequence[int]) -> Batch:
        """A batch of some of the lines; `indices` are ascending."""
        content = self.content
        # Each line has the separator before it, except the first one.
        lines = [
            content[self.ends[index - 1] + (not position) if index else 0 : self.ends[index]]
            for position, index in enumerate(indices)
        ]
        owners, firsts = list[int](), list[int]()
        for position, index in enumerate(indices):
            owner = self.owner_of(index)
            if not owners or owners[-1] != owner:
                owners.append(owner)
                firsts.append(position)
        return replace(
            self,
            _text=_Text(b"".join(lines)),
            ends=array("I", accumulate(map(len, lines))),
            owners=tuple(owners),
            firsts=tuple(firsts),
        )

    def halves(self) -> tuple[Batch, Batch]:
        """This batch, of at least two lines, as two batches in the same order."""
        middle = self._middle()
        content, cut = self.content, self.ends[middle - 1]
        run = bisect_right(self.firsts, middle - 1)
        other = bisect_right(self.firsts, middle)
        return (
            replace(
                self,
                _text=_Text(content[:cut]),
                ends=self.ends[:middle],
                owners=self.owners[:run],
                firsts=self.firsts[:run],
            ),
            replace(
                self,
                _text=_Text(content[cut + 1 :]),
                ends=array("I", (end - cut - 1 for end in self.ends[middle:])),
                owners=self.owners[other - 1 :],
                firsts=(0, *(first - middle for first in self.firsts[other:])),
            ),
        )

    def _middle(self) -> int:
        """Where to split: near the middle; if possible between objects, which fail as a whole."""
        half, quarter = len(self) // 2, len(self) // 4
        near = min(self.firsts, key=lambda first: abs(first - half))
        return near if abs(near - half) <= quarter and near else half


def _spans_of(
    content: bytes | bytearray, parts: Iterable[bytes | bytearray | memoryview]
) -> Iterator[slice]:
    """The positions of `content` in the text that these parts form."""
    start = 0
    for part in parts:
        if part is content or (isinstance(part, memoryview) and part.obj is content):
            yield slice(start, start + len(part))
        start += len(part)


class Packer:
    """Packs rendered lines into batches of at most `limit` bytes and BATCH_LINES lines."""

    def __init__(self, destination: Destination, limit: int) -> None:
        self.destination = destination
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
        self._heads: dict[int, bytes] = {}
        self._heads_size = 0
        self.begun = 0.0
        """When the first line of the pending batch was added, by the monotonic clock."""

    def add(self, owner: int, element: bytes, head: bytes = b"") -> Batch | None:
        """Add one rendered line; return the full batch that had no room for it, if there is one.

        `head` is what all lines of this owner share. Raises LineTooLong for a line that is over
        the service's limit for a request.
        """
        full = None
        head_size = len(head) + self.destination.run_bytes
        room = self._limit - len(self._content) - self._heads_size - head_size - 1
        if len(element) > room or len(self._ends) >= BATCH_LINES:
            limit = self.destination.request_limit_bytes
            if self._around + head_size + len(element) > limit:
                raise LineTooLong(
                    f"a line of {len(element)} bytes does not fit into one request"
                    f" of at most {limit} bytes"
                )
            full = self.take()
        if self._ends:
            self._content += self.destination.separator
        else:
            self.begun = time.monotonic()
        if not self._owners or self._owners[-1] != owner:
            self._owners.append(owner)
            self._firsts.append(len(self._ends))
            self._heads[owner] = head
            self._heads_size += head_size
        self._content += element
        self._ends.append(len(self._content))
        return full

    def add_all(self, owner: int, elements: Elements, head: bytes = b"") -> Iterator[Batch]:
        """Add rendered lines, with the same result as `add` for each; yields full batches."""
        done = 0
        while done < len(elements):
            # The first line of a batch or of an owner needs more room than its text.
            first = elements[done : done + 1].joined()[len(self.destination.separator) :]
            if full := self.add(owner, first, head):
                yield full
            begin = len(self._content)
            head_size = len(head) + self.destination.run_bytes
            room = self._limit - begin - self._heads_size - head_size
            rest = elements[done + 1 : done + 1 + BATCH_LINES - len(self._ends)]
            ends = rest.ends()
            count = bisect_right(ends, room)
            self._content += rest[:count].joined()
            self._ends.extend([begin + end for end in ends[:count]])
            done += 1 + count

    def __len__(self) -> int:
        return len(self._ends)

    def take(self) -> Batch | None:
        """The pending batch, or None if it is empty."""
        if not self._ends:
            return None
        batch = Batch(
            _Text(self._content), self._ends, tuple(self._owners), tuple(self._firsts), self._heads
        )
        self._clear()
        return batch
