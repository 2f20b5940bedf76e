"""The marks of follow mode: up to where objects have settled, with a separate mark for late ones.

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
"""How many hours back late objects are listed; a collector retries for 24 (IBM Cloud docs)."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The place up to which all objects have settled: `late` for late objects, `mark` for others.

    Whether an object is late depends only on its key and time, so exactly one mark applies to it.
    None means the beginning of the bucket.
    """

    mark: Place | None = None
    late: Place | None = None

    def is_late_due(self, date: int) -> bool:
        """Whether it is time to list late objects, by the store's clock."""
        return self.late is None or date - self.late[0] >= HOUR_SECONDS

    def hours(self, *, with_late: bool) -> Hours | None:
        """The hours of an interface that can have objects past the marks; None: all."""
        if self.mark is None or (with_late and self.late is None):
            return None
        begin = self.mark[0] - USUAL_HOURS * HOUR_SECONDS
        if with_late and self.late is not None:
            begin = min(begin, self.late[0] - LATEST_HOURS * HOUR_SECONDS)
        return Hours(begin, self.mark[0])

    def wants(self, ref: ObjectRef, *, with_late: bool) -> bool:
        """Whether the object is past its mark; late ones only in a pass that lists them."""
        place = (ref.last_modified, ref.key)
        if self.mark is not None and place <= self.mark and not with_late:
            return False
        if is_late(ref.key, ref.last_modified):
            return with_late and (self.late is None or place > self.late)
        return self.mark is None or place > self.mark

    def moved(self, place: Place, *, with_late: bool) -> Marks:
        """The marks after this object, the next in the order of places, has settled."""
        moved = dataclasses.replace(self, mark=max(place, self.mark or place))
        # A pass with late objects pushes both kinds in one order.
        return replace_late(moved, place) if with_late else moved

    def late_pushed(self, until: int) -> Marks:
        """The marks after all late objects that were written at `until` or before have settled."""
        return replace_late(self, (until + 1, ""))


def replace_late(marks: Marks, place: Place) -> Marks:
    """The marks with `late` moved to this place, unless it is already past it."""
    return dataclasses.replace(marks, late=max(place, marks.late or place))


def beginning_at(since: int | None) -> Marks:
    """The marks of a first run, which starts at this time, or at the beginning of the bucket."""
    return Marks() if since is None else Marks((since, ""), (since, ""))
