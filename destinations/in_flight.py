"""A batch on its way: what is left to send of it, and what has become of its lines so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from connections.retry import TryAgain
from destinations.answers import ByLine, Fate
from destinations.base import DeliveryError, Destination, Failure, Receipt
from destinations.batch import Batch


class Result:
    """What has become of the lines of one batch so far.

    `may_split` says whether it is worth looking for the lines that the service refuses.
    """

    def __init__(self, *, may_split: bool) -> None:
        self.may_split = may_split
        self.accepted: Counter[int] = Counter()
        self.ended_by: DeliveryError | None = None
        self._failed: dict[int, Failure] = {}

    def accept(self, lines: Batch) -> None:
        """All of these lines are delivered."""
        self.accepted.update(lines.counts())

    def fail(self, owners: Iterable[int], reason: str, *, permanent: bool) -> None:
        """Lines of these owners are not delivered; a permanent reason counts more than another."""
        for owner in owners:
            known = self._failed.get(owner)
            if known is None or (permanent and not known.permanent):
                self._failed[owner] = Failure(reason, permanent)

    def end(self, lines: Batch, error: DeliveryError) -> None:
        """These lines are not delivered, and no others will be."""
        self.fail(lines.owners, str(error), permanent=False)
        self.ended_by = error

    def receipt(self) -> Receipt:
        """The whole result, once every line has one."""
        return Receipt(self.accepted, self._failed, self.ended_by)


class LinesNotTaken(TryAgain):
    """The service took other lines of the same request, and these may be sent again."""


class Part:
    """Lines of a batch that have no final answer yet, and the body of their request."""

    def __init__(self, lines: Batch, destination: Destination) -> None:
        self._destination = destination
        self.narrow(lines)

    def narrow(self, lines: Batch) -> None:
        """Only these lines are left."""
        self.lines = lines
        self.body = lines.body(self._destination)

    def take_some(
        self, answer: ByLine, result: Result, why_refused: str, retry_after: float | None
    ) -> None:
        """Record the lines that have a final answer. Raises LinesNotTaken if others are left."""
        lines = self.lines
        result.accepted.update(map(lines.owner_of, answer.indices(Fate.TAKEN)))
        refused = map(lines.owner_of, answer.indices(Fate.REFUSED))
        result.fail(refused, why_refused, permanent=True)
        if left := answer.indices(Fate.AGAIN):
            self.narrow(lines.select(left))
            what = f"it did not take {len(left)} of {len(lines)} ({answer.statuses[left[0]]})"
            raise LinesNotTaken(what, retry_after)
