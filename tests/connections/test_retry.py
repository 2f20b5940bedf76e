"""For how long requests are retried, and how many are in flight at a time."""

from __future__ import annotations

from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given

from connections.retry import Retrying, RetryPolicy, TryAgain, Window, retry_after_seconds

POLICY = RetryPolicy(seconds=100, first_wait=0.5, longest_wait=30)


# --- the schedule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tries", "elapsed", "retry_after", "chance", "seconds"),
    [
        # twice as long after each try, up to the longest wait
        (1, 0, None, 1, 0.5),
        (2, 0, None, 1, 1.0),
        (7, 0, None, 1, 30.0),
        (10_000, 0, None, 1, 30.0),
        # full jitter
        (3, 0, None, 0, 0.0),
        (3, 0, None, 0.25, 0.5),
        # the service's Retry-After is added
        (1, 0, 7.0, 0, 7.0),
        (1, 0, 7.0, 1, 7.5),
        (3, 0, 0.0, 1, 2.0),
        # the last try is made when the time is up
        (7, 90, None, 1, 10.0),
        (7, 90, 10.0, 1, 10.0),
        (7, 90, 10.1, 0, None),
        (1, 0, 3600.0, 0, None),
        (1, 100, None, 0, None),
        (1, 100, 0.0, 0, None),
    ],
)
def test_the_schedule(
    tries: int, elapsed: float, retry_after: float | None, chance: float, seconds: float | None
) -> None:
    assert POLICY.wait(tries, elapsed, retry_after, chance) == seconds


@given(
    st.integers(1, 10**6),
    st.floats(0, 200),
    st.none() | st.floats(0, 10**9),
    st.floats(0, 1),
)
def test_no_wait_leads_past_the_time_or_comes_too_early(
    tries: int, elapsed: float, retry_after: float | None, chance: float
) -> None:
    seconds = POLICY.wait(tries, elapsed, retry_after, chance)
    if seconds is None:
        assert elapsed + (retry_after or 0) >= 100
    else:
        assert (retry_after or 0) <= seconds <= 100 - elapsed


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_tries_end_by_time_and_not_by_number() -> None:
    """Requests to a service that is down for 20 minutes are retried until then."""
    clock, waits = Clock(), list[tuple[int, float]]()
    policy = RetryPolicy(seconds=1200)
    tries = Retrying(
        policy,
        sleep=clock.sleep,
        clock=clock,
        on_wait=lambda error, number, seconds: waits.append((number, seconds)),
    )
    made = list[float]()

    def ask() -> None:
        made.append(clock.now)
        raise TryAgain("it answered 503")

    with pytest.raises(TryAgain, match="503"):
        tries(ask)
    assert made[-1] == 1250.0
    assert 1200 / 30 < len(made) < 200
    assert [number for number, _ in waits] == list(range(1, len(made)))
    assert max(seconds for _, seconds in waits) <= policy.longest_wait


def test_errors_that_must_not_be_retried_are_not() -> None:
    clock = Clock()
    with pytest.raises(ValueError, match="other"):
        Retrying(POLICY, sleep=clock.sleep, clock=clock)(lambda: int("other"))
    with pytest.raises(TryAgain):
        ended = Retrying(POLICY, sleep=clock.sleep, clock=clock, ended=lambda: True)
        ended(_fail)
    assert clock.now == 50


def _fail() -> None:
    raise TryAgain("it answered 503", after=1)


def test_a_wait_is_as_long_as_the_service_asks() -> None:
    clock, left = Clock(), [40.0, 3.0]

    def ask() -> str:
        if left:
            raise TryAgain("it answered 429", left.pop())
        return "done"

    tries = Retrying(RetryPolicy(first_wait=0), sleep=clock.sleep, clock=clock)
    assert tries(ask) == "done"
    assert clock.now == 93


# --- Retry-After ---------------------------------------------------------------------------------

NOW = datetime(2026, 11, 24, 10, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("\u0667", None),
        ("9" * 400, 999_999_999.0),
        ("Tue, 24 Nov 2026 10:00:30 GMT", 30.0),
        ("Tue, 24 Nov 2026 09:00:00 GMT", 0.0),
        ("Tue, 24 Nov 2026 10:00:30 -0000", 30.0),
        ("Tue, 99 Nov 2026 10:00:30 GMT", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, NOW) == seconds


# --- how many at once ----------------------------------------------------------------------------


def test_the_window_halves_once_for_all_that_were_under_way() -> None:
    window = Window(8)
    with window.slot() as one, window.slot() as other:
        window.overloaded(one)
        window.overloaded(other)
        assert window.size == 4
    with window.slot() as later:
        window.overloaded(later)
    assert window.size == 2
    for _ in range(5):
        with window.slot() as again:
            window.overloaded(again)
    assert window.size == 1, "one is always permitted"


def test_the_window_grows_by_one_for_every_windowful() -> None:
    window = Window(3)
    with window.slot() as under_way:
        window.overloaded(under_way)
    assert int(window.size) == 1
    window.good()
    assert int(window.size) == 2
    for _ in range(100):
        window.good()
    assert window.size == 3
