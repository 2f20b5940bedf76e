"""Reads objects ahead, with several requests in flight, and hands them out in order.

All waiting for the store goes through here, so that a run that is told to stop stops waiting.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from typing import TypeVar

from bucket.errors import ObjectError, StoreUnavailable
from bucket.listing import ObjectRef
from bucket.store import Body, Store
from connections.stop import Stop, Stopped

T = TypeVar("T")

READ_AHEAD_BYTES = 16 * 1024 * 1024
"""Bound of what is read ahead, compressed; the next object in turn is always permitted."""

CALL_SECONDS = 600.0
"""Bound of any other exchange with the store, retries included, such as a page of the listing."""


class Reader:
    """Reads objects ahead with several requests in flight and hands them out in order."""

    _POLL_SECONDS = 0.1

    def __init__(self, store: Store, stop: Stop) -> None:
        self.store = store
        self.on_wait: Callable[[], None] = lambda: None
        """Called again and again while this waits."""
        self._stop = stop
        self._pool = ThreadPoolExecutor(store.concurrency, thread_name_prefix="reader")

    def pages(self, prefix: str) -> Iterator[list[ObjectRef]]:
        """The listing, page by page. Raises Stopped, StoreError."""
        pages = self.store.pages(prefix)
        while (page := self.call(next, pages, None)) is not None:
            yield page

    def bodies(self, refs: Iterable[ObjectRef]) -> Iterator[tuple[ObjectRef, Body | ObjectError]]:
        """The objects in order, or why there is none. Raises Stopped, StoreError."""
        waiting: deque[tuple[ObjectRef, Future[Body]]] = deque()
        ahead = 0
        for ref in refs:
            while waiting and (
                len(waiting) >= 2 * self.store.concurrency or ahead + ref.size > READ_AHEAD_BYTES
            ):
                ahead -= waiting[0][0].size
                yield self._next(waiting)
            waiting.append((ref, self._pool.submit(self.store.read, ref.key)))
            ahead += ref.size
        while waiting:
            yield self._next(waiting)

    def _next(
        self, waiting: deque[tuple[ObjectRef, Future[Body]]]
    ) -> tuple[ObjectRef, Body | ObjectError]:
        ref, future = waiting.popleft()
        try:
            body = self._wait(future)
        except ObjectError as error:
            return ref, error
        # An event doesn't tell when its object was written; where a listing did, its time is kept.
        return ref if ref.last_modified else replace(ref, last_modified=body.last_modified), body

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """`function(*arguments)`. Raises Stopped where the run is to end before it answers.

        And StoreUnavailable where the answer goes on and on.
        """
        return self._wait(self._pool.submit(function, *arguments), CALL_SECONDS)

    def begin(self, function: Callable[..., T], *arguments: object) -> Future[T]:
        """`function(*arguments)`, as one of several calls that go on at the same time."""
        return self._pool.submit(function, *arguments)

    def first(self, calls: Collection[Future[T]]) -> set[Future[T]]:
        """Those of these calls that end first. Raises Stopped."""
        while True:
            if self._stop.requested():
                raise Stopped
            self.on_wait()
            done = wait(calls, self._POLL_SECONDS, FIRST_COMPLETED).done
            if done:
                return done

    def _wait(self, future: Future[T], seconds: float = math.inf) -> T:
        """The future's result; unlike a plain wait it notices that the run is to end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._stop.requested():
                raise Stopped
            self.on_wait()
            try:
                return future.result(self._POLL_SECONDS)
            except FutureTimeout:
                if future.done():
                    raise
        raise StoreUnavailable(f"the object store gave no whole answer within {seconds:g} s")

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`. Raises Stopped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._stop.requested():
                raise Stopped
            self.on_wait()
            # Not an Event: a signal's handler could not set it while this thread waits on it.
            time.sleep(min(left, self._POLL_SECONDS))

    def close(self) -> None:
        """Queued reads are cancelled; the threads end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)
