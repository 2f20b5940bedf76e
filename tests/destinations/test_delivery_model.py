"""A model of a log service that answers in any way, run against delivery.

Thousands of random plans: which lines a request may not hold, and how each request is answered or
lost. Time is made up and nobody sleeps. What the service took must be what the receipts say.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import requests
import urllib3

from connections.retry import RetryPolicy
from destinations import exchange
from destinations.base import Line, Receipt, ServiceUnavailable, Source
from destinations.batch import Batch, Packer
from logdna_synchronous import SPLIT_REQUESTS, Delivery, LogDNA, Sender
from tests.harness import NIGHTLY

PLANS = 100_000 if NIGHTLY else 4_000
CHUNKS = 4
POLICY = RetryPolicy(seconds=60, first_wait=0.5, longest_wait=20, answer_seconds=20)

RECOVERABLE = (100, 408, 425, 429, 500, 502, 503, 504, 521)
LINE_STATUSES = (200, 200, 200, 202, 400, 404, 422, 429, 500, 503)


class Clock:
    """A clock that moves when a thread sleeps or the service is slow."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Reply:
    """The part of a response that delivery uses."""

    status_code: int
    text: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    broken: bool = False

    @property
    def raw(self) -> Reply:
        return self

    def read(self, size: int, decode_content: bool) -> bytes:
        if self.broken:
            raise urllib3.exceptions.ProtocolError("cut off")
        return self.text[:size]

    def close(self) -> None:
        """Nothing to close."""


class Service:
    """The log service of one plan, and what it did with each line."""

    def __init__(self, rng: random.Random, clock: Clock) -> None:
        self.taken: Counter[str] = Counter()
        self.told: set[str] = set()
        """Lines that were accepted, and delivery was told so."""
        self.untold: set[str] = set()
        """Lines that may have been accepted without an answer."""
        self.refused: set[str] = set()
        """Lines that were refused, alone or with others."""
        self.requests = 0
        self.lock = threading.RLock()
        self._rng = rng
        self._clock = clock
        self.troubles: list[Callable[[list[str]], Reply]] = rng.sample(
            [self.later, self.mask, self.wrong_mask, self.error, self.lost_before, self.lost_after,
             self.never, self.slow, self.text_lost, self.expired, self.refuse, self.wrong_address],
            rng.randrange(5),
        )  # fmt: skip
        self.most = self.left = rng.choice([0, 1, 2, 3, 5, 10, 30, 10**9])
        self.share = rng.choice([0.1, 0.5, 1.0])
        self.bad_share = rng.choice([0, 0, 0, 0.02, 0.1, 1])
        self.by_line = rng.random() < 0.3
        self.key_dies_at = rng.choice([10**9] * 9 + [rng.randrange(1, 40)])
        self.bad: set[str] = set()

    def add(self, text: str) -> None:
        """A line that will be sent."""
        if self._rng.random() < self.bad_share:
            self.bad.add(text)

    @property
    def mild(self) -> bool:
        """Whether everything must be delivered: nothing is refused, and all faults end."""
        passing = {"later", "error", "lost_before", "lost_after", "expired", "slow", "text_lost"}
        kinds = {trouble.__name__ for trouble in self.troubles}
        return not self.bad and self.most <= 3 and kinds <= passing and self.key_dies_at == 10**9

    @property
    def plain(self) -> bool:
        """Whether bad lines are the only fault."""
        return (not self.troubles or not self.most) and self.key_dies_at == 10**9

    def answer(self, lines: list[str]) -> Reply:
        """One request."""
        self.requests += 1
        again = self.told.intersection(lines)
        assert not again, f"sent again although it is taken: {again}"
        if self.requests >= self.key_dies_at:
            return Reply(self._rng.choice([401, 403]))
        if self.troubles and self.left and self._rng.random() < self.share:
            self.left -= 1
            return self._rng.choice(self.troubles)(lines)
        return self.well(lines)

    # --- ways to answer --------------------------------------------------------------------------

    def well(self, lines: list[str]) -> Reply:
        bad = self.bad.intersection(lines)
        if bad and self.by_line:
            return self._mask(lines, [422 if line in bad else 200 for line in lines])
        if bad:
            return self.refuse(lines)
        self.tell(lines)
        return Reply(200, b'{"status":"ok","batchID":"1"}')

    def refuse(self, lines: list[str]) -> Reply:
        """Perhaps without a reason."""
        if len(lines) == 1:
            self.refused.update(lines)
        return Reply(self._rng.choice([400, 413, 422]), b"no")

    def wrong_address(self, lines: list[str]) -> Reply:
        self.refused.update(lines)
        return Reply(self._rng.choice([307, 404, 405, 415]))

    def later(self, lines: list[str]) -> Reply:
        headers = self._rng.choice([{}, {}, {"Retry-After": "0"}, {"Retry-After": "7"}])
        return Reply(self._rng.choice(RECOVERABLE), headers=headers)

    def mask(self, lines: list[str]) -> Reply:
        return self._mask(lines, [self._rng.choice(LINE_STATUSES) for _ in lines])

    def _mask(self, lines: list[str], statuses: list[int]) -> Reply:
        self.tell([line for line, status in zip(lines, statuses, strict=True) if status < 300])
        self.refused.update(
            line for line, status in zip(lines, statuses, strict=True) if 400 <= status < 429
        )
        return Reply(207, orjson.dumps({"status": statuses}))

    def wrong_mask(self, lines: list[str]) -> Reply:
        self.record(lines)
        text = self._rng.choice([b"", b"{}", b"<html>", orjson.dumps({"status": [200] * 99})])
        return Reply(207, text)

    def error(self, lines: list[str]) -> Reply:
        return Reply(200, self._rng.choice([b'{"status":"error"}', b'{"error":"quota"}']))

    def lost_before(self, lines: list[str]) -> Reply:
        raise requests.ConnectionError

    def lost_after(self, lines: list[str]) -> Reply:
        self.record(lines)
        raise requests.exceptions.ChunkedEncodingError

    def never(self, lines: list[str]) -> Reply:
        if self._rng.random() < 0.5:
            self.record(lines)
        self._clock.pass_(POLICY.answer_seconds)
        raise requests.ReadTimeout

    def slow(self, lines: list[str]) -> Reply:
        self._clock.pass_(self._rng.random() * POLICY.answer_seconds)
        return self.well(lines)

    def text_lost(self, lines: list[str]) -> Reply:
        """The status arrives, the body does not."""
        reply = self.well(lines)
        if reply.status_code == 207:
            self.told -= set(lines)
            self.untold.update(lines)
        return Reply(reply.status_code, broken=True)

    def expired(self, lines: list[str]) -> Reply:
        return Reply(401, headers={"renewed": "yes"})

    # --- records ---------------------------------------------------------------------------------

    def record(self, lines: list[str]) -> None:
        """Accept lines, but the answer is lost."""
        some = [line for line in lines if line not in self.bad and self._rng.random() < 0.7]
        self.taken.update(some)
        self.untold.update(some)

    def tell(self, lines: list[str]) -> None:
        """Accept lines, and say so."""
        self.taken.update(lines)
        self.told.update(lines)


