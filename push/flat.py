"""Takes the text of a flat, compact document's entries as it stands, without rendering it.

Almost every flow log is of this kind: no white space, no escapes, and no value that holds others,
so that every bracket is a bracket of the structure. Everything else is refused here and rendered
anew from what the parser made of it, which is also the referee of this module in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_BRACKETS = b"{}[]"
_NEVER = b"\\ \t\n\r"
"""The beginning of an escape, and white space."""

BETWEEN = b"},{"
"""What stands between two entries, and nowhere else."""


def flat_entries(
    text: bytes, fields: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> bytes | None:
    """The text of the entries, `BETWEEN` between them, each as `render` would write it; or None.

    Without the braces at both ends. `fields` (with the list itself) and `entries` are what the
    parser made of `text`. A number that is not an integer keeps its spelling.
    """
    # The structure has two brackets, and two braces for each entry and for the document.
    brackets = 2 + 2 * (len(entries) + 1)
    if not entries or len(text) - len(text.translate(None, _BRACKETS + _NEVER)) != brackets:
        return None
    # Every field has its colon behind a quote, so with fewer fields than that one stands twice.
    if text.count(b'":') != len(fields) + sum(map(len, entries)):
        return None
    # An empty entry would leave a comma behind, and `-0` is rendered as `0`.
    if b"{}" in text or b":-0" in text:
        return None
    return text[text.index(b"[") + 2 : text.index(b"]") - 1]
