"""How long a service is asked again, and how many requests it is sent at once.

The one policy of all services: the log service, the store, IAM.
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

import tenacity

from connections.values import http_date, whole_number


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one request is tried: for `seconds`, however many tries that makes.

    The wait between two tries is random, up to `first_wait` seconds after the first one and twice
    as long after each further one, at most `longest_wait` ("full jitter": AWS Architecture Blog,
    "Exponential Backoff And Jitter"). The seconds of a `Retry-After` come before it, so that
    clients which are told the same time don't come back together, and one that is told 0 again and
    again does not ask without a pause. The last try is made when the time is up; a `Retry-After`
    that leads past it ends the tries at once.

    A single exchange has `answer_seconds`, however slowly bytes come.
    """

    seconds: float = 180.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    connect_seconds: float = 10.0
    answer_seconds: float = 60.0

    def wait(
        self, tries: int, elapsed: float, retry_after: float | None, chance: float
    ) -> float | None:
        """Seconds to wait before the next try; None where the time is up.

        `tries` were made, the first one `elapsed` seconds ago; `retry_after` in seconds, if the
        last answer has one; `chance` is a random number from 0 to 1.
        """
        asked, left = retry_after or 0.0, self.seconds - elapsed
        if left <= 0 or asked > left:
            return None
        spread = min(self.first_wait * 2.0 ** min(tries - 1, 100), self.longest_wait)
        return min(asked + chance * spread, left)


class TryAgain(Exception):
    """One failed try; `after` is what the service's Retry-After asked for, in seconds."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


def retrying(
    policy: RetryPolicy,
    *,
    sleep: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
    ended: Callable[[], bool] = lambda: False,
    on_wait: Callable[[TryAgain, int, float], None] = lambda error, tries, seconds: None,
) -> tenacity.Retrying:
    """Tries that fail with TryAgain are repeated by the policy; the last TryAgain is raised.

    The time runs from now on. `ended` permits no further wait once it says True. `on_wait` hears
    of each wait: why, after how many tries, for how many seconds.
    """
    started = clock()

    def problem(state: tenacity.RetryCallState) -> TryAgain:
        error = state.outcome.exception() if state.outcome else None
        assert isinstance(error, TryAgain)
        return error

    def wait(state: tenacity.RetryCallState) -> float:
        elapsed, after = clock() - started, problem(state).after
        seconds = policy.wait(state.attempt_number, elapsed, after, random.random())
        return math.inf if seconds is None else seconds

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TryAgain),
        wait=wait,
        stop=lambda state: state.upcoming_sleep == math.inf or ended(),
        sleep=sleep,
        before_sleep=lambda state: on_wait(
            problem(state), state.attempt_number, state.upcoming_sleep
        ),
        reraise=True,
    )


LONGEST_SECONDS = 999_999_999
"""A `Retry-After` that asks for more is cut to this, which no system call refuses."""


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110, 10.2.3), or None where it says nothing.

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

    Halved when the service is overloaded, once for all requests that were in flight by then; one
    more for every windowful of good answers (additive increase, multiplicative decrease: RFC 5681,
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
        """Room for one request, as soon as there is any; the value `overloaded` asks for."""
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
        """A request was answered well."""
        with self._changed:
            self.size = min(self._most, self.size + 1 / self.size)
            self._changed.notify_all()

    def overloaded(self, halvings: int) -> None:
        """A request was answered with 429 or 503; `halvings` as its `slot` gave it."""
        with self._changed:
            if halvings == self._halvings:
                self._halvings += 1
                self.size = max(1.0, self.size / 2)