class Destination(LogDNA):
    """LogDNA, with the model's service in place of the network."""

    compressed = False  # that is tested elsewhere, and takes time

    def __init__(self, service: Service) -> None:
        super().__init__("http://model", "the-key")
        object.__setattr__(self, "service", service)

    def post(self, session: Any, body: bytes, timeout: Any) -> Any:
        lines = [line["line"] for line in orjson.loads(body)["lines"]]
        with self.service.lock:  # type: ignore[attr-defined]
            return self.service.answer(lines)  # type: ignore[attr-defined]

    def replaced_credentials(self, rejected: Any) -> bool:
        return "renewed" in rejected.headers


def batches(rng: random.Random, service: Service) -> Iterator[Batch]:
    """A random stream of batches; the text of a line begins with its owner."""
    destination = Destination(service)
    packer = Packer(destination, rng.choice([400, 2_000, 20_000]))
    render = destination.renderer(Source(), 0)
    for owner in range(rng.randrange(1, rng.choice([3, 3, 10]))):
        for row in range(rng.choice([1, 1, 2, 3, 3, 60]) if rng.random() < 0.7 else 1):
            text = f"{owner} {row}"
            service.add(text)
            if full := packer.add(owner, render(Line(text.encode(), 0))):
                yield full
    if rest := packer.take():
        yield rest


def texts_of(batch: Batch) -> list[str]:
    elements = orjson.loads(b"[" + bytes(batch.content) + b"]")
    return [element["line"] for element in elements]


