"""Makes the lines of an object into a block, where its text and what is sent of it allow that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from destinations.base import Line
from destinations.block import Block
from push.decoder import FlowLog
from push.flat import flat_entries
from push.selection import Selection

TimeOf = Callable[[object], int | None]
"""The UTC milliseconds that a field's value means, None where it means none."""


def block_of(
    flow_log: FlowLog,
    selection: Selection,
    added: Mapping[str, Any],
    time_of: TimeOf,
) -> Block | None:
    """The block of all lines of this object, or None where they are to be rendered one by one."""
    entries = flow_log.entries
    frame = selection.frame(flow_log.fields, added)
    if not frame or not flow_log.text or not isinstance(entries, list):
        return None
    flat = flat_entries(flow_log.text, flow_log.named, entries)
    if flat is None or not all(map(frame.names.isdisjoint, entries)):
        return None
    captured = flow_log.fields.get("capture_end_time")
    kinds = [
        (entry.get("end_time") or captured, entry.get("action") == "rejected")
        for entry in selection.entries(flow_log)
    ]
    lines = {
        kind: Line(b"", time_of(kind[0]), kind[1], frame.head, frame.tail) for kind in set(kinds)
    }
    like = [lines[kind] for kind in kinds]
    if not selection.where:
        return Block(flat, like)
    wanted = selection.tester(flow_log.fields, added)
    return Block(flat, like, [wanted(entry, row) for row, entry in enumerate(entries)])
