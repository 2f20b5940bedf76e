"""The marks of follow mode."""

from __future__ import annotations

from bucket.flowkeys import hour_key
from bucket.interfaces import Hours
from bucket.listing import ObjectRef
from bucket.marks import Marks, beginning_at

HOUR = 3600
NOW = 1_798_761_600
INTERFACE = "vnic-id=1/record-type=all"


def ref(written: int, hours_late: int = 0) -> ObjectRef:
    return ObjectRef(written, f"{hour_key(INTERFACE, written - hours_late * HOUR)}/x.gz")


def test_a_usual_object_moves_the_mark_alone() -> None:
    marks = Marks((NOW, "a"), (NOW - 60, "b"))
    assert marks.moved((NOW + 1, "c"), with_late=False) == Marks((NOW + 1, "c"), marks.late)


def test_a_pass_with_late_objects_moves_both_marks_only_forward() -> None:
    marks = Marks((NOW, "a"), (NOW - 60, "b"))
    once = marks.moved((NOW - 30, "c"), with_late=True)
    assert once == Marks((NOW, "a"), (NOW - 30, "c"))
    assert once.moved((NOW + 1, "d"), with_late=True) == Marks((NOW + 1, "d"), (NOW + 1, "d"))


def test_late_objects_are_due_once_an_hour() -> None:
    marks = Marks((NOW, "a")).late_pushed(NOW)
    assert not marks.wants(ref(NOW, 20), with_late=True)
    assert marks.wants(ref(NOW + 1, 20), with_late=True)
    assert not marks.wants(ref(NOW + 1, 20), with_late=False)
    assert not marks.is_late_due(NOW + HOUR)
    assert marks.is_late_due(NOW + HOUR + 1)


def test_reading_begins_two_hours_before_the_mark_or_two_days_before_the_late_one() -> None:
    marks = Marks((NOW, "a"), (NOW - HOUR, ""))
    assert marks.hours(with_late=False) == Hours(NOW - 2 * HOUR, NOW)
    assert marks.hours(with_late=True) == Hours(NOW - 49 * HOUR, NOW)
    assert Marks().hours(with_late=False) is None


def test_a_beginning_is_the_same_for_both_kinds() -> None:
    marks = beginning_at(NOW)
    for hours in (0, 20):
        assert not marks.wants(ref(NOW - 1, hours), with_late=True)
        assert marks.wants(ref(NOW, hours), with_late=True)
