"""The request to end a run early: a signal, and the exception that carries it through waits."""

from __future__ import annotations


class Stopped(Exception):
    """The run was told to stop while it waited."""


class Stop:
    """Whether the run was asked to end, and by which signal.

    The handler only assigns: it may interrupt the main thread anywhere, also inside a lock.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None
