"""What a run logs: the log format, progress, each failure, and the summary."""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable

from destinations.exchange import Traffic
from push.ledger import Tally
from push.loop import Progress
from run.masking import Mask

log = logging.getLogger("flowlog")

VERSION = "1.0.0"
"""Version of the job; CHANGELOG.md lists what changed."""

NAMED_IN_SUMMARY = 100
NAMED_NOT_BEGUN = 10_000
"""A run that ends early names at most this many objects it had not begun, and counts the rest."""

PROGRESS_SECONDS = 5.0

SUMMARY = logging.CRITICAL + 10
"""Level of the summary line, which is printed at any LOG setting."""


class SafeFormatter(logging.Formatter):
    """One line for each record, whatever characters a key has; secrets are masked in all records.

    The summary has no time or level in front of it, so that a program can parse it.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime
        self._mask = Mask(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line without secrets."""
        if record.levelno == SUMMARY:
            # Its texts were masked before they became JSON, since masking could break the JSON.
            return record.getMessage()
        text = self._mask(super().format(record))
        return "".join(map(_visible, text)) if not text.isprintable() else text


def _visible(character: str) -> str:
    """The character; escaped if a terminal or a log reader would interpret it."""
    return character if character.isprintable() else ascii(character)[1:-1]


def start_logging(level: int, secrets: Iterable[str]) -> None:
    """Log to standard error, with these secrets masked."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter(secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # The SDK logs headers at DEBUG and tracebacks at WARNING; this job reports errors itself.
    logging.getLogger("ibm_botocore").setLevel(SUMMARY)
    logging.getLogger("urllib3").setLevel(SUMMARY)
    log.setLevel(level)


def parse_level(text: str) -> int:
    """The number of a log level. Raises ValueError."""
    level = logging.getLevelNamesMapping().get(text.upper())
    if not level or level >= SUMMARY:
        raise ValueError("must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return level


class LoggedProgress:
    """Logs the progress of a push every few seconds."""

    def __init__(self) -> None:
        self._logged_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Log the progress if the last line is old enough."""
        if progress.seconds < self._logged_at:  # another push
            self._logged_at = 0.0
        if progress.seconds - self._logged_at >= PROGRESS_SECONDS:
            self._logged_at = progress.seconds
            log.info("%s", progress)


def log_failures(tally: Tally) -> None:
    """Log the key of every object that should have been delivered and was not."""
    for key, error in tally.failed:
        log.error("not delivered: %s: %s", key, error)
    for ref in tally.not_begun[:NAMED_NOT_BEGUN]:
        log.error("not delivered: %s: not begun", ref.key)
    more = len(tally.not_begun) - NAMED_NOT_BEGUN
    if more > 0:
        log.error("not delivered: %d more, all that are newer than the last one named", more)
    if tally.not_begun:
        log.error("%d objects were not begun: %s", len(tally.not_begun), tally.not_begun_reason)


def summary(
    mode: str, tally: Tally, traffic: Traffic | None, seconds: float, mask: Callable[[str], str]
) -> str:
    """The last line of a run; contract, section 6. `mask` removes secrets from its texts."""
    named = list(itertools.islice(tally.failed, NAMED_IN_SUMMARY))
    for ref in tally.not_begun[: NAMED_IN_SUMMARY - len(named)]:
        named.append((ref.key, tally.not_begun_reason))
    failed = [{"key": mask(key), "error": mask(error)} for key, error in named]
    fields = {
        "mode": mode,
        "objects": tally.objects,
        "rows": tally.rows,
        "lines_delivered": tally.lines_delivered,
        "bytes_sent": traffic.bytes_sent if traffic else 0,
        "requests": traffic.requests if traffic else 0,
        "retries": traffic.retries if traffic else 0,
        "failed": failed,
        "failed_total": tally.failed_total,
        "skipped": tally.skipped,
        "filtered": tally.filtered,
        "incomplete": tally.incomplete,
        "remarks": traffic.remarks if traffic else 0,
        "lag_seconds": tally.lag_seconds,
        "seconds": round(seconds, 3),
        "version": VERSION,
    }
    return "summary " + json.dumps(fields, separators=(",", ":"))
