"""What the map shows of an interface."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from bucket.listing import ObjectRef, Period
from desk.coverage import Columns, Coverage, Level, columns_of, place_of
from standins.flowlogs import flow_log_object

NOW = int(datetime(2026, 11, 26, 16, 30, tzinfo=UTC).timestamp())
HOUR, DAY = 3600, 86400


def written(minutes_ago: Iterable[int], interface: int = 0, size: int = 100) -> list[ObjectRef]:
    """Objects of an interface whose flows ended so many minutes ago."""
    refs = []
    for minutes in minutes_ago:
        end = datetime.fromtimestamp(NOW, UTC) - timedelta(minutes=minutes)
        key = flow_log_object(0, 0, end, interface).key
        refs.append(ObjectRef(int(end.timestamp()), key, size))
    return refs


def covered(refs: Iterable[ObjectRef], columns: Columns | None = None) -> Coverage:
    coverage = Coverage(columns or columns_of(Period(), NOW))
    for ref in refs:
        coverage.add(ref)
    return coverage


def levels(coverage: Coverage) -> list[Level]:
    (row,) = coverage.rows.values()
    return [cell.level for cell in row.cells()]


def test_a_key_names_its_interface_and_hour() -> None:
    (ref,) = written([45])
    place = place_of(ref.key)
    assert place and place.record_type == "ingress"
    assert place.hour == NOW - NOW % HOUR - HOUR
    assert place.interface.vpc.startswith("r006-")
    assert place.interface.subnet.startswith("0717-")
    assert place.interface.instance.startswith("0717_")
    assert place_of("ibm_vpc_flowlogs_v1/other") is None
    assert place_of(ref.key.replace("month=11", "month=13")) is None


def test_hours_for_a_week_and_days_for_more() -> None:
    hours = columns_of(Period(), NOW)
    assert hours.step == HOUR and hours.end == NOW and len(hours) == 7 * 24 + 1
    late = columns_of(Period(NOW - 7 * DAY - 20, None), NOW)
    assert late.step == HOUR, "a desk's clock is a little behind the store's"
    days = columns_of(Period(NOW - 30 * DAY, None), NOW)
    assert days.step == DAY and len(days) == 31
    longest = columns_of(Period(NOW - 400 * DAY, None), NOW)
    assert len(longest) == 91
    past = columns_of(Period(NOW - 3 * DAY, NOW - 2 * DAY), NOW)
    assert past.step == HOUR and past.end == NOW - 2 * DAY


def test_an_hour_is_complete_with_an_object_every_five_minutes() -> None:
    found = levels(covered(written(range(1, 60 * 200, 5))))
    assert set(found) == {Level.ALL}


def test_hours_without_objects_stand_out_and_those_with_few_too() -> None:
    begin, end = 30 + 5 * 60, 30 + 8 * 60
    minutes = [one for one in range(1, 60 * 200, 5) if not begin < one < end]
    minutes += [30 + 6 * 60 + 10]
    found = levels(covered(written(minutes)))
    assert found[-9:-6] == [Level.NONE, Level.FEW, Level.NONE]
    assert found.count(Level.FEW) == 1


def test_an_interface_that_has_just_begun_misses_nothing_before() -> None:
    coverage = covered(written(range(1, 60 * 3, 5)))
    found = levels(coverage)
    assert Level.NONE not in found
    assert found[:-4] == [Level.BEFORE] * (len(found) - 4)
    (row,) = coverage.rows.values()
    assert 36 <= row.due <= 42


def test_an_older_object_tells_that_the_interface_was_there() -> None:
    """The listing comes by the first keys of each interface, though it jumps to the newest ones."""
    found = levels(covered([*written([60 * 24 * 30]), *written(range(1, 60, 5))]))
    assert found[0] is Level.NONE and Level.BEFORE not in found


def test_each_record_type_has_twelve_due() -> None:
    one = written(range(1, 60 * 200, 5))
    other = [ObjectRef(r.last_modified, r.key.replace("=ingress", "=egress"), 1) for r in one[::2]]
    coverage = covered([*one, *other])
    (row,) = coverage.rows.values()
    cell = list(row.cells())[10]
    assert cell.due == 24 and cell.objects == 18
    assert cell.level is Level.MOST
    assert dict(cell.by_type) == {"ingress": 12, "egress": 6}
    assert cell.size == 12 * 100 + 6


def test_who_is_silent_longest_comes_first() -> None:
    coverage = covered(
        [
            *written(range(1, 600, 5), interface=0),
            *written(range(26 * 60, 50 * 60, 5), interface=1),
            *written([9 * 24 * 60], interface=2),
        ]
    )
    silent = coverage.silent()
    assert len(coverage.rows) == 3
    (over, long), (exact, day) = [(row.is_silent_throughout, row) for _, row in silent]
    assert over and long.silent_seconds() == 9 * DAY
    assert not exact and day.silent_seconds() == 26 * HOUR


def test_keys_of_another_form_are_counted_apart() -> None:
    coverage = covered([ObjectRef(NOW - 5, "ibm_vpc_flowlogs_v1/strange", 3)])
    assert coverage.others == 1 and coverage.rows == {}
