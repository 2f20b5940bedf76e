"""Asks the store again: how long, how many requests at once, and whose fault a failure is."""

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
"""An object that can't be read although others can is given up after so many tries."""

LOG_SECONDS = 10.0
"""A store that gives no answers is logged at most this often."""


@dataclass(slots=True)
class _Failing:
    """A request that has failed: when first and last, and how often.

    `held_against` counts the tries that may have failed because of what was asked for.
    """

    first: float
    last: float
    recoveries: int
    tries: int = 0
    held_against: int = 0

    def note(self, trouble: Trouble, recoveries: int) -> None:
        """Count one more failed try; `recoveries` as `Retries` counts them."""
        self.tries += 1
        if trouble is Trouble.OVERLOAD and recoveries != self.recoveries:
            # Others were turned away as well and then read: it is the store, not this object.
            self.recoveries, self.held_against = recoveries, 0
        self.held_against += trouble is not Trouble.UNREACHABLE


class Retries:
    """Repeats the requests to one store; safe to use from several threads, which it is about.

    The threads share what they know: a request is repeated until nothing has worked for the
    policy's time. While the store turns requests away, or can't be reached, fewer are in flight.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        connections: int,
        pause: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`pause` waits for so many seconds, and raises where the run is to end."""
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

        `attempt` raises Unanswered where there is no usable one; `another` reads an object that
        could be read before, and raises it also where there was none. Raises ReadInterrupted
        where this one can't be read although others can, StoreUnavailable where nothing can.
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
                if failing and failing.held_against:
                    with self._lock:
                        self._recoveries += 1
                return answer

    def _try(self, attempt: Callable[[], T], *, not_ended: bool = False) -> T:
        """One try, and what all threads learn from it; `not_ended`: not once the run has ended."""
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
                self._note_success()  # an answer, although not the one that was hoped for
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
        failing.note(error.trouble, self._recoveries)
        now, tries, policy = self._clock(), failing.tries, self._policy
        others_work = another is not None and self._worked > failing.last
        if others_work and failing.held_against >= OBJECT_TRIES:
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
        if another and not others_work and failing.held_against >= OBJECT_TRIES - 1:
            # Where it can be read and this object can't once more, it is this object's fault.
            try:
                self._try(another)
            except Unanswered:
                failing.held_against = 0
            except ObjectError:
                pass  # it is gone by now: an answer as well
        self._log(error, wait)
        return wait

    def _log(self, error: Unanswered, wait: float) -> None:
        with self._lock:
            now = self._clock()
            if now - self._logged < LOG_SECONDS:
                return
            self._logged = now
        log.warning("%s; asked again in %.1f s", error, wait)
