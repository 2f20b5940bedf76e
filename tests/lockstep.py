"""Runs production code in threads, of which only one runs at a time, request by request.

A model decides which run makes its next request, and whether it crashes before or after it. Between
steps every run waits before its next request. So a test can produce every order of requests of real
processes, and repeat it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Crash(BaseException):
    """The process dies. Not an Exception, so that no code of the job handles it."""


class Run:
    """One run of the job. `wake_at` is the time before which `step` must not be called."""

    def __init__(self, name: str, body: Callable[[Run], None]) -> None:
        self.name = name
        self.error: Exception | None = None
        self.crashed = False
        self.wake_at = 0.0
        self._body = body
        self._crash_before = self._crash_after = False
        self._go = threading.Semaphore(0)
        self._parked = threading.Semaphore(0)
        self.alive = True
        threading.Thread(target=self._main, daemon=True).start()
        self._parked.acquire()

    def step(self, *, crash_before: bool = False, crash_after: bool = False) -> None:
        """Let it do its next request, up to the one after it or to its end."""
        assert self.alive
        self._crash_before, self._crash_after = crash_before, crash_after
        self._go.release()
        assert self._parked.acquire(timeout=30), f"{self.name} hangs"

    def request(self, effect: Callable[[], T]) -> T:
        """Called in the run's thread: wait for the next step, then let `effect` happen."""
        self._park()
        if self._crash_before:
            raise Crash
        result = effect()
        if self._crash_after:
            raise Crash
        return result

    def pause(self, until: float) -> None:
        """Called in the run's thread: wait until that time."""
        self.wake_at = until
        self.request(lambda: None)
        self.wake_at = 0.0

    def _park(self) -> None:
        self._parked.release()
        self._go.acquire()

    def _main(self) -> None:
        try:
            self._park()
            self._body(self)
        except Crash:
            self.crashed = True
        except Exception as error:
            self.error = error
        finally:
            self.alive = False
            self._parked.release()
