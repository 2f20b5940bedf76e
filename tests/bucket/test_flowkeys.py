"""Parsing the keys of flow logs."""

from __future__ import annotations

from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given

from bucket.flowkeys import hour_key, interface_of, is_in_hour, is_late
from standins.flowlogs import flow_log_objects

VNIC = "ibm_vpc_flowlogs_v1/account=a/vpc-id=crn%3Av1/vnic-id=1/record-type=all"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def test_keys_as_collectors_write_them() -> None:
    for item in flow_log_objects(40, 1, newest=datetime(2026, 1, 1, 0, 2, tzinfo=UTC)):
        interface = interface_of(item.key)
        assert interface and interface.split("/")[-1].startswith("record-type=")
        assert is_in_hour(item.key, interface)
        assert not is_late(item.key, at("2026-01-01T00:07"))


@pytest.mark.parametrize(
    "key",
    [
        "ibm_vpc_flowlogs_v1/real.gz",
        "ibm_vpc_flowlogs_v1/year=2026/month=11/day=24/hour=10/a.gz",
        "ibm_vpc_flowlogs_v1/record-type=all",
        "ibm_vpc_flowlogs_v1/record-type=all/index.gz",
        "record-type=all/year=2026/month=11/day=24/hour=10/a.gz",
        "",
    ],
)
def test_keys_of_another_form_are_never_late(key: str) -> None:
    assert interface_of(key) is None
    assert not is_late(key, 2_000_000_000)


@pytest.mark.parametrize(
    ("hour", "written", "late"),
    [
        ("2026-11-24T10", "2026-11-24T10:05", False),
        ("2026-11-24T10", "2026-11-24T12:59:59", False),
        ("2026-11-24T10", "2026-11-24T13:00", True),
        ("2026-11-24T10", "2026-11-25T09:00", True),
        ("2026-11-24T10", "2026-11-24T08:00", False),  # the clocks need not agree
        ("2026-11-30T23", "2026-12-01T01:59", False),
        ("2026-11-30T23", "2026-12-01T02:00", True),
        ("2025-12-31T22", "2026-01-01T00:30", False),
        ("2025-12-31T22", "2026-01-01T01:00", True),
    ],
)
def test_late_is_more_than_two_hours_after_the_hour(hour: str, written: str, late: bool) -> None:
    moment = datetime.fromisoformat(hour)
    key = f"{VNIC}/{moment:year=%Y/month=%m/day=%d/hour=%H}/stream-id=s/00000001.gz"
    assert is_late(key, at(written)) is late


@given(st.integers(0, 4_000_000_000), st.integers(0, 4_000_000_000))
def test_hours_sort_as_times_do(one: int, other: int) -> None:
    assert (hour_key(VNIC, one) < hour_key(VNIC, other)) is (one // 3600 < other // 3600)


@given(st.text(max_size=60), st.integers(0, 4_000_000_000), st.integers(0, 400_000))
def test_a_late_object_stays_late(rest: str, written: int, later: int) -> None:
    """For any end of the key: a walk never has to go back to an earlier hour."""
    key = f"{VNIC}/year={rest}"
    assert is_late(key, written + later) or not is_late(key, written)
