"""A stand-in for IBM Cloud Logs, at least as strict as its documentation.

IBM Cloud docs, Cloud Logs, "Sending logs by using the API" and "Limits".
"""

from __future__ import annotations

import time
from typing import Any

from standins.faults import Answer
from standins.http import HTTPRequest
from standins.iam import IAM
from standins.ingestion import LogService, Refused, compact, read_json

BODY_LIMIT_BYTES = 2_000_000
LINE_LIMIT_BYTES = 32_000
HOUR_MS = 60 * 60 * 1000
REQUIRED = {"applicationName": str, "subsystemName": str, "text": (str, dict)}
OPTIONAL = {"severity": int, "timestamp": int, "computerName": str, "category": str}


class CloudLogs(LogService):
    """`POST /logs/v1/singles`; `dropped` holds what the service accepts and then discards."""

    text_field = "text"
    accepted = Answer(200)

    def __init__(self, iam: IAM, body_limit: int = BODY_LIMIT_BYTES) -> None:
        super().__init__(body_limit)
        self.dropped: list[tuple[str, dict[str, Any]]] = []
        self._iam = iam

    def _check(self, request: HTTPRequest) -> list[dict[str, Any]]:
        if (request.method, request.target) != ("POST", "/logs/v1/singles"):
            raise Refused(404, f"no such resource: {request.method} {request.target}")
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind != "Bearer" or not self._iam.is_valid(token):
            raise Refused(401, "the token is not valid")
        if request.headers.get("content-type") != "application/json":
            raise Refused(415, "Content-Type is not application/json")
        if "content-encoding" in request.headers:
            raise Refused(415, "no compression is documented")
        return self._kept(_parse(self._check_size(request.body)))

    def _kept(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        now = time.time() * 1000
        kept = []
        for entry in entries:
            age = now - entry.get("timestamp", now)
            if len(compact(entry).encode()) > LINE_LIMIT_BYTES:
                self.dropped.append(("too long", entry))
            elif not -4 * HOUR_MS <= age <= 24 * HOUR_MS:
                self.dropped.append(("too old, or from the future", entry))
            else:
                kept.append(entry)
        return kept


def _parse(body: bytes) -> list[dict[str, Any]]:
    entries = read_json(body)
    if not isinstance(entries, list) or not entries:
        raise Refused(400, "there is no list of logs")
    for entry in entries:
        if not isinstance(entry, dict) or REQUIRED.keys() - entry.keys():
            raise Refused(400, "a log lacks a required field")
        for name, value in entry.items():
            expected = {**REQUIRED, **OPTIONAL}.get(name)
            if expected is None or not isinstance(value, expected) or isinstance(value, bool):
                raise Refused(400, f"a log has a wrong field: {name}")
        if not 1 <= entry.get("severity", 1) <= 6:
            raise Refused(400, "severity is not from 1 to 6")
        if not entry["applicationName"] or not entry["subsystemName"]:
            raise Refused(400, "application and subsystem must have names")
    return entries
