"""Makes the lines of an object into a block: many of them are rendered at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from destinations.base import Line
from destinations.block import Block
from push.decoder import FlowLog, are_plain
from push.flat import Flat
from push.selection import Frame, Selection, Wanted

TimeOf = Callable[[object], int | None]
"""The UTC milliseconds that a field's value means, None where it means none."""

Entries = Sequence[Mapping[str, Any]]


class _NotABlock(Exception):
    """The lines are to be rendered one by one."""


def block_of(
    flow_log: FlowLog, selection: Selection, added: Mapping[str, Any], time_of: TimeOf
) -> Block | None:
    """The block of all lines of this object, or None where they are to be rendered one by one."""
    frame = selection.frame(flow_log.fields, added)
    if not frame or not isinstance(flow_log.entries, Flat | list):
        return None
    wanted = selection.tester(flow_log.fields, added) if selection.where else None
    captured = flow_log.fields.get("capture_end_time")
    own, kinds, row = list[bytes](), list[tuple[object, object]](), 0
    try:
        for text, entries in _groups(flow_log.entries):
            entries = list(selection.noted(flow_log.fields, entries))
            chosen = _chosen(entries, frame, wanted, row)
            if chosen:
                # For a filter, `_chosen` has checked it.
                exact = text is None or wanted is not None
                own.append(_own_text(text, entries, chosen, frame, exact=exact))
            kinds += [(entry.get("end_time"), entry.get("action")) for entry in chosen]
            row += len(entries)
        lines = {
            (end, action): Line(
                b"", time_of(end or captured), action == "rejected", frame.head, frame.tail
            )
            for end, action in set(kinds)
        }
    except (TypeError, KeyError, ValueError, _NotABlock):
        # A number or a text that orjson refuses, a value that holds others, a field that is not
        # there; a text that is not JSON.
        return None
    return Block(own, [lines[kind] for kind in kinds])


def _groups(entries: Flat | Entries) -> Iterable[tuple[bytes | None, Entries]]:
    return entries.groups() if isinstance(entries, Flat) else [(None, entries)]


def _chosen(entries: Entries, frame: Frame, wanted: Wanted | None, row: int) -> Entries:
    """The wanted ones of these entries, the first of which has the number `row`."""
    # Nothing separates an entry without a field from the next one.
    if not all(entries) or (frame.apart and not all(map(frame.apart.isdisjoint, entries))):
        raise _NotABlock
    if wanted is None:
        return entries
    # Of a flat document a number may be read inexactly, and a filter would see that.
    if not are_plain(entries):
        raise _NotABlock
    return [entry for number, entry in enumerate(entries, row) if wanted(entry, number)]


def _own_text(
    text: bytes | None, entries: Entries, chosen: Entries, frame: Frame, *, exact: bool
) -> bytes:
    """The lines' own texts, with a separator between them.

    `exact`: it is known that all numbers of the entries were read exactly.
    """
    if text is not None and frame.own is None and len(chosen) == len(entries):
        # As it stands, unless a field occurs twice in an entry: the last one holds. Then there are
        # more commas than the fields need; so there are also if a text has one, which is rare.
        if text.count(b",") != sum(map(len, entries)) - 1:
            raise _NotABlock
        return text
    own = list(map(frame.own, chosen)) if frame.own else chosen
    if not exact and not are_plain(own):
        raise _NotABlock
    return orjson.dumps(own)[2:-2]
