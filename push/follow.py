"""The work of follow mode: retry parked objects, push what is past the marks, release STATE.

docs/modes.md draws the states and argues why nothing is lost and what can be sent twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from bucket.interfaces import Hours
from bucket.listing import ObjectRef
from bucket.state import has_settled, settled_until
from bucket.state_follow import MAX_PARKED, Following
from push import worker
from push.lag import Lag
from push.ledger import Settled, Tally
from push.loop import PushEnded
from push.worker import Claim

log = logging.getLogger("flowlog.worker")

LAST_PASS_OBJECTS = 100
"""A pass that finds at most this many objects is the last; newer ones are for the next run."""


class Job(worker.Job, Protocol):
    """What follow mode needs of its run."""

    @property
    def tally(self) -> Tally:
        """The results of the run so far."""

    def newest(
        self,
        hours: Hours | None,
        wanted: Callable[[ObjectRef], bool],
        after_page: Callable[[], None],
    ) -> Sequence[ObjectRef]:
        """The wanted objects, oldest first; of each interface only these hours (None: all).

        Calls `after_page` after each page of the listing.
        """


class Follower:
    """One run. `until`: push only objects written before this time; None: all."""

    def __init__(self, job: Job, claim: Claim[Following], until: int | None) -> None:
        self._job = job
        self._claim = claim
        self._until = until
        self._lag = Lag(job.tally)
        self._now = 0
        """The store's clock when it was last read."""
        self._has_read = False
        self._unread: list[ObjectRef] = []
        """Objects that could not be read, before any other could. The mark does not pass them."""

    def run(self) -> None:
        """Push all there is, in passes. Raises StateError, StoreError."""
        with self._claim.held():
            self._read_clock()
            self._retry_parked()
            self._passes()
            self._give_up()
            self._record_lag([])

    def _read_clock(self) -> None:
        self._now = self._claim.refresh().date
        self._lag.clock_read(self._now)

    def _retry_parked(self) -> None:
        """Push the objects that earlier runs could not read."""
        self._job.push([one.ref for one in self._claim.state.parked], self._settle_parked)

    def _settle_parked(self, settled: Sequence[Settled]) -> None:
        for entry in settled:
            if entry.unread and not entry.permanent:
                continue
            self._check_delivery(entry)
            self._note_read(entry)
            self._claim.state = self._claim.state.without_parked(entry.ref.key)
        self._claim.checkpoint()

    def _passes(self) -> None:
        """Push what has settled, until a pass finds few objects or no longer far fewer."""
        before = None
        while True:
            found = self._pass()
            if found <= LAST_PASS_OBJECTS or (before is not None and 2 * found > before):
                return
            before = found
            self._read_clock()

    def _pass(self) -> int:
        """Push what has settled past the marks, oldest first; return how many objects."""
        # The clock was read before the listing, so the listing has all that was visible then.
        now, marks = self._now, self._claim.state.marks
        with_late = marks.is_late_due(now)

        def wanted(ref: ObjectRef) -> bool:
            if self._until is not None and ref.last_modified >= self._until:
                return False
            return has_settled(ref.last_modified, now) and marks.wants(ref, with_late=with_late)

        hours = marks.hours(with_late=with_late)
        refs = self._job.newest(hours, wanted, self._claim.checkpoint)
        log.info(
            "this pass finds %d objects%s", len(refs), ", including late ones" if with_late else ""
        )
        self._push(refs, with_late)
        if with_late:
            pushed_until = settled_until(now)
            if self._until is not None:
                pushed_until = min(pushed_until, self._until - 1)
            state = self._claim.state
            self._claim.state = state.at(state.marks.late_pushed(pushed_until))
        return len(refs)

    def _push(self, refs: Sequence[ObjectRef], with_late: bool) -> None:
        """Push these objects. Raises PushEnded, also if none of them could be read."""
        done = 0

        def settle(settled: Sequence[Settled]) -> None:
            nonlocal done
            for entry in settled:
                self._settle(entry, with_late)
                done += 1
            self._claim.checkpoint()

        try:
            self._job.push(refs, settle)
        except PushEnded:
            self._record_lag(refs[done : done + 1])
            raise
        if self._unread:
            self._record_lag([])
            raise self._not_readable("no object could be read in this run")

    def _settle(self, entry: Settled, with_late: bool) -> None:
        """Move the marks past this object; park it if it can't be read although others can.

        Raises PushEnded at a failed one that a retry might deliver: the next run begins with it.
        """
        unread = entry.unread and not entry.permanent
        if unread:
            self._unread.append(entry.ref)
        else:
            self._check_delivery(entry)
            self._note_read(entry)
        if self._has_read or len(self._unread) > MAX_PARKED:
            self._park_unread(with_late)
        if not unread and not self._unread:
            self._move(entry.ref, with_late)

    def _check_delivery(self, entry: Settled) -> None:
        if entry.error is not None and not entry.permanent:
            raise PushEnded(f"the next run continues at this object: {entry.error}")

    def _note_read(self, entry: Settled) -> None:
        """Note whether the object could be read, delivered or not: then the store works."""
        self._has_read = self._has_read or not (entry.unread or entry.skipped)

    def _park_unread(self, with_late: bool) -> None:
        """Park what could not be read. Raises PushEnded if these are too many, or all."""
        while self._unread:
            ref = self._unread[0]
            parked = self._claim.state.with_parked(ref, self._now)
            if parked is None or not self._has_read:
                raise self._not_readable(f"more than {MAX_PARKED} objects can't be read")
            log.warning("parked, since others can be read; each run tries it again: %s", ref.key)
            self._claim.state = parked
            self._move(ref, with_late)
            del self._unread[0]

    def _not_readable(self, reason: str) -> PushEnded:
        """Log that the store or a setting is at fault; return the error that ends the push."""
        log.error("%s: the mark stays; look at the role of the key, and at COS_ENDPOINT", reason)
        return PushEnded(reason)

    def _move(self, ref: ObjectRef, with_late: bool) -> None:
        state = self._claim.state
        place = (ref.last_modified, ref.key)
        self._claim.state = state.at(state.marks.moved(place, with_late=with_late))

    def _give_up(self) -> None:
        """Stop retrying objects that could not be read for days, and log each of them."""
        for one in self._claim.state.overdue(self._now):
            log.error("given up: it could not be read for 7 days: %s", one.key)
            self._claim.state = self._claim.state.without_parked(one.key)

    def _record_lag(self, not_pushed: Sequence[ObjectRef]) -> None:
        parked = (one.ref for one in self._claim.state.parked)
        self._lag.record([*not_pushed, *self._unread, *parked])
