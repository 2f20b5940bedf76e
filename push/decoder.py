"""Decodes flow-log objects, in bounded memory whatever is in them; contract, sections 4 and 6.

A small document is parsed in one go. Of a flat one (`push/flat.py`) the entries are parsed
only when lines are made of them. A larger one is walked twice: once to know its top-level
fields, which may also stand behind the list, and that all of it is readable, before any line of it
goes out; and once to hand out its entries.
"""

from __future__ import annotations

import codecs
import functools
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import orjson
from isal import igzip_lib, isal_zlib

from push import flat

UNPACKED_LIMIT_BYTES = 64 * 1024 * 1024
"""Larger objects are refused: a real row takes about 550 bytes, so 100,000 rows have room."""

WHOLE_LIMIT_BYTES = 2 * 1024 * 1024
"""Larger documents are walked. It bounds each of their values as well, since parsed JSON can take
thirty times the memory of its text (`[[],[],…`)."""

ENTRIES_LIMIT = 250_000
"""An object with more entries is refused: `{},` repeated would give twenty million lines."""

NESTING_LIMIT = 500
"""Values that are nested deeper are refused, at a fixed depth: how deep parsers and renderers go
depends on who calls them, and no line may go out before it is known that all of them can."""

_CHUNK_BYTES = 256 * 1024
_BROKEN: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment] # so are its stubs
_GZIP = 16 + 15
"""What zlib calls a gzip member with a window of any size."""

_DELIMITERS = frozenset(" \t\n\r,:]}")
_SPACE = re.compile("[ \t\n\r]*")


class Unreadable(Exception):
    """The object is not a flow log that can be decoded; the text says why."""


class Entries(Protocol):
    """Entries that can be counted, and gone through more than once."""

    def __len__(self) -> int:
        """How many there are."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """Each of them. Raises Unreadable."""


@dataclass(frozen=True, slots=True)
class FlowLog:
    """One decoded object: the fields every line bears, and the entries, one a line."""

    fields: Mapping[str, Any]
    entries: Entries


def decode(content: bytes) -> FlowLog:
    """Decode an object as stored, gzip or plain JSON.

    Raises Unreadable, saying why, for everything that is not a flow log.
    """
    with _explained():
        text = _unpacked_at_once(content)
        if text is not None:
            return _whole(text)
        head = b""
        for chunk in unpack(content):
            head += chunk
            if len(head) > WHOLE_LIMIT_BYTES:
                return _walked(content)
        return _whole(head)


def _unpacked_at_once(content: bytes) -> bytes | None:
    """The JSON text of a small object that is one whole gzip member, as almost every one is.

    None for all others. In a third of the time that `GzipFile` takes.
    """
    unpacker = isal_zlib.decompressobj(wbits=_GZIP)
    try:
        text = unpacker.decompress(content, WHOLE_LIMIT_BYTES)
    except _BROKEN:
        return None
    return text if unpacker.eof and not unpacker.unused_data else None


def unpack(content: bytes, limit: int = UNPACKED_LIMIT_BYTES) -> Iterator[bytes]:
    """The JSON text of an object in chunks, at most `limit` bytes of it.

    Raises Unreadable where there is more, or where the gzip is damaged.
    """
    packed = content[:2] == b"\x1f\x8b"
    left = limit
    with io.BytesIO(content) as plain, gzip.GzipFile(fileobj=plain) as unpacked:
        source: io.BufferedIOBase = unpacked if packed else plain
        while chunk := _read(source):
            left -= len(chunk)
            if left < 0:
                raise Unreadable(f"too large: over {limit} bytes once unpacked")
            yield chunk


def _read(source: io.BufferedIOBase) -> bytes:
    try:
        return source.read(_CHUNK_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"bad gzip: {error}") from None


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"bad JSON: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


_JSON = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite)


def _whole(text: bytes) -> FlowLog:
    return _flat(text) or FlowLog(*_parsed(text))


def _flat(text: bytes) -> FlowLog | None:
    """The document by its form alone, where that is flat: its entries are parsed later."""
    found = flat.split(text)
    if not found:
        return None
    rest, span, count = found
    document = _plain(rest)
    if document is None or count > ENTRIES_LIMIT:
        return None
    del document["flow_logs"]

    # The tester goes through the entries of an object several times.
    @functools.cache
    def parse() -> Sequence[Mapping[str, Any]]:
        with _explained():
            return _parsed(text)[1]

    return FlowLog(_without_count(document), flat.Flat(text, span, count, parse))


def _parsed(text: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    document = _plain(text)
    if document is None:
        document = _JSON.decode(text.decode("utf-8-sig"))
        # The document and its list are two levels around a value.
        _check_nesting(document, NESTING_LIMIT + 2)
    if not isinstance(document, dict):
        raise _no_object()
    entries = document.pop("flow_logs", None)
    if not isinstance(entries, list):
        raise _no_list()
    if not all(isinstance(entry, dict) for entry in entries):
        raise _no_entry()
    if len(entries) > ENTRIES_LIMIT:
        raise _too_many()
    return _without_count(document), entries


def _plain(text: bytes) -> dict[str, Any] | None:
    """The document by `orjson`, in less than half of the time, where both parsers agree.

    None where `orjson` refuses it, and where it may have cut a number: it reads integers of over 64
    bits as floats.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict):
        return None
    fields = {name: value for name, value in document.items() if name != "flow_logs"}
    entries = document.get("flow_logs")
    if not isinstance(entries, list) or not {dict}.issuperset(map(type, entries)):
        return None
    return document if are_plain((fields, *entries)) else None


