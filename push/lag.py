"""How far a worker lags behind the bucket, so that an alert needs one comparison."""

from __future__ import annotations

import time
from collections.abc import Iterable

from bucket.listing import ObjectRef
from push.ledger import Tally


class Lag:
    """Puts into the tally how old the oldest object is that has settled and is not pushed."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._date, self._looked = 0, 0.0

    def looked(self, date: int) -> None:
        """The store's clock has just shown this time."""
        self._date, self._looked = date, time.monotonic()

    def tell(self, not_pushed: Iterable[ObjectRef]) -> None:
        """These are not pushed, or, without any, nothing that has settled is left."""
        oldest = min((ref.last_modified for ref in not_pushed), default=None)
        now = self._date + round(time.monotonic() - self._looked)
        self._tally.lag_seconds = 0 if oldest is None else max(0, now - oldest)
