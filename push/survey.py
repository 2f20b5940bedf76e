"""Lists the newest hours of all interfaces, with several requests at a time if there are many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from bucket.errors import StoreError
from bucket.interfaces import LONG_WALK_PAGES, Walk, folders_ahead
from bucket.listing import Listing, ObjectRef, Page, PageRequest
from push.reader import Reader


class Survey:
    """Lists one bucket: by one walk, which is divided into several if it turns out to be long."""

    def __init__(
        self,
        reader: Reader,
        wanted: Callable[[ObjectRef], bool],
        long_walk_pages: int | None = None,
    ) -> None:
        self._long_walk_pages = long_walk_pages or LONG_WALK_PAGES
        self._reader = reader
        self._wanted = wanted
        self._waiting: deque[Walk] = deque()
        self._asked: dict[Future[Page], Walk] = {}
        self._found: list[tuple[str, Listing]] = []
        """What each walk found, with the key after which it began."""
        self._listings: dict[Walk, Listing] = {}

    def listed(self, walk: Walk, after_page: Callable[[], None]) -> Listing:
        """The wanted objects, oldest first; calls `after_page` after each page.

        Raises Stopped, StoreError, and what `after_page` raises.
        """
        self._add(walk)
        try:
            while self._waiting or self._asked:
                self._ask()
                for answered in self._reader.first(self._asked):
                    self._take(self._asked.pop(answered), answered.result())
                    after_page()
        finally:
            for left in self._asked:
                left.cancel()
        return self._joined()

    def _add(self, walk: Walk) -> None:
        self._waiting.append(walk)
        self._listings[walk] = Listing()
        self._found.append((walk.after, self._listings[walk]))

    def _ask(self) -> None:
        while self._waiting and len(self._asked) < self._reader.store.concurrency:
            walk = self._waiting.popleft()
            self._asked[self._reader.begin(self._reader.store.page, walk.request)] = walk

    def _take(self, walk: Walk, page: Page) -> None:
        listing = self._listings[walk]
        try:
            for ref in walk.take(page):
                if self._wanted(ref):
                    listing.append(ref)
        except ValueError as error:
            raise StoreError(
                f"the object store's listing is unusable: {error}; use another FLOWLOG_MODE"
            ) from None
        if not walk.over:
            self._waiting.appendleft(walk)
            self._divide(walk)

    def _divide(self, walk: Walk) -> None:
        """Divide this walk among several, if it is long and few other requests are in flight."""
        idle = self._reader.store.concurrency - len(self._asked) - len(self._waiting)
        if (
            not walk.skips_hours
            or walk.pages < self._long_walk_pages
            or idle < self._reader.store.concurrency // 2
        ):
            return
        search = folders_ahead(walk)
        try:
            requests = next(search)
            while True:
                requests = search.send(self._pages(requests))
        except StopIteration as found:
            for part in walk.divide(found.value, 4 * self._reader.store.concurrency):
                self._add(part)

    def _pages(self, requests: list[PageRequest]) -> list[Page]:
        """The pages of these requests, which are made at the same time."""
        calls = [self._reader.begin(self._reader.store.page, request) for request in requests]
        waiting = set(calls)
        while waiting:
            waiting -= self._reader.first(waiting)
        return [call.result() for call in calls]

    def _joined(self) -> Listing:
        """All objects that were found, in order."""
        self._found.sort(key=lambda one: one[0])
        listing = self._found[0][1]
        for _, more in self._found[1:]:
            listing.extend(more)
        listing.sort()
        return listing
