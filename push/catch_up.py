"""Catch-up mode: the worker's passes and cutoff, and what runs with an event push.

docs/modes.md draws the states and argues why nothing is lost and what can be sent twice.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from bucket.listing import ObjectRef
from bucket.state import Snapshot, StateChanged, StateError, has_settled, seconds_to_settle
from bucket.state_text import NAMED_FAILURES, CatchUp, Duty, Status, read_catch_up
from push import worker
from push.lag import Lag
from push.ledger import Settled, Tally
from push.loop import PushEnded
from push.worker import Claim

log = logging.getLogger("flowlog.worker")

_STATE_TRIES = 10
_FAILURES_LOGGED = 10


class Job(worker.Job, Protocol):
    """What the mode needs of its run."""

    tally: Tally

    def stat(self, key: str) -> ObjectRef | None:
        """The object's time and size; None if it was deleted or can't be looked up."""


# --- the worker ----------------------------------------------------------------------------------


class CatchUpWorker:
    """The one run that pushes all objects up to the cutoff."""

    def __init__(self, job: Job, claim: Claim[CatchUp]) -> None:
        self._job = job
        self._claim = claim
        self._lag = Lag(job.tally)
        self._done = 0
        """Number of objects of this pass that have settled."""

    def run(self) -> None:
        """Work until the catch-up is finished or this run can't continue.

        Raises StateError, StoreError.
        """
        with self._claim.held():
            if self._claim.state.status is Status.WORKING:
                self._passes()
                self._close()
            self._last_pass()
            self._claim.save(status=Status.FINISHED, worker=None)
            log.info("the catch-up is finished; from now on events push their objects")

    def _passes(self) -> None:
        """Push what is not yet pushed, until passes no longer find far fewer objects.

        In a bucket that is written to all the time, every pass finds something new. The last pass
        pushes the rest, so these passes need not reach zero.
        """
        before = None
        while True:
            # The clock is read before the listing, so the listing has all that was visible then.
            found = self._pass(functools.partial(_settled_by, self._store_clock()))
            if found == 0 or (before is not None and 2 * found > before):
                return
            before = found

    def _close(self) -> None:
        """Set the cutoff: the time that the store gives to this write of STATE."""
        self._claim.save(status=Status.CLOSING)
        self._claim.refresh()

    def _last_pass(self) -> None:
        """Push what is left up to the cutoff, once all of it is visible."""
        last = self._claim.state.cutoff
        assert last is not None, "closing sets the cutoff"
        while not has_settled(last, now := self._store_clock()):
            self._job.pause(seconds_to_settle(last, now))
        self._pass(lambda ref: ref.last_modified <= last)

    def _pass(self, wanted: Callable[[ObjectRef], bool]) -> int:
        """Push all wanted objects past the mark, oldest first; return how many there were."""
        refs = self._job.listed(
            lambda ref: wanted(ref) and self._claim.state.is_left(ref), self._claim.checkpoint
        )
        log.info("%s: this pass finds %d objects", self._claim.state.status.value, len(refs))
        self._done = 0
        try:
            self._job.push(refs, self._move_mark)
        finally:
            self._lag.record(refs[self._done : self._done + 1])
        return len(refs)

    def _store_clock(self) -> int:
        date = self._claim.refresh().date
        self._lag.clock_read(date)
        return date

    def _move_mark(self, settled: Sequence[Settled]) -> None:
        """Move the mark past these objects.

        Raises PushEnded at a failed one that a retry might deliver: the next run begins with it.
        """
        for entry in settled:
            if entry.error is not None and not entry.permanent:
                raise PushEnded(
                    f"the next run of the catch-up continues at this object: {entry.error}"
                )
            state, key = self._claim.state, entry.ref.key
            if entry.error is not None:
                state = state.with_failure(key)
            elif not entry.skipped:
                state = state.without_failure(key)
            mark = (entry.ref.last_modified, key)
            self._claim.state = dataclasses.replace(state, mark=mark)
            self._done += 1
        self._claim.checkpoint()


def _settled_by(now: int, ref: ObjectRef) -> bool:
    return has_settled(ref.last_modified, now)


# --- runs with an event --------------------------------------------------------------------------


def push_unless_left_to_worker(
    job: Job, key: str, state: CatchUp, snapshot: Snapshot | None
) -> CatchUp:
    """Push the event's object unless the worker does; return what STATE says afterwards."""
    cutoff = state.cutoff_at(snapshot) if snapshot else state.cutoff
    if (state.mark, cutoff) == (None, None) or (ref := job.stat(key)) is None:
        return state
    match state.duty(ref, cutoff):
        case Duty.PUSH:
            job.push([ref])
            if job.tally.objects and ref.key in state.failed:
                return remove_failure(job, ref.key) or state
        case Duty.WORKER:
            log.info("the worker will push this object: %s", key)
        case Duty.PASSED:
            log.info(
                "the worker is past this object; it is not pushed again: %s. If its lines"
                " are missing, push it with `test_flowlog_to_logdna.py --key` or in FLOWLOG_MODE"
                " simple",
                key,
            )
    return state


def remove_failure(job: Job, key: str) -> CatchUp | None:
    """Remove an object that was pushed from the failures in STATE; return what STATE says then."""
    for _ in range(_STATE_TRIES):
        if (snapshot := job.state.read()) is None:
            return None
        state = read_catch_up(snapshot, job.state.key)
        if key not in state.failed:
            return state
        without = state.next_without_failure(key, snapshot)
        try:
            job.state.write(without.content(), snapshot.etag)
        except StateChanged:
            continue
        log.info("pushed, and removed from the failures of the catch-up: %s", key)
        return without
    raise StateError(f"the STATE object {job.state.key!r} keeps changing; nothing is lost")


def warn_of_failures(state: CatchUp) -> None:
    """Log what the catch-up could not deliver."""
    if state.failed_total:
        log.warning(
            "the catch-up could not deliver %d objects; STATE names up to %d of them: %s",
            state.failed_total,
            NAMED_FAILURES,
            ", ".join(state.failed[:_FAILURES_LOGGED]),
        )
