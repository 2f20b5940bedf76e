"""Batches: packed, halved, and reduced to some lines."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from destinations.base import LineTooLong
from destinations.batch import BATCH_LINES, Batch, Packer
from destinations.exchange import ANSWER_LIMIT_BYTES
from logdna_synchronous import LogDNA

DESTINATION = LogDNA("http://x", "the-key")


def test_a_batch_is_closed_before_it_is_too_large() -> None:
    packer = Packer(DESTINATION, 1_000)
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
    sizes = [len(DESTINATION.decode(batch.body(DESTINATION))) for batch in batches]
    assert max(sizes) <= 1_000
    assert min(sizes[:-1]) > 800
    assert packer.take() is None


def owned_lines(batch: Batch) -> list[tuple[int, bytes]]:
    """Owner and text of each line."""
    assert all(batch.counts().values()), "no owner without a line"
    owners = [owner for owner, count in batch.counts().items() for _ in range(count)]
    texts = bytes(batch.content).split(b",")
    assert [len(b",".join(texts[: i + 1])) for i in range(len(texts))] == list(batch.ends)
    return list(zip(owners, texts, strict=True))


LINES = st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=4)), min_size=2, max_size=20)


def batch_of(lines: Sequence[tuple[int, bytes]]) -> Batch:
    packer = Packer(DESTINATION, 10_000)
    for owner, text in lines:
        assert packer.add(owner, text) is None
    batch = packer.take()
    assert batch
    return batch


def in_order(lines: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    return sorted((owner, text.replace(b",", b".") + b"!") for owner, text in lines)


ENCODED = pytest.mark.parametrize("encoded", [False, True], ids=["as packed", "as encoded"])


@ENCODED
@given(LINES)
def test_halves_are_the_whole(encoded: bool, lines: list[tuple[int, bytes]]) -> None:
    lines = in_order(lines)
    batch = batch_of(lines)
    if encoded:
        batch.body(DESTINATION)
    assert owned_lines(batch) == lines
    first, second = batch.halves()
    assert min(len(first), len(second)) >= len(batch) // 4
    assert owned_lines(first) + owned_lines(second) == lines


@pytest.mark.parametrize(
    ("owners", "first"),
    [
        ([0, 0, 0, 0], 2),
        ([0, 0, 0, 1], 3),
        ([0, 1, 1, 1], 1),
        ([0, 0, 0, 0, 0, 1, 1, 1], 5),
        ([0, 1, 1, 1, 1, 1, 1, 1], 4),
        ([0, 1], 1),
    ],
)
def test_a_batch_is_halved_between_objects_if_possible(owners: list[int], first: int) -> None:
    """Mostly a whole object is refused, and then others need not be split."""
    assert len(batch_of([(owner, b"x") for owner in owners]).halves()[0]) == first


@ENCODED
@given(LINES, st.data())
def test_lines_are_selected_by_index(
    encoded: bool, lines: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    lines = in_order(lines)
    every = range(len(lines))
    indices = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1)))
    batch = batch_of(lines)
    if encoded:
        assert batch.body(DESTINATION) == batch.body(DESTINATION)
    assert owned_lines(batch.select(indices)) == [lines[i] for i in indices]
    assert [batch.owner_of(i) for i in every] == [owner for owner, _ in lines]


def test_a_batch_has_no_more_lines_than_an_answer_can_have_statuses() -> None:
    packer = Packer(DESTINATION, 10_000_000)
    full = [batch for n in range(2 * BATCH_LINES + 1) if (batch := packer.add(n, b"{}"))]
    assert [len(batch) for batch in full] == [BATCH_LINES, BATCH_LINES]
    assert len('{"status":[' + "200, " * BATCH_LINES) < ANSWER_LIMIT_BYTES


def test_a_line_that_no_request_can_hold() -> None:
    packer = Packer(DESTINATION, 1_000)
    with pytest.raises(LineTooLong):
        packer.add(0, b"x" * DESTINATION.request_limit_bytes)
    assert packer.take() is None
    # Over the limit of a batch, not over that of a request: it is sent alone.
    packer.add(1, b"x")
    assert packer.add(2, b"x" * (DESTINATION.request_limit_bytes - 20))
    alone = packer.take()
    assert alone
    assert alone.counts() == {2: 1}


def test_an_encoded_batch_gives_its_memory_back() -> None:
    tracemalloc.start()
    try:
        packer = Packer(DESTINATION, 1_000_000)
        for _ in range(9):
            packer.add(0, b"x" * 100_000)
        batch = packer.take()
        assert batch
        del packer
        assert tracemalloc.get_traced_memory()[0] > 900_000
        batch.body(DESTINATION)
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()
