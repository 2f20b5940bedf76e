"""Which flows are sent: a JMESPath expression (jmespath.org), checked and compiled once.

Imported only if a filter is set, since it imports jmespath.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from push.expression import FAILURES, Node, compiled, is_true, names_in, nodes, parsed
from push.selection import ADDED, DOCUMENTED, NUMBERS, ROW, TEXTS, Wanted, nearest

log = logging.getLogger("flowlog.filter")


class Filter:
    """A compiled expression; one for the whole run, so that each warning is logged once."""

    def __init__(self, expression: str) -> None:
        """Raises ValueError, which says what is wrong with the expression, and where."""
        try:
            tree = parsed(expression)
            self._evaluate = compiled(tree)
            self._names = frozenset(names_in(tree, of_flow=True))
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        # If part of the expression refers to the flow as a whole (`@`), it needs all fields.
        self._needs_all = any(node["type"] in ("current", "identity") for node in nodes(tree))
        self._tree = tree
        self._warned: set[str] = set()
        self._failed = False

    def warnings(self) -> Iterator[str]:
        """Warnings about the expression that need no flow."""
        for name in sorted(self._names - DOCUMENTED - ADDED):
            yield (
                f"FLOWLOG_WHERE names {name!r}, which is not a documented field of a flow log; the"
                f" nearest name is {nearest(name, DOCUMENTED)!r} (a text needs single quotes)"
            )
        for node in nodes(self._tree):
            if node["type"] == "comparator" and (why := _never_equal(*node["children"])):
                yield f"FLOWLOG_WHERE compares {why}: they are never equal"

    def tester(self, fields: Mapping[str, Any], added: Mapping[str, Any]) -> Wanted:
        """Tests the entries of an object, whose lines also have these other fields.

        An entry is wanted if the expression is true, or if it can't be applied.
        """
        names, evaluate = self._names, self._evaluate
        # Most expressions use only fields of the entry itself, so nothing has to be merged.
        in_entry = not self._needs_all and names.isdisjoint(ADDED)

        def wanted(entry: Mapping[str, Any], row: int) -> bool:
            flow = entry
            if not (in_entry and names <= entry.keys()):
                flow = {**fields, **entry, **added, ROW: row}
                if not names <= flow.keys():
                    self._warn_of_names(flow)
                    return True
            try:
                return is_true(evaluate(flow))
            except FAILURES as error:
                self._warn_of_failure(error)
                return True

        return wanted

    def _warn_of_names(self, flow: Mapping[str, Any]) -> None:
        for name in sorted(self._names - flow.keys() - self._warned):
            self._warned.add(name)
            log.warning(
                "FLOWLOG_WHERE names %r, which a flow does not have: such flows are sent;"
                " the nearest name that this flow has is %r",
                name,
                nearest(name, flow),
            )

    def _warn_of_failure(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            log.warning(
                "FLOWLOG_WHERE can't be applied to a flow: such flows are sent: %.300s", error
            )


def _never_equal(left: Node, right: Node) -> str:
    """Why these two sides of a comparison can't be equal, by the documented types; else empty."""
    for field, literal in ((left, right), (right, left)):
        if field["type"] == "field" and literal["type"] == "literal":
            name, value = field["value"], literal["value"]
            if name in NUMBERS and isinstance(value, str):
                return f"{name!r}, a number, with the text {value!r}; a number is written `22`"
            if name in TEXTS and isinstance(value, int | float):
                return f"{name!r}, a text, with {value!r}; a text is written 'x'"
    return ""
