"""FLOWLOG_FIELDS and FLOWLOG_WHERE in whole runs, and every recipe of the cookbook."""

from __future__ import annotations

import gzip
import ipaddress
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lib import Lines
from push.decoder import FlowLog, decode
from run.settings import read_settings
from standins.flowlogs import FlowLogObject, expected_lines, flow_log_object, flow_log_objects
from tests.harness import (
    BUCKET,
    PREFIX,
    PROJECT,
    REAL,
    Place,
    event,
    lines_of,
    short_name,
    without_object,
)
from tests.run.test_settings import IAM_WAY, faults
from tests.test_modes import put_in_order, run_worker
from tests.test_tester import run as run_tester

REJECTED = "action=='rejected'"
OUTSIDE = ("198.51.100.7", "203.0.113.9")


@pytest.fixture
def objects() -> list[FlowLogObject]:
    return list(flow_log_objects(4, 30))[::-1]


def rejected(*items: FlowLogObject) -> list[str]:
    """The lines of the rejected flows."""
    texts = [text for item in items for text in expected_lines(item.document, item.key)]
    return sorted(text for text in texts if '"action":"rejected"' in text)


# --- whole runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["simple", "remember", "catch-up"])
def test_a_filter_in_each_mode(either: Place, objects: list[FlowLogObject], mode: str) -> None:
    put_in_order(either, objects)
    result = run_worker(either, FLOWLOG_MODE=mode, FLOWLOG_WHERE=REJECTED)
    assert result.code == 0, result.log
    assert sorted(either.received().elements()) == rejected(*objects)
    summary = result.summary
    assert (summary["objects"], summary["rows"]) == (4, 120)
    assert summary["lines_delivered"] == len(rejected(*objects)) == 120 - summary["filtered"]
    assert "WARNING" not in result.log


def test_an_object_of_which_nothing_is_sent_is_done(
    place: Place, objects: list[FlowLogObject]
) -> None:
    """Also for catch-up, which must not push it again."""
    put_in_order(place, objects)
    first = run_worker(place, FLOWLOG_WHERE="bytes_from_target < `0`")
    assert first.code == 0, first.log
    assert (first.summary["objects"], first.summary["filtered"]) == (4, 120)
    assert place.ingestion.requests == []
    # A change of the filter applies from the next run on, not to objects that are done.
    for data in ("", event(objects[0].key)):
        again = run_worker(place, CE_DATA=data)
        assert (again.code, again.summary["objects"]) == (0, 0), again.log
    assert place.ingestion.requests == []


def test_fields_of_each_destination(either: Place, objects: list[FlowLogObject]) -> None:
    either.put(objects[0])
    result = either.run(FLOWLOG_FIELDS="target_port,vpc_crn,start_time,_row")
    assert result.code == 0, result.log
    document = objects[0].document
    received = [json.loads(text) for text in either.ingestion.texts]
    by_otlp = either.environ.get("LOG_DESTINATION") == "otlp"
    for line in received if by_otlp else []:
        line.pop("_app")  # the stand-in's own
    assert received == [
        {
            "target_port": entry["target_port"],
            "vpc_crn": document["vpc_crn"],
            "start_time": entry["start_time"],
            "_row": row,
        }
        for row, entry in enumerate(document["flow_logs"])
    ]
    order = ["target_port", "vpc_crn", "start_time", "_row"]
    assert by_otlp or list(received[0]) == order, "attributes have no order"


def test_only_cloud_logs_has_the_object_s_short_name_until_it_is_taken_away(
    either: Place, objects: list[FlowLogObject]
) -> None:
    either.put(objects[0])
    in_cloud_logs = either.environ.get("LOG_DESTINATION") == "cloud-logs"
    for fields, there in (("", in_cloud_logs), ("-state", in_cloud_logs), ("-_object", False)):
        either.ingestion.received.clear()
        assert either.run(FLOWLOG_FIELDS=fields).code == 0
        found = [json.loads(text) for text in either.ingestion.texts]
        assert len(found) == 30
        assert all(("_object" in line) is there for line in found)
        assert all(line["_object"] == short_name(objects[0].key) for line in found if there)


