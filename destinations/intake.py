"""Takes lines in: renders them for their destination, and packs them into batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from destinations.base import Added, Line, LineTooLong, LongLine, Source
from destinations.batch import Batch, Packer
from destinations.block import Block

OnFull = Callable[[Batch], bool]
"""Hears of each batch that has no more room; whether it makes sense to add more lines."""


def add_lines(
    packer: Packer, owner: int, lines: Iterable[Line], source: Source, on_full: OnFull
) -> Added:
    """Take the lines of object `owner`, one by one."""
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
    """Take the lines of a block; None where one may be too long: they are to come one by one."""
    destination = packer.destination
    around = destination.around(source, _now())
    made = block.elements(around, destination.quoted, destination.line_limit_bytes)
    if made is None:
        return None
    head = destination.head(source)
    count = 0
    for elements in made:
        count += len(elements)
        for full in packer.add_all(owner, elements, head):
            if not on_full(full):
                return Added(count)
    return Added(count)


def _now() -> int:
    return int(time.time() * 1000)
