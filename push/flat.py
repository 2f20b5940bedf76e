"""Entries of a document whose text is compact and flat: their own text goes into the lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from destinations.block import BETWEEN

GROUP_BYTES = 64 * 1024
"""So much text is parsed at a time. What is made of it stays in a processor's cache."""

OWN_FIELDS_LIMIT_BYTES = 2048
"""A document whose own fields take more is not flat. Those of a real one take about 900."""

_LIST = b'"flow_logs":[{'


class Group(NamedTuple):
    """Entries that follow each other, and their text without the first and the last brace."""

    text: bytes
    entries: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Flat:
    """The entries of a flat document; `text` is all of it, `span` is where they are.

    `parse` parses all of them in one go. Unlike `groups` it gives every number exactly, and finds
    the mistake in a text that is not JSON.
    """

    text: bytes = field(repr=False)
    span: slice
    count: int
    parse: Callable[[], Sequence[Mapping[str, Any]]]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        yield from self.parse()

    def groups(self) -> Iterator[Group]:
        """All entries. Raises ValueError for a text that is not JSON, or not flat."""
        start, last, found = self.span.start, self.span.stop, 0
        while start < last:
            end = self.text.find(BETWEEN, start + GROUP_BYTES, last)
            end = last if end < 0 else end
            text = self.text[start:end]
            if any(character in text for character in _NOT_COMPACT):
                raise ValueError("not compact")
            entries = orjson.loads(b"[{%b}]" % text)
            if not {dict}.issuperset(map(type, entries)):
                raise ValueError("holds something that is not an object")
            found += len(entries)
            yield Group(text, entries)
            start = end + len(BETWEEN)
        # One opening brace for each entry: none is in a text, and no value holds others.
        if found != self.count:
            raise ValueError("not flat")


def split(text: bytes) -> tuple[bytes, slice, int] | None:
    """The document without its entries, where these are in it, and how many, if it is flat.

    None where the form says that it is not. `Flat.groups` makes sure of it.
    """
    # A search for one character takes a tenth of the time of a search for two, or of a count.
    start, end = text.find(_LIST, 0, OWN_FIELDS_LIMIT_BYTES), text.find(b"]") - 1
    span = slice(start + len(_LIST), end)
    if (
        start < 0
        or end < span.start
        or text[end] != ord("}")
        # With another bracket this might not be the document's own list, or not its end.
        or text.rfind(b"]") != end + 1
        or len(text) - (span.stop - span.start) > OWN_FIELDS_LIMIT_BYTES
    ):
        return None
    return text[: span.start - 1] + text[end + 1 :], span, text.count(b"{", start)


_NOT_COMPACT = (b"\\", b" ", b"\n", b"\r", b"\t")
"""What JSON has in escapes, in texts of several words, and between values that are apart."""