def test_a_mistake_is_warned_about_and_loses_nothing(
    place: Place, objects: list[FlowLogObject]
) -> None:
    expected = place.put(*objects)
    result = place.run(FLOWLOG_WHERE="acton=='rejected'", FLOWLOG_FIELDS="-vpc_crm")
    assert result.code == 0, result.log
    assert place.received() == expected
    warnings = [line for line in result.log.splitlines() if "WARNING" in line]
    assert len(warnings) == 3, "at the start, at the first flow, and at the end"
    assert all("'acton'" in line and "'action'" in line for line in warnings[:2])
    assert "'vpc_crm'" in warnings[2] and "'vpc_crn'" in warnings[2]
    assert result.summary["filtered"] == 0


def test_faults_are_named_with_all_others_before_anything_is_sent(
    place: Place, objects: list[FlowLogObject]
) -> None:
    place.put(*objects)
    result = place.run(
        FLOWLOG_WHERE="cidr(initiator_ip, '10.0.0.0/64')", FLOWLOG_FIELDS="a,-b", LOG="loud"
    )
    assert result.code == 2
    assert "FLOWLOG_WHERE gives `cidr` an invalid network at character 20" in result.log
    assert "'10.0.0.0/64'" in result.log.partition("an invalid network")[2]
    assert "FLOWLOG_FIELDS mixes" in result.log
    assert "LOG must be" in result.log
    assert place.store.operations() == []
    assert faults({**IAM_WAY, "FLOWLOG_WHERE": "a ="}) == (
        "FLOWLOG_WHERE is not a valid JMESPath expression: at character 3, `=`: Unknown token '='"
    )


