"""The push loop with a log service that answers when the test says so."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

import pytest

import lib
import logdna_synchronous
from bucket.listing import ObjectRef
from bucket.store import Body
from connections.retry import RetryPolicy
from connections.stop import Stop
from destinations.base import Added, DeliveryError, Line, Receipt, Source
from logdna_synchronous import Delivery, LogDNA
from push import loop
from push.ledger import Tally
from push.loop import Progress, PushEnded
from push.reader import Reader
from standins.ingestion import Ingestion


class Bucket:
    concurrency = 4
    policy = RetryPolicy()

    def read(self, key: str) -> Body:
        return Body(b'{"flow_logs":[{}]}', 1)


class Waiting:
    """A delivery that acknowledges only when the push waits for it."""

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


# --- pending lines -------------------------------------------------------------------------------


class AfterTheFirst(Waiting):
    """A delivery that holds the first object's line until its batch is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = False
        self.closed = 0

    def add(self, owner: int, lines: Iterable[Line], source: Source) -> Added:
        count = len(list(lines))
        if count:
            self.open += [owner] * count
        return Added(count)

    def send(self) -> None:
        self.sent = True

    def send_old(self) -> None:
        pass

    def receipts(self, *, wait: bool = False) -> Iterator[Receipt]:
        if self.sent:
            yield from self.flush()


class FlowInTheFirst(Bucket):
    """The first object has a flow, the others have none."""

    def read(self, key: str) -> Body:
        return Body(b'{"flow_logs":[{}]}' if key == "000" else b'{"flow_logs":[]}', 1)


def job_of(bucket: object, delivery: object, tally: Tally, **more: Callable[..., None]) -> lib.Job:
    scope = lib.Scope("", "STATE", lib.Shard())
    return lib.Job(bucket, delivery, Stop(), scope, tally, **more)  # type: ignore[arg-type]


def test_objects_without_flows_do_not_accumulate_after_one_with_flows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "OPEN_OBJECTS", 50)
    most, begin = 0, loop.Ledger.open

    def counted(ledger: loop.Ledger, ref: ObjectRef) -> int:
        nonlocal most
        most = max(most, len(ledger) + 1)
        return begin(ledger, ref)

    monkeypatch.setattr(loop.Ledger, "open", counted)
    tally = Tally()
    job = job_of(FlowInTheFirst(), AfterTheFirst(), tally)
    job.push([ObjectRef(1, f"{n:03}") for n in range(400)])
    job.close()
    assert (tally.objects, tally.lines_delivered) == (400, 1)
    assert most == 51


def test_a_line_does_not_wait_for_a_slow_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logdna_synchronous, "PENDING_SECONDS", 0.05)
    with Ingestion("the-key") as service:

        class Slow(Bucket):
            def read(self, key: str) -> Body:
                if key == "001":
                    service.wait_for_requests(1)
                return super().read(key)

        tally = Tally()
        job = job_of(Slow(), Delivery(LogDNA(service.url, "the-key")), tally)
        job.push([ObjectRef(1, "000"), ObjectRef(1, "001")])
        job.close()
        assert tally.objects == 2
        assert len(service.requests) == 2


def test_no_batch_is_sent_before_its_time() -> None:
    with Ingestion("the-key") as service:
        delivery = Delivery(LogDNA(service.url, "the-key"))
        delivery.add(0, [Line(b"{}")], Source())
        delivery.send_old()
        assert list(delivery.receipts()) == []
        delivery.close()
        assert service.requests == []


# --- errors --------------------------------------------------------------------------------------


class Broken(Bucket):
    """One object causes an unexpected error."""

    def read(self, key: str) -> Body:
        if key == "001":
            raise KeyError(key)
        return super().read(key)


def test_an_unforeseen_error_of_a_read_is_one_objects() -> None:
    tally = Tally()
    settled = []
    job = job_of(Broken(), Waiting(), tally)
    job.push([ObjectRef(1, f"{n:03}") for n in range(3)], settled.extend)
    job.close()
    assert tally.objects == 2
    ((key, error),) = tally.failed
    assert key == "001" and "KeyError" in error
    assert not settled[1].permanent, "the next run tries it again"


def test_an_unforeseen_error_of_the_run_leaves_everything_named() -> None:
    tally, told = Tally(), []

    def broken(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 3:
            raise KeyError("nobody foresaw this")

    job = job_of(Bucket(), Waiting(), tally, on_progress=broken)
    with pytest.raises(KeyError):
        job.push([ObjectRef(1, f"{n:03}") for n in range(9)])
    job.close()
    assert tally.objects + tally.failed_total == 9
    assert tally.not_begun and "KeyError" in tally.not_begun_reason


def test_an_object_whose_error_ends_the_push_is_named() -> None:
    class Ending(Waiting):
        def add(self, owner: int, lines: Iterable[Line], source: Source) -> Added:
            if owner == 1:
                raise PushEnded("the lease is lost")
            return super().add(owner, lines, source)

    tally = Tally()
    job = job_of(Bucket(), Ending(), tally)
    with pytest.raises(PushEnded):
        job.push([ObjectRef(1, f"{n:03}") for n in range(4)])
    job.close()
    assert tally.objects == 1
    assert dict(tally.failed) == {"001": "the lease is lost"}
    assert [ref.key for ref in tally.not_begun] == ["002", "003"]


class CompletedMeanwhile(Future[str]):
    """Completes between the end of a wait for it and the check whether it is done."""

    def result(self, timeout: float | None = None) -> str:
        if timeout is not None:
            raise TimeoutError
        return super().result()


def test_a_result_that_comes_at_the_last_moment_is_taken() -> None:
    class Pool:
        def submit(self, *_: object) -> Future[str]:
            future = CompletedMeanwhile()
            future.set_result("taken")
            return future

        def shutdown(self, **_: object) -> None:
            pass

    reader = Reader(Bucket(), Stop())  # type: ignore[arg-type]
    reader._pool = reader._calls = Pool()  # type: ignore[assignment]
    assert reader.call(threading.active_count) == "taken"  # type: ignore[comparison-overlap]
