"""Which flows are sent: as in JMESPath, but flows to which it can't be applied are sent too."""

from __future__ import annotations

import ipaddress
import json
import logging
from typing import Any

import hypothesis.strategies as st
import jmespath
import pytest
from hypothesis import given, settings
from jmespath.exceptions import JMESPathError

from push.filter import Filter
from tests.harness import NIGHTLY, short_name

FLOW = {
    "action": "rejected",
    "initiator_ip": "10.1.2.3",
    "target_ip": "2001:db8::1",
    "target_port": 22,
    "was_initiated": True,
    "big": 2**70,
    "empty": "",
    "none": None,
    "list": [{"a": 1}, {"a": 2}],
}
FIELDS = {"state": "ok", "action": "of the object"}
ADDED = {"_app": "FLCE", "key": "k", "_object": short_name("k")}


def sends(expression: str, flow: Any = FLOW) -> bool:
    return Filter(expression).tester(FIELDS, ADDED)(flow, 7)


@pytest.mark.parametrize(
    ("expression", "sent"),
    [
        ("action=='rejected'", True),
        ("action!='rejected'", False),
        ("action=='rejected' && target_port==`23`", False),
        ("action=='accepted' || target_port==`22`", True),
        ("!(target_port==`22`)", False),
        ("target_port >= `22` && target_port < `23`", True),
        ("big == `1180591620717411303424`", True),
        ("big == `1180591620717411303425`", False),
        ("was_initiated", True),
        ("was_initiated==`1`", False),
        ("empty", False),
        ("none", False),
        ("`0`", True),
        ("contains(`[22, 3389]`, target_port)", True),
        ("contains(`[23]`, target_port)", False),
        ("starts_with(action, 'rej')", True),
        ("length(action) == `8`", True),
        ("list[?a==`2`]", True),
        ("list[?a==`3`]", False),
        ("list[1].a == `2`", True),
        ("{x: action}.x == 'rejected'", True),
        ("@.action == 'rejected'", True),
        ("contains(keys(@), 'state')", True),
        ("contains(keys(@), 'nothing')", False),
        ("state == 'ok'", True),
        ("state == 'skip data'", False),
        ("_app=='FLCE' && key=='k' && _row==`7`", True),
        ("_row==`6`", False),
        (f"_object=='{short_name('k')}'", True),
        ("cidr(initiator_ip, '10.0.0.0/8')", True),
        ("cidr(initiator_ip, '11.0.0.0/8', '10.1.2.3')", True),
        ("cidr(initiator_ip, '11.0.0.0/8', '::/0')", False),
        ("cidr(target_ip, '2001:db8::/32')", True),
        ("cidr(target_ip, '0.0.0.0/0')", False),
        ('cidr(initiator_ip, `"10.0.0.0/8"`)', True),
        ("[action, initiator_ip][?cidr(@, '10.0.0.0/8')]", True),
    ],
)
def test_a_flow_is_sent_if_the_expression_is_true(expression: str, sent: bool) -> None:
    assert sends(expression) is sent


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ('action=="accepted"', "names 'accepted', which a flow does not have"),
        ("acton=='accepted'", "the nearest name that this flow has is 'action'"),
        ("action=='accepted' && nothing", "names 'nothing'"),
        ("target_port < 'x'", "22 and 'x' have no order"),
        ("none > `1`", "None and 1 have no order"),
        ("was_initiated > `5`", "True and 5 have no order"),
        ("length(target_port) > `100`", "invalid type for value: 22"),
        ("cidr(action, '10.0.0.0/8')", "'rejected' is not an IP address"),
        ("cidr(empty, '10.0.0.0/8')", "'' is not an IP address"),
        ("cidr(target_port, '10.0.0.0/8')", "22 is not an IP address"),
        ("cidr(list, '10.0.0.0/8')", "unhashable"),
        ("[?action=='accepted']", "a value is not a list"),
        ("action[*].x", "a value is not a list"),
        ("list[5]", "there is no element 5"),
        ("action.x", "there is no 'x'"),
        ("list[0].b == `1`", "there is no 'b'"),
        ("list[?b==`1`]", "there is no 'b'"),
    ],
)
def test_a_flow_that_the_expression_does_not_fit_is_sent_and_warned_about_once(
    caplog: pytest.LogCaptureFixture, expression: str, said: str
) -> None:
    wanted = Filter(expression).tester(FIELDS, ADDED)
    assert [wanted(FLOW, row) for row in range(3)] == [True, True, True]
    assert [said in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("action=='x' &&", "is not a valid JMESPath expression: its end is missing"),
        ("action='x'", "at character 7, `='x'`: Unknown token '='"),
        ("action=='x", "at character 9, `'x`: Unclosed ' delimiter"),
        ("action == 'x' bytes", "at character 15, `bytes`"),
        ("action && cdir(a, '10.0.0.0/8')",
         r"unknown function `cdir` at character 11, .* nearest is `cidr`"),
        ("lenght(action)", "unknown function `lenght` at character 1, .* nearest is `length`"),
        ("starts_with(action)", "gives `starts_with` 1 arguments at character 1, .* takes 2"),
        ("not_null()", "takes at least 1"),
        ("cidr(initiator_ip)", "gives `cidr` no address and network at character 1"),
        ("cidr(initiator_ip, target_ip)", "a network that is not a text in quotes"),
        ("cidr(initiator_ip, `5`)", "a network that is not a text in quotes"),
        ("cidr(initiator_ip, '10.0.0.0/33')", r"network at character 20, .*: '10.0.0.0/33'"),
        ("cidr(initiator_ip, '10.0.0.1/8')", "10.0.0.1/8 has host bits set"),
        ("cidr(initiator_ip, '10.0.0.0/8', 'home')", r"network at character 34, .*: 'home'"),
        ("cidr(a, '::/0') || cidr(a, `\"10.0.0.0/8.\"`)", r"at character 1, .*: '10.0.0.0/8.'"),
        ("!" * 5000 + "a", "is nested too deeply"),
    ],
)  # fmt: skip
def test_a_faulty_expression(expression: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Filter(expression)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("action=='rejected' && state && _row && was_initiated && key", []),
        ("@.action || list", ["'list'"]),
        ('action=="rejected"', ["'rejected'", "single quotes"]),
        ("acton", ["'acton'", "nearest name is 'action'"]),
        ("target_port=='22'", ["'target_port', a number, with the text '22'"]),
        ("'22'!=target_port", ["'target_port', a number, with the text '22'"]),
        ("action==`1`", ["'action', a text, with 1"]),
        ("direction[?any]", []),
        ("{x: direction}.x", []),
    ],
)
def test_warnings_about_the_expression_itself(expression: str, said: list[str]) -> None:
    warnings = list(Filter(expression).warnings())
    assert len(warnings) == (1 if said else 0), warnings
    assert all(part in warnings[0] for part in said)


