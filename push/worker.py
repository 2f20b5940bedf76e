"""The worker of catch-up mode: pushes everything, pass after pass, then closes.

docs/modes.md draws the states and argues why nothing is lost and what can be sent twice.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from bucket.listing import ObjectRef
from bucket.state import (
    NAMED_FAILURES,
    SETTLING_SECONDS,
    CatchUp,
    Replaced,
    Snapshot,
    StateError,
    StateObject,
    Status,
    cutoff,
    has_settled,
    read_catch_up,
)
from push.ledger import Settled
from push.loop import OnSettled, PushEnded

log = logging.getLogger("flowlog.worker")

CHECKPOINT_SECONDS = 30.0
"""STATE is written at most this often while objects are pushed: a checkpoint and sign of life."""


class Job(Protocol):
    """What the worker needs of its run."""

    @property
    def state(self) -> StateObject:
        """STATE."""

    def listed(
        self, wanted: Callable[[ObjectRef], bool], after_page: Callable[[], None]
    ) -> Sequence[ObjectRef]:
        """The wanted objects, oldest first; calls `after_page` after each page of the listing."""

    def push(self, refs: Sequence[ObjectRef], on_settled: OnSettled) -> None:
        """Push the objects in their order. Raises PushEnded."""

    def send_pending(self) -> None:
        """Send pending lines, so that their objects can settle, without waiting for an answer."""

    def pause(self, seconds: float) -> None:
        """Wait. Raises Stopped."""


class Worker:
    """The one run that owns STATE. It knows it still does by the ETag of its own last write."""

    def __init__(self, job: Job, state: CatchUp, etag: str) -> None:
        self._job = job
        self._state = state
        self._etag = etag
        self._written = time.monotonic()

    @classmethod
    def start(cls, job: Job) -> Worker | None:
        """Create STATE and become the worker; None if another run was faster."""
        return cls._claim(job, CatchUp(Status.WORKING, _name()), None)

    @classmethod
    def take_over(cls, job: Job, state: CatchUp, snapshot: Snapshot) -> Worker | None:
        """Go on from the last checkpoint of a worker that is gone; None if another was faster."""
        log.warning("taking over from worker %s, at %s", state.worker, state.mark)
        # From here on STATE bears the time of this write, so the cutoff must be in its text.
        claim = state.next(worker=_name(), cutoff=cutoff(state, snapshot))
        return cls._claim(job, claim, snapshot.etag)

    @classmethod
    def _claim(cls, job: Job, state: CatchUp, etag: str | None) -> Worker | None:
        try:
            return cls(job, state, job.state.write(state.content(), etag))
        except Replaced:
            return None

    def run(self) -> None:
        """Work until the catch-up is finished, or this run can't go on.

        Then it releases STATE, so that the next run goes on at once. Raises StateError, StoreError.
        """
        log.info("worker %s: %s", self._state.worker, self._state.status.value)
        try:
            if self._state.status is Status.WORKING:
                self._passes()
                self._close()
            self._last_pass()
            self._save(status=Status.FINISHED, worker=None)
            log.info("the catch-up is finished; from now on events push their objects")
        except Replaced as replaced:
            self._say_replaced(replaced)
        except PushEnded:
            self._release()
        except Exception:
            self._release()
            raise

    def _passes(self) -> None:
        """Push what is not yet pushed until little new comes up.

        A bucket that is written to all the time has something new in every pass. What is left by
        then is the last pass's work, so it is enough that the passes have stopped getting shorter.
        """
        before = None
        while True:
            # The clock is read before the listing, so what has settled by then is all in it.
            found = self._pass(functools.partial(_settled_by, self._store_clock()))
            if found == 0 or (before is not None and 2 * found > before):
                return
            before = found

    def _close(self) -> None:
        """Fix the cutoff: the time that the store gives to this very write of STATE."""
        self._save(status=Status.CLOSING)
        self._state = dataclasses.replace(self._state, cutoff=self._own_snapshot().last_modified)

    def _last_pass(self) -> None:
        """Push what is left up to the cutoff, once all of it is visible."""
        last = self._state.cutoff
        assert last is not None, "closing fixes the cutoff"
        while not has_settled(last, now := self._store_clock()):
            self._job.pause(last + SETTLING_SECONDS + 1 - now)
        self._pass(lambda ref: ref.last_modified <= last)

    def _pass(self, wanted: Callable[[ObjectRef], bool]) -> int:
        """Push all wanted objects past the mark, oldest first; how many there were."""
        refs = self._job.listed(
            lambda ref: wanted(ref) and not self._state.has_passed(ref), self._checkpoint
        )
        log.info("%s: this pass finds %d objects", self._state.status.value, len(refs))
        self._job.push(refs, self._move_mark)
        return len(refs)

    def _move_mark(self, settled: Sequence[Settled]) -> None:
        """Move the mark past these objects.

        Raises PushEnded at one that another try might deliver: the next run begins with it.
        """
        for entry in settled:
            if entry.error is not None and not entry.permanent:
                raise PushEnded(
                    f"the next run of the catch-up continues at this object: {entry.error}"
                )
            failed = self._state.failed
            if entry.error is not None and len(failed) < NAMED_FAILURES:
                failed = (*failed, entry.ref.key)
            self._state = dataclasses.replace(
                self._state,
                mark=(entry.ref.last_modified, entry.ref.key),
                failed_total=self._state.failed_total + (entry.error is not None),
                failed=failed,
            )
        self._checkpoint()

    def _checkpoint(self) -> None:
        """Write STATE if it is time; sends pending lines, so that the next one moves the mark."""
        if time.monotonic() - self._written >= CHECKPOINT_SECONDS:
            self._job.send_pending()
            self._save()

    def _save(self, **changes: Any) -> None:
        """Write STATE. Raises Replaced where it isn't this worker's any more."""
        self._state = self._state.next(**changes)
        self._etag = self._job.state.write(self._state.content(), self._etag)
        self._written = time.monotonic()

    def _own_snapshot(self) -> Snapshot:
        """STATE as this worker wrote it last. Raises Replaced."""
        snapshot = self._job.state.read()
        if snapshot is None or snapshot.etag != self._etag:
            raise Replaced(
                f"the STATE object {self._job.state.key!r} is not this worker's any more"
            )
        return snapshot

    def _store_clock(self) -> int:
        """The store's clock. Raises Replaced."""
        return self._own_snapshot().date

    def _release(self) -> None:
        try:
            self._save(worker=None)
            log.warning("the catch-up is not finished; the next run goes on from its checkpoint")
        except Replaced as replaced:
            self._say_replaced(replaced)

    def _say_replaced(self, replaced: Replaced) -> None:
        """This run's objects are another worker's now, unless there is no STATE at all."""
        snapshot = self._job.state.read()
        if snapshot is None:
            raise StateError(
                f"the STATE object {self._job.state.key!r} was deleted while the catch-up was"
                " running: the next run starts over"
            ) from None
        # Raises where it was no other worker that has written it.
        read_catch_up(snapshot, self._job.state.key)
        log.warning("stopped: %s. Another worker goes on from the last checkpoint", replaced)


def _settled_by(now: int, ref: ObjectRef) -> bool:
    return has_settled(ref.last_modified, now)


def _name() -> str:
    return secrets.token_hex(4)
