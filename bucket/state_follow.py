"""The content of STATE in follow mode, and the decisions that follow from it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from bucket.listing import ObjectRef
from bucket.marks import Marks, Place, beginning_at
from bucket.state import Snapshot
from bucket.state_text import (
    NAMED_FAILURES_BYTES,
    HasTime,
    Work,
    dump,
    fields_of,
    read_catch_up,
    unreadable,
)

MAX_PARKED = 100
"""If more objects can't be read, the store or a setting is at fault, not the objects."""

PARKED_SECONDS = 7 * 24 * 3600
"""An object that can't be read for this long is given up."""


# --- follow --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parked:
    """An object that could not be read although others could; `since` is by the store's clock."""

    last_modified: int
    key: str
    since: int

    @property
    def ref(self) -> ObjectRef:
        """The object, as a listing would name it."""
        return ObjectRef(self.last_modified, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Following(Work):
    """STATE of follow mode: two marks (bucket/marks.py), and the objects that are parked.

    Parked objects are before their mark; each run retries them first.
    """

    late_mark: Place | None = None
    parked: tuple[Parked, ...] = ()

    @classmethod
    def beginning(cls, marks: Marks) -> Following:
        """STATE of a first run."""
        return cls(worker=None, mark=marks.mark, late_mark=marks.late)

    @property
    def marks(self) -> Marks:
        """The marks: up to where all objects have settled."""
        return Marks(self.mark, self.late_mark)

    def at(self, marks: Marks) -> Following:
        """The same with these marks."""
        return dataclasses.replace(self, mark=marks.mark, late_mark=marks.late)

    def with_parked(self, ref: HasTime, now: int) -> Following | None:
        """The same with one more parked object; None if there would be too many."""
        parked = (*self.parked, Parked(ref.last_modified, ref.key, now))
        names = json.dumps([one.key for one in parked])
        if len(parked) > MAX_PARKED or len(names) > NAMED_FAILURES_BYTES:
            return None
        return dataclasses.replace(self, parked=parked)

    def without_parked(self, key: str) -> Following:
        """The same without this object, which needs no further try."""
        parked = tuple(one for one in self.parked if one.key != key)
        return dataclasses.replace(self, parked=parked)

    def overdue(self, now: int) -> list[Parked]:
        """The objects that have been parked for too long at `now`, by the store's clock."""
        return [one for one in self.parked if now - one.since >= PARKED_SECONDS]

    def content(self) -> bytes:
        """The content of STATE."""
        return dump({"mode": "follow"} | dataclasses.asdict(self))


def read_following(snapshot: Snapshot, state_key: str) -> Following:
    """Parse STATE of follow mode. Raises StateUnreadable.

    After a finished catch-up, follow mode continues from its cutoff.
    """
    fields = fields_of(snapshot) or {}
    match fields:
        case {
            "version": 1,
            "mode": "follow",
            "worker": str() | None as worker,
            "claim": str(claim),
            "sequence": int(sequence),
            "mark": ([int(), str()] | None) as mark,
            "late_mark": ([int(), str()] | None) as late,
            "parked": list(parked),
        }:
            return Following(
                worker=worker,
                claim=claim,
                sequence=sequence,
                mark=(mark[0], mark[1]) if mark else None,
                late_mark=(late[0], late[1]) if late else None,
                parked=tuple(_parked(one, state_key) for one in parked),
            )
        case {"mode": "catch-up", "status": "finished"}:
            done = read_catch_up(snapshot, state_key)
            assert done.cutoff is not None, "a finished catch-up has a cutoff"
            marks = beginning_at(done.cutoff + 1)
            return dataclasses.replace(Following.beginning(marks), sequence=done.sequence)
    raise unreadable(state_key, "follow", fields)


def _parked(entry: object, state_key: str) -> Parked:
    match entry:
        case {"last_modified": int(last_modified), "key": str(key), "since": int(since)}:
            return Parked(last_modified, key, since)
    raise unreadable(state_key, "follow", {})
