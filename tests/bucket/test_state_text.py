"""The content of STATE, and the decisions that follow from it."""

from __future__ import annotations

import pytest

from bucket.listing import ObjectRef
from bucket.state import CLOCK_SKEW_SECONDS, LEASE_SECONDS, Snapshot, StateUnreadable
from bucket.state_text import (
    NAMED_FAILURES,
    CatchUp,
    Duty,
    Remembered,
    Status,
    read_catch_up,
    read_remembered,
)

KEY = "first_logged"
WORKING = CatchUp(worker="w")


def snapshot(content: bytes, last_modified: int = 100, date: int = 100) -> Snapshot:
    return Snapshot(content, '"etag"', last_modified, date)


@pytest.mark.parametrize(
    ("status", "fixed", "expected"),
    [
        (Status.WORKING, None, None),
        (Status.CLOSING, None, 777 + CLOCK_SKEW_SECONDS),
        (Status.CLOSING, 500, 500),
        (Status.FINISHED, 500, 500),
    ],
)
def test_the_cutoff_follows_from_the_time_of_the_closing_write(
    status: Status, fixed: int | None, expected: int | None
) -> None:
    state = CatchUp(worker="w", status=status, cutoff=fixed)
    closing = snapshot(b"", last_modified=777)
    assert state.cutoff_at(closing) == expected
    # The next write puts it into the content, since it changes the time of STATE.
    assert state.claimed("v", "c", closing).cutoff == expected
    assert state.next_without_failure("k", closing).cutoff == expected
    assert state.rebased(state, state, closing).cutoff == expected


@pytest.mark.parametrize(
    ("worker", "age", "free"),
    [
        ("w", 0, False),
        ("w", LEASE_SECONDS - 1, False),
        ("w", LEASE_SECONDS, True),
        (None, 0, True),
        ("this run", 0, True),
    ],
)
def test_when_a_run_may_take_over(worker: str | None, age: int, free: bool) -> None:
    state = CatchUp(worker=worker)
    refusal = state.refusal(snapshot(b"", 1_000, 1_000 + age), "this run")
    assert refusal is None if free else "worker w is at work" in str(refusal)


@pytest.mark.parametrize("worker", [None, "this run"])
def test_a_finished_catch_up_has_no_new_worker(worker: str | None) -> None:
    state = CatchUp(worker=worker, status=Status.FINISHED, cutoff=5)
    assert "finished" in str(state.refusal(snapshot(b"", 0, 10**6), "this run"))


@pytest.mark.parametrize(
    ("place", "duty"),
    [
        ((201, "a"), Duty.PUSH),
        ((200, "z"), Duty.WORKER),
        ((100, "n"), Duty.WORKER),
        ((100, "m"), Duty.PASSED),
        ((99, "failed"), Duty.PUSH),
        ((150, "failed"), Duty.WORKER),
    ],
)
def test_who_pushes_an_object(place: tuple[int, str], duty: Duty) -> None:
    closing = CatchUp(
        worker="w", status=Status.CLOSING, mark=(100, "m"), cutoff=200, failed=("failed",)
    )
    assert closing.duty(ObjectRef(*place), 200) is duty


def test_when_the_catch_up_is_finished_nothing_is_left_to_its_worker() -> None:
    finished = CatchUp(
        worker=None, status=Status.FINISHED, mark=(100, "m"), cutoff=200, failed=("failed",)
    )
    assert finished.duty(ObjectRef(150, "n"), 200) is Duty.PASSED
    assert finished.duty(ObjectRef(150, "failed"), 200) is Duty.PUSH
    assert finished.duty(ObjectRef(201, "n"), 200) is Duty.PUSH


def test_failures_are_counted_once_and_named_while_there_is_room() -> None:
    state = CatchUp(worker="w")
    for number in range(NAMED_FAILURES + 20):
        state = state.with_failure(f"k{number}").with_failure("k0")
    assert state.failed_total == NAMED_FAILURES + 20
    assert state.failed == tuple(f"k{number}" for number in range(NAMED_FAILURES))
    assert state.without_failure("k3").failed_total == state.failed_total - 1
    assert "k3" not in state.without_failure("k3").failed
    assert state.without_failure("another") == state


def test_failures_that_others_removed_stay_removed() -> None:
    before = CatchUp(worker="w", claim="c", sequence=5, failed_total=3, failed=("a", "b", "c"))
    mine = before.with_failure("d").next(mark=(7, "d"))
    now = before.next_without_failure("b", snapshot(b""))
    mine = mine.rebased(before, now, snapshot(b""))
    assert (mine.failed, mine.failed_total) == (("a", "c", "d"), 3)
    assert (mine.mark, mine.sequence) == ((7, "d"), now.sequence)


