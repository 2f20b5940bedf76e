"""Realistic flow-log objects, the same for the same seed.

Layout of keys and documents: IBM Cloud docs, VPC, "Viewing flow log objects".
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

ACCOUNT = "713c783d9a507a53135fe6793c37cc74"
INTERFACES = 20


@dataclass(frozen=True, slots=True)
class FlowLogObject:
    """An object of the bucket; `body` is gzip, `document` is its JSON."""

    key: str
    body: bytes
    rows: int
    document: dict[str, Any]


def _uuid(rng: random.Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _crn(kind: str, name: str, region: str = "us-south") -> str:
    return f"crn:v1:bluemix:public:is:{region}:a/{ACCOUNT}::{kind}:{name}"


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def flow_log_object(
    seed: int, rows: int, end: datetime, interface: int = 0, number: int = 10
) -> FlowLogObject:
    """One object of `rows` flows of an interface, captured in the five minutes before `end`."""
    fleet = random.Random(interface)  # the same interface has the same names in every object
    instance, vnic, subnet = f"0717_{_uuid(fleet)}", f"0717-{_uuid(fleet)}", f"0717-{_uuid(fleet)}"
    vpc, collector = f"r006-{_uuid(random.Random(-1))}", f"r006-{_uuid(random.Random(-2))}"
    rng = random.Random(f"{seed}/{interface}/{number}/{rows}")
    start = end - timedelta(minutes=5)
    document = {
        "version": "0.0.1",
        "collector_crn": _crn("flow-log-collector", collector),
        "attached_endpoint_type": "vnic",
        "network_interface_id": vnic,
        "instance_crn": _crn("instance", instance, "us-south-1"),
        "vpc_crn": _crn("vpc", vpc),
        "capture_start_time": _time(start),
        "capture_end_time": _time(end),
        "state": "ok",
        # As in real objects, it is sometimes wrong.
        "number_of_flow_logs": rows if rng.random() < 0.9 else max(rows - 1, 0),
        "flow_logs": [_entry(rng, start) for _ in range(rows)],
    }
    key = (
        f"ibm_vpc_flowlogs_v1/account={ACCOUNT}/region=us-south"
        f"/vpc-id={_quoted(_crn('vpc', vpc))}"
        f"/subnet-id={_quoted(_crn('subnet', subnet, 'us-south-1'))}"
        f"/endpoint-type=vnics/instance-id={_quoted(_crn('instance', instance, 'us-south-1'))}"
        f"/vnic-id={vnic}/record-type={('ingress', 'egress', 'internal')[interface % 3]}"
        f"/year={end:%Y}/month={end:%m}/day={end:%d}/hour={end:%H}"
        f"/stream-id={start:%Y%m%dT%H%M%SZ}/{number:08}.gz"
    )
    text = json.dumps(document, separators=(",", ":"))
    return FlowLogObject(key, gzip.compress(text.encode(), 6, mtime=0), rows, document)


def _quoted(crn: str) -> str:
    return quote(crn, safe="")


def _entry(rng: random.Random, start: datetime) -> dict[str, Any]:
    begun = start + timedelta(seconds=rng.randrange(200))
    ended = begun + timedelta(seconds=rng.randrange(100))
    irregular = rng.random() < 0.02
    sent, answered = rng.randrange(60, 90_000), rng.randrange(90_000)
    sent_packets, answered_packets = sent // 700 + 1, answered // 700
    return {
        "start_time": "" if irregular else _time(begun),
        "end_time": "" if irregular else _time(ended),
        "connection_start_time": _time(begun),
        "direction": rng.choice("IO"),
        "action": "rejected" if rng.random() < 0.1 else "accepted",
        "initiator_ip": f"10.240.{rng.randrange(256)}.{rng.randrange(1, 255)}",
        "target_ip": f"10.240.{rng.randrange(256)}.{rng.randrange(1, 255)}",
        "initiator_port": rng.randrange(1024, 65536),
        "target_port": rng.choice((22, 53, 80, 123, 443, 3306, 5432, 8080)),
        "transport_protocol": rng.choice((6, 17)),
        "ether_type": "IPv4",
        "was_initiated": rng.random() < 0.8,
        "was_terminated": rng.random() < 0.5,
        "bytes_from_initiator": sent,
        "packets_from_initiator": sent_packets,
        "bytes_from_target": answered,
        "packets_from_target": answered_packets,
        "cumulative_bytes_from_initiator": sent * 2,
        "cumulative_packets_from_initiator": sent_packets * 2,
        "cumulative_bytes_from_target": answered * 2,
        "cumulative_packets_from_target": answered_packets * 2,
    }


def flow_log_objects(
    count: int, rows: int, seed: int = 0, newest: datetime | None = None
) -> Iterator[FlowLogObject]:
    """The last `count` objects of a few interfaces, newest first; all keys are different."""
    newest = newest or datetime.now(UTC)
    for index in range(count):
        step, interface = divmod(index, INTERFACES)
        end = newest - timedelta(minutes=5 * step)
        yield flow_log_object(seed, rows, end, interface, 10 + seed * 1000 + step)


def expected_lines(document: dict[str, Any], key: str) -> list[str]:
    """The lines of a document, exactly as in the contract, section 4."""
    top = {
        name: value
        for name, value in document.items()
        if name not in ("flow_logs", "number_of_flow_logs")
    }
    return [
        json.dumps(top | entry | {"_app": "FLCE"} | {"key": key}, separators=(",", ":"),
                   ensure_ascii=False)
        for entry in document["flow_logs"]
    ]  # fmt: skip
