"""A stand-in for COS: moto's S3 behind a server that checks tokens and can fail on demand."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any, NoReturn, Self
from urllib.parse import parse_qs

from moto.backends import get_backend
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from standins.faults import Answer, Cut, Drip, Reset, Script, Silence
from standins.http import Served, reset
from standins.iam import IAM

ACCOUNT = "123456789012"
"""The account that moto uses for requests without AWS credentials."""

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class S3Request:
    """One request to the store. `operation` is LIST, GET, HEAD, PUT or DELETE."""

    operation: str
    target: str
    key: str
    headers: Mapping[str, str]
    body: bytes = b""
    arrived: float = field(default_factory=time.monotonic)


class Store(Served):
    """A bucket server; `iam` says which tokens it accepts (None: any credentials at all).

    `clock_offset`, in seconds, is added to its clock: the `Date` of every answer, and the time of
    objects that are written later.
    """

    def __init__(self, iam: IAM | None = None) -> None:
        server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Handler)
        server.daemon_threads = True  # type: ignore[attr-defined]
        server.store = self  # type: ignore[attr-defined]
        super().__init__(server)
        self.script: Script[S3Request] = Script()
        self.requests: list[S3Request] = []
        self.clock_offset = 0
        self._iam = iam
        self._backend = get_backend("s3")[ACCOUNT]["aws"]
        # Only S3, since moto would guess the service from the signature, which tokens lack.
        self._moto = create_backend_app("s3")
        # Moto checks a precondition and then writes; the real service does both atomically.
        self._write_lock = threading.Lock()

    def __enter__(self) -> Self:
        self._backend.reset()
        return super().__enter__()

    # --- direct access to moto, without HTTP -----------------------------------------------------

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        self._backend.create_bucket(name, "us-east-1")

    def put(
        self, bucket: str, key: str, body: bytes, last_modified: datetime | None = None
    ) -> None:
        """Store an object, as if written at `last_modified` (None: now)."""
        item = self._backend.put_object(bucket, key, body)
        written = last_modified or datetime.now(UTC) + timedelta(seconds=self.clock_offset)
        item.last_modified = written.astimezone(UTC).replace(tzinfo=None)

    def get(self, bucket: str, key: str) -> bytes | None:
        """An object's content, or None."""
        # Not while it is replaced: moto closes the old content.
        with self._write_lock:
            item = self._backend.get_object(bucket, key)
            return bytes(item.value) if item else None

    def written(self, bucket: str, key: str) -> int:
        """When the object was written, in seconds since the epoch; 0 if there is none."""
        item = self._backend.get_object(bucket, key)
        return int(item.last_modified.replace(tzinfo=UTC).timestamp()) if item else 0

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object."""
        self._backend.delete_object(bucket, key)

    def operations(self) -> list[str]:
        """The operations of all requests, in order."""
        return [request.operation for request in list(self.requests)]

    # --- requests --------------------------------------------------------------------------------

    def _serve(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        request = _request(environ)
        self.requests.append(request)
        fault = self.script.fault(request)
        connection = environ["werkzeug.socket"]
        if isinstance(fault, Silence):
            self._stopping.wait()
            _drop(connection)
        if isinstance(fault, Answer):
            return _answer(start_response, fault)
        if isinstance(fault, Reset) and not fault.accept and not fault.after_bytes:
            _drop(connection)
        if self._iam and not self._iam.is_valid(_bearer(environ)):
            return _answer(start_response, s3_error(403, "AccessDenied"))
        return self._pass_on(request, environ, start_response, fault)

    def _set_time(self, environ: Environ, status: str) -> None:
        """Set the time of an object that was just written to this store's clock."""
        if self.clock_offset and environ["REQUEST_METHOD"] == "PUT" and status.startswith("200"):
            bucket = str(environ["PATH_INFO"]).split("/", 2)[1]
            item = self._backend.get_object(bucket, _request(environ).key)
            if item:
                item.last_modified += timedelta(seconds=self.clock_offset)

    def _pass_on(
        self, request: S3Request, environ: Environ, start_response: StartResponse, fault: object
    ) -> Iterable[bytes]:
        """Moto's answer, damaged according to the fault."""

        answered = ""

        def start(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
            nonlocal answered
            answered = status
            # The server adds the Date.
            kept = [(name, value) for name, value in headers if name.lower() != "date"]
            return start_response(status, kept)

        # Moto takes the key from RAW_URI and only the route from here; its pattern does not match
        # a line end, which a key may have.
        routed = {**environ, "PATH_INFO": environ["PATH_INFO"].replace("\n", "_")}
        if request.operation in ("PUT", "DELETE"):
            with self._write_lock:
                content = b"".join(self._moto(routed, start))
                self._set_time(environ, answered)
        else:
            content = b"".join(self._moto(routed, start))
        connection = environ["werkzeug.socket"]
        match fault:
            case Reset(after_bytes=0):
                _drop(connection)
            case Reset():
                return _broken(content[: fault.after_bytes], lambda: reset(connection))
            case Cut() if content:
                # Half-close: the client reads the data, and then the end.
                return _broken(fault.kept(content), lambda: connection.shutdown(socket.SHUT_WR))
            case Drip():
                return (
                    content[i : i + 1]
                    for i in range(len(content))
                    if not self._stopping.wait(fault.seconds)
                )
        return [content]


def s3_error(status: int, code: str, headers: Mapping[str, str] | None = None) -> Answer:
    """An error answer of S3."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    return Answer(status, {"Content-Type": "application/xml", **(headers or {})}, body.encode())


SLOW_DOWN = s3_error(503, "SlowDown")


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The `Date` of every answer, by this store's clock."""
        store: Store = self.server.store  # type: ignore[attr-defined]
        return formatdate(time.time() + store.clock_offset, usegmt=True)

    def run_wsgi(self) -> None:
        """Answer one request and leave the connection open for the next.

        Werkzeug itself closes every connection, answers 500 on one that was reset, and prints a
        traceback.
        """
        environ = self.make_environ()
        body = environ["wsgi.input"]
        if "HTTP_TRANSFER_ENCODING" not in environ:
            body = io.BytesIO(self.rfile.read(int(environ.get("CONTENT_LENGTH") or 0)))
        # Read all of it: the rest would be taken for the next request.
        environ["wsgi.input"] = io.BytesIO(body.read())
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> Any:
            started[:] = [(status, headers)]

        try:
            parts = iter(self.server.app(environ, start_response))
        except ConnectionResetError:
            raise
        except Exception as error:
            started[:] = [("500 Stand-in", [])]
            parts = iter([repr(error).encode()])
        status, headers = started[0]
        if not any(name.lower() == "content-length" for name, _ in headers):
            content = b"".join(parts)
            headers, parts = [*headers, ("Content-Length", str(len(content)))], iter([content])
        headers = [("Date", self.date_time_string()), *headers]
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self.wfile.write(head + next(parts, b""))
        for part in parts:
            self.wfile.write(part)

    def log(self, type: str, message: str, *args: Any) -> None:
        """Print nothing."""

    def handle(self) -> None:
        """Serve the connection; ignore clients that close it, as tests do on purpose."""
        try:
            super().handle()
        except (OSError, ValueError):
            self.close_connection = True


def _request(environ: Environ) -> S3Request:
    query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    # WSGI has the path as latin-1 of the decoded bytes (PEP 3333).
    path = environ["PATH_INFO"].encode("latin-1").decode()
    key = path.split("/", 2)[2] if path.count("/") > 1 else ""
    operation = "LIST" if "list-type" in query else environ["REQUEST_METHOD"]
    headers = {
        name[5:].lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    return S3Request(operation, environ.get("RAW_URI", path), key, headers)


def _bearer(environ: Environ) -> str:
    kind, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return token if kind == "Bearer" else ""


def _answer(start_response: StartResponse, answer: Answer) -> list[bytes]:
    headers = {"Content-Length": str(len(answer.body)), **answer.headers}
    start_response(f"{answer.status} Answer", list(headers.items()))
    return [answer.body]


def _drop(connection: socket.socket) -> NoReturn:
    """Reset the connection without an answer, even if moto has begun one."""
    reset(connection)
    raise ConnectionResetError


def _broken(content: bytes, damage: Callable[[], object]) -> Iterable[bytes]:
    yield content
    damage()