# --- against JMESPath's own interpreter ----------------------------------------------------------

FIELD_NAMES = ["action", "port", "bytes", "flag", "missing", "list"]
literals = st.one_of(
    st.sampled_from(["'rejected'", "''", "'10.0.0.1'"]),
    st.sampled_from([0, 1, 22, 1.0, 2**65, True, False, None, [], {}, [1, 22], ["rejected"]]).map(
        lambda value: f"`{json.dumps(value)}`"
    ),
)
operands = st.sampled_from(FIELD_NAMES) | literals


def compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    comparison = st.tuples(inner, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), inner)
    junction = st.tuples(inner, st.sampled_from(["&&", "||", "|"]), inner)
    one = st.sampled_from(["length", "to_string", "type", "not_null", "to_number", "max", "keys"])
    return st.one_of(
        comparison.map(lambda parts: f"({' '.join(parts)})"),
        junction.map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda text: f"(!{text})"),
        st.tuples(one, inner).map(lambda parts: f"{parts[0]}({parts[1]})"),
        st.tuples(inner, inner).map(lambda parts: f"contains({parts[0]}, {parts[1]})"),
        inner.map(lambda text: f"list[?{text}]"),
        inner.map(lambda text: f"[{text}, action]"),
        st.sampled_from(["list[0]", "list[*].action", "@.action", "list[1:]", "keys(@)"]),
    )


