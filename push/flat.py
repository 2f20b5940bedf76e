"""Splits the text of a flat, compact document into the texts of its entries, without rendering.

Almost every flow log is of this kind: no white space, no escapes, and no value that holds others,
so that every bracket is a bracket of the structure. Everything else is refused here and rendered
anew from what the parser made of it, which is also the referee of this module in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_NEVER = (b"\\", b" ", b"\t", b"\n", b"\r", b":-0")
"""Escapes, white space, and a number that is rendered in another way than it is written."""


def entry_texts(
    text: bytes, fields: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> list[bytes] | None:
    """The text of each entry, without its braces, as `render` would write it; or None.

    `fields` (with the list itself) and `entries` are what the parser made of `text`. A number that
    is not an integer keeps its spelling.
    """
    if not entries or text.count(b"[") != 1 or text.count(b"]") != 1:
        return None
    # One brace an entry and one for the document: none is inside a text.
    if text.count(b"{") != len(entries) + 1 or text.count(b"}") != len(entries) + 1:
        return None
    if any(unwanted in text for unwanted in _NEVER):
        return None
    # Every field has its colon behind a quote, so with fewer fields than that one stands twice.
    if text.count(b'":') != len(fields) + sum(map(len, entries)):
        return None
    texts = text[text.index(b"[") + 2 : text.index(b"]") - 1].split(b"},{")
    # `{}` has no text, and would leave a comma behind.
    return texts if len(texts) == len(entries) and all(texts) else None
