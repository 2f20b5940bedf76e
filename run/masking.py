"""Keeps secrets out of everything a run prints."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

SECRET_LENGTH = 8
"""A shorter value is not masked: it would match ordinary text all over the log."""

_SECRETS = ("APIKEY", "LOGDNA_INGESTION_KEY", "COS_HMAC_SECRET_ACCESS_KEY")
_SECRET_LISTS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS")
_URLS = re.compile("[A-Za-z_]+_(?:PROXY|ENDPOINT)", re.IGNORECASE).fullmatch
_CREDENTIALS = re.compile("(?:^|://)([^/?#]+)@").search
_IN_A_URL = re.compile("://([^/?#]+)@").search

# IAM's tokens are JSON Web Tokens (RFC 7519), whose header always begins like this.
_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)*|(?<=\bBearer )[!-~]+")


def secrets_of(environ: Mapping[str, str]) -> list[str]:
    """The values, or parts of values, that no log line may show."""
    found = [environ.get(name, "").strip() for name in _SECRETS]
    for name in _SECRET_LISTS:
        for pair in environ.get(name, "").split(","):
            value = pair.partition("=")[2].strip()
            # As it is, decoded, and without a leading `Basic` or `Bearer`.
            found += [value, unquote(value), unquote(value).rpartition(" ")[2]]
    for name, text in environ.items():
        if credentials := (_CREDENTIALS if _URLS(name) else _IN_A_URL)(text):
            password = credentials[1].partition(":")[2]
            found += [f"{credentials[1]}@", password, unquote(password)]
    return [secret for secret in found if len(secret) >= SECRET_LENGTH]


class Mask:
    """Replaces secrets with `***`, in all the forms in which a library may write them; and IAM
    tokens, which are not known in advance."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if secret for form in _forms(secret)}
        # The longest first: one may contain another.
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without them."""
        for form in self._forms:
            text = text.replace(form, "***")
        return _TOKEN.sub("***", text) if "eyJ" in text or "Bearer " in text else text


def _forms(secret: str) -> tuple[str, ...]:
    """A secret as it is, percent-encoded for a URL or form, and in base64 for basic auth."""
    plain, as_user = (
        base64.b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")
        for text in (secret, f"{secret}:")
    )
    return (as_user, plain, secret, quote(secret, safe="", errors="surrogatepass"))
