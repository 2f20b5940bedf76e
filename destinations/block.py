"""Lines of one object whose own texts stand in one text, so that they are rendered all at once."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain

from destinations.base import Destination, Line, Source

BETWEEN = b"},{"
"""What separates two texts, and occurs nowhere else."""

AT_ONCE = 200
"""So many elements are made at a time: with what lines have in common they can be large."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Elements of a request, not put together yet.

    `lead` is a separator and the start of an element, `texts` are the lines' own texts, and each of
    `glues` is the end of an element and `lead` once more. Lines share most of them, so what is made
    once for many lines takes their place without another copy.
    """

    lead: bytes
    texts: Sequence[bytes]
    glues: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, part: slice) -> Elements:
        return Elements(self.lead, self.texts[part], self.glues[part])

    def ends(self) -> list[int]:
        """Where each element ends, in bytes, if there is a separator before each of them."""
        sizes = map(operator.add, map(len, self.texts), map(len, self.glues))
        return list(accumulate(sizes))

    def joined(self) -> bytes:
        """All elements, with a separator before each of them."""
        if not self.texts:
            return b""
        pieces = [self.lead, *chain.from_iterable(zip(self.texts, self.glues, strict=True))]
        pieces[-1] = pieces[-1][: -len(self.lead)]
        return b"".join(pieces)


@dataclass(frozen=True, slots=True)
class Block:
    """Lines of one object, whose own texts stand in a few texts with `BETWEEN` between them.

    `like` has for each of them a line that is the same but for its own text. Most share a few, and
    all have the same head and the same tail.
    """

    own: Sequence[bytes]
    like: Sequence[Line]

    def elements(self, destination: Destination, source: Source, now: int) -> Elements | None:
        """The elements of a request. `now` in UTC milliseconds.

        None where a line may be too long, and where a line's own text holds `BETWEEN`.
        """
        if not self.like:
            return Elements(b"", (), ())
        texts = [text for own in self.own for text in destination.quoted(own).split(BETWEEN)]
        around = destination.around(source, now)
        ends = {id(line): around(line)[1] for line in {id(one): one for one in self.like}.values()}
        start, _ = around(self.like[0])
        longest = len(start) + max(map(len, texts)) + max(map(len, ends.values()))
        if len(texts) != len(self.like) or longest > destination.line_limit_bytes:
            return None
        lead = destination.separator + start
        glues = {line: end + lead for line, end in ends.items()}
        return Elements(lead, texts, [glues[id(line)] for line in self.like])
