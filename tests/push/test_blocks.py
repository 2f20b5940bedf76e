"""Lines that are rendered all at once, against the same lines one by one."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from connections.iam import tokens_for
from destinations import intake
from destinations.base import Destination
from destinations.batch import Batch, Packer
from destinations.block import Block
from destinations.cloud_logs import CloudLogs
from destinations.intake import add_block, add_lines
from lib import Lines, lines_of
from logdna_synchronous import LogDNA
from push.decoder import Unreadable
from push.filter import Filter
from push.selection import Fields, Selection, parse_fields
from standins.flowlogs import flow_log_objects
from tests.harness import NIGHTLY

KEY = "ibm_vpc_flowlogs_v1/é"
DESTINATIONS = [
    LogDNA("http://x", "the-ingestion-key"),
    CloudLogs("http://x", tokens_for("the-api-key", "http://x"), "application"),
]
TEXTS = st.text(st.sampled_from('aé:-0 "\\{},[]\n'), max_size=3)
ENTRIES = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "action", "end_time", "key"]), TEXTS, max_size=4),
    max_size=12,
)


@pytest.fixture(autouse=True, scope="module")
def clock() -> Iterator[None]:
    """Stands still: flows without a time of their own bear the time of sending."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "_now", lambda: 1_700_000_000_000)
        yield


def selection_of(fields: str, where: str | None = None) -> Selection:
    """What these settings select; empty or None: all."""
    chosen = parse_fields(fields) if fields else Fields()
    return Selection(chosen, Filter(where) if where else None)


def batches(
    destination: Destination, limit: int, add: Callable[[Packer, Callable[[Batch], bool]], object]
) -> list[Batch]:
    packer, full = Packer(destination, limit), list[Batch]()
    add(packer, lambda batch: full.append(batch) or True)
    rest = packer.take()
    return [*full, *([rest] if rest else [])]


def check(lines: Lines, destination: Destination, limit: int) -> bool:
    """Both ways must give the same batches; whether the fast one was taken."""
    block = lines.block()
    filtered = lines.filtered
    if block is None:
        return False
    source = lines.source
    fast = batches(destination, limit, lambda p, full: add_block(p, 7, block, source, full))
    slow = batches(destination, limit, lambda p, full: add_lines(p, 7, lines, source, full))
    assert [bytes(batch.content) for batch in fast] == [bytes(batch.content) for batch in slow]
    for one, other in zip(fast, slow, strict=True):
        assert (one.ends, one.owners, one.firsts) == (other.ends, other.owners, other.firsts)
    assert filtered == lines.filtered
    return True


@pytest.mark.parametrize("destination", DESTINATIONS, ids=["logdna", "cloud-logs"])
@given(entries=ENTRIES, limit=st.sampled_from([300, 1_000, 100_000]))
def test_a_block_is_its_lines(
    destination: Destination, entries: list[dict[str, Any]], limit: int
) -> None:
    document = {"vpc_crn": "crn:1", "flow_logs": entries, "capture_end_time": "x"}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    for fields in ("", "-b", "-_app,-capture_end_time", "a", "b,a,vpc_crn", "_object,a"):
        check(lines_of(selection_of(fields), text, KEY), destination, limit)


NOISE = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"},{", b"{}", b'"a":1,', b"1.50", b"-0", b"1e3",
    b"9" * 20, b"null", b" ", b"\\", b"\xff", "é".encode(), b'"key":', b'"flow_logs":[{',
]  # fmt: skip


@given(
    item=st.sampled_from([item.body for item in flow_log_objects(3, 5)]),
    cuts=st.lists(
        st.tuples(st.integers(0, 5_000), st.integers(0, 3), st.sampled_from(NOISE)),
        min_size=1,
        max_size=3,
    ),
    where=st.sampled_from([None, "action=='rejected'", "target_port!=`443`"]),
    fields=st.sampled_from(["", "action,target_port", "-action"]),
)
@settings(max_examples=20_000 if NIGHTLY else 500, deadline=None)
def test_a_block_of_a_damaged_document_is_its_lines(
    item: bytes, cuts: list[tuple[int, int, bytes]], where: str | None, fields: str
) -> None:
    """Also where it can still be read: a field twice, an entry without a field, any number."""
    text = gzip.decompress(item)
    for at, width, noise in cuts:
        at %= len(text)
        text = text[:at] + noise + text[at + width :]
    with suppress(Unreadable):
        lines = lines_of(selection_of(fields, where), text, KEY)
        block = lines.block()
        if block is not None:
            check_equal(block, lines)


def check_equal(block: Block, lines: Lines) -> None:
    """The lines are the same, but for the spelling of numbers."""
    packer = Packer(DESTINATIONS[0], 1_000_000)
    if add_block(packer, 7, block, lines.source, lambda _: True) is None:
        return
    batch = packer.take()
    fast = json.loads(b"[%b]" % batch.content) if batch else []
    found = [json.loads(element["line"]) for element in fast]
    assert found == [json.loads(line.text) for line in lines]
    assert [list(line) for line in found] == [list(json.loads(line.text)) for line in lines]


