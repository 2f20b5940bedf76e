"""The parts of zlib that the job uses."""

from zlib import compressobj, decompressobj

__all__ = ["compressobj", "decompressobj"]
