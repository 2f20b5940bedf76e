"""Stores a million object keys, in the order in which they were added, in little memory.

Flow-log keys have about 650 bytes; neighbours in a listing differ in only a few. So each key is
stored as the number of bytes that it shares with the key before it, and its remaining bytes ("front
coding", as in database indexes). Every sixteenth key is compared with the first of its 1,024 keys
instead, so that reading a key needs at most sixteen. A million real keys take some 60 MiB.
"""

from __future__ import annotations

from array import array

_ANCHOR_EVERY, _RESTART_EVERY = 1024, 16


class Keys:
    """Keys in the order in which they were added, by number."""

    def __init__(self) -> None:
        self.ascending = True
        self._anchors: list[bytes] = []
        self._rests = bytearray()
        self._shared = array("H")
        self._begins = array("Q")
        """Positions in `_rests` at which every sixteenth key begins."""
        self._lengths = array("H")
        self._last = b""

    def __len__(self) -> int:
        return len(self._shared)

    def append(self, key: str) -> None:
        """Add a key."""
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
        """The key with this number, from 0 on."""
        first = number - number % _RESTART_EVERY
        at = self._begins[first // _RESTART_EVERY]
        name = self._anchors[number // _ANCHOR_EVERY]
        for one in range(first, number + 1):
            end = at + self._lengths[one]
            name = name[: self._shared[one]] + self._rests[at:end]
            at = end
        return bytes(name).decode("utf-8", "surrogatepass")


def _shared(one: bytes, other: bytes) -> int:
    """The length in bytes of the common beginning."""
    size = min(len(one), len(other))
    # As numbers, to find the first different bit without a loop over bytes.
    differing = int.from_bytes(one[:size], "big") ^ int.from_bytes(other[:size], "big")
    return size - (differing.bit_length() + 7) // 8
