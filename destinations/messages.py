"""Messages about a log service: why lines were not delivered, and warnings in the log."""

from __future__ import annotations

import logging

from connections.retry import TryAgain
from destinations.base import Destination
from destinations.exchange import Answer

log = logging.getLogger("flowlog.delivery")

REASON_BYTES = 1_000


class Messages:
    """Messages about one log service. They name the setting to look at, if one may be wrong."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._name = destination.name
        self._reason_logged = False

    def not_accepted(self, error: TryAgain) -> str:
        """The time for retries is over."""
        setting = self._destination.endpoint_setting
        return (
            f"{self._name} did not take the lines: {error};"
            f" look at {setting} and the service's status"
        )

    def refused(self, *statuses: int) -> str:
        """Lines were refused with one of these statuses."""
        setting = self._destination.endpoint_setting
        which = ", ".join(map(str, sorted(statuses)))
        return (
            f"{self._name} refused the lines ({which});"
            f" if it refuses all of them, look at {setting}"
        )

    def refused_some(self, count: int, lines: int, why: str) -> str:
        """Some lines of a request were refused, and the service does not say which."""
        return (
            f"{self._name} refused {count} of {lines} lines sent together; these may be"
            f" among them: {why or 'it gives no reason'}"
        )

    def refused_together(self, requests: int) -> str:
        """Lines count as refused because they were refused together with others."""
        return (
            f"{self._name} refused the lines, or others that were sent with them:"
            f" {requests} requests did not show which"
        )

    def key_rejected(self, status: int) -> str:
        """The credentials are wrong."""
        return f"{self._name} rejected the key ({status}); look at {self._destination.key_setting}"

    def log_wait(self, error: TryAgain, tries: int, seconds: float) -> None:
        """Log that a try has failed, and when the next one is."""
        log.warning("%s: %s; try %d in %.1f s", self._name, error, tries + 1, seconds)

    def log_remark(self, remark: str) -> None:
        """Log other text in an answer that accepted the lines."""
        log.warning(
            "%s accepted the request, perhaps not all lines, and said: %s", self._name, remark
        )

    def log_reason(self, answer: Answer) -> None:
        """Log why the service refused lines; once, since the reason is mostly the same."""
        if answer.text and not self._reason_logged:
            self._reason_logged = True
            reason = answer.text[:REASON_BYTES].decode(errors="replace")
            log.warning("%s refused lines (%d) and said: %s", self._name, answer.status, reason)
