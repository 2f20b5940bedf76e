"""Divides the keys of a bucket among the instances of a job array; contract, section 7."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


def spread(key: str) -> int:
    """A number of 64 bits that looks random, always the same for the same key.

    A cryptographic hash, since keys differ in patterns (by hour, by a counter in steps), and the
    low bits of a mere checksum follow the pattern. It costs a few microseconds a key.
    """
    name = key.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shares of all keys."""

    index: int = 0
    count: int = 1

    def holds(self, key: str) -> bool:
        """Whether `key` belongs to this share.

        Depends on nothing but the key, so that instances that list at different moments agree.
        """
        return self.count == 1 or spread(key) % self.count == self.index
