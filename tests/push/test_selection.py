"""Which fields a line has: what is accepted, in which order, and that later ones win."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from lib import Lines
from push.decoder import FlowLog
from push.filter import Filter
from push.selection import Fields, Selection, nearest, parse_fields
from tests.harness import short_name

KEY = "ibm_vpc_flowlogs_v1/a%3Ab"
FLOW_LOG = FlowLog({"vpc": "v", "state": "ok"}, [{"start": "s", "port": 22}, {"start": "t"}])


def texts(setting: str, flow_log: FlowLog = FLOW_LOG) -> list[str]:
    selection = Selection(parse_fields(setting))
    return [line.text.decode() for line in Lines(flow_log, KEY, selection)]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("port,start", ['{"port":22,"start":"s"}', '{"start":"t"}']),
        (" start , vpc ", ['{"start":"s","vpc":"v"}', '{"start":"t","vpc":"v"}']),
        ("vpc,start", ['{"vpc":"v","start":"s"}', '{"vpc":"v","start":"t"}']),
        ("_app,start,state", [f'{{"_app":"FLCE","start":"{x}","state":"ok"}}' for x in "st"]),
        ("start,vpc,port", ['{"start":"s","vpc":"v","port":22}', '{"start":"t","vpc":"v"}']),
        ("_object,_row", [f'{{"_object":"{short_name(KEY)}","_row":{n}}}' for n in (0, 1)]),
        ("_row", ['{"_row":0}', '{"_row":1}']),
        ("key", [f'{{"key":"{KEY}"}}'] * 2),
        ("port", ['{"port":22}', "{}"]),
        (
            "-vpc,-key,-port",
            [f'{{"state":"ok","start":"{x}","_app":"FLCE"}}' for x in "st"],
        ),
        ("-vpc,-state,-_app,-key", ['{"start":"s","port":22}', '{"start":"t"}']),
        ("-start,-port,-_app", [f'{{"vpc":"v","state":"ok","key":"{KEY}"}}'] * 2),
    ],
)
def test_the_fields_of_a_line(setting: str, expected: list[str]) -> None:
    assert texts(setting) == expected


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("start,-key", "mixes fields to keep with fields to drop"),
        ("start,,key", "a comma without a field name beside it"),
        ("start,", "a comma without a field name beside it"),
        ("-", "a comma without a field name beside it"),
        ("a,b,a", "names the field 'a' twice"),
    ],
)
def test_a_setting_that_makes_no_sense(setting: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        parse_fields(setting)


def test_fields_that_a_destination_adds_can_be_dropped() -> None:
    def extra(fields: Fields) -> frozenset[str]:
        return fields.with_default(("_object",)).extra

    assert extra(Fields()) == {"_object"}
    assert extra(parse_fields("-key")) == {"_object"}
    assert extra(parse_fields("-_object")) == set()
    assert extra(parse_fields("start")) == set(), "what is kept is named in full"
    assert extra(parse_fields("_row")) == {"_row"}


CODE = ("x'] or exit(9) or entry['", '"}\\\n{x!r}#')
"""Names of fields that must not be taken for a part of a program."""

names = st.sampled_from(["vpc", "start", "port", "key", "_app", "_object", "_row", "other", *CODE])
values = st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.text(max_size=3)
objects = st.dictionaries(names, values, max_size=5)


def expected_fields(
    merged: Mapping[str, Any], kept: list[str], dropped: list[str]
) -> list[tuple[str, Any]]:
    if kept:
        return [(name, merged[name]) for name in kept if name in merged]
    return [(name, value) for name, value in merged.items() if name not in dropped]


@settings(max_examples=600, deadline=None)
@given(
    objects,
    st.lists(objects, min_size=1, max_size=4),
    st.lists(names, unique=True, max_size=6),
    st.sampled_from(["all", "keep", "drop"]),
)
def test_any_fields_of_any_flow(
    fields: dict[str, Any], entries: list[dict[str, Any]], chosen: list[str], how: str
) -> None:
    """In their order, later ones winning, integers exact; numbers count all entries."""
    kept, dropped = chosen if how == "keep" else [], chosen if how == "drop" else []
    text = ",".join(kept) or ",".join(f"-{name}" for name in dropped)
    selection = Selection(parse_fields(text) if text else None)
    lines = Lines(FlowLog(fields, entries), KEY, selection)
    got = [json.loads(line.text, object_pairs_hook=list) for line in lines]
    shared = lines.source.fields
    for row, (pairs, entry) in enumerate(zip(got, entries, strict=True)):
        extra = {"_object": short_name(KEY), "_row": row}
        added = {"_app": "FLCE", "key": KEY}
        added |= {name: value for name, value in extra.items() if name in kept}
        merged = {**fields, **entry, **added}
        expected = expected_fields(merged, kept, dropped)
        assert [tuple(pair) for pair in pairs or []] == expected
        own = entry.keys() - added.keys() | {"_row"}
        assert {name: shared[name] for name in shared.keys() - own} == {
            name: value for name, value in expected if name not in own
        }, "what all lines share is the same for destinations that send it once"


def test_a_number_counts_the_entries_that_are_left_out_too() -> None:
    flow_log = FlowLog({}, [{"a": n} for n in (1, 2, 3, 2)])
    selection = Selection(parse_fields("a,_row"), Filter("a==`2`"))
    found = Lines(flow_log, KEY, selection)
    assert [json.loads(line.text) for line in found] == [{"a": 2, "_row": 1}, {"a": 2, "_row": 3}]
    assert found.filtered == 2


def test_a_field_that_no_flow_had_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    selection = Selection(parse_fields("start,prot,vcp,port,_app,_object,_row"))
    for _ in range(3):
        list(Lines(FLOW_LOG, KEY, selection))
    selection.warn_of_fields_not_met()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "'prot'" in said[0] and "nearest name is 'port'" in said[0]
    assert "'vcp'" in said[1] and "nearest name is 'vpc'" in said[1]


@pytest.mark.parametrize("where", [None, Filter("port==`1`")], ids=["all", "filtered"])
def test_a_field_that_one_flow_had_is_not_warned_about(
    caplog: pytest.LogCaptureFixture, where: Filter | None
) -> None:
    selection = Selection(parse_fields("-rare,-port"), where)
    entries: list[dict[str, Any]] = [{"port": 2}] * 50 + [{"port": 2, "rare": 1}]
    list(Lines(FlowLog({}, entries), KEY, selection))
    selection.warn_of_fields_not_met()
    assert caplog.records == []


def test_a_run_without_flows_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    selection = Selection(parse_fields("prot"))
    list(Lines(FlowLog({"a": 1}, []), KEY, selection))
    selection.warn_of_fields_not_met()
    assert caplog.records == []


def test_the_nearest_name() -> None:
    assert nearest("acton", ["target_ip", "action", "direction"]) == "action"
    assert nearest("x", []) == ""