expressions = st.recursive(operands, compound, max_leaves=6)
scalars = st.sampled_from(["rejected", "", "10.0.0.1", 0, 1, 22, 1.0, 2**65, True, False, None])
flows = st.dictionaries(
    st.sampled_from([name for name in FIELD_NAMES if name != "missing"]),
    scalars | st.lists(scalars | st.dictionaries(st.just("action"), scalars), max_size=2),
)


def is_true(value: Any) -> bool:
    return not (value is None or value is False or value == "" or value == [] or value == {})


@settings(max_examples=20_000 if NIGHTLY else 300, deadline=None)
@given(expressions, flows)
def test_only_what_jmespath_says_is_false_is_left_out(
    expression: str, flow: dict[str, Any]
) -> None:
    try:
        compiled = Filter(expression)
    except ValueError:
        return  # such as an argument too many
    logging.disable()
    sent = compiled.tester({}, ADDED)(flow, 0)
    logging.disable(logging.NOTSET)
    try:
        true = is_true(jmespath.search(expression, {**flow, **ADDED, "_row": 0}))
    except (JMESPathError, TypeError, AttributeError):
        true = True
    if true:
        assert sent, "a filter never loses what is true, or what it does not understand"
    elif flow.keys() >= {"action", "port", "bytes", "flag", "list"} and "missing" not in expression:
        # Here, only a wrong type can be the reason for sending it.
        assert not sent or compiled._failed


WELL_TYPED = {"action": "rejected", "port": 22, "bytes": 2**65, "flag": True, "list": ["a"]}
typed = st.recursive(
    st.sampled_from(
        ["action=='rejected'", "action!='rejected'", "'accepted'==action", "port==`22`",
         "port!=`1`", "port<`22`", "bytes>=`36893488147419103232`", "port==bytes", "flag",
         "flag==`true`", "flag==`1`", "!flag", "contains(`[22, 80]`, port)", "action<='z'",
         "contains(list, 'a')", "list[?@=='b']", "starts_with(action, 'x')", "type(port)=='number'"]
    ),
    lambda inner: st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(
        lambda parts: f"({' '.join(parts)})"
    ) | inner.map(lambda text: f"!({text})"),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(typed, st.sampled_from(["rejected", "accepted"]), st.integers(20, 24), st.booleans())
def test_expressions_mean_the_same_as_in_jmespath(
    expression: str, action: str, port: int, flag: bool
) -> None:
    flow = {**WELL_TYPED, "action": action, "port": port, "flag": flag}
    compiled = Filter(expression)
    assert compiled.tester({}, ADDED)(flow, 0) == is_true(jmespath.search(expression, flow))
    assert not compiled._failed


@settings(max_examples=400, deadline=None)
@given(
    st.ip_addresses().map(str) | st.text(max_size=6),
    st.lists(st.tuples(st.ip_addresses(), st.integers(0, 128)), min_size=1, max_size=3),
)
def test_networks_contain_the_same_addresses_as_by_the_standard_library(
    address: str, around: list[tuple[Any, int]]
) -> None:
    networks = [
        ipaddress.ip_network((ip, min(bits, ip.max_prefixlen)), strict=False) for ip, bits in around
    ]
    quoted = ", ".join(f"'{network}'" for network in networks)
    logging.disable()
    sent = sends(f"cidr(initiator_ip, {quoted})", {"initiator_ip": address})
    logging.disable(logging.NOTSET)
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        assert sent
    else:
        assert sent == any(
            parsed in network for network in networks if network.version == parsed.version
        )
