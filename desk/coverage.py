"""What the bucket holds: objects and bytes, interface by interface, in columns of an hour or a day.

Filled with one object after the other, in any order; it keeps numbers only, no keys.
"""

from __future__ import annotations

import enum
import functools
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from bucket.flowkeys import HOUR_SECONDS, interface_of
from bucket.listing import ObjectRef, Period

DAY_SECONDS = 24 * HOUR_SECONDS
USUAL_DAYS, MOST_DAYS_OF_HOURS, MOST_DAYS = 7, 7, 90

DUE_PER_HOUR = 12
"""One object every five minutes (IBM Cloud docs, VPC, "Viewing flow log objects")."""

SILENT_SECONDS = HOUR_SECONDS
"""An interface without a new object for so long is silent."""


# --- columns -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of `step` seconds (an hour or a day) from `begin` to `end`, in seconds."""

    begin: int
    end: int
    step: int

    def __len__(self) -> int:
        return -(-(self.end - self.begin) // self.step)

    def at(self, seconds: int) -> int | None:
        """The column of this time, or None."""
        inside = self.begin <= seconds < self.end
        return (seconds - self.begin) // self.step if inside else None

    def start(self, column: int) -> int:
        """When this column begins."""
        return self.begin + column * self.step

    def due(self, column: int) -> float:
        """The objects that a record type has in this column; fewer where the column is cut."""
        seconds = min(self.step, self.end - self.start(column))
        return seconds * DUE_PER_HOUR / HOUR_SECONDS


def columns_of(period: Period, now: int, days: float = USUAL_DAYS) -> Columns:
    """Hours for up to seven days, else days, of which there are at most ninety."""
    end = min(now, period.until or now)
    since = period.since if period.since is not None else end - round(days * DAY_SECONDS)
    since = max(min(since, end - 1), end - MOST_DAYS * DAY_SECONDS)
    # `7d` was counted back from the desk's clock, and `end` is the store's.
    hours = end - since < MOST_DAYS_OF_HOURS * DAY_SECONDS + HOUR_SECONDS
    step = HOUR_SECONDS if hours else DAY_SECONDS
    return Columns(since - since % step, end, step)


# --- interfaces ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, order=True)
class Interface:
    """A network interface, and where it is; all ids without the rest of their CRN."""

    vpc: str
    subnet: str
    instance: str
    interface: str


@dataclass(frozen=True, slots=True)
class Place:
    """What a key says: the interface, the record type, and the hour in seconds since the epoch."""

    interface: Interface
    record_type: str
    hour: int


_HOUR = re.compile(r"/year=([0-9]{4})/month=([0-9]{2})/day=([0-9]{2})/hour=([0-9]{2})/")


def place_of(key: str) -> Place | None:
    """What this key says; None for a key of another form."""
    stream = interface_of(key)
    found = _HOUR.match(key, len(stream)) if stream else None
    if not stream or not found:
        return None
    hour = _seconds(found[0])
    return Place(*_named(stream), hour) if hour is not None else None


@functools.lru_cache(maxsize=4096)
def _seconds(hour: str) -> int | None:
    match = _HOUR.match(hour)
    assert match
    year, month, day, of_day = map(int, match.groups())
    try:
        return int(datetime(year, month, day, of_day, tzinfo=UTC).timestamp())
    except ValueError:
        return None


@functools.lru_cache(maxsize=4096)
def _named(stream: str) -> tuple[Interface, str]:
    parts = dict(part.partition("=")[::2] for part in stream.split("/"))

    def last(name: str) -> str:
        return unquote(parts.get(name, "")).rpartition(":")[2] or "unknown"

    names = (last(name) for name in ("vpc-id", "subnet-id", "instance-id", "vnic-id"))
    return Interface(*names), last("record-type")


# --- the map -------------------------------------------------------------------------------------


class Level(enum.Enum):
    """How many objects a column has, beside those that are due."""

    NONE = "none"
    FEW = "few"
    MOST = "most"
    ALL = "all"
    NOT_DUE = "not-due"
    BEFORE = "before"

    @staticmethod
    def of(objects: int, due: float) -> Level:
        """The level of a column in which the interface existed."""
        if not objects:
            return Level.NONE if due >= 1 else Level.NOT_DUE
        if objects >= 0.9 * due - 1:
            return Level.ALL
        return Level.MOST if objects >= due / 2 else Level.FEW


@dataclass(frozen=True, slots=True)
class Cell:
    """A column of an interface; `by_type` has the objects of each record type."""

    start: int
    level: Level
    objects: int
    due: int
    size: int
    by_type: tuple[tuple[str, int], ...]


class Row:
    """The objects of one interface."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._objects: dict[str, array[int]] = {}
        self._sizes = array("Q", bytes(8 * len(columns)))
        self.begun = 0
        """The hour of its first object."""
        self.written = 0
        """When the newest one was written, of those that were listed."""

    def add(self, ref: ObjectRef, place: Place) -> bool:
        """Count an object; whether it lies in one of the columns."""
        self.begun = min(self.begun or place.hour, place.hour)
        self.written = max(self.written, ref.last_modified)
        column = self._columns.at(place.hour)
        if column is None:
            return False
        if place.record_type not in self._objects:
            self._objects[place.record_type] = array("L", bytes(8 * len(self._columns)))
        self._objects[place.record_type][column] += 1
        self._sizes[column] += ref.size
        return True

    @property
    def record_types(self) -> int:
        """How many record types it has in these columns."""
        return len(self._objects)

    @property
    def objects(self) -> int:
        """All objects in these columns."""
        return sum(map(sum, self._objects.values()))

    @property
    def size(self) -> int:
        """Their bytes as stored."""
        return sum(self._sizes)

    def cells(self) -> Iterator[Cell]:
        """Its columns from left to right."""
        for column, size in enumerate(self._sizes):
            by_type = tuple((name, self._objects[name][column]) for name in sorted(self._objects))
            objects = sum(count for _, count in by_type)
            start = self._columns.start(column)
            due = self._columns.due(column) * max(1, self.record_types)
            level = Level.of(objects, due)
            if start + self._columns.step <= self.begun:
                level, due = Level.BEFORE, 0
            yield Cell(start, level, objects, round(due), size, by_type)

    @property
    def due(self) -> int:
        """The objects that are due in these columns, since it began."""
        return sum(cell.due for cell in self.cells())

    def silent_seconds(self) -> int:
        """For how long it has been silent at the end of the columns; 0 where it is not."""
        silent = self._columns.end - self.written
        return silent if silent > SILENT_SECONDS else 0

    @property
    def columns_seconds(self) -> int:
        """How long the columns are."""
        return self._columns.end - self._columns.begin

    @property
    def is_silent_throughout(self) -> bool:
        """Whether it is silent for longer than the columns show: it isn't known how long."""
        return not self._objects


class Coverage:
    """All interfaces of a bucket."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.rows: dict[Interface, Row] = {}
        self.streams: set[tuple[Interface, str]] = set()
        """Interfaces with their record types: what is listed one by one."""
        self.listed = 0
        self.others = 0
        """Keys of another form."""

    def add(self, ref: ObjectRef) -> bool:
        """Count an object; whether it lies in one of the columns."""
        self.listed += 1
        place = place_of(ref.key)
        if place is None:
            self.others += 1
            return self.columns.at(ref.last_modified) is not None
        if place.interface not in self.rows:
            self.rows[place.interface] = Row(self.columns)
        self.streams.add((place.interface, place.record_type))
        return self.rows[place.interface].add(ref, place)

    def silent(self) -> list[tuple[Interface, Row]]:
        """The interfaces that have gone silent, longest first."""
        found = [one for one in self.rows.items() if one[1].silent_seconds()]
        return sorted(found, key=lambda one: (-one[1].silent_seconds(), one[0]))

    def seconds(self) -> int:
        """For how long there were objects within the columns."""
        begun = min((row.begun for row in self.rows.values()), default=self.columns.begin)
        return max(HOUR_SECONDS, self.columns.end - max(self.columns.begin, begun))


def shown(seconds: int) -> str:
    """A time, for people."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%d %H:%M} UTC"
