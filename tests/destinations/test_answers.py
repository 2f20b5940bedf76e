"""Every answer of a log service has one meaning, and the table in the docs says which."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given

from destinations.answers import (
    ByLine,
    Delivered,
    KeyRefused,
    LineResult,
    LinesRefused,
    Meaning,
    RequestRefused,
    Retry,
    by_status,
    cloud_logs,
    logdna,
)
from tests.harness import PROJECT

LINES = 3
Reading = Callable[[int, bytes, int], Meaning]


@dataclass(frozen=True, slots=True)
class Row:
    """Answers with one meaning: these statuses with each of these texts."""

    status: str
    text: str
    follows: str
    kind: type[Meaning]  # type: ignore[valid-type]
    statuses: tuple[int, ...]
    texts: tuple[bytes, ...]
    services: tuple[Reading, ...] = (logdna, cloud_logs)


def mask(*statuses: object) -> bytes:
    return json.dumps({"status": statuses}).encode()


ANY = (b"", b"{}", b"OK", b"<html>", b"\xff", b'{"error":"x"}', mask(200, 200, 200), b"[" * 2000)
SUCCESSES = tuple(status for status in range(200, 300) if status != 207)
RETRIED = (*range(100, 200), 408, 425, 429, *range(500, 600))
KEY, SPLIT = (401, 403), (400, 413, 422)
OTHERS = tuple(s for s in range(300, 500) if s not in (*RETRIED, *KEY, *SPLIT))

TABLE = [
    Row("2xx", "anything else than below", "delivered", Delivered, SUCCESSES,
        (b"", b"{}", b"OK", b"<html>", b'{"status":"ok"}', b'{"error":null}', b'"error"', b"[1]",
         b"[" * 2000, b"\xff"), (logdna,)),
    Row("207", "LogDNA: `{\"status\":[…]}`, all of them 2xx", "delivered", Delivered, (207,),
        (mask(200, 202, 299),), (logdna,)),
    Row("207", "LogDNA: `{\"status\":[…]}`, one a line",
        "2xx delivered; 429 and 5xx sent again, they alone; other lines refused", ByLine,
        (207, 200), (mask(200, 200, 500), mask(400, 400, 400), mask(429, 599, 500),
                     mask(200, 403, 100)), (logdna,)),
    Row("207", "LogDNA: anything else", "tried again, all lines", Retry, (207,),
        (b"", b"<html>", b"{}", b'{"status":"ok"}', mask(), mask(200), mask(*[200] * 4),
         mask(200, "200", 200), mask(200, True, 200), mask(200, 99, 200), mask(200, 600, 200),
         mask(200, 200.0, 200), mask(200, None, 200)), (logdna,)),
    Row("2xx", "LogDNA: `\"status\":\"error\"`, or an `error`", "tried again, all lines", Retry,
        SUCCESSES, (b'{"status":"error"}', b'{"error":"x"}', b'{"status":"ok","error":{"code":1}}'),
        (logdna,)),
    Row("2xx", "Cloud Logs: nothing, `{}` or `OK`", "delivered", Delivered, range(200, 300),
        (b"", b"{}", b"OK", b" {}\n"), (cloud_logs,)),
    Row("2xx", "Cloud Logs: other words", "delivered, with a warning; counted in `remarks`",
        Delivered, range(200, 300), (b"not all logs were accepted", b"\xff", b"ok"), (cloud_logs,)),
    Row("400, 413, 422", "any", "split, down to the lines that are refused", LinesRefused, SPLIT,
        ANY),
    Row("401, 403", "any", "the run ends, unless there is a newer token", KeyRefused, KEY, ANY),
    Row("408, 425, 429, 5xx, 1xx", "any", "tried again, all lines", Retry, RETRIED, ANY),
    Row("other 3xx and 4xx", "any", "the request is refused: its objects fail", RequestRefused,
        OTHERS, ANY),
]  # fmt: skip


def table() -> str:
    """The table of the docs, in Markdown."""
    cells = [("status", "text", "what follows"), ("---",) * 3]
    cells += [(row.status, row.text, row.follows) for row in TABLE]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.status}: {row.text}")
def test_the_table(row: Row) -> None:
    for service in row.services:
        for status in row.statuses:
            for text in row.texts:
                assert type(service(status, text, LINES)) is row.kind, (status, text)


def test_the_table_in_the_docs_is_this_one() -> None:
    page = (PROJECT / "docs" / "reliability.md").read_text()
    assert f"\n\n{table()}\n" in page, "print it with: python -m tests.destinations.test_answers"


def test_no_status_is_left_out() -> None:
    for service in (logdna, cloud_logs):
        covered = {s for row in TABLE if service in row.services for s in row.statuses}
        assert covered == set(range(100, 600)), service


@given(st.integers(100, 599), st.binary(max_size=80), st.integers(1, 5))
def test_no_text_is_too_strange(status: int, text: bytes, lines: int) -> None:
    """And no text makes a failed status a delivery."""
    for service in (logdna, cloud_logs):
        meaning = service(status, text, lines)
        if not 200 <= status < 300:
            assert meaning == by_status(status)


@given(st.lists(st.integers(100, 599), min_size=1, max_size=20))
def test_every_line_has_one_result(statuses: list[int]) -> None:
    meaning = logdna(207, mask(*statuses), len(statuses))
    if isinstance(meaning, Delivered):
        assert all(200 <= status < 300 for status in statuses)
        return
    assert isinstance(meaning, ByLine)
    taken, again, refused = map(meaning.indices, LineResult)
    assert sorted(taken + again + refused) == list(range(len(statuses)))
    assert all(200 <= statuses[i] < 300 for i in taken)
    assert all(statuses[i] == 429 or statuses[i] >= 500 for i in again)
    assert meaning.refusals == {statuses[i] for i in refused}


@pytest.mark.parametrize(
    ("status", "text", "overloaded"),
    [
        (429, b"", True),
        (503, b"", True),
        (500, b"", False),
        (408, b"", False),
        (207, mask(200, 503, 200), True),
        (207, mask(200, 429, 200), True),
        (207, mask(200, 500, 400), False),
        (200, b'{"status":"error"}', False),
    ],
)
def test_which_answers_ask_for_fewer_requests(status: int, text: bytes, overloaded: bool) -> None:
    meaning = logdna(status, text, LINES)
    assert isinstance(meaning, Retry | ByLine)
    assert meaning.overloaded is overloaded


def test_words_are_cut() -> None:
    assert cloud_logs(200, b" not all\n", 1) == Delivered("not all")
    assert cloud_logs(200, "é".encode() * 600, 1) == Delivered("é" * 500)
    told = logdna(200, b'{"error":"%b"}' % (b"x" * 9_000), 1)
    assert isinstance(told, Retry)
    assert len(told.why) < 300


if __name__ == "__main__":
    print(table())
