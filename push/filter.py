"""Which flows are sent: a JMESPath expression (jmespath.org), checked and compiled once.

Nobody imports this file where no filter is set, since it brings jmespath along.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, NoReturn

from jmespath.exceptions import IncompleteExpressionError, JMESPathError
from jmespath.functions import Functions
from jmespath.lexer import Lexer
from jmespath.parser import Parser
from jmespath.visitor import TreeInterpreter

from push.selection import ADDED, DOCUMENTED, NUMBERS, ROW, TEXTS, Wanted, nearest

log = logging.getLogger("flowlog.filter")

CACHED_ADDRESSES = 16_384
"""So many addresses are known to each `cidr` of an expression: about 2 MiB."""

SHOWN_CHARACTERS = 20
"""So much of an expression is shown from a fault on."""

Node = Mapping[str, Any]
Evaluate = Callable[[Any], Any]


class Unfit(Exception):
    """The expression can't be applied to a flow; the text says why."""


_FAILS = (Unfit, TypeError, ValueError, ArithmeticError, LookupError, RecursionError)
"""What an expression raises that does not fit a flow; JMESPath's own errors are ValueErrors."""


class Filter:
    """A compiled expression; one for a whole run, since each warning is given once."""

    def __init__(self, expression: str) -> None:
        """Raises ValueError, whose text says what is wrong with the expression, and where."""
        try:
            tree = _with_networks(_parsed(expression), expression)
            self._evaluate = _compiled(tree)
            self._names = frozenset(_names_in(tree, of_flow=True))
        except RecursionError:
            raise ValueError("is nested too deeply") from None
        # Where a part of the expression is about the flow as a whole, it needs all fields.
        self._needs_all = any(node["type"] in ("current", "identity") for node in _nodes(tree))
        self._tree = tree
        self._warned: set[str] = set()
        self._failed = False

    def warnings(self) -> Iterator[str]:
        """What is to be said of the expression before any flow is seen."""
        for name in sorted(self._names - DOCUMENTED - ADDED):
            yield (
                f"FLOWLOG_WHERE names {name!r}, which is no documented field of a flow log; the"
                f" nearest name is {nearest(name, DOCUMENTED)!r} (a text stands in single quotes)"
            )
        for node in _nodes(self._tree):
            if node["type"] == "comparator" and (why := _never_equal(*node["children"])):
                yield f"FLOWLOG_WHERE compares {why}: they are never equal"

    def tester(self, fields: Mapping[str, Any], added: Mapping[str, Any]) -> Wanted:
        """Tests the entries of an object, whose lines have these fields around the entry's own.

        An entry is wanted where the expression is true, and where it can't be applied.
        """
        names, evaluate = self._names, self._evaluate
        # Mostly everything that is named is in the entry itself, and nothing has to be merged.
        in_entry = not self._needs_all and names.isdisjoint(ADDED)

        def wanted(entry: Mapping[str, Any], row: int) -> bool:
            flow = entry
            if not (in_entry and names <= entry.keys()):
                flow = {**fields, **entry, **added, ROW: row}
                if not names <= flow.keys():
                    self._warn_of_names(flow)
                    return True
            try:
                return _is_true(evaluate(flow))
            except _FAILS as error:
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


# --- the expression as a tree --------------------------------------------------------------------


def _parsed(expression: str) -> Node:
    """The tree of an expression whose functions are all known. Raises ValueError."""
    try:
        tree: Node = Parser().parse(expression).parsed
    except IncompleteExpressionError:
        raise ValueError("is no JMESPath expression: its end is missing") from None
    except JMESPathError as error:
        # A lexer's error has its reason in one attribute, a parser's in another.
        what = getattr(error, "message", "") or getattr(error, "msg", str(error))
        where = _where(expression, getattr(error, "lex_position", 0))
        raise ValueError(f"is no JMESPath expression: {where}: {what}") from None
    for node in _nodes(tree):
        if node["type"] == "function_expression" and node["value"] != "cidr":
            _check_function(node["value"], len(node["children"]), expression)
    return tree


def _where(expression: str, position: int) -> str:
    return f"at character {position + 1}, `{expression[position:][:SHOWN_CHARACTERS]}`"


def _where_called(expression: str, name: str) -> str:
    """Where the expression calls this function; the tree does not tell."""
    tokens = list(Lexer().tokenize(expression))
    for token, following in zip(tokens, tokens[1:], strict=False):
        if token["value"] == name and following["type"] == "lparen":
            return _where(expression, token["start"])
    return ""


