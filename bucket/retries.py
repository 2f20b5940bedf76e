"""Retries requests to the store: for how long, how many at a time, and what is at fault."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bucket.errors import ObjectError, ReadInterrupted, StoreUnavailable, Trouble, Unanswered
from connections.retry import RetryPolicy, Window

log = logging.getLogger("flowlog.bucket")

T = TypeVar("T")

OBJECT_TRIES = 5
"""An object that can't be read although others can is given up after this many tries."""

LOG_SECONDS = 10.0
"""Failed requests are logged at most this often."""


@dataclass(slots=True)
class _Failing:
    """A request that has failed: when it failed first and last, and how often.

    `object_failures` counts the tries that may have failed because of the requested object.
    """

    first: float
    last: float
    recoveries: int
    tries: int = 0
    object_failures: int = 0

    def count(self, trouble: Trouble, recoveries: int) -> None:
        """Count one more failed try; `recoveries` as `Retries` counts them."""
        self.tries += 1
        if trouble is Trouble.OVERLOAD and recoveries != self.recoveries:
            # Other requests were rejected too and then worked: the store is at fault.
            self.recoveries, self.object_failures = recoveries, 0
        self.object_failures += trouble is not Trouble.UNREACHABLE


class Retries:
    """Retries the requests of several threads to one store.

    The threads share what they learn: requests are retried until none has worked for the policy's
    time. While the store rejects requests or can't be reached, fewer are in flight.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        connections: int,
        pause: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`pause` waits for this many seconds, and raises Stopped if the run is to end."""
        self.window = Window(connections)
        self._policy = policy
        self._pause = pause
        self._clock = clock
        self._chance = chance
        self._lock = threading.Lock()
        self._worked = self._logged = -math.inf
        self._failing_since: float | None = None
        self._recoveries = 0
        self._ended: StoreUnavailable | None = None

    def read(self, attempt: Callable[[], T], another: Callable[[], object]) -> T:
        """The answer about one object.

        `attempt` raises Unanswered if there is no usable one. `another` reads an object that could
        be read before; it also raises Unanswered if there is none. Raises ReadInterrupted if this
        object can't be read although others can, StoreUnavailable if nothing can be read.
        """
        return self._persist(attempt, self._pause, another)

    def ask(self, attempt: Callable[[], T]) -> T:
        """The answer about the bucket. Raises StoreUnavailable."""
        return self._persist(attempt, self._pause, None)

    def _persist(
        self,
        attempt: Callable[[], T],
        pause: Callable[[float], None],
        another: Callable[[], object] | None,
    ) -> T:
        begun = self._clock()
        failing: _Failing | None = None
        while True:
            try:
                answer = self._try(attempt, not_ended=another is not None)
            except Unanswered as error:
                failing = failing or _Failing(begun, begun, self._recoveries)
                pause(self._wait(failing, error, another))
            else:
                if failing and failing.object_failures:
                    with self._lock:
                        self._recoveries += 1
                return answer

    def _try(self, attempt: Callable[[], T], *, not_ended: bool = False) -> T:
        """One try, whose result all threads share; `not_ended`: no try after StoreUnavailable."""
        begun = self._clock()
        with self.window.slot() as halvings:
            if not_ended and self._ended:
                raise self._ended
            try:
                answer = attempt()
            except Unanswered as error:
                if error.trouble is not Trouble.NO_ANSWER:
                    self.window.overloaded(halvings)
                with self._lock:
                    if self._failing_since is None:
                        self._failing_since = max(begun, self._worked)
                raise
            except ObjectError:
                self._note_success()  # this is an answer, too
                raise
        self._note_success()
        return answer

    def _note_success(self) -> None:
        self.window.good()
        with self._lock:
            self._worked = self._clock()
            self._failing_since = None

    def _wait(
        self, failing: _Failing, error: Unanswered, another: Callable[[], object] | None
    ) -> float:
        """Seconds until the next try. Raises ReadInterrupted, StoreUnavailable."""
        failing.count(error.trouble, self._recoveries)
        now, tries, policy = self._clock(), failing.tries, self._policy
        others_work = another is not None and self._worked > failing.last
        if others_work and failing.object_failures >= OBJECT_TRIES:
            raise ReadInterrupted(str(error))
        wait = policy.wait(tries, now - failing.first, error.after, self._chance())
        if wait is None and another is not None and self._worked > failing.first:
            raise ReadInterrupted(str(error))
        since = self._failing_since
        elapsed = now - (failing.first if since is None else since)
        if wait is None or policy.wait(tries, elapsed, error.after, 0) is None:
            self._ended = StoreUnavailable(f"{error}; nothing has worked for {elapsed:.0f} s")
            raise self._ended
        failing.last = now
        if another and not others_work and failing.object_failures >= OBJECT_TRIES - 1:
            # If the other object can be read now, the next failure is the fault of this one.
            try:
                self._try(another)
            except Unanswered:
                failing.object_failures = 0
            except ObjectError:
                pass  # deleted meanwhile: this is an answer, too
        self._log(error, wait)
        return wait

    def _log(self, error: Unanswered, wait: float) -> None:
        with self._lock:
            now = self._clock()
            if now - self._logged < LOG_SECONDS:
                return
            self._logged = now
        log.warning("%s; retrying in %.1f s", error, wait)
