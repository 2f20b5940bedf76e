"""Takes the text of a flat, compact document's entries as it stands, without rendering it.

Almost every flow log is of this kind: no white space, no escapes, and no value that holds others,
so that every bracket is a bracket of the structure. Everything else is refused here and rendered
anew from what the parser made of it, which is also the referee of this module in the tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_MINUS_ZERO = re.compile(rb":-0").search
"""A number that is rendered in another way than it is written."""

_BRACKETS = b"{}[]"
_NEVER = b"\\ \t\n\r"
"""The beginning of an escape, and white space."""


def flat_entries(text: bytes, fields: int, entries: Sequence[Mapping[str, Any]]) -> bytes | None:
    """The text of the entries, `},{` between them, each as `render` would write it; or None.

    Without the braces at both ends. The parser found so many top-level `fields`, the list among
    them, and these `entries` in `text`. A number that is not an integer keeps its spelling.
    """
    # The structure has two brackets, and two braces for each entry and for the document.
    brackets = 2 + 2 * (len(entries) + 1)
    if not entries or len(text) - len(text.translate(None, _BRACKETS + _NEVER)) != brackets:
        return None
    # One comma between two fields and between two entries: with more of them a field stands twice,
    # or one is inside a text. An empty entry has one less, and would leave a comma behind.
    if text.count(b",") != fields + sum(map(len, entries)) - 2 or not all(entries):
        return None
    if _MINUS_ZERO(text):
        return None
    return text[text.index(b"[") + 2 : text.index(b"]") - 1]
