"""Lines of one object whose own texts stand in one text, so that they are rendered all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from destinations.base import Line

BETWEEN = b"},{"
"""What stands between two texts, and nowhere else."""

AT_ONCE = 500
"""So many elements are made at a time: with what lines have in common they can be large."""

Around = Callable[[Line], tuple[bytes, bytes]]
"""Tells what stands before and after a line's own text in an element of a request."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements of a request, not put together yet: each is a text between two of its frame."""

    texts: Sequence[bytes]
    frames: Sequence[tuple[bytes, bytes]]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, part: slice) -> Elements:
        return Elements(self.texts[part], self.frames[part])

    def sizes(self) -> Iterator[int]:
        """The size in bytes of each element."""
        return (
            len(text) + len(before) + len(after)
            for text, (before, after) in zip(self.texts, self.frames, strict=True)
        )

    def joined(self, separator: bytes) -> bytes:
        """All elements, with a separator before each of them."""
        led = {frame: separator + frame[0] for frame in set(self.frames)}
        befores = [led[frame] for frame in self.frames]
        afters = [after for _, after in self.frames]
        return b"".join(chain.from_iterable(zip(befores, self.texts, afters, strict=True)))


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of one object, whose own texts stand in one text with `BETWEEN` between them.

    `like` has for each of them a line that is the same but for its own text; most share a few.
    """

    own: bytes
    like: Sequence[Line]

    def elements(
        self, around: Around, quoted: Callable[[bytes], bytes], limit: int
    ) -> Iterator[Elements] | None:
        """The elements of a request, a few hundred at a time; None if one has over `limit` bytes.

        `quoted` makes a text what it is inside an element.
        """
        if not self.like:
            return iter(())
        kinds = {id(line): line for line in self.like}
        framed = {number: around(line) for number, line in kinds.items()}
        texts = quoted(self.own).split(BETWEEN)
        widest = max(len(before) + len(after) for before, after in framed.values())
        if max(map(len, texts)) + widest > limit:
            return None
        every = Elements(texts, [framed[id(line)] for line in self.like])
        return (every[at : at + AT_ONCE] for at in range(0, len(every), AT_ONCE))
