"""Lists the newest hours of every network interface in a bucket, and skips the older hours.

Keys sort by interface, then by hour. If a page ends in hours that are not wanted, the next one
starts at the first wanted hour, and the keys between are never listed: the number of requests
grows with the number of interfaces, not with how long the bucket keeps its objects.

Nothing here talks to the store: a walk says which page it needs next, and is given that page.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from bucket.flowkeys import HOUR_SECONDS, hour_key, interface_of, is_in_hour
from bucket.listing import MAX_KEYS, ObjectRef, Page, PageRequest

KEYS_AN_HOUR = 12
"""Of an interface: an object about every five minutes (IBM Cloud docs, VPC)."""

LONG_WALK_PAGES = 64
"""A walk of this many pages is long enough to spend a few requests on dividing the rest of it."""


@dataclass(frozen=True, slots=True)
class Hours:
    """Which hours of an interface are read: the hour of `begin` and all later ones.

    As a rule the last one is the hour of `end`. Both in seconds since the epoch.
    """

    begin: int
    end: int

    @property
    def first_keys(self) -> int:
        """Size of the first page: as a rule enough for all these hours and the next interface.

        Each later page is twice as large as the one before it.
        """
        hours = (self.end - self.begin) // HOUR_SECONDS + 2
        return min(hours * KEYS_AN_HOUR, MAX_KEYS)


class Walk:
    """Reads the keys after `after` up to and including `through` (None: to the end).

    Of each interface only `hours` are read (None: all keys); keys of another form are all read.
    """

    def __init__(
        self, prefix: str, hours: Hours | None, after: str = "", through: str | None = None
    ) -> None:
        self.prefix = prefix
        self.after = after
        self.through = through
        self.over = False
        self.pages = 0
        """How many pages were read since the walk began or was last divided."""
        self._hours = hours
        self._keys = hours.first_keys if hours else MAX_KEYS

    @property
    def skips_hours(self) -> bool:
        """Whether it skips the hours that are not wanted."""
        return self._hours is not None

    @property
    def request(self) -> PageRequest:
        """The next page to read."""
        return PageRequest(self.prefix, self.after, self._keys)

    def take(self, page: Page) -> list[ObjectRef]:
        """Advance past the page that was requested; return its objects, in order of their keys.

        Raises ValueError if it is another page.
        """
        if page.refs and page.refs[0].key <= self.after:
            raise ValueError("it ignores start-after")
        self.pages += 1
        refs = page.refs
        if not refs or self._is_beyond(refs[-1].key):
            self.over = True
            return [ref for ref in refs if not self._is_beyond(ref.key)]
        self.over = page.more is None
        self._advance(refs[-1].key)
        return refs

    def _is_beyond(self, key: str) -> bool:
        return self.through is not None and key > self.through

    def _advance(self, last: str) -> None:
        """Continue after this key, or at the first wanted hour of its interface."""
        self.after, self._keys = last, min(2 * self._keys, MAX_KEYS)
        interface = interface_of(last)
        if self._hours is None or interface is None or not is_in_hour(last, interface):
            return
        begin = hour_key(interface, self._hours.begin)
        if last < begin:
            self.after, self._keys = begin, self._hours.first_keys
            self.over = self.over or self._is_beyond(begin)

    def divide(self, folders: list[str], parts: int) -> list[Walk]:
        """End this walk early, and return at most `parts` other walks that read the rest.

        Each of them starts at one of the folders, which are sorted and not yet read by this walk.
        """
        self.pages = 0
        if not folders:
            return []
        ends = folders[:: max(1, -(-len(folders) // parts))]
        starts = zip(ends, [*ends[1:], self.through], strict=True)
        rest = [Walk(self.prefix, self._hours, start, end) for start, end in starts]
        self.through = ends[0]
        return rest


def folders_ahead(walk: Walk) -> Generator[list[PageRequest], list[Page], list[str]]:
    """The folders that a walk has not reached yet, in order.

    Yields requests that can be made at the same time, and is sent their pages: those of the folders
    next to the interface that the walk is in, of those next to its parent folder, and so on
    upwards. A few requests, however many objects are in the folders.
    """
    parents = _parents(walk)
    found: list[list[str]] = [[] for _ in parents]
    requests = {
        level: PageRequest(folder, walk.after, MAX_KEYS, "/")
        for level, folder in enumerate(parents)
    }
    while requests:
        pages = yield list(requests.values())
        more: dict[int, PageRequest] = {}
        for level, page in zip(requests, pages, strict=True):
            ahead = [one for one in page.folders if one > walk.after]
            inside = [one for one in ahead if walk.through is None or one <= walk.through]
            # Dividing is optional: a page without new folders ends it, so it can't loop forever.
            is_new = bool(inside) and (not found[level] or found[level][-1] < inside[0])
            found[level] += inside if is_new else []
            if page.more is not None and is_new and len(inside) == len(ahead):
                more[level] = PageRequest(parents[level], "", MAX_KEYS, "/", page.more)
        requests = more
    joined: list[str] = []
    for folders in found:
        joined += [one for one in folders if not joined or one > joined[-1]]
    return joined


def _parents(walk: Walk) -> list[str]:
    """The folders above the interface that the walk is in, the nearest first."""
    parents = []
    folder = interface_of(walk.after) or walk.after
    while folder != walk.prefix:
        folder = folder[: folder.rfind("/", 0, -1) + 1]
        if len(folder) < len(walk.prefix):
            folder = walk.prefix
        parents.append(folder)
    return parents
