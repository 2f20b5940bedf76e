"""Which fields a line has, and in which order; contract, section 4."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

from push.encoder import render

log = logging.getLogger("flowlog.selection")

OBJECT, ROW = "_object", "_row"
"""Fields that a line has only on request: a short id of the object, and the entry's number."""

ADDED = frozenset(("_app", "key", OBJECT, ROW))
"""Fields that the job adds; a field of the object with the same name does not replace them."""

NUMBERS = frozenset((
    "initiator_port", "target_port", "transport_protocol",
    "bytes_from_initiator", "packets_from_initiator",
    "bytes_from_target", "packets_from_target",
    "cumulative_bytes_from_initiator", "cumulative_packets_from_initiator",
    "cumulative_bytes_from_target", "cumulative_packets_from_target",
))  # fmt: skip
TEXTS = frozenset((
    "version", "collector_crn", "attached_endpoint_type", "network_interface_id", "instance_crn",
    "vpc_crn", "capture_start_time", "capture_end_time", "state",
    "start_time", "end_time", "connection_start_time", "direction", "action", "initiator_ip",
    "target_ip", "ether_type",
))  # fmt: skip
DOCUMENTED = NUMBERS | TEXTS | {"was_initiated", "was_terminated"}
"""All fields of a flow log and its entries; the rest are booleans (IBM Cloud docs, VPC, "Viewing
flow log objects")."""

_MOST_NAMES = 1000
"""At most this many names of fields are kept, to suggest the nearest one for a wrong name."""

Parts = tuple[bytes, bytes, bytes, Mapping[str, Any]]
"""A line in three parts (`head`, `own`, `tail`), and the entry's own fields in it. Lines of one
object share the first and the last part."""

Render = Callable[[Mapping[str, Any], int], Parts]
"""Renders an entry, given its number in the object, as a line."""

Wanted = Callable[[Mapping[str, Any], int], bool]
"""Whether an entry, given its number in the object, is sent."""


# --- what FLOWLOG_FIELDS says --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a line: those in `kept`, in this order; or all except those in `dropped`.

    `extra` says which of `OBJECT` and `ROW` a line has.
    """

    kept: tuple[str, ...] = ()
    dropped: frozenset[str] = frozenset()
    extra: frozenset[str] = frozenset()

    @property
    def named(self) -> frozenset[str]:
        """The names in the setting."""
        return self.dropped.union(self.kept)

    def with_default(self, extra: Iterable[str]) -> Fields:
        """With these extra fields, unless the setting drops them or lists the fields to keep."""
        return self if self.kept else replace(self, extra=frozenset(extra) - self.dropped)


def parse_fields(text: str) -> Fields:
    """Parse FLOWLOG_FIELDS. Raises ValueError."""
    names = [name.strip() for name in text.split(",")]
    has_minus = [name.startswith("-") for name in names]
    if any(has_minus) and not all(has_minus):
        raise ValueError("mixes fields to keep with fields to drop (`-name`): give one kind only")
    plain = [name.removeprefix("-").strip() for name in names]
    if not all(plain):
        raise ValueError("has a comma without a field name beside it")
    if len(set(plain)) < len(plain):
        twice = next(name for name in plain if plain.count(name) > 1)
        raise ValueError(f"names the field {twice!r} twice")
    if any(has_minus):
        return Fields(dropped=frozenset(plain))
    return Fields(kept=tuple(plain), extra=frozenset((OBJECT, ROW)).intersection(plain))


def nearest(name: str, names: Iterable[str]) -> str:
    """The most similar one of `names`; empty if there are none."""
    import difflib  # needed only for a wrong name

    texts = [str(other) for other in names]
    return next(iter(difflib.get_close_matches(name, texts, n=1, cutoff=0.0)), "")


# --- what a run sends ----------------------------------------------------------------------------


class Frame(NamedTuple):
    """How the lines of an object are made where they differ in one piece only.

    `own` gives the fields of an entry that are this piece (None: all of them); it raises KeyError
    where one is not there. `head` comes before it, `tail` after it. No entry may have one of the
    fields in `apart`.
    """

    own: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None
    head: bytes
    tail: bytes
    apart: frozenset[str]


class Where(Protocol):
    """Which flows are sent."""

    def tester(self, fields: Mapping[str, Any], added: Mapping[str, Any]) -> Wanted:
        """Tests the entries of an object, whose lines also have these other fields."""


class Selection:
    """Which flows and fields of each object are sent; notes which selected ones no flow had."""

    def __init__(self, fields: Fields | None = None, where: Where | None = None) -> None:
        self.fields = fields or Fields()
        self.where = where
        self._not_met = set(self.fields.named - ADDED)
        self._met: set[str] = set()

    def noted(
        self, fields: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]
    ) -> Iterable[Mapping[str, Any]]:
        """The same entries of an object; notes names of fields, while a named one is not met."""
        return self._noted(fields, entries) if self._not_met else entries

    def _noted(
        self, fields: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]
    ) -> Iterator[Mapping[str, Any]]:
        for entry in entries:
            if self._not_met:
                names = fields.keys() | entry.keys()
                self._not_met -= names
                if len(self._met) < _MOST_NAMES:
                    self._met |= names
            yield entry

    def tester(self, fields: Mapping[str, Any], added: Mapping[str, Any]) -> Wanted:
        """Tests the entries of an object, whose lines also have these other fields."""
        return self.where.tester(fields, added) if self.where else lambda *_: True

    def shared(self, fields: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the object's fields and the added fields that its lines have."""
        chosen = self.fields
        values = {**fields, **self._chosen_of(added)}
        names = chosen.kept or [name for name in values if name not in chosen.dropped]
        return {name: values[name] for name in names if name in values}

    def renderer(self, fields: Mapping[str, Any], added: Mapping[str, Any]) -> Render:
        """Renders the entries of an object, whose lines also have these other fields.

        Rendering raises Unreadable.
        """
        chosen = self.fields
        added = self._chosen_of(added)
        if not chosen.kept:
            parts = _all_but(chosen.dropped, fields, added)
        else:
            parts = _kept(chosen.kept, fields, added)
        if ROW in chosen.extra:
            return lambda entry, row: parts({**entry, ROW: row}, row)
        return parts

    def _chosen_of(self, added: Mapping[str, Any]) -> Mapping[str, Any]:
        if OBJECT in self.fields.extra:
            return added
        return {name: value for name, value in added.items() if name != OBJECT}

    def frame(self, fields: Mapping[str, Any], added: Mapping[str, Any]) -> Frame | None:
        """How to build the lines of an object; None if they differ in more than one part."""
        chosen, added = self.fields, self._chosen_of(added)
        if ROW in chosen.extra or not fields.keys().isdisjoint(added):
            return None
        if chosen.kept:
            return _kept_frame(chosen.kept, fields, added)
        apart = chosen.dropped.union(fields, added)
        fields, added = _without(chosen.dropped, fields), _without(chosen.dropped, added)
        return Frame(None, _head(fields), _tail(added), apart)

    def warn_of_fields_not_met(self) -> None:
        """Warn of the fields in FLOWLOG_FIELDS that no flow of the run had, if there were flows."""
        for name in sorted(self._not_met if self._met else ()):
            log.warning(
                "FLOWLOG_FIELDS names %r, a field that no flow of this run had;"
                " the nearest name is %r",
                name,
                nearest(name, self._met),
            )


