"""What all log services share: lines, receipts, errors, and the interface `Destination`.

A destination is one file with a subclass of `Destination`, and a row in `run/settings.py`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import requests
from isal import isal_zlib

from connections.iam import Tokens
from destinations.answers import Meaning

T = TypeVar("T")

MILLISECONDS_PER_HOUR = 60 * 60 * 1000


class Line(NamedTuple):
    """One flow as a log line: compact JSON in UTF-8, and the flow's own time in UTC milliseconds.

    The text has three parts: lines of one object share the first and the last, which are three
    quarters of it. `time` is None if the flow has no readable time. `fields` are the flow's own
    fields, parsed, for a service that does not take JSON.
    """

    own: bytes
    time: int | None = None
    rejected: bool = False
    head: bytes = b""
    tail: bytes = b""
    fields: Mapping[str, Any] = MappingProxyType({})

    @property
    def text(self) -> bytes:
        """The whole line."""
        return b"%b%b%b" % (self.head, self.own, self.tail)

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.head) + len(self.own) + len(self.tail)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the lines of one object come from; empty if the object does not say.

    `fields` are the fields, parsed, that all lines of the object share. `incomplete`: the collector
    lost flows.
    """

    vpc_id: str = ""
    interface_id: str = ""
    incomplete: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


class Run(NamedTuple):
    """Consecutive elements of one object in a request, as positions in its content.

    `head` is what they share, as the destination encoded it.
    """

    head: bytes
    start: int
    end: int


# --- errors --------------------------------------------------------------------------------------


class DeliveryError(Exception):
    """Lines were not delivered; the text says why and which setting to look at."""


class KeyRejected(DeliveryError):
    """401, 403, or no token at all: nothing else will work with this key."""


class ServiceUnavailable(DeliveryError):
    """The service gave no usable answer until the time for retries was over."""


class LineTooLong(DeliveryError):
    """A single line does not fit into one request."""


# --- receipts ------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """Why lines of an object were not delivered.

    `permanent`: a service that works and is set up correctly would refuse them again.
    """

    reason: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """The result of a batch, by object: how many lines were accepted, and why others were not.

    `ended_by` is an error that every other batch would get too, if there was one.
    """

    accepted: Counter[int]
    failed: dict[int, Failure] = field(default_factory=dict)
    ended_by: DeliveryError | None = None


class Added(NamedTuple):
    """The result of `Delivery.add`: how many lines were added, how many of them the service will
    truncate, and why another line was refused, if one was."""

    lines: int = 0
    cut: int = 0
    refused: str | None = None


# --- compression ---------------------------------------------------------------------------------

_GZIP = 16 + 15
"""The `wbits` of zlib for gzip with the largest window."""


def gzipped(parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """The parts, joined and compressed with gzip."""
    # Level 1: flow logs are so repetitive that a higher level takes more time than it saves. Part
    # by part, since joining them first would take as much time again, and more memory.
    packer = isal_zlib.compressobj(level=1, wbits=_GZIP)
    return b"".join([*map(packer.compress, parts), packer.flush()])


# --- destinations --------------------------------------------------------------------------------


class Variables(Protocol):
    """The environment, from which a destination reads its settings; it collects faults."""

    def text(self, name: str, default: str = "") -> str:
        """The value; `default` if it is unset or empty."""

    def required(self, name: str, why: str = "") -> str:
        """The value; a fault if it is unset or empty."""

    def secret(self, name: str, why: str = "") -> str:
        """A required value that must not be shown; a fault if it is unset or empty."""

    def url(self, name: str, default: str = "") -> str:
        """A base URL without a trailing slash."""

    def parsed(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """The value as `parse` returns it; its ValueError becomes a fault."""

    def fault(self, text: str) -> None:
        """Add another fault."""

    def tokens(self) -> Tokens:
        """The IAM tokens of the job; a fault if no credentials are set."""


class LongLine(enum.Enum):
    """What the service does with a line that is over its limit."""

    CUT = "cut"
    DROPPED = "dropped"


class Destination(ABC):
    """A log service: where it is, and how its requests differ from those of others."""

    name: ClassVar[str]
    endpoint_setting: ClassVar[str]
    key_setting: ClassVar[str]
    prefix: ClassVar[bytes]
    suffix: ClassVar[bytes]
    """The text before and after the elements of a request."""
    separator: ClassVar[bytes] = b","
    """One byte between two elements."""
    run_bytes: ClassVar[int] = 0
    """Most bytes of a run in a request, without its head and its elements."""
    takes_blocks: ClassVar[bool] = True
    """Whether an element is the line's own text with text before and after it (see `around`)."""
    request_limit_bytes: ClassVar[int]
    line_limit_bytes: ClassVar[int]
    long_line: ClassVar[LongLine]
    compressed: bool = True
    """Whether the body of a request is compressed with gzip."""
    extra_fields: ClassVar[tuple[str, ...]] = ()
    """Extra fields of a line for this service, unless FLOWLOG_FIELDS drops them."""
    oldest_hours: ClassVar[float] = 24
    newest_hours: ClassVar[float] = 24
    """A line whose time is further away from now gets the time of sending."""

    def around(self, source: Source, now: int) -> Callable[[Line], tuple[bytes, bytes]]:
        """A function that returns the text before and after a line's own text in its element.

        For destinations that take blocks. `now` in UTC milliseconds. The text before must be the
        same for all lines with the same head.
        """
        raise NotImplementedError

    def quoted(self, text: bytes) -> bytes:
        """A line's own text, escaped for an element."""
        return text

    def renderer(self, source: Source, now: int) -> Callable[[Line], bytes]:
        """A function that renders lines of this source as elements. `now` in UTC milliseconds."""
        around, quoted = self.around(source, now), self.quoted

        def render(line: Line) -> bytes:
            before, after = around(line)
            return b"%b%b%b" % (before, quoted(line.own), after)

        return render

    def head(self, source: Source) -> bytes:
        """What the lines of this source share, which a request has once for each run."""
        return b""

    def parts(
        self, content: bytes | bytearray, runs: Iterable[Run]
    ) -> Iterable[bytes | bytearray | memoryview]:
        """The text of a request, in parts; `content` has its elements, `runs` cover all of it."""
        return self.prefix, content, self.suffix

    def limited_size(self, line: Line, element: bytes) -> int:
        """The size in bytes to which the limit for a line applies."""
        return line.size

    def encode(self, parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
        """The body of a request, given the parts of its text."""
        return gzipped(parts) if self.compressed else b"".join(parts)

    def decode(self, body: bytes) -> bytes:
        """The text of a request, given its body."""
        return isal_zlib.decompress(body, _GZIP) if self.compressed else body

    @abstractmethod
    def post(
        self, session: requests.Session, body: bytes, timeout: tuple[float, float]
    ) -> requests.Response:
        """Post an encoded body; the body of the answer is not read yet.

        Raises what `requests` raises, and DeliveryError.
        """

    @abstractmethod
    def meaning(self, status: int, text: bytes, lines: int) -> Meaning:
        """What an answer to a request with this many lines means; see `destinations/answers.py`."""

    def replaced_credentials(self, rejected: requests.Response) -> bool:
        """Whether the next request will use other credentials than the rejected ones."""
        return False

    def timestamp(self, line: Line, now: int) -> int:
        """The line's time, or `now` if the service would not accept it; UTC milliseconds."""
        if line.time is None:
            return now
        age = now - line.time
        usable = (
            -self.newest_hours * MILLISECONDS_PER_HOUR
            <= age
            <= self.oldest_hours * MILLISECONDS_PER_HOUR
        )
        return line.time if usable else now
