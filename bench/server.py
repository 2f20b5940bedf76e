"""The services a benchmark talks to, in one process that is as cheap as it can be.

The stand-ins of the tests are strict and slow (moto alone needs more CPU for a GET than the job),
so a benchmark against them would measure them. This one holds everything in memory, on one asyncio
loop, and adds latency on demand. It still checks what matters: it counts every line it accepted by
its digest, so that a benchmark can tell whether all rows arrived, once.
"""

from __future__ import annotations

import asyncio
import functools
import json
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Protocol
from urllib.parse import parse_qs, quote, unquote
from xml.sax.saxutils import escape

import orjson
from isal import igzip

from standins.authority import Authority
from standins.flowlogs import FlowLogObject, expected_lines, flow_log_object, flow_log_objects

PAGE_KEYS = 1000
EPOCH = "2026-11-24T10:00:00.000Z"


class Bucket(Protocol):
    """Objects by their place in the order of the keys."""

    def __len__(self) -> int:
        """How many objects there are."""

    def key(self, index: int) -> str:
        """The key at this place."""

    def size(self, index: int) -> int:
        """Its object's size in bytes."""

    def content(self, key: str) -> bytes | None:
        """The object of this key."""


@dataclass(frozen=True)
class Latency:
    """Seconds added to each kind of request."""

    get: float = 0.0
    listing: float = 0.0
    post: float = 0.0


@dataclass
class Received:
    """What the ingestion side has accepted since the last reset.

    Lines by Python's own hash, 64 bits and the cheapest there is: expected and received lines are
    compared within this process.
    """

    lines: Counter[int] = field(default_factory=Counter)
    requests: int = 0
    unread: list[Callable[[], None]] = field(default_factory=list)

    def as_dict(self) -> dict[str, int]:
        """Counts, and an order-free checksum over the digests of all lines."""
        while self.unread:
            self.unread.pop()()
        total = sum(self.lines.values())
        checksum = 0
        for digest, count in self.lines.items():
            checksum = (checksum + digest * count) % (1 << 64)
        return {
            "lines": total,
            "distinct": len(self.lines),
            "requests": self.requests,
            "checksum": checksum,
        }


def _of_logdna(body: bytes) -> Iterable[str]:
    return (line["line"] for line in orjson.loads(body)["lines"])


def _of_cloud_logs(body: bytes) -> Iterable[str]:
    # The text is an object there; written again, it is what it was before it was put in, but for
    # the field that it has only there.
    for element in orjson.loads(body):
        element["text"].pop("_object", None)
        yield orjson.dumps(element["text"]).decode()


def _of_otlp(body: bytes) -> Iterable[str]:
    # Only where it is needed: the official messages are larger than all the rest.
    from standins import otlp

    return (orjson.dumps(fields).decode() for fields in otlp.flows(body))


_TEXTS: Mapping[str, Callable[[bytes], Iterable[str]]] = {
    "/logs/ingest": _of_logdna,
    "/logs/v1/singles": _of_cloud_logs,
    "/v1/logs": _of_otlp,
}
"""The texts of the lines in the body of a request, by the path it goes to."""

_READ_LATER = {"/v1/logs", "/logs/v1/singles"}
"""What takes this process longer to read than the job to write is read when the run is over."""

_SAID = {"/logs/ingest": b'{"status":"ok"}'}
"""What the answer says, where it says something."""


