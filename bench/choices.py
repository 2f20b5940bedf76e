"""What FLOWLOG_FIELDS and FLOWLOG_WHERE save: time, bytes, and what a day comes to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bench.measure import JOB, NONE, Contender, Median, inside, services, side_by_side
from bench.parts import Part, Row, Scale, seconds

EIGHT_FIELDS = {
    "FLOWLOG_FIELDS": "start_time,action,direction,initiator_ip,initiator_port,target_ip,"
    "target_port,transport_protocol"
}
A_TENTH = {"FLOWLOG_WHERE": "action=='rejected'"}
NEARLY_ALL = {
    "FLOWLOG_WHERE": "!(cidr(initiator_ip, '10.240.0.0/20') && cidr(target_ip, '10.240.0.0/20'))"
}
ALL = "all fields of all flows"
CHOICES: Sequence[tuple[str, Mapping[str, str], float | None]] = (
    (ALL, {}, None),
    ("eight fields", EIGHT_FIELDS, 0.7),
    ("action=='rejected', a tenth of the flows", A_TENTH, 0.8),
    ("a filter with cidr that keeps nearly all", NEARLY_ALL, 1.3),
    ("eight fields of a tenth of the flows", {**EIGHT_FIELDS, **A_TENTH}, None),
)
"""What is measured side by side, and the goal for its time, as a share of the first one's."""

SERVICES = (("LogDNA", {}), ("IBM Cloud Logs", {"LOG_DESTINATION": "cloud-logs"}))

FLOWS_A_DAY = 100 * 1000 * 12 * 24
"""Of a VPC with 100 interfaces, each with 1,000 flows in five minutes."""


def choices(scale: Scale) -> Part:
    """W2 with FLOWLOG_FIELDS and FLOWLOG_WHERE: time, bytes, and what a day comes to."""
    rows = []
    with services(scale.w2) as where:
        for service, destination in SERVICES:
            found = side_by_side(
                where,
                NONE,
                {
                    name: Contender(JOB, {**destination, **settings}, scale.times)
                    for name, settings, _ in CHOICES
                },
            )
            for name, settings, goal in CHOICES:
                size = _size(scale, {**destination, **settings}, found[name].runs[0].summary)
                what = f"W2 to {service}, {name}"
                rows.append(_beside_all(what, found[ALL], found[name], size, goal))
    return Part(rows)


def _beside_all(what: str, whole: Median, chosen: Median, size: str, goal: float | None) -> Row:
    share = chosen.cpu / whole.cpu
    ratio = f"{share:.2f} of the CPU, {chosen.wall / whole.wall:.2f} of the time; {size}"
    return Row(
        f"{what}: CPU",
        seconds(whole.cpu),
        seconds(chosen.cpu),
        ratio,
        f"at most {goal}" if goal else "",
        share <= goal if goal else None,
    )


def _size(scale: Scale, settings: Mapping[str, str], summary: Mapping[str, Any]) -> str:
    """Bytes of a line, bytes on the wire, and gigabytes of a day."""
    rest = dict(settings)
    service = rest.pop("LOG_DESTINATION", "logdna")
    size = inside("line-bytes", service, scale.w2.rows, json.dumps(rest))["bytes"]
    a_day = FLOWS_A_DAY * summary["lines_delivered"] / summary["rows"] * size / 1e9
    sent = summary["bytes_sent"] / 1e6
    return f"{size:,.0f} bytes a line, {sent:,.1f} MB on the wire, {a_day:.2f} GB a day"
