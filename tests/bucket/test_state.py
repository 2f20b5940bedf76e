"""How STATE is changed, also when an answer is missing or unclear."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bucket.errors import Unanswered
from bucket.state import (
    CLOCK_SKEW_SECONDS,
    SETTLING_SECONDS,
    Outcome,
    PreconditionFailed,
    Snapshot,
    StateChanged,
    StateError,
    StateObject,
    StateUnavailable,
    UnsafeStore,
    has_settled,
    outcome,
)

KEY = "first_logged"
NEW, OLD, OTHER = b"new", b"old", b"other"


def test_settling_takes_one_second_more_since_both_times_are_cut() -> None:
    # Written at 100.99, shown as 100, visible at 110.99: a clock that shows 110 may be before that.
    settled = 100 + SETTLING_SECONDS + CLOCK_SKEW_SECONDS
    assert not has_settled(100, settled)
    assert has_settled(100, settled + 1)


def snapshot(content: bytes) -> Snapshot:
    return Snapshot(content, f'"{content.decode()}"', 1, 1)


@pytest.mark.parametrize(
    ("etag", "now", "expected"),
    [
        ('"old"', NEW, Outcome.WRITTEN),
        ('"old"', OLD, Outcome.NOT_WRITTEN),
        ('"old"', OTHER, Outcome.CHANGED),
        ('"old"', None, Outcome.CHANGED),
        (None, NEW, Outcome.WRITTEN),
        (None, None, Outcome.NOT_WRITTEN),
        (None, OTHER, Outcome.CHANGED),
    ],
)
def test_the_outcome_of_a_write(etag: str | None, now: bytes | None, expected: Outcome) -> None:
    assert outcome(NEW, etag, snapshot(now) if now else None) is expected


class ScriptedStore:
    """A store whose requests do what the script says; it counts waits."""

    def __init__(self, *script: str, there: bytes | None = OLD, tries: int = 9) -> None:
        self.there = there
        self.done: list[str] = []
        self._script: Iterator[str] = iter(script)
        self._tries = tries

    def _step(self, request: str) -> str:
        step = next(self._script, "")
        self.done.append(request)
        if step in ("silence", "409"):
            raise Unanswered(step)
        return step

    def get_state(self, key: str) -> Snapshot | None:
        self._step("get")
        return snapshot(self.there) if self.there is not None else None

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        step = self._step("put")
        if step == "refuse" or etag != (snapshot(self.there).etag if self.there else None):
            raise PreconditionFailed(step)
        self.there = content
        if step == "lost":
            raise Unanswered(step)
        return snapshot(content).etag

    def delete_state(self, key: str) -> None:
        self.there = None

    def patience(self) -> ScriptedStore:
        return self

    def wait(self, unanswered: Unanswered) -> None:
        self._tries -= 1
        if self._tries < 0:
            raise StateUnavailable(str(unanswered))


@pytest.mark.parametrize(
    ("script", "requests"),
    [
        ([], ["put"]),
        (["lost"], ["put", "get"]),
        (["silence"], ["put", "get", "put"]),
        (["409", "", "409", "", "lost"], ["put", "get", "put", "get", "put", "get"]),
        (["lost", "silence", "409"], ["put", "get", "get", "get"]),
        (["silence", "silence", "", "lost", "silence"], ["put", "get", "get", "put", "get", "get"]),
    ],
)
def test_a_write_is_settled_by_reading_state(script: list[str], requests: list[str]) -> None:
    store = ScriptedStore(*script)
    assert StateObject(store, KEY).write(NEW, '"old"') == '"new"'
    assert (store.there, store.done) == (NEW, requests)


@pytest.mark.parametrize("script", [[], ["409"], ["silence", "silence"]])
def test_another_text_means_that_another_run_was_faster(script: list[str]) -> None:
    store = ScriptedStore(*script, there=OTHER)
    with pytest.raises(StateChanged) as caught:
        StateObject(store, KEY).write(NEW, '"old"')
    assert caught.value.now == snapshot(OTHER)
    assert store.there == OTHER


@pytest.mark.parametrize("script", [["409", ""] * 9, ["silence"] * 9, ["lost", *["silence"] * 9]])
def test_a_store_that_never_answers_is_given_up(script: list[str]) -> None:
    store = ScriptedStore(*script, tries=3)
    with pytest.raises(StateUnavailable):
        StateObject(store, KEY).write(NEW, '"old"')
    assert len(store.done) <= 8


def test_a_store_that_refuses_valid_preconditions_is_an_error() -> None:
    store = ScriptedStore(*["refuse", ""] * 99, tries=99)
    with pytest.raises(StateError, match="refuses"):
        StateObject(store, KEY).write(NEW, '"old"')


@pytest.mark.parametrize("script", [["409", ""], ["silence", "409", ""]])
def test_the_probe_is_repeated_until_it_is_answered(script: list[str]) -> None:
    store = ScriptedStore(*script)
    StateObject(store, KEY).check_preconditions(snapshot(OLD))
    assert store.there == OLD


class OnlyIfMatch(ScriptedStore):
    """A store that honours If-Match and ignores If-None-Match."""

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        if etag is None:
            self.there = None
        return super().put_state(key, content, etag)


@pytest.mark.parametrize("script", [[], ["lost"]])
def test_a_store_that_ignores_one_of_the_preconditions_is_noticed(script: list[str]) -> None:
    store = OnlyIfMatch(there=None)
    state = StateObject(store, KEY)
    state.check_preconditions(state.read())
    store._script = iter(script)
    with pytest.raises(UnsafeStore):
        state.write(NEW, None)
    assert store.there is None, "or the next run would leave everything to a worker"
