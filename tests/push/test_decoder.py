"""The decoder with any input: both parsers agree, and memory is limited."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings

from lib import Event, Lines
from push import decoder
from push.decoder import FlowLog, Unreadable, decode
from run.event import parse_event
from tests.faults import bomb
from tests.harness import BUCKET, NIGHTLY, PREFIX, PROJECT, Place, event

FUZZ = settings(
    max_examples=100_000 if NIGHTLY else 200,
    deadline=None,
    derandomize=not NIGHTLY,
    suppress_health_check=list(HealthCheck),
)


def objects_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(
        ["flow_logs", "number_of_flow_logs", "key", "_app", "end_time", "action"]
    )
    return st.dictionaries(names | st.text(max_size=4), inner, max_size=4)


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats()
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | objects_of(inner))
documents = objects_of(values) | st.fixed_dictionaries(
    {"a": values, "flow_logs": st.lists(objects_of(scalars), max_size=4)}, optional={"b": values}
)


def entry_texts(read: Callable[[], FlowLog]) -> Any:
    """What was decoded, or that it can't be."""
    try:
        flow_log = read()
        return dict(flow_log.fields), list(flow_log.entries)
    except Unreadable:
        return "unreadable"


def both_ways(text: bytes) -> Any:
    """Whole and walked in small steps must not differ; compared as text, since NaN is not NaN."""
    chunk = decoder._CHUNK_BYTES
    try:
        decoder._CHUNK_BYTES = 3

        def whole() -> FlowLog:
            with decoder._explained():
                return decoder._whole(text)

        def walked() -> FlowLog:
            with decoder._explained():
                return decoder._walked(text)

        one, other = entry_texts(whole), entry_texts(walked)
    finally:
        decoder._CHUNK_BYTES = chunk
    assert repr(one) == repr(other)
    return one


@FUZZ
@given(documents, st.sampled_from([None, 1]))
def test_whole_and_walked_agree_on_json(document: Any, indent: int | None) -> None:
    got = both_ways(json.dumps(document, indent=indent).encode())
    if got != "unreadable":
        for line in Lines(FlowLog(*got), "key"):
            assert json.loads(line.text.decode())["key"] == "key"


PIECES = [b"{", b"}", b"[", b"]", b",", b":", b'"flow_logs"', b'"a"', b"1", b"-", b".5",
          b"e9", b'"', b"]}",
          b"null", b"NaN", b" ", b"\\u", b"d800", b"\xff", b"\xc3\xa9", b"\xef\xbb\xbf", b"[{}]",
          b'{"flow_logs":[']  # fmt: skip


@FUZZ
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
@example(b'{"flow_logs":[{"a":1}],"b":2,"c":[{"d":3}]}')
@example(b'{"b":1,"flow_logs":[{"a":1}],"b":2,"c":[{"d":3}]}')
@example(b'{"flow_logs":[{"a":1}],"flow_logs":[]}')
@example(b'{"flow_logs":[{"a":1}],"flow_logs":[{"b":1}]}')
@example(b'{"flow_logs":[{"a":1}],"flow\\u005flogs":[]}')
@example(b'{"flow_logs":[{"a":1}],"flow\\u005flogs":1}')
@example(b'{"a":{"flow_logs":[{"a":1}]}}')
@example(b'{"a":{"flow_logs":[{"a":1}]},"flow_logs":[{"b":2}]}')
@example(b'{"flow_logs":[{"a":"}]"}')
@example(b'{"flow_logs":[{"a":1}],"b":"x}]"}')
@example(b'{"flow_logs":[1],"flow_logs":[{}]}')
@example(b'{"flow_logs":[{}],"flow_logs":null}')
@example(b'{"flow_logs":[{}],"a":12}')
@example(b'{"a":6.1513e-234,"flow_logs":[]}')
@example(b'{"a":1.5,"flow_logs":[]}')
@example(b'{"flow_logs":[{}]}\xef\xbb\xbf')
def test_whole_and_walked_agree_on_what_is_nearly_json(text: bytes) -> None:
    both_ways(text)


