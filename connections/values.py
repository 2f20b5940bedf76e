"""Reads times and numbers that come from outside: one parser each, and none of them raises."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_TOO_ODD = (ValueError, OverflowError, TypeError, IndexError, OSError)
"""What the parsers of the standard library raise for texts that are no times."""


def http_date(text: str | None) -> int | None:
    """Seconds since the epoch of a date in a header (RFC 9110, 5.6.7); None where it is none."""
    try:
        return _seconds(parsedate_to_datetime(text or ""))
    except _TOO_ODD:
        return None


def iso_seconds(text: str) -> int | None:
    """Whole seconds since the epoch of a time in ISO 8601, UTC where it names no zone, or None."""
    try:
        return _seconds(datetime.fromisoformat(text))
    except _TOO_ODD:
        return None


def iso_milliseconds(text: str) -> int | None:
    """The same in milliseconds."""
    try:
        return round(_in_utc(datetime.fromisoformat(text)).timestamp() * 1000)
    except _TOO_ODD:
        return None


def whole_number(text: str | None, digits: int = 18) -> int | None:
    """A number of at most so many decimal digits; None where it is none, or a longer one."""
    found = re.fullmatch(rf"[0-9]{{1,{digits}}}", (text or "").strip())
    return int(found[0]) if found else None


def content_length(text: str | None) -> int | None:
    """The value of Content-Length in bytes; None where there is none, or no single one.

    The same header twice is one list of equal values, and means that value (RFC 9110, 8.6).
    """
    values = {whole_number(part) for part in (text or "").split(",")}
    return values.pop() if len(values) == 1 else None


def _seconds(moment: datetime) -> int:
    return int(_in_utc(moment).timestamp())


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
