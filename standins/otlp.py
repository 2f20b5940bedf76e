"""A stand-in for a receiver of OTLP over HTTP, at least as strict as the specification.

It converts records back into lines of the flow log, by its own table, so that tests can compare
what arrived with what was in the bucket.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, SeverityNumber

from standins.faults import Answer
from standins.http import HTTPRequest
from standins.ingestion import LogService, Refused, unpacked

BODY_LIMIT_BYTES = 4_000_000
"""The default limit of a collector."""

KIND = "application/x-protobuf"
SEVERITIES = {(SeverityNumber.SEVERITY_NUMBER_INFO, "INFO"),
              (SeverityNumber.SEVERITY_NUMBER_WARN, "WARN")}  # fmt: skip

RESOURCE = {"ibm.vpc.crn": "vpc_crn", "cloud.resource_id": "instance_crn"}
ABOUT_RESOURCE = {
    "service.name", "cloud.provider", "cloud.account.id", "cloud.region",
    "cloud.availability_zone", "host.id",
}  # fmt: skip
"""Attributes of the resource that are not fields of the object."""

RECORD = {
    "source.address": "initiator_ip",
    "source.port": "initiator_port",
    "destination.address": "target_ip",
    "destination.port": "target_port",
    "network.transport": "transport_protocol",
    "network.type": "ether_type",
    "network.io.direction": "direction",
    "log.file.path": "key",
}
WORDS: Mapping[str, Mapping[str, object]] = {
    "network.transport": {"tcp": 6, "udp": 17},
    "network.type": {"ipv4": "IPv4", "ipv6": "IPv6"},
    "network.io.direction": {"receive": "I", "transmit": "O"},
}
OTHERS = "ibm.vpc.flow."


class OTLP(LogService):
    """`POST /v1/logs`; a request must have these `headers`.

    `last` is the last record received, with its resource.
    """

    text_field = "line"
    accepted = Answer(200, {"Content-Type": KIND}, ExportLogsServiceResponse().SerializeToString())

    def __init__(self, headers: Mapping[str, str], body_limit: int = BODY_LIMIT_BYTES) -> None:
        super().__init__(body_limit)
        self.last = ResourceLogs()
        self._headers = headers

    def shown(self) -> str:
        """The last record received, with its resource, as the official package prints it."""
        return json_format.MessageToJson(self.last)

    def _check(self, request: HTTPRequest) -> list[dict[str, Any]]:
        if (request.method, request.target) != ("POST", "/v1/logs"):
            raise Refused(404, f"no such resource: {request.method} {request.target}")
        if any(request.headers.get(name.lower()) != text for name, text in self._headers.items()):
            raise Refused(401, "the headers are wrong")
        if request.headers.get("content-type") != KIND:
            raise Refused(415, f"Content-Type is not {KIND}")
        return list(self._lines(self._check_size(unpacked(request))))

    def _lines(self, body: bytes) -> Iterator[dict[str, Any]]:
        for resource_logs in parsed(body).resource_logs:
            resource = attributes(resource_logs.resource.attributes)
            if resource.get("service.name") in (None, ""):
                raise Refused(400, "a resource has no service.name")
            (scope_logs,) = resource_logs.scope_logs
            records = [(record, flow(resource, record)) for record in scope_logs.log_records]
            self._note(resource_logs)
            for record, fields in records:
                yield {
                    "line": fields,
                    "level": record.severity_text,
                    "timestamp": record.time_unix_nano // 1_000_000,
                    "resource": resource,
                    "attributes": attributes(record.attributes),
                }

    def _note(self, received: ResourceLogs) -> None:
        last = ResourceLogs(resource=received.resource)
        scope_logs = received.scope_logs[-1]
        last.scope_logs.add(scope=scope_logs.scope, log_records=scope_logs.log_records[-1:])
        with self.lock:
            self.last = last


def flows(body: bytes) -> Iterator[dict[str, object]]:
    """The fields of the lines that a request's records were made from. Raises Refused."""
    for resource_logs in parsed(body).resource_logs:
        resource = attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            yield from (flow(resource, record) for record in scope_logs.log_records)


def parsed(body: bytes) -> ExportLogsServiceRequest:
    """The request, parsed by the official package. Raises Refused."""
    request = ExportLogsServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        raise Refused(400, "the body is not an ExportLogsServiceRequest") from None
    if not request.resource_logs or _has_unknown_fields(request):
        raise Refused(400, "there are no logs, or unknown fields")
    return request


def _has_unknown_fields(request: Message) -> bool:
    size = request.ByteSize()
    request.DiscardUnknownFields()  # type: ignore[attr-defined]
    return request.ByteSize() != size


def attributes(pairs: Sequence[KeyValue]) -> dict[str, object]:
    """Attributes by name. Raises Refused if a name occurs twice."""
    found = {pair.key: value_of(pair.value) for pair in pairs}
    if len(found) < len(pairs):
        raise Refused(400, "an attribute occurs twice")
    return found


def value_of(value: AnyValue) -> object:
    """A value as in JSON."""
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None


def flow(resource: Mapping[str, object], record: LogRecord) -> dict[str, object]:
    """The fields of the line that a record was made from, in their order. Raises Refused."""
    if (record.severity_number, record.severity_text) not in SEVERITIES:
        raise Refused(400, "a record has no severity")
    if not record.time_unix_nano or not record.observed_time_unix_nano:
        raise Refused(400, "a record has no time")
    fields = {
        RESOURCE.get(name, name.removeprefix(OTHERS)): value
        for name, value in resource.items()
        if name not in ABOUT_RESOURCE
    }
    for name, value in attributes(record.attributes).items():
        if name not in RECORD and not name.startswith(OTHERS):
            raise Refused(400, f"an unknown attribute: {name}")
        fields[RECORD.get(name, name.removeprefix(OTHERS))] = WORDS.get(name, {}).get(
            str(value), value
        )
    key = fields.pop("key", None)
    return {**fields, "_app": "FLCE"} | ({"key": key} if key is not None else {})
