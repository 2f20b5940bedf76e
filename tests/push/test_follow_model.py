"""Follow mode in the model of everything that can happen around STATE.

Ticks overlap, die anywhere, wake up late and lose answers; objects appear late in the listing, are
written hours after their hour, and some can't be read for a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

import lib
from bucket import interfaces, state, state_follow
from bucket.flowkeys import is_late
from bucket.listing import ObjectRef, Page, PageRequest
from bucket.marks import Marks
from bucket.state import CLOCK_SKEW_SECONDS, LEASE_SECONDS, SETTLING_SECONDS, has_settled
from push import follow, survey
from push.ledger import Settled, Tally
from standins.keyspace import KeySpace, hour_of, in_order
from tests.lockstep import Run
from tests.push.test_protocol_model import (
    PROFILE,
    STATE,
    Bucket,
    JobRun,
    ModelJob,
    Protocol,
    Reader,
    World,
)

HOUR = 3600
NEW_YEAR = 1_798_761_600.0
"""2027-01-01T00:00:00Z"""

SCOPE = lib.Scope("", STATE, lib.Shard())


def key_of(number: int, written: float) -> str:
    """The key of an object that is written at this time; some of them are late, some foreign."""
    if number % 5 == 4:
        return f"{'ahz'[number % 3]}/notes{number:02}"
    late = (number % 40 + 3) * HOUR if number % 5 == 3 else number * 30
    hour = hour_of(int(written) - late)
    return f"b/vnic-id={number % 3}/record-type=all/{hour}/{number:02}.gz"


class FollowWorld(World):
    """A bucket of interfaces, and which of its objects can't be read now."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = NEW_YEAR
        self.unreadable: set[str] = set()

    def _check_progress(self, now: dict[str, Any]) -> None:
        """STATE never goes backwards."""
        if self.states:
            before = self.states[-1]
            assert now["sequence"] > before["sequence"]
            for mark in ("mark", "late_mark"):
                assert (now[mark] or [0, ""]) >= (before[mark] or [0, ""])
        self.states.append(now)

    def marks(self) -> Marks:
        """What STATE says."""
        last = self.states[-1] if self.states else {}
        mark, late = last.get("mark"), last.get("late_mark")
        return Marks(tuple(mark) if mark else None, tuple(late) if late else None)


class FollowBucket(Bucket):
    """The bucket, whose listing begins at the requested key."""

    concurrency = 2

    def page(self, request: PageRequest) -> Page:
        def listed() -> Page:
            refs = [ObjectRef(*upload.place) for upload in self._world.visible()]
            return KeySpace(in_order(refs)).page(request)

        return self._run.request(listed)


class FollowReader(Reader):
    """`push.reader.Reader` without threads: `begin` completes the call."""

    def __init__(self, world: World, run: Run) -> None:
        super().__init__(world, run)
        self.store = FollowBucket(world, run)

    def begin(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*arguments))
        return future

    def first(self, calls: Any) -> set[Future[Any]]:
        return {next(iter(calls))}


class FollowJob(ModelJob):
    """`lib.Job` some of whose objects can't be read."""

    def __init__(self, world: FollowWorld, run: Run, lag: int, name: str) -> None:
        super().__init__(world, run, lag, name)
        self.tally = Tally()
        self._reader: Any = FollowReader(world, run)
        self.state = state.StateObject(self._reader.store, STATE)
        # Parked and late objects are before the mark.
        self._floor = [0, ""]

    def _deliver(self, ref: ObjectRef, by_worker: bool) -> Settled:
        if ref.key in self._world.unreadable:
            return Settled(ref, 0, "403", permanent=False, unread=True)
        return super()._deliver(ref, by_worker)

    @property
    def pushed(self) -> Iterator[ObjectRef]:
        """What this run has pushed."""
        return (ObjectRef(*place) for place in self._own_pushes)


