"""Delivery on its own: batches, what an answer means, retries, receipts."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given

from connections.retry import RetryPolicy
from destinations.base import (
    KeyRejected,
    Line,
    LineTooLong,
    Receipt,
    ServiceUnavailable,
    Source,
    Verdict,
    verdict,
)
from destinations.batch import Batch, Packer
from logdna_synchronous import Delivery, LogDNA
from standins.faults import Answer, Reset
from standins.http import HTTPRequest
from standins.ingestion import Ingestion

KEY = "the-key"
QUICK = RetryPolicy(seconds=30, first_wait=0.001, longest_wait=0.01)


@pytest.fixture
def service() -> Iterator[Ingestion]:
    with Ingestion(KEY, body_limit=2_000) as ingestion:
        yield ingestion


def delivery(
    service: Ingestion, policy: RetryPolicy = QUICK, batch: int = 1_000, concurrency: int = 1
) -> Delivery:
    return Delivery(
        LogDNA(service.url, KEY), policy=policy, concurrency=concurrency, batch_bytes=batch
    )


def line(owner: int, size: int = 100) -> Line:
    return Line(f"{owner} ".ljust(size, "x").encode())


def add(delivery: Delivery, owner: int, size: int = 100) -> None:
    delivery.add(owner, [line(owner, size)], Source())


def send(delivery: Delivery, owners: int = 10, size: int = 100) -> Receipt:
    """One line for each owner; all receipts in one."""
    for owner in range(owners):
        add(delivery, owner, size)
    accepted, failed, fatal = Counter[int](), dict[int, str](), None
    for receipt in delivery.flush():
        accepted += receipt.accepted
        failed |= receipt.failed
        fatal = fatal or receipt.fatal
    delivery.close()
    return Receipt(accepted, failed, fatal)


def owners_received(service: Ingestion) -> Counter[int]:
    return Counter(int(text.split()[0]) for text in service.texts)


# --- what an answer means ------------------------------------------------------------------------


def test_every_status_has_its_meaning() -> None:
    meanings = {
        Verdict.DELIVERED: {*range(200, 300)},
        Verdict.RETRY: {429, *range(500, 600)},
        Verdict.KEY_REJECTED: {401, 403},
        Verdict.SPLIT: {413},
    }
    for status in range(100, 600):
        expected = [meaning for meaning, group in meanings.items() if status in group]
        assert verdict(status) is (expected[0] if expected else Verdict.REFUSED), status


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_is_closed_before_it_is_too_large() -> None:
    destination = LogDNA("http://x", KEY)
    packer = Packer(destination, 1_000)
    batches = []
    for owner in range(50):
        if full := packer.add(owner // 2, b"x" * (90 + owner)):
            batches.append(full)
    rest = packer.take()
    assert rest
    batches.append(rest)
    assert sum((batch.counts() for batch in batches), Counter()) == Counter(
        owner // 2 for owner in range(50)
    )
    sizes = [len(batch.body(destination)) for batch in batches]
    assert max(sizes) <= 1_000
    assert min(sizes[:-1]) > 800
    assert packer.take() is None


def owned_lines(batch: Batch) -> list[tuple[int, bytes]]:
    """Owner and text of each line."""
    owners = [owner for owner, count in batch.counts().items() for _ in range(count)]
    texts = bytes(batch.content).split(b",")
    assert [len(b",".join(texts[: i + 1])) for i in range(len(texts))] == list(batch.ends)
    return list(zip(owners, texts, strict=True))


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=4)), min_size=2, max_size=20))
def test_halves_are_the_whole(lines: list[tuple[int, bytes]]) -> None:
    packer = Packer(LogDNA("http://x", KEY), 1_000)
    lines = sorted((owner, text.replace(b",", b".") + b"!") for owner, text in lines)
    for owner, text in lines:
        assert packer.add(owner, text) is None
    batch = packer.take()
    assert batch
    assert owned_lines(batch) == lines
    first, second = batch.halves()
    assert abs(len(first) - len(second)) <= 1
    assert owned_lines(first) + owned_lines(second) == lines


def test_a_line_that_no_request_can_hold() -> None:
    destination = LogDNA("http://x", KEY)
    packer = Packer(destination, 1_000)
    with pytest.raises(LineTooLong):
        packer.add(0, b"x" * destination.request_limit_bytes)
    assert packer.take() is None
    # Larger than a batch should be, but not than a request may be: it goes alone.
    packer.add(1, b"x")
    assert packer.add(2, b"x" * (destination.request_limit_bytes - 20))
    alone = packer.take()
    assert alone
    assert alone.counts() == {2: 1}


def test_a_line_that_no_request_can_hold_is_named_and_the_others_go(service: Ingestion) -> None:
    with Ingestion(KEY) as roomy:
        sender = delivery(roomy)
        added = sender.add(3, [line(3), line(3, 10_000_000), line(3)], Source())
        assert added.lines == 3
        assert added.refused and "does not fit" in added.refused
        assert sum((receipt.accepted for receipt in sender.flush()), Counter()) == {3: 2}
        sender.close()


@pytest.mark.parametrize("text", ['a"b\\c\n\x00\x1f', "é日本\U0001f600", "\u2028</script>", ""])
def test_an_element_is_json_that_gives_the_text_back(text: str) -> None:
    render = LogDNA("http://x", KEY).renderer(Source(), 7)
    head, tail = f"1{text}".encode(), f"{text}3".encode()
    assert json.loads(render(Line(text.encode(), 5, True, head, tail))) == {
        "line": f"1{text}{text}{text}3",
        "timestamp": 5,
        "level": "WARN",
        "app": "FLCE",
        "hostname": "flowlogjob",
    }


# --- how many at once ----------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "size"), [(429, 4), (503, 4), (500, 8)])
def test_an_overloaded_service_gets_fewer_requests_at_once(
    service: Ingestion, status: int, size: int
) -> None:
    sizes = []
    sender = delivery(service, concurrency=8)
    service.script.next([Answer(status, {"Retry-After": "0"})])
    service.script.rule(lambda _: sizes.append(sender._sender.window.size))
    send(sender, 2)
    assert sizes[0] == size


def test_no_more_requests_are_on_the_wire_than_the_window_says() -> None:
    """Six batches, a window of two: the third is not sent before one of the first is answered."""
    with Ingestion(KEY) as service:
        sender = delivery(service, concurrency=6)
        sender._sender.window.size = 2.0
        service.script.rule(lambda _: service.wait_for_requests(2))
        assert send(sender, 40) == Receipt(Counter(range(40)))
        assert len(service.requests) >= 6
        assert 2 <= service.most_in_flight <= 3, "it had begun to grow again at most"


def test_the_destination_does_not_show_its_key() -> None:
    assert KEY not in repr(LogDNA("http://x", KEY))


# --- retries and receipts ------------------------------------------------------------------------


def test_receipts_say_what_arrived(service: Ingestion) -> None:
    receipt = send(delivery(service), 30)
    assert receipt == Receipt(Counter(range(30)))
    assert owners_received(service) == Counter(range(30))
    assert len(service.requests) > 3
    assert service.connections == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_tries_go_on_however_many_they_are(service: Ingestion, status: int) -> None:
    service.script.next([Answer(status)] * 20)
    sender = delivery(service)
    receipt = send(sender, 3)
    assert receipt == Receipt(Counter(range(3)))
    assert owners_received(service) == Counter(range(3))
    assert (sender.traffic.requests, sender.traffic.retries) == (21, 20)
    assert sender.traffic.bytes_sent == sum(len(request.body) for request in service.requests)


@pytest.mark.parametrize(
    ("status", "requests"), [(200, 1), (202, 1), (429, 2), (503, 2), (413, 3), (103, 2)]
)
def test_the_status_counts_also_where_the_rest_can_not_be_read(
    service: Ingestion, status: int, requests: int
) -> None:
    def refuse(request: HTTPRequest) -> Answer | None:
        if len(service.requests) > 1:
            return None
        return Answer(status, {"Content-Encoding": "gzip"}, b"<html>")

    service.script.rule(refuse)
    receipt = send(delivery(service), 4)
    assert receipt == Receipt(Counter(range(4)))
    assert len(service.requests) == requests


def test_time_ends_the_tries_and_a_dead_service_is_not_asked_for_every_batch(
    service: Ingestion,
) -> None:
    service.script.always(Answer(503))
    hasty = RetryPolicy(seconds=0.2, first_wait=0.05, longest_wait=0.05)
    receipt = send(delivery(service, hasty), 50)
    assert isinstance(receipt.fatal, ServiceUnavailable)
    assert receipt.failed.keys() == set(range(50))
    assert not receipt.accepted
    first = gzip.decompress(service.requests[0].body)
    assert all(gzip.decompress(request.body) == first for request in service.requests)


def test_a_retry_after_past_the_time_limit_ends_the_tries(service: Ingestion) -> None:
    service.script.always(Answer(429, {"Retry-After": "3600"}))
    receipt = send(delivery(service), 2)
    assert isinstance(receipt.fatal, ServiceUnavailable)
    assert len(service.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_stops_everything_at_once(service: Ingestion, status: int) -> None:
    service.script.next([None, Answer(status)])
    receipt = send(delivery(service), 50)
    assert isinstance(receipt.fatal, KeyRejected)
    assert len(service.requests) == 2
    assert receipt.accepted == owners_received(service)
    assert receipt.failed.keys() | receipt.accepted.keys() == set(range(50))
    assert not receipt.failed.keys() & receipt.accepted.keys()


def test_a_wrong_key_also_ends_the_retries_of_the_other_requests(service: Ingestion) -> None:
    """One request waits for its next try for longer than a test may take, another gets a 401."""
    slow = RetryPolicy(seconds=3_000, first_wait=0.001)

    def rule(request: HTTPRequest) -> Answer | None:
        body = gzip.decompress(request.body)
        if b'"0 x' in body:
            return Answer(503, {"Retry-After": "1000"})
        service.wait_for_requests(2)
        return Answer(401)

    service.script.rule(rule)
    receipt = send(delivery(service, slow, concurrency=2), 20)
    assert isinstance(receipt.fatal, KeyRejected)
    assert receipt.failed.keys() == set(range(20))


def test_a_refused_batch_fails_alone(service: Ingestion) -> None:
    service.script.next([None, Answer(400)])
    receipt = send(delivery(service), 20)
    assert receipt.fatal is None
    assert receipt.accepted == owners_received(service)
    assert receipt.failed
    assert receipt.failed.keys() | receipt.accepted.keys() == set(range(20))
    assert all("400" in reason for reason in receipt.failed.values())


def test_a_redirect_is_not_followed(service: Ingestion) -> None:
    with Ingestion(KEY) as elsewhere:
        service.script.always(Answer(307, {"Location": f"{elsewhere.url}/logs/ingest"}))
        receipt = send(delivery(service), 2)
        assert receipt.failed.keys() == {0, 1}
        assert elsewhere.requests == []


def test_too_large_is_split_down_to_single_lines(service: Ingestion) -> None:
    """The service takes 2,000 bytes; half of the lines are larger than that on their own."""
    sender = delivery(service, batch=100_000)
    for owner in range(16):
        add(sender, owner, 2_500 if owner % 2 else 300)
    (receipt,) = sender.flush()
    assert receipt.accepted == Counter(range(0, 16, 2)) == owners_received(service)
    assert receipt.failed.keys() == set(range(1, 16, 2))
    assert receipt.fatal is None
    sender.close()


def test_a_lost_answer_repeats_one_batch_and_no_more(service: Ingestion) -> None:
    service.script.next([None, Reset(accept=True)])
    receipt = send(delivery(service), 30)
    assert receipt == Receipt(Counter(range(30)))
    arrived = owners_received(service)
    repeated = [owner for owner, count in arrived.items() if count > 1]
    second_batch = gzip.decompress(service.requests[1].body).count(b'"line"')
    assert arrived.keys() == set(range(30))
    assert len(repeated) == second_batch
    assert max(arrived.values()) == 2


def test_stopping_ends_the_waiting_between_tries(service: Ingestion) -> None:
    stopping = False
    service.script.always(Answer(503, {"Retry-After": "1000"}))
    slow = RetryPolicy(seconds=3_000)
    sender = Delivery(LogDNA(service.url, KEY), policy=slow, stop_requested=lambda: stopping)
    add(sender, 0)
    sender.send()
    service.wait_for_requests(1)
    stopping = True
    (receipt,) = sender.flush()
    assert receipt.failed.keys() == {0}
    assert len(service.requests) <= 2, "what waited for its next try gets one, no more"
    sender.close()


def test_an_answer_that_never_comes_is_given_up_when_stopping(
    service: Ingestion, monkeypatch: pytest.MonkeyPatch
) -> None:
    from standins.faults import Silence

    monkeypatch.setattr(Delivery, "GRACE_SECONDS", 0.05)
    service.script.always(Silence())
    sender = Delivery(LogDNA(service.url, KEY), stop_requested=lambda: True)
    add(sender, 0)
    (receipt,) = sender.flush()
    assert receipt.failed.keys() == {0}
    assert sender.fatal is not None
    sender.close()


def test_now_in_the_query_is_the_time_of_sending(service: Ingestion) -> None:
    before = int(time.time() * 1000)
    send(delivery(service), 1)
    now = int(service.requests[0].target.split("now=")[1])
    assert before <= now <= int(time.time() * 1000)
