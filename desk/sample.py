"""What the flows cost: rows, bytes and busiest pairs of a sample of objects.

A sample is the objects whose keys have the smallest hashes, so it is spread over the whole bucket,
the same each time, and known without keeping the other keys.
"""

from __future__ import annotations

import heapq
import pkgutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from bucket.listing import ObjectRef
from destinations.base import Destination
from lib import Lines
from push.decoder import FlowLog, Unreadable, decode
from push.selection import Selection
from run.environment import Environment
from run.settings import DESTINATIONS

MOST_SAMPLED = 200
MOST_PAIRS = 50_000
"""More pairs are cut down to the busiest fifth, so that memory has a bound."""

PLACEHOLDERS = {
    "LOGDNA_ENDPOINT": "estimate.invalid",
    "LOGDNA_INGESTION_KEY": "estimate-key",
    "CLOUD_LOGS_ENDPOINT": "estimate.invalid",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "https://estimate.invalid",
    "APIKEY": "estimate-key",
}
"""What a destination needs to be set up, though nothing is sent to it."""


class Chosen:
    """Chooses objects for the sample, at most `most`."""

    def __init__(self, most: int = MOST_SAMPLED) -> None:
        self._most = most
        self._heap: list[tuple[int, ObjectRef]] = []
        self.objects = 0
        self.size = 0
        """Number and bytes of all that it was chosen from."""

    def add(self, ref: ObjectRef) -> None:
        """Perhaps choose this object."""
        if not ref.size:
            return
        self.objects += 1
        self.size += ref.size
        name = ref.key.encode("utf-8", "surrogatepass")
        order = -int.from_bytes(blake2b(name, digest_size=8).digest(), "big")
        if len(self._heap) < self._most:
            heapq.heappush(self._heap, (order, ref))
        elif order > self._heap[0][0]:
            heapq.heapreplace(self._heap, (order, ref))

    @property
    def refs(self) -> list[ObjectRef]:
        """The objects chosen, oldest first."""
        return sorted(ref for _, ref in self._heap)


@dataclass(slots=True)
class Amount:
    """Rows, and the bytes of their lines; by destination the bytes of a request's text."""

    rows: int = 0
    size: int = 0
    sent: Counter[str] = field(default_factory=Counter)

    @property
    def line_bytes(self) -> float:
        """Bytes of a line."""
        return self.size / self.rows if self.rows else 0.0


Pair = tuple[str, str, str]
"""Initiator, target, and the target's port with the protocol."""


class Sample:
    """The sum of what was read: all flows, and those that the settings select."""

    def __init__(self, environ: Mapping[str, str], selection: Selection) -> None:
        self.objects = 0
        self.stored = 0
        self.unreadable = 0
        self.everything, self.selected = Amount(), Amount()
        self.rejected = 0
        self.pairs: Counter[Pair] = Counter()
        self._destinations = _destinations(environ)
        self._selection = selection
        self.is_selective = bool(selection.where or selection.fields.named)

    def add(self, content: bytes, key: str, now: int) -> None:
        """Add an object as stored; `now` in seconds. Only counted where it can't be decoded."""
        try:
            self._add(content, key, now)
        except Unreadable:
            self.unreadable += 1

    def _add(self, content: bytes, key: str, now: int) -> None:
        flow_log = decode(content)
        everything = self._amount(flow_log, key, now, Selection())
        selected = self._amount(flow_log, key, now, self._selection)
        # Only once all of it could be read.
        self.objects += 1
        self.stored += len(content)
        for total, more in ((self.everything, everything), (self.selected, selected)):
            total.rows += more.rows
            total.size += more.size
            total.sent += more.sent
        for entry in flow_log.entries:
            self.rejected += entry.get("action") == "rejected"
            self.pairs[_pair(entry)] += 1
        if len(self.pairs) > MOST_PAIRS:
            self.pairs = Counter(dict(self.pairs.most_common(MOST_PAIRS // 5)))

    def _amount(self, flow_log: FlowLog, key: str, now: int, selection: Selection) -> Amount:
        amount = Amount()
        for name, destination in self._destinations.items():
            fields = selection.fields.with_default(destination.extra_fields)
            lines = Lines(flow_log, key, Selection(fields, selection.where))
            source = lines.source
            render = destination.renderer(source, now * 1000)
            amount.rows = amount.size = 0
            amount.sent[name] = len(destination.head(source)) + destination.run_bytes
            for line in lines:
                amount.rows += 1
                amount.size += line.size
                amount.sent[name] += len(render(line)) + len(destination.separator)
        return amount


def _pair(entry: Mapping[str, Any]) -> Pair:
    initiator, target = str(entry.get("initiator_ip")), str(entry.get("target_ip"))
    protocol = {6: "TCP", 17: "UDP"}.get(entry.get("transport_protocol", 0), "")
    return initiator[:64], target[:64], f"{protocol} {str(entry.get('target_port'))[:16]}".strip()


def _destinations(environ: Mapping[str, str]) -> dict[str, Destination]:
    """All log services that there are, as far as the environment says how they are set up.

    LogDNA comes last, so that the size of a line is that of a line without further fields.
    """
    given = {name: text for name, text in environ.items() if text.strip()}
    found = {}
    for name in DESTINATIONS:
        env = Environment({**PLACEHOLDERS, **given})
        found[name] = pkgutil.resolve_name(DESTINATIONS[name]).read(env)
    return {name: found[name] for name in sorted(found, key=lambda one: one == "logdna")}


# --- by day --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a day brings, by the sample: rows, and bytes by destination."""

    rows: float
    sent: Mapping[str, float]


def a_day(amount: Amount, sample: Sample, chosen: Chosen, seconds: int) -> Estimate:
    """The day's share, as stored bytes go: those of the sample, and all of these seconds."""
    times = chosen.size / sample.stored * 86400 / seconds if sample.stored else 0.0
    names = sorted(amount.sent)
    return Estimate(amount.rows * times, {name: amount.sent[name] * times for name in names})
