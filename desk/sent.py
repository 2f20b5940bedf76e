"""What has been sent, as STATE tells it: the mark, what waits behind it, and what failed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bucket.flowkeys import HOUR_SECONDS
from bucket.listing import ObjectRef, Period
from bucket.marks import LATEST_HOURS, beginning_at
from bucket.state import Snapshot, has_settled
from bucket.state_follow import Following, read_following
from bucket.state_text import CatchUp, Status, Work, read_catch_up, read_remembered


@dataclass(frozen=True, slots=True)
class Sent:
    """What STATE says. Times in seconds since the epoch; None where there is none.

    `begin` is the hour from which on objects can be waiting. `is_waiting` is None where STATE does
    not tell which objects are still to be sent.
    """

    says: str
    mark: int | None = None
    begin: int | None = None
    is_waiting: Callable[[ObjectRef], bool] | None = None
    undelivered: Sequence[ObjectRef] = ()
    """Objects that failed, or are parked, as far as STATE names them."""
    undelivered_total: int = 0
    parked: Sequence[ObjectRef] = ()


@dataclass(slots=True)
class Waiting:
    """Counts what is listed and still to be sent."""

    sent: Sent
    now: int
    objects: int = 0
    size: int = 0
    oldest: int | None = None

    def add(self, ref: ObjectRef) -> None:
        """Count the object, if it is still to be sent and has settled."""
        wanted = self.sent.is_waiting
        if wanted and wanted(ref) and has_settled(ref.last_modified, self.now):
            self.objects += 1
            self.size += ref.size
            self.oldest = min(self.oldest or ref.last_modified, ref.last_modified)

    @property
    def lag_seconds(self) -> int | None:
        """The age of the oldest object that is still to be sent; None where it isn't known.

        Parked objects are such too, as in the summary of a run.
        """
        parked = [ref.last_modified for ref in self.sent.parked]
        return self._age(min([*parked, *self._found()], default=self.now))

    @property
    def behind_mark_seconds(self) -> int | None:
        """The same of objects behind the mark alone."""
        return self._age(min(self._found(), default=self.now))

    def _found(self) -> list[int]:
        return [] if self.oldest is None else [self.oldest]

    def _age(self, written: int) -> int | None:
        return None if self.sent.is_waiting is None else max(0, self.now - written)


def sent_by(mode: str, snapshot: Snapshot | None, state_key: str, period: Period) -> Sent:
    """What STATE says in this mode. Raises StateUnreadable."""
    if mode == "follow":
        return _followed(snapshot, state_key, period)
    if mode == "catch-up":
        return _caught_up(snapshot, state_key, period)
    if mode == "remember" and snapshot:
        oldest = read_remembered(snapshot, state_key, "")
        return Sent("the oldest object that an event has pushed is known", oldest.last_modified)
    return Sent(f"mode {mode} keeps no record of what was sent")


def _works(work: Work) -> str:
    return f"job run {work.worker} is at work" if work.worker else "no run is at work"


def _followed(snapshot: Snapshot | None, state_key: str, period: Period) -> Sent:
    state = read_following(snapshot, state_key) if snapshot else None
    says = _works(state) if state else "no run has begun yet"
    state = state or Following.beginning(beginning_at(period.since))

    def is_waiting(ref: ObjectRef) -> bool:
        until = period.until
        in_time = until is None or ref.last_modified < until
        return in_time and state.marks.wants(ref, with_late=True)

    parked = tuple(one.ref for one in state.parked)
    # Late objects behind their mark are found where they are listed anyway.
    hours = state.marks.hours(with_late=False)
    return Sent(
        says,
        state.mark[0] if state.mark else None,
        hours.begin if hours else None,
        is_waiting,
        parked,
        len(parked),
        parked,
    )


def _caught_up(snapshot: Snapshot | None, state_key: str, period: Period) -> Sent:
    now = snapshot.date if snapshot else 0
    state = read_catch_up(snapshot, state_key) if snapshot else CatchUp.beginning(period, now)
    says = _works(state) if snapshot else "no run has begun yet"
    finished = state.status is Status.FINISHED
    if finished:
        says = "the catch-up has finished; events push what is newer"
    return Sent(
        says,
        state.cutoff if finished else state.mark[0] if state.mark else None,
        state.mark[0] - LATEST_HOURS * HOUR_SECONDS if state.mark else None,
        None if finished else state.is_left,
        # STATE names their keys alone; 1: a listed object's key is as it stands.
        tuple(ObjectRef(1, key) for key in state.failed),
        state.failed_total,
    )