def _check_function(name: str, given: int, expression: str) -> None:
    known = Functions.FUNCTION_TABLE.get(name)
    if known is None:
        near = nearest(name, [*Functions.FUNCTION_TABLE, "cidr"])
        where = _where_called(expression, name)
        raise ValueError(f"calls an unknown function `{name}` {where}; the nearest is `{near}`")
    signature = known["signature"]
    variadic = bool(signature) and signature[-1].get("variadic", False)
    if given < len(signature) or (given > len(signature) and not variadic):
        least = "at least " if variadic else ""
        where = _where_called(expression, name)
        raise ValueError(
            f"gives `{name}` {given} arguments {where}; it takes {least}{len(signature)}"
        )


def _nodes(node: Node) -> Iterator[Node]:
    """This node and all below it."""
    yield node
    for child in _children(node):
        yield from _nodes(child)


def _children(node: Node) -> list[Node]:
    # The children of a slice are numbers.
    return [child for child in node["children"] if isinstance(child, dict)]


_CHAINS = frozenset(("subexpression", "pipe", "index_expression"))
_PROJECTIONS = frozenset(("projection", "value_projection", "filter_projection", "flatten"))


def _names_in(node: Node, *, of_flow: bool) -> Iterator[str]:
    """The names of a flow's fields in an expression; `of_flow`: it is applied to the flow itself.

    A field may also be one of another field's value (`a.b`) or of an element (`a[?b]`).
    """
    kind, children = node["type"], _children(node)
    if kind == "field" and of_flow:
        yield node["value"]
    for number, child in enumerate(children):
        inside = of_flow and kind != "expref"
        if number and (kind in _PROJECTIONS or (kind in _CHAINS and not _is_flow(children[0]))):
            inside = False
        yield from _names_in(child, of_flow=inside)


def _is_flow(node: Node) -> bool:
    """Whether this part of an expression stands for all of what it is applied to."""
    return node["type"] in ("current", "identity")


def _never_equal(left: Node, right: Node) -> str:
    """Why these two sides of a comparison can't be equal, as far as documented types tell."""
    for field, literal in ((left, right), (right, left)):
        if field["type"] == "field" and literal["type"] == "literal":
            name, value = field["value"], literal["value"]
            if name in NUMBERS and isinstance(value, str):
                return f"{name!r}, a number, with the text {value!r}; a number is written `22`"
            if name in TEXTS and isinstance(value, int | float):
                return f"{name!r}, a text, with {value!r}; a text is written 'x'"
    return ""


# --- the expression as a function ----------------------------------------------------------------


class _Interpreter(TreeInterpreter):  # type: ignore[misc] # jmespath has no types
    """Evaluates what `_compiled` leaves to it; raises Unfit where JMESPath would make do with null.

    Null counts as false, and so a flow that the expression does not fit would not be sent.
    """

    def visit_field(self, node: Node, value: Any) -> Any:
        name = node["value"]
        if not isinstance(value, Mapping):
            raise Unfit(f"there is no {name!r} in a value that is not an object")
        if name not in value:
            raise Unfit(f"there is no {name!r} in a value")
        return value[name]

    def visit_comparator(self, node: Node, value: Any) -> Any:
        left, right = (self.visit(child, value) for child in node["children"])
        return _comparison(node["value"])(left, right)

    def visit_cidr(self, node: Node, value: Any) -> bool:
        return bool(node["value"](self.visit(node["children"][0], value)))

    def visit_projection(self, node: Node, value: Any) -> Any:
        return _list(super().visit_projection(node, value))

    def visit_value_projection(self, node: Node, value: Any) -> Any:
        return _list(super().visit_value_projection(node, value))

    def visit_filter_projection(self, node: Node, value: Any) -> Any:
        return _list(super().visit_filter_projection(node, value))

    def visit_flatten(self, node: Node, value: Any) -> Any:
        return _list(super().visit_flatten(node, value))

    def visit_slice(self, node: Node, value: Any) -> Any:
        return _list(super().visit_slice(node, value))

    def visit_index(self, node: Node, value: Any) -> Any:
        if not isinstance(value, list) or not -len(value) <= node["value"] < len(value):
            raise Unfit(f"there is no element {node['value']} in a value")
        return value[node["value"]]


_INTERPRETER = _Interpreter()


def _list(result: Any) -> Any:
    """What JMESPath makes of a list; it makes null of anything else."""
    if result is None:
        raise Unfit("a value is not a list")
    return result


def _is_true(value: Any) -> bool:
    """True in JMESPath's sense: 0 is."""
    return value is True or (value is not False and bool(_INTERPRETER._is_true(value)))


