"""How long a service is asked again, and how many requests it is sent at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long one request is tried: at most `tries` times, within `seconds`.

    Between tries the wait is random up to `first_wait`, doubled each time, at most `longest_wait`
    seconds ("full jitter"); a `Retry-After` takes its place. One that would lead past `seconds`
    ends the tries at once. A single exchange has `answer_seconds`, however slowly bytes come.
    """

    tries: int = 10
    seconds: float = 180.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    connect_seconds: float = 10.0
    answer_seconds: float = 60.0


def retry_after_seconds(value: str | None, now: datetime) -> float | None:
    """Seconds to wait by a `Retry-After` header (RFC 9110, 10.2.3), or None where it says nothing.

    The header holds either seconds or an HTTP date; a date in the past means "now".
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


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
