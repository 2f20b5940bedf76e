"""What a look at a bucket has found, as text for a terminal or as JSON, and as an exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from desk.coverage import shown
from desk.figures import DAYS_A_MONTH, Figures, as_json, silence, span
from desk.look import Extent

MOST_NAMED = 10
"""Of silent interfaces and of undelivered objects, the terminal shows so many."""

EXTENT = Extent(days=1 / 12, sampled=20)
"""Two hours, unless FLOWLOG_SINCE says: for most interfaces one page of the listing each."""


def parse_span(text: str) -> int:
    """A span such as 90s, 30m, 2h or 1d, in seconds. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if not found:
        raise ValueError(f"{text!r} is not a span of time such as 90s, 30m or 2h")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def is_behind(figures: Figures, most_seconds: int) -> bool | None:
    """Whether the lag is over this; None where it isn't known."""
    lag = figures.look.waiting.lag_seconds
    return None if lag is None else lag > most_seconds


def text_of(figures: Figures, *, for_machine: bool = False) -> str:
    """The status, without an end of line."""
    if for_machine:
        return json.dumps(as_json(figures), separators=(",", ":"))
    return "\n".join(map(_printable, _lines(figures)))


def _printable(line: str) -> str:
    """The line without characters on which a terminal would act, whatever a key holds."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)


def _lines(figures: Figures) -> Iterator[str]:
    look = figures.look
    yield f"{shown(look.now)}, bucket {look.settings.bucket}, mode {look.settings.mode}"
    yield from _sent(figures)
    yield from _interfaces(figures)
    percent = f" ({100 * figures.objects / figures.due:.0f} %)" if figures.due else ""
    yield (
        f"objects     {figures.objects:,} of {figures.due:,} due since"
        f" {shown(look.columns.begin)}{percent}, {look.chosen.size / 1e6:,.1f} MB as stored"
    )
    yield from _costs(figures)


def _sent(figures: Figures) -> Iterator[str]:
    look = figures.look
    mark = f", mark {shown(look.sent.mark)}" if look.sent.mark is not None else ""
    yield f"state       {look.sent.says}{mark}"
    waiting = f", {look.waiting.objects:,} objects wait" if look.sent.is_waiting else ""
    parked = f" of a parked object, {figures.behind_mark} of others" if figures.behind_mark else ""
    yield f"lag         {figures.lag}{parked}{waiting}"
    if look.sent.undelivered_total:
        yield f"undelivered {look.sent.undelivered_total:,} objects failed or are parked"
    for one in look.undelivered[:MOST_NAMED]:
        yield f"  {one.key}: {one.reason}"
    if (more := look.sent.undelivered_total - MOST_NAMED) > 0:
        yield f"  and {more:,} more"


def _interfaces(figures: Figures) -> Iterator[str]:
    coverage = figures.look.coverage
    silent = coverage.silent()
    vpcs = len({interface.vpc for interface in coverage.rows})
    yield f"interfaces  {len(coverage.rows):,} in {vpcs:,} VPCs, {len(silent):,} silent"
    for interface, row in silent[:MOST_NAMED]:
        yield (
            f"  silent for {silence(row)}: {interface.interface} of {interface.instance},"
            f" VPC {interface.vpc}"
        )
    if len(silent) > MOST_NAMED:
        yield f"  and {len(silent) - MOST_NAMED:,} more"
    if coverage.others:
        yield f"  {coverage.others:,} keys are not of the form of flow logs, and not counted there"


def _costs(figures: Figures) -> Iterator[str]:
    sample = figures.look.sample
    if not sample.objects:
        return
    all_flows, selected = figures.all_flows, figures.selected
    yield (
        f"flows       about {all_flows.rows:,.0f} a day, {sample.everything.line_bytes:,.0f} bytes"
        f" a line, {figures.rejected_percent:.1f} % rejected (sample of {sample.objects} objects)"
    )
    if sample.is_selective:
        yield (
            f"selected    about {selected.rows:,.0f} a day,"
            f" {sample.selected.line_bytes:,.0f} bytes a line"
        )
    for one in figures.costs:
        yield (
            f"  {one.destination:<10} {one.selected:,.2f} GB a day,"
            f" {one.selected * DAYS_A_MONTH:,.1f} GB a month"
        )
    yield (
        f"requests    {figures.objects_a_day:,.0f} GET a day,"
        f" about {figures.lists_a_day:,} LIST (follow, every five minutes)"
    )


def lag_sentence(figures: Figures, most_seconds: int) -> str:
    """Why the exit code is not 0."""
    if is_behind(figures, most_seconds) is None:
        return (
            "--max-lag needs a lag, which only FLOWLOG_MODE follow and a catch-up at work have:"
            f" {figures.look.sent.says}"
        )
    return f"the lag of {figures.lag} is over {span(most_seconds)}"
