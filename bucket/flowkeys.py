"""Parses the keys of flow logs: the network interface, and the hour.

A collector writes under `…/record-type=T/year=Y/month=M/day=D/hour=H/…`, so that keys sort by
interface and record type, then by hour (IBM Cloud docs, VPC, "Viewing flow log objects").
"""

from __future__ import annotations

import functools
import re
import time

HOUR_SECONDS = 3600

USUAL_HOURS = 2
"""An object that was written more than this many hours after the hour in its key is late."""

_RECORD_TYPE, _YEAR = "/record-type=", "/year="
_IN_HOUR = re.compile(r"/year=[0-9]{4}/month=[0-9]{2}/day=[0-9]{2}/hour=[0-9]{2}/")


def interface_of(key: str) -> str | None:
    """The part of the key before the year: interface and record type; None for another form."""
    end = key.find("/", key.find(_RECORD_TYPE) + 1)
    if _RECORD_TYPE not in key or not key.startswith(_YEAR, end):
        return None
    return key[:end]


def is_in_hour(key: str, interface: str) -> bool:
    """Whether the key of this interface has a complete hour, as those of collectors do."""
    return _IN_HOUR.match(key, len(interface)) is not None


def hour_key(interface: str, seconds: int) -> str:
    """The place in the order of keys where the hour of this time begins for this interface.

    Keys of this hour and of later ones sort after it, keys of earlier hours before it.
    """
    return interface + _hour(max(0, seconds) // HOUR_SECONDS)


@functools.lru_cache(maxsize=4096)
def _hour(number: int) -> str:
    return time.strftime("/year=%Y/month=%m/day=%d/hour=%H", time.gmtime(number * HOUR_SECONDS))


def is_late(key: str, last_modified: int) -> bool:
    """Whether an object was written unusually long after its hour; False for keys of another form.

    By comparing keys, so that there is an answer for every key of an interface, even a wrong hour.
    """
    interface = interface_of(key)
    if interface is None:
        return False
    return key <= hour_key(interface, last_modified - USUAL_HOURS * HOUR_SECONDS)
