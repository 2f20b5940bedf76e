"""The texts of entries, cut out of a document, against what the renderer makes of them."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import orjson
import pytest
from hypothesis import given, settings

from destinations.block import BETWEEN
from push.encoder import render
from push.flat import flat_entries
from standins.flowlogs import flow_log_objects

NAMES = st.sampled_from(["a", "b", "start_time", "key", "é", ":", '"', "x}", "{", "[", " "])
TEXTS = st.text(st.sampled_from(list('ab:,{}[]"\\ é\n\x7f\u2028')), max_size=4)
SCALARS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.booleans(), st.none(), TEXTS, st.just(-0), st.just(0)
)
VALUES = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(NAMES, SCALARS, max_size=2)
)
ENTRIES = st.lists(
    st.dictionaries(NAMES, st.one_of(SCALARS, SCALARS, VALUES), max_size=3), max_size=4
)


def compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def check(text: bytes) -> list[bytes] | None:
    """The texts, which must be what the renderer writes of the same entries."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("flow_logs"), list):
        return None
    entries = document["flow_logs"]
    if not all(isinstance(entry, dict) for entry in entries):
        return None
    flat = flat_entries(text, len(document), entries)
    texts = None if flat is None else flat.split(BETWEEN)
    if texts is not None:
        assert texts == [render(entry)[1:-1] for entry in entries]
    return texts


@settings(max_examples=1000)
@given(before=st.dictionaries(NAMES, SCALARS, max_size=2), entries=ENTRIES,
       after=st.dictionaries(NAMES, SCALARS, max_size=2))  # fmt: skip
def test_texts_are_what_the_renderer_writes(
    before: dict[str, Any], entries: list[dict[str, Any]], after: dict[str, Any]
) -> None:
    check(compact({**before, "flow_logs": entries, **after}))


FLAT = b'{"v":"1","flow_logs":[{"a":1,"b":"x"},{"a":2,"b":"y"}],"w":null}'


NOISE = ["", "{", "}", "[", "]", '"', ",", ":", "\\", " ", "-", "0", "},{", '"a":1,', "{}"]


@settings(max_examples=1000)
@given(st.integers(0, len(FLAT)), st.sampled_from(NOISE).map(str.encode), st.integers(0, 3))
def test_a_damaged_document_never_gives_other_texts(at: int, noise: bytes, cut: int) -> None:
    check(FLAT[:at] + noise + FLAT[at + cut :])


@pytest.mark.parametrize(
    "text",
    [
        b'{"flow_logs":[]}',
        b'{"flow_logs":[{}]}',
        b'{"flow_logs":[{"a":1},{},{"a":1}]}',
        b'{"flow_logs":[{"a":1,"a":2}]}',
        b'{"flow_logs":[{"a":-0}]}',
        b'{"flow_logs":[{"a":"x y"}]}',
        b'{"flow_logs":[{"a":"\\u0041"}]}',
        b'{"flow_logs":[{"a":{"b":1}}]}',
        b'{"flow_logs":[{"a":[1]}]}',
        b'{"flow_logs":[{"a":"}]"}],"b":1}',
        b'{"flow_logs":[{"a":"},{"}]}',
        b'{"flow_logs":[{"a":1}],"flow_logs":[{"a":2}]}',
    ],
)
def test_what_is_not_flat_is_left_to_the_renderer(text: bytes) -> None:
    assert check(text) is None


def test_flow_logs_as_collectors_write_them_are_flat() -> None:
    for item in flow_log_objects(3, 20):
        assert len(check(compact(item.document)) or ()) == 20
    assert check(FLAT) == [b'"a":1,"b":"x"', b'"a":2,"b":"y"']


def test_a_fraction_keeps_its_spelling() -> None:
    text = b'{"flow_logs":[{"a":1.50}]}'
    assert flat_entries(text, 1, [{"a": 1.5}]) == b'"a":1.50'
