"""Looks at a bucket once: what it holds, what has been sent, a sample of the flows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import flowlog
from bucket.errors import ObjectError
from bucket.interfaces import Hours, Walk
from bucket.listing import ObjectRef
from bucket.state import StateObject
from bucket.store import Body
from connections.stop import Stop
from connections.unforeseen import describe
from desk.coverage import Columns, Coverage, columns_of
from desk.sample import Chosen, Sample
from desk.sent import Sent, Waiting, sent_by
from lib import Scope
from push.decoder import Unreadable, decode
from push.reader import Reader
from push.state_exchange import StateExchange
from push.survey import Survey
from run.settings import Settings

LONG_WALK_PAGES = 2
"""A person waits for it, so that a listing is divided sooner than that of a run."""

OnKeys = Callable[[int], None]
"""Hears how many keys have been listed so far."""


@dataclass(frozen=True, slots=True)
class Undelivered:
    """An object that STATE names as failed or parked, and what reading it says now."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Overview:
    """All that the report and the status show."""

    settings: Settings
    now: int
    coverage: Coverage
    sent: Sent
    waiting: Waiting
    undelivered: tuple[Undelivered, ...]
    chosen: Chosen
    sample: Sample
    pages: int
    """LIST requests that it took."""

    @property
    def columns(self) -> Columns:
        """The columns of the map."""
        return self.coverage.columns


@dataclass(frozen=True, slots=True)
class Extent:
    """How far to look: back so many days, unless FLOWLOG_SINCE is set; at so many objects."""

    days: float
    sampled: int


class Look:
    """One look. Close it afterwards."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], stop: Stop) -> None:
        self._settings = settings
        self._environ = environ
        self._stop = stop
        self._store = flowlog.open_store(settings, stop)
        self._reader = Reader(self._store, stop)

    def close(self) -> None:
        """Queued reads are cancelled."""
        self._reader.close()

    def overview(self, extent: Extent, on_keys: OnKeys = lambda _: None) -> Overview:
        """Look at everything. Raises StoreError, StateError, Stopped."""
        settings = self._settings
        sent, now = self._sent()
        waiting = Waiting(sent, now)
        coverage = Coverage(columns_of(settings.period, now, extent.days))
        chosen = Chosen(extent.sampled)
        pages = self._list(coverage, waiting, chosen, on_keys)
        sample = Sample(self._environ, settings.selection)
        undelivered = tuple(self._reasons(sent))
        self._read(chosen, sample, now)
        return Overview(settings, now, coverage, sent, waiting, undelivered, chosen, sample, pages)

    def _sent(self) -> tuple[Sent, int]:
        """What STATE says, and the store's clock."""
        settings = self._settings
        snapshot = None
        if settings.mode != "simple":
            exchange = StateExchange(self._store, self._stop, self._store.policy)
            try:
                snapshot = StateObject(exchange, settings.state_key).read()
            finally:
                exchange.close()
        now = snapshot.date if snapshot else int(time.time())
        return sent_by(settings.mode, snapshot, settings.state_key, settings.period), now

    def _list(self, coverage: Coverage, waiting: Waiting, chosen: Chosen, on_keys: OnKeys) -> int:
        """List the keys of the columns, and those that may wait; how many pages that took."""
        settings, pages = self._settings, 0
        scope = Scope(settings.prefix, settings.state_key, settings.shard)
        columns, hours = coverage.columns, None
        if not waiting.sent.is_waiting:
            hours = Hours(columns.begin, columns.end)
        elif waiting.sent.begin:
            hours = Hours(min(columns.begin, waiting.sent.begin), columns.end)

        def count(ref: ObjectRef) -> bool:
            if scope.holds(ref.key):
                if coverage.add(ref):
                    chosen.add(ref)
                waiting.add(ref)
            # A listing that keeps nothing takes no memory.
            return False

        def after_page() -> None:
            nonlocal pages
            pages += 1
            on_keys(coverage.listed)

        Survey(self._reader, count, LONG_WALK_PAGES).listed(
            Walk(settings.prefix, hours), after_page
        )
        return pages

    def _reasons(self, sent: Sent) -> list[Undelivered]:
        """Why each object that STATE names can't be read; it holds no reasons itself."""
        found = []
        for ref, body in self._reader.bodies(sent.undelivered):
            found.append(Undelivered(ref.key, _reason(body)))
        return found

    def _read(self, chosen: Chosen, sample: Sample, now: int) -> None:
        """Read the sample; what can't be read is counted, and no part of it."""
        for ref, body in self._reader.bodies(chosen.refs):
            if isinstance(body, Body):
                sample.add(body.content, ref.key, now)
            else:
                sample.unreadable += 1


def _reason(body: Body | Exception) -> str:
    if isinstance(body, ObjectError):
        return str(body)
    if isinstance(body, Exception):
        return describe(body)
    try:
        for _ in decode(body.content).entries:
            pass
    except Unreadable as error:
        return str(error)
    return "it can be read now; the log of the run says why it was not delivered"
