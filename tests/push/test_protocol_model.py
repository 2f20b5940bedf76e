"""A model of everything that can happen to STATE, run against the production code.

The functions under test are `lib.catch_up`, `lib.remember` and all they call; only the bucket, its
clocks and the log service are made up. The bucket shows times in whole seconds, the clocks of its
machines differ, and an upload becomes visible up to the settling time after the time it bears. Of
the writes of STATE some get no answer: those are carried out, or not, or later.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
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
from bucket.errors import StoreError, Unanswered
from bucket.listing import ObjectRef
from bucket.state import (
    CLOCK_SKEW_SECONDS,
    LEASE_SECONDS,
    SETTLING_SECONDS,
    PreconditionFailed,
    Snapshot,
    StateUnavailable,
)
from push import worker
from push.ledger import Settled, Tally
from push.loop import PushEnded
from tests.harness import NIGHTLY
from tests.lockstep import Run

STATE = "STATE"
SCOPE = lib.Scope("", STATE, lib.Shard())
STATUSES = ["working", "closing", "finished"]
FAST, SLOW = CLOCK_SKEW_SECONDS / 2, -CLOCK_SKEW_SECONDS / 2
STATE_TRIES = 4
"""How often a request about STATE is tried before a run gives up."""


@dataclass
class Upload:
    """An object: when it was written, and from when it is visible."""

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
        self.damaged: set[str] = set()
        self.refuse_next_push = False
        self.stall_next_push = False
        self.machine = 0.0
        self.faults: list[str] = []
        self.faults_after_closing: list[str] = []
        self.late_writes: list[tuple[bytes, str | None]] = []
        self._cutoff: int | None = None

    @property
    def shown(self) -> float:
        """The clock of the machine that answers this request."""
        return self.clock + self.machine

    def upload(self, key: str, delay: float) -> Upload:
        self.uploads[key] = Upload(key, self.shown, self.clock + delay)
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
        self.state = Snapshot(content, etag, math.floor(self.shown), 0)
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
        if now["status"] == "working":
            return
        if self._cutoff is None:
            assert self.state is not None
            self.faults += self.faults_after_closing
            self._cutoff = self.state.last_modified + CLOCK_SKEW_SECONDS
            assert now["cutoff"] in (None, self._cutoff)
        else:
            assert now["cutoff"] == self._cutoff, "the first write of closing has fixed it"


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
            if self._world.faults:
                self._world.faults.pop(0)
                raise Unanswered("no answer")
            now = self._world.state
            date = math.floor(self._world.shown)
            return Snapshot(now.content, now.etag, now.last_modified, date) if now else None

        return self._run.request(read)

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        def write() -> str:
            match self._world.faults.pop(0) if self._world.faults else None:
                case "lost":
                    with contextlib.suppress(PreconditionFailed):
                        self._world.write_state(content, etag)
                    raise Unanswered("the answer got lost")
                case "late":
                    self._world.late_writes.append((content, etag))
                    raise Unanswered("no answer yet")
                case "conflict":
                    raise Unanswered("409")
            return self._world.write_state(content, etag)

        return self._run.request(write)

    def delete_state(self, key: str) -> None:
        self._run.request(lambda: setattr(self._world, "state", None))

    def patience(self) -> Patience:
        return Patience(self._world, self._run)


class Patience:
    """A few tries, with pauses between them."""

    def __init__(self, world: World, run: Run) -> None:
        self._world = world
        self._run = run
        self._left = STATE_TRIES - 1

    def wait(self, unanswered: Unanswered) -> None:
        if self._left == 0:
            raise StateUnavailable(str(unanswered))
        self._left -= 1
        self._run.pause(self._world.clock + 0.5)


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

    def __init__(self, world: World, run: Run, lag: int, name: str) -> None:
        self.tally = Tally()
        self.scope = SCOPE
        self.job_run = name
        self.pushed_last: tuple[int, str] | None = None
        self.pushed_by_event: list[str] = []
        self._reader: Any = Reader(world, run)
        self.state = state.StateObject(self._reader.store, STATE)
        self._world = world
        self._run = run
        self._lag = lag
        self._own_pushes: set[tuple[int, str]] = set()
        self._on_wait: Callable[[], None] = lambda: None
        self._floor: list[Any] | None = None

    def while_waiting(self, call: Callable[[], None]) -> None:
        self._on_wait = call

    def push(self, refs: Sequence[ObjectRef], on_settled: Any = None) -> None:
        waiting: list[Settled] = []
        # A worker passes its own `on_settled`; a push of named objects does not.
        worker = on_settled if hasattr(on_settled, "__self__") else None
        if worker:
            # A worker never pushes objects before the mark from which it started.
            self._floor = self._floor or self._world.states[-1]["mark"] or [0, ""]
            assert all([ref.last_modified, ref.key] > self._floor for ref in refs)
        try:
            for ref in refs:
                if worker and self._world.stall_next_push:
                    self._world.stall_next_push = False
                    self._wait_for_the_service()
                waiting.append(self._run.request(lambda r=ref: self._deliver(r, worker)))
                ready = waiting[: len(waiting) - self._lag]
                del waiting[: len(ready)]
                self._settle_all(ready, on_settled)
        except PushEnded:
            self._settle_all(waiting, None)
            raise
        except state.StateLost:
            raise
        except state.StateError as error:
            # Like the push loop: requests in flight still count, and move the mark.
            self._settle_all(waiting, on_settled)
            raise PushEnded(str(error)) from None
        self._settle_all(waiting, on_settled)

    def _wait_for_the_service(self) -> None:
        """Its Retry-After is longer than the lease; meanwhile the job keeps calling `on_wait`."""
        until = self._world.clock + LEASE_SECONDS + 300
        while self._world.clock < until:
            self._run.pause(self._world.clock + 20)
            self._on_wait()

    def _deliver(self, ref: ObjectRef, by_worker: bool) -> Settled:
        if self._world.refuse_next_push:
            self._world.refuse_next_push = False
            return Settled(ref, 1, "no answer", permanent=False)
        if ref.key in self._world.damaged:
            return Settled(ref, 1, "damaged")
        place = (ref.last_modified, ref.key)
        assert place not in self._own_pushes, "one run never sends an object twice"
        self._own_pushes.add(place)
        self._world.pushes[ref.key] += 1
        if by_worker:
            self.pushed_last = max(self.pushed_last or place, place)
        else:
            self.pushed_by_event.append(ref.key)
            self._world.event_pushes.add(ref.key)
        return Settled(ref, 1)

    def _settle_all(self, settled: list[Settled], on_settled: Any) -> None:
        for entry in settled:
            self.tally.record(entry)
        if on_settled:
            on_settled(list(settled))
        elif any(entry.error and not entry.permanent for entry in settled):
            raise PushEnded("failed")

    def send_pending(self) -> None:
        self._lag = 0


@dataclass
class JobRun:
    """One try of a job run of Code Engine; a retry of it has the same name and event."""

    name: str
    key: str | None
    by_hand: bool
    run: Run
    job: ModelJob | None = None


class Protocol(RuleBasedStateMachine):
    """Rules and bookkeeping that both modes share."""

    mode: str
    job: type[ModelJob] = ModelJob

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.runs: list[JobRun] = []
        self.retries: list[JobRun] = []
        self.started = 0
        self.pending: list[Upload] = []
        self.delivered: list[Upload] = []
        self.again: Counter[str] = Counter()
        self.disturbed = False
        clock = SimpleNamespace(monotonic=lambda: self.world.clock)
        self.real_time, worker.time = worker.time, clock  # type: ignore[assignment]

    # --- what happens ----------------------------------------------------------------------------

    @rule(key=st.integers(0, 99), delay=st.sampled_from([0.0, 0.4, 3.0, SETTLING_SECONDS - 0.1]))
    def upload(self, key: int, delay: float) -> None:
        """An object is written, and its event raised."""
        name = f"{key:02}"
        if name not in self.world.uploads:
            self.pending.append(self.world.upload(name, delay))

    @rule(keys=st.lists(st.integers(0, 99), min_size=2, max_size=4, unique=True))
    def upload_several(self, keys: list[int]) -> None:
        """All at the same moment: within one second, only the key decides the order."""
        for key in keys:
            self.upload(key, 0.0)

    @rule(seconds=st.sampled_from([0.1, 0.5, 0.9, 1.0, 2.5, 11.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.clock += seconds

    @rule(offset=st.sampled_from([0.0, FAST, SLOW]))
    def another_machine_answers(self, offset: float) -> None:
        """Each of the store's machines has its own clock."""
        self.world.machine = offset

    @precondition(lambda self: len(self.runs) < 4)
    @rule(which=st.integers(0, 9), lag=st.integers(0, 2))
    def event_arrives(self, which: int, lag: int) -> None:
        """In any order, and at any time later."""
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

    @precondition(lambda self: self.retries and len(self.runs) < 4)
    @rule(which=st.integers(0, 9), lag=st.integers(0, 2))
    def retry(self, which: int, lag: int) -> None:
        """Code Engine retries a run that has failed."""
        before = self.retries.pop(which % len(self.retries))
        self.start(before.key, lag, before.name, by_hand=before.by_hand)

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 3), steps=st.integers(1, 12))
    def step(self, which: int, steps: int) -> None:
        """One run continues while the others wait."""
        run = self.runs[which % len(self.runs)].run
        for _ in range(steps):
            if not run.alive or self.world.clock < run.wake_at:
                break
            run.step()
        self.clear_away()

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 3), steps=st.integers(1, 80))
    def step_however_long_it_takes(self, which: int, steps: int) -> None:
        """The same, and time passes where the run waits."""
        run = self.runs[which % len(self.runs)].run
        for _ in range(steps):
            if not run.alive:
                break
            self.world.clock = max(self.world.clock, run.wake_at)
            run.step()
        self.clear_away()

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 3), after=st.booleans())
    def crash(self, which: int, after: bool) -> None:
        """A run crashes before its next request, or after that was carried out but not answered."""
        run = self.runs[which % len(self.runs)].run
        self.disturbed = True
        run.step(crash_before=not after, crash_after=after)
        self.clear_away()

    @precondition(lambda self: self.runs)
    @rule()
    def a_push_gets_no_answer(self) -> None:
        self.disturbed = True
        self.world.refuse_next_push = True

    @precondition(lambda self: self.runs)
    @rule(faults=st.lists(st.sampled_from(["lost", "late", "conflict"]), min_size=1, max_size=9))
    def the_store_does_not_answer_about_state(self, faults: list[str]) -> None:
        """How the next requests fail; reads just fail. No line may be sent twice because of it.

        Unless a run can no longer say what it has done: see `clear_away`.
        """
        self.world.faults = faults

    @precondition(lambda self: self.world.late_writes)
    @rule()
    def a_late_write_is_carried_out(self) -> None:
        with contextlib.suppress(PreconditionFailed):
            self.world.write_state(*self.world.late_writes.pop(0))

    # --- how it is done --------------------------------------------------------------------------

    def start(
        self, key: str | None, lag: int, name: str | None = None, *, by_hand: bool = False
    ) -> None:
        self.started += 1
        event = lib.Event(key) if key is not None else None
        mode = lib.push_named(self.mode) if by_hand else lib.MODES[self.mode]
        name = name or f"run-{self.started}"

        def body(run: Run) -> None:
            started.job = job = self.job(self.world, run, lag, name)
            with contextlib.suppress(PushEnded):  # what was not delivered is in the tally
                mode(job, event)
            if job.tally.failed_total:
                raise StoreError("exit 1")
            there = json.loads(self.world.state.content) if self.world.state else {}
            assert there.get("worker") != name, "a run with exit 0 has let go"

        started = JobRun(name, key, by_hand, Run(f"{name} for {key}", body))
        self.runs.append(started)

    def clear_away(self) -> None:
        """Code Engine retries runs that have failed."""
        for ended in [entry for entry in self.runs if not entry.run.alive]:
            self.runs.remove(ended)
            run = ended.run
            if run.error and not isinstance(run.error, StoreError | state.StateError):
                raise run.error
            if run.crashed or run.error:
                self.retries.append(ended)
            if run.error and ended.job:
                self.note_what_is_repeated(ended.job)

    def note_what_is_repeated(self, job: ModelJob) -> None:
        """A run ended, but could not write its progress to STATE."""
        if job.pushed_last:
            mark = self.world.states[-1].get("mark") or (0, "")
            self.disturbed = self.disturbed or tuple(mark) < job.pushed_last
        for key in job.pushed_by_event:
            self.again[key] += 1

    def finish_runs(self) -> None:
        while self.runs:
            for entry in list(self.runs):
                self.world.clock = max(self.world.clock, entry.run.wake_at)
                if entry.run.alive:
                    entry.run.step()
            self.clear_away()

    def deliver_all(self) -> None:
        self.finish_runs()
        while self.pending or self.retries:
            if self.retries:
                self.retry(0, 0)
            else:
                upload = self.pending.pop()
                self.world.clock = max(self.world.clock, upload.visible)
                self.start(upload.key, 0)
            self.finish_runs()

    def teardown(self) -> None:
        self.world.refuse_next_push = self.world.stall_next_push = False
        self.world.faults, self.world.faults_after_closing = [], []
        try:
            self.settle()
            self.check()
        finally:
            for entry in self.runs:
                if entry.run.alive:
                    entry.run.step(crash_before=True)
            worker.time = self.real_time

    def settle(self) -> None:
        """Let all pending events and runs happen."""
        raise NotImplementedError

    def check(self) -> None:
        """What must be true at the end."""
        raise NotImplementedError


