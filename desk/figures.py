"""The figures of a look at a bucket, in one form for the page, the terminal and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from desk.coverage import DAY_SECONDS, Interface, Row, shown
from desk.look import Overview
from desk.sample import Estimate, a_day

DAYS_A_MONTH = 30
GIGABYTE = 1e9

TICKS_A_DAY = 288
"""Runs of follow mode, one every five minutes."""

LATE_PAGES_A_DAY = 24 * 4
"""Once an hour follow mode reads the keys of two days, which takes so many more pages."""


def span(seconds: float) -> str:
    """A length of time, for people."""
    for unit, length in (("days", DAY_SECONDS), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def silence(row: Row) -> str:
    """For how long an interface has been silent."""
    over = "over " if row.is_silent_throughout else ""
    seconds = row.columns_seconds if row.is_silent_throughout else row.silent_seconds()
    return over + span(seconds)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a destination gets in a day, in GB: all flows, and those that are selected."""

    destination: str
    everything: float
    selected: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What follows from the numbers of a look."""

    look: Overview
    all_flows: Estimate
    selected: Estimate

    @classmethod
    def of(cls, look: Overview) -> Figures:
        """The figures of this look."""
        seconds = look.coverage.seconds()
        sample, chosen = look.sample, look.chosen
        return cls(
            look,
            a_day(sample.everything, sample, chosen, seconds),
            a_day(sample.selected, sample, chosen, seconds),
        )

    @property
    def lag(self) -> str:
        """The lag, for people."""
        seconds = self.look.waiting.lag_seconds
        return "not known" if seconds is None else span(seconds)

    @property
    def behind_mark(self) -> str:
        """The lag of objects that are not parked, where that is another one; else empty."""
        waiting = self.look.waiting
        seconds = waiting.behind_mark_seconds
        return span(seconds or 0) if seconds != waiting.lag_seconds else ""

    @property
    def objects(self) -> int:
        """Objects within the columns."""
        return self.look.chosen.objects

    @property
    def objects_a_day(self) -> float:
        """GET requests a day, since each object is read once."""
        return self.objects * DAY_SECONDS / self.look.coverage.seconds()

    @property
    def lists_a_day(self) -> int:
        """About how many LIST requests follow mode makes a day, one run every five minutes."""
        return len(self.look.coverage.streams) * (TICKS_A_DAY + LATE_PAGES_A_DAY)

    @property
    def due(self) -> int:
        """Objects that are due within the columns."""
        return sum(row.due for row in self.look.coverage.rows.values())

    @property
    def rejected_percent(self) -> float:
        """The share of rejected flows in the sample."""
        rows = self.look.sample.everything.rows
        return 100 * self.look.sample.rejected / rows if rows else 0.0

    @property
    def costs(self) -> list[Cost]:
        """By destination."""
        every, some = self.all_flows.sent, self.selected.sent
        return [Cost(name, every[name] / GIGABYTE, some[name] / GIGABYTE) for name in every]


def as_json(figures: Figures) -> dict[str, Any]:
    """The figures for a machine. Times in ISO 8601, the rest as the names say."""
    look, waiting = figures.look, figures.look.waiting
    sample = look.sample
    return {
        "bucket": look.settings.bucket,
        "mode": look.settings.mode,
        "time": _iso(look.now),
        "state": look.sent.says,
        "mark": _iso(look.sent.mark),
        "lag_seconds": waiting.lag_seconds,
        "lag_behind_mark_seconds": waiting.behind_mark_seconds,
        "waiting_objects": waiting.objects if waiting.sent.is_waiting else None,
        "undelivered_total": look.sent.undelivered_total,
        "undelivered": [{"key": one.key, "reason": one.reason} for one in look.undelivered],
        "since": _iso(look.columns.begin),
        "interfaces": len(look.coverage.rows),
        "silent": [_silent(interface, row) for interface, row in look.coverage.silent()],
        "objects": figures.objects,
        "objects_due": figures.due,
        "stored_bytes": look.chosen.size,
        "sampled_objects": sample.objects,
        "unreadable_objects": sample.unreadable,
        "rows_a_day": {
            "all": round(figures.all_flows.rows),
            "selected": round(figures.selected.rows),
        },
        "line_bytes": {
            "all": round(sample.everything.line_bytes),
            "selected": round(sample.selected.line_bytes),
        },
        "gb_a_day": {
            one.destination: {"all": _rounded(one.everything), "selected": _rounded(one.selected)}
            for one in figures.costs
        },
        "get_requests_a_day": round(figures.objects_a_day),
        "list_requests_a_day": figures.lists_a_day,
        "rejected_percent": _rounded(figures.rejected_percent),
    }


def _silent(interface: Interface, row: Row) -> Mapping[str, object]:
    return {
        "vpc": interface.vpc,
        "subnet": interface.subnet,
        "instance": interface.instance,
        "interface": interface.interface,
        "seconds": row.silent_seconds(),
        "longer": row.is_silent_throughout,
    }


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


def _iso(seconds: int | None) -> str | None:
    return None if seconds is None else shown(seconds).replace(" UTC", "Z").replace(" ", "T")
