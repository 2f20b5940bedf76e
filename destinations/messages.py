"""What a run says of a log service: why lines were not delivered, and warnings in the log."""

from __future__ import annotations

import logging

from connections.retry import TryAgain
from destinations.base import Destination
from destinations.exchange import Answer

log = logging.getLogger("flowlog.delivery")

REASON_BYTES = 1_000


class Messages:
    """The sentences about one log service. Each says which setting to look at, if one may help."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._name = destination.name
        self._reason_logged = False

    def not_taken(self, error: TryAgain) -> str:
        """Lines were tried for as long as they may be."""
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
        """So many of the lines of a request were refused, and nobody knows which."""
        return (
            f"{self._name} refused {count} of {lines} lines sent together, these may be"
            f" among them: {why or 'it gives no reason'}"
        )

    def not_told_apart(self, requests: int) -> str:
        """Lines count as refused since they were refused together with others."""
        return (
            f"{self._name} refused the lines, or others that were sent with them:"
            f" {requests} requests did not show which"
        )

    def key_rejected(self, status: int) -> str:
        """The credentials are wrong."""
        return f"{self._name} rejected the key ({status}); look at {self._destination.key_setting}"

    def log_wait(self, error: TryAgain, tries: int, seconds: float) -> None:
        """A try has failed, and another follows."""
        log.warning("%s: %s; try %d follows in %.1f s", self._name, error, tries + 1, seconds)

    def log_remark(self, remark: str) -> None:
        """The service took lines and said something beside that."""
        log.warning(
            "%s took the request with a remark; perhaps not all lines: %s", self._name, remark
        )

    def log_reason(self, answer: Answer) -> None:
        """The service refused lines; its reason is logged once, as it is mostly the same one."""
        if answer.text and not self._reason_logged:
            self._reason_logged = True
            reason = answer.text[:REASON_BYTES].decode(errors="replace")
            log.warning("%s refused lines (%d) and said: %s", self._name, answer.status, reason)