class Services:
    """S3, IAM and ingestion, all in one."""

    def __init__(self, bucket: Bucket, latency: Latency) -> None:
        self.bucket = bucket
        self.latency = latency
        self.received = Received()

    async def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body for one request."""
        path, _, query_text = target.partition("?")
        query = {name: values[0] for name, values in parse_qs(query_text, True).items()}
        if method == "POST" and path in _TEXTS:
            return await self._ingest(body, path)
        if method == "POST" and path == "/identity/token":
            token = {"access_token": "t", "refresh_token": "r", "token_type": "Bearer",
                     "expires_in": 3600}  # fmt: skip
            return 200, [("Content-Type", "application/json")], json.dumps(token).encode()
        if path == "/-/received":
            return 200, [], json.dumps(self.received.as_dict()).encode()
        if path == "/-/reset":
            self.received = Received()
            values = {name: float(value) for name, value in query.items()}
            self.latency = Latency(**values)
            return 200, [], b""
        if "list-type" in query:
            await asyncio.sleep(self.latency.listing)
            return 200, [("Content-Type", "application/xml")], self._listing(query)
        await asyncio.sleep(self.latency.get)
        content = self.bucket.content(unquote(path.split("/", 2)[2]))
        if content is None:
            return 404, [], b"<Error><Code>NoSuchKey</Code></Error>"
        return 200, [("Last-Modified", "Tue, 24 Nov 2026 10:00:00 GMT"), ("ETag", '"x"')], content

    async def _ingest(self, body: bytes, path: str) -> tuple[int, list[tuple[str, str]], bytes]:
        if self.latency.post:
            await asyncio.sleep(self.latency.post)
        self.received.requests += 1
        if path in _READ_LATER:
            self.received.unread.append(functools.partial(self._read, body, path))
        else:
            self._read(body, path)
        return 200, [], _SAID.get(path, b"")

    def _read(self, body: bytes, path: str) -> None:
        raw = igzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        self.received.lines.update(map(hash, _TEXTS[path](raw)))

    def _listing(self, query: Mapping[str, str]) -> bytes:
        start = int(query.get("continuation-token", "0"))
        end = min(start + int(query.get("max-keys", PAGE_KEYS)), len(self.bucket))
        encode: Callable[[str], str] = quote if query.get("encoding-type") == "url" else escape
        parts = ['<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><EncodingType>url'
                 "</EncodingType>"]  # fmt: skip
        parts += [
            f"<Contents><Key>{encode(self.bucket.key(i))}</Key><LastModified>{EPOCH}</LastModified>"
            f"<ETag>&quot;x&quot;</ETag><Size>{self.bucket.size(i)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for i in range(start, end)
        ]
        more = end < len(self.bucket)
        parts.append(
            f"<KeyCount>{end - start}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
        )
        if more:
            parts.append(f"<NextContinuationToken>{end}</NextContinuationToken>")
        return ("".join(parts) + "</ListBucketResult>").encode()


class Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection; answers requests in turn."""

    def __init__(self, services: Answering) -> None:
        self._services = services
        self._buffer = bytearray()
        self._need = -1
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._next()

    def _next(self) -> None:
        if self._need < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
            del self._buffer[: end + 4]
            self._method, self._target, _ = head[0].split(" ", 2)
            self._headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head[1:])
            }
            self._need = int(self._headers.get("content-length", "0"))
            if self._headers.get("expect"):
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(self._buffer) < self._need:
            return
        body = bytes(self._buffer[: self._need])
        del self._buffer[: self._need]
        self._need, self._busy = -1, True
        self._task = asyncio.ensure_future(self._answer(body))

    async def _answer(self, body: bytes) -> None:
        status, headers, content = await self._services.answer(
            self._method, self._target, self._headers, body
        )
        head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}",
                f"Date: {formatdate(usegmt=True)}"]  # fmt: skip
        head += [f"{name}: {value}" for name, value in headers]
        text = ("\r\n".join(head) + "\r\n\r\n").encode()
        self._transport.write(text if self._method == "HEAD" else text + content)
        self._busy = False
        if self._buffer:
            self._next()


class Answering(Protocol):
    """What a connection needs of the services behind it."""

    async def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Status, headers and body for one request."""


async def serve(
    services: Answering, tls: ssl.SSLContext, announce: Callable[[int, int], None]
) -> None:
    """Serve until the process ends; `announce` gets the port, and that with TLS."""
    loop = asyncio.get_running_loop()
    plain, secure = [
        await loop.create_server(lambda: Connection(services), "127.0.0.1", 0, ssl=context)
        for context in (None, tls)
    ]
    announce(*(one.sockets[0].getsockname()[1] for one in (plain, secure)))
    await asyncio.gather(plain.serve_forever(), secure.serve_forever())


class Objects:
    """Real-looking objects, all in memory."""

    def __init__(self, objects: Iterable[FlowLogObject]) -> None:
        ordered = sorted(objects, key=lambda item: item.key)
        self._keys = [item.key for item in ordered]
        self._bodies = {item.key: item.body for item in ordered}
        self.expected, self.expected_first = Received(), Received()
        for item in ordered:
            texts = [hash(text) for text in expected_lines(item.document, item.key)]
            self.expected.lines.update(texts)
            if item is ordered[0]:
                self.expected_first.lines.update(texts)

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """The key at this place."""
        return self._keys[index]

    def size(self, index: int) -> int:
        """Its object's size in bytes."""
        return len(self._bodies[self._keys[index]])

    def content(self, key: str) -> bytes | None:
        """The object of this key."""
        return self._bodies.get(key)


class Keys:
    """Keys as long as real ones, made when they are asked for; each object has an empty list."""

    def __init__(self, count: int) -> None:
        self.expected, self.expected_first = Received(), Received()
        self._count = count
        real = flow_log_object(0, 1, datetime(2026, 11, 24, 10, tzinfo=UTC)).key
        self._prefix, self._suffix = real.rsplit("stream-id=", 1)

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        """The key at this place."""
        return f"{self._prefix}stream-id={index:016}/{index % 100:08}.gz"

    def size(self, index: int) -> int:
        """Its object's size in bytes."""
        return 600

    def content(self, key: str) -> bytes | None:
        """The object of this key."""
        return b'{"flow_logs":[]}'


def main() -> None:
    """`python -m bench.server COUNT ROWS`: serve so many objects (0 rows: keys only)."""
    count, rows = int(sys.argv[1]), int(sys.argv[2])
    bucket = Objects(flow_log_objects(count, rows)) if rows else Keys(count)
    authority = Authority()

    def announce(port: int, tls_port: int) -> None:
        said = {
            "port": port,
            "tls_port": tls_port,
            "authority": authority.certificate,
            "first_key": bucket.key(0),
            "expected": bucket.expected.as_dict(),
            "expected_first": bucket.expected_first.as_dict(),
        }
        print(json.dumps(said), flush=True)

    asyncio.run(serve(Services(bucket, Latency()), authority.context(), announce))


if __name__ == "__main__":
    main()
