"""Objects and lines: contract, section 4, and which objects are refused (section 6)."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from bucket.listing import ObjectRef
from destinations.base import Line, Source
from lib import Lines, Shard, milliseconds, source_of
from logdna_synchronous import LogDNA
from push.decoder import FlowLog, Unreadable, decode, unpack

REAL = Path(__file__).parents[2] / "shared" / "data" / "real-2020-06-04.gz"
NOW = 1_795_500_000_000
"""2026-11-24T06:00:00Z"""


def packed(document: object) -> bytes:
    return gzip.compress(json.dumps(document).encode())


def texts(document: object, key: str = "k") -> list[str]:
    return [line.text.decode() for line in Lines(decode(packed(document)), key)]


def sent(flow_log: FlowLog, now: int = NOW) -> list[dict[str, Any]]:
    """The lines as the log service gets them."""
    render = LogDNA("http://x", "key").renderer(source_of(flow_log), now)
    return [json.loads(render(line)) for line in Lines(flow_log, "k")]


# --- what a line says ----------------------------------------------------------------------------


def test_a_line_is_fields_then_entry_then_app_then_key() -> None:
    document = {"a": 1, "number_of_flow_logs": 9, "flow_logs": [{"b": [1, {"c": None}]}], "z": "é"}
    assert texts(document, "k%3A é") == [
        '{"a":1,"z":"é","b":[1,{"c":null}],"_app":"FLCE","key":"k%3A é"}'
    ]


def test_later_fields_win() -> None:
    document = {"a": "object", "key": "object", "flow_logs": [{"a": "entry", "_app": "x"}]}
    assert json.loads(texts(document)[0]) == {"a": "entry", "key": "k", "_app": "FLCE"}


def test_an_object_without_entries_gives_no_line() -> None:
    assert texts({"a": 1, "flow_logs": []}) == []


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**40, 2**53 + 1, 1.5, -0.0, 1])
def test_numbers_stay_what_they_are(number: float) -> None:
    (text,) = texts({"flow_logs": [{"a": number}]})
    assert text == f'{{"a":{number},"_app":"FLCE","key":"k"}}'


def test_what_orjson_refuses_is_written_all_the_same() -> None:
    deep: Any = 1
    for _ in range(300):
        deep = [deep]
    assert json.loads(texts({"flow_logs": [{"a": deep}]})[0])["a"] == deep


@pytest.mark.parametrize("depth", [*range(240, 270), *range(300, 1000, 5)])
def test_what_can_be_read_can_be_written_or_is_refused(depth: int) -> None:
    content = b'{"flow_logs":[{"a":' + b"[" * depth + b"]" * depth + b"}]}"
    try:
        (line,) = Lines(decode(content), "k")
        assert line.text.count(b"[") == depth
    except Unreadable as error:
        assert "bad JSON" in str(error)


def test_a_lone_surrogate_stays_an_escape() -> None:
    assert texts({"flow_logs": [{"a": "\ud800é"}]}) == [
        '{"a":"\\ud800\\u00e9","_app":"FLCE","key":"k"}'
    ]


@pytest.mark.skipif(not REAL.exists(), reason="the real object is not here")
def test_the_real_object() -> None:
    document: dict[str, Any] = json.loads(gzip.decompress(REAL.read_bytes()))
    entries = document.pop("flow_logs")
    del document["number_of_flow_logs"]
    flow_log = decode(REAL.read_bytes())
    got = sent(flow_log)
    assert [line["line"] for line in got] == [
        json.dumps({**document, **entry, "_app": "FLCE", "key": "k"}, separators=(",", ":"))
        for entry in entries
    ]
    assert len(got) == 2, "number_of_flow_logs says 1"
    assert [line["timestamp"] for line in got] == [NOW, NOW], "it is years old"
    assert [line["level"] for line in got] == ["INFO", "INFO"]
    assert source_of(flow_log).interface_id == document["network_interface_id"]


@pytest.mark.parametrize(
    ("action", "level"),
    [("rejected", "WARN"), ("accepted", "INFO"), ("Rejected", "INFO"), (None, "INFO"), (7, "INFO")],
)
def test_level(action: object, level: str) -> None:
    flow_log = decode(packed({"action": "rejected", "flow_logs": [{"action": action}, {}]}))
    assert [line["level"] for line in sent(flow_log)] == [level, "INFO"]


@pytest.mark.parametrize(
    ("entry", "fields", "expected"),
    [
        ({"end_time": "2026-11-24T05:00:00Z"}, {}, NOW - 3_600_000),
        ({"end_time": "2026-11-24T05:00:00"}, {}, NOW - 3_600_000),
        ({"end_time": "2026-11-24T05:00:00.250Z"}, {}, NOW - 3_600_000 + 250),
        ({"end_time": "2026-11-24T07:00:00+02:00"}, {}, NOW - 3_600_000),
        ({"end_time": ""}, {"capture_end_time": "2026-11-24T05:59:59Z"}, NOW - 1000),
        ({}, {"capture_end_time": "2026-11-24T05:59:59Z"}, NOW - 1000),
        ({"end_time": ""}, {"capture_end_time": ""}, NOW),
        ({}, {}, NOW),
        ({"end_time": "2026-11-23T06:00:00Z"}, {}, NOW - 86_400_000),
        ({"end_time": "2026-11-23T05:59:59Z"}, {}, NOW),
        ({"end_time": "2026-11-25T06:00:00Z"}, {}, NOW + 86_400_000),
        ({"end_time": "2026-11-25T06:00:01Z"}, {}, NOW),
    ],
)
def test_which_time_a_line_bears(
    entry: dict[str, str], fields: dict[str, str], expected: int
) -> None:
    flow_log = decode(packed({**fields, "flow_logs": [entry]}))
    assert [line["timestamp"] for line in sent(flow_log)] == [expected]


@pytest.mark.parametrize(
    "text", ["soon", "2026-13-01T00:00:00Z", None, 7, ["x"], {}, True, "0001-01-01T00:00:00+23:00"]
)
def test_an_unusable_time_is_now(text: object) -> None:
    assert LogDNA("http://x", "key").timestamp(Line(b"", milliseconds(text)), NOW) == NOW


@pytest.mark.parametrize(
    ("fields", "source"),
    [
        (
            {"vpc_crn": "crn:v1:bluemix:public:is:us-south:a/1::vpc:r006-8a", "x": 1},
            Source("r006-8a", ""),
        ),
        ({"vpc_crn": "r006", "network_interface_id": "0717"}, Source("r006", "0717")),
        ({"vpc_crn": 7, "network_interface_id": None}, Source()),
        ({}, Source()),
    ],
)
def test_where_flows_come_from(fields: dict[str, Any], source: Source) -> None:
    assert source_of(FlowLog(fields, [])) == source


# --- which objects are refused -------------------------------------------------------------------

GOOD = b'{"a":1,"flow_logs":[{"b":2}]}'
PACKED = gzip.compress(GOOD, mtime=0)


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        b"\xef\xbb\xbf" + GOOD,
        b"  \n" + GOOD,
        PACKED,
        gzip.compress(GOOD[:9]) + gzip.compress(GOOD[9:]),
        PACKED + b"\0\0\0",
    ],
    ids=["plain", "bom", "space", "gzip", "two members", "padding"],
)
def test_accepted_forms(content: bytes) -> None:
    flow_log = decode(content)
    assert (flow_log.fields, list(flow_log.entries)) == ({"a": 1}, [{"b": 2}])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "bad JSON"),
        (b"\x1f\x8b", "bad gzip"),
        (PACKED[:-1], "bad gzip"),
        (PACKED[:12], "bad gzip"),
        (PACKED[:-8] + b"\0" * 8, "bad gzip"),
        (PACKED + b"garbage", "bad gzip"),
        (PACKED[:10] + b"\xff" * 20, "bad gzip"),
        (GOOD[:-1], "bad JSON"),
        (GOOD + b"x", "bad JSON"),
        (b'{"flow_logs":[{"a":"\xff"}]}', "bad JSON"),
        (b'{"flow_logs":[{"a":NaN}]}', "bad JSON"),
        (b'{"flow_logs":[{"a":-Infinity}]}', "bad JSON"),
        (b'{"flow_logs":[{"a":1e999}]}', "bad JSON"),
        (b'{"flow_logs":[' + b"[" * 100_000, "bad JSON"),
        (b'{"flow_logs":[{"a":' + b"9" * 5_000 + b"}]}", "bad JSON"),
        (b"[1]", "not a flow log"),
        (b"null", "not a flow log"),
        (b'{"a":1}', "not a flow log"),
        (b'{"flow_logs":null}', "not a flow log"),
        (b'{"flow_logs":"x"}', "not a flow log"),
        (b'{"flow_logs":{}}', "not a flow log"),
        (b'{"flow_logs":[1]}', "not a flow log"),
        (b'{"flow_logs":[{},null]}', "not a flow log"),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else None,
)
def test_refused_objects(content: bytes, reason: str) -> None:
    """Before any line of them goes out."""
    with pytest.raises(Unreadable, match=reason):
        next(iter(Lines(decode(content), "k")))


def test_the_limit_holds_for_gzip_and_for_plain_text() -> None:
    for content in (gzip.compress(b"x" * 100), b"x" * 100):
        assert b"".join(unpack(content, limit=100)) == b"x" * 100
    for content in (gzip.compress(b"x" * 101), b"x" * 101):
        with pytest.raises(Unreadable, match="too large"):
            b"".join(unpack(content, limit=100))


def test_a_bomb_is_not_unpacked() -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress(b'{"flow_logs":[{}')
    bomb += b"".join(packer.compress(b" " * (1 << 20)) for _ in range(100)) + packer.flush()
    with pytest.raises(Unreadable, match="too large"):
        decode(bomb)


# --- order and shards ----------------------------------------------------------------------------


def test_objects_sort_oldest_first_then_by_key() -> None:
    refs = [ObjectRef(2, "a", 1), ObjectRef(1, "c", 9), ObjectRef(1, "b", 5)]
    assert [ref.key for ref in sorted(refs)] == ["b", "c", "a"]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shards_cover_every_key_once(count: int) -> None:
    keys = [f"ibm_vpc_flowlogs_v1/é/{n:08}.gz" for n in range(1000)]
    held = [key for index in range(count) for key in keys if Shard(index, count).holds(key)]
    assert sorted(held) == keys


def test_a_shard_depends_on_the_key_alone() -> None:
    assert [Shard(i, 4).holds("ibm_vpc_flowlogs_v1/x") for i in range(4)].count(True) == 1
    # Fixed for good: instances of different versions must agree while an image is rolled out.
    assert Shard(3, 4).holds("ibm_vpc_flowlogs_v1/x")
