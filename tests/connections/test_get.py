"""`connections.get` compared with urllib3, on valid and broken answers."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import hypothesis.strategies as st
import pytest
import urllib3
from hypothesis import HealthCheck, example, given, settings

from connections.get import Getter, NotConnected, UnusableAnswer
from standins.authority import Authority
from standins.http import reset

LIMIT = 40
"""Larger contents are not read; small, so that tests have contents on both sides of it."""


class Server:
    """Answers with exactly these bytes, each piece sent on its own; with a context, over TLS."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.answers: list[Sequence[bytes]] = []
        self.connections = 0
        self.requests: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        with suppress(OSError), connection:
            while self.answers:
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    received = connection.recv(4096)
                    if not received:
                        return
                    request += received
                self.requests.append(request)
                for piece in self.answers.pop(0):
                    if piece == RESET:
                        reset(connection)
                        return
                    if piece == CLOSE:
                        return
                    if piece == SILENCE:
                        connection.recv(1)
                        return
                    connection.sendall(piece)

    def close(self) -> None:
        self._listener.close()


RESET, CLOSE, SILENCE = b"<reset>", b"<close>", b"<silence>"


@contextmanager
def running(tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(tls)
    threading.Thread(target=server.serve, daemon=True).start()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running() as one:
        yield one


def by_getter(server: Server, pieces: Sequence[bytes]) -> tuple[int, bytes] | None:
    server.answers = [[*pieces, CLOSE]]
    getter = Getter(server.url, 5, 5, None)
    try:
        answer = getter.get("/k", {}, LIMIT, 5)
    except UnusableAnswer:
        return None
    finally:
        getter.close()
    return answer.status, answer.content[: LIMIT + 1]


def by_urllib3(server: Server, pieces: Sequence[bytes]) -> tuple[int, bytes] | None:
    server.answers = [[*pieces, CLOSE]]
    with urllib3.HTTPConnectionPool("127.0.0.1", int(server.url.rpartition(":")[2])) as pool:
        try:
            answer = pool.urlopen(
                "GET", "/k", retries=False, redirect=False, preload_content=False,
                decode_content=False, timeout=5,
            )  # fmt: skip
            size = int(answer.headers.get("Content-Length") or 0)
            if size > LIMIT and not answer.chunked:
                return answer.status, b""
            content = answer.read() if size else answer.read(LIMIT + 1)
        except (urllib3.exceptions.HTTPError, ValueError):
            return None
    return answer.status, content[: LIMIT + 1]


STATUSES = st.sampled_from([200, 206, 204, 304, 403, 404, 500, 503])
HEADERS = st.lists(
    st.sampled_from(
        [b'ETag: "x"', b"Server: s", b"X-A:b", b"Date: Tue, 24 Nov 2026 10:00:00 GMT", b"X: "]
    ),
    max_size=3,
)
BODIES = st.binary(max_size=60)


@st.composite
def framed(draw: st.DrawFn) -> bytes:
    """An answer as servers send them: by length, in chunks, or up to the end."""
    status, headers, body = draw(STATUSES), draw(HEADERS), draw(BODIES)
    lines = [b"HTTP/1.1 %d X" % status, *headers]
    if status in (204, 304):
        body = b""
    kind = draw(st.sampled_from(["length", "chunks", "end"]))
    if kind == "length":
        lines.append(b"Content-Length: %d" % len(body))
    if kind == "chunks" and status not in (204, 304):
        lines.append(b"Transfer-Encoding: chunked")
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
        parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
        body += b"0\r\n" + draw(st.sampled_from([b"", b"X-T: 1\r\n"])) + b"\r\n"
    before = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    return before + b"\r\n".join(lines) + b"\r\n\r\n" + body


def in_pieces(text: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    return [
        piece
        for a, b in zip([0, *places], [*places, len(text)], strict=True)
        if (piece := text[a:b])
    ]


CUTS = st.lists(st.integers(0, 10_000), max_size=5)
QUICK = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(answer=framed(), cuts=CUTS)
def test_an_answer_is_read_as_by_urllib3(server: Server, answer: bytes, cuts: list[int]) -> None:
    pieces = in_pieces(answer, cuts)
    assert by_getter(server, pieces) == by_urllib3(server, pieces) is not None


@QUICK
@given(answer=framed(), missing=st.integers(1, 80), cuts=CUTS)
def test_an_answer_that_ends_early_is_never_complete(
    server: Server, answer: bytes, missing: int, cuts: list[int]
) -> None:
    pieces = in_pieces(answer[:-missing], cuts)
    found, expected = by_getter(server, pieces), by_urllib3(server, pieces)
    assert found == expected or found is None


@QUICK
@given(
    answer=framed(),
    at=st.integers(0, 200),
    noise=st.binary(min_size=1, max_size=3),
    cuts=CUTS,
)
@example(b"HTTP/1.1 200 OK\r\n\r\n", 9, b"-1", [])
@example(b"HTTP/1.1 204 X\r\nContent-Length: 0\r\n\r\n", 32, b"x", [])
@example(b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n0\r\n0\r\n\r\n", 11, b"4", [])
def test_it_accepts_no_more_than_urllib3(
    server: Server, answer: bytes, at: int, noise: bytes, cuts: list[int]
) -> None:
    """A damaged answer is refused, or read as urllib3 reads it."""
    at %= len(answer)
    damaged = answer[:at] + noise + answer[at + len(noise) :]
    pieces = in_pieces(damaged, cuts)
    found, expected = by_getter(server, pieces), by_urllib3(server, pieces)
    # The only interim answer that `http.client` knows is 100.
    interim = expected is not None and 100 < expected[0] < 200
    assert found is None or found == expected or interim


def ok(body: bytes, *headers: bytes) -> bytes:
    lines = (b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\naXX0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
    ],
    ids=lambda answer: answer[:60],
)
def test_a_broken_answer_is_refused(server: Server, answer: bytes) -> None:
    assert by_getter(server, [answer]) is None


def test_a_length_that_is_said_twice_is_one(server: Server) -> None:
    twice = ok(b"ab", b"Content-Length: 2")
    assert by_getter(server, [twice]) == (200, b"ab")


AUTHORITY = Authority()


def trusting() -> ssl.SSLContext:
    """What a client needs in order to talk TLS with a server of this authority."""
    return ssl.create_default_context(cadata=AUTHORITY.certificate)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_a_connection_is_kept_and_a_stale_one_is_replaced(tls: bool, end: bytes) -> None:
    with running(AUTHORITY.context() if tls else None) as server:
        server.answers = [[ok(b"1")], [ok(b"2")], [end], [ok(b"3")]]
        getter = Getter(server.url, 5, 5, trusting() if tls else None)
        assert getter.get("/a", {"X-Y": "z"}, LIMIT, 5).content == b"1"
        assert getter.get("/b", {}, LIMIT, 5).content == b"2"
        assert server.connections == 1
        assert getter.get("/c", {}, LIMIT, 5).content == b"3"
        assert server.connections == 2
        first = server.requests[0].decode()
        assert first.startswith("GET /a HTTP/1.1\r\nHost: 127.0.0.1:")
        assert "\r\nX-Y: z\r\n" in first
        assert [request.split()[1] for request in server.requests] == [b"/a", b"/b", b"/c", b"/c"]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_a_new_connection_without_an_answer_is_not_retried_as_stale(tls: bool, end: bytes) -> None:
    with running(AUTHORITY.context() if tls else None) as server:
        server.answers = [[end], [ok(b"1")]]
        with pytest.raises(UnusableAnswer):
            Getter(server.url, 5, 5, trusting() if tls else None).get("/", {}, LIMIT, 5)
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        ok(b"1", b"Connection: close"),
        ok(b"1") + b"more than was announced",
        ok(b"x" * (LIMIT + 1)),
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n1",
    ],
)
def test_a_connection_in_an_unknown_state_is_not_kept(answer: bytes) -> None:
    with running() as server:
        server.answers = [[answer], [ok(b"2")]]
        getter = Getter(server.url, 5, 5, None)
        getter.get("/", {}, LIMIT, 5)
        assert getter.get("/", {}, LIMIT, 5).content == b"2"
        assert server.connections == 2


def test_an_answer_that_never_comes_is_given_up() -> None:
    with running() as server:
        server.answers = [[b"HTTP/1.1 200 OK\r\n", SILENCE]]
        with pytest.raises(UnusableAnswer, match="slowly"):
            Getter(server.url, 5, 0.05, None).get("/", {}, LIMIT, 5)
        server.answers = [[b"HTTP/1.1 200 OK\r\n", SILENCE]]
        with pytest.raises(UnusableAnswer, match="slowly"):
            Getter(server.url, 5, 5, None).get("/", {}, LIMIT, 0.05)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NotConnected, match="ConnectionRefusedError"):
        Getter(f"http://127.0.0.1:{port}", 5, 5, None).get("/", {}, LIMIT, 5)
