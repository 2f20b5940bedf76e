"""Divides the keys of a bucket among the instances of a job array; contract, section 7."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


def key_hash(key: str) -> int:
    """A 64-bit hash of the key, the same on every run.

    A cryptographic one, since keys differ in patterns (by hour, by a counter), which the low bits
    of a checksum would follow. It takes a few microseconds for each key.
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

        It depends only on the key, so instances that list at different times agree.
        """
        return self.count == 1 or key_hash(key) % self.count == self.index
