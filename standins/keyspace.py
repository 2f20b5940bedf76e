"""A bucket that has only keys, and answers like ListObjectsV2 (S3 API)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import overload

from bucket.listing import ObjectRef, Page, PageRequest
from standins.flowlogs import flow_log_object


def hour_of(seconds: int) -> str:
    """The part of a key that names the hour of this time."""
    return _hour(seconds // 3600)


@lru_cache(maxsize=4096)
def _hour(number: int) -> str:
    return f"{datetime.fromtimestamp(number * 3600, UTC):year=%Y/month=%m/day=%d/hour=%H}"


def in_order(objects: Iterable[ObjectRef]) -> list[ObjectRef]:
    """In the order of their keys, as a store lists them."""
    return sorted(objects, key=lambda ref: ref.key.encode())


class KeySpace:
    """Objects in the order of their keys; counts the requests and the keys that it returned."""

    def __init__(self, refs: Sequence[ObjectRef]) -> None:
        self.refs = refs
        self.requests = 0
        self.told = 0

    def _behind(self, key: str) -> int:
        return bisect_right(self.refs, key, key=lambda ref: ref.key)

    def page(self, request: PageRequest) -> Page:
        """One page."""
        assert not (request.more and request.after)
        self.requests += 1
        refs: list[ObjectRef] = []
        folders: list[str] = []
        last = request.more or request.after
        at = self._behind(last)
        if not last.startswith(request.prefix):
            at = max(at, self._behind(request.prefix[:-1]))
        while at < len(self.refs) and len(refs) + len(folders) < request.keys:
            ref = self.refs[at]
            if not ref.key.startswith(request.prefix):
                if ref.key > request.prefix:
                    break
                at += 1
                continue
            end = ref.key.find(request.delimiter, len(request.prefix)) if request.delimiter else -1
            if end < 0:
                refs.append(ref)
                last = ref.key
                at += 1
            else:
                folders.append(ref.key[: end + 1])
                last = folders[-1] + "\U0010ffff"
                at = self._behind(last)
        self.told += len(refs) + len(folders)
        is_more = at < len(self.refs) and self.refs[at].key.startswith(request.prefix)
        return Page(refs, last if is_more else None, folders)


class Fleet(Sequence[ObjectRef]):
    """Interfaces that write an object every five minutes, up to `now`; keys as long as real ones.

    Each is created when it is read, so there can be any number of them.
    """

    def __init__(self, interfaces: int, days: int, now: int) -> None:
        real = flow_log_object(0, 1, datetime.fromtimestamp(now, UTC)).key
        self._before, _, rest = real.partition("/instance-id=")
        self._behind = "/vnic-id=" + rest.partition("/vnic-id=")[2].partition("/year=")[0]
        self._interfaces, self._each = interfaces, days * 288
        self._begin = now - 60 - 300 * self._each

    def __len__(self) -> int:
        return self._interfaces * self._each

    @overload
    def __getitem__(self, index: int) -> ObjectRef: ...
    @overload
    def __getitem__(self, index: slice) -> list[ObjectRef]: ...
    def __getitem__(self, index: int | slice) -> ObjectRef | list[ObjectRef]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        interface, number = divmod(range(len(self))[index], self._each)
        time = self._begin + 300 * number
        instance = f"/instance-id=crn%3Av1%3Abluemix%3Apublic%3Ais%3A{interface:08}"
        hour = f"/{hour_of(time)}/stream-id={self._begin}/{number:08}.gz"
        return ObjectRef(time + 20, self._before + instance + self._behind + hour, 600)
