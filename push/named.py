"""Pushes the objects that a person names, in any mode."""

from __future__ import annotations

from collections.abc import Sequence

from bucket.listing import ObjectRef
from push.catch_up import Job, remove_failure
from push.ledger import Settled


def push_all_named(job: Job, keys: Sequence[str], mode: str) -> None:
    """Push these objects. The marks in STATE do not move; a catch-up's failures are removed.

    Raises PushEnded, StateError.
    """
    delivered: list[str] = []

    def on_settled(settled: Sequence[Settled]) -> None:
        delivered.extend(one.ref.key for one in settled if not one.error and not one.skipped)

    try:
        job.push([ObjectRef(0, key) for key in keys], on_settled)
    finally:
        for key in delivered if mode == "catch-up" else ():
            remove_failure(job, key)
