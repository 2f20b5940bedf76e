"""Exchanges with the store about STATE, on threads of their own; they end soon after a signal.

If they queued behind the reads of objects, which can take a minute each, a worker that is stopped
could not release STATE in time.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from bucket.errors import Unanswered
from bucket.state import Snapshot, StateUnavailable
from bucket.store import Store
from connections.retry import RetryPolicy
from connections.stop import Stop, Stopped

T = TypeVar("T")

STOPPING_SECONDS = 5.0
"""How long exchanges about STATE may still take once the run is to end."""

_POLL_SECONDS = 0.1
_THREADS = 4
"""A request that gets no answer must not delay the next one."""


class StateExchange:
    """Implements `bucket.state.StateStore` with a real store. `policy` limits its retries."""

    def __init__(self, store: Store, stop: Stop, policy: RetryPolicy) -> None:
        self._store = store
        self._stop = stop
        self._policy = policy
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="state")

    def get_state(self, key: str) -> Snapshot | None:
        """STATE, or None if there is none."""
        return self._call(self._store.get_state, key)

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        """Write STATE on a precondition; return its new ETag."""
        return self._call(self._store.put_state, key, content, etag)

    def delete_state(self, key: str) -> None:
        """Delete STATE."""
        self._call(self._store.delete_state, key)

    def patience(self) -> StatePatience:
        """The time limit and waits for one purpose, starting now."""
        return StatePatience(self._stop, self._policy)

    def close(self) -> None:
        """Cancel queued exchanges; the threads end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _call(self, function: Callable[..., T], *arguments: object) -> T:
        future = self._pool.submit(function, *arguments)
        # Connecting and each read have their own limits; this one is for an endless answer.
        limit = _Limit(self._stop, self._policy.connect_seconds + 2 * self._policy.answer_seconds)
        while not wait([future], _POLL_SECONDS).done:
            if limit.is_over():
                raise Unanswered("the object store gave no complete answer")
        return future.result()


class StatePatience:
    """Waits between tries by the retry policy, which all requests of the job share."""

    def __init__(self, stop: Stop, policy: RetryPolicy) -> None:
        self._policy = policy
        self._limit = _Limit(stop, policy.seconds)
        self._began = time.monotonic()
        self._tries = 0

    def wait(self, unanswered: Unanswered) -> None:
        """Wait before the next try. Raises StateUnavailable once the time is over, and Stopped."""
        self._tries += 1
        elapsed = time.monotonic() - self._began
        pause = self._policy.wait(self._tries, elapsed, unanswered.after, random.random())
        if pause is None:
            raise StateUnavailable(
                f"the object store does not answer about STATE: {unanswered};"
                " look at COS_ENDPOINT and the store's status"
            )
        end = time.monotonic() + pause
        while (left := end - time.monotonic()) > 0:
            self._limit.is_over()
            time.sleep(min(left, _POLL_SECONDS))


class _Limit:
    """A time limit, which becomes shorter once the run is to end."""

    def __init__(self, stop: Stop, seconds: float) -> None:
        self._stop = stop
        self._end = time.monotonic() + seconds
        self._last: float | None = None

    def is_over(self) -> bool:
        """Whether the time is over. Raises Stopped."""
        now = time.monotonic()
        if self._stop.requested():
            self._last = now + STOPPING_SECONDS if self._last is None else self._last
            if now >= self._last:
                raise Stopped
        return now >= self._end
