"""Any OpenTelemetry backend as a destination: flows as log records, by OTLP over HTTP.

OpenTelemetry specification, "OTLP/HTTP", "OTLP Exporter Configuration", "Logs Data Model"; semantic
conventions. The mapping follows the decoder of VPC flow logs in the OpenTelemetry Collector
(`awslogsencodingextension`).
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

import requests
from requests.auth import AuthBase

from destinations.base import Destination, Line, LongLine, Run, Source, Variables
from destinations.protobuf import Attribute, attributes, fixed64, message, tag, text, varint

SERVICE_NAME = "vpc-flow-logs"
SCOPE_NAME = "flowlog"
PROTOCOL = "http/protobuf"
OTHERS = "ibm.vpc.flow."
"""What stands before the names of fields for which there is no convention."""

RESOURCE_ATTRIBUTES = {"vpc_crn": "ibm.vpc.crn", "instance_crn": "cloud.resource_id"}
"""Fields of an object, which become attributes of its resource."""

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
"""Fields of a flow, and the object's key, which become attributes of its record."""

WORDS: Mapping[str, Mapping[object, str]] = {
    "transport_protocol": {6: "tcp", 17: "udp"},
    "ether_type": {"IPv4": "ipv4", "IPv6": "ipv6"},
    "direction": {"I": "receive", "O": "transmit"},
}
"""The words of the conventions for values of the flow log; another number is its digits."""

NOT_SENT = {"_app"}
"""`service.name` says what sends."""


@dataclass(frozen=True, slots=True)
class CRNPart:
    """A part of a CRN (IBM Cloud docs, "Cloud Resource Names") that is an attribute of its own."""

    field: str
    pattern: str
    attribute: str


CRN_PARTS = (
    CRNPart("vpc_crn", r"crn(?::[^:]*){5}:a/([^:]+)", "cloud.account.id"),
    CRNPart("vpc_crn", r"crn(?::[^:]*){4}:([^:]+)", "cloud.region"),
    CRNPart("instance_crn", r"crn(?::[^:]*){4}:([^:]+)", "cloud.availability_zone"),
    CRNPart("instance_crn", r"crn:.*:([^:]+)", "host.id"),
)

# Severity number and text.
_INFO = b"\x10\x09" + message(3, b"INFO")
_WARN = b"\x10\x0d" + message(3, b"WARN")
_TIME, _OBSERVED_TIME = b"\x09", b"\x59"
_RESOURCE, _SCOPE, _IN_RESOURCE, _IN_RECORD = 1, 1, 1, 6
_NANOSECONDS_PER_MILLISECOND = 1_000_000


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
        """By the variables of the specification; the form for logs wins."""
        url = env.url("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")
        if url:
            # It is taken as it is, also with a slash at its end.
            url += "/" * env.text("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT").endswith("/")
        elif env.required("OTEL_EXPORTER_OTLP_ENDPOINT"):
            url = env.url("OTEL_EXPORTER_OTLP_ENDPOINT") + "/v1/logs"
        env.parsed(_set(env, *_PROTOCOL), _parse_protocol, PROTOCOL)
        named = env.parsed("OTEL_RESOURCE_ATTRIBUTES", parse_pairs, {})
        service = env.text("OTEL_SERVICE_NAME") or named.get("service.name") or SERVICE_NAME
        return cls(
            url,
            env.parsed(_set(env, *_HEADERS), _parse_headers, {}),
            {**named, "service.name": service},
            env.parsed(_set(env, *_COMPRESSION), _parse_compression, True),
            env.parsed(_set(env, *_CERTIFICATE), _parse_certificate, None),
            env.parsed(_set(env, *_TIMEOUT), _parse_timeout, math.inf),
        )

    name = "the OTLP receiver"
    endpoint_setting = "OTEL_EXPORTER_OTLP_ENDPOINT"
    key_setting = "OTEL_EXPORTER_OTLP_HEADERS"
    prefix = suffix = b""
    separator = tag(2)  # of a record within its scope
    # What a collector takes by default.
    request_limit_bytes = line_limit_bytes = 4_000_000
    long_line = LongLine.DROPPED

    def head(self, source: Source) -> bytes:
        """The resource of an object's records."""
        own = {"cloud.provider": "ibm_cloud", **_of_crns(source.fields)}
        for name, value in source.fields.items():
            if name not in RECORD_ATTRIBUTES and name not in NOT_SENT:
                own[RESOURCE_ATTRIBUTES.get(name, OTHERS + name)] = value
        written = (Attribute(_IN_RESOURCE, name).written(v) for name, v in {**own, **self.resource}.items())
        return message(_RESOURCE, *written)

    def renderer(self, source: Source, now: int) -> Callable[[Line], bytes]:
        """Makes lines into records without their tag. `now` in UTC milliseconds."""
        observed = _OBSERVED_TIME + _nanoseconds(now)
        shared = {name: v for name, v in source.fields.items() if name in RECORD_ATTRIBUTES}
        end = attributes(shared, _record_attribute)

        def render(line: Line) -> bytes:
            record = b"".join(
                (
                    _TIME,
                    _nanoseconds(self.timestamp(line, now)),
                    observed,
                    _WARN if line.rejected else _INFO,
                    attributes(line.fields, _record_attribute),
                    end,
                )
            )
            return varint(len(record)) + record

        return render