def are_plain(objects: Iterable[Mapping[str, Any]]) -> bool:
    """Whether all values are texts, integers or constants, which both parsers read alike."""
    return _PLAIN.issuperset(map(type, chain.from_iterable(one.values() for one in objects)))


_PLAIN = frozenset((str, int, bool, type(None)))


def _no_object() -> Unreadable:
    return Unreadable("not a flow log: the document is not a JSON object")


def _no_list() -> Unreadable:
    return Unreadable("not a flow log: it has no list `flow_logs`")


def _no_entry() -> Unreadable:
    return Unreadable("not a flow log: `flow_logs` holds something that is not an object")


def _too_many() -> Unreadable:
    return Unreadable(f"too large: over {ENTRIES_LIMIT} fields and entries")


def _check_nesting(value: Any, limit: int) -> None:
    """Raises Unreadable where lists and objects are nested in more than `limit` levels."""
    level = [value]
    for _ in range(limit):
        inner = (one.values() if type(one) is dict else one for one in level if type(one) in _NESTS)
        level = [value for values in inner for value in values if type(value) in _NESTS]
        if not level:
            return
    raise Unreadable("bad JSON: nested too deeply")


_NESTS = frozenset((dict, list))


def _without_count(fields: dict[str, Any]) -> dict[str, Any]:
    """`number_of_flow_logs` is often wrong, and says nothing about any one flow."""
    fields.pop("number_of_flow_logs", None)
    return fields


# --- documents that are walked -------------------------------------------------------------------


def _walked(content: bytes) -> FlowLog:
    fields: dict[str, Any] = {}
    lists, last, count, all_objects = 0, None, 0, True
    for number, (name, value) in enumerate(_walk(content)):
        # At once, since to go through all of them could take minutes.
        if number > ENTRIES_LIMIT:
            raise _too_many()
        if name is None:
            count += 1
            all_objects = all_objects and isinstance(value, dict)
        elif value is _LIST:
            lists, last, count, all_objects = lists + 1, lists, 0, True
        elif name == "flow_logs":
            last = None
        else:
            fields[name] = value
        _check_nesting(value, NESTING_LIMIT)
    if last is None:
        raise _no_list()
    if not all_objects:
        raise _no_entry()
    return FlowLog(_without_count(fields), _Entries(content, last, count))


@dataclass(frozen=True, slots=True)
class _Entries:
    """The entries of one `flow_logs` list of a document, the last one as a rule."""

    content: bytes
    number: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        number = -1
        with _explained():
            for name, value in _walk(self.content):
                number += value is _LIST
                if name is None and number == self.number:
                    yield value


_LIST = object()
"""Stands for a `flow_logs` list; its entries follow."""


def _walk(content: bytes) -> Iterator[tuple[str | None, Any]]:
    """The fields as (name, value), and the entries of a `flow_logs` list as (None, entry)."""
    text = _Text(content)
    if text.next() != "{":
        raise _no_object()
    more = text.peek() != "}" or not text.next()
    while more:
        if text.peek() != '"':
            raise ValueError("a field has no name")
        name = text.value()
        text.expect(":")
        if name == "flow_logs" and text.peek() == "[":
            yield name, _LIST
            yield from ((None, entry) for entry in _items(text))
        else:
            yield name, text.value()
        more = text.goes_on("}")
    if text.peek():
        raise ValueError("there is something behind the document")


def _items(text: _Text) -> Iterator[Any]:
    text.expect("[")
    more = text.peek() != "]" or not text.next()
    while more:
        yield text.value()
        more = text.goes_on("]")


class _Text:
    """The characters of a document, of which only the next few are in memory."""

    def __init__(self, content: bytes) -> None:
        self._chunks = codecs.iterdecode(unpack(content), "utf-8-sig")
        self._text = ""
        self._at = 0

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def next(self) -> str:
        """The same, and step over it."""
        character = self.peek()
        self._at += 1
        return character

    def expect(self, character: str) -> None:
        """Step over this character. Raises ValueError where it is another one."""
        if self.next() != character:
            raise ValueError(f"{character!r} is missing")

    def goes_on(self, end: str) -> bool:
        """Step over a comma (True) or the end (False)."""
        character = self.next()
        if character not in (",", end):
            raise ValueError(f"',' or {end!r} is missing")
        return character == ","

    def value(self) -> Any:
        """The next value, and step over it."""
        self.peek()
        while True:
            try:
                value, end = _JSON.raw_decode(self._text, self._at)
            except ValueError:
                # Broken, or not all here yet.
                if not self._read_on():
                    raise
            else:
                # A number may go on behind the text that is here, also where it ends with `1e`.
                if self._text[end : end + 1] in _DELIMITERS or not self._read_on():
                    self._at = end
                    return value
            if len(self._text) - self._at > WHOLE_LIMIT_BYTES:
                raise Unreadable(f"too large: a single value of over {WHOLE_LIMIT_BYTES} bytes")

    def _read_on(self) -> bool:
        """Have one more chunk in memory; whether there was one."""
        chunk = next(self._chunks, "")
        if not chunk:
            return False
        self._text, self._at = self._text[self._at :] + chunk, 0
        return True
