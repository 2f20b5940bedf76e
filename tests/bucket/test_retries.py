"""For how long requests to the store are retried, with a clock that the test sets."""

from __future__ import annotations

import random
import threading
import time

import pytest

from bucket.errors import ObjectNotFound, ReadInterrupted, StoreUnavailable, Trouble, Unanswered
from bucket.retries import OBJECT_TRIES, Retries
from connections.retry import RetryPolicy
from connections.stop import Stop, Stopped

SECONDS = 180.0


class World:
    """A store that fails for some keys and at some times, and a clock that only waiting moves."""

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.broken: dict[str, Unanswered] = {}
        self.outages: list[tuple[float, float, Unanswered]] = []
        self.tries: list[str] = []
        self.readable: list[str] = []
        self.retries = Retries(
            RetryPolicy(SECONDS), 32, self.pause, lambda: self.now, self.rng.random
        )

    def pause(self, seconds: float) -> None:
        self.now += seconds

    def attempt(self, key: str) -> str:
        self.now += 0.01
        self.tries.append(key)
        for begin, end, error in self.outages:
            if begin <= self.now < end:
                raise error
        if key in self.broken:
            raise self.broken[key]
        return key

    def read(self, key: str) -> str:
        found = self.retries.read(lambda: self.attempt(key), self.another)
        self.readable.append(found)
        return found

    def another(self) -> str:
        if not self.readable:
            raise Unanswered("nothing was read yet")
        return self.attempt(self.readable[-1])


TROUBLES = [
    Unanswered("503 SlowDown", None, Trouble.OVERLOAD),
    Unanswered("429", 3.0, Trouble.OVERLOAD),
    Unanswered("no route", None, Trouble.UNREACHABLE),
    Unanswered("500"),
]


@pytest.mark.parametrize("error", TROUBLES, ids=str)
@pytest.mark.parametrize("begin", [0, 5])
def test_an_outage_that_is_shorter_than_the_budget_costs_time_only(
    error: Unanswered, begin: float
) -> None:
    for seed in range(8):
        world = World(seed)
        world.outages = [(begin, begin + 100, error)]
        keys = [f"{number}" for number in range(400)]
        assert [world.read(key) for key in keys] == keys
        assert world.now < begin + 100 + 60


@pytest.mark.parametrize("error", TROUBLES, ids=str)
def test_a_store_that_is_down_ends_the_run_within_the_budget(error: Unanswered) -> None:
    for seed in range(8):
        world = World(seed)
        world.read("a")
        world.outages = [(0, 10_000, error)]
        begun = world.now
        with pytest.raises(StoreUnavailable, match=str(error)):
            world.read("b")
        assert SECONDS - 10 <= world.now - begun <= SECONDS + 1
        tries = len(world.tries)
        with pytest.raises(StoreUnavailable):
            world.read("c")
        assert len(world.tries) == tries, "nothing is begun any more"


@pytest.mark.parametrize("error", [TROUBLES[0], TROUBLES[3]], ids=str)
def test_one_object_that_fails_alone_is_given_up_after_five_tries(error: Unanswered) -> None:
    for seed in range(8):
        world = World(seed)
        world.broken = dict.fromkeys(("b", "c", "d"), error)
        world.read("a")
        for key in "bcd":
            with pytest.raises(ReadInterrupted, match=str(error)):
                world.read(key)
            assert world.tries.count(key) == OBJECT_TRIES
        assert world.read("e") == "e"


def test_an_object_is_not_given_up_if_no_other_was_read() -> None:
    world = World()
    world.broken["a"] = Unanswered("500")
    with pytest.raises(StoreUnavailable):
        world.read("a")
    assert world.now >= SECONDS - 10


def test_a_wait_that_leads_past_the_budget_is_not_begun() -> None:
    world = World()
    world.outages = [(0, 10_000, Unanswered("503", 3600, Trouble.OVERLOAD))]
    with pytest.raises(StoreUnavailable):
        world.read("a")
    assert world.now < 1


def test_requests_that_are_turned_away_at_random_are_all_answered_in_the_end() -> None:
    """At the same time, like the readers."""
    # The others move on while one waits.
    retries = Retries(RetryPolicy(SECONDS), 8, lambda _: time.sleep(0.001))
    rng, lock, failed = random.Random(1), threading.Lock(), []
    read: list[str] = []

    def attempt(key: str) -> str:
        with lock:
            if rng.random() < 0.3:
                raise Unanswered("503", None, Trouble.OVERLOAD)
            read.append(key)
        return key

    def work(keys: list[str]) -> None:
        for key in keys:
            try:
                retries.read(lambda key=key: attempt(key), lambda: attempt("0"))  # type: ignore[misc]
            except ReadInterrupted:
                failed.append(key)

    keys = [str(number) for number in range(800)]
    threads = [threading.Thread(target=work, args=(keys[start::8],)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert set(read) == set(keys)


def test_fewer_requests_are_in_flight_while_the_store_turns_them_away() -> None:
    world = World()
    world.outages = [(0, 60, TROUBLES[0])]
    world.read("a")
    assert world.retries.window.size < 3
    for number in range(2000):
        world.read(str(number))
    assert world.retries.window.size == 32


def test_a_missing_object_is_an_answer() -> None:
    world = World()
    world.broken["b"] = Unanswered("500")

    def gone() -> str:
        raise ObjectNotFound("gone")

    with pytest.raises(ObjectNotFound):
        world.retries.read(gone, world.another)
    world.read("a")
    with pytest.raises(ReadInterrupted):
        world.read("b")


def test_a_run_that_is_to_end_does_not_wait() -> None:
    stop = Stop()
    retries = Retries(RetryPolicy(SECONDS), 1, stop.pause)

    def attempt() -> str:
        stop.signal = 15
        raise Unanswered("503", 100, Trouble.OVERLOAD)

    with pytest.raises(Stopped):
        retries.ask(attempt)
