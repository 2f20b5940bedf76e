"""Shares of a job array: equal for any pattern of keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from bucket.shard import key_hash
from tests.harness import NIGHTLY

KEYS_PER_INSTANCE = 2_500
"""With fewer keys the shares would differ by chance."""


def key(number: int = 1, interface: int = 0, stream: int = 0, hour: int = 0, **_: int) -> str:
    return (
        "ibm_vpc_flowlogs_v1/account=0123456789abcdef/region=us-south/vpc-id=crn%3Av1%3Aa%3A7/"
        f"vnic-id=crn%3Av1%3A0717-{interface:08x}/record-type=all/year=2026/"
        f"month={hour // 720 % 12 + 1:02}/day={hour // 24 % 30 + 1:02}/hour={hour % 24:02}/"
        f"stream-id=2026{stream:010}Z/{number:08}.gz"
    )


STEPS = range(1, 101) if NIGHTLY else (1, 7, 16, 100)
PATTERNS: dict[str, Callable[[int], str]] = {
    **{f"numbers in steps of {step}": lambda n, step=step: key(number=n * step) for step in STEPS},
    "by hour": lambda n: key(hour=n % 8_640, number=n // 8_640),
    "by day": lambda n: key(hour=24 * (n % 360), number=n // 360),
    "by stream": lambda n: key(stream=n * 300),
    "by interface": lambda n: key(interface=n),
    "by interface and hour": lambda n: key(interface=n // 24, hour=n % 24),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_shares_are_within_a_tenth(pattern: str) -> None:
    numbers = [key_hash(PATTERNS[pattern](n)) for n in range(64 * KEYS_PER_INSTANCE)]
    for count in (2, 3, 5, 8, 16, 24, 60, 64):
        shares = Counter(number % count for number in numbers[: count * KEYS_PER_INSTANCE])
        assert len(shares) == count
        assert max(shares.values()) <= 1.1 * KEYS_PER_INSTANCE, count
        assert min(shares.values()) >= 0.9 * KEYS_PER_INSTANCE, count
