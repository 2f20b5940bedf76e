"""Temporary, until the merge."""

from flowlog import Unusable, read_settings

__all__ = ["Unusable", "read_settings"]
