"""The work of catch-up mode: push everything, pass after pass, then close.

docs/modes.md draws the states and argues why nothing is lost and what can be sent twice.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Sequence

from bucket.listing import ObjectRef
from bucket.state import has_settled, seconds_to_settle
from bucket.state_text import CatchUp, Status
from push.ledger import Settled
from push.loop import PushEnded
from push.worker import Claim, Job

log = logging.getLogger("flowlog.worker")


class CatchUpWorker:
    """The one run that pushes everything up to the cutoff."""

    def __init__(self, job: Job, claim: Claim[CatchUp]) -> None:
        self._job = job
        self._claim = claim

    def run(self) -> None:
        """Work until the catch-up is finished, or this run can't go on.

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
        """Push what is not yet pushed until little new comes up.

        A bucket that is written to all the time has something new in every pass. What is left by
        then is the last pass's work, so it is enough that the passes have stopped getting shorter.
        """
        before = None
        while True:
            # The clock is read before the listing, so what has settled by then is all in it.
            found = self._pass(functools.partial(_settled_by, self._claim.look().date))
            if found == 0 or (before is not None and 2 * found > before):
                return
            before = found

    def _close(self) -> None:
        """Fix the cutoff, by the time that the store gives to this very write of STATE."""
        self._claim.save(status=Status.CLOSING)
        self._claim.look()

    def _last_pass(self) -> None:
        """Push what is left up to the cutoff, once all of it is visible."""
        last = self._claim.state.cutoff
        assert last is not None, "closing fixes the cutoff"
        while not has_settled(last, now := self._claim.look().date):
            self._job.pause(seconds_to_settle(last, now))
        self._pass(lambda ref: ref.last_modified <= last)

    def _pass(self, wanted: Callable[[ObjectRef], bool]) -> int:
        """Push all wanted objects past the mark, oldest first; how many there were."""
        refs = self._job.listed(
            lambda ref: wanted(ref) and not self._claim.state.has_passed(ref),
            self._claim.checkpoint,
        )
        log.info("%s: this pass finds %d objects", self._claim.state.status.value, len(refs))
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
            state, key = self._claim.state, entry.ref.key
            if entry.error is not None:
                state = state.with_failure(key)
            elif not entry.gone:
                state = state.without_failure(key)
            mark = (entry.ref.last_modified, key)
            self._claim.state = dataclasses.replace(state, mark=mark)
        self._claim.checkpoint()


def _settled_by(now: int, ref: ObjectRef) -> bool:
    return has_settled(ref.last_modified, now)
