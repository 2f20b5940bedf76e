"""Reads objects ahead, with several requests in flight, and hands them out in order.

All waits for the store are here, so that a run that is told to stop ends them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TypeVar

from bucket.errors import StoreError
from bucket.listing import ObjectRef
from bucket.store import Body, Store
from connections.stop import Stop, Stopped

T = TypeVar("T")

READ_AHEAD_BYTES = 16 * 1024 * 1024
"""Limit of what is read ahead, compressed; the next object in order is always read."""

CALLS = 4
"""Other exchanges with the store at the same time: the one in use, and others abandoned early."""


class Reader:
    """Reads objects ahead with several requests in flight and hands them out in order."""

    _POLL_SECONDS = 0.1

    def __init__(self, store: Store, stop: Stop) -> None:
        self.store = store
        self.on_wait: Callable[[], None] = lambda: None
        """Called repeatedly while this waits."""
        self._stop = stop
        self._pool = ThreadPoolExecutor(store.concurrency, thread_name_prefix="reader")
        # A pool of its own, since all threads of the other may wait to retry an object.
        self._calls = ThreadPoolExecutor(CALLS, thread_name_prefix="call")

    def pages(self, prefix: str) -> Iterator[list[ObjectRef]]:
        """The listing, page by page. Raises Stopped, StoreError."""
        pages = self.store.pages(prefix)
        while (page := self.call(next, pages, None)) is not None:
            yield page

    def bodies(
        self, refs: Iterable[ObjectRef], while_waiting: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[ObjectRef, Body | Exception]]:
        """The objects in order, each with its body or an error. Raises Stopped, StoreError.

        `while_waiting` is called repeatedly until the next one is there; an error that it raises
        ends the reading.
        """
        waiting: deque[tuple[ObjectRef, Future[tuple[str, Body]]]] = deque()
        ahead = 0
        for ref in refs:
            while waiting and (
                len(waiting) >= 2 * self.store.concurrency or ahead + ref.size > READ_AHEAD_BYTES
            ):
                ahead -= waiting[0][0].size
                yield self._next(waiting, while_waiting)
            waiting.append((ref, self._pool.submit(self._read, ref)))
            ahead += ref.size
        while waiting:
            yield self._next(waiting, while_waiting)

    def _read(self, ref: ObjectRef) -> tuple[str, Body]:
        # A listing has times and exact keys; an event has no time, and perhaps an encoded key.
        if ref.last_modified:
            return ref.key, self.store.read(ref.key)
        return self.store.read_event(ref.key)

    def _next(
        self,
        waiting: deque[tuple[ObjectRef, Future[tuple[str, Body]]]],
        while_waiting: Callable[[], None],
    ) -> tuple[ObjectRef, Body | Exception]:
        ref, future = waiting.popleft()
        self.first((future,), while_waiting)
        # Any other error concerns this object only, even an unexpected one.
        error = future.exception()
        if isinstance(error, Exception) and not isinstance(error, StoreError):
            return ref, error
        key, body = future.result()
        # A time from a listing is kept.
        return replace(ref, key=key, last_modified=ref.last_modified or body.last_modified), body

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """`function(*arguments)`. Raises Stopped if the run is to end before it returns."""
        return self._wait(self._calls.submit(function, *arguments))

    def _wait(self, future: Future[T]) -> T:
        self.first((future,))
        return future.result()

    def begin(self, function: Callable[..., T], *arguments: object) -> Future[T]:
        """Start `function(*arguments)`, as one of several calls at the same time."""
        return self._pool.submit(function, *arguments)

    def first(
        self, calls: Collection[Future[T]], while_waiting: Callable[[], None] = lambda: None
    ) -> set[Future[T]]:
        """Those of these calls that end first. Raises Stopped if the run is to end before that."""
        while True:
            if self._stop.requested():
                raise Stopped
            self.on_wait()
            # Mostly one has ended already, and checking that costs less than `wait`.
            done = {call for call in calls if call.done()}
            done = done or wait(calls, self._POLL_SECONDS, FIRST_COMPLETED).done
            if done:
                return done
            while_waiting()

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`. Raises Stopped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.on_wait()
            self._stop.pause(min(left, 1.0))

    def close(self) -> None:
        """Cancel queued reads; the threads end by themselves."""
        for pool in (self._pool, self._calls):
            pool.shutdown(wait=False, cancel_futures=True)
