"""The small decisions about STATE, each on its own."""

from __future__ import annotations

import pytest

from bucket.listing import ObjectRef
from bucket.state import (
    LEASE_SECONDS,
    SETTLING_SECONDS,
    CatchUp,
    PreconditionFailed,
    Remembered,
    Snapshot,
    StateObject,
    StateUnreadable,
    Status,
    UnsafeStore,
    cutoff,
    has_settled,
    read_catch_up,
    read_remembered,
    worker_is_gone,
)

KEY = "first_logged"
WORKING = CatchUp(Status.WORKING, "w")


def snapshot(content: bytes, last_modified: int = 100, date: int = 100) -> Snapshot:
    return Snapshot(content, '"etag"', last_modified, date)


def test_settling_takes_one_second_more_since_both_times_are_cut() -> None:
    # Written at 100.99, shown as 100, visible at 110.99: a clock that shows 110 may be before that.
    assert not has_settled(100, 100 + SETTLING_SECONDS)
    assert has_settled(100, 100 + SETTLING_SECONDS + 1)


@pytest.mark.parametrize(
    ("status", "fixed", "expected"),
    [
        (Status.WORKING, None, None),
        (Status.CLOSING, None, 777),
        (Status.CLOSING, 500, 500),
        (Status.FINISHED, 500, 500),
    ],
)
def test_the_cutoff_is_the_time_of_the_closing_write(
    status: Status, fixed: int | None, expected: int | None
) -> None:
    state = CatchUp(status, "w", cutoff=fixed)
    assert cutoff(state, snapshot(b"", last_modified=777)) == expected


@pytest.mark.parametrize(
    ("worker", "age", "gone"),
    [
        ("w", 0, False),
        ("w", LEASE_SECONDS - 1, False),
        ("w", LEASE_SECONDS, True),
        (None, 0, True),
    ],
)
def test_when_a_worker_is_gone(worker: str | None, age: int, gone: bool) -> None:
    state = CatchUp(Status.WORKING, worker)
    assert worker_is_gone(state, snapshot(b"", 1_000, 1_000 + age)) is gone


@pytest.mark.parametrize(
    ("place", "passed"),
    [((99, "z"), True), ((100, "a"), True), ((100, "k"), True), ((100, "z"), False),
     ((101, "a"), False)],
)  # fmt: skip
def test_what_the_mark_has_passed(place: tuple[int, str], passed: bool) -> None:
    """Of the same second, only what comes before in the order of pushing."""
    state = CatchUp(Status.WORKING, "w", mark=(100, "k"))
    assert state.has_passed(ObjectRef(*place)) is passed
    assert not WORKING.has_passed(ObjectRef(*place)), "there is no mark yet"


def test_remembered_wants_what_is_not_newer_but_not_itself() -> None:
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
        CatchUp(Status.WORKING, None, 7, (100, "k\u00e9\n")),
        CatchUp(Status.CLOSING, "w", 8, (100, "k"), None),
        CatchUp(Status.CLOSING, "w", 9, (100, "k"), 200, 3, ("a", "b")),
        CatchUp(Status.FINISHED, None, 10, None, 200),
    ],
)
def test_catch_up_round_trip(state: CatchUp) -> None:
    assert read_catch_up(snapshot(state.content()), KEY) == state


def test_state_stays_small_with_the_longest_keys() -> None:
    key = "\U0001f600" * 256  # 1,024 bytes
    state = CatchUp(Status.CLOSING, "w" * 8, 10**9, (10**10, key), 10**10, 10**9, (key,) * 20)
    assert len(state.content()) < 64 * 1024


class OnlyIfMatch:
    """A store that honours If-Match and ignores If-None-Match."""

    def __init__(self) -> None:
        self.state: Snapshot | None = None

    def get_state(self, key: str) -> Snapshot | None:
        return self.state

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        if etag is not None and (self.state is None or self.state.etag != etag):
            raise PreconditionFailed
        self.state = Snapshot(content, f'"{hash(content)}"', 1, 1)
        return self.state.etag

    def delete_state(self, key: str) -> None:
        self.state = None


def test_a_store_that_ignores_one_of_the_preconditions_is_noticed() -> None:
    store = OnlyIfMatch()
    state = StateObject(store, KEY)
    state.check_preconditions(state.read())
    with pytest.raises(UnsafeStore):
        state.write(WORKING.content(), None)
    assert store.state is None, "or the next run would leave everything to a worker"


def test_remembered_round_trip() -> None:
    assert read_remembered(snapshot(Remembered(5, "k").content()), KEY, "p/") == Remembered(5, "k")


def test_a_bare_key_bears_the_time_of_state_itself() -> None:
    memory = read_remembered(snapshot(b" p/some key\n", last_modified=9), KEY, "p/")
    assert memory == Remembered(9, "p/some key", bare=True)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"q/other", b"p/two\nlines", b"p/" + b"x" * 1024, b"\xff", b"{", b"[]", b"null", b"7",
        b'"p/key"', WORKING.content(), b'{"version":2,"mode":"remember","key":"k"}',
        b'{"version":1,"mode":"remember","key":"k"}',
    ],
)  # fmt: skip
def test_what_remember_does_not_understand(content: bytes) -> None:
    with pytest.raises(StateUnreadable, match=KEY):
        read_remembered(snapshot(content), KEY, "p/")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"p/key", b"{}", b"[]", Remembered(5, "k").content(),
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
