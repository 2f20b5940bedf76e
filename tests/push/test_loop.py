"""The push loop with a log service that answers when the test says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

import lib
from bucket.listing import ObjectRef
from bucket.store import Body
from connections.retry import RetryPolicy
from connections.stop import Stop
from destinations.base import Added, DeliveryError, Line, Receipt, Source
from push import loop
from push.ledger import Tally
from push.loop import Progress


class Bucket:
    concurrency = 4
    policy = RetryPolicy()

    def read(self, key: str) -> Body:
        return Body(b'{"flow_logs":[{}]}', 1)


class Waiting:
    """A delivery that acknowledges only when somebody waits for it."""

    ended_by: DeliveryError | None = None

    def __init__(self) -> None:
        self.open: list[int] = []
        self.most_open = 0

    def add(self, owner: int, lines: Iterable[Line], source: Source) -> Added:
        self.open.append(owner)
        self.most_open = max(self.most_open, len(self.open))
        return Added(len(list(lines)))

    def receipts(self, *, wait: bool = False) -> Iterator[Receipt]:
        if wait:
            yield from self.flush()

    def send(self) -> None:
        pass

    send_old = send
    takes_blocks = False

    def flush(self) -> Iterator[Receipt]:
        yield Receipt(Counter(self.open))
        self.open.clear()

    def close(self) -> None:
        pass


def test_open_objects_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "OPEN_OBJECTS", 50)
    delivery, tally = Waiting(), Tally()
    scope = lib.Scope("", "STATE", lib.Shard())
    shown: list[Progress] = []
    job = lib.Job(Bucket(), delivery, Stop(), scope, tally, shown.append)  # type: ignore[arg-type]
    job.push([ObjectRef(1, f"{n:03}") for n in range(400)])
    job.close()
    assert tally.objects == 400
    assert delivery.most_open == 51
    settled = [progress.settled for progress in shown]
    assert settled == sorted(settled)
    assert {0, 51, 400} <= set(settled), "what is done, not what was begun"
