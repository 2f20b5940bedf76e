"""How far a worker lags behind the bucket, as one number for an alert."""

from __future__ import annotations

import time
from collections.abc import Iterable

from bucket.listing import ObjectRef
from push.ledger import Tally


class Lag:
    """Records in the tally the age of the oldest object that is visible and not pushed."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._date, self._read_at = 0, 0.0

    def clock_read(self, date: int) -> None:
        """Note the time that the store's clock shows now."""
        self._date, self._read_at = date, time.monotonic()

    def record(self, not_pushed: Iterable[ObjectRef]) -> None:
        """Record the lag, given the objects that are not pushed; without any, it is 0."""
        oldest = min((ref.last_modified for ref in not_pushed), default=None)
        now = self._date + round(time.monotonic() - self._read_at)
        self._tally.lag_seconds = 0 if oldest is None else max(0, now - oldest)
