"""Remember mode's use of STATE: the oldest object that an event has pushed."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

from bucket.listing import ObjectRef
from bucket.state import StateChanged, StateError, StateObject
from bucket.state_text import Remembered, read_remembered

log = logging.getLogger("flowlog.remember")

_STATE_TRIES = 10


class Job(Protocol):
    """What remember mode needs of its run."""

    @property
    def state(self) -> StateObject:
        """STATE."""

    def stat(self, key: str) -> ObjectRef | None:
        """The object's time and size; None if it was deleted or can't be looked up."""


def memory_of(job: Job, prefix: str) -> Remembered | None:
    """What STATE remembers; None if there is no STATE."""
    snapshot = job.state.read()
    if snapshot is None:
        return None
    memory = read_remembered(snapshot, job.state.key, prefix)
    if not memory.bare:
        return memory
    if ref := job.stat(memory.key):
        return replace(memory, last_modified=ref.last_modified)
    log.warning(
        "STATE %r holds only a key, and its object was deleted: using the time of STATE instead,"
        " so objects that events pushed shortly before may be sent again",
        job.state.key,
    )
    return memory


def remember_pushed(job: Job, prefix: str, ref: ObjectRef) -> None:
    """Write the object to STATE, unless STATE names an older one."""
    pushed = Remembered(ref.last_modified, ref.key)
    for _ in range(_STATE_TRIES):
        snapshot, memory = job.state.read(), memory_of(job, prefix)
        if memory and memory.older_than(pushed):
            return
        try:
            job.state.write(pushed.content(), snapshot.etag if snapshot else None)
        except StateChanged:
            continue
        return
    raise StateError(f"the STATE object {job.state.key!r} keeps changing; nothing is lost")
