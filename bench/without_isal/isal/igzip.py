"""Stands in for isal's igzip in a measured process: the same with the standard library."""

from gzip import compress

__all__ = ["compress"]
