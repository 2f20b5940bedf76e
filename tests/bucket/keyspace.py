"""A bucket that is nothing but keys, and answers as ListObjectsV2 does (S3 API)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from datetime import UTC, datetime

from bucket.listing import ObjectRef, Page, PageRequest


def hour_of(seconds: int) -> str:
    """The part of a key that names the hour of this time."""
    return f"{datetime.fromtimestamp(seconds, UTC):year=%Y/month=%m/day=%d/hour=%H}"


class KeySpace:
    """Objects in the order of their keys; counts the requests, and the keys that it told."""

    def __init__(self, objects: Iterable[ObjectRef]) -> None:
        self.refs = sorted(objects, key=lambda ref: ref.key.encode())
        self._keys = [ref.key for ref in self.refs]
        self.requests = 0
        self.told = 0

    def page(self, request: PageRequest) -> Page:
        """One page."""
        assert not (request.more and request.after)
        self.requests += 1
        refs: list[ObjectRef] = []
        folders: list[str] = []
        last = request.more or request.after
        at = bisect_right(self._keys, last)
        if not last.startswith(request.prefix):
            at = max(at, bisect_right(self._keys, request.prefix[:-1]))
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
            else:
                folders.append(ref.key[: end + 1])
                last = folders[-1] + "\U0010ffff"
            at = bisect_right(self._keys, last)
        self.told += len(refs) + len(folders)
        is_more = at < len(self.refs) and self.refs[at].key.startswith(request.prefix)
        return Page(refs, last if is_more else None, folders)
