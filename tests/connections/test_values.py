"""Times and numbers from outside: read, or None; never an error."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from connections.values import (
    LARGEST,
    content_length,
    http_date,
    iso_milliseconds,
    iso_seconds,
    whole_number,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Thu, 01 Jan 1970 00:00:07 GMT", 7),
        ("Thu, 01 Jan 1970 00:00:07 -0000", 7),
        ("Thu, 01 Jan 1970 01:00:07 +0100", 7),
        (None, None),
        ("", None),
        ("7", None),
        ("Tue, 24 Nov 20261234567 10:00:00 GMT", None),
        ("Tue, 99 Nov 2026 10:00:00 GMT", None),
    ],
)
def test_dates_of_headers(text: str | None, seconds: int | None) -> None:
    assert http_date(text) == seconds


def test_iso_times() -> None:
    assert iso_seconds("1970-01-01T00:00:07.999Z") == 7
    assert iso_seconds("1970-01-01T00:00:07") == 7, "UTC where no zone is named"
    assert iso_milliseconds("1970-01-01T00:00:07.999+00:00") == 7_999
    assert iso_seconds("20261234567-01-01") is None
    assert iso_milliseconds("") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        (" 007 ", 7),
        ("0" * 5_000 + "7", 7),
        ("9" * 5_000, LARGEST),
        ("-1", None),
        ("1.0", None),
        ("\u00b2", None),
        ("\u0667", None),
        ("", None),
        (None, None),
    ],
)
def test_whole_numbers(text: str | None, number: int | None) -> None:
    assert whole_number(text) == number


@pytest.mark.parametrize(
    ("text", "size"),
    [("5", 5), ("5, 5", 5), ("5,6", None), ("5,", None), ("x", None), ("", None), (None, None)],
)
def test_content_lengths(text: str | None, size: int | None) -> None:
    assert content_length(text) == size


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d+ Nov \d+ \d+:\d+:\d+ [+-]\d{4}"))
def test_nothing_raises(text: str) -> None:
    for parse in (http_date, iso_seconds, iso_milliseconds, whole_number, content_length):
        assert isinstance(parse(text), int | None)
