"""Writes what a look at a bucket has found as one HTML page, which loads nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bucket.flowkeys import HOUR_SECONDS
from desk.coverage import DAY_SECONDS, Cell, Columns, Interface, Row, shown
from desk.figures import DAYS_A_MONTH, Figures, silence, span

TEMPLATE = "report.html"
MOST_PAIRS = 10


class NoTemplates(Exception):
    """The library for the page is not installed; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Strip:
    """An interface's row of the map."""

    interface: Interface
    row: Row
    cells: tuple[Cell, ...]

    @property
    def percent(self) -> str:
        """Objects beside those due."""
        due = sum(cell.due for cell in self.cells)
        return f"{100 * self.row.objects / due:.0f} %" if due else ""


@dataclass(frozen=True, slots=True)
class TableRow:
    """A day of hours, or a week of days, of an interface; None where there is no column."""

    interface: Interface
    name: str
    cells: tuple[Cell | None, ...]

    @property
    def objects(self) -> int:
        """All of them."""
        return sum(cell.objects for cell in self.cells if cell)

    @property
    def size(self) -> int:
        """Their bytes as stored."""
        return sum(cell.size for cell in self.cells if cell)


def write_report(figures: Figures, file: Path) -> None:
    """Write the page. Raises NoTemplates, OSError."""
    try:
        import jinja2
    except ImportError:
        raise NoTemplates("--report needs jinja2: pip install jinja2") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"time": shown, "span": span, "size": size, "label": label}
    page = environment.get_template(TEMPLATE).stream(
        figures=figures,
        look=figures.look,
        groups=groups(figures),
        silent=[(one, row, silence(row)) for one, row in figures.look.coverage.silent()],
        days=days(figures.look.columns),
        mark=mark(figures),
        pairs=figures.look.sample.pairs.most_common(MOST_PAIRS),
        table_rows=table_rows,
        slots=slots(figures.look.columns),
        month=DAYS_A_MONTH,
        hourly=figures.look.columns.step == HOUR_SECONDS,
    )
    # Piece by piece: a page of a thousand interfaces is large.
    page.enable_buffering(100)
    page.dump(str(file), encoding="utf-8", errors="replace")


def groups(figures: Figures) -> list[tuple[str, list[tuple[str, list[Strip]]]]]:
    """The rows of the map by VPC, then by subnet."""
    rows = figures.look.coverage.rows
    strips = [Strip(one, rows[one], tuple(rows[one].cells())) for one in sorted(rows)]
    return [
        (vpc, [(subnet, list(own)) for subnet, own in itertools.groupby(group, _subnet)])
        for vpc, group in itertools.groupby(strips, lambda strip: strip.interface.vpc)
    ]


def _subnet(strip: Strip) -> str:
    return strip.interface.subnet


def label(cell: Cell, columns: Columns) -> str:
    """What hovering over a column tells."""
    start = shown(cell.start)
    when = start if columns.step == HOUR_SECONDS else start[:10]
    if not cell.due and not cell.objects:
        return f"{when}: before the first object" if cell.level.value == "before" else when
    types = ", ".join(f"{name} {count}" for name, count in cell.by_type if cell.objects)
    return f"{when}: {cell.objects} of {cell.due} objects ({types or 'none'}), {size(cell.size)}"


def size(count: float) -> str:
    """Bytes, for people."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length:
            return f"{count / length:,.1f} {unit}"
    return f"{count:.0f} bytes"


def mark(figures: Figures) -> float | None:
    """Where the mark is drawn, in columns; None where there is none, or outside of the map."""
    columns, moment = figures.look.columns, figures.look.sent.mark
    if moment is None or not columns.begin <= moment <= columns.end:
        return None
    return (moment - columns.begin) / columns.step


def days(columns: Columns) -> list[tuple[float, str]]:
    """Labels under the map: where they stand, in percent of its width, and what they say."""
    first = columns.begin - columns.begin % DAY_SECONDS
    every = max(1, round((columns.end - first) / DAY_SECONDS / 7))
    whole = len(columns) * columns.step
    labels = []
    for moment in range(first, columns.end, every * DAY_SECONDS):
        at = 100 * (moment - columns.begin) / whole
        if 0 <= at <= 94:
            labels.append((at, f"{_moment(moment):%d %b}"))
    return labels


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


# --- the table behind the map --------------------------------------------------------------------


def slots(columns: Columns) -> list[str]:
    """The headings of the table's columns: the hours of a day, or the days of a week."""
    if columns.step == HOUR_SECONDS:
        return [f"{hour:02}" for hour in range(24)]
    return ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]


def table_rows(strip: Strip, columns: Columns) -> Iterator[TableRow]:
    """The numbers of an interface, a day of hours or a week of days in each row."""
    hourly = columns.step == HOUR_SECONDS

    def begins(cell: Cell) -> int:
        day = cell.start - cell.start % DAY_SECONDS
        return day if hourly else day - _moment(day).weekday() * DAY_SECONDS

    for begin, group in itertools.groupby(strip.cells, begins):
        found: list[Cell | None] = [None] * (24 if hourly else 7)
        for cell in group:
            found[(cell.start - begin) // columns.step] = cell
        name = f"{_moment(begin):%Y-%m-%d}" if hourly else f"week of {_moment(begin):%Y-%m-%d}"
        yield TableRow(strip.interface, name, tuple(found))
