"""Reads the pages of a listing, and holds a million keys in order in little memory.

Flow-log keys have about 650 bytes, of which neighbours in a listing share all but a few. So a key
is kept as the number of bytes it shares with the one before it, and the rest ("front coding", as in
the indexes of databases); every sixteenth one counts from the first of its thousand instead, so
that any key is found by reading a few. A million real keys take some 60 MiB that way.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import overload
from urllib.parse import unquote_plus
from xml.etree import ElementTree

_ANCHOR_EVERY, _RESTART_EVERY = 1024, 16


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """An object as a listing or an event names it; sorts oldest first, then by key.

    `last_modified` is in whole seconds since the epoch, which is all that every answer of the store
    tells (the `Last-Modified` header has no fraction); 0 where it isn't known yet. `size` is in
    bytes as stored.
    """

    last_modified: int
    key: str
    size: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, in the store's order; `more` asks for the next one, if there is."""

    refs: list[ObjectRef]
    more: str | None


def read_page(content: bytes) -> Page:
    """Read an answer to ListObjectsV2 (S3 API). Raises ValueError."""
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from None
    if _name(root) != "ListBucketResult":
        raise ValueError(f"the answer is a {_name(root)}")
    fields = {_name(child): child.text or "" for child in root if _name(child) != "Contents"}
    encoded = fields.get("EncodingType") == "url"
    refs = [_ref(child, encoded) for child in root if _name(child) == "Contents"]
    more = fields.get("NextContinuationToken")
    # A store that leaves it out must not end the listing where it says how to go on.
    truncated = fields.get("IsTruncated", "true" if more else "").lower() == "true"
    if truncated and not more:
        raise ValueError("there is more, but no way to ask for it")
    return Page(refs, more if truncated else None)


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _ref(contents: ElementTree.Element, encoded: bool) -> ObjectRef:
    fields = {_name(child): child.text or "" for child in contents}
    try:
        key, written, size = fields["Key"], fields["LastModified"], fields["Size"]
    except KeyError as error:
        raise ValueError(f"an object has no {error}") from None
    if not size.isdigit():
        raise ValueError(f"an object has the size {size!r}")
    return ObjectRef(
        int(datetime.fromisoformat(written).timestamp()),
        url_decoded(key) if encoded else key,
        int(size),
    )


def url_decoded(text: str) -> str:
    """A key as it was before the store encoded it for its answer."""
    # In the keys of flow logs nothing else is encoded, and this is ten times faster.
    plain = text.replace("%2F", "/").replace("%3D", "=").replace("%3A", ":")
    if "+" not in plain and plain.count("%") == plain.count("%25"):
        return plain.replace("%25", "%")
    return unquote_plus(text)


class Keys:
    """Keys in the order in which they came, by number."""

    def __init__(self) -> None:
        self.ascending = True
        self._anchors: list[bytes] = []
        self._rests = bytearray()
        self._shared = array("H")
        self._begins = array("Q")
        """Where in `_rests` every sixteenth key begins."""
        self._lengths = array("H")
        self._last = b""

    def __len__(self) -> int:
        return len(self._shared)

    def append(self, key: str) -> None:
        """One more key."""
        name = key.encode("utf-8", "surrogatepass")
        number = len(self)
        self.ascending = self.ascending and (number == 0 or self._last < name)
        if number % _ANCHOR_EVERY == 0:
            self._anchors.append(name)
        if number % _RESTART_EVERY == 0:
            self._begins.append(len(self._rests))
            shared = _shared(self._anchors[-1], name)
        else:
            shared = _shared(self._last, name)
        self._shared.append(shared)
        self._lengths.append(len(name) - shared)
        self._rests += name[shared:]
        self._last = name

    def __getitem__(self, number: int) -> str:
        """The key that came as the `number`-th, from 0 on."""
        first = number - number % _RESTART_EVERY
        at = self._begins[first // _RESTART_EVERY]
        name = self._anchors[number // _ANCHOR_EVERY]
        for one in range(first, number + 1):
            end = at + self._lengths[one]
            name = name[: self._shared[one]] + self._rests[at:end]
            at = end
        return bytes(name).decode("utf-8", "surrogatepass")


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes both have in common at their beginning."""
    size = min(len(one), len(other))
    # As numbers: the first bit that differs, without a loop over bytes.
    differing = int.from_bytes(one[:size], "big") ^ int.from_bytes(other[:size], "big")
    return size - (differing.bit_length() + 7) // 8


class Failures:
    """Keys and why each of them failed, in the order in which they came, in little memory.

    Reasons are mostly the same few; when they are not, later ones are cut to their kind.
    """

    _DIFFERENT_REASONS = 10_000

    def __init__(self) -> None:
        self._keys = Keys()
        self._reasons = array("L")
        self._numbers: dict[str, int] = {}

    def append(self, key: str, reason: str) -> None:
        """One more failure."""
        if len(self._numbers) >= self._DIFFERENT_REASONS:
            reason = reason.partition(":")[0]
        self._keys.append(key)
        self._reasons.append(self._numbers.setdefault(reason, len(self._numbers)))

    def __len__(self) -> int:
        return len(self._reasons)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        texts = list(self._numbers)
        return ((self._keys[i], texts[number]) for i, number in enumerate(self._reasons))


class Listing(Sequence[ObjectRef]):
    """Objects, oldest first, then by key.

    Filled with `append` in the order in which the store lists them, which is that of the keys, and
    put in order once by `sort`.
    """

    def __init__(self) -> None:
        self._keys = Keys()
        self._times = array("q")
        self._sizes = array("Q")
        self._order: Sequence[int] = ()

    def append(self, ref: ObjectRef) -> None:
        """One more object."""
        self._keys.append(ref.key)
        self._times.append(ref.last_modified)
        self._sizes.append(ref.size)

    def sort(self) -> None:
        """Put in order what was appended."""
        numbers = range(len(self._keys))
        if self._keys.ascending:
            # The number stands for the key. Both in one integer: a million pairs are too large.
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
        """One object, or a part that shares the keys with the whole."""
        if isinstance(index, int):
            return self._ref(self._order[index])
        part = Listing()
        part._keys, part._times, part._sizes = self._keys, self._times, self._sizes
        part._order = self._order[index]
        return part