@FUZZ
@given(st.binary(max_size=60), st.integers(0, 80), st.integers(0, 255))
def test_any_bytes_are_decoded_or_unreadable(data: bytes, at: int, byte: int) -> None:
    good = bytearray(gzip.compress(b'{"a":1,"flow_logs":[{"b":2}]}', mtime=0))
    good[at % len(good)] = byte
    for content in (data, b"\x1f\x8b" + data, gzip.compress(data), bytes(good)):
        entry_texts(lambda content=content: decode(content))


@FUZZ
@given(st.text(max_size=60) | documents.map(json.dumps), st.text(max_size=20))
def test_any_event_is_understood_or_refused(text: str, ce_type: str) -> None:
    try:
        assert isinstance(parse_event(text, ce_type), Event)
    except ValueError as error:
        assert str(error)


def test_a_large_document_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [{"n": n, "text": "é" * 50} for n in range(40_000)]
    document = {"a": 1, "flow_logs": entries, "b": 2, "number_of_flow_logs": 3}
    content = gzip.compress(json.dumps(document, ensure_ascii=False).encode(), 1)
    monkeypatch.setattr(decoder, "_whole", None)
    flow_log = decode(content)
    assert flow_log.fields == {"a": 1, "b": 2}
    assert list(flow_log.entries) == entries == list(flow_log.entries)


@pytest.mark.parametrize("end", [b"", b"}", b"]", b"]}x", b",]}", b"]} {}", b'],"a"}', b"],}"])
def test_a_large_document_is_refused_before_any_line_of_it(end: bytes) -> None:
    content = b'{"flow_logs":[' + b",".join([b'{"a":"xxxxxxxxxxxxxxxx"}'] * 100_000) + end
    with pytest.raises(Unreadable, match="bad JSON"):
        decode(content)


# --- memory --------------------------------------------------------------------------------------

SMALLEST_INSTANCE_KIB = 250_000
"""Code Engine's smallest instance has 0.25 GB."""


HOSTILE: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "100,000 rows": (
        lambda: gzip.compress(
            b'{"flow_logs":[' + b",".join([b'{"a":"%s"}' % (b"x" * 540)] * 100_000) + b"]}", 1
        ),
        None,
    ),
    "a gzip bomb of 10 GB": (bomb, "too large"),
    "60 MB as they are": (
        lambda: b'{"flow_logs":[' + b",".join([b'{"a":"%s"}' % (b"x" * 5_980)] * 10_000) + b"]}",
        None,
    ),
    "one value of 60 MB": (lambda: b'{"flow_logs":[{"a":"' + b"x" * 60_000_000, "single value"),
    "millions of lists in one value": (
        lambda: gzip.compress(b'{"flow_logs":[{"a":[' + b"[]," * 15_000_000 + b"[]]}]}", 1),
        "single value",
    ),
    "as many lists as one value may hold": (
        lambda: gzip.compress(b'{"a":[' + b"[]," * 690_000 + b'[]],"flow_logs":[]}', 1),
        None,
    ),
    "80 MB as they are": (lambda: b" " * 80_000_000, "too large"),
}


MEASURED = """
import os, re, flowlog
end = os._exit
def measure(code):
    os.write(1, re.search(rb"VmHWM:\\s+([0-9]+)", open("/proc/self/status", "rb").read())[1])
    end(code)
os._exit = measure
flowlog.main()
"""
"""The job itself, which prints its peak memory in KiB at the end."""


@pytest.mark.parametrize("name", HOSTILE)
def test_memory_stays_under_the_smallest_instance(place: Place, name: str) -> None:
    make, reason = HOSTILE[name]
    place.store.put(BUCKET, PREFIX + "hostile", make())
    job = subprocess.run(
        [sys.executable, "-c", MEASURED],
        cwd=PROJECT,
        env={**place.environ, "CE_DATA": event(PREFIX + "hostile")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert job.returncode == (1 if reason else 0), job.stderr
    assert (reason or "summary") in job.stderr
    assert 10_000 < int(job.stdout) < SMALLEST_INSTANCE_KIB
    print(name, int(job.stdout) // 1024, "MiB")
