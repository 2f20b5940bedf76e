"""Reads objects ahead, with several requests in flight, and hands them out in order.

All waiting for the store goes through here, so that a run that is told to stop stops waiting.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, TypeVar

from bucket.errors import StoreError, StoreUnavailable
from bucket.listing import ObjectRef
from bucket.state import Snapshot
from bucket.store import Body, Store
from connections.stop import Stop, Stopped

T = TypeVar("T")

READ_AHEAD_BYTES = 16 * 1024 * 1024
"""Bound of what is read ahead, compressed; the next object in turn is always permitted."""

CALL_SECONDS = 600.0
"""Bound of any other exchange with the store, retries included, such as a page of the listing."""

STOPPING_SECONDS = 5.0
"""Bound of an exchange about STATE once the run is to end."""


class Reader:
    """Reads objects ahead with several requests in flight and hands them out in order."""

    _POLL_SECONDS = 0.1

    def __init__(self, store: Store, stop: Stop) -> None:
        self.store = store
        self._stop = stop
        self._pool = ThreadPoolExecutor(store.concurrency, thread_name_prefix="reader")

    def pages(self, prefix: str) -> Iterator[list[ObjectRef]]:
        """The listing, page by page. Raises Stopped, StoreError."""
        pages = self.store.pages(prefix)
        while (page := self.call(next, pages, None)) is not None:
            yield page

    def bodies(
        self, refs: Iterable[ObjectRef], while_waiting: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[ObjectRef, Body | Exception]]:
        """The objects in order, or why there is none. Raises Stopped, StoreError.

        `while_waiting` is called again and again while the next one isn't there yet; what it raises
        ends the reading.
        """
        waiting: deque[tuple[ObjectRef, Future[Body]]] = deque()
        ahead = 0
        for ref in refs:
            while waiting and (
                len(waiting) >= 2 * self.store.concurrency or ahead + ref.size > READ_AHEAD_BYTES
            ):
                ahead -= waiting[0][0].size
                yield self._next(waiting, while_waiting)
            waiting.append((ref, self._pool.submit(self.store.read, ref.key)))
            ahead += ref.size
        while waiting:
            yield self._next(waiting, while_waiting)

    def _next(
        self, waiting: deque[tuple[ObjectRef, Future[Body]]], while_waiting: Callable[[], None]
    ) -> tuple[ObjectRef, Body | Exception]:
        ref, future = waiting.popleft()
        self._wait_until_done(future, while_waiting=while_waiting)
        # Whatever else a read raises belongs to its object, also where nobody foresaw it.
        error = future.exception()
        if isinstance(error, Exception) and not isinstance(error, StoreError):
            return ref, error
        body = future.result()
        # An event doesn't tell when its object was written; where a listing did, its time is kept.
        return ref if ref.last_modified else replace(ref, last_modified=body.last_modified), body

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """`function(*arguments)`. Raises Stopped where the run is to end before it answers.

        And StoreUnavailable where the answer goes on and on.
        """
        return self._wait(self._pool.submit(function, *arguments), CALL_SECONDS)

    def finish(self, function: Callable[..., T], *arguments: object) -> T:
        """The same, but a run that is to end still waits `STOPPING_SECONDS`, to save its state."""
        return self._wait(self._pool.submit(function, *arguments), CALL_SECONDS, STOPPING_SECONDS)

    def _wait(self, future: Future[T], seconds: float, stopping: float = 0.0) -> T:
        """The future's result, waited for as `_wait_until_done` does."""
        self._wait_until_done(future, seconds, stopping)
        return future.result()

    def _wait_until_done(
        self,
        future: Future[Any],
        seconds: float = math.inf,
        stopping: float = 0.0,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait; raises Stopped where the run is to end, `stopping` seconds after that is known."""
        end, last = time.monotonic() + seconds, math.inf
        while (now := time.monotonic()) < end:
            if self._stop.requested():
                last = min(last, now + stopping)
            if now >= last:
                raise Stopped
            if future.done() or wait((future,), self._POLL_SECONDS).done:
                return
            while_waiting()
        raise StoreUnavailable(f"the object store gave no whole answer within {seconds:g} s")

    def pause(self, seconds: float) -> None:
        """Wait for `seconds`. Raises Stopped."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._stop.requested():
                raise Stopped
            # Not an Event: a signal's handler could not set it while this thread waits on it.
            time.sleep(min(left, self._POLL_SECONDS))

    def close(self) -> None:
        """Queued reads are cancelled; the threads end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class InterruptibleState:
    """STATE in the store, read and written so that a signal is noticed meanwhile."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def get_state(self, key: str) -> Snapshot | None:
        return self._reader.finish(self._reader.store.get_state, key)

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        return self._reader.finish(self._reader.store.put_state, key, content, etag)

    def delete_state(self, key: str) -> None:
        self._reader.finish(self._reader.store.delete_state, key)