class CatchUpProtocol(Protocol):
    """Catch-up: worker, events, take-overs."""

    mode = "catch-up"

    @precondition(lambda self: self.world.state is None and not self.runs)
    @rule(key=st.integers(100, 120), damaged=st.booleans())
    def upload_without_event(self, key: int, damaged: bool) -> None:
        """Older than the subscription."""
        if f"{key}" not in self.world.uploads:
            self.world.upload(f"{key}", 0)
            if damaged:
                self.world.damaged.add(f"{key}")

    @precondition(lambda self: len(self.runs) < 4)
    @rule(lag=st.integers(0, 2))
    def manual_run(self, lag: int) -> None:
        self.start(None, lag)

    @precondition(lambda self: self.runs)
    @rule(tries=st.integers(1, 2 * STATE_TRIES))
    def the_store_does_not_answer_after_closing(self, tries: int) -> None:
        """So the worker may not learn the cutoff."""
        self.world.faults_after_closing = ["conflict"] * tries

    @precondition(lambda self: 0 < len(self.runs) < 4)
    @rule(which=st.integers(0, 3), lag=st.integers(0, 2))
    def the_service_lets_a_worker_wait(self, which: int, lag: int) -> None:
        """For longer than the lease, which the worker must renew; then another run starts."""
        self.world.stall_next_push = True
        run, until = self.runs[which % len(self.runs)].run, self.world.clock + LEASE_SECONDS + 100
        for _ in range(200):
            if not run.alive or self.world.clock > until:
                break
            self.world.clock = max(self.world.clock, run.wake_at)
            run.step()
        self.clear_away()
        self.start(None, lag)
        self.step_however_long_it_takes(len(self.runs) - 1, 12)

    @precondition(lambda self: self.world.uploads)
    @rule(which=st.integers(0, 99))
    def an_object_is_damaged(self, which: int) -> None:
        """It was from the start: pushed objects were readable."""
        keys = sorted(self.world.uploads.keys() - self.world.pushes.keys())
        if keys:
            self.world.damaged.add(keys[which % len(keys)])

    @precondition(lambda self: self.world.damaged)
    @rule(which=st.integers(0, 9), delay=st.sampled_from([0.0, 3.0]))
    def an_object_is_repaired(self, which: int, delay: float) -> None:
        """By writing it again, which raises an event."""
        key = sorted(self.world.damaged)[which % len(self.world.damaged)]
        self.world.damaged.remove(key)
        self.pending = [upload for upload in self.pending if upload.key != key]
        self.pending.append(self.world.upload(key, delay))
        if self.runs or self.retries:
            # A run that listed it before reads the new object.
            self.again[key] += 1

    @precondition(lambda self: self.named() and len(self.runs) < 4)
    @rule(which=st.integers(0, 9))
    def a_person_names_a_failure(self, which: int) -> None:
        """It is readable now, like an archived object that was restored."""
        key = self.named()[which % len(self.named())]
        if key not in {upload.key for upload in self.pending}:
            self.world.damaged.discard(key)
            self.start(key, 0, by_hand=True)

    def named(self) -> list[str]:
        """The failures that STATE names."""
        return list(self.world.states[-1]["failed"]) if self.world.states else []

    @rule()
    def a_quarter_of_an_hour_passes(self) -> None:
        """A worker that does nothing in this time is replaced before it continues."""
        self.disturbed = self.disturbed or bool(self.runs)
        self.world.clock += LEASE_SECONDS + 1

    def settle(self) -> None:
        while self.world.damaged:
            self.finish_runs()
            self.an_object_is_repaired(0, 0.0)
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
        assert (self.named(), self.world.states[-1]["failed_total"]) == ([], 0)
        for key in self.world.uploads:
            assert self.world.pushes[key] >= 1, f"{key} is lost"
            if not self.disturbed:
                assert self.world.pushes[key] <= 1 + self.again[key], f"{key} was sent twice"


class RememberProtocol(Protocol):
    """Remember: events at the same time, then the run without one."""

    mode = "remember"

    @precondition(lambda self: not self.pending and not self.delivered)
    @rule(key=st.integers(100, 120))
    def upload_without_event(self, key: int) -> None:
        """Older than the subscription."""
        if f"{key}" not in self.world.uploads:
            self.world.upload(f"{key}", 0)
            # Remember decides only by time, so the two kinds must differ in it.
            self.world.clock += CLOCK_SKEW_SECONDS + 1

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
    max_examples=6000 if NIGHTLY else 150,
    stateful_step_count=60 if NIGHTLY else 40,
    deadline=None,
    derandomize=not NIGHTLY,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [CatchUpProtocol, RememberProtocol])
def test_any_interleaving(machine: type[Protocol]) -> None:
    run_state_machine_as_test(machine, settings=PROFILE)
