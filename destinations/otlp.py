"""Any OpenTelemetry backend as a destination: sends flows as log records, by OTLP over HTTP.

OpenTelemetry specification, "OTLP/HTTP", "OTLP Exporter Configuration", "Logs Data Model"; semantic
conventions. The mapping follows the decoder of VPC flow logs in the OpenTelemetry Collector
(`awslogsencodingextension`).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import requests

from connections.network import unusable
from connections.time_limit import time_limit
from destinations import answers
from destinations.base import Destination, Line, LongLine, Run, Source, Variables
from destinations.protobuf import (
    Attribute,
    any_value,
    attributes,
    fields,
    fixed64,
    key_value,
    message,
    tag,
    varint,
)

SERVICE_NAME = "vpc-flow-logs"
SCOPE_NAME = "flowlog"
PROTOCOL = "http/protobuf"
OTHERS = "ibm.vpc.flow."
"""Prefix of attributes for which there is no semantic convention."""

RESOURCE_ATTRIBUTES = {"vpc_crn": "ibm.vpc.crn", "instance_crn": "cloud.resource_id"}
"""Fields of an object that become attributes of its resource, by another name."""

RECORD_ATTRIBUTES = {
    "initiator_ip": "source.address",
    "initiator_port": "source.port",
    "target_ip": "destination.address",
    "target_port": "destination.port",
    "transport_protocol": "network.transport",
    "ether_type": "network.type",
    "direction": "network.io.direction",
    "key": "log.file.path",
}
"""Fields of a flow (and the object's key) that become attributes of its record."""

WORDS: Mapping[str, Mapping[object, str]] = {
    "transport_protocol": {6: "tcp", 17: "udp"},
    "ether_type": {"IPv4": "ipv4", "IPv6": "ipv6"},
    "direction": {"I": "receive", "O": "transmit"},
}
"""Values in the semantic conventions, by value in the flow log; other numbers stay digits."""

NOT_SENT = {"_app"}
"""`service.name` has this information."""

CRN_PARTS = {
    "cloud.account.id": ("vpc_crn", 6),
    "cloud.region": ("vpc_crn", 5),
    "cloud.availability_zone": ("instance_crn", 5),
    "host.id": ("instance_crn", 9),
}
"""Attributes of a resource that are part of a CRN: its field, and the number of the part, from 0
(IBM Cloud docs, "Cloud Resource Names")."""

SHORTEST_SECRET = 8
CREDENTIALS = r"auth|key|token|secret|password"
"""Names of headers that have a secret value match this; others may only name a tenant."""

# Field numbers of the messages (opentelemetry-proto, `logs.proto`, `resource.proto`).
_RESOURCE_LOGS = tag(1)  # of ExportLogsServiceRequest
_RESOURCE, _SCOPE_LOGS = 1, tag(2)  # of ResourceLogs
_IN_RESOURCE, _IN_RECORD = 1, 6  # attributes of Resource and LogRecord
_SCOPE, _RECORD = message(1, message(1, SCOPE_NAME.encode())), tag(2)  # of ScopeLogs
_TIME, _OBSERVED_TIME = b"\x09", b"\x59"
_INFO = b"\x10\x09" + message(3, b"INFO")  # severity: number and text
_WARN = b"\x10\x0d" + message(3, b"WARN")


@dataclass(frozen=True, slots=True)
class OTLP(Destination):
    """A receiver of OTLP over HTTP.

    `url` is the whole URL. `headers` are secrets. `resource` is added to every resource.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    resource: Mapping[str, str]
    compressed: bool = True
    certificate: str | None = None
    answer_seconds: float = math.inf

    @classmethod
    def read(cls, env: Variables) -> OTLP:
        """The destination by the variables of the specification; those for logs have priority."""
        url = env.url("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")
        if url:
            # This URL is used unchanged, including a trailing slash.
            url += "/" * env.text("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT").endswith("/")
        elif env.required("OTEL_EXPORTER_OTLP_ENDPOINT"):
            url = env.url("OTEL_EXPORTER_OTLP_ENDPOINT") + "/v1/logs"
        first = functools.partial(_first_set, env)
        protocol = first("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
        headers = first("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
        packing = first("OTEL_EXPORTER_OTLP_LOGS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")
        certificate = first("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE")
        timeout = first("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
        env.parsed(protocol, _parse_protocol, PROTOCOL)
        named: dict[str, str] = env.parsed("OTEL_RESOURCE_ATTRIBUTES", _parse_pairs, {})
        service = env.text("OTEL_SERVICE_NAME") or named.get("service.name", SERVICE_NAME)
        return cls(
            url,
            env.parsed(headers, _parse_headers, {}),
            {**named, "service.name": service},
            env.parsed(packing, _parse_compression, True),
            env.parsed(certificate, _parse_certificate, None),
            env.parsed(timeout, _parse_timeout, math.inf),
        )

    name = "the OTLP receiver"
    endpoint_setting = "OTEL_EXPORTER_OTLP_ENDPOINT"
    key_setting = "OTEL_EXPORTER_OTLP_HEADERS"
    prefix = suffix = b""
    separator = _RECORD
    takes_blocks = False
    run_bytes = 20 + len(_SCOPE)
    # The default limit of a collector.
    request_limit_bytes = line_limit_bytes = 4_000_000
    long_line = LongLine.DROPPED

    def head(self, source: Source) -> bytes:
        """The resource of an object's records."""
        own: dict[str, Any] = {"cloud.provider": "ibm_cloud", **dict(_of_crns(source.fields))}
        for name, value in source.fields.items():
            if name != "key" and name not in NOT_SENT:
                own[RESOURCE_ATTRIBUTES.get(name, OTHERS + name)] = value
        everything = {**own, **self.resource}.items()
        written = (key_value(_IN_RESOURCE, name, any_value(value)) for name, value in everything)
        return message(_RESOURCE, *written)

    def parts(
        self, content: bytes | bytearray, runs: Iterable[Run]
    ) -> Iterator[bytes | bytearray | memoryview]:
        """The text of a request: one `ResourceLogs` with one `ScopeLogs` for each run."""
        records = memoryview(content)
        for head, start, end in runs:
            before = _SCOPE + self.separator
            scope_logs = _SCOPE_LOGS + varint(len(before) + end - start) + before
            size = len(head) + len(scope_logs) + end - start
            yield b"".join((_RESOURCE_LOGS, varint(size), head, scope_logs))
            yield records[start:end]

    def renderer(self, source: Source, now: int) -> Callable[[Line], bytes]:
        """A function that renders a line as a record without its tag. `now` in UTC milliseconds."""
        observed = _OBSERVED_TIME + _nanoseconds(now)
        shared = {name: v for name, v in source.fields.items() if name == "key"}
        end = attributes(shared, _record_attribute)

        def render(line: Line) -> bytes:
            parts = (
                _TIME,
                _nanoseconds(self.timestamp(line, now)),
                observed,
                _WARN if line.rejected else _INFO,
                attributes(line.fields, _record_attribute),
                end,
            )
            return varint(sum(map(len, parts))) + b"".join(parts)

        return render

    def limited_size(self, line: Line, element: bytes) -> int:
        """The size in bytes to which the limit for a line applies: that of the record."""
        return len(element)

    def post(
        self, session: requests.Session, body: bytes, timeout: tuple[float, float]
    ) -> requests.Response:
        """Post an encoded body."""
        encoding = {"Content-Encoding": "gzip"} if self.compressed else {}
        with time_limit(self.answer_seconds):
            return session.post(
                self.url,
                data=body,
                headers={"Content-Type": "application/x-protobuf", **encoding, **self.headers},
                timeout=timeout,
                stream=True,
                verify=self.certificate,
                # A redirect would send the headers to an unknown host.
                allow_redirects=False,
            )

    def meaning(self, status: int, text: bytes, lines: int) -> answers.Meaning:
        """What an answer to a request with this many lines means."""
        return meaning(status, text)


# --- records -------------------------------------------------------------------------------------


def _nanoseconds(milliseconds: int) -> bytes:
    """A time as `fixed64`; 0, which means unknown, if it is before 1970."""
    return fixed64(max(0, milliseconds * 1_000_000))


@functools.lru_cache(maxsize=256)
def _record_attribute(name: str) -> Attribute:
    return Attribute(_IN_RECORD, RECORD_ATTRIBUTES.get(name, OTHERS + name), WORDS.get(name))


def _of_crns(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The attributes that are parts of CRNs."""
    for attribute, (name, number) in CRN_PARTS.items():
        parts = str(fields.get(name)).split(":", 9)
        if parts[0] == "crn" and len(parts) == 10 and parts[number]:
            yield attribute, parts[number].removeprefix("a/")


# --- answers -------------------------------------------------------------------------------------


def meaning(status: int, content: bytes) -> answers.Meaning:
    """What an answer means (OTLP specification, "OTLP/HTTP Response").

    A 200 can say how many records were refused, but not which; none may be sent again. Four other
    statuses may be retried.
    """
    if status in (408, 425) or (status >= 500 and status not in (502, 503, 504)):
        return answers.RequestRefused(status)
    by_status = answers.by_status(status)
    if not isinstance(by_status, answers.Delivered) or content in (b"", b"{}"):
        return by_status
    try:
        partial = dict(fields(bytes(dict(fields(content)).get(1, b""))))
        rejected, explanation = int(partial.get(1, 0)), bytes(partial.get(2, b""))
    except (ValueError, TypeError):
        return answers.Delivered(_words(content))
    if rejected:
        return answers.SomeRefused(rejected, _words(explanation))
    return answers.Delivered(_words(explanation))


def _words(text: bytes) -> str:
    return text.decode(errors="replace").strip()[: answers.REMARK_CHARACTERS]


# --- settings ------------------------------------------------------------------------------------


def _first_set(env: Variables, *names: str) -> str:
    """The first of these variables that is set."""
    return next(filter(env.text, names), names[-1])


def _parse_protocol(text: str) -> str:
    if text != PROTOCOL:
        raise ValueError(f"must be {PROTOCOL}: the job supports neither gRPC nor JSON")
    return text


def _parse_pairs(text: str) -> dict[str, str]:
    """`name=value` with commas between them, percent-encoded (W3C Baggage). Raises ValueError."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ValueError("is not a list such as name=value,name=value")
    return {unquote(name.strip()): unquote(value.strip()) for name, _, value in pairs}


def _parse_headers(text: str) -> dict[str, str]:
    headers = _parse_pairs(text)
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError("has an invalid header name")
        if not value.isprintable() or not value.isascii():
            raise ValueError(f"has an invalid value for the header {name}")
        if len(value) < SHORTEST_SECRET and re.search(CREDENTIALS, name, re.IGNORECASE):
            raise ValueError(f"has a value of under {SHORTEST_SECRET} characters for {name}")
    return headers


def _parse_compression(text: str) -> bool:
    if text not in ("gzip", "none"):
        raise ValueError("must be gzip or none")
    return text == "gzip"


def _parse_certificate(text: str) -> str:
    if why := unusable(Path(text)):
        raise ValueError(f"names a file or directory of certificates that {why}")
    return text


def _parse_timeout(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("is not a number of milliseconds")
    return int(text) / 1000 or math.inf
