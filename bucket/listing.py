"""Parses the pages of a listing, and sorts the objects, oldest first."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, overload
from urllib.parse import unquote_plus

from bucket.keys import Keys
from connections.values import iso_seconds, whole_number

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

KEY_LIMIT = 1024
"""Most bytes of a key (S3 API, "Object keys"), and so also most characters."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """An object as a listing or an event names it; sorts oldest first, then by key.

    `last_modified` is in whole seconds since the epoch, since the `Last-Modified` header has no
    fraction; 0 if it is not known yet. `size` is in bytes as stored.
    """

    last_modified: int
    key: str
    size: int = field(default=0, compare=False)


class Period(NamedTuple):
    """Objects written at or after `since` and before `until`, in seconds; None: no limit."""

    since: int | None = None
    until: int | None = None

    def holds(self, ref: ObjectRef) -> bool:
        """Whether the object was written in this period."""
        return (self.since is None or self.since <= ref.last_modified) and (
            self.until is None or ref.last_modified < self.until
        )


ALWAYS = Period()


class Page(NamedTuple):
    """One page of a listing, in the store's order; `more` is the token of the next page, if any.

    `folders` are the common prefixes of keys up to the delimiter, if the request had one.
    """

    refs: list[ObjectRef]
    more: str | None
    folders: Sequence[str] = ()


MAX_KEYS = 1000
"""Most keys of one page (S3 API, ListObjectsV2: max-keys)."""


class PageRequest(NamedTuple):
    """Asks for the first `keys` keys after `after` that start with `prefix`.

    Or, with the `more` of the last page, for the next ones. Keys that are the same up to a
    `delimiter` after the prefix are returned as one folder.
    """

    prefix: str
    after: str = ""
    keys: int = MAX_KEYS
    delimiter: str = ""
    more: str = ""

    def query(self) -> dict[str, str]:
        """The query of ListObjectsV2 (S3 API)."""
        optional = {
            "continuation-token": self.more,
            "delimiter": self.delimiter,
            # The store ignores it in a request with a token.
            "start-after": "" if self.more else self.after,
            "max-keys": str(self.keys) if self.keys < MAX_KEYS else "",
        }
        # URL-encoded, because XML does not allow every character that a key may have.
        query = {"encoding-type": "url", "list-type": "2", "prefix": self.prefix}
        return query | {name: value for name, value in optional.items() if value}


def read_page(content: bytes) -> Page:
    """Parse an answer to ListObjectsV2 (S3 API). Raises ValueError."""
    from xml.etree import ElementTree  # a run for an event does not need it

    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError) as error:
        # LookupError: an unknown encoding.
        raise ValueError(str(error)) from None
    if _name(root) != "ListBucketResult":
        raise ValueError(f"the answer is a {_name(root)}")
    fields = {_name(child): child.text or "" for child in root if _name(child) != "Contents"}
    encoded = fields.get("EncodingType") == "url"
    refs = [_read_contents(child, encoded) for child in root if _name(child) == "Contents"]
    folders = [_read_folder(child, encoded) for child in root if _name(child) == "CommonPrefixes"]
    more = fields.get("NextContinuationToken")
    # If a store omits IsTruncated but sends a token, the listing continues.
    truncated = fields.get("IsTruncated", "true" if more else "").lower() == "true"
    if truncated and not more:
        raise ValueError("it is truncated, but has no continuation token")
    return Page(refs, more if truncated else None, folders)


def _name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def _read_contents(contents: Element, encoded: bool) -> ObjectRef:
    fields = {_name(child): child.text or "" for child in contents}
    try:
        key, written, size = fields["Key"], fields["LastModified"], fields["Size"]
    except KeyError as error:
        raise ValueError(f"an object has no {error}") from None
    seconds, size_bytes = iso_seconds(written), whole_number(size)
    if seconds is None or size_bytes is None:
        raise ValueError(f"an object has the time {written[:40]!r} and the size {size[:40]!r}")
    if encoded:
        key = url_decoded(key)
    if not 0 < len(key) <= KEY_LIMIT:
        raise ValueError(f"an object has a key of {len(key)} characters")
    return ObjectRef(seconds, key, size_bytes)


def _read_folder(element: Element, encoded: bool) -> str:
    text = next((child.text or "" for child in element if _name(child) == "Prefix"), "")
    return url_decoded(text) if encoded else text


def url_decoded(text: str) -> str:
    """A key, decoded from the store's answer."""
    # Keys of flow logs have no other encoded characters, and this is ten times faster.
    plain = text.replace("%2F", "/").replace("%3D", "=").replace("%3A", ":")
    if "+" not in plain and plain.count("%") == plain.count("%25"):
        return plain.replace("%25", "%")
    return unquote_plus(text)


class Listing(Sequence[ObjectRef]):
    """Objects, oldest first, then by key.

    Filled with `append` in the order of the store's listing, which is by key; then sorted once with
    `sort`.
    """

    def __init__(self) -> None:
        self._keys = Keys()
        self._times = array("q")
        self._sizes = array("Q")
        self._order: Sequence[int] = ()

    def append(self, ref: ObjectRef) -> None:
        """Add an object."""
        self._keys.append(ref.key)
        self._times.append(ref.last_modified)
        self._sizes.append(ref.size)

    def extend(self, other: Listing) -> None:
        """Add all objects of another listing, in the order in which they were added to it."""
        for number in range(len(other._keys)):
            self.append(other._ref(number))

    def sort(self) -> None:
        """Sort what was added."""
        numbers = range(len(self._keys))
        if self._keys.ascending:
            # Numbers sort like keys. Time and number in one integer, to save the memory of pairs.
            bits = len(numbers).bit_length()
            packed = [time << bits | number for number, time in enumerate(self._times)]
            packed.sort()
            self._order = array("Q", (one & ((1 << bits) - 1) for one in packed))
        else:
            self._order = sorted(numbers, key=lambda number: self._ref(number))

    def _ref(self, number: int) -> ObjectRef:
        return ObjectRef(self._times[number], self._keys[number], self._sizes[number])

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[ObjectRef]:
        return map(self._ref, self._order)

    @overload
    def __getitem__(self, index: int) -> ObjectRef: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ObjectRef]: ...
    def __getitem__(self, index: int | slice) -> ObjectRef | Sequence[ObjectRef]:
        """One object, or a slice that shares the keys with this listing."""
        if isinstance(index, int):
            return self._ref(self._order[index])
        part = Listing()
        part._keys, part._times, part._sizes = self._keys, self._times, self._sizes
        part._order = self._order[index]
        return part
