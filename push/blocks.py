"""Makes the lines of an object into a block: all of them are rendered at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from destinations.base import Line
from destinations.block import Block
from push.decoder import FlowLog
from push.selection import Selection

TimeOf = Callable[[object], int | None]
"""The UTC milliseconds that a field's value means, None where it means none."""


def block_of(
    flow_log: FlowLog, selection: Selection, added: Mapping[str, Any], time_of: TimeOf
) -> Block | None:
    """The block of all lines of this object, or None where they are to be rendered one by one."""
    frame = selection.frame(flow_log.fields, added)
    if not frame or not isinstance(flow_log.entries, list):
        return None
    entries = list(selection.entries(flow_log))
    if selection.where:
        wanted = selection.tester(flow_log.fields, added)
        entries = [entry for row, entry in enumerate(entries) if wanted(entry, row)]
    if not all(map(frame.apart.isdisjoint, entries)):
        return None
    captured = flow_log.fields.get("capture_end_time")
    try:
        own = orjson.dumps(list(map(frame.own, entries)))[2:-2]
        kinds = [
            (entry.get("end_time") or captured, entry.get("action") == "rejected")
            for entry in entries
        ]
        lines = {
            kind: Line(b"", time_of(kind[0]), kind[1], frame.head, frame.tail)
            for kind in set(kinds)
        }
    except (TypeError, KeyError):
        # A number or a text that orjson refuses, a value that holds others, a field that is not
        # there.
        return None
    # Nothing separates an entry without a field from the next one.
    if not all(entries):
        return None
    return Block(own, [lines[kind] for kind in kinds])
