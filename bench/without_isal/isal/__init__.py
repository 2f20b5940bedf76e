"""Stands in for isal in a measured process: the same with the standard library."""
