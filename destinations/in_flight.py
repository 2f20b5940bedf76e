"""A batch in flight: the lines still to be sent, and the results of its lines so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from connections.retry import TryAgain
from destinations.answers import ByLine, LineResult
from destinations.base import DeliveryError, Destination, Failure, Receipt
from destinations.batch import Batch


class Result:
    """The results of the lines of one batch so far.

    `may_split`: whether to split requests in search of the lines that the service refuses.
    """

    def __init__(self, *, may_split: bool) -> None:
        self.may_split = may_split
        self.accepted: Counter[int] = Counter()
        self.ended_by: DeliveryError | None = None
        self._failed: dict[int, Failure] = {}

    def accept(self, lines: Batch) -> None:
        """Record that all of these lines are delivered."""
        self.accepted.update(lines.counts())

    def fail(self, owners: Iterable[int], reason: str, *, permanent: bool) -> None:
        """Record that lines of these owners failed; a permanent reason replaces another one."""
        for owner in owners:
            known = self._failed.get(owner)
            if known is None or (permanent and not known.permanent):
                self._failed[owner] = Failure(reason, permanent)

    def end(self, lines: Batch, error: DeliveryError) -> None:
        """Record that these lines failed, with an error that all others will get too."""
        self.fail(lines.owners, str(error), permanent=False)
        self.ended_by = error

    def receipt(self) -> Receipt:
        """The receipt, after every line has a result."""
        return Receipt(self.accepted, self._failed, self.ended_by)


class LinesNotAccepted(TryAgain):
    """The service accepted other lines of the request; the rest may be sent again."""


class Part:
    """The lines of a batch that have no final answer yet, and the body of their request."""

    def __init__(self, lines: Batch, destination: Destination) -> None:
        self._destination = destination
        self.tries = 0
        """How many requests have been made with lines of it."""
        self.narrow(lines)

    def narrow(self, lines: Batch) -> None:
        """Keep only these lines."""
        self.lines = lines
        self.body = lines.body(self._destination)

    def record(
        self, answer: ByLine, result: Result, why_refused: str, retry_after: float | None
    ) -> None:
        """Record the lines that have a final answer. Raises LinesNotAccepted if others are left."""
        lines = self.lines
        result.accepted.update(map(lines.owner_of, answer.indices(LineResult.ACCEPTED)))
        refused = map(lines.owner_of, answer.indices(LineResult.REFUSED))
        result.fail(refused, why_refused, permanent=True)
        if left := answer.indices(LineResult.RETRY):
            self.narrow(lines.select(left))
            what = f"it did not take {len(left)} of {len(lines)} ({answer.statuses[left[0]]})"
            raise LinesNotAccepted(what, retry_after)