def test_an_own_write_without_an_answer_is_adopted() -> None:
    before = CatchUp(worker="w", claim="c", sequence=5)
    closing = before.next(status=Status.CLOSING)
    taken = before.rebased(before, closing, snapshot(b"", last_modified=50))
    assert (taken.status, taken.cutoff) == (Status.CLOSING, 50 + CLOCK_SKEW_SECONDS)


@pytest.mark.parametrize(
    ("place", "passed"),
    [((99, "z"), True), ((100, "a"), True), ((100, "k"), True), ((100, "z"), False),
     ((101, "a"), False)],
)  # fmt: skip
def test_what_the_mark_has_passed(place: tuple[int, str], passed: bool) -> None:
    """In the same second, only objects that are earlier in the order of pushing."""
    state = CatchUp(worker="w", mark=(100, "k"))
    assert state.has_passed(ObjectRef(*place)) is passed
    assert not WORKING.has_passed(ObjectRef(*place)), "there is no mark yet"


def test_remembered_wants_older_objects_but_not_itself() -> None:
    memory = Remembered(100, "m")
    wanted = [(99, "z"), (100, "a"), (100, "z")]
    others = [(100, "m"), (101, "a")]
    assert all(memory.wants(ObjectRef(*place)) for place in wanted)
    assert not any(memory.wants(ObjectRef(*place)) for place in others)


@pytest.mark.parametrize(
    ("place", "older"),
    [((101, "a"), True), ((100, "z"), True), ((100, "m"), True), ((100, "a"), False),
     ((99, "z"), False)],
)  # fmt: skip
def test_remembered_is_older(place: tuple[int, str], older: bool) -> None:
    assert Remembered(100, "m").older_than(ObjectRef(*place)) is older


@pytest.mark.parametrize(
    "state",
    [
        WORKING,
        CatchUp(worker=None, claim="c", sequence=7, mark=(100, "k\u00e9\n")),
        CatchUp(worker="w", status=Status.CLOSING, sequence=8, mark=(100, "k")),
        CatchUp(worker="w", status=Status.CLOSING, cutoff=200, failed_total=3, failed=("a", "b")),
        CatchUp(worker=None, status=Status.FINISHED, cutoff=200),
    ],
)
def test_catch_up_round_trip(state: CatchUp) -> None:
    assert read_catch_up(snapshot(state.content()), KEY) == state


def test_the_text_of_an_older_version_is_understood() -> None:
    text = (
        b'{"version": 1, "mode": "catch-up", "status": "working", "worker": "w", "sequence": 3,'
        b' "mark": [5, "k"], "cutoff": null, "failed_total": 1, "failed": ["f"]}'
    )
    expected = CatchUp(worker="w", sequence=3, mark=(5, "k"), failed_total=1, failed=("f",))
    assert read_catch_up(snapshot(text), KEY) == expected


@pytest.mark.parametrize("character", ["\U0001f600", "k", "\x01"])
def test_state_stays_small_with_the_longest_keys(character: str) -> None:
    key = character * (1024 // len(character.encode()))
    state = CatchUp(worker="w" * 253, sequence=10**9, mark=(10**10, key), cutoff=10**10)
    for number in range(NAMED_FAILURES + 1):
        state = state.with_failure(f"{number:04}{key}"[:1024])
    assert state.failed_total == NAMED_FAILURES + 1
    assert len(state.failed) > 30
    assert len(state.content()) <= 256 * 1024


def test_remembered_round_trip() -> None:
    assert read_remembered(snapshot(Remembered(5, "k").content()), KEY, "p/") == Remembered(5, "k")


def test_a_bare_key_has_the_time_of_state() -> None:
    memory = read_remembered(snapshot(b" p/some key\n", last_modified=9), KEY, "p/")
    assert memory == Remembered(9, "p/some key", bare=True)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"q/other", b"p/two\nlines", b"p/" + b"x" * 1024, b"\xff", b"{", b"[]", b"null", b"7",
        b'"p/key"', WORKING.content(), b'{"version":2,"mode":"remember","key":"k"}',
        b'{"version":1,"mode":"remember","key":"k"}', b"some text", b"\xff\xfe",
        b'{"version":1,"mode":"remember","key":null,"last_modified":1}',
    ],
)  # fmt: skip
def test_what_remember_does_not_understand(content: bytes) -> None:
    with pytest.raises(StateUnreadable, match=KEY):
        read_remembered(snapshot(content), KEY, "p/")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"null", b"\xff\xfe", b"p/key", b"{}", b"[]", Remembered(5, "k").content(),
        WORKING.content().replace(b"working", b"resting"),
        WORKING.content().replace(b'"version": 1', b'"version": 2'),
        WORKING.content().replace(b'"mark": null', b'"mark": [1]'),
        WORKING.content().replace(b"working", b"finished"),
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content[:60]),
)  # fmt: skip
def test_what_catch_up_does_not_understand(content: bytes) -> None:
    with pytest.raises(StateUnreadable, match=KEY):
        read_catch_up(snapshot(content), KEY)
