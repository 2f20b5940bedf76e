"""A model of everything that can happen around STATE, played against the production code.

The functions under test are `lib.catch_up`, `lib.remember` and all they call; only the bucket, its
clock and the log service are made up. The bucket shows times in whole seconds, and an upload
becomes visible up to the settling time after the time it bears.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import lib
from bucket import state
from bucket.errors import StoreError
from bucket.listing import ObjectRef
from bucket.state import LEASE_SECONDS, SETTLING_SECONDS, PreconditionFailed, Snapshot
from push import worker
from push.ledger import Settled, Tally
from push.loop import PushEnded
from tests.lockstep import Run

STATE = "STATE"
SCOPE = lib.Scope("", STATE, lib.Shard())
STATUSES = ["working", "closing", "finished"]
NIGHTLY = bool(os.environ.get("FLOWLOG_NIGHTLY"))


@dataclass
class Upload:
    """An object: when it was written, and from when on it can be seen."""

    key: str
    written: float
    visible: float

    @property
    def place(self) -> tuple[int, str]:
        """Its place in the order of pushing."""
        return math.floor(self.written), self.key


class World:
    """The bucket, its clock, and the log service."""

    def __init__(self) -> None:
        self.clock = 1_000.0
        self.uploads: dict[str, Upload] = {}
        self.state: Snapshot | None = None
        self.states: list[dict[str, Any]] = []
        self.pushes: Counter[str] = Counter()
        self.event_pushes: set[str] = set()
        self.refuse_next_push = False
        self.lose_next_answer = False

    def upload(self, key: str, delay: float) -> Upload:
        self.uploads[key] = Upload(key, self.clock, self.clock + delay)
        return self.uploads[key]

    def visible(self) -> list[Upload]:
        """In the order of the keys, as S3 lists."""
        seen = (upload for upload in self.uploads.values() if upload.visible <= self.clock)
        return sorted(seen, key=lambda upload: upload.key)

    def write_state(self, content: bytes, condition: str | None) -> str:
        there = self.state.etag if self.state else None
        if condition != there:
            raise PreconditionFailed
        etag = hashlib.md5(content).hexdigest()
        self.state = Snapshot(content, etag, math.floor(self.clock), 0)
        if content != b"probe":
            self._check_progress(json.loads(content))
        return etag

    def _check_progress(self, now: dict[str, Any]) -> None:
        """STATE never goes backwards."""
        before = self.states[-1] if self.states else None
        self.states.append(now)
        if now["mode"] == "remember":
            assert now["key"] in self.event_pushes, "remembered before it was delivered"
        if before is None:
            return
        if now["mode"] == "remember":
            assert (now["last_modified"], now["key"]) < (before["last_modified"], before["key"])
            return
        assert now["sequence"] > before["sequence"]
        assert STATUSES.index(now["status"]) >= STATUSES.index(before["status"])
        assert (now["mark"] or [0, ""]) >= (before["mark"] or [0, ""])
        assert before["cutoff"] in (None, now["cutoff"])


class Bucket:
    """The bucket as one run sees it, request by request: `Store` and `StateStore`."""

    bucket = "model"

    def __init__(self, world: World, run: Run) -> None:
        self._world = world
        self._run = run

    def pages(self, prefix: str) -> Iterator[list[ObjectRef]]:
        after = ""
        while True:
            page = self._run.request(lambda after=after: self._page(after))
            yield [ObjectRef(*upload.place) for upload in page]
            if len(page) < 2:
                return
            after = page[-1].key

    def _page(self, after: str) -> list[Upload]:
        return [upload for upload in self._world.visible() if upload.key > after][:2]

    def stat(self, key: str) -> ObjectRef:
        return self._run.request(lambda: ObjectRef(*self._world.uploads[key].place))

    def get_state(self, key: str) -> Snapshot | None:
        def read() -> Snapshot | None:
            now = self._world.state
            date = math.floor(self._world.clock)
            return Snapshot(now.content, now.etag, now.last_modified, date) if now else None

        return self._run.request(read)

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        def write() -> str:
            new = self._world.write_state(content, etag)
            if self._world.lose_next_answer and content != b"probe":
                # The SDK sends the request again, and that one is refused.
                self._world.lose_next_answer = False
                raise PreconditionFailed
            return new

        return self._run.request(write)

    def delete_state(self, key: str) -> None:
        self._run.request(lambda: setattr(self._world, "state", None))


class Reader:
    """`push.reader.Reader` without threads."""

    def __init__(self, world: World, run: Run) -> None:
        self.store = Bucket(world, run)
        self.pages = self.store.pages
        self._world = world
        self._run = run

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        return function(*arguments)

    def pause(self, seconds: float) -> None:
        self._run.pause(self._world.clock + seconds)


class ModelJob(lib.Job):
    """`lib.Job` whose pushes are recorded; acknowledgements lag behind by `lag` objects."""

    def __init__(self, world: World, run: Run, lag: int) -> None:
        self.tally = Tally()
        self.scope = SCOPE
        self._reader: Any = Reader(world, run)
        self.state = state.StateObject(self._reader.store, STATE)
        self._world = world
        self._run = run
        self._lag = lag
        self._own_pushes: set[str] = set()
        self._floor: list[Any] | None = None

    def push(self, refs: Sequence[ObjectRef], on_settled: Any = None) -> None:
        waiting: list[Settled] = []
        if on_settled:
            # A worker never pushes what lies behind the mark that it started from.
            self._floor = self._floor or self._world.states[-1]["mark"] or [0, ""]
            assert all([ref.last_modified, ref.key] > self._floor for ref in refs)
        try:
            for ref in refs:
                waiting.append(self._run.request(lambda r=ref: self._deliver(r, not on_settled)))
                ready = waiting[: len(waiting) - self._lag]
                del waiting[: len(ready)]
                self._settle_all(ready, on_settled)
        except PushEnded:
            self._settle_all(waiting, None)
            raise
        self._settle_all(waiting, on_settled)

    def _deliver(self, ref: ObjectRef, by_event: bool) -> Settled:
        if self._world.refuse_next_push:
            self._world.refuse_next_push = False
            return Settled(ref, 1, "no answer", permanent=False)
        assert ref.key not in self._own_pushes, "one run never sends an object twice"
        self._own_pushes.add(ref.key)
        self._world.pushes[ref.key] += 1
        if by_event:
            self._world.event_pushes.add(ref.key)
        return Settled(ref, 1)

    def _settle_all(self, settled: list[Settled], on_settled: Any) -> None:
        for entry in settled:
            self.tally.record(entry)
        if on_settled:
            on_settled(list(settled))
        if any(entry.error for entry in settled):
            raise PushEnded("failed")

    def send_pending(self) -> None:
        self._lag = 0


class Protocol(RuleBasedStateMachine):
    """Rules and bookkeeping that both modes share."""

    mode: Callable[[lib.Job, lib.Event | None], None]

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.runs: list[tuple[Run, str | None]] = []
        self.pending: list[Upload] = []
        self.delivered: list[Upload] = []
        self.again: Counter[str] = Counter()
        self.disturbed = False
        self.real_time, worker.time = (
            worker.time,
            SimpleNamespace(monotonic=lambda: self.world.clock),
        )  # type: ignore[assignment]

    # --- what happens ----------------------------------------------------------------------------

    @rule(key=st.integers(0, 99), delay=st.sampled_from([0.0, 0.4, 3.0, SETTLING_SECONDS - 0.1]))
    def upload(self, key: int, delay: float) -> None:
        """An object is written, and its event raised."""
        name = f"{key:02}"
        if name not in self.world.uploads:
            self.pending.append(self.world.upload(name, delay))

    @rule(keys=st.lists(st.integers(0, 99), min_size=2, max_size=4, unique=True))
    def upload_several(self, keys: list[int]) -> None:
        """All at the same moment: of one second, the key alone says which comes first."""
        for key in keys:
            self.upload(key, 0.0)

    @rule(seconds=st.sampled_from([0.1, 0.5, 0.9, 1.0, 2.5, 11.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock += seconds

    @precondition(lambda self: len(self.runs) < 4)
    @rule(which=st.integers(0, 9), lag=st.integers(0, 2))
    def event_arrives(self, which: int, lag: int) -> None:
        """In any order, and however late."""
        ready = [upload for upload in self.pending if upload.visible <= self.world.clock]
        if ready:
            upload = ready[which % len(ready)]
            self.pending.remove(upload)
            self.delivered.append(upload)
            self.start(upload.key, lag)

    @precondition(lambda self: self.delivered and len(self.runs) < 4)
    @rule(which=st.integers(0, 9))
    def event_arrives_again(self, which: int) -> None:
        upload = self.delivered[which % len(self.delivered)]
        self.again[upload.key] += 1
        self.start(upload.key, 0)

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 3), steps=st.integers(1, 8))
    def step(self, which: int, steps: int) -> None:
        """One run goes on while the others stand still."""
        run, _ = self.runs[which % len(self.runs)]
        for _ in range(steps):
            if not run.alive or self.world.clock < run.wake_at:
                break
            run.step()
        self.clear_away()

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 3), after=st.booleans())
    def crash(self, which: int, after: bool) -> None:
        """A run dies in front of its next request, or when that is done but not yet answered."""
        run, _ = self.runs[which % len(self.runs)]
        self.disturbed = True
        run.step(crash_before=not after, crash_after=after)
        self.clear_away()

    @precondition(lambda self: self.runs)
    @rule()
    def a_push_gets_no_answer(self) -> None:
        self.disturbed = True
        self.world.refuse_next_push = True

    @precondition(lambda self: self.runs)
    @rule()
    def an_answer_about_state_gets_lost(self) -> None:
        """It changes nothing: the write was carried out, and that is found out."""
        self.world.lose_next_answer = True

    # --- how it is done --------------------------------------------------------------------------

    def start(self, key: str | None, lag: int) -> None:
        event = lib.Event(key) if key is not None else None

        def body(run: Run) -> None:
            job = ModelJob(self.world, run, lag)
            type(self).mode(job, event)
            if job.tally.failed_total:
                raise StoreError("exit 1")

        self.runs.append((Run(f"run for {key}", body), key))

    def clear_away(self) -> None:
        """Runs that ended badly are started again by Code Engine."""
        for run, key in [entry for entry in self.runs if not entry[0].alive]:
            self.runs.remove((run, key))
            if run.error and not isinstance(run.error, StoreError | state.StateError):
                raise run.error
            if (run.crashed or run.error) and key is not None:
                self.pending.append(self.world.uploads[key])

    def finish_runs(self) -> None:
        while self.runs:
            for run, _ in list(self.runs):
                self.world.clock = max(self.world.clock, run.wake_at)
                if run.alive:
                    run.step()
            self.clear_away()

    def deliver_all(self) -> None:
        self.finish_runs()
        while self.pending:
            upload = self.pending.pop()
            self.world.clock = max(self.world.clock, upload.visible)
            self.start(upload.key, 0)
            self.finish_runs()

    def teardown(self) -> None:
        self.world.refuse_next_push = self.world.lose_next_answer = False
        try:
            self.settle()
            self.check()
        finally:
            for run, _ in self.runs:
                if run.alive:
                    run.step(crash_before=True)
            worker.time = self.real_time

    def settle(self) -> None:
        """Let everything that is still to come have come."""
        raise NotImplementedError

    def check(self) -> None:
        """What holds in the end."""
        raise NotImplementedError


class CatchUpProtocol(Protocol):
    """Catch-up: worker, events, take-overs."""

    mode = staticmethod(lib.catch_up)  # type: ignore[assignment]

    @precondition(lambda self: self.world.state is None and not self.runs)
    @rule(key=st.integers(100, 120))
    def upload_without_event(self, key: int) -> None:
        """Older than the subscription."""
        if f"{key}" not in self.world.uploads:
            self.world.upload(f"{key}", 0)

    @precondition(lambda self: len(self.runs) < 4)
    @rule(lag=st.integers(0, 2))
    def manual_run(self, lag: int) -> None:
        self.start(None, lag)

    @rule()
    def a_quarter_of_an_hour_passes(self) -> None:
        """A worker that stands still through it has been replaced when it moves again."""
        self.disturbed = self.disturbed or bool(self.runs)
        self.world.clock += LEASE_SECONDS + 1

    def settle(self) -> None:
        for _ in range(20):
            self.deliver_all()
            if self.world.states and self.world.states[-1]["status"] == "finished":
                break
            self.world.clock += LEASE_SECONDS + 1
            self.start(None, 0)
            self.finish_runs()
        self.deliver_all()

    def check(self) -> None:
        assert self.world.states[-1]["status"] == "finished"
        for key in self.world.uploads:
            assert self.world.pushes[key] >= 1, f"{key} is lost"
            if not self.disturbed:
                assert self.world.pushes[key] <= 1 + self.again[key], f"{key} was sent twice"


class RememberProtocol(Protocol):
    """Remember: events side by side, then the run without one."""

    mode = staticmethod(lib.remember)  # type: ignore[assignment]

    @precondition(lambda self: not self.pending and not self.delivered)
    @rule(key=st.integers(100, 120))
    def upload_without_event(self, key: int) -> None:
        """Older than the subscription."""
        if f"{key}" not in self.world.uploads:
            self.world.upload(f"{key}", 0)
            self.world.clock += 1

    def settle(self) -> None:
        self.deliver_all()

    def check(self) -> None:
        by_events = [self.world.uploads[key].place for key in self.world.event_pushes]
        if not self.disturbed:
            assert all(self.world.pushes[key] == 1 + self.again[key] for _, key in by_events)
        if by_events:
            last = self.world.states[-1]
            assert (last["last_modified"], last["key"]) == min(by_events)
        before = Counter(self.world.pushes)
        self.world.clock += 2 * SETTLING_SECONDS
        # Events have pushed these; a run without an event must not count as one.
        self.world.event_pushes = set()
        self.start(None, 0)
        self.finish_runs()
        pushed = self.world.pushes - before
        wanted = {
            upload.key
            for upload in self.world.uploads.values()
            if not by_events
            or (upload.place[0] <= min(by_events)[0] and upload.key != min(by_events)[1])
        }
        assert pushed == Counter(wanted)
        assert self.world.pushes.keys() == self.world.uploads.keys(), "nothing is lost"


PROFILE = settings(
    max_examples=6000 if NIGHTLY else 600,
    stateful_step_count=60 if NIGHTLY else 40,
    deadline=None,
    derandomize=not NIGHTLY,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [CatchUpProtocol, RememberProtocol])
def test_any_interleaving(machine: type[Protocol]) -> None:
    run_state_machine_as_test(machine, settings=PROFILE)