@pytest.mark.parametrize("fields", ["", "n,s"])
@pytest.mark.parametrize("where", [None, "s=='x'", "n==`100000000000000000001`"])
def test_an_integer_of_any_size_is_exact(fields: str, where: str | None) -> None:
    text = b'{"flow_logs":[{"n":100000000000000000001,"s":"x"},{"n":1,"s":"y"}]}'
    lines = lines_of(selection_of(fields, where), text, KEY)
    assert b"100000000000000000001" in next(iter(lines)).text
    block = lines.block()
    if block is not None:
        check_equal(block, lines)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"flow_logs":[{"a":"1"}],"flow_logs":[]}', []),
        ('{"flow_logs":[{"a":"1"}],"flow_logs":[{"a":"2"}]}', ["2"]),
        ('{"x":[{"flow_logs":[{"a":"1"}]}],"flow_logs":[]}', []),
        ('{"x":{"flow_logs":[{"a":"1"}]},"flow_logs":[{"a":"2"}]}', ["2"]),
        ('{"flow_logs":[{"a":"2","b":"}]"}]}', ["2"]),
        ('{"flow_logs":[{"a":"2","b":"},{"}]}', ["2"]),
        ('{"flow_logs":[{"a":"1"},"x",{"a":"2"}]}', None),
        ('{"flow_logs":[{"a":"1"},5,{"a":"2"}]}', None),
        ('{"flow_logs":[{"a":"1"9]}', None),
        ('{"flow_logs":[{"a":"1"}', None),
    ],
)
@pytest.mark.parametrize("fields", ["", "a,b"])
@pytest.mark.parametrize("where", [None, "a!='3'"])
def test_what_looks_like_the_entries_and_is_not(
    text: str, found: list[str] | None, fields: str, where: str | None
) -> None:
    block = texts = None
    with suppress(Unreadable):
        lines = lines_of(selection_of(fields, where), text.encode(), KEY)
        block = lines.block()
        texts = [json.loads(line.text)["a"] for line in lines]
    assert texts == found
    assert block is None or [json.loads(b"{%b}" % own)["a"] for own in block.own] == found


@pytest.mark.parametrize("destination", DESTINATIONS, ids=["logdna", "cloud-logs"])
@pytest.mark.parametrize("where", [None, "action=='rejected'", "target_port!=`443`"])
def test_real_looking_objects_take_the_fast_way(
    destination: Destination, where: str | None
) -> None:
    for item in flow_log_objects(3, 700):
        lines = lines_of(selection_of("", where), item.body, item.key)
        assert check(lines, destination, 200_000)


@pytest.mark.parametrize("destination", DESTINATIONS, ids=["logdna", "cloud-logs"])
def test_chosen_fields_are_rendered_at_once(destination: Destination) -> None:
    item = next(iter(flow_log_objects(1, 500)))
    for fields in ("action,target_port", "key,action,vpc_crn", "_object,start_time"):
        selection = Selection(parse_fields(fields))
        assert check(lines_of(selection, item.body, item.key), destination, 100_000) or (
            fields.startswith("key")
        )


def test_what_differs_in_more_than_one_piece_is_rendered_line_by_line() -> None:
    item = next(iter(flow_log_objects(1, 5)))
    for fields in ("_row", "action,key,target_port", "not_there"):
        assert lines_of(Selection(parse_fields(fields)), item.body, item.key).block() is None
    for text in (
        b'{"flow_logs":[{}]}',
        b'{"flow_logs":[{"a":1},{}]}',
        b'{"flow_logs":[{"a":99999999999999999999},{"a": 1}]}',
        b'{"flow_logs":[{"a":1,"a":2}]}',
        b'{"flow_logs":[{"a":"},{"}]}',
        b'{"flow_logs":[{"key":1}]}',
        b'{"flow_logs":[{"end_time":[1]}]}',
        b'{"key":1,"flow_logs":[{"a":1}]}',
    ):
        assert lines_of(Selection(), text, KEY).block() is None, text


@pytest.mark.parametrize(
    "text", [b"x" * 17_000, b"},{"], ids=["one that may be too long", "one with a separator in it"]
)
def test_such_a_line_is_added_by_itself(text: bytes) -> None:
    lines = lines_of(Selection(), b'{"flow_logs": [{"a":"%b"}]}' % text, KEY)
    block = lines.block()
    assert block
    packer = Packer(DESTINATIONS[0], 1_000_000)
    assert add_block(packer, 1, block, lines.source, lambda _: True) is None
    assert packer.take() is None
    assert add_lines(packer, 1, lines, lines.source, lambda _: True).lines == 1
