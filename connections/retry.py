"""For how long requests are retried, and how many are in flight at a time.

The same policy applies to all services: the log service, the store, IAM.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from connections.values import http_date, whole_number

if TYPE_CHECKING:
    import tenacity

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one request is retried: for `seconds`, with any number of tries.

    The wait between two tries is random, up to `first_wait` seconds after the first one and twice
    as long after each further one, at most `longest_wait` ("full jitter": AWS Architecture Blog,
    "Exponential Backoff And Jitter"). It is added to the seconds of a `Retry-After`, so that
    clients with the same `Retry-After` do not return at the same time, and after a `Retry-After` of
    0 there is still a wait. The last try is made when the time is up; a `Retry-After` that is later
    than that ends the retries at once.

    A single exchange must end within `answer_seconds`.
    """

    seconds: float = 180.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    connect_seconds: float = 10.0
    answer_seconds: float = 60.0

    def wait(
        self, tries: int, elapsed: float, retry_after: float | None, chance: float
    ) -> float | None:
        """Seconds to wait before the next try; None if the time is up.

        `tries` were made, the first one `elapsed` seconds ago; `retry_after` is that of the last
        answer in seconds, if it has one; `chance` is a random number from 0 to 1.
        """
        asked, left = retry_after or 0.0, self.seconds - elapsed
        if left <= 0 or asked > left:
            return None
        longest = min(self.first_wait * 2.0 ** min(tries - 1, 100), self.longest_wait)
        return min(asked + chance * longest, left)


class TryAgain(Exception):
    """One failed try; `after` is the service's Retry-After in seconds, if it sent one."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


class Retrying:
    """Retries calls that raise TryAgain, by the policy; safe to use from several threads.

    Once `ended` returns True, there is no further wait. `on_wait` is called before each wait with
    the error, the number of tries and the seconds.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
        ended: Callable[[], bool] = lambda: False,
        on_wait: Callable[[TryAgain, int, float], None] = lambda error, tries, seconds: None,
    ) -> None:
        self._policy = policy
        self._sleep = sleep
        self._clock = clock
        self._ended = ended
        self._on_wait = on_wait

    def __call__(self, call: Callable[[], T]) -> T:
        """What `call` returns. The time starts now. Raises the last TryAgain."""
        started = self._clock()
        try:
            return call()
        except TryAgain as error:
            failed: TryAgain | None = error

        def repeat() -> T:
            nonlocal failed
            if failed:
                error, failed = failed, None
                raise error  # of the first try, which is made already
            return call()

        return self._retries(started)(repeat)

    def _retries(self, started: float) -> tenacity.Retrying:
        # Imported when it is needed: few runs retry, and a run for an event is mostly start.
        import tenacity

        def problem(state: tenacity.RetryCallState) -> TryAgain:
            error = state.outcome.exception() if state.outcome else None
            assert isinstance(error, TryAgain)
            return error

        def wait(state: tenacity.RetryCallState) -> float:
            elapsed, after = self._clock() - started, problem(state).after
            seconds = self._policy.wait(state.attempt_number, elapsed, after, random.random())
            return math.inf if seconds is None else seconds

        def sleep(seconds: float) -> None:
            self._sleep(seconds)

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TryAgain),
            wait=wait,
            stop=lambda state: state.upcoming_sleep == math.inf or self._ended(),
            sleep=sleep,
            before_sleep=lambda state: self._on_wait(
                problem(state), state.attempt_number, state.upcoming_sleep
            ),
            reraise=True,
        )


LONGEST_SECONDS = 999_999_999
"""A larger `Retry-After` is limited to this, which all system calls accept."""


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110, 10.2.3), or None if it is invalid.

    The header holds either seconds or an HTTP date; a date in the past means "now".
    """
    if value is None:
        return None
    seconds = whole_number(value, LONGEST_SECONDS)
    if seconds is not None:
        return float(seconds)
    at = http_date(value)
    return None if at is None else max(0.0, at - now.timestamp())


class Window:
    """How many requests may be in flight at once.

    Halved when the service is overloaded, once for all requests in flight at that time. One more
    after as many good answers as its size (additive increase, multiplicative decrease: RFC 5681,
    3.1).
    """

    def __init__(self, most: int) -> None:
        self.size = float(most)
        self._most = most
        self._in_flight = 0
        self._halvings = 0
        self._changed = threading.Condition()

    @contextmanager
    def slot(self) -> Iterator[int]:
        """Waits until one more request may be in flight; yields the argument of `overloaded`."""
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight < int(self.size))
            self._in_flight += 1
            halvings = self._halvings
        try:
            yield halvings
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def good(self) -> None:
        """Record a good answer."""
        with self._changed:
            self.size = min(self._most, self.size + 1 / self.size)
            self._changed.notify_all()

    def overloaded(self, halvings: int) -> None:
        """Record an answer with 429 or 503; `halvings` is what its `slot` yielded."""
        with self._changed:
            if halvings == self._halvings:
                self._halvings += 1
                self.size = max(1.0, self.size / 2)
