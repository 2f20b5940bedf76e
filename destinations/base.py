"""What every log service has in common: lines, answers, receipts, errors, and what differs.

A destination is one file: a subclass of `Destination`, and a row in the table of `run/settings.py`.
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

    The text comes in three parts, since lines of one object have the first and the last in common,
    which are three quarters of it. `time` is None where the flow names none that can be read.
    `fields` are the flow's own, as parsed, for a service that takes no JSON.
    """

    own: bytes
    time: int | None = None
    rejected: bool = False
    head: bytes = b""
    tail: bytes = b""
    fields: Mapping[str, Any] = MappingProxyType({})

    @property
    def text(self) -> bytes:
        """All of the line."""
        return b"%b%b%b" % (self.head, self.own, self.tail)

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.head) + len(self.own) + len(self.tail)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the lines of one object come from; empty where the object doesn't say.

    `fields` are those of a line that all flows of the object have in common, as parsed.
    `incomplete` says that the collector itself has lost flows.
    """

    vpc_id: str = ""
    interface_id: str = ""
    incomplete: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


class Run(NamedTuple):
    """Elements of one object that follow each other in a request: from where to where they are.

    `head` is what they have in common, as the destination wrote it.
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
    """The service gave no usable answer for as long as it may be tried."""


class LineTooLong(DeliveryError):
    """A single line does not fit into one request."""


# --- receipts ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failure:
    """Why lines of an object were not delivered.

    `permanent` where a service that is well and correctly set up would refuse them again.
    """

    reason: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch, by object: how many lines were accepted, and why others were not.

    `ended_by` is the error that will meet every other batch too, if there was one.
    """

    accepted: Counter[int]
    failed: dict[int, Failure] = field(default_factory=dict)
    ended_by: DeliveryError | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What `Delivery.add` took: how many lines, how many the service will cut, and what it won't
    take at all: the reason, where there is such a line."""

    lines: int = 0
    cut: int = 0
    refused: str | None = None


# --- compression ---------------------------------------------------------------------------------

_GZIP = 16 + 15
"""What zlib calls a gzip member with the largest window."""


def gzipped(parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """Text that is in parts, as gzip."""
    # Level 1: flow logs are so repetitive that a higher one costs more time than it saves. And
    # part by part, since a copy of the whole text costs as much time again, and its memory.
    packer = isal_zlib.compressobj(level=1, wbits=_GZIP)
    return b"".join([*map(packer.compress, parts), packer.flush()])


# --- destinations --------------------------------------------------------------------------------


class Variables(Protocol):
    """The environment, as a destination reads its own settings; faults are collected in it."""

    def text(self, name: str, default: str = "") -> str:
        """The value; `default` where it is unset or empty."""

    def required(self, name: str, why: str = "") -> str:
        """The value; a fault where there is none."""

    def secret(self, name: str, why: str = "") -> str:
        """A required value that must not be shown; a fault where there is none."""

    def url(self, name: str, default: str = "") -> str:
        """A base URL without a slash at its end."""

    def parsed(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """The value as `parse` makes it; a fault with the text of its ValueError."""

    def fault(self, text: str) -> None:
        """Something else is wrong."""

    def tokens(self) -> Tokens:
        """The IAM tokens of the job; a fault where no credentials are set."""


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
    """What stands around the elements of a request."""
    separator: ClassVar[bytes] = b","
    """One byte, which stands between them."""
    run_bytes: ClassVar[int] = 0
    """What a run takes in a request, at most, beside its head and its elements."""
    takes_blocks: ClassVar[bool] = True
    """Whether an element is a line's own text with something around it (see `around`)."""
    request_limit_bytes: ClassVar[int]
    line_limit_bytes: ClassVar[int]
    long_line: ClassVar[LongLine]
    compressed: bool = True
    """Whether the body of a request is gzip, or its text as it is."""
    extra_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that a line has, though others do not, unless FLOWLOG_FIELDS takes them away."""
    oldest_hours: ClassVar[float] = 24
    newest_hours: ClassVar[float] = 24
    """A line whose time is further away from now bears the time of sending."""

    def around(self, source: Source, now: int) -> Callable[[Line], tuple[bytes, bytes]]:
        """Tells what stands before and after a line's own text in an element of a request.

        Of destinations that take blocks. `now` in UTC milliseconds. What stands before the text
        must be the same for all lines with the same head.
        """
        raise NotImplementedError

    def quoted(self, text: bytes) -> bytes:
        """A line's own text as it stands in an element."""
        return text

    def renderer(self, source: Source, now: int) -> Callable[[Line], bytes]:
        """Makes lines of this source into elements of a request. `now` in UTC milliseconds."""
        around, quoted = self.around(source, now), self.quoted

        def render(line: Line) -> bytes:
            before, after = around(line)
            return b"%b%b%b" % (before, quoted(line.own), after)

        return render

    def head(self, source: Source) -> bytes:
        """What lines of this source have in common and a request holds only once for each run."""
        return b""

    def parts(
        self, content: bytes | bytearray, runs: Iterable[Run]
    ) -> Iterable[bytes | bytearray | memoryview]:
        """The text of a request, in pieces; `content` holds its elements, `runs` all of it."""
        return self.prefix, content, self.suffix

    def limited_size(self, line: Line, element: bytes) -> int:
        """The size in bytes to which the limit for a line applies."""
        return line.size

    def encode(self, parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
        """The body of a request as it goes over the wire; `parts` in a row are its text."""
        return gzipped(parts) if self.compressed else b"".join(parts)

    def decode(self, body: bytes) -> bytes:
        """The text of a request, of its body."""
        return isal_zlib.decompress(body, _GZIP) if self.compressed else body

    @abstractmethod
    def post(
        self, session: requests.Session, body: bytes, timeout: tuple[float, float]
    ) -> requests.Response:
        """Post one encoded body; the answer's own is not read yet.

        Raises what `requests` raises, and DeliveryError.
        """

    @abstractmethod
    def meaning(self, status: int, text: bytes, lines: int) -> Meaning:
        """What an answer to a request of so many lines means; see `destinations/answers.py`."""

    def replaced_credentials(self, rejected: requests.Response) -> bool:
        """Whether the next request has other credentials than the rejected ones."""
        return False

    def timestamp(self, line: Line, now: int) -> int:
        """The line's time, or `now` where the service would not take it; UTC milliseconds."""
        if line.time is None:
            return now
        age = now - line.time
        usable = (
            -self.newest_hours * MILLISECONDS_PER_HOUR
            <= age
            <= self.oldest_hours * MILLISECONDS_PER_HOUR
        )
        return line.time if usable else now
