"""What a stand-in does instead of its normal answer, scripted by a test."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Request = TypeVar("Request")


@dataclass(frozen=True, slots=True)
class Answer:
    """Another answer than the normal one."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset; `accept`: after the request was carried out, so its answer is lost.

    First, `after_bytes` of the normal answer are sent.
    """

    accept: bool = False
    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Silence:
    """There is never an answer."""


@dataclass(frozen=True, slots=True)
class Drip:
    """The normal answer, one byte at a time, with this many seconds between them."""

    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Cut:
    """The body and the connection end this many bytes before its Content-Length.

    With 0 the answer is complete, and the connection is closed without an announcement.
    """

    missing_bytes: int = 1

    def kept(self, content: bytes) -> bytes:
        """What of it is sent."""
        return content[: max(0, len(content) - self.missing_bytes)]


Fault = Answer | Reset | Silence | Drip | Cut


class Script(Generic[Request]):
    """Decides which requests get a fault. Safe to use while the server runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: deque[Fault | None] = deque()
        self._rule: Callable[[Request], Fault | None] | None = None

    def next(self, faults: Iterable[Fault | None]) -> None:
        """The next requests get these faults, one each; None is the normal answer."""
        with self._lock:
            self._next.extend(faults)

    def always(self, fault: Fault | None) -> None:
        """Every request gets this fault, until the script is changed."""
        self.rule(None if fault is None else lambda _: fault)

    def rule(self, rule: Callable[[Request], Fault | None] | None) -> None:
        """Each request gets the fault that the rule returns for it."""
        with self._lock:
            self._rule = rule

    def fault(self, request: Request) -> Fault | None:
        """The fault for this request; None for the normal answer."""
        with self._lock:
            if self._next:
                return self._next.popleft()
            rule = self._rule
        return rule(request) if rule else None
