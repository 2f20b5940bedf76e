"""Which objects a person names in a file: keys a line, or what a log says was not delivered."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_FAILED = re.compile(r"\bnot delivered: (?P<key>.+?): (?P<reason>.*)")
_MORE = re.compile(r"\bnot delivered: (?P<count>[0-9]+) more, ")
_SUMMARY = re.compile(r"(?:^|\s)summary (?P<fields>\{.*\})\s*$")


class NoKeys(ValueError):
    """The file names no object; the text says why."""


@dataclass(frozen=True, slots=True)
class Named:
    """The keys in a file, each once, in their order; `missing` failed and are not named."""

    keys: tuple[str, ...]
    missing: int = 0
    is_log: bool = False


def read_named(text: str, prefix: str) -> Named:
    """The keys in a file's text; those in a list must start with `prefix`. Raises NoKeys."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if any(_FAILED.search(line) or _SUMMARY.search(line) for line in lines):
        return _of_log(lines)
    keys = [line for line in lines if line.strip()]
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith(prefix):
            raise NoKeys(
                f"line {number} is no key that starts with FLOWLOG_PREFIX {prefix!r}, and the file"
                " is no log of the job"
            )
    if not keys:
        raise NoKeys("it names no object")
    return Named(tuple(dict.fromkeys(keys)))


@dataclass(slots=True)
class _Run:
    """What the log of one run names."""

    keys: dict[str, None] = field(default_factory=dict)
    total: int = 0

    @property
    def missing(self) -> int:
        return max(0, self.total - len(self.keys))


def _of_log(lines: Iterable[str]) -> Named:
    """What was not delivered; a file may hold the logs of several runs, each with its summary."""
    runs = [_Run()]
    for line in lines:
        if summary := _SUMMARY.search(line):
            _add_summary(runs[-1], summary["fields"])
            runs.append(_Run())
        elif more := _MORE.search(line):
            # In a log whose summary is cut off, all that tells of them.
            runs[-1].total += int(more["count"]) + len(runs[-1].keys)
        elif failed := _FAILED.search(line):
            runs[-1].keys[failed["key"]] = None
    # A key can have two failures in a file, of different runs.
    keys = {key: None for run in runs for key in run.keys}
    missing = sum(run.missing for run in runs)
    if not keys and not missing:
        raise NoKeys("it is a log of the job in which everything was delivered")
    return Named(tuple(keys), missing, is_log=True)


def _add_summary(run: _Run, text: str) -> None:
    try:
        fields: dict[str, Any] = json.loads(text)
        named = [str(entry["key"]) for entry in fields["failed"]]
        run.total = int(fields["failed_total"])
    except (ValueError, KeyError, TypeError) as error:
        raise NoKeys(f"its summary is damaged ({type(error).__name__})") from None
    for key in named:
        run.keys.setdefault(key)


def missing_sentence(named: Named, mode: str) -> str:
    """How many objects the log does not name, and how to find them."""
    text = f"the log names {len(named.keys)} objects, and {named.missing} more were not delivered. "
    if mode == "follow":
        return text + "The next run of FLOWLOG_MODE follow goes on at its mark and finds them"
    if mode == "catch-up":
        text += "--status names those that STATE holds. "
    return text + (
        "Every one has a line `not delivered:` in the whole log, of which the summary repeats the"
        " first 100; what was not begun is newer than the last one named: --all with FLOWLOG_SINCE"
        " at the time that one was written"
    )
