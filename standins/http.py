"""A small HTTP/1.1 server for stand-ins: keep-alive, no log, faults on the wire."""

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
    """One request as it came over the wire."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    arrived: float = field(default_factory=time.monotonic)


def reset(connection: socket.socket) -> None:
    """End a connection with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    # The file objects made from it would keep it open, and close() alone waits for them.
    connection.shutdown(socket.SHUT_RD)
    connection.close()


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what comes, until its end."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class Proxy:
    """A proxy that makes tunnels (RFC 9110, 9.3.6), and notes to where."""

    def __init__(self) -> None:
        self.tunnels: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=128)
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
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
    """Listen on a port of this machine, and pass on what comes to another one; in threads."""

    def serve() -> None:
        with socket.create_server(("127.0.0.1", port), backlog=128) as listening:
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", to))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()


class Served:
    """A server that answers, from a thread of its own, inside a `with` block."""

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self._scheme = "http"
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def secure(self, context: ssl.SSLContext) -> None:
        """From now on it talks TLS."""
        self._scheme = "https"
        # The handshake comes with the first read, in the connection's own thread: a client that
        # does not go on with it holds up no other one.
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )

    def __enter__(self) -> Self:
        # The interval is only how soon it notices that it is to stop.
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()


class Server(Served):
    """Base of the stand-ins: `answer` says what a request is answered."""

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
        """Wait until so many requests have arrived. Raises TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, seconds):
                raise TimeoutError(f"{len(self.requests)} of {count} requests after {seconds} s")

    def settle(self, seconds: float = 60) -> None:
        """Wait until all is done that clients which are gone have sent. Raises TimeoutError.

        They may have sent a whole request that nobody has begun to read yet.
        """
        address = self._server.server_address[:2]
        # Connections are accepted in turn: once this one is served, so are those before it.
        with socket.create_connection(address, timeout=seconds) as last:
            last.shutdown(socket.SHUT_WR)
            last.recv(1)
        with self._arrived:
            if not self._arrived.wait_for(lambda: not self.open_connections, seconds):
                raise TimeoutError(f"{self.open_connections} connections after {seconds} s")

    def note(self, request: HTTPRequest) -> None:
        """A request has arrived."""
        with self._arrived:
            self.requests.append(request)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self._arrived.notify_all()

    def wait_silently(self) -> None:
        """Keep a connection open without a word until the server stops."""
        self._stopping.wait()

    def pause(self, seconds: float) -> bool:
        """Wait; whether the server is stopping."""
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
        """A client that goes away is what tests are about."""


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
        """Nothing goes to standard error."""

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
        """The answer as it goes over the wire."""
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
