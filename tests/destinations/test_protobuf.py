"""Our protobuf encoding, as the official package reads it."""

from __future__ import annotations

import functools
import json

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from destinations.protobuf import Attribute, any_value, attributes, fields, varint
from standins.otlp import value_of

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(max_size=400)
SCALARS = st.none() | st.booleans() | INT64 | FLOATS | TEXTS
NESTED = st.recursive(SCALARS, lambda of: st.lists(of) | st.dictionaries(TEXTS, of), max_leaves=5)
# The official package omits an empty name.
FLOWS = st.dictionaries(st.text(min_size=1, max_size=300), SCALARS, max_size=30)

IN_RECORD = 6


def as_official(value: object) -> AnyValue:
    """The same by the official package."""
    made = AnyValue()
    if isinstance(value, bool):
        made.bool_value = value
    elif isinstance(value, int):
        made.int_value = value
    elif isinstance(value, float):
        made.double_value = value
    elif value is not None:
        made.string_value = str(value)
    return made


def assert_same(written: bytes, expected: Message) -> None:
    """The same content, without unknown fields or longer numbers."""
    assert type(expected).FromString(written) == expected
    assert len(written) == expected.ByteSize()


@given(SCALARS)
def test_a_value(value: object) -> None:
    assert_same(any_value(value), as_official(value))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16383, 16384, 2**63 - 1, -1, -(2**63)])
def test_an_integer_at_the_edges(value: int) -> None:
    assert_same(any_value(value), as_official(value))
    assert_same(attributes({"a": value}, attribute), record({"a": value}))


@given(st.integers(min_value=1 << 63) | st.integers(max_value=-(1 << 63) - 1))
def test_an_integer_of_over_64_bits_keeps_its_digits(value: int) -> None:
    assert value_of(AnyValue.FromString(any_value(value))) == str(value)
    read = LogRecord.FromString(attributes({"a": 1, "b": value}, attribute))
    assert [value_of(pair.value) for pair in read.attributes] == [1, str(value)]


@given(st.lists(NESTED) | st.dictionaries(TEXTS, NESTED))
def test_what_is_nested_is_its_json(value: object) -> None:
    read = value_of(AnyValue.FromString(any_value(value)))
    assert json.loads(str(read)) == value


def test_a_lone_surrogate_is_its_escape() -> None:
    assert value_of(AnyValue.FromString(any_value("a\ud800"))) == "a\\ud800"
    read = LogRecord.FromString(attributes({"\udfff": "a\ud800"}, attribute))
    assert [(pair.key, value_of(pair.value)) for pair in read.attributes] == [
        ("\\udfff", "a\\ud800")
    ]


@functools.lru_cache(maxsize=8)
def attribute(name: str) -> Attribute:
    return Attribute(IN_RECORD, name)


def record(flow: dict[str, object]) -> LogRecord:
    made = LogRecord()
    for name, value in flow.items():
        made.attributes.add(key=name).value.CopyFrom(as_official(value))
    return made


@given(FLOWS)
def test_attributes(flow: dict[str, object]) -> None:
    assert_same(attributes(flow, attribute), record(flow))
    one_by_one = b"".join(attribute(name).written(value) for name, value in flow.items())
    assert attributes(flow, attribute) == one_by_one


def test_words_take_the_place_of_values_and_a_number_without_one_is_its_digits() -> None:
    made = Attribute(IN_RECORD, "a", {6: "tcp", "I": "receive"})
    values = [6, "I", 7, "X", True, None, 6.5, [6]]
    read = LogRecord.FromString(
        b"".join(attributes({"x": value}, lambda _: made) for value in values)
    )
    expected = ["tcp", "receive", "7", "X", True, None, 6.5, "[6]"]
    assert [value_of(pair.value) for pair in read.attributes] == expected


@given(INT64, TEXTS)
def test_an_answer_is_read(rejected: int, said: str) -> None:
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = rejected
    answer.partial_success.error_message = said
    partial = dict(fields(bytes(dict(fields(answer.SerializeToString()))[1])))
    assert partial.get(1, 0) == rejected % (1 << 64)
    assert bytes(partial.get(2, b"")).decode() == said


@given(st.binary())
def test_an_answer_of_any_bytes_is_read_or_refused(content: bytes) -> None:
    try:
        found = list(fields(content))
    except ValueError:
        return
    assert all(number > 0 for number, _ in found)


def test_numbers_of_other_kinds_are_stepped_over() -> None:
    content = b"\x09" + bytes(8) + b"\x15" + bytes(4) + b"\x18" + varint(300)
    assert list(fields(content)) == [(1, bytes(8)), (2, bytes(4)), (3, 300)]
    for cut in (1, 5, 10, len(content) - 1):
        with pytest.raises(ValueError, match="truncated"):
            list(fields(content[:cut]))
