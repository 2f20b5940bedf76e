"""Services without sockets: a whole run in this process, with answers as raw bytes.

So thousands of runs take seconds, and answers can be invalid in any way.
"""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

import pytest
import urllib3.util.connection

import flowlog
import logdna_synchronous
import push.reader
from connections import iam
from tests.harness import PREFIX, SECRETS, Result

IAM_PORT, STORE_PORT, LOG_PORT = 1, 2, 3
TOKEN = "eyJhbGciOiJub25lIn0.canary-token-K3l4M5n6.c2lnbmF0dXJl"
KEY = PREFIX + "a=b/00000001.gz"
OBJECT = b'{"version":"0.0.1","vpc_crn":"crn:x:y","flow_logs":[{"action":"rejected"},{"n":2}]}'
CHANGED = "Tue, 24 Nov 2026 10:00:00 GMT"

Answers = Callable[[int, bytes], bytes]
"""Returns the raw answer, given the port and the raw request."""


def answer(status: int, body: bytes, **headers: str) -> bytes:
    """A well-formed answer."""
    fields = {"Content-Length": str(len(body)), "Date": CHANGED, **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    head = "\r\n".join([f"HTTP/1.1 {status} Answer", *lines])
    return head.encode() + b"\r\n\r\n" + body


LISTING = (
    '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><IsTruncated>false</IsTruncated>'
    "<EncodingType>url</EncodingType>"
    f"<Contents><Key>{KEY}</Key><LastModified>2026-11-24T10:00:00.000Z</LastModified>"
    f"<Size>{len(OBJECT)}</Size></Contents></ListBucketResult>"
).encode()

GOOD = {
    "iam": answer(
        200,
        json.dumps(
            {"access_token": TOKEN, "refresh_token": "r", "token_type": "Bearer",
             "expires_in": 3600, "expiration": 1 << 32}
        ).encode(),
    ),
    "listing": answer(200, LISTING),
    "object": answer(200, OBJECT, Last_Modified=CHANGED, ETag='"e"'),
    "log service": answer(200, b'{"status":"ok"}', Retry_After="0"),
}  # fmt: skip


def part(port: int, request: bytes) -> str:
    """Which of the answers a request is for."""
    if port == STORE_PORT:
        return "listing" if b"?encoding-type" in request.split(b"\r\n", 1)[0] else "object"
    return {IAM_PORT: "iam", LOG_PORT: "log service"}[port]


class _Socket:
    """The part of a socket that urllib3, http.client and `connections.get` use."""

    def __init__(self, port: int, answers: Answers, silent: int) -> None:
        self._port, self._answers, self._silent = port, answers, silent
        self._sent = b""
        self._received = io.BytesIO()

    def sendall(self, data: bytes) -> None:
        self._sent += bytes(data)

    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        sent, self._sent = self._sent, b""
        return io.BytesIO(self._answers(self._port, sent))

    def recv(self, size: int) -> bytes:
        if self._sent:
            self._received = self.makefile()
        return self._received.read(size)

    def fileno(self) -> int:
        """A descriptor that never has data to read, so that the connection looks open."""
        return self._silent

    def ignore(self, *_: Any) -> None:
        pass

    settimeout = setsockopt = close = shutdown = ignore

    def getsockopt(self, *_: Any) -> int:
        """TLS calls this first; this socket has no TLS."""
        raise ConnectionResetError


class _Inline(Executor):
    """Runs calls immediately: starting threads takes longer than the rest of a run."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, function: Callable[..., Any], /, *args: Any, **keywords: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **keywords))
        except Exception as error:
            future.set_exception(error)
        return future


ENVIRON = {
    "COS_BUCKET": "flow-logs",
    "COS_ENDPOINT": f"http://127.0.0.1:{STORE_PORT}",
    "COS_CRN": "crn:v1:bluemix:public:cloud-object-storage:global:a/1:2::",
    "APIKEY": SECRETS["APIKEY"],
    "IAM_ENDPOINT": f"http://127.0.0.1:{IAM_PORT}",
    "LOGDNA_ENDPOINT": f"http://127.0.0.1:{LOG_PORT}",
    "LOGDNA_INGESTION_KEY": SECRETS["LOGDNA_INGESTION_KEY"],
    "CLOUD_LOGS_ENDPOINT": f"http://127.0.0.1:{LOG_PORT}",
    "FLOWLOG_RETRY_SECONDS": "0",
    "FLOWLOG_CONCURRENCY": "1",
}


@contextmanager
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """A function that does one run with these answers and settings.

    It uses the tokens of the last run, unless `new_tokens` is set.
    """
    sleep = time.sleep
    silent, other = os.pipe()
    answers: Answers = lambda port, request: GOOD[part(port, request)]  # noqa: E731

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> _Socket:
        if address[1] not in (IAM_PORT, STORE_PORT, LOG_PORT):
            raise ConnectionRefusedError
        return _Socket(address[1], answers, silent)

    def awake(seconds: float) -> None:
        """Don't wait between tries; the thread that watches time limits still sleeps."""
        if threading.current_thread().name == "watch":
            sleep(seconds)

    def run(
        environ: Mapping[str, str] = ENVIRON,
        answering: Answers | None = None,
        *,
        new_tokens: bool = False,
    ) -> Result:
        nonlocal answers
        answers = answering or (lambda port, request: GOOD[part(port, request)])
        if new_tokens:
            iam.tokens_for.cache_clear()
        log = io.StringIO()
        monkeypatch.setattr(sys, "stderr", log)
        code = flowlog.run(environ)
        return Result(code, log.getvalue(), "")

    monkeypatch.setattr(urllib3.util.connection, "create_connection", connect)
    monkeypatch.setattr(socket, "create_connection", connect)
    monkeypatch.setattr(time, "sleep", awake)
    for module in (push.reader, logdna_synchronous):
        monkeypatch.setattr(module, "ThreadPoolExecutor", _Inline)
    try:
        yield run
    finally:
        os.close(silent)
        os.close(other)