class FollowProtocol(Protocol):
    """Follow: runs of a timer, and objects of every kind."""

    mode = "follow"
    job = FollowJob

    def __init__(self) -> None:
        super().__init__()
        self.world: FollowWorld = FollowWorld()
        self.owed: dict[str, set[str]] = {}

    @rule(number=st.integers(0, 99), delay=st.sampled_from([0.0, 0.4, 3.0, SETTLING_SECONDS - 0.1]))
    def upload(self, number: int, delay: float) -> None:
        """An object is written; its event, if there is one, does not matter."""
        key = key_of(number, self.world.shown)
        if key not in self.world.uploads:
            self.world.upload(key, delay)

    @precondition(lambda self: len(self.runs) < 4)
    @rule(lag=st.integers(0, 2))
    def tick(self, lag: int) -> None:
        self.start(None, lag)

    @precondition(lambda self: self.world.uploads)
    @rule(which=st.integers(0, 99))
    def an_object_can_not_be_read(self, which: int) -> None:
        keys = sorted(self.world.uploads.keys() - self.world.pushes.keys())
        if keys:
            self.world.unreadable.add(keys[which % len(keys)])

    @precondition(lambda self: self.world.unreadable)
    @rule(which=st.integers(0, 9))
    def an_object_can_be_read_again(self, which: int) -> None:
        keys = sorted(self.world.unreadable)
        self.world.unreadable.remove(keys[which % len(keys)])

    @rule(seconds=st.sampled_from([300, LEASE_SECONDS + 1, HOUR, 30 * HOUR]))
    def a_longer_time_passes(self, seconds: int) -> None:
        """A worker that does nothing in this time is replaced before it continues."""
        self.disturbed = self.disturbed or bool(self.runs and seconds > LEASE_SECONDS - 60)
        self.world.clock += seconds

    # --- what holds ------------------------------------------------------------------------------

    def start(
        self, key: str | None, lag: int, name: str | None = None, *, by_hand: bool = False
    ) -> None:
        super().start(key, lag, name, by_hand=by_hand)
        date = int(self.world.clock) - CLOCK_SKEW_SECONDS
        self.owed[self.runs[-1].name] = {
            upload.key
            for upload in self.world.uploads.values()
            if has_settled(upload.place[0], date) and not is_late(upload.key, upload.place[0])
        }

    def clear_away(self) -> None:
        for ended in [entry for entry in self.runs if not entry.run.alive]:
            job = ended.job
            well = not ended.run.error and not ended.run.crashed
            if well and job and job.tally.lag_seconds is not None:
                self.check_what_was_owed(ended)
        super().clear_away()

    def check_what_was_owed(self, ended: JobRun) -> None:
        """A run that ends well has delivered all that had settled when it began."""
        for key in self.owed[ended.name]:
            assert self.world.pushes[key], f"{ended.name} ended well without {key}"

    def note_what_is_repeated(self, job: Any) -> None:
        """A run ended in order, but its mark does not cover all that it has pushed."""
        marks = self.world.marks()
        parked = (
            {one["key"] for one in self.world.states[-1]["parked"]} if self.world.states else {}
        )
        for ref in job.pushed:
            if marks.wants(ref, with_late=True) or ref.key in parked:
                self.disturbed = True

    def settle(self) -> None:
        self.world.unreadable = set()
        for _ in range(4):
            self.deliver_all()
            self.world.clock += max(HOUR, LEASE_SECONDS) + 60
            self.start(None, 0)
            self.finish_runs()

    def check(self) -> None:
        last = self.world.states[-1]
        assert (last["worker"], last["parked"]) == (None, [])
        for key in self.world.uploads:
            assert self.world.pushes[key] >= 1, f"{key} is lost"
            if not self.disturbed:
                assert self.world.pushes[key] == 1, f"{key} was sent twice"


def test_any_interleaving_of_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    # As small as possible, so that few objects need many pages and passes, and are parked.
    monkeypatch.setattr(interfaces, "KEYS_AN_HOUR", 1)
    monkeypatch.setattr(interfaces, "MAX_KEYS", 4)
    monkeypatch.setattr(survey, "LONG_WALK_PAGES", 3)
    monkeypatch.setattr(follow, "LAST_PASS_OBJECTS", 1)
    for module in (follow, state_follow):
        monkeypatch.setattr(module, "MAX_PARKED", 2)
    run_state_machine_as_test(FollowProtocol, settings=PROFILE)
