"""Which objects a file names: a list of keys, or a saved log."""

from __future__ import annotations

import json

import pytest

from desk.keys import NoKeys, missing_sentence, read_named

PREFIX = "ibm_vpc_flowlogs_"
A, B, C = (f"{PREFIX}v1/{name}.gz" for name in "abc")


def summary(*keys: str, total: int | None = None) -> str:
    failed = [{"key": key, "error": "bad gzip: x"} for key in keys]
    count = len(keys) if total is None else total
    return "summary " + json.dumps({"failed": failed, "failed_total": count})


def error(key: str) -> str:
    return f"2026-11-24T11:39:40Z ERROR not delivered: {key}: it answered 503: see: there"


def test_a_list_of_keys() -> None:
    named = read_named(f"{A}\r\n\n{B}\n{A}\n", PREFIX)
    assert named.keys == (A, B)
    assert not named.missing and not named.is_log


def test_a_log_names_what_was_not_delivered() -> None:
    text = f"2026-11-24T11:39:31Z INFO pushing 3 objects\n{error(A)}\n{error(B)}\n{summary(A, B)}\n"
    named = read_named(text, PREFIX)
    assert named.keys == (A, B)
    assert named.missing == 0


def test_a_log_that_is_cut_at_its_beginning_still_has_its_summary() -> None:
    named = read_named(summary(A, C, total=37), PREFIX)
    assert named.keys == (A, C)
    assert named.missing == 35


def test_a_log_without_its_summary_has_its_lines() -> None:
    more = "2026-11-24T11:39:40Z ERROR not delivered: 12 more, all that are newer than the last one"
    named = read_named(f"{error(A)}\n{error(B)}\n{more} named\n", PREFIX)
    assert named.keys == (A, B)
    assert named.missing == 12


def test_more_that_are_not_named_are_counted_once() -> None:
    more = "x ERROR not delivered: 12 more, all that are newer than the last one named"
    named = read_named(f"{error(A)}\n{more}\n{summary(A, total=13)}\n", PREFIX)
    assert named.missing == 12


def test_the_logs_of_several_runs_in_one_file() -> None:
    text = "\n".join([error(A), summary(A), error(A), error(B), summary(A, B, total=5)])
    named = read_named(text, PREFIX)
    assert named.keys == (A, B)
    assert named.missing == 3


def test_the_log_as_a_tool_shows_it_with_names_before_the_lines() -> None:
    text = f"job-x-0-0/run: {error(A)}\njob-x-0-0/run: {summary(A)}"
    assert read_named(text, PREFIX).keys == (A,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no object"),
        (f"{A}\nfirst_logged\n", "line 2"),
        (summary(), "everything was delivered"),
        ('summary {"failed": 3}', "damaged"),
    ],
)
def test_what_names_no_object_is_refused(text: str, reason: str) -> None:
    with pytest.raises(NoKeys, match=reason):
        read_named(text, PREFIX)


def test_how_to_find_those_that_are_missing() -> None:
    named = read_named(summary(A, total=37), PREFIX)
    sentence = missing_sentence(named, "simple")
    assert "36 more" in sentence and "FLOWLOG_SINCE" in sentence
    assert "mark" in missing_sentence(named, "follow")
