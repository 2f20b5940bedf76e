"""What a figure is measured with and what it comes to: scales, rows, curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.measure import Workload


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured, and how often."""

    w1: Workload
    w2: Workload
    times: int
    times_of_reference: int
    events: int
    counts: Sequence[int]
    """Objects of the curve; the last one is "many"."""
    keys: int
    array_objects: int
    array_sizes: Sequence[int]
    concurrencies: Sequence[int]
    gets: int
    shard_keys: int = 10_000
    shard_sets: int = 20
    reading_seconds: float = 5.0
    interfaces: int = 50
    days: int = 90
    """What a tick of follow mode looks through: so many interfaces, objects of so many days."""


FULL = Scale(
    w1=Workload(500, 5),
    w2=Workload(60, 2000),
    times=5,
    times_of_reference=3,
    events=9,
    counts=(100, 500, 2000, 10_000),
    keys=1_000_000,
    array_objects=2000,
    array_sizes=(1, 2, 4, 8),
    concurrencies=(1, 2, 4, 8, 16, 32, 64),
    gets=500,
)
QUICK = Scale(
    w1=Workload(200, 5),
    w2=Workload(10, 2000),
    times=2,
    times_of_reference=1,
    events=3,
    counts=(50, 200, 1000),
    keys=50_000,
    array_objects=400,
    array_sizes=(1, 2, 4),
    concurrencies=(1, 4, 16, 64),
    gets=100,
    shard_sets=3,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table; `met` is None where there is no goal."""

    what: str
    reference: str
    job: str
    ratio: str = ""
    goal: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """Wall time in seconds against something, in the panel of that name."""

    panel: str
    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Part:
    """What one question came to."""

    rows: Sequence[Row]
    curves: Sequence[Curve] = field(default=())


OBJECTS, CONCURRENCY, ARRAY = "objects", "FLOWLOG_CONCURRENCY", "JOB_ARRAY_SIZE"
"""The panels of the plot."""


def seconds(value: float) -> str:
    """Seconds as a cell shows them."""
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def mib(value: float) -> str:
    """MiB as a cell shows them."""
    return f"{value:.0f} MiB"


def faster(what: str, reference: float, job: float, goal: float | None) -> Row:
    """A row of wall times; the goal is a ratio, since one machine is faster than another."""
    times = reference / job
    said = f"{goal:g} times" if goal else ""
    met = times >= goal if goal else None
    return Row(what, seconds(reference), seconds(job), f"{times:.1f} times faster", said, met)


def peak(what: str, reference: str, job: float, limit: int = 100) -> Row:
    """A row of a peak RSS in MiB, which is the same on a fast machine and on a slow one."""
    return Row(f"{what}: peak RSS", reference, mib(job), "", f"under {limit} MiB", job < limit)
