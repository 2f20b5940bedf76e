"""Which attribute each field of a flow log becomes, as the official messages read it.

`python -m tests.otlp_fields` prints the table of docs/destinations.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs

from destinations.base import Line, Source
from destinations.batch import Packer
from destinations.otlp import OTLP
from standins.flowlogs import flow_log_object
from standins.otlp import attributes

NOW = 1_795_687_200_000


def sent(source: Source, *lines: Line, destination: OTLP | None = None) -> ResourceLogs:
    """What the official messages find in a request with these lines of one object."""
    destination = destination or OTLP("http://localhost", {}, {})
    packer = Packer(destination, 4_000_000)
    render = destination.renderer(source, NOW)
    for line in lines:
        packer.add(0, render(line), destination.head(source))
    batch = packer.take()
    assert batch
    request = ExportLogsServiceRequest.FromString(destination.decode(batch.body(destination)))
    (resource_logs,) = request.resource_logs
    return resource_logs


def of_object(name: str, value: object) -> Mapping[str, object]:
    """What a field of an object becomes: attributes of the resource, or of each record."""
    found = sent(Source(fields={name: value}), Line(b""))
    (record,) = found.scope_logs[0].log_records
    own = attributes(found.resource.attributes)
    own.pop("cloud.provider")
    return {**own, **attributes(record.attributes)}


def of_flow(name: str, value: object) -> Mapping[str, object]:
    """What a field of a flow becomes: attributes of its record."""
    found = sent(Source(), Line(b"", fields={name: value}))
    (record,) = found.scope_logs[0].log_records
    return attributes(record.attributes)


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Where the field is from, its name, the attribute, an example."""
    item = flow_log_object(0, 1, datetime(2026, 11, 24, 10, tzinfo=UTC))
    skipped = ("flow_logs", "number_of_flow_logs")
    common = {name: v for name, v in item.document.items() if name not in skipped}
    for name, value in {**common, "key": item.key, "_object": "9f86d081884c7d65"}.items():
        for attribute, shown in of_object(name, value).items():
            yield "object", name, attribute, str(shown)
    for name, value in {**item.document["flow_logs"][0], "_row": 0}.items():
        for attribute, shown in of_flow(name, value).items():
            yield "flow", name, attribute, str(shown)


def table() -> str:
    """The table in Markdown."""
    lines = ["| of the | field | attribute | example |", "|---|---|---|---|"]
    for where, name, attribute, shown in rows():
        short = shown if len(shown) <= 40 else f"{shown[:37]}…"
        lines.append(f"| {where} | `{name}` | `{attribute}` | `{short}` |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
