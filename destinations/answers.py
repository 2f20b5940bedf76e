"""Decides what the answers of log services mean, by status and text. No other module does.

One pure function for each service takes status, text (up to 64 KiB) and number of lines, and
returns a `Meaning`. Contract, section 5; `docs/reliability.md` has the same as a table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import orjson

REMARK_CHARACTERS = 500
EXPLANATION_CHARACTERS = 200

_OVERLOADED = (429, 503)


# --- meanings ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Delivered:
    """The service accepted every line; `remark` is other text in its answer, if any."""

    remark: str = ""


class LineResult(enum.Enum):
    """The result of one line."""

    ACCEPTED = "accepted"
    RETRY = "to be sent again"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ByLine:
    """The service accepted some lines: one HTTP status for each line, in their order."""

    statuses: tuple[int, ...]

    def indices(self, result: LineResult) -> list[int]:
        """The indices of the lines with this result."""
        return [i for i, status in enumerate(self.statuses) if result_of_line(status) is result]

    @property
    def refusals(self) -> set[int]:
        """The statuses of the lines that were refused."""
        return {status for status in self.statuses if result_of_line(status) is LineResult.REFUSED}

    @property
    def overloaded(self) -> bool:
        """Whether the service asks for fewer requests."""
        return any(status in self.statuses for status in _OVERLOADED)


@dataclass(frozen=True, slots=True)
class SomeRefused:
    """The service refused `count` lines, unknown which; none of the request may be sent again."""

    count: int
    why: str


@dataclass(frozen=True, slots=True)
class Retry:
    """No line counts as accepted; the same request may be sent again."""

    why: str
    overloaded: bool = False


@dataclass(frozen=True, slots=True)
class LinesRefused:
    """The service refuses the request because of at least one line, and does not say which."""

    status: int


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """The service refuses the request, independent of its lines."""

    status: int


@dataclass(frozen=True, slots=True)
class KeyRefused:
    """The service does not accept the credentials."""

    status: int


Meaning = Delivered | ByLine | SomeRefused | Retry | LinesRefused | RequestRefused | KeyRefused


# --- by status -----------------------------------------------------------------------------------


def by_status(status: int) -> Meaning:
    """What a status means if the text adds nothing."""
    if 200 <= status < 300:
        return Delivered()
    if status in (401, 403):
        return KeyRefused(status)
    if status in (400, 413, 422):
        return LinesRefused(status)
    # A status below 200 is an interim answer: the final one is missing.
    if status < 200 or status >= 500 or status in (408, 425, 429):
        return Retry(f"it answered {status}", status in _OVERLOADED)
    return RequestRefused(status)


def result_of_line(status: int) -> LineResult:
    """What the status of a single line means."""
    if 200 <= status < 300:
        return LineResult.ACCEPTED
    if status == 429 or status >= 500:
        return LineResult.RETRY
    return LineResult.REFUSED


# --- by service ----------------------------------------------------------------------------------


def logdna(status: int, text: bytes, lines: int) -> Meaning:
    """LogDNA: 207 has a list of statuses; 200 can report an error (Mezmo docs, "Send Log Lines").

    A 207 that can't be matched to the lines means that some were not accepted: all are sent again.
    """
    meaning = by_status(status)
    if not isinstance(meaning, Delivered):
        return meaning
    answer = _object(text)
    statuses = answer.get("status")
    if status == 207 or isinstance(statuses, list):
        return _by_line(status, statuses, lines)
    if statuses == "error" or answer.get("error"):
        explanation = str(answer.get("error") or statuses)[:EXPLANATION_CHARACTERS]
        return Retry(f"it answered {status}, but with an error: {explanation}")
    return meaning


def cloud_logs(status: int, text: bytes, lines: int) -> Meaning:
    """IBM Cloud Logs: the text of a 200 can say, in no documented form, that logs were not accepted
    (IBM Cloud docs, Cloud Logs, "ingestion failures")."""
    meaning = by_status(status)
    words = text.decode(errors="replace").strip()
    if isinstance(meaning, Delivered) and words not in ("", "{}", "OK"):
        return Delivered(words[:REMARK_CHARACTERS])
    return meaning


def _by_line(status: int, value: object, lines: int) -> Meaning:
    statuses = value if isinstance(value, list) else []
    if len(statuses) != lines or not all(map(_is_status, statuses)):
        return Retry(f"it answered {status}, but does not say which lines it took")
    if all(result_of_line(each) is LineResult.ACCEPTED for each in statuses):
        return Delivered()
    return ByLine(tuple(statuses))


def _is_status(value: object) -> bool:
    return type(value) is int and 100 <= value <= 599


def _object(text: bytes) -> dict[str, Any]:
    """The text parsed as a JSON object; empty if it is not one."""
    try:
        answer = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}
