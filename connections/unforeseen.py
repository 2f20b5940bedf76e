"""Describes unexpected errors."""

from __future__ import annotations

import logging

log = logging.getLogger("flowlog")


def describe(error: Exception) -> str:
    """The error in a sentence, for the object or the run that failed with it.

    The traceback is logged at DEBUG.
    """
    log.debug("where it happened", exc_info=error)
    return f"a fault of this program, please report it: {type(error).__name__}: {error}"
