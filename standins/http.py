"""A small HTTP/1.1 server for stand-ins: keep-alive, no log, faulty answers on request."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any, Self

from standins.faults import Answer, Cut, Drip, Reset, Script, Silence


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """One request as it was received."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    arrived: float = field(default_factory=time.monotonic)


def reset(connection: socket.socket) -> None:
    """End a connection with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # Its file objects keep it open, and close() alone would wait for them.
    connection.shutdown(socket.SHUT_RD)
    connection.close()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Forward all data until the end."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class Proxy:
    """A proxy for tunnels (RFC 9110, 9.3.6), which records their targets."""

    def __init__(self) -> None:
        self.tunnels: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        """Base URL, without a trailing slash."""
        return f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            near, _ = self._listening.accept()
            threading.Thread(target=self._tunnel, args=(near,), daemon=True).start()

    def _tunnel(self, near: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += near.recv(1)
        target = head.split()[1].decode()
        self.tunnels.append(target)
        host, _, port = target.rpartition(":")
        far = socket.create_connection((host, int(port)))
        near.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        threading.Thread(target=pump, args=(far, near), daemon=True).start()
        pump(near, far)


def relay(port: int, to: int) -> None:
    """Listen on a port of this machine and forward to another one, in threads."""

    def serve() -> None:
        with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", to))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


class Served:
    """A server that runs in its own thread inside a `with` block."""

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self._scheme = "http"
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """Base URL, without a trailing slash."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def secure(self, context: ssl.SSLContext) -> None:
        """Use TLS from now on."""
        self._scheme = "https"
        # The handshake comes with the first read, in the connection's own thread: a client that
        # does not go on with it holds up no other one.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )

    def __enter__(self) -> Self:
        # The interval only limits how soon it stops.
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()


class Server(Served):
    """Base of the stand-ins: `answer` returns the answer to a request."""

    def __init__(self) -> None:
        super().__init__(_ThreadingServer(self))
        self.script: Script[HTTPRequest] = Script()
        self.requests: list[HTTPRequest] = []
        self.connections = 0
        self.in_flight = self.most_in_flight = self.open_connections = 0
        self.lock = threading.Lock()
        self._arrived = threading.Condition(self.lock)

    def answer(self, request: HTTPRequest) -> Answer:
        """The normal answer."""
        raise NotImplementedError

    def wait_for_requests(self, count: int, seconds: float = 60) -> None:
        """Wait until this many requests have arrived. Raises TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, seconds):
                raise TimeoutError(f"{len(self.requests)} of {count} requests after {seconds} s")

    def settle(self, seconds: float = 60) -> None:
        """Wait until all requests of clients that have ended are handled. Raises TimeoutError.

        A client may have sent a complete request that the server has not read yet.
        """
        address = self._server.server_address[:2]
        # Connections are accepted in order: when this one is served, so are the earlier ones.
        with socket.create_connection(address, timeout=seconds) as last:
            last.shutdown(socket.SHUT_WR)
            last.recv(1)
        with self._arrived:
            if not self._arrived.wait_for(lambda: not self.open_connections, seconds):
                raise TimeoutError(f"{self.open_connections} connections after {seconds} s")

    def note(self, request: HTTPRequest) -> None:
        """Record a request."""
        with self._arrived:
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self._arrived.notify_all()

    def wait_silently(self) -> None:
        """Keep a connection open without an answer until the server stops."""
        self._stopping.wait()

    def pause(self, seconds: float) -> bool:
        """Wait; return whether the server is stopping."""
        return self._stopping.wait(seconds)


class _ThreadingServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, owner: Server) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._count(1)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self._count(-1)

    def _count(self, change: int) -> None:
        with self.owner._arrived:
            self.owner.open_connections += change
            self.owner._arrived.notify_all()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore it: tests close connections on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _ThreadingServer

    def setup(self) -> None:
        super().setup()
        owner = self.server.owner
        with owner.lock:
            owner.connections += 1
            self._connection_number = owner.connections

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def _serve(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = HTTPRequest(self.command, self.path, headers, body, self._connection_number)
        owner.note(request)
        try:
            self._respond(owner, request)
        finally:
            with owner.lock:
                owner.in_flight -= 1

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _respond(self, owner: Server, request: HTTPRequest) -> None:
        fault = owner.script.fault(request)
        if isinstance(fault, Silence):
            owner.wait_silently()
            self.close_connection = True
        elif isinstance(fault, Answer):
            self.wfile.write(self._bytes(fault))
        elif isinstance(fault, Reset) and not fault.accept and not fault.after_bytes:
            self._reset()
        else:
            answer = self._bytes(owner.answer(request))
            if isinstance(fault, Reset):
                self.wfile.write(answer[: fault.after_bytes])
                self._reset()
            elif isinstance(fault, Cut):
                self.wfile.write(fault.kept(answer))
                self.close_connection = True
            elif isinstance(fault, Drip):
                self._drip(owner, answer, fault.seconds)
            else:
                self.wfile.write(answer)

    def _bytes(self, answer: Answer) -> bytes:
        """The bytes of the answer."""
        headers = {"Date": self.date_time_string(), "Content-Length": str(len(answer.body))}
        lines = [f"HTTP/1.1 {answer.status} {self.responses.get(answer.status, ('Answer',))[0]}"]
        lines += [f"{name}: {value}" for name, value in {**headers, **answer.headers}.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        return head if self.command == "HEAD" else head + answer.body

    def _reset(self) -> None:
        self.close_connection = True
        reset(self.connection)

    def _drip(self, owner: Server, answer: bytes, seconds: float) -> None:
        for index in range(len(answer)):
            if owner.pause(seconds):
                self.close_connection = True
                break
            self.wfile.write(answer[index : index + 1])
