"""The run that owns STATE, in any mode: claim, checkpoint, signs of life, release.

docs/modes.md draws the states and argues why nothing is lost and what can be sent twice.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

from bucket.errors import StoreError
from bucket.listing import ObjectRef
from bucket.state import (
    Replaced,
    Snapshot,
    StateChanged,
    StateError,
    StateLost,
    StateObject,
    StateUnreadable,
)
from bucket.state_text import Work
from connections.stop import Stopped
from push.loop import OnSettled, PushEnded

log = logging.getLogger("flowlog.worker")

CHECKPOINT_SECONDS = 30.0
"""STATE is written this often while a worker pushes or waits: a checkpoint and a sign of life."""

_CLAIM_TRIES = 10
_RACE_SECONDS = 0.5
_SAVE_TRIES = 10

W = TypeVar("W", bound=Work)

Read = Callable[[Snapshot, str], W]
"""Parses the STATE of a mode; the second argument is STATE's key. Raises StateUnreadable."""


class Job(Protocol):
    """What a worker needs of its run."""

    @property
    def job_run(self) -> str:
        """The name of this job run, the same in all its retries."""

    @property
    def state(self) -> StateObject:
        """STATE."""

    def listed(
        self,
        wanted: Callable[[ObjectRef], bool] = ...,
        after_page: Callable[[], None] = ...,
    ) -> Sequence[ObjectRef]:
        """The wanted objects, oldest first; calls `after_page` after each page of the listing."""

    def push(self, refs: Sequence[ObjectRef], on_settled: OnSettled = ...) -> None:
        """Push the objects in their order. Raises PushEnded."""

    def send_pending(self) -> None:
        """Send pending lines, so that their objects can settle; does not wait for an answer."""

    def while_waiting(self, call: Callable[[], None]) -> None:
        """Call this repeatedly while the run waits for the store or the log service."""

    def pause(self, seconds: float) -> None:
        """Wait. Raises Stopped."""


def claim(job: Job, first: W, read: Read[W], snapshot: Snapshot | None) -> Claim[W] | None:
    """Become the worker; None if another run is the worker, or if there is nothing left to do.

    `first` is the STATE of a first run, `snapshot` is STATE as this run has just read it. Raises
    StateError (such as UnsafeStore), before anything was sent.
    """
    for _ in range(_CLAIM_TRIES):
        state = read(snapshot, job.state.key) if snapshot else first
        if snapshot and (reason := state.refusal(snapshot, job.job_run)):
            log.info("nothing to do: %s", reason)
            return None
        job.state.check_preconditions(snapshot)
        own = secrets.token_hex(4)
        if snapshot:
            if state.worker is not None:
                log.warning("taking over from worker %s, at %s", state.worker, state.mark)
            state = state.claimed(job.job_run, own, snapshot)
        else:
            state = state.next(worker=job.job_run, claim=own)
        try:
            etag = job.state.write(state.content(), snapshot.etag if snapshot else None)
        except StateChanged:
            # Another run was faster: start again from what it wrote.
            job.pause(_RACE_SECONDS)
            snapshot = job.state.read()
            continue
        return Claim(job, state, etag, read)
    raise StateError(f"the STATE object {job.state.key!r} can't be created; nothing is lost")


class Claim(Generic[W]):
    """This run's ownership of STATE, which lasts while STATE has the ETag of its last write."""

    def __init__(self, job: Job, state: W, etag: str, read: Read[W]) -> None:
        self.state = state
        """What the next write puts into STATE."""
        self._job = job
        self._stored = state
        self._etag = etag
        self._read = read
        self._last_try = time.monotonic()
        self._lost = False
        self._save_error: StateError | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Shows signs of life while the run works, and releases STATE at the end.

        So the next run can continue at once, however this one ends. PushEnded, and Replaced by
        another worker, end the work and are not raised. Raises StateError, also if it ended the
        push.
        """
        log.info("worker %s begins at %s", self.state.worker, self.state.mark)
        self._job.while_waiting(self.sign_of_life)
        try:
            yield
            if self.state.worker is not None:
                self.save(worker=None)
        except Replaced as replaced:
            log.warning("stopped: %s. That one continues from the last checkpoint", replaced)
        except PushEnded:
            self._release()
            if self._save_error:
                raise self._save_error from None
        except StateLost:
            raise
        except Exception:
            self._release()
            raise
        finally:
            self._job.while_waiting(lambda: None)

    def checkpoint(self) -> None:
        """Write STATE if it is time; send pending lines, so that the next write moves the mark."""
        if self._is_due():
            self._job.send_pending()
            self.save()

    def sign_of_life(self) -> None:
        """Write STATE if it is time. Raises StateLost, once."""
        if self._is_due() and not self._lost:
            self.save()

    def save(self, **changes: Any) -> None:
        """Write STATE with these changes. Raises StateLost if this run no longer owns it."""
        self._last_try = time.monotonic()
        try:
            self._save(changes)
        except StateLost:
            self._lost = True
            raise
        except StateError as error:
            self._save_error = error
            raise

    def _save(self, changes: Mapping[str, Any]) -> None:
        if self.state.time_is_needed:
            self.refresh()
        for _ in range(_SAVE_TRIES):
            wanted = self.state.next(**changes)
            try:
                self._etag = self._job.state.write(wanted.content(), self._etag)
            except StateChanged as changed:
                self._update(changed.now)
                continue
            self.state = self._stored = wanted
            return
        raise StateError(f"the STATE object {self._job.state.key!r} keeps changing")

    def refresh(self) -> Snapshot:
        """Read STATE as it is now, with the store's clock. Raises StateLost."""
        snapshot = self._job.state.read()
        return self._update(snapshot)

    def _is_due(self) -> bool:
        return time.monotonic() - self._last_try >= CHECKPOINT_SECONDS

    def _update(self, snapshot: Snapshot | None) -> Snapshot:
        """Continue from STATE as it is now, if it is still this run's. Raises StateLost.

        It can differ from this run's last write: a run with an event may have removed a failure,
        or a write that seemed to fail was carried out.
        """
        name = f"the STATE object {self._job.state.key!r}"
        if snapshot is None:
            raise StateLost(
                f"{name} was deleted while this run was working: the next run starts over"
            )
        try:
            now = self._read(snapshot, self._job.state.key)
        except StateUnreadable as unreadable:
            raise StateLost(str(unreadable)) from None
        if now.claim != self.state.claim and now.worker == self.state.worker:
            raise StateLost(f"{name} belongs to another try of this job run, which continues")
        if now.claim != self.state.claim:
            raise Replaced(f"{name} belongs to another worker now, {now.worker}")
        self.state = self.state.rebased(self._stored, now, snapshot)
        self._stored, self._etag = now, snapshot.etag
        return snapshot

    def _release(self) -> None:
        """Release STATE. A failure is only logged, since the run ends for another reason."""
        try:
            self.save(worker=None)
        except Replaced as replaced:
            log.warning("stopped: %s", replaced)
        except (StateError, StoreError, Stopped) as error:
            log.warning(
                "STATE could not be released; the next run must wait for the end of the lease: %s",
                error,
            )
        else:
            log.warning("the work is not finished; the next run continues from the checkpoint")
