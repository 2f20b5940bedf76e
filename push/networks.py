"""Tests quickly whether an address is in one of several networks."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

CACHED_ADDRESSES = 2048
"""Results kept in memory for each set of networks. Most addresses of an interface occur many times
in an object; those of a port scan do not, and in a larger cache each of them takes twice the time,
since it does not fit into that of the processor."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class InvalidAddress(ValueError):
    """The value is not an IP address."""


def membership(networks: Iterable[Network]) -> Callable[[Any], bool]:
    """A test whether an address is in one of these networks; raises InvalidAddress, TypeError."""
    ranges: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
    for network in networks:
        ranges[network.version].append((int(network.netmask), int(network.network_address)))
    ipv4, ipv6 = ranges[4], ranges[6]

    # Most addresses occur many times; an unhashable value is not an address (TypeError). Parsing by
    # the system's own function takes a fifth of the time of `ipaddress`.
    @functools.lru_cache(CACHED_ADDRESSES)
    def contains(address: Any) -> bool:
        try:
            packed, candidates = inet_pton(AF_INET, address), ipv4
        except (OSError, ValueError, TypeError):
            packed, candidates = _packed_ipv6(address), ipv6
        number = int.from_bytes(packed)
        for mask, start in candidates:  # noqa: SIM110 - `any` takes twice the time
            if number & mask == start:
                return True
        return False

    return contains


def _packed_ipv6(address: Any) -> bytes:
    try:
        return inet_pton(AF_INET6, address)
    except (OSError, ValueError, TypeError):
        raise InvalidAddress(f"{address!r} is not an IP address") from None
