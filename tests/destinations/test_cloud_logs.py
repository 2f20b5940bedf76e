"""IBM Cloud Logs: what its requests look like, and its limits."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from destinations.base import Added, Line, Source
from destinations.cloud_logs import CloudLogs
from logdna_synchronous import Delivery
from run.settings import read_settings
from standins.cloud_logs import LINE_LIMIT_BYTES
from standins.cloud_logs import CloudLogs as Service
from standins.faults import Answer
from standins.flowlogs import flow_log_objects
from tests.harness import BUCKET, PREFIX, SECRETS, Place, event, lines_of, services
from tests.run.test_settings import HMAC_WAY, IAM_WAY, faults
from tests.test_modes import put_in_order, run_worker

NOW = 1_795_500_000_000
HOUR = 60 * 60 * 1000
SETTINGS = {
    **{name: value for name, value in IAM_WAY.items() if not name.startswith("LOGDNA")},
    "LOG_DESTINATION": "cloud-logs",
    "CLOUD_LOGS_ENDPOINT": "guid.ingress.us-south.logs.cloud.ibm.com",
}


@pytest.fixture
def place() -> Iterator[Place]:
    with services("cloud-logs") as fresh:
        yield fresh


def element(line: Line, source: Source | None = None, **settings: str) -> dict[str, Any]:
    destination = CloudLogs("https://x", lambda: None, "app", **settings)  # type: ignore[arg-type, return-value]
    rendered: dict[str, Any] = json.loads(destination.renderer(source or Source(), NOW)(line))
    return rendered


# --- settings ------------------------------------------------------------------------------------


def test_what_must_be_set() -> None:
    destination = read_settings(SETTINGS).destination
    assert isinstance(destination, CloudLogs)
    assert destination.url == "https://guid.ingress.us-south.logs.cloud.ibm.com"
    assert (destination.application, destination.subsystem) == ("vpc-flow-logs", "")
    assert "the-api-key" not in repr(destination)
    assert "CLOUD_LOGS_ENDPOINT is not set" in faults({**SETTINGS, "CLOUD_LOGS_ENDPOINT": ""})
    assert (
        faults({**SETTINGS, "APIKEY": ""})
        == "APIKEY is not set, nor is a trusted profile (IAM_PROFILE_NAME)"
    )
    assert "LOG_DESTINATION must be one of" in faults({**SETTINGS, "LOG_DESTINATION": "syslog"})
    for name in ("CLOUD_LOGS_APPLICATION", "CLOUD_LOGS_SUBSYSTEM"):
        assert name in faults({**SETTINGS, name: "x" * 101})
        assert name in faults({**SETTINGS, name: "a\nb"})


def test_hmac_for_the_bucket_still_needs_the_api_key_for_the_token() -> None:
    hmac = {name: value for name, value in HMAC_WAY.items() if not name.startswith("LOGDNA")}
    cloud = {name: SETTINGS[name] for name in ("LOG_DESTINATION", "CLOUD_LOGS_ENDPOINT")}
    assert (
        faults({**hmac, **cloud})
        == "APIKEY is not set, nor is a trusted profile (IAM_PROFILE_NAME)"
    )
    read_settings({**hmac, **cloud, "APIKEY": "an-api-key"})


# --- elements ------------------------------------------------------------------------------------


def test_an_element() -> None:
    source = Source("r006-1", "0717-2")
    assert element(Line(b'{"a":"\xc3\xa9"}', NOW - 5), source) == {
        "applicationName": "app",
        "subsystemName": "r006-1",
        "computerName": "0717-2",
        "severity": 3,
        "timestamp": NOW - 5,
        "text": {"a": "é"},
    }
    assert element(Line(b"{}", rejected=True), source)["severity"] == 4
    assert element(Line(b"{}"), source, subsystem="mine")["subsystemName"] == "mine"


def test_an_object_that_names_no_vpc_and_no_interface() -> None:
    unknown = element(Line(b"{}"))
    assert unknown["subsystemName"] == "unknown"
    assert "computerName" not in unknown


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (NOW - 23 * HOUR, NOW - 23 * HOUR),
        (NOW - 24 * HOUR, NOW),
        (NOW - 25 * HOUR, NOW),
        (NOW + 3 * HOUR, NOW + 3 * HOUR),
        (NOW + 4 * HOUR, NOW),
        (NOW + 5 * HOUR, NOW),
        (None, NOW),
    ],
)
def test_a_time_that_the_service_would_not_accept_is_the_time_of_sending(
    time: int | None, expected: int
) -> None:
    assert element(Line(b"{}", time))["timestamp"] == expected


# --- the job -------------------------------------------------------------------------------------


def service_of(place: Place) -> Service:
    assert isinstance(place.ingestion, Service)
    return place.ingestion


def test_everything_arrives_once_and_nothing_is_dropped(place: Place) -> None:
    """With flows of every age: the service drops those that are too old or too new."""
    items = list(flow_log_objects(400, 3))  # 20 interfaces, 5 minutes each: the last 100 minutes
    old = list(flow_log_objects(3, 3, seed=1, newest=_days_ago(3)))
    expected = place.put(*items, *old)
    result = place.run()
    assert result.code == 0, result.log
    assert place.received() == expected
    assert service_of(place).dropped == []
    assert all("content-encoding" not in r.headers for r in place.ingestion.requests)
    assert all(len(r.body) <= 2_000_000 for r in place.ingestion.requests)
    vpc = items[0].document["vpc_crn"].split(":")[-1]
    assert {line["subsystemName"] for line in place.ingestion.received} == {vpc}
    assert len(place.iam.requests) == 1, "one token for the bucket and for the logs"


def _days_ago(days: int) -> Any:
    from datetime import UTC, datetime, timedelta

    return datetime.now(UTC) - timedelta(days=days)


def test_an_event_in_each_mode(place: Place) -> None:
    for number, mode in enumerate(("simple", "remember")):
        (item,) = flow_log_objects(1, 3, seed=number)
        expected = place.received() + place.put(item)
        result = place.run(FLOWLOG_MODE=mode, CE_DATA=event(item.key))
        assert result.code == 0, result.log
        assert place.received() == expected


def test_a_catch_up(place: Place) -> None:
    items = list(flow_log_objects(6, 3))
    put_in_order(place, items)
    for data in ("", event(items[0].key)):
        result = run_worker(place, CE_DATA=data)
        assert result.code == 0, result.log
    assert place.received() == lines_of(*items)
    assert len(place.iam.requests) == 2, "one token a run, for the bucket and for the logs"


def test_a_line_that_the_service_would_drop_is_refused_alone_and_named(place: Place) -> None:
    (item,) = flow_log_objects(1, 3)
    place.put(item)
    entries = [{"a": "x" * size} for size in (10, 40_000, 31_000)]
    body = gzip.compress(json.dumps({"flow_logs": entries}).encode())
    place.store.put(BUCKET, PREFIX + "long", body)
    result = place.run()
    assert result.code == 1
    assert result.failed().keys() == {PREFIX + "long"}
    assert "1 lines are over the service's limit" in result.failed()[PREFIX + "long"]
    texts = Counter(
        json.dumps({**entry, "_app": "FLCE", "key": PREFIX + "long"}, separators=(",", ":"))
        for entry in (entries[0], entries[2])
    )
    assert place.received() == lines_of(item) + texts
    assert service_of(place).dropped == []


@pytest.mark.parametrize(("over", "added"), [(0, Added(1)), (1, None)])
def test_the_limit_is_that_of_the_whole_element(over: int, added: Added | None) -> None:
    destination = CloudLogs("https://x", lambda: None, "a" * 100, "s" * 100)  # type: ignore[arg-type, return-value]
    around = len(destination.renderer(Source(), NOW)(Line(b"", NOW)))
    text = b"{" + b"x" * (LINE_LIMIT_BYTES - around + over - 1)
    delivery = Delivery(destination)
    taken = delivery.add(0, [Line(text, NOW)], Source())
    assert taken == added if added else "1 lines are over" in str(taken.refused)
    delivery.close()


def test_a_token_is_renewed_once_and_a_second_refusal_is_final(place: Place) -> None:
    expected = place.put(*flow_log_objects(3, 3))
    place.ingestion.script.next([Answer(401)])
    result = place.run()
    assert result.code == 0, result.log
    assert place.received() == expected
    assert len(place.iam.requests) == 2
    place.ingestion.script.always(Answer(401))
    refused = place.run()
    assert refused.code == 1
    assert "rejected the key (401); look at APIKEY" in refused.log
    assert "Sender" in refused.log


def test_a_token_with_a_short_life_is_renewed_in_time(place: Place) -> None:
    """Tokens are valid for two seconds; each answer waits until the first one has expired."""
    place.iam.lifetime = 2
    expected = place.put(*flow_log_objects(4, 900))

    def rule(_: object) -> None:
        first = place.iam.issued[0]
        while place.iam.is_valid(first):
            time.sleep(0.01)

    place.ingestion.script.rule(rule)
    result = place.run(FLOWLOG_CONCURRENCY="1")
    assert result.code == 0, result.log
    assert place.received() == expected
    assert len(place.iam.requests) >= 2


def test_a_wrong_api_key_is_named(place: Place) -> None:
    hmac = {"COS_HMAC_ACCESS_KEY_ID": "a", "COS_HMAC_SECRET_ACCESS_KEY": "an-hmac-secret"}
    place.put(*flow_log_objects(1, 1))
    place.store._iam = None  # any credentials will do for the bucket
    result = place.run(APIKEY="a-wrong-key", **hmac)
    assert result.code == 1
    assert "IAM refused the API key; look at APIKEY" in result.log
    assert place.ingestion.requests == []


def test_netrc_does_not_take_the_place_of_the_token(place: Place, tmp_path: Any) -> None:
    (tmp_path / ".netrc").write_text("default login somebody password else\n")
    (tmp_path / ".netrc").chmod(0o600)
    expected = place.put(*flow_log_objects(1, 1))
    result = place.run(HOME=str(tmp_path))
    assert result.code == 0, result.log
    assert place.received() == expected
    assert SECRETS["APIKEY"] not in result.log
