"""The walk from interface to interface finds what a full listing finds, in few requests."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from bucket import interfaces
from bucket.errors import StoreError
from bucket.flowkeys import hour_key
from bucket.interfaces import Hours, Walk, folders_ahead
from bucket.listing import ObjectRef, Page, PageRequest
from bucket.marks import Marks, beginning_at
from bucket.state import SETTLING_SECONDS, has_settled
from push.survey import Survey
from standins.keyspace import Fleet, KeySpace, hour_of, in_order
from tests.harness import NIGHTLY

PREFIX = "ibm_vpc_flowlogs_"
HOUR, DAY = 3600, 86_400
NEW_YEAR = 1_798_761_600
"""2027-01-01T00:00:00Z: a new day, month and year at the same time."""

HOURS = Hours(NEW_YEAR, NEW_YEAR)

INTERFACES = [
    f"{PREFIX}v1/account={account}/region={region}/vpc-id=crn%3Av1%3A{vpc}/subnet-id=s{vpc % 2}"
    f"/endpoint-type=vnics/instance-id=i{vnic // 2}/vnic-id=v{vnic}/record-type={kind}"
    for account in "ab"
    for region in ("eu-de", "us-south")
    for vpc in range(2)
    for vnic in range(3)
    for kind in ("egress", "ingress")
]
FOREIGN = [
    f"{PREFIX}v0/old.gz",
    f"{PREFIX}v1/account=a/notes.gz",
    f"{PREFIX}v1/account=b",
    f"{PREFIX}v1/account=b/region=eu-de/é\U0001f600+ %41.gz",
    f"{PREFIX}v1/year=2026/month=1/unlike.gz",
    f"{PREFIX}v2/",
    f"{PREFIX}v2/z.gz",
]


class Reader:
    """`push.reader.Reader` without threads; calls end in random order."""

    def __init__(self, store: Any, concurrency: int, order: random.Random) -> None:
        self.store = SimpleNamespace(page=store.page, concurrency=concurrency)
        self._order = order

    def call(self, function: Any, *arguments: object) -> Any:
        return function(*arguments)

    def begin(self, function: Any, *arguments: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def first(self, calls: Any) -> set[Future[Any]]:
        return {self._order.choice(list(calls))}


@dataclass(frozen=True)
class Upload:
    """An object, and the time from which it is visible."""

    ref: ObjectRef
    visible: float


def survey(space: KeySpace, marks: Marks, date: int, reader: Any) -> tuple[Any, bool]:
    with_late = marks.is_late_due(date)

    def wanted(ref: ObjectRef) -> bool:
        return has_settled(ref.last_modified, date) and marks.wants(ref, with_late=with_late)

    walk = Walk(PREFIX, marks.hours(with_late=with_late))
    return Survey(reader, wanted).listed(walk, lambda: None), with_late


# --- the ticks together find everything, once ----------------------------------------------------

moments = st.integers(-3 * HOUR, 3 * HOUR) | st.integers(-60 * HOUR, 60 * HOUR)
lateness = st.one_of(
    st.integers(0, 70 * 60),
    st.integers(2 * HOUR - 2, 3 * HOUR + 2),
    st.integers(0, 47 * HOUR),
)


@st.composite
def uploads(draw: st.DrawFn) -> list[Upload]:
    found: dict[str, Upload] = {}
    for number in range(draw(st.integers(1, 40))):
        written = NEW_YEAR + draw(moments)
        if draw(st.integers(0, 5)):
            hour = hour_of(written - draw(lateness))
            stream, name = draw(st.sampled_from(["s1", "s2"])), f"{number:08}.gz"
            key = f"{draw(st.sampled_from(INTERFACES))}/{hour}/stream-id={stream}/{name}"
        else:
            key = draw(st.sampled_from(FOREIGN))
        delay = draw(st.sampled_from([0.0, 0.4, 3.0, SETTLING_SECONDS]))
        found[key] = Upload(ObjectRef(written, key, 1), written + delay)
    return list(found.values())


@settings(max_examples=4000 if NIGHTLY else 150, deadline=None, derandomize=not NIGHTLY)
@given(
    uploads(),
    st.integers(-70 * HOUR, 10 * HOUR),
    st.lists(st.sampled_from([60, 300, 3000, 3599, 3601, 20 * HOUR, 50 * HOUR]), max_size=40),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 4),
    st.none() | moments,
    st.randoms(use_true_random=False),
)
def test_all_runs_together_find_what_the_full_listing_finds(
    objects: list[Upload],
    start: int,
    ticks: list[int],
    first_keys: int,
    long_walk: int,
    concurrency: int,
    since: int | None,
    order: random.Random,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # As small as possible, so that few keys need many pages, and walks are divided.
        patch.setattr(interfaces, "KEYS_AN_HOUR", first_keys)
        patch.setattr(interfaces, "MAX_KEYS", 4)
        patch.setattr("push.survey.LONG_WALK_PAGES", long_walk)
        marks = beginning_at(None if since is None else NEW_YEAR + since)
        pushed: Counter[str] = Counter()
        date, end = NEW_YEAR + start, NEW_YEAR + 70 * HOUR
        for pause in [*ticks, 0, end - date, HOUR]:
            date = max(date + pause, date)
            space = KeySpace(in_order(one.ref for one in objects if one.visible <= date))
            listing, with_late = survey(space, marks, date, Reader(space, concurrency, order))
            assert list(listing) == sorted(listing)
            for ref in listing:
                pushed[ref.key] += 1
                marks = marks.moved((ref.last_modified, ref.key), with_late=with_late)
            if with_late:
                marks = marks.late_pushed(date - SETTLING_SECONDS - 10)
    wanted = [
        one.ref for one in objects if since is None or one.ref.last_modified >= NEW_YEAR + since
    ]
    assert pushed == Counter(ref.key for ref in wanted)


# --- what it costs -------------------------------------------------------------------------------


def filled(interfaces: int, days: int, now: int) -> KeySpace:
    """Interfaces with an object every five minutes."""
    return KeySpace(Fleet(interfaces, days, now))


@pytest.mark.parametrize("minute", [0, 59])
@pytest.mark.parametrize(("interfaces", "days"), [(1, 90), (3, 10), (70, 90)])
def test_a_tick_with_nothing_new_reads_little(interfaces: int, days: int, minute: int) -> None:
    now = NEW_YEAR + minute * 60
    space = filled(interfaces, days, now)
    newest = (space.refs[-1].last_modified, space.refs[-1].key)
    marks = Marks(newest, (now - 60, ""))
    listing, _ = survey(space, marks, now + 60, Reader(space, 32, random.Random(0)))
    assert list(listing) == []
    assert space.requests <= 2 * interfaces
    assert space.told <= 150 * interfaces


def test_it_costs_the_same_however_long_objects_are_kept() -> None:
    costs = set()
    for days in (5, 90):
        space = filled(4, days, NEW_YEAR)
        newest = (space.refs[-1].last_modified, space.refs[-1].key)
        survey(space, Marks(newest, (NEW_YEAR, "")), NEW_YEAR, Reader(space, 32, random.Random(0)))
        costs.add((space.requests, space.told))
    assert len(costs) == 1


def test_looking_for_late_objects_reads_two_days() -> None:
    space = filled(2, 20, NEW_YEAR)
    newest = (space.refs[-1].last_modified, space.refs[-1].key)
    marks = Marks(newest, (NEW_YEAR - HOUR, ""))
    listing, with_late = survey(space, marks, NEW_YEAR, Reader(space, 32, random.Random(0)))
    assert with_late and list(listing) == []
    assert 2 * 49 * 12 <= space.told <= 3 * 650
    assert space.requests <= 3


def test_a_long_walk_is_divided() -> None:
    """So that one slow page does not delay all others."""
    space = filled(150, 90, NEW_YEAR)
    walk = Walk(PREFIX, Hours(NEW_YEAR - 2 * HOUR, NEW_YEAR))
    asked: list[int] = []

    class Counting(Reader):
        def first(self, calls: Any) -> set[Future[Any]]:
            asked.append(len(calls))
            return super().first(calls)

    reader: Any = Counting(space, 8, random.Random(1))
    listing = Survey(reader, lambda _: True).listed(walk, lambda: None)
    assert sum(count > 4 for count in asked) > 100
    assert len({ref.key.split("/year=")[0] for ref in listing}) == 150


def test_folders_that_go_round_end() -> None:
    """Dividing a walk is optional."""
    walk = Walk(PREFIX, HOURS, f"{INTERFACES[0]}/year=2026")
    search = folders_ahead(walk)
    requests = next(search)
    assert len({request.prefix for request in requests}) > 4
    ahead = Page([], "more", [f"{INTERFACES[3]}/", f"{INTERFACES[5]}/"])
    requests = search.send([ahead] * len(requests))
    with pytest.raises(StopIteration) as found:
        search.send([ahead] * len(requests))
    assert found.value.value == ahead.folders


def test_a_store_that_ignores_start_after_is_found_out() -> None:
    """Otherwise the walk would never end, or miss keys."""
    space = filled(2, 1, NEW_YEAR)
    reader: Any = Reader(
        SimpleNamespace(page=lambda request: space.page(PageRequest(request.prefix, keys=10))),
        4,
        random.Random(0),
    )
    with pytest.raises(StoreError, match="start-after"):
        Survey(reader, lambda _: True).listed(Walk(PREFIX, HOURS), lambda: None)


def test_a_walk_ends_at_its_end() -> None:
    walk = Walk("p", HOURS, "p/a", "p/c")
    page = Page([ObjectRef(1, "p/b"), ObjectRef(1, "p/c"), ObjectRef(1, "p/d")], "more")
    assert [ref.key for ref in walk.take(page)] == ["p/b", "p/c"]
    assert walk.over


def test_a_jump_passes_over_the_hours_before() -> None:
    walk = Walk(PREFIX, HOURS)
    walk.take(Page([ObjectRef(1, f"{INTERFACES[0]}/{hour_of(0)}/x.gz")], "more"))
    assert walk.request.after == hour_key(INTERFACES[0], NEW_YEAR)