def _comparison(operator: str) -> Callable[[Any, Any], bool]:
    """A comparison; one by order raises Unfit unless both are numbers or both are texts."""
    compare: Callable[[Any, Any], bool] = TreeInterpreter.COMPARATOR_FUNC[operator]
    if operator in ("eq", "ne"):
        return compare

    def ordered(left: Any, right: Any) -> bool:
        # In Python a boolean is a number.
        kinds = {bool: bool, int: float, float: float, str: str}
        kind = kinds.get(type(left))
        if kind not in (float, str) or kind is not kinds.get(type(right)):
            raise Unfit(f"{left!r} and {right!r} have no order")
        return compare(left, right)

    return ordered


def _compiled(node: Node) -> Evaluate:
    """The expression as a function of a flow that has all the fields that it names.

    The kinds of nodes that filters are mostly made of become plain Python functions, which takes a
    fraction of the interpreter's time; all others are left to that.
    """
    kind = node["type"]
    if kind == "field":
        return itemgetter(node["value"])
    if kind == "literal":
        return lambda _, value=node["value"]: value
    if kind not in _BUILT:
        return functools.partial(_INTERPRETER.visit, node)
    return _BUILT[kind](node, [_compiled(child) for child in node["children"]])


def _build_and(node: Node, parts: list[Evaluate]) -> Evaluate:
    first, second = parts

    def both(flow: Any) -> Any:
        value = first(flow)
        return second(flow) if _is_true(value) else value

    return both


def _build_or(node: Node, parts: list[Evaluate]) -> Evaluate:
    first, second = parts

    def either(flow: Any) -> Any:
        value = first(flow)
        return value if _is_true(value) else second(flow)

    return either


def _build_not(node: Node, parts: list[Evaluate]) -> Evaluate:
    (inner,) = parts
    return lambda flow: not _is_true(inner(flow))


def _build_cidr(node: Node, parts: list[Evaluate]) -> Evaluate:
    (address,), lies_in = parts, node["value"]
    return lambda flow: lies_in(address(flow))


def _build_comparator(node: Node, parts: list[Evaluate]) -> Evaluate:
    (left, right), compare = parts, _comparison(node["value"])
    last = node["children"][1]
    if last["type"] == "literal" and _compares_plainly(last["value"]):
        if node["value"] == "eq":
            return lambda flow, value=last["value"]: left(flow) == value
        if node["value"] == "ne":
            return lambda flow, value=last["value"]: left(flow) != value
    return lambda flow: compare(left(flow), right(flow))


def _compares_plainly(value: Any) -> bool:
    """Whether JMESPath compares with this as Python does, where 1 is True and 0 is False."""
    return isinstance(value, str) or (isinstance(value, int) and value not in (0, 1))


_BUILT: Mapping[str, Callable[[Node, list[Evaluate]], Evaluate]] = {
    "and_expression": _build_and,
    "or_expression": _build_or,
    "not_expression": _build_not,
    "comparator": _build_comparator,
    "cidr": _build_cidr,
}


# --- networks ------------------------------------------------------------------------------------

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _with_networks(node: Node, expression: str) -> Node:
    """The tree with each call of `cidr` as a node of its own, its networks made ready.

    Raises ValueError for a network that is none.
    """
    children = [
        _with_networks(child, expression) if isinstance(child, dict) else child
        for child in node["children"]
    ]
    if node["type"] != "function_expression" or node["value"] != "cidr":
        return {**node, "children": children}
    where = _where_called(expression, "cidr")
    if len(children) < 2 or children[0]["type"] == "expref":
        raise ValueError(f"gives `cidr` no address and network {where}")
    networks = [_network(child, where) for child in children[1:]]
    return {"type": "cidr", "value": _membership(networks), "children": children[:1]}


def _network(node: Node, where: str) -> Network:
    text = node.get("value")
    if node["type"] != "literal" or not isinstance(text, str):
        raise ValueError(f"gives `cidr` a network that is not a text in quotes {where}")
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"gives `cidr` a network that is none: {error}") from None


def _membership(networks: Iterable[Network]) -> Callable[[Any], bool]:
    """Whether an address lies in one of these networks. Raises Unfit where it is no address."""
    ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for network in networks:
        ranges[network.version].append((int(network.netmask), int(network.network_address)))

    # Addresses come up again and again, and an unhashable one is none anyway.
    @functools.lru_cache(CACHED_ADDRESSES)
    def lies_in(address: Any) -> bool:
        version, number = _number(address)
        return any([number & mask == start for mask, start in ranges[version]])

    return lies_in


def _number(address: Any) -> tuple[int, int]:
    """The version and the number of an address, in a fifth of the time of `ipaddress`."""
    if not isinstance(address, str):
        _no_address(address)
    version, family = (6, socket.AF_INET6) if ":" in address else (4, socket.AF_INET)
    try:
        return version, int.from_bytes(socket.inet_pton(family, address))
    except (OSError, ValueError):
        _no_address(address)


def _no_address(value: Any) -> NoReturn:
    raise Unfit(f"{value!r} is no address")