def check(service: Service, lines: list[str], receipts: list[Receipt]) -> None:
    """The receipts of these lines match what the service did."""
    accepted = sum((receipt.accepted for receipt in receipts), Counter[int]())
    failed = {owner for receipt in receipts for owner in receipt.failed}
    assert accepted == Counter(_owner(line) for line in lines if line in service.told)
    assert failed == {_owner(line) for line in lines if line not in service.told}
    assert service.taken.keys() <= set(lines)
    twice = {line for line, count in service.taken.items() if count > 1}
    assert twice <= service.untold, "only what delivery can't know of is taken twice"
    if service.mild:
        assert not failed, "nothing stood in the way"
    if service.plain and (service.by_line or len(service.bad) <= 1):
        assert service.told == set(lines) - service.bad, "only bad lines are refused"


def _owner(line: str) -> int:
    return int(line.split()[0])


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No log and no connections: they would take most of the time."""
    monkeypatch.setattr(exchange, "session", lambda connections: SimpleNamespace(headers={}))
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_receipts_match_what_the_service_accepted(chunk: int) -> None:
    for seed in range(chunk, PLANS, CHUNKS):
        try:
            play(seed)
        except Exception as error:
            raise AssertionError(f"play({seed}): {error!r}") from error


def play(seed: int) -> None:
    """One plan: batch after batch."""
    rng, clock = random.Random(seed), Clock()
    random.seed(seed)  # for the jitter
    service = Service(rng, clock)
    ended = threading.Event()
    sender = Sender(Destination(service), POLICY, 1, ended, clock=clock, sleep=clock.pass_)
    lines, receipts = list[str](), list[Receipt]()
    for batch in batches(rng, service):
        lines += texts_of(batch)
        traffic = sender.traffic
        over = next((receipt.ended_by for receipt in receipts if receipt.ended_by), None)
        before, started = (traffic.requests, traffic.retries), clock.now
        receipts.append(sender.send(batch))
        requests_made, retries = traffic.requests - before[0], traffic.retries - before[1]
        parts = requests_made - retries
        assert parts <= SPLIT_REQUESTS
        assert requests_made <= 60 * max(parts, 1)
        assert clock.now - started <= parts * (POLICY.seconds + POLICY.answer_seconds) + 0.001
        assert service.requests == traffic.requests
        if over:
            assert requests_made == 0, "nothing is sent once it has ended"
            assert receipts[-1].ended_by is over
        check_reasons(service, batch, receipts[-1])
    check(service, lines, receipts)


def check_reasons(service: Service, batch: Batch, receipt: Receipt) -> None:
    """An object fails permanently only if the service refused its lines, or lines near them."""
    texts = texts_of(batch)
    for owner, failure in receipt.failed.items():
        own = [text for text in texts if _owner(text) == owner]
        if failure.permanent and "did not show which" not in failure.reason:
            assert service.refused.intersection(own)
        if receipt.ended_by is None and not service.untold:
            assert set(own) - service.told


def test_the_same_with_several_requests_at_once() -> None:
    """As in a run, with threads; the waits are short."""
    hasty = RetryPolicy(seconds=0.05, first_wait=0.001, longest_wait=0.004)
    for seed in range(PLANS // 50):
        rng = random.Random(seed)
        service = Service(rng, Clock())
        delivery = Delivery(
            Destination(service),
            policy=hasty,
            concurrency=rng.choice([1, 3]),
            batch_bytes=rng.choice([300, 1_000]),
        )
        lines = list[str]()
        for owner in range(rng.randrange(1, 12)):
            texts = [f"{owner} {row}" for row in range(rng.choice([1, 3, 20]))]
            lines += texts
            for text in texts:
                service.add(text)
            delivery.add(owner, [Line(text.encode(), 0) for text in texts], Source())
        receipts = list(delivery.flush())
        delivery.close()
        service.most += 4  # how long a wait takes is not for sure here
        check(service, lines, receipts)


@pytest.mark.parametrize("seconds", [0, 1, 180, 1200])
def test_a_service_that_is_down_is_asked_until_the_time_is_up(seconds: float) -> None:
    clock = Clock()
    service = Service(random.Random(0), clock)
    asked = list[float]()

    def answer(lines: list[str]) -> Reply:
        asked.append(clock.now)
        return Reply(503)

    service.answer = answer  # type: ignore[method-assign]
    sender = Sender(
        Destination(service),
        RetryPolicy(seconds=seconds),
        1,
        threading.Event(),
        clock=clock,
        sleep=clock.pass_,
    )
    (batch,) = list(batches(random.Random(1), service))[:1]
    assert isinstance(sender.send(batch).ended_by, ServiceUnavailable)
    assert asked[0] == 0
    assert asked[-1] == clock.now == seconds
    assert seconds / 30 <= len(asked) < 200