# --- a line in parts -----------------------------------------------------------------------------


def _all_but(
    dropped: frozenset[str], fields: Mapping[str, Any], added: Mapping[str, Any]
) -> Render:
    """Renders the object's fields, an entry, and added fields as one JSON object; later ones win.

    What all lines share is rendered once, unless an entry has a field with the same name.
    """
    fields, added = _without(dropped, fields), _without(dropped, added)
    always = fields.keys() | added.keys()
    head, tail = _head(fields), _tail(added)
    apart = fields.keys().isdisjoint(added)

    def parts(entry: Mapping[str, Any], _row: int) -> Parts:
        if dropped and not dropped.isdisjoint(entry):
            entry = _without(dropped, entry)
        if apart and entry and always.isdisjoint(entry):
            return head, render(entry)[1:-1], tail, entry
        own = {name: entry[name] for name in entry if name not in added}
        return b"", render({**fields, **entry, **added}), b"", own

    return parts


def _without(dropped: frozenset[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fields[name] for name in fields if name not in dropped}


def _kept_frame(
    names: tuple[str, ...], fields: Mapping[str, Any], added: Mapping[str, Any]
) -> Frame | None:
    """A frame for these fields, in this order: shared ones, the entry's own, shared ones again.

    None if shared fields come between the entry's own, or if it has none of its own.
    """
    fields = {name: fields[name] for name in names if name in fields}
    shared = {**fields, **added}
    before = tuple(takewhile(shared.__contains__, names))
    after = tuple(takewhile(shared.__contains__, reversed(names[len(before) :])))[::-1]
    between = names[len(before) : len(names) - len(after)]
    if not between or not shared.keys().isdisjoint(between):
        return None
    return Frame(
        _picker(between),
        _head({name: shared[name] for name in before}),
        _tail({name: shared[name] for name in after}),
        frozenset(fields),
    )


def _kept(names: tuple[str, ...], fields: Mapping[str, Any], added: Mapping[str, Any]) -> Render:
    """Renders the fields with these names that exist, in this order."""
    frame = _kept_frame(names, fields, added)

    def parts(entry: Mapping[str, Any], _row: int) -> Parts:
        if frame and frame.own and frame.apart.isdisjoint(entry):
            try:
                own = frame.own(entry)
                return frame.head, render(own)[1:-1], frame.tail, own
            except KeyError:
                pass  # this flow lacks one of the fields
        own = {name: entry[name] for name in names if name in entry and name not in added}
        values = {**fields, **entry, **added}
        text = render({name: values[name] for name in names if name in values})
        return b"", text, b"", own

    return parts


@functools.lru_cache(maxsize=16)
def _picker(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Picks these fields of an entry, in a third of the time of a loop. It raises KeyError."""
    # As Python code, like the methods that `dataclasses` writes. The names are literals in it, so
    # that nothing of the setting is run.
    items = ", ".join(f"{name!r}: entry[{name!r}]" for name in names)
    picker: Callable[[Mapping[str, Any]], dict[str, Any]] = eval(
        f"lambda entry: {{{items}}}", {"__builtins__": {}}
    )
    return picker


def _head(fields: Mapping[str, Any]) -> bytes:
    return b"{%b," % render(fields)[1:-1] if fields else b"{"


def _tail(fields: Mapping[str, Any]) -> bytes:
    return b",%b" % render(fields)[1:] if fields else b"}"
