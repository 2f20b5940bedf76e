"""Renders lines for their destination, and packs them into batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from destinations.base import Added, Line, LineTooLong, LongLine, Source
from destinations.batch import Batch, Packer
from destinations.block import AT_ONCE, Block

OnFull = Callable[[Batch], bool]
"""Called with each full batch; returns whether more lines should be added."""


def add_lines(
    packer: Packer, owner: int, lines: Iterable[Line], source: Source, on_full: OnFull
) -> Added:
    """Add the lines of object `owner`, one by one."""
    destination = packer.destination
    head = destination.head(source)
    render = destination.renderer(source, _now())
    count = long = 0
    refused = None
    for line in lines:
        count += 1
        element = render(line)
        if destination.limited_size(line, element) > destination.line_limit_bytes:
            long += 1
            if destination.long_line is LongLine.DROPPED:
                continue
        try:
            full = packer.add(owner, element, head)
        except LineTooLong as error:
            refused = str(error)
            continue
        if full and not on_full(full):
            break
    if long and destination.long_line is LongLine.DROPPED:
        limit = destination.line_limit_bytes
        return Added(count, 0, f"{long} lines are over the service's limit of {limit} bytes")
    return Added(count, long, refused)


def add_block(
    packer: Packer, owner: int, block: Block, source: Source, on_full: OnFull
) -> Added | None:
    """Add the lines of a block; None if they must be added one by one."""
    elements = block.elements(packer.destination, source, _now())
    if elements is None:
        return None
    head = packer.destination.head(source)
    for start in range(0, len(elements), AT_ONCE):
        some = elements[start : start + AT_ONCE]
        for full in packer.add_all(owner, some, head):
            if not on_full(full):
                return Added(start + len(some))
    return Added(len(elements))


def _now() -> int:
    return int(time.time() * 1000)
