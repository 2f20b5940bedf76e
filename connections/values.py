"""Parses times and numbers from outside the program; no function here raises."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LARGEST = 2**63 - 1
_DIGITS = 19

_INVALID = (ValueError, OverflowError, TypeError, IndexError, OSError)
"""What the parsers of the standard library raise for texts that are not times."""


def http_date(text: str | None) -> int | None:
    """Seconds since the epoch of a date in a header (RFC 9110, 5.6.7); None if it is invalid."""
    try:
        return _seconds(parsedate_to_datetime(text or ""))
    except _INVALID:
        return None


def iso_seconds(text: str) -> int | None:
    """Whole seconds since the epoch of a time in ISO 8601, UTC if it names no zone, or None."""
    try:
        return _seconds(datetime.fromisoformat(text))
    except _INVALID:
        return None


def iso_milliseconds(text: str) -> int | None:
    """The same in milliseconds."""
    try:
        return round(_in_utc(datetime.fromisoformat(text)).timestamp() * 1000)
    except _INVALID:
        return None


def whole_number(text: str | None, most: int = LARGEST) -> int | None:
    """A number in decimal digits, at most `most`; None if it is not a number."""
    found = re.fullmatch("0*([0-9]+)", (text or "").strip())
    if not found:
        return None
    # Parsing thousands of digits is slow, and Python refuses it.
    return min(int(found[1][:_DIGITS]), most) if len(found[1]) <= _DIGITS else most


def content_length(text: str | None) -> int | None:
    """The value of Content-Length in bytes; None if it is missing, invalid or ambiguous.

    A repeated header is a list; if all its values are equal, that value counts (RFC 9110, 8.6).
    """
    values = {whole_number(part) for part in (text or "").split(",")}
    return values.pop() if len(values) == 1 else None


def _seconds(moment: datetime) -> int:
    return int(_in_utc(moment).timestamp())


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
