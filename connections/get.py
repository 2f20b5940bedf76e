"""A strict HTTP client for GET on reused connections, with a tenth of the CPU of urllib3's pool.

It accepts answers by RFC 9112: a status line, headers, and a body whose end is given by its length,
by chunks, or by the end of the connection. It refuses everything else. Direct connections only:
urllib3 is used for proxies.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

from connections.values import content_length

HEAD_LIMIT_BYTES = 64 * 1024
"""Limit of a status line with its headers, and of what comes between two chunks."""

_RECEIVE_BYTES = 64 * 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?").fullmatch
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*").fullmatch
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?").fullmatch


class NotConnected(Exception):
    """No connection could be made; the text is the type of the error."""


class UnusableAnswer(Exception):
    """The answer is not HTTP, incomplete, or too slow; the text says which."""


class _Stale(Exception):
    """The server had closed a reused connection: no byte of an answer came."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; the names of its headers in lower case.

    `size` is the Content-Length, or the length of `content`. If it is over the limit, `content` is
    empty, or one byte longer than the limit if there was no Content-Length.
    """

    status: int
    headers: Mapping[str, str]
    size: int
    content: bytes = field(repr=False)


class Getter:
    """GETs from one server; safe to use from several threads."""

    def __init__(
        self, url: str, connect_seconds: float, read_seconds: float, tls: ssl.SSLContext | None
    ) -> None:
        """`url` is `http://` or `https://`, its path is ignored; `tls` is for `https://`."""
        parts = urlsplit(url)
        self._tls = tls if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._idle: deque[_Connection] = deque()
        self._head = f"\r\nHost: {parts.netloc}\r\nAccept-Encoding: identity\r\n"

    def get(self, target: str, headers: Mapping[str, str], limit: int, seconds: float) -> Response:
        """GET `target`, a path with its query, within `seconds`.

        Content of more than `limit` bytes is not read. Raises NotConnected, UnusableAnswer.
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        request = f"GET {target} HTTP/1.1{self._head}{lines}\r\n".encode("latin-1")
        deadline = time.monotonic() + seconds
        with suppress(IndexError, _Stale):
            return self._exchange(self._idle.pop(), request, limit, deadline)
        return self._exchange(self._connect(), request, limit, deadline)

    def _exchange(
        self, connection: _Connection, request: bytes, limit: int, deadline: float
    ) -> Response:
        try:
            response = connection.exchange(request, limit, deadline)
        except BaseException:
            connection.close()
            raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return response

    def _connect(self) -> _Connection:
        try:
            opened = socket.create_connection((self._host, self._port), self._connect_seconds)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                opened = self._tls.wrap_socket(opened, server_hostname=self._host)
        except (OSError, ValueError) as error:
            raise NotConnected(type(error).__name__) from error
        return _Connection(opened, self._read_seconds)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()


class _Connection:
    """One connection; its buffer has the bytes that were received and not used yet."""

    def __init__(self, opened: socket.socket, read_seconds: float) -> None:
        self.reusable = False
        self._socket = opened
        self._read_seconds = read_seconds
        self._used = False
        # A bytearray removes bytes at its front without moving the rest.
        self._buffer = bytearray()
        self._deadline = 0.0

    def exchange(self, request: bytes, limit: int, deadline: float) -> Response:
        """Send the request and read its answer."""
        self._deadline = deadline
        reused, self._used, self.reusable = self._used, True, False
        try:
            self._set_timeout()
            self._socket.sendall(request)
            if not self._receive() and reused:
                raise _Stale
        except TimeoutError:
            _refuse("it came too slowly")
        except OSError as error:
            if reused:
                raise _Stale from None
            _refuse(type(error).__name__)
        version, status, headers = self._read_head()
        while status < 200:
            version, status, headers = self._read_head()
        size, content, whole = self._read_body(status, headers, limit)
        closes = "close" in headers.get("connection", "").lower()
        self.reusable = whole and version == b"1" and not closes and not self._buffer
        return Response(status, headers, size, content)

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self._socket.close()

    # --- the head --------------------------------------------------------------------------------

    def _read_head(self) -> tuple[bytes, int, dict[str, str]]:
        """The HTTP version's last digit, the status and the headers of the next answer."""
        first, *lines = self._until(b"\r\n\r\n").split(b"\r\n")
        found = _STATUS_LINE(first)
        if not found:
            _refuse("this is not an HTTP answer")
        headers: dict[str, str] = {}
        for line in lines:
            header = _HEADER(line)
            if not header:
                _refuse("a header is broken")
            name, value = header[1].decode("ascii").lower(), header[2].decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return found[1], int(found[2]), headers

    # --- the body --------------------------------------------------------------------------------

    def _read_body(
        self, status: int, headers: Mapping[str, str], limit: int
    ) -> tuple[int, bytes, bool]:
        """The size, the content, and whether the whole body was read."""
        coding = headers.get("transfer-encoding")
        if status in (204, 304):
            if coding is not None or content_length(headers.get("content-length", "0")) is None:
                _refuse("it has a body that such an answer cannot have")
            return 0, b"", True
        if coding is not None:
            if coding.lower() != "chunked":
                _refuse("its transfer encoding is unknown")
            content, whole = self._read_chunks(limit)
            return len(content), content, whole
        if "content-length" not in headers:
            content = self._read_to_end(limit)
            return len(content), content, False
        size = content_length(headers["content-length"])
        if size is None:
            _refuse("its length is unusable")
        if size > limit:
            return size, b"", False
        return size, self._exactly(size), True

    def _read_chunks(self, limit: int) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        length = 0
        while True:
            found = _CHUNK_SIZE(self._until(b"\r\n"))
            if not found:
                _refuse("a chunk has no size")
            size = int(found[1], 16)
            if not size:
                break
            room = limit + 1 - length
            if size > room:
                return b"".join([*parts, self._exactly(room)]), False
            parts.append(self._exactly(size))
            length += size
            if self._exactly(2) != b"\r\n":
                _refuse("a chunk has the wrong size")
        while self._until(b"\r\n"):  # trailers
            pass
        return b"".join(parts), True

    def _read_to_end(self, limit: int) -> bytes:
        while len(self._buffer) <= limit and self._more():
            pass
        return self._take(min(len(self._buffer), limit + 1))

    # --- bytes -----------------------------------------------------------------------------------

    def _until(self, end: bytes) -> bytes:
        """All bytes up to `end`, which is removed too."""
        while (at := self._buffer.find(end, 0, HEAD_LIMIT_BYTES)) < 0:
            if len(self._buffer) > HEAD_LIMIT_BYTES:
                _refuse("its headers are too long")
            self._need_more()
        found = self._take(at)
        self._take(len(end))
        return found

    def _exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        while len(self._buffer) < size:
            self._need_more()
        return self._take(size)

    def _take(self, size: int) -> bytes:
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    def _need_more(self) -> None:
        if not self._more():
            _refuse("it ended too early")

    def _more(self) -> bool:
        """Receive more bytes; False at the end of the connection."""
        try:
            return self._receive()
        except TimeoutError:
            _refuse("it came too slowly")
        except OSError as error:
            _refuse(type(error).__name__)

    def _receive(self) -> bool:
        self._set_timeout()
        received = self._socket.recv(_RECEIVE_BYTES)
        self._buffer += received
        return bool(received)

    def _set_timeout(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            _refuse("it came too slowly")
        self._socket.settimeout(min(left, self._read_seconds))


def _refuse(why: str) -> NoReturn:
    raise UnusableAnswer(why)
