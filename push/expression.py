"""Parses a JMESPath expression, checks it, and compiles it to a function of a flow."""

from __future__ import annotations

import functools
import ipaddress
import itertools
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any

from jmespath.exceptions import IncompleteExpressionError, JMESPathError
from jmespath.functions import Functions
from jmespath.lexer import Lexer
from jmespath.parser import Parser
from jmespath.visitor import TreeInterpreter

from push.networks import Network, membership
from push.selection import nearest

SHOWN_CHARACTERS = 20
"""A message shows this much of the expression, from the fault on."""

Node = Mapping[str, Any]
Evaluate = Callable[[Any], Any]


class NotApplicable(Exception):
    """An expression can't be applied to a flow; the text says why."""


FAILURES = (NotApplicable, TypeError, ValueError, ArithmeticError, LookupError, RecursionError)
"""What an expression can raise for a flow; JMESPath's own errors are ValueErrors."""


# --- the expression as a tree --------------------------------------------------------------------


def parsed(expression: str) -> Node:
    """The syntax tree of an expression, with its functions and networks checked.

    Raises ValueError, which says what is wrong with the expression, and where.
    """
    try:
        tree: Node = Parser().parse(expression).parsed
    except IncompleteExpressionError:
        raise ValueError("is not a valid JMESPath expression: its end is missing") from None
    except JMESPathError as error:
        # The lexer's errors have their text in one attribute, the parser's in another.
        what = getattr(error, "message", "") or getattr(error, "msg", str(error))
        where = _where(expression, getattr(error, "lex_position", 0))
        raise ValueError(f"is not a valid JMESPath expression: {where}: {what}") from None
    for node in nodes(tree):
        if node["type"] == "function_expression" and node["value"] != "cidr":
            _check_function(node["value"], len(node["children"]), expression)
    return _with_networks(tree, expression)


def _where(expression: str, position: int) -> str:
    return f"at character {position + 1}, `{expression[position:][:SHOWN_CHARACTERS]}`"


def _where_called(expression: str, name: str) -> str:
    """Where the expression calls this function, which the tree does not tell."""
    tokens = list(Lexer().tokenize(expression))
    for token, following in itertools.pairwise(tokens):
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


def nodes(node: Node) -> Iterator[Node]:
    """This node and all below it."""
    yield node
    for child in _children(node):
        yield from nodes(child)


def _children(node: Node) -> list[Node]:
    # The children of a slice are numbers.
    return [child for child in node["children"] if isinstance(child, dict)]


_CHAINS = frozenset(("subexpression", "pipe", "index_expression"))
_PROJECTIONS = frozenset(("projection", "value_projection", "filter_projection", "flatten"))


def names_in(node: Node, *, of_flow: bool) -> Iterator[str]:
    """The flow's fields that an expression uses; `of_flow`: it is applied to the flow itself.

    Not the fields of another field's value (`a.b`) or of an element (`a[?b]`).
    """
    kind, children = node["type"], _children(node)
    if kind == "field" and of_flow:
        yield node["value"]
    for number, child in enumerate(children):
        inside = of_flow and kind != "expref"
        if number and (kind in _PROJECTIONS or (kind in _CHAINS and not _is_flow(children[0]))):
            inside = False
        yield from names_in(child, of_flow=inside)


def _is_flow(node: Node) -> bool:
    """Whether this part of an expression is the whole value that it is applied to."""
    return node["type"] in ("current", "identity")


