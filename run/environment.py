"""Reads environment variables and collects what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from connections.iam import (
    COMPUTE_RESOURCE_TOKEN,
    ApiKey,
    Identity,
    Tokens,
    TrustedProfile,
    tokens_for,
)
from connections.network import is_host
from connections.values import iso_seconds
from run.masking import SECRET_LENGTH

T = TypeVar("T")

IAM_URL = "https://iam.cloud.ibm.com"

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_SPAN_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Environment:
    """Reads variables; faults and warnings are collected, so that all are reported together."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        """The value; `default` if it is unset or empty."""
        return self._environ.get(name, "").strip() or default

    def required(self, name: str, why: str = "") -> str:
        """The value; a fault if it is unset or empty."""
        value = self.text(name)
        if not value:
            self.fault(f"{name} is not set{why}")
        return value

    def header(self, name: str, why: str = "") -> str:
        """A required value that is sent in a header or a form; no fault shows it."""
        value = self.required(name, why)
        if not value.isprintable() or not value.isascii():
            self.fault(f"{name} has characters that are not allowed in a key")
        return value

    def secret(self, name: str, why: str = "") -> str:
        """The same, for a value that is never shown."""
        value = self.text(name)
        if not 0 < len(value) < SECRET_LENGTH:
            return self.header(name, why)
        self.fault(f"{name} has fewer than {SECRET_LENGTH} characters: this is not a valid key")
        return value

    def parsed(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """The value as `parse` returns it; its ValueError becomes a fault."""
        value = self.text(name)
        if not value:
            return default
        try:
            return parse(value)
        except ValueError as error:
            self.fault(f"{name} {error}")
            return default

    def url(self, name: str, default: str = "") -> str:
        """A base URL without a trailing slash; `https://` is added to a bare host name."""
        url = self.parsed(name, parse_url, default)
        if url.startswith("http://") and urlsplit(url).hostname not in _LOOPBACK:
            self.warn(f"{name} is not encrypted (http://): others can read the keys")
        return url

    def warn(self, text: str) -> None:
        """Add a warning, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def fault(self, text: str) -> None:
        """Add a fault; its text begins with the variable's name."""
        self.faults.append(text)

    def identity(self) -> Identity:
        """The identity that the job uses with IAM; a fault if none or two are set."""
        name, id_ = self.text("IAM_PROFILE_NAME"), self.text("IAM_PROFILE_ID")
        if not name and not id_:
            return ApiKey(self.secret("APIKEY", ", nor is a trusted profile (IAM_PROFILE_NAME)"))
        if name and id_:
            self.fault("IAM_PROFILE_NAME and IAM_PROFILE_ID are both set: remove one of them")
        setting = "IAM_PROFILE_NAME" if name else "IAM_PROFILE_ID"
        if self.text("APIKEY"):
            self.warn(f"APIKEY is not used, since {setting} is set")
        file = self.text("CR_TOKEN_FILENAME", COMPUTE_RESOURCE_TOKEN)
        return TrustedProfile(setting, name or id_, Path(file))

    def tokens(self) -> Tokens:
        """The IAM tokens of the job; a fault if no credentials are set."""
        return tokens_for(self.identity(), self.url("IAM_ENDPOINT", IAM_URL))


def parse_url(text: str) -> str:
    """Check a base URL or a bare host. Raises ValueError, without the text in it."""
    url = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[!-~]+", url) or not is_host(parts.hostname or ""):
        raise ValueError("is not a host name or an http(s) URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password")
    if parts.query or parts.fragment:
        raise ValueError("must be a base URL, without `?` or `#`")
    return url.rstrip("/")


def parse_bucket(text: str) -> str:
    """Check the name of a bucket. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", text) or set(text) == {"."}:
        raise ValueError("is not a bucket name")
    return text


def parse_key(text: str) -> str:
    """Check the key of an object. Raises ValueError."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    if not 0 < size <= 1024:
        raise ValueError("is not a key: it must have 1 to 1024 bytes")
    return text


def parse_number(text: str) -> int:
    """A whole number of at most nine digits. Raises ValueError."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("is not a whole number")
    return int(text)


def parse_moment(text: str, now: datetime) -> int:
    """A date, time or time span before `now`, as seconds since the epoch. Raises ValueError."""
    if span := re.fullmatch(r"([0-9]{1,6})([mhdw])", text):
        return int(now.timestamp()) - int(span[1]) * _SPAN_SECONDS[span[2]]
    moment = iso_seconds(text)
    if moment is None:
        raise ValueError(
            "is neither a date or time in ISO 8601 (2026-11-01, 2026-11-01T06:00:00Z)"
            " nor a span back from now (90m, 36h, 7d)"
        )
    return moment
