"""The time limit of an exchange: inside another one, and for all kinds of connections."""

from __future__ import annotations

import math
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from urllib3.util.ssltransport import SSLTransport

from connections.iam import ApiKey, Tokens, TokenUnavailable
from connections.time_limit import TooSlow, note_socket, seconds_left, time_limit
from standins.faults import Answer, Silence
from standins.iam import IAM


def test_both_limits_apply_to_a_token_request_inside_an_exchange() -> None:
    with IAM("key") as iam:
        iam.script.always(Silence())
        # By the limit of the token alone it would be TokenUnavailable, and only after ten seconds.
        with pytest.raises(TooSlow, match=r"0\.3 s"), time_limit(0.3):
            Tokens(ApiKey("key"), iam.url).get_token()


def test_an_outer_limit_applies_again_after_an_inner_one() -> None:
    with time_limit(50):
        with time_limit(math.inf):
            assert 40 < seconds_left() <= 50
        with time_limit(1):
            assert seconds_left() <= 1
        assert 40 < seconds_left() <= 50
    assert seconds_left() == -1


def test_iam_is_asked_once_for_all_waiting_threads() -> None:
    with IAM("key") as iam:
        iam.script.next([Answer(429, {"Retry-After": "50"})])
        tokens = Tokens(ApiKey("key"), iam.url)
        for _ in range(3):
            with pytest.raises(TokenUnavailable) as caught:
                tokens.get_token()
            assert caught.value.after is not None
            assert 40 < caught.value.after <= 51
        assert len(iam.requests) == 1


def test_a_token_is_used_until_refused_if_iam_can_not_renew_it() -> None:
    with IAM("key", lifetime=0) as iam:
        tokens = Tokens(ApiKey("key"), iam.url)
        first = tokens.get_token()
        iam.script.always(Answer(503))
        assert tokens.get_token() == first
        assert tokens.replace(first)
        with pytest.raises(TokenUnavailable):
            tokens.get_token()


def test_a_token_that_was_replaced_just_now_is_not_replaced_again() -> None:
    with IAM("key") as iam:
        tokens = Tokens(ApiKey("key"), iam.url)
        first = tokens.get_token()
        assert tokens.replace(first)
        second = tokens.get_token()
        assert second != first
        assert tokens.replace(first), "another one is there already"
        assert not tokens.replace(second)
        assert tokens.get_token() == second


def tls_in_tls(inner: Any) -> SSLTransport:
    """The kind of socket that a connection through an HTTPS proxy has, without its handshake."""
    transport = SSLTransport.__new__(SSLTransport)
    transport.socket = inner
    return transport


def wait_for_the_end(ours: socket.socket, noted: Any) -> None:
    with pytest.raises(TooSlow), time_limit(0.01):
        note_socket(SimpleNamespace(sock=noted))  # type: ignore[arg-type]
        assert ours.recv(1) == b"", "closed from outside, or the time-out of this socket"
        raise ConnectionError


@pytest.mark.parametrize("wrap", [lambda s: s, tls_in_tls, lambda s: tls_in_tls(tls_in_tls(s))])
def test_an_exchange_is_cut_off(wrap: Any) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    with ours, theirs:
        wait_for_the_end(ours, wrap(ours))


def test_the_watch_survives_a_socket_that_can_not_be_closed() -> None:
    with time_limit(0.01):
        note_socket(SimpleNamespace(sock=object()))  # type: ignore[arg-type]
        ours, theirs = socket.socketpair()
        ours.settimeout(20)
        with ours, theirs:
            wait_for_the_end(ours, ours)
