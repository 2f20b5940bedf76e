"""Parses `CE_DATA`: the event that Code Engine started the run for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from lib import Event, Operation
from run.environment import parse_bucket, parse_key

TIMER = "dev.knative.sources.ping"
"""`CE_TYPE` of a run that a cron subscription started (Code Engine docs, "Subscriptions")."""

CE_DATA_LIMIT_BYTES = 64 * 1024
"""A key has at most 1,024 bytes, so no event of Code Engine is longer than this."""


def parse_event(text: str, ce_type: str = "") -> Event:
    """Read CE_DATA (Code Engine docs, "Object Storage event producer"); contract, section 3.

    `ce_type` (`com.ibm.cloud.cos.document.write` or `.delete`) is used if the data itself names no
    operation. Raises ValueError.
    """
    if len(text) > CE_DATA_LIMIT_BYTES:
        raise ValueError(f"is longer than {CE_DATA_LIMIT_BYTES} bytes")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(data, dict):
        raise ValueError("is not a JSON object")
    faults: list[str] = []
    key = _event_field(data, "key", parse_key, faults)
    bucket = _event_field(data, "bucket", parse_bucket, faults) if data.get("bucket") else ""
    operation = _event_operation(data, ce_type, faults)
    if faults:
        raise ValueError("; ".join(faults))
    return Event(key, bucket, operation)


def _event_field(
    data: Mapping[str, object], name: str, parse: Callable[[str], str], faults: list[str]
) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        faults.append(f"has no text `{name}`")
        return ""
    try:
        return parse(value)
    except ValueError as error:
        faults.append(f"`{name}` {error}")
        return ""


def _event_operation(data: Mapping[str, object], ce_type: str, faults: list[str]) -> Operation:
    name = data.get("operation")
    notification = data.get("notification")
    if not name and isinstance(notification, dict):
        name = notification.get("event_type")
    name = name or ce_type or Operation.WRITE.value
    # Code Engine's own type, or COS's, which may have a suffix ("Object:Write:Post").
    found = re.fullmatch(
        r"(?:object:|com\.ibm\.cloud\.cos\.document\.)(write|delete)(?:[:.].*)?",
        str(name),
        re.IGNORECASE,
    )
    if not found:
        faults.append("`operation` is neither Object:Write nor Object:Delete")
        return Operation.WRITE
    return Operation[found[1].upper()]
