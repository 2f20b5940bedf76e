"""A stand-in for the LogDNA ingestion API, at least as strict as the real one."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from standins.faults import Answer
from standins.http import HTTPRequest, Server

BODY_LIMIT_BYTES = 10_000_000
"""Mezmo docs, "Send Log Lines": a body has at most 10 MB."""

FIELDS = {"line": str, "timestamp": int, "level": str, "app": str, "hostname": str}


class Refused(Exception):
    """The request is answered with this status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class LogService(Server):
    """Base of the log services; `received` holds the lines one accepted, in order.

    `body_limit` in bytes, uncompressed. `refusal` returns the status that refuses a whole request
    because of a line with this text, or None; `accepted` is the answer to other requests.
    """

    text_field: str
    accepted: Answer

    def __init__(self, body_limit: int) -> None:
        super().__init__()
        self.received: list[dict[str, Any]] = []
        self.refusals: list[str] = []
        self.refusal: Callable[[str], int | None] = lambda text: None
        self._body_limit = body_limit

    @property
    def texts(self) -> list[str]:
        """The text of each accepted line, compact."""
        with self.lock:
            return [compact(line[self.text_field]) for line in self.received]

    def shown(self) -> str:
        """The last line received, formatted for a person."""
        return json.dumps(self.received[-1], indent=2)

    def answer(self, request: HTTPRequest) -> Answer:
        """Accept the lines, or refuse them."""
        try:
            lines = self._check(request)
            self._check_lines(lines)
        except Refused as refused:
            with self.lock:
                self.refusals.append(str(refused))
            return Answer(refused.status, body=json.dumps({"error": str(refused)}).encode())
        return self._take(lines)

    def _take(self, lines: list[dict[str, Any]]) -> Answer:
        with self.lock:
            self.received += lines
        return self.accepted

    def _check_lines(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            status = self.refusal(compact(line[self.text_field]))
            if status is not None:
                raise Refused(status, "a line is not acceptable")

    def _check(self, request: HTTPRequest) -> list[dict[str, Any]]:
        """The lines of a request. Raises Refused."""
        raise NotImplementedError

    def _check_size(self, body: bytes) -> bytes:
        if len(body) > self._body_limit:
            raise Refused(413, f"{len(body)} bytes are too many")
        return body


def compact(text: object) -> str:
    """Text as it is, an object as compact JSON."""
    if isinstance(text, str):
        return text
    plain = json.dumps(text, separators=(",", ":"), ensure_ascii=False)
    # A lone surrogate can't be encoded in UTF-8.
    lone = any("\ud800" <= character <= "\udfff" for character in plain)
    return json.dumps(text, separators=(",", ":")) if lone else plain


class Ingestion(LogService):
    """`POST /logs/ingest` of LogDNA.

    `line_status` returns the status of a line by its text; if not all are 200, the answer is a 207
    with a list of them (Mezmo docs, "Send Log Lines").
    """

    text_field = "line"
    accepted = Answer(
        200, {"Content-Type": "application/json"}, b'{"status":"ok","batchID":"stand-in"}'
    )

    def __init__(self, key: str, body_limit: int = BODY_LIMIT_BYTES) -> None:
        super().__init__(body_limit)
        self.line_status: Callable[[str], int] = lambda text: 200
        self._key = key

    def shown(self) -> str:
        """The text of the last line received, formatted for a person."""
        return json.dumps(json.loads(self.received[-1][self.text_field]), indent=2)

    def _take(self, lines: list[dict[str, Any]]) -> Answer:
        statuses = [self.line_status(line["line"]) for line in lines]
        taken = [line for line, status in zip(lines, statuses, strict=True) if status < 300]
        answer = super()._take(taken)
        if len(taken) == len(lines):
            return answer
        return Answer(207, answer.headers, json.dumps({"status": statuses}).encode())

    def _check(self, request: HTTPRequest) -> list[dict[str, Any]]:
        parts = urlsplit(request.target)
        if (request.method, parts.path) != ("POST", "/logs/ingest"):
            raise Refused(404, f"no such resource: {request.method} {parts.path}")
        self._check_key(request.headers.get("authorization", ""), request.headers.get("apikey"))
        query = parse_qs(parts.query)
        if not query.get("hostname"):
            raise Refused(400, "hostname is missing in the query")
        if not query.get("now", ["0"])[0].isdigit():
            raise Refused(400, "now is not a number")
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            raise Refused(400, "Content-Type is not application/json")
        return _parse(self._check_size(unpacked(request)))

    def _check_key(self, authorization: str, apikey: str | None) -> None:
        kind, _, encoded = authorization.partition(" ")
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = password = ""
        if self._key not in ((user, password) if kind == "Basic" else (apikey,)):
            raise Refused(401, "the key is wrong")


def unpacked(request: HTTPRequest) -> bytes:
    """The body of a request that may be gzip. Raises Refused."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding not in ("gzip", "identity"):
        raise Refused(415, f"unknown Content-Encoding {encoding}")
    try:
        return gzip.decompress(request.body) if encoding == "gzip" else request.body
    except (OSError, EOFError, zlib.error):
        raise Refused(400, "bad gzip") from None


def _parse(body: bytes) -> list[dict[str, Any]]:
    document = read_json(body)
    lines = document.get("lines") if isinstance(document, dict) else None
    if not isinstance(lines, list) or not lines:
        raise Refused(400, "there is no list of lines")
    for line in lines:
        if not isinstance(line, dict) or not isinstance(line.get("line"), str):
            raise Refused(400, "a line has no text")
        for name, value in line.items():
            if name not in FIELDS or type(value) is not FIELDS[name]:
                raise Refused(400, f"a line has a wrong field: {name}")
    return lines


def read_json(body: bytes) -> Any:
    """A request's body. Raises Refused."""
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON in UTF-8") from None