def _with_networks(node: Node, expression: str) -> Node:
    """The tree with each call of `cidr` as a node of its own kind, its networks parsed.

    Raises ValueError for an invalid network.
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
    networks = [_network(child, where, expression) for child in children[1:]]
    return {"type": "cidr", "value": membership(networks), "children": children[:1]}


def _network(node: Node, where: str, expression: str) -> Network:
    text = node.get("value")
    if node["type"] != "literal" or not isinstance(text, str):
        raise ValueError(f"gives `cidr` a network that is not a text in quotes {where}")
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        # The tree does not say where a text is.
        position = expression.find(f"'{text}'")
        where = _where(expression, position) if position >= 0 else where
        raise ValueError(f"gives `cidr` an invalid network {where}: {error}") from None


# --- the expression as a function ----------------------------------------------------------------


class _Interpreter(TreeInterpreter):  # type: ignore[misc] # jmespath has no types
    """Evaluates what `compiled` does not; raises NotApplicable where JMESPath would return null.

    Null counts as false, so a flow to which the expression can't be applied would not be sent.
    """

    def visit_field(self, node: Node, value: Any) -> Any:
        name = node["value"]
        if not isinstance(value, Mapping):
            raise NotApplicable(f"there is no {name!r} in a value that is not an object")
        if name not in value:
            raise NotApplicable(f"there is no {name!r} in a value")
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
            raise NotApplicable(f"there is no element {node['value']} in a value")
        return value[node["value"]]


_INTERPRETER = _Interpreter()


def _list(result: Any) -> Any:
    """The result of an operation on a list; JMESPath returns null for any other value."""
    if result is None:
        raise NotApplicable("a value is not a list")
    return result


def is_true(value: Any) -> bool:
    """Whether JMESPath takes the value as true, which it does for 0."""
    return value is True or (value is not False and bool(_INTERPRETER._is_true(value)))


def _comparison(operator: str) -> Callable[[Any, Any], bool]:
    """A comparison; `<` and the like raise NotApplicable unless both are numbers or both texts."""
    compare: Callable[[Any, Any], bool] = TreeInterpreter.COMPARATOR_FUNC[operator]
    if operator in ("eq", "ne"):
        return compare

    def ordered(left: Any, right: Any) -> bool:
        # In Python a boolean is a number.
        kinds = {bool: bool, int: float, float: float, str: str}
        kind = kinds.get(type(left))
        if kind not in (float, str) or kind is not kinds.get(type(right)):
            raise NotApplicable(f"{left!r} and {right!r} have no order")
        return compare(left, right)

    return ordered


def compiled(node: Node) -> Evaluate:
    """The expression as a function of a flow that has all the fields that it uses.

    The most frequent kinds of nodes become plain Python functions, which take a fraction of the
    interpreter's time; the interpreter evaluates all others.
    """
    kind = node["type"]
    if kind == "field":
        return itemgetter(node["value"])
    if kind == "literal":
        return _constant(node["value"])
    if kind not in _BUILT:
        return functools.partial(_INTERPRETER.visit, node)
    return _BUILT[kind](node, [compiled(child) for child in _children(node)])


def _constant(value: Any) -> Evaluate:
    return lambda _: value


def _build_and(node: Node, parts: list[Evaluate]) -> Evaluate:
    first, second = parts

    def both(flow: Any) -> Any:
        value = first(flow)
        return second(flow) if is_true(value) else value

    return both


def _build_or(node: Node, parts: list[Evaluate]) -> Evaluate:
    first, second = parts

    def either(flow: Any) -> Any:
        value = first(flow)
        return value if is_true(value) else second(flow)

    return either


def _build_not(node: Node, parts: list[Evaluate]) -> Evaluate:
    (inner,) = parts
    return lambda flow: not is_true(inner(flow))


def _build_cidr(node: Node, parts: list[Evaluate]) -> Evaluate:
    (address,), contains = parts, node["value"]
    return lambda flow: contains(address(flow))


def _build_function(node: Node, parts: list[Evaluate]) -> Evaluate:
    if not _is_list_of_choices(node):
        return functools.partial(_INTERPRETER.visit, node)
    choices, value = node["children"][0]["value"], parts[1]
    return lambda flow: value(flow) in choices


def _is_list_of_choices(node: Node) -> bool:
    """Whether this is ``contains(`[22, 3389]`, target_port)`` or the like."""
    if node["value"] != "contains":
        return False
    first = node["children"][0]
    return first["type"] == "literal" and isinstance(first["value"], list)


def _build_comparator(node: Node, parts: list[Evaluate]) -> Evaluate:
    (left, right), compare = parts, _comparison(node["value"])
    last = node["children"][1]
    value = last.get("value")
    if last["type"] == "literal" and _compares_as_in_python(value):
        if node["value"] == "eq":
            return lambda flow: left(flow) == value
        if node["value"] == "ne":
            return lambda flow: left(flow) != value
    return lambda flow: compare(left(flow), right(flow))


def _compares_as_in_python(value: Any) -> bool:
    """Whether JMESPath compares this value as Python does; in Python, 1 is True and 0 is False."""
    return isinstance(value, str) or (isinstance(value, int) and value not in (0, 1))


_BUILT: Mapping[str, Callable[[Node, list[Evaluate]], Evaluate]] = {
    "and_expression": _build_and,
    "or_expression": _build_or,
    "not_expression": _build_not,
    "comparator": _build_comparator,
    "cidr": _build_cidr,
    "function_expression": _build_function,
}
