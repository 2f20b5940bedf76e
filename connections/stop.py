"""The request to end a run early: set by a signal, and raised by waits as Stopped."""

from __future__ import annotations

import time

_POLL_SECONDS = 0.1


class Stopped(Exception):
    """The run was told to stop while it waited."""


class Stop:
    """Whether the run was told to end, and by which signal.

    A signal handler only assigns `signal`, since it may interrupt the main thread inside a lock.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`. Raises Stopped soon after the run was told to stop."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.requested():
                raise Stopped
            # Not an Event: a signal handler could not set it while this thread waits for it.
            time.sleep(min(left, _POLL_SECONDS))
