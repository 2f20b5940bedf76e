"""Keeps a million object keys in order in little memory.

Flow-log keys have about 650 bytes, of which neighbours in a listing share all but a few. So a key
is kept as the number of bytes it shares with the one before it, and the rest ("front coding", as in
the indexes of databases); every sixteenth one counts from the first of its thousand instead, so
that any key is found by reading a few. A million real keys take some 60 MiB that way.
"""

from __future__ import annotations

from array import array

_ANCHOR_EVERY, _RESTART_EVERY = 1024, 16


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
