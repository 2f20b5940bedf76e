"""How far follow mode has come: one mark for what is written in its hour, one for what is late.

A place is (last_modified, key): objects are pushed in the order of their places.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bucket.flowkeys import HOUR_SECONDS, USUAL_HOURS, is_late
from bucket.interfaces import Hours
from bucket.listing import ObjectRef

Place = tuple[int, str]

LATEST_HOURS = 48
"""Late objects are looked for so many hours back; a collector tries for 24 (IBM Cloud docs)."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Up to which place all objects have settled: `mark` for the usual ones, `late` for late ones.

    Whether an object is late follows from its key and time alone, so each one has one mark. None
    stands for the beginning of the bucket.
    """

    mark: Place | None = None
    late: Place | None = None

    def is_late_due(self, date: int) -> bool:
        """Whether late objects are to be looked for, at this time of the store's clock."""
        return self.late is None or date - self.late[0] >= HOUR_SECONDS

    def hours(self, *, with_late: bool) -> Hours | None:
        """The hours of an interface in which objects past the marks can be; None: all."""
        if self.mark is None or (with_late and self.late is None):
            return None
        begin = self.mark[0] - USUAL_HOURS * HOUR_SECONDS
        if with_late and self.late is not None:
            begin = min(begin, self.late[0] - LATEST_HOURS * HOUR_SECONDS)
        return Hours(begin, self.mark[0])

    def wants(self, ref: ObjectRef, *, with_late: bool) -> bool:
        """Whether the object lies behind its mark; late ones only where they are looked for."""
        place = (ref.last_modified, ref.key)
        if self.mark is not None and place <= self.mark and not with_late:
            return False
        if is_late(ref.key, ref.last_modified):
            return with_late and (self.late is None or place > self.late)
        return self.mark is None or place > self.mark

    def moved(self, place: Place, *, with_late: bool) -> Marks:
        """The marks once this object has settled, the next in the order of places."""
        moved = dataclasses.replace(self, mark=max(place, self.mark or place))
        # Where late ones are looked for, all of both kinds come in one order.
        return replace_late(moved, place) if with_late else moved

    def late_pushed(self, until: int) -> Marks:
        """The marks once all late objects have settled that were written at `until` or before."""
        return replace_late(self, (until + 1, ""))


def replace_late(marks: Marks, place: Place) -> Marks:
    """The marks with the one of late objects moved to this place, unless it is further."""
    return dataclasses.replace(marks, late=max(place, marks.late or place))


def beginning_at(since: int | None) -> Marks:
    """The marks of a first run: the first object, or the first one written at this time."""
    return Marks() if since is None else Marks((since, ""), (since, ""))
