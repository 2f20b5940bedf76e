"""Two versions of the job side by side, in whole processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.measure import JOB, NONE, WIDE, Contender, Latency, Services, services, side_by_side
from bench.parts import Row, Scale, mib, seconds


def versions(scale: Scale, old: Path) -> list[Row]:
    """An event, W1 and W2 with the version in the directory `old`, and with this one."""
    with services(scale.w1) as where:
        rows = [*_compared(where, "one event", where.event, NONE, scale.events, old)]
        rows += _workload(where, f"W1, {scale.w1}", scale, old)
    with services(scale.w2) as where:
        return rows + _workload(where, f"W2, {scale.w2}", scale, old)


def _workload(where: Services, what: str, scale: Scale, old: Path) -> list[Row]:
    return [
        *_compared(where, what, {}, NONE, scale.times, old),
        *_compared(where, f"{what}, latency", {}, WIDE, scale.times, old),
        *_compared(where, f"{what}, latency, over TLS", where.over_tls, WIDE, scale.times, old),
    ]


def _compared(
    where: Services, what: str, settings: dict[str, str], latency: Latency, times: int, old: Path
) -> Sequence[Row]:
    contenders = {
        "old": Contender((str(old / "flowlog.py"),), settings, times),
        "new": Contender(JOB, settings, times),
    }
    found = side_by_side(where, latency, contenders)
    before, now = found["old"], found["new"]
    return [
        Row(what, seconds(before.wall), seconds(now.wall), f"{now.wall / before.wall:.2f}"),
        Row(f"{what}: CPU", seconds(before.cpu), seconds(now.cpu), f"{now.cpu / before.cpu:.2f}"),
        Row(f"{what}: peak RSS", mib(before.peak), mib(now.peak), f"{now.peak / before.peak:.2f}"),
    ]
