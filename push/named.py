"""Pushes the objects that a person names, whatever the mode."""

from __future__ import annotations

from collections.abc import Sequence

from bucket.listing import ObjectRef
from push.catch_up import Job, strike_out
from push.ledger import Settled


def push_all_named(job: Job, keys: Sequence[str], mode: str) -> None:
    """Push these objects. STATE gains nothing by it; a catch-up has so many failures less.

    Raises PushEnded, StateError.
    """
    delivered: list[str] = []

    def note(settled: Sequence[Settled]) -> None:
        delivered.extend(one.ref.key for one in settled if not one.error and not one.skipped)

    try:
        job.push([ObjectRef(0, key) for key in keys], note)
    finally:
        for key in delivered if mode == "catch-up" else ():
            strike_out(job, key)
