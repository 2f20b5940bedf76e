"""Walks through the keys of a bucket from interface to interface, reading the newest hours of each.

A key sorts by interface, then by hour. So a page that ends among hours of no interest is followed
by one that starts at the hour of interest, and what lies between is never listed: the number of
requests grows with the interfaces, and not with how long the bucket keeps its objects.

Nothing here talks to the store: a walk says which page it wants next, and is given that page.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from bucket.flowkeys import HOUR_SECONDS, hour_key, interface_of, is_in_hour
from bucket.listing import MAX_KEYS, ObjectRef, Page, PageRequest

KEYS_AN_HOUR = 12
"""Of an interface: an object about every five minutes (IBM Cloud docs, VPC)."""

LONG_WALK_PAGES = 64
"""A walk of so many pages is worth the few requests that it takes to divide the rest of it."""


@dataclass(frozen=True, slots=True)
class Hours:
    """Which hours of an interface are read: that of `begin` and all later ones.

    Most of them end at the hour of `end`. Both in seconds since the epoch.
    """

    begin: int
    end: int

    @property
    def first_keys(self) -> int:
        """Keys of the first page: as a rule all, and the first of the next interface.

        Of the pages after it, each has twice as many as the one before.
        """
        hours = (self.end - self.begin) // HOUR_SECONDS + 2
        return min(hours * KEYS_AN_HOUR, MAX_KEYS)


class Walk:
    """Reads the keys after `after` up to and including `through` (None: to the end).

    Of an interface only `hours` are read (None: all of its keys); keys of another form all are.
    """

    def __init__(
        self, prefix: str, hours: Hours | None, after: str = "", through: str | None = None
    ) -> None:
        self.prefix = prefix
        self.after = after
        self.through = through
        self.over = False
        self.pages = 0
        """How many were read since the walk began or was last divided."""
        self._hours = hours
        self._keys = hours.first_keys if hours else MAX_KEYS

    @property
    def jumps(self) -> bool:
        """Whether it reads less than all keys."""
        return self._hours is not None

    @property
    def request(self) -> PageRequest:
        """The next page to read."""
        return PageRequest(self.prefix, self.after, self._keys)

    def take(self, page: Page) -> list[ObjectRef]:
        """Go on by the page that was asked for; the objects that it adds, in order of their keys.

        Raises ValueError where it is not that page.
        """
        if page.refs and page.refs[0].key <= self.after:
            raise ValueError("it ignores start-after")
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
        self.after, self._keys = last, min(2 * self._keys, MAX_KEYS)
        interface = interface_of(last)
        if self._hours is None or interface is None or not is_in_hour(last, interface):
            return
        begin = hour_key(interface, self._hours.begin)
        if last < begin:
            self.after, self._keys = begin, self._hours.first_keys
            self.over = self.over or self._is_beyond(begin)

    def divide(self, folders: list[str], parts: int) -> list[Walk]:
        """Leave what follows some of these folders to other walks, `parts` at most; these walks.

        The folders, in order, lie within what is left of this walk.
        """
        self.pages = 0
        if not folders:
            return []
        ends = folders[:: max(1, -(-len(folders) // parts))]
        starts = zip(ends, [*ends[1:], self.through], strict=True)
        rest = [Walk(self.prefix, self._hours, start, end) for start, end in starts]
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
        request: PageRequest | None = PageRequest(place, walk.after, MAX_KEYS, "/")
        while request:
            page = yield request
            ahead = [one for one in page.folders if one > walk.after]
            inside = [one for one in ahead if walk.through is None or one <= walk.through]
            # Dividing is no must: a page of no use ends it, also where a store goes round.
            is_new = bool(inside) and (not found or found[-1] < inside[0])
            found += inside if is_new else []
            go_on = page.more is not None and is_new and len(inside) == len(ahead)
            request = PageRequest(place, "", MAX_KEYS, "/", page.more or "") if go_on else None
    return found
