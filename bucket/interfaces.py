"""Walks through the keys of a bucket from interface to interface, reading the newest hours of each.

A key sorts by interface, then by hour. So a page that ends among hours of no interest is followed
by one that starts at the hour of interest, and what lies between is never listed: the number of
requests grows with the interfaces, and not with how long the bucket keeps its objects.

Nothing here talks to the store: a walk says which page it wants next, and is given that page.
"""

from __future__ import annotations

from collections.abc import Generator

from bucket.flowkeys import hour_key, interface_of, is_in_hour
from bucket.listing import MOST_KEYS, ObjectRef, Page, PageRequest

FIRST_KEYS = 48
"""Keys of the first page of an interface: three hours of an object every five minutes are 36, and
the page should reach the next interface, to save a request. Later pages double."""

LONG_WALK_PAGES = 64
"""A walk of so many pages is worth the few requests that it takes to divide the rest of it."""


class Walk:
    """Reads the keys after `after` up to and including `through` (None: to the end).

    Where `begin` is set (seconds since the epoch), the keys of an interface are read from the hour
    of that time on; keys of another form are all read.
    """

    def __init__(
        self, prefix: str, begin: int | None, after: str = "", through: str | None = None
    ) -> None:
        self.prefix = prefix
        self.after = after
        self.through = through
        self.over = False
        self.pages = 0
        """How many were read since the walk began or was last divided."""
        self._begin = begin
        self._keys = MOST_KEYS if begin is None else FIRST_KEYS

    @property
    def jumps(self) -> bool:
        """Whether it reads less than all keys."""
        return self._begin is not None

    @property
    def request(self) -> PageRequest:
        """The next page to read."""
        return PageRequest(self.prefix, self.after, self._keys)

    def take(self, page: Page) -> list[ObjectRef]:
        """Go on by the page that was asked for; the objects that it adds, in order of their keys.

        Raises ValueError where it is not that page.
        """
        if page.refs and page.refs[0].key <= self.after:
            raise ValueError("it ignores `start-after`")
        self.pages += 1
        refs = page.refs
        if not refs or self._is_beyond(refs[-1].key):
            self.over = True
            return [ref for ref in refs if not self._is_beyond(ref.key)]
        self.over = page.more is None
        self._go_on(refs[-1].key)
        return refs

    def _is_beyond(self, key: str) -> bool:
        return self.through is not None and key > self.through

    def _go_on(self, last: str) -> None:
        """Continue behind this key, or at the hour where its interface becomes of interest."""
        interface = interface_of(last) if self._begin is not None else None
        begin = hour_key(interface, self._begin or 0) if interface else ""
        if interface and last < begin and is_in_hour(last, interface):
            self.after, self._keys = begin, FIRST_KEYS
            self.over = self.over or self._is_beyond(begin)
        else:
            self.after, self._keys = last, min(2 * self._keys, MOST_KEYS)

    def divide(self, folders: list[str], parts: int) -> list[Walk]:
        """Leave what follows some of these folders to other walks, `parts` at most; these walks.

        The folders, in order, lie within what is left of this walk.
        """
        self.pages = 0
        if not folders:
            return []
        ends = folders[:: max(1, -(-len(folders) // parts))]
        starts = zip(ends, [*ends[1:], self.through], strict=True)
        rest = [Walk(self.prefix, self._begin, start, end) for start, end in starts]
        self.through = ends[0]
        return rest


def folders_ahead(walk: Walk) -> Generator[PageRequest, Page, list[str]]:
    """The folders that a walk has still to come to, in order; yields the pages to be read for it.

    These are the neighbours of the interface that the walk is in, then those of the folder around
    it, and so on outwards: a few requests, however many objects lie in the folders.
    """
    found: list[str] = []
    place = interface_of(walk.after) or walk.after
    while place != walk.prefix:
        place = place[: place.rfind("/", 0, -1) + 1]
        if len(place) < len(walk.prefix):
            place = walk.prefix
        request: PageRequest | None = PageRequest(place, walk.after, MOST_KEYS, "/")
        while request:
            page = yield request
            ahead = [one for one in page.folders if one > walk.after]
            inside = [one for one in ahead if walk.through is None or one <= walk.through]
            found += inside
            go_on = page.more is not None and len(inside) == len(ahead)
            request = PageRequest(place, "", MOST_KEYS, "/", page.more or "") if go_on else None
    return found
