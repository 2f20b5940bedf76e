"""OTLP: its requests as the official package reads them, its answers, its settings."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from socket import socket
from typing import Any

import pytest
from certifi import where
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from connections.network import tls_context
from destinations import answers
from destinations.base import Line, LineTooLong, Source
from destinations.batch import Packer
from destinations.otlp import OTLP, meaning
from lib import lines_of
from logdna_synchronous import Delivery
from push.selection import Selection
from run.masking import secrets_of
from run.report import SafeFormatter
from run.settings import read_settings
from standins.faults import Answer
from standins.flowlogs import flow_log_objects
from standins.otlp import KIND, attributes
from standins.otlp import OTLP as Service
from tests.harness import PROJECT, REAL, SECRETS, Place, event, services
from tests.harness import lines_of as texts_of
from tests.otlp_fields import NOW, sent, table
from tests.run.test_settings import IAM_WAY, faults

HOUR = 60 * 60 * 1000
SETTINGS = {
    **{name: value for name, value in IAM_WAY.items() if not name.startswith("LOGDNA")},
    "LOG_DESTINATION": "otlp",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "otlp.example.com",
}
PLAIN = OTLP("http://localhost", {}, {"service.name": "vpc-flow-logs"}, compressed=False)


@pytest.fixture
def place() -> Iterator[Place]:
    with services("otlp") as fresh:
        yield fresh


def service_of(place: Place) -> Service:
    assert isinstance(place.ingestion, Service)
    return place.ingestion


def destination(**settings: str) -> OTLP:
    found = read_settings({**SETTINGS, **settings}).destination
    assert isinstance(found, OTLP)
    return found


# --- settings ------------------------------------------------------------------------------------


def test_what_must_be_set() -> None:
    assert destination() == OTLP(
        "https://otlp.example.com/v1/logs", {}, {"service.name": "vpc-flow-logs"}
    )
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is not set" in faults(
        {**SETTINGS, "OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    )


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://a.b/otlp/"}, "https://a.b/otlp/v1/logs"),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "https://a.b/my"}, "https://a.b/my"),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "https://a.b/my/"}, "https://a.b/my/"),
    ],
)
def test_the_endpoint_for_logs_is_taken_as_it_is(settings: dict[str, str], url: str) -> None:
    assert destination(**settings).url == url


def test_the_form_for_logs_wins() -> None:
    both = {}
    for name, general, own in (
        ("HEADERS", "a=1", "b=2"),
        ("TIMEOUT", "1000", "2500"),
        ("COMPRESSION", "gzip", "none"),
        ("CERTIFICATE", "/nowhere", where()),
        ("PROTOCOL", "grpc", "http/protobuf"),
    ):
        both |= {f"OTEL_EXPORTER_OTLP_{name}": general, f"OTEL_EXPORTER_OTLP_LOGS_{name}": own}
    found = destination(**both)
    assert found.headers == {"b": "2"}
    assert (found.answer_seconds, found.compressed, found.certificate) == (2.5, False, where())


def test_headers_are_percent_encoded_and_secret() -> None:
    text = "Authorization=Basic%20cGFzc3dvcmQ%3D, X-Scope-OrgID = 1"
    found = destination(OTEL_EXPORTER_OTLP_HEADERS=text)
    assert found.headers == {"Authorization": "Basic cGFzc3dvcmQ=", "X-Scope-OrgID": "1"}
    assert "cGFzc3dvcmQ" not in repr(found)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PROTOCOL", "grpc", "must be http/protobuf"),
        ("PROTOCOL", "http/json", "must be http/protobuf"),
        ("HEADERS", "verysecretkey", "is not a list such as name=value"),
        ("HEADERS", "=verysecretkey", "is not a list such as name=value"),
        ("HEADERS", "a b=verysecretkey", "has an invalid header name"),
        ("HEADERS", "a=verysecretkey%0a", "has an invalid value for the header a"),
        ("HEADERS", "api-key=secretk", "a value of under 8 characters for api-key"),
        ("TIMEOUT", "10s", "is not a number of milliseconds"),
        ("COMPRESSION", "zstd", "must be gzip or none"),
        ("CERTIFICATE", "/nowhere.pem", "that does not exist"),
        ("ENDPOINT", "ftp://x", "is not a host name"),
    ],
)
def test_a_setting_that_is_wrong_is_named(name: str, value: str, says: str) -> None:
    for variable in (f"OTEL_EXPORTER_OTLP_{name}", f"OTEL_EXPORTER_OTLP_LOGS_{name}"):
        said = faults({**SETTINGS, variable: value})
        assert said.startswith(variable)
        assert says in said
        assert "secret" not in said


def test_no_time_is_no_limit() -> None:
    assert destination(OTEL_EXPORTER_OTLP_TIMEOUT="0").answer_seconds == math.inf


def test_attributes_of_the_resource_can_be_added() -> None:
    named = "deployment.environment.name=pro%2Cd,service.name=x,cloud.region=mine"
    found = destination(OTEL_RESOURCE_ATTRIBUTES=named)
    crn = "crn:v1:bluemix:public:is:us-south:a/1::vpc:2"
    logs = sent(Source(fields={"vpc_crn": crn}), Line(b""), destination=found)
    assert attributes(logs.resource.attributes) == {
        "cloud.provider": "ibm_cloud",
        "cloud.account.id": "1",
        "cloud.region": "mine",
        "ibm.vpc.crn": crn,
        "deployment.environment.name": "pro,d",
        "service.name": "x",
    }
    both = destination(OTEL_RESOURCE_ATTRIBUTES=named, OTEL_SERVICE_NAME="y")
    assert both.resource["service.name"] == "y"
    assert "OTEL_RESOURCE_ATTRIBUTES is not a list" in faults(
        {**SETTINGS, "OTEL_RESOURCE_ATTRIBUTES": "a"}
    )


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"])
def test_the_values_of_headers_are_masked_in_every_form(name: str) -> None:
    secrets = secrets_of({name: "Authorization=Bearer%20my%2Dsecret%2Dtoken,X-Scope-OrgID=1"})
    formatter = SafeFormatter(secrets)
    import logging

    for text in ("Bearer%20my%2Dsecret%2Dtoken", "Bearer my-secret-token", "my-secret-token"):
        record = logging.makeLogRecord({"msg": f"it said {text} 1"})
        assert "secret" not in formatter.format(record)
        assert formatter.format(record).endswith(" 1"), "a tenant's number is no secret"


def test_nothing_of_it_is_imported_for_another_destination() -> None:
    program = (
        "import json, sys, flowlog; from run.settings import read_settings;"
        "read_settings(json.loads(sys.argv[1]));"
        "print([n for n in sys.modules if 'otlp' in n or 'protobuf' in n or 'opentele' in n])"
    )

    def imported(environ: dict[str, str]) -> str:
        command = [sys.executable, "-c", program, json.dumps(environ)]
        return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True).stdout.strip()

    assert imported(IAM_WAY) == "[]"
    assert imported(SETTINGS) == "['destinations.protobuf', 'destinations.otlp']"


# --- records -------------------------------------------------------------------------------------


def records_of(content: bytes, key: str, selection: Selection | None = None) -> Any:
    lines = lines_of(selection or Selection(), content, key)
    return sent(lines.source, *lines, destination=PLAIN)


@pytest.mark.skipif(not REAL.exists(), reason="the real object is not here")
def test_a_real_object() -> None:
    logs = records_of(REAL.read_bytes(), "a/key")
    assert attributes(logs.resource.attributes) == {
        "cloud.provider": "ibm_cloud",
        "cloud.account.id": "713c783d9a507a53135fe6793c37cc74",
        "cloud.region": "us-south",
        "cloud.availability_zone": "us-south-1",
        "host.id": "0717_2c984e95-b391-4a09-8e92-80feada442a3",
        "cloud.resource_id": "crn:v1:bluemix:public:is:us-south-1:a/713c783d9a507a53135fe6793c37cc7"
        "4::instance:0717_2c984e95-b391-4a09-8e92-80feada442a3",
        "ibm.vpc.crn": "crn:v1:bluemix:public:is:us-south:a/713c783d9a507a53135fe6793c37cc74::vpc:r"
        "006-fc3e66f3-2a98-4bd2-800a-1b4a971f3b78",
        "ibm.vpc.flow.version": "0.0.1",
        "ibm.vpc.flow.collector_crn": "crn:v1:bluemix:public:is:us-south:a/713c783d9a507a53135fe67"
        "93c37cc74::flow-log-collector:r006-7fdc00bc-e7ff-4de2-b040-da5b024f298c",
        "ibm.vpc.flow.attached_endpoint_type": "vnic",
        "ibm.vpc.flow.network_interface_id": "0717-83c09614-8ba2-4911-bada-66cb04f004f5",
        "ibm.vpc.flow.capture_start_time": "2020-06-04T13:42:39Z",
        "ibm.vpc.flow.capture_end_time": "2020-06-04T13:45:57Z",
        "ibm.vpc.flow.state": "ok",
        "service.name": "vpc-flow-logs",
    }
    (scope_logs,) = logs.scope_logs
    assert scope_logs.scope.name == "flowlog"
    first, second = scope_logs.log_records
    assert attributes(first.attributes) == {
        "source.address": "10.240.0.5",
        "source.port": 68,
        "destination.address": "10.240.0.1",
        "destination.port": 67,
        "network.transport": "udp",
        "network.type": "ipv4",
        "network.io.direction": "transmit",
        "log.file.path": "a/key",
        "ibm.vpc.flow.start_time": "2020-06-04T13:43:10Z",
        "ibm.vpc.flow.end_time": "2020-06-04T13:45:20Z",
        "ibm.vpc.flow.connection_start_time": "2020-06-04T13:43:10Z",
        "ibm.vpc.flow.action": "accepted",
        "ibm.vpc.flow.was_initiated": True,
        "ibm.vpc.flow.was_terminated": False,
        "ibm.vpc.flow.bytes_from_initiator": 1358,
        "ibm.vpc.flow.packets_from_initiator": 4,
        "ibm.vpc.flow.bytes_from_target": 1280,
        "ibm.vpc.flow.packets_from_target": 4,
        "ibm.vpc.flow.cumulative_bytes_from_initiator": 1358,
        "ibm.vpc.flow.cumulative_packets_from_initiator": 4,
        "ibm.vpc.flow.cumulative_bytes_from_target": 1280,
        "ibm.vpc.flow.cumulative_packets_from_target": 4,
    }
    assert attributes(second.attributes)["ibm.vpc.flow.end_time"] == ""


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (NOW - 23 * HOUR, NOW - 23 * HOUR),
        (NOW - 25 * HOUR, NOW),
        (NOW + 25 * HOUR, NOW),
        (None, NOW),
    ],
)
def test_the_time_of_a_record(ended: int | None, expected: int) -> None:
    (record,) = sent(Source(), Line(b"", ended)).scope_logs[0].log_records
    assert record.time_unix_nano == expected * 1_000_000
    assert record.observed_time_unix_nano == NOW * 1_000_000


def test_a_rejected_flow_is_a_warning() -> None:
    logs = sent(Source(), Line(b""), Line(b"", rejected=True))
    found = [(r.severity_number, r.severity_text) for r in logs.scope_logs[0].log_records]
    assert found == [(9, "INFO"), (13, "WARN")]


def test_no_attribute_comes_twice() -> None:
    document = {
        "vpc_crn": "a", "direction": "x", "key": "y", "_app": "z",
        "flow_logs": [{"direction": "I", "vpc_crn": "b", "key": "c", "_app": "d"}],
    }  # fmt: skip
    logs = records_of(json.dumps(document).encode(), "k")
    resource = attributes(logs.resource.attributes)
    assert (resource["ibm.vpc.crn"], resource["ibm.vpc.flow.direction"]) == ("a", "x")
    (record,) = logs.scope_logs[0].log_records
    assert attributes(record.attributes) == {
        "network.io.direction": "receive",
        "ibm.vpc.flow.vpc_crn": "b",
        "log.file.path": "k",
    }


def test_a_text_that_is_not_a_crn_has_no_parts() -> None:
    for value in ("", "crn", "crn:v1:bluemix:public:is", 7, None, ["crn"]):
        logs = sent(Source(fields={"vpc_crn": value, "instance_crn": value}), Line(b""))
        assert attributes(logs.resource.attributes).keys() == {
            "cloud.provider", "ibm.vpc.crn", "cloud.resource_id",
        }  # fmt: skip


def test_the_table_of_fields_in_the_documentation_is_this_one() -> None:
    page = (PROJECT / "docs" / "destinations.md").read_text()
    assert f"\n\n{table()}\n" in page, "print it with: python -m tests.otlp_fields"


# --- requests ------------------------------------------------------------------------------------

BATCHES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300)), min_size=2, max_size=12)


@given(BATCHES, st.data())
def test_every_part_of_a_batch_is_a_request_of_the_same_objects(
    lines: list[tuple[int, int]], data: st.DataObject
) -> None:
    packer = Packer(PLAIN, 4_000_000)
    for number, (owner, size) in enumerate(lines):
        source = Source(fields={"vpc_crn": f"vpc {owner}"})
        line = Line(b"", fields={"number": number, "x": "x" * size})
        assert packer.add(owner, PLAIN.renderer(source, NOW)(line), PLAIN.head(source)) is None
    batch = packer.take()
    assert batch
    expected = [(f"vpc {owner}", number) for number, (owner, _) in enumerate(lines)]
    assert flows(batch.body(PLAIN)) == expected
    first, second = batch.halves()
    assert flows(first.body(PLAIN)) + flows(second.body(PLAIN)) == expected
    some = data.draw(st.sets(st.sampled_from(range(len(lines))), min_size=1))
    selected = batch.select(sorted(some))
    assert flows(selected.body(PLAIN)) == [expected[number] for number in sorted(some)]


def flows(body: bytes) -> list[tuple[object, object]]:
    """The VPC and the number of each record."""
    return [
        (attributes(logs.resource.attributes)["ibm.vpc.crn"],
         attributes(record.attributes)["ibm.vpc.flow.number"])
        for logs in ExportLogsServiceRequest.FromString(body).resource_logs
        for record in logs.scope_logs[0].log_records
    ]  # fmt: skip


@pytest.mark.parametrize("size", [5_000, 100_000, 3_999_000])
def test_a_request_has_at_most_4_mb_even_if_each_line_has_its_own_resource(
    size: int,
) -> None:
    packer = Packer(PLAIN, 1 << 30)
    batches = []
    for owner in range(12_000_000 // size):
        source = Source(fields={"vpc_crn": "x" * (size // 2)})
        line = Line(b"", fields={"x": "x" * (size // 2)})
        batches.append(packer.add(owner, PLAIN.renderer(source, NOW)(line), PLAIN.head(source)))
    bodies = [len(batch.body(PLAIN)) for batch in (*batches, packer.take()) if batch]
    assert max(bodies) <= 4_000_000
    assert min(bodies[:-1]) > 3_900_000 - 2 * size, "requests are filled"


def test_a_record_that_fits_into_no_request_is_refused_alone() -> None:
    delivery = Delivery(PLAIN)
    lines = [Line(b"", fields={"x": "x" * size}) for size in (10, 4_000_000, 10)]
    added = delivery.add(0, lines, Source())
    assert added.lines == 3
    assert added.refused == "1 lines are over the service's limit of 4000000 bytes"
    delivery.close()


def test_a_record_that_does_not_fit_with_its_resource_is_refused() -> None:
    packer = Packer(PLAIN, 4_000_000)
    with pytest.raises(LineTooLong, match="does not fit into one request"):
        packer.add(0, bytes(3_999_000), bytes(1_000))


# --- answers -------------------------------------------------------------------------------------


def answer(rejected: int = 0, said: str = "") -> bytes:
    made = ExportLogsServiceResponse()
    made.partial_success.rejected_log_records = rejected
    made.partial_success.error_message = said
    return made.SerializeToString()


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (200, b"", answers.Delivered()),
        (200, answer(), answers.Delivered()),
        (200, b"{}", answers.Delivered()),
        (200, answer(0, "be careful"), answers.Delivered("be careful")),
        (200, answer(3, "too old"), answers.SomeRefused(3, "too old")),
        (200, answer(3), answers.SomeRefused(3, "")),
        (200, b"<html>", answers.Delivered("<html>")),
        (
            200,
            answer(3, "too old")[:-2],
            answers.Delivered(answer(3, "too old")[:-2].decode().strip()),
        ),
        (400, b"", answers.LinesRefused(400)),
        (413, b"", answers.LinesRefused(413)),
        (401, b"", answers.KeyRefused(401)),
        (403, b"", answers.KeyRefused(403)),
        (404, b"", answers.RequestRefused(404)),
        (408, b"", answers.RequestRefused(408)),
        (429, b"", answers.Retry("it answered 429", overloaded=True)),
        (500, b"", answers.RequestRefused(500)),
        (501, b"", answers.RequestRefused(501)),
        (502, b"", answers.Retry("it answered 502")),
        (503, b"", answers.Retry("it answered 503", overloaded=True)),
        (504, b"", answers.Retry("it answered 504")),
        (100, b"", answers.Retry("it answered 100")),
    ],
)
def test_what_an_answer_means(status: int, content: bytes, expected: answers.Meaning) -> None:
    assert meaning(status, content) == expected


def test_refused_records_are_not_sent_again_and_their_objects_are_named(
    place: Place,
) -> None:
    items = list(flow_log_objects(3, 5))
    place.put(*items)
    said = f"rejected with {SECRETS['LOGDNA_INGESTION_KEY']}"
    place.ingestion.script.next([Answer(200, {"Content-Type": KIND}, answer(2, said))])
    result = place.run()
    assert result.code == 1
    assert result.failed().keys() == {item.key for item in items}
    assert "refused 2 of 15 lines" in result.failed()[items[0].key]
    assert "rejected with ***" in result.log
    assert len(place.ingestion.requests) == 1
    assert result.summary["lines_delivered"] == 0


# --- the job -------------------------------------------------------------------------------------


def test_everything_arrives_once(place: Place) -> None:
    items = list(flow_log_objects(40, 50))
    expected = place.put(*items)
    result = place.run()
    assert result.code == 0, result.log
    assert place.received() == expected
    for request in place.ingestion.requests:
        assert request.headers["content-encoding"] == "gzip"
        logs = ExportLogsServiceRequest.FromString(gzip.decompress(request.body)).resource_logs
        keys = [key_of(one.scope_logs[0].log_records[0]) for one in logs]
        assert len(keys) == len(set(keys)), "one ResourceLogs an object"


def key_of(record: LogRecord) -> object:
    return attributes(record.attributes)["log.file.path"]


def test_an_event(place: Place) -> None:
    first, second = flow_log_objects(2, 3)
    place.put(first, second)
    result = place.run(CE_DATA=event(second.key))
    assert result.code == 0, result.log
    assert place.received() == texts_of(second)


def test_without_compression(place: Place) -> None:
    expected = place.put(*flow_log_objects(2, 3))
    result = place.run(OTEL_EXPORTER_OTLP_COMPRESSION="none")
    assert result.code == 0, result.log
    assert place.received() == expected
    assert all("content-encoding" not in r.headers for r in place.ingestion.requests)


def test_fields_and_flows_are_chosen_by_the_names_of_the_flow_log(place: Place) -> None:
    (item,) = flow_log_objects(1, 30)
    place.put(item)
    result = place.run(
        FLOWLOG_FIELDS="target_port,vpc_crn,action,_object,_row",
        FLOWLOG_WHERE="transport_protocol == `6`",
    )
    assert result.code == 0, result.log
    wanted = [
        (r, e) for r, e in enumerate(item.document["flow_logs"]) if e["transport_protocol"] == 6
    ]
    assert 0 < len(wanted) < 30
    found = [(line["resource"], line["attributes"]) for line in place.ingestion.received]
    assert [own for _, own in found] == [
        {
            "destination.port": entry["target_port"],
            "ibm.vpc.flow.action": entry["action"],
            "ibm.vpc.flow._row": row,
        }
        for row, entry in wanted
    ]
    names = {
        "service.name", "cloud.provider", "cloud.account.id", "cloud.region", "ibm.vpc.crn",
        "ibm.vpc.flow._object",
    }  # fmt: skip
    assert all(resource.keys() == names for resource, _ in found)


def test_fields_can_be_taken_away(place: Place) -> None:
    place.put(*flow_log_objects(1, 3))
    result = place.run(FLOWLOG_FIELDS="-key,-instance_crn,-end_time")
    assert result.code == 0, result.log
    for line in place.ingestion.received:
        assert not {"host.id", "cloud.resource_id"} & line["resource"].keys()
        assert not {"log.file.path", "ibm.vpc.flow.end_time"} & line["attributes"].keys()
        assert line["timestamp"] > 0


def test_a_wrong_header_ends_the_run_and_the_setting_is_named(place: Place) -> None:
    place.put(*flow_log_objects(1, 1))
    result = place.run(OTEL_EXPORTER_OTLP_HEADERS="api-key=canary-of-a-wrong-key", LOG="DEBUG")
    assert result.code == 1
    assert "rejected the key (401); look at OTEL_EXPORTER_OTLP_HEADERS" in result.log
    assert "canary" not in result.log


def test_an_answer_that_takes_longer_than_the_timeout(place: Place) -> None:
    expected = place.put(*flow_log_objects(1, 1))
    done = []

    def rule(_: object) -> None:
        if not done:
            done.append(True)
            time.sleep(1.5)  # the first answer alone

    place.ingestion.script.rule(rule)
    result = place.run(OTEL_EXPORTER_OTLP_TIMEOUT="300")
    assert result.code == 0, result.log
    assert "it gave no complete answer in time" in result.log
    assert place.received().keys() == expected.keys()


def test_the_certificate_of_otlp_is_trusted_only_by_its_connections() -> None:
    assert tls_context(where()) is tls_context(where())
    assert tls_context(where()) is not tls_context()


# --- a receiver by another vendor ----------------------------------------------------------------


def test_a_receiver_that_others_wrote(place: Place) -> None:
    oteltap = pytest.importorskip("oteltap")
    items = list(flow_log_objects(20, 30))
    expected = place.put(*items)
    plain = {"OTEL_EXPORTER_OTLP_COMPRESSION": "none"}  # it takes nothing else

    async def received() -> list[LogRecord]:
        with closing(socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = oteltap.OtelTapHttpProtobufReceiverSettings(http_port=port)
        async with oteltap.OtelTapHttpProtobufReceiver(settings) as receiver:
            stream = receiver.stream_logs()
            url = f"http://127.0.0.1:{port}"
            run = asyncio.create_task(
                asyncio.to_thread(place.run, OTEL_EXPORTER_OTLP_ENDPOINT=url, **plain)
            )
            records = [await anext(stream) for _ in range(expected.total())]
            result = await run
            assert result.code == 0, result.log
            return records

    records = asyncio.run(asyncio.wait_for(received(), 60))
    assert place.ingestion.requests == []
    found = Counter(
        (key_of(r), attributes(r.attributes)["ibm.vpc.flow.bytes_from_target"]) for r in records
    )
    assert found == Counter(
        (item.key, entry["bytes_from_target"])
        for item in items
        for entry in item.document["flow_logs"]
    )
