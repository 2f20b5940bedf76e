"""Delivery without the rest of the job: batches, answers, retries, receipts."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from connections.retry import RetryPolicy
from destinations import answers
from destinations.base import (
    Failure,
    KeyRejected,
    Line,
    Receipt,
    ServiceUnavailable,
    Source,
)
from destinations.batch import Batch, Packer
from logdna_synchronous import SPLIT_REQUESTS, Delivery, LogDNA, Sender
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
    accepted, failed, ended_by = Counter[int](), dict[int, Failure](), None
    for receipt in delivery.flush():
        accepted += receipt.accepted
        failed |= receipt.failed
        ended_by = ended_by or receipt.ended_by
    delivery.close()
    return Receipt(accepted, failed, ended_by)


def owners_received(service: Ingestion) -> Counter[int]:
    return Counter(int(text.split()[0]) for text in service.texts)


# --- lines ----------------------------------------------------------------------------------------


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


def test_the_window_limits_the_requests_in_flight() -> None:
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
def test_the_status_counts_even_if_the_body_can_not_be_read(
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
    assert isinstance(receipt.ended_by, ServiceUnavailable)
    assert receipt.failed.keys() == set(range(50))
    assert not receipt.accepted
    first = gzip.decompress(service.requests[0].body)
    assert all(gzip.decompress(request.body) == first for request in service.requests)


def test_a_retry_after_past_the_time_limit_ends_the_tries(service: Ingestion) -> None:
    service.script.always(Answer(429, {"Retry-After": "3600"}))
    receipt = send(delivery(service), 2)
    assert isinstance(receipt.ended_by, ServiceUnavailable)
    assert len(service.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_stops_everything_at_once(service: Ingestion, status: int) -> None:
    service.script.next([None, Answer(status)])
    receipt = send(delivery(service), 50)
    assert isinstance(receipt.ended_by, KeyRejected)
    assert len(service.requests) == 2
    assert receipt.accepted == owners_received(service)
    assert receipt.failed.keys() | receipt.accepted.keys() == set(range(50))
    assert not receipt.failed.keys() & receipt.accepted.keys()


@pytest.mark.parametrize("slow_answers_first", [True, False])
def test_a_wrong_key_also_ends_the_retries_of_the_other_requests(
    service: Ingestion, slow_answers_first: bool
) -> None:
    """One request waits longer for its next try than a test may take; another gets a 401.

    Whichever of the two is answered first, the key is the reason that both report.
    """
    retries_end = threading.Event()

    def rule(request: HTTPRequest) -> Answer | None:
        service.wait_for_requests(2)
        if b'"slow"' not in gzip.decompress(request.body):
            return Answer(401)
        assert slow_answers_first or retries_end.wait(30)
        return Answer(503, {"Retry-After": "1000"})

    def batch(text: bytes) -> Batch:
        packer = Packer(destination, limit=1_000)
        packer.add(0, destination.renderer(Source(), 0)(Line(text)))
        whole = packer.take()
        assert whole
        return whole

    service.script.rule(rule)
    destination = LogDNA(service.url, KEY)
    sender = Sender(destination, RetryPolicy(seconds=3_000), 2, retries_end)
    with ThreadPoolExecutor(2) as threads:
        receipts = list(threads.map(sender.send, [batch(b"slow"), batch(b"other")]))
    assert isinstance(sender.ended_by, KeyRejected)
    assert all(receipt.ended_by is sender.ended_by for receipt in receipts)
    assert all("401" in receipt.failed[0].reason for receipt in receipts)


def test_a_refused_request_fails_alone(service: Ingestion) -> None:
    service.script.next([None, Answer(404)])
    receipt = send(delivery(service), 20)
    assert receipt.ended_by is None
    assert receipt.accepted == owners_received(service)
    assert receipt.failed
    assert receipt.failed.keys() | receipt.accepted.keys() == set(range(20))
    assert all("404" in failure.reason for failure in receipt.failed.values())
    assert not any(failure.permanent for failure in receipt.failed.values())


def test_a_redirect_is_not_followed(service: Ingestion) -> None:
    with Ingestion(KEY) as elsewhere:
        service.script.always(Answer(307, {"Location": f"{elsewhere.url}/logs/ingest"}))
        receipt = send(delivery(service), 2)
        assert receipt.failed.keys() == {0, 1}
        assert elsewhere.requests == []


def test_too_large_is_split_down_to_single_lines(service: Ingestion) -> None:
    """The service accepts 2,000 bytes; half of the lines alone are larger than that."""
    sender = delivery(service, batch=100_000)
    for owner in range(16):
        add(sender, owner, 2_500 if owner % 2 else 300)
    (receipt,) = sender.flush()
    assert receipt.accepted == Counter(range(0, 16, 2)) == owners_received(service)
    assert receipt.failed.keys() == set(range(1, 16, 2))
    assert receipt.ended_by is None
    sender.close()


# --- lines that are refused, and lines that are not taken -----------------------------------------


def bad(*owners: int) -> Callable[[str], int | None]:
    """Requests with lines of these owners are refused."""
    return lambda text: 400 if int(text.split()[0]) in owners else None


@pytest.fixture
def roomy() -> Iterator[Ingestion]:
    with Ingestion(KEY) as ingestion:
        yield ingestion


def test_one_bad_line_fails_alone(roomy: Ingestion) -> None:
    roomy.refusal = bad(77)
    receipt = send(delivery(roomy, batch=100_000), 200)
    assert receipt.failed.keys() == {77}
    assert receipt.failed[77].permanent
    assert receipt.ended_by is None
    assert receipt.accepted == owners_received(roomy) == Counter(set(range(200)) - {77})
    assert len(roomy.requests) < 25


def test_many_bad_lines_take_few_others_with_them(roomy: Ingestion) -> None:
    """64 requests do not find all of them; the other lines that fail are near one of them."""
    roomy.refusal = bad(*range(0, 400, 40))
    receipt = send(delivery(roomy, batch=100_000), 400)
    assert len(roomy.requests) == SPLIT_REQUESTS
    assert receipt.accepted == owners_received(roomy)
    assert receipt.accepted.total() > 200
    assert receipt.failed.keys() == set(range(400)) - receipt.accepted.keys()
    assert all(failure.permanent for failure in receipt.failed.values())


def test_of_an_object_with_a_bad_line_the_others_are_delivered(roomy: Ingestion) -> None:
    roomy.refusal = lambda text: 422 if "bad" in text else None
    sender = delivery(roomy, batch=100_000)
    for owner in range(4):
        texts = [f"{owner} {row} {'bad' if (owner, row) == (2, 3) else ''}" for row in range(10)]
        sender.add(owner, [Line(text.encode()) for text in texts], Source())
    (receipt,) = sender.flush()
    assert receipt.accepted == Counter({0: 10, 1: 10, 2: 9, 3: 10})
    assert receipt.failed.keys() == {2}
    sender.close()


def test_a_service_that_refuses_everything_is_not_asked_for_every_line(roomy: Ingestion) -> None:
    """The first batch needs 64 requests, each later one needs one, until a line is accepted."""
    sender, made = delivery(roomy, batch=100_000), []

    def batch(*owners: int) -> Receipt:
        before = len(roomy.requests)
        for owner in owners:
            add(sender, owner)
        (receipt,) = sender.flush()
        made.append(len(roomy.requests) - before)
        return receipt

    roomy.refusal = lambda text: 400
    first, second = batch(*range(200)), batch(*range(200, 400))
    assert made == [SPLIT_REQUESTS, 1]
    assert len(first.failed) == len(second.failed) == 200
    assert all(failure.permanent for failure in first.failed.values())
    assert not any(failure.permanent for failure in second.failed.values()), "nobody has looked"
    roomy.refusal = bad(420)
    assert len(batch(*range(400, 440)).failed) == 40, "still not split"
    assert not batch(500).failed
    assert batch(*range(400, 440)).failed.keys() == {420}
    assert made[2:4] == [1, 1]
    sender.close()


def test_a_single_bad_line_says_nothing_of_the_service(roomy: Ingestion) -> None:
    sender = delivery(roomy, batch=100_000)
    roomy.refusal = bad(0, 7)
    for owners in ([0], range(1, 20)):
        for owner in owners:
            add(sender, owner)
        sender.send()
    first, second = sender.flush()
    assert (first.failed.keys(), second.failed.keys()) == ({0}, {7})
    sender.close()


def test_the_reason_of_a_refusal_is_logged_once_and_cut(
    service: Ingestion, caplog: pytest.LogCaptureFixture
) -> None:
    service.script.always(Answer(400, body=b"y" * 999 + b"ZZ"))
    send(delivery(service), 20)
    said = [record.getMessage() for record in caplog.records if "yyy" in record.getMessage()]
    assert len(said) == 1
    assert said[0].endswith("yZ")


def test_only_the_lines_that_were_not_taken_are_sent_again(roomy: Ingestion) -> None:
    left = set(range(0, 30, 3))

    def line_status(text: str) -> int:
        owner = int(text.split()[0])
        if owner not in left:
            return 200
        left.remove(owner)
        return 500

    roomy.line_status = line_status
    receipt = send(delivery(roomy, batch=100_000), 30)
    assert receipt == Receipt(Counter(range(30)))
    assert owners_received(roomy) == Counter(range(30)), "none twice"
    assert len(roomy.requests) == 2


def test_a_line_that_is_never_taken_fails_alone(roomy: Ingestion) -> None:
    roomy.line_status = lambda text: 500 if text.startswith("3 ") else 200
    sender = delivery(roomy, RetryPolicy(seconds=0.1, first_wait=0.01, longest_wait=0.01))
    receipt = send(sender, 30)
    assert receipt.ended_by is None
    assert receipt.failed.keys() == {3}
    assert not receipt.failed[3].permanent
    assert receipt.accepted == owners_received(roomy) == Counter(set(range(30)) - {3})


def test_a_service_that_takes_no_line_any_more_ends_the_run(roomy: Ingestion) -> None:
    """207 for some of them first, 207 for none then, 503 for all."""
    hasty = RetryPolicy(seconds=0.1, first_wait=0.01, longest_wait=0.01)
    roomy.line_status = lambda text: 500
    assert isinstance(send(delivery(roomy, hasty), 5).ended_by, ServiceUnavailable)
    roomy.line_status = lambda text: 500 if text.startswith("3 ") else 200
    roomy.script.rule(lambda _: Answer(503) if roomy.received else None)
    receipt = send(delivery(roomy, hasty), 5)
    assert isinstance(receipt.ended_by, ServiceUnavailable)
    assert receipt.failed.keys() == {3}


def test_words_of_a_service_that_takes_lines_are_counted(
    roomy: Ingestion, caplog: pytest.LogCaptureFixture
) -> None:
    class Wordy(LogDNA):
        def meaning(self, status: int, text: bytes, lines: int) -> answers.Meaning:
            return answers.cloud_logs(status, text, lines)

    roomy.accepted = Answer(200, body=b"2 logs were not accepted")
    sender = Delivery(Wordy(roomy.url, KEY), batch_bytes=1_000)
    assert send(sender, 20) == Receipt(Counter(range(20)))
    assert sender.traffic.remarks == len(roomy.requests) > 1
    assert caplog.text.count("2 logs were not accepted") == sender.traffic.remarks


def test_a_compressed_answer_is_read_although_it_was_not_requested(
    roomy: Ingestion,
) -> None:
    error = gzip.compress(b'{"status":"error"}')
    roomy.script.next([Answer(200, {"Content-Encoding": "gzip"}, error)])
    assert send(delivery(roomy), 2) == Receipt(Counter(range(2)))
    assert len(roomy.requests) == 2
    assert roomy.requests[0].headers["accept-encoding"] == "identity"


def test_a_long_answer_is_ignored_after_64_kib(roomy: Ingestion) -> None:
    roomy.accepted = Answer(200, body=b" " * 10_000_000)
    assert send(delivery(roomy), 20) == Receipt(Counter(range(20)))
    assert owners_received(roomy) == Counter(range(20))


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
    assert sender.ended_by is not None
    sender.close()


def test_now_in_the_query_is_the_time_of_sending(service: Ingestion) -> None:
    before = int(time.time() * 1000)
    send(delivery(service), 1)
    now = int(service.requests[0].target.split("now=")[1])
    assert before <= now <= int(time.time() * 1000)