def test_jmespath_is_imported_only_for_a_filter() -> None:
    code = (
        "import sys, flowlog, run.settings as settings\n"
        f"settings.read_settings({IAM_WAY!r} | {{'FLOWLOG_FIELDS': 'action'}})\n"
        "assert 'jmespath' not in sys.modules\n"
        f"settings.read_settings({IAM_WAY!r} | {{'FLOWLOG_WHERE': 'action'}})\n"
        "assert 'jmespath' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_dry_run_shows_what_would_be_sent(
    either: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    put_in_order(either, objects)
    result = run_tester(either, tmp_path, "--all", "--dry-run", FLOWLOG_WHERE=REJECTED)
    assert result.code == 0, result.log
    shown = result.out.splitlines()
    if either.environ.get("LOG_DESTINATION") == "cloud-logs":
        shown = [without_object(text) for text in shown]
    assert sorted(shown) == rejected(*objects)
    assert result.summary["filtered"] == 120 - len(shown)
    assert either.ingestion.requests == []
    wrong = run_tester(either, tmp_path, "--all", "--dry-run", FLOWLOG_WHERE="action='x'")
    assert wrong.code == 2
    assert "at character 7" in wrong.log


def test_lines_that_wait_for_a_full_batch_do_not_hold_up_a_run(
    place: Place, objects: list[FlowLogObject]
) -> None:
    """The ledger has a limit: with more open objects the pending batch is sent."""
    only = objects[0].document["flow_logs"][0]
    many = list(flow_log_objects(40, 1, seed=3))
    put_in_order(place, [objects[0], *many])
    where = f"start_time=='{only['start_time']}' && bytes_from_initiator=="
    where += f"`{only['bytes_from_initiator']}`"
    code = (
        "import os, sys; sys.path.insert(0, '.')\n"
        "import flowlog; from push import loop; loop.OPEN_OBJECTS = 10\n"
        "sent = flowlog.Delivery.send\n"
        "flowlog.Delivery.send = lambda self: (print('sending'), sent(self))\n"
        "sys.exit(flowlog.run(os.environ))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PROJECT, env={**place.environ, "FLOWLOG_WHERE": where},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sum(place.received().values()) == 1
    assert done.stdout.count("sending") > 1


# --- the cookbook --------------------------------------------------------------------------------


def cookbook() -> dict[str, dict[str, str]]:
    """The settings of each recipe, by its heading."""
    page = (PROJECT / "docs" / "settings.md").read_text()
    (chapter,) = re.findall(r"^## Cookbook\n(.*?)(?=^## )", page, re.M | re.S)
    recipes = re.findall(r"^### (.+?)\n(.*?)(?=^### |\Z)", chapter, re.M | re.S)
    return {
        name: dict(
            line.split("=", 1)
            for block in re.findall(r"^```\n(.*?)^```$", text, re.M | re.S)
            for line in block.splitlines()
        )
        for name, text in recipes
    }


def real_looking() -> FlowLogObject:
    """A collector's object, with flows to addresses outside and health checks."""
    item = flow_log_object(5, 400, datetime.now(UTC))
    for number, entry in enumerate(item.document["flow_logs"]):
        if number % 3 == 0:
            entry["initiator_ip"] = OUTSIDE[number % 2]
        if number % 7 == 0:
            entry["target_ip"] = OUTSIDE[1]
        if number % 5 == 0:
            entry["target_port"] = 3389
        if number % 11 == 1:
            entry |= {"initiator_ip": "10.240.0.9", "target_port": 8080}
            entry["transport_protocol"] = 6
    body = gzip.compress(json.dumps(item.document).encode())
    return FlowLogObject(item.key, body, item.rows, item.document)


def inside(address: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network("10.0.0.0/8")


FLOWS: Mapping[str, Callable[[Mapping[str, Any]], bool]] = {
    "Only rejected flows": lambda flow: flow["action"] == "rejected",
    "Drop what stays inside 10.0.0.0/8": lambda flow: (
        not inside(flow["initiator_ip"]) or not inside(flow["target_ip"])
    ),
    "Only SSH and RDP from outside": lambda flow: (
        flow["target_port"] in (22, 3389) and not inside(flow["initiator_ip"])
    ),
    "Everything but health checks": lambda flow: (
        flow["target_port"] != 8080
        or flow["transport_protocol"] != 6
        or ipaddress.ip_address(flow["initiator_ip"]) not in ipaddress.ip_network("10.240.0.0/28")
    ),
}
FIELDS = {
    "The eight fields of a firewall log": (
        "start_time", "action", "direction", "initiator_ip", "initiator_port", "target_ip",
        "target_port", "transport_protocol",
    ),
    "The least that finds duplicates": ("_object", "_row"),
}  # fmt: skip


def test_every_recipe_is_tested() -> None:
    assert cookbook().keys() == FLOWS.keys() | FIELDS.keys()


def chosen(recipe: str, flow_log: FlowLog) -> list[dict[str, Any]]:
    settings = read_settings({**IAM_WAY, **cookbook()[recipe]})
    assert settings.warnings == ()
    found = Lines(flow_log, PREFIX, settings.selection)
    return [json.loads(line.text) for line in found]


@pytest.mark.parametrize("recipe", FLOWS)
def test_a_recipe_that_chooses_flows(recipe: str, caplog: pytest.LogCaptureFixture) -> None:
    item = real_looking()
    got = chosen(recipe, decode(item.body))
    flows = item.document["flow_logs"]
    expected = [flow for flow in flows if FLOWS[recipe](flow)]
    assert [{name: line[name] for name in flows[0]} for line in got] == expected
    assert 0 < len(expected) < len(flows)
    assert caplog.records == []


@pytest.mark.parametrize("recipe", FIELDS)
def test_a_recipe_that_chooses_fields(recipe: str, caplog: pytest.LogCaptureFixture) -> None:
    item = real_looking()
    got = chosen(recipe, decode(item.body))
    for row, (line, flow) in enumerate(zip(got, item.document["flow_logs"], strict=True)):
        own = {**flow, "_object": short_name(PREFIX), "_row": row}
        assert list(line.items()) == [(name, own[name]) for name in FIELDS[recipe]]
    assert len({json.dumps(line) for line in chosen("The least that finds duplicates",
                                                    decode(item.body))}) == 400  # fmt: skip
    assert caplog.records == []


@pytest.mark.skipif(not REAL.exists(), reason="the real object is not here")
@pytest.mark.parametrize("recipe", [*FLOWS, *FIELDS])
def test_every_recipe_on_the_real_object(recipe: str, caplog: pytest.LogCaptureFixture) -> None:
    flow_log = decode(REAL.read_bytes())
    got = chosen(recipe, flow_log)
    entries = list(flow_log.entries)
    expected = [entry for entry in entries if FLOWS.get(recipe, lambda _: True)(entry)]
    assert len(got) == len(expected)
    assert caplog.records == []


def test_a_whole_run_by_a_recipe(place: Place) -> None:
    item = real_looking()
    place.store.put(BUCKET, item.key, item.body)
    result = place.run(**cookbook()["Drop what stays inside 10.0.0.0/8"])
    assert result.code == 0, result.log
    assert 0 < sum(place.received().values()) == 400 - result.summary["filtered"] < 400
    assert place.received() - lines_of(item) == {}
