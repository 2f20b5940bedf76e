"""What every log service has in common: lines, answers, receipts, errors, and what differs.

A destination is one file: a subclass of `Destination`, and a row in the table of `run/settings.py`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import requests

from connections.iam import Tokens

T = TypeVar("T")

MILLISECONDS_PER_HOUR = 60 * 60 * 1000


class Line(NamedTuple):
    """One flow as a log line: compact JSON in UTF-8, and the flow's own time in UTC milliseconds.

    The text comes in three parts, since lines of one object have the first and the last in common,
    which are three quarters of it. `time` is None where the flow names none that can be read.
    """

    own: bytes
    time: int | None = None
    rejected: bool = False
    head: bytes = b""
    tail: bytes = b""

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

    `incomplete` says that the collector itself has lost flows.
    """

    vpc_id: str = ""
    interface_id: str = ""
    incomplete: bool = False


# --- what an answer means ------------------------------------------------------------------------


class Verdict(enum.Enum):
    """What an HTTP status of the service means for the batch it answers."""

    DELIVERED = "delivered"
    RETRY = "retry"
    SPLIT = "split"
    REFUSED = "refused"
    KEY_REJECTED = "key rejected"


def verdict(status: int) -> Verdict:
    """The meaning of `status`; contract, section 5."""
    if 200 <= status < 300:
        return Verdict.DELIVERED
    if status == 429 or 500 <= status < 600:
        return Verdict.RETRY
    if status in (401, 403):
        return Verdict.KEY_REJECTED
    if status == 413:
        return Verdict.SPLIT
    return Verdict.REFUSED


def fault_of_lines(status: int) -> bool:
    """Whether a refusal is the fault of the lines.

    Others, such as 404 or a redirect, mean that the service is not at this address.
    """
    return status in (400, 413, 422)


# --- errors --------------------------------------------------------------------------------------


class DeliveryError(Exception):
    """Lines were not delivered; the text says why and which setting to look at."""


class KeyRejected(DeliveryError):
    """401, 403, or no token at all: nothing else will work with this key."""


class ServiceUnavailable(DeliveryError):
    """The service gave no usable answer for as long as it may be tried."""


class BatchRefused(DeliveryError):
    """The service does not want this batch; `permanent` where that is the fault of its lines."""

    def __init__(self, what: str, *, permanent: bool = False) -> None:
        super().__init__(what)
        self.permanent = permanent


class LineTooLong(DeliveryError):
    """A single line does not fit into one request."""


# --- receipts ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a batch, by object: lines accepted, and why the others were not.

    `fatal` is set where the failure will meet every other batch too; `permanent` where the failed
    lines would be refused again by a service that is well and correctly set up.
    """

    accepted: Counter[int]
    failed: dict[int, str] = field(default_factory=dict)
    fatal: DeliveryError | None = None
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Added:
    """What `Delivery.add` took: how many lines, how many the service will cut, and what it won't
    take at all: the reason, where there is such a line."""

    lines: int = 0
    cut: int = 0
    refused: str | None = None


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
    """What stands around the elements of a request; commas stand between them."""
    request_limit_bytes: ClassVar[int]
    line_limit_bytes: ClassVar[int]
    long_line: ClassVar[LongLine]
    oldest_hours: ClassVar[float] = 24
    newest_hours: ClassVar[float] = 24
    """A line whose time is further away from now bears the time of sending."""

    @abstractmethod
    def renderer(self, source: Source, now: int) -> Callable[[Line], bytes]:
        """Makes lines of this source into elements of a request. `now` in UTC milliseconds."""

    def limited_size(self, line: Line, element: bytes) -> int:
        """The size in bytes to which the limit for a line applies."""
        return line.size

    @abstractmethod
    def encode(self, parts: Iterable[bytes | bytearray]) -> bytes:
        """The body of a request as it goes over the wire; `parts` in a row are its text."""

    @abstractmethod
    def post(
        self, session: requests.Session, body: bytes, timeout: tuple[float, float]
    ) -> requests.Response:
        """Post one encoded body; the answer's own is not read yet.

        Raises what `requests` raises, and DeliveryError.
        """

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
