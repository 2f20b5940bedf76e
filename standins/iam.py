"""A stand-in for IBM Cloud IAM: bearer tokens for API keys and for compute resource tokens."""

from __future__ import annotations

import json
import secrets
import time
from urllib.parse import parse_qs

from standins.faults import Answer
from standins.http import HTTPRequest, Server

GRANT_APIKEY = "urn:ibm:params:oauth:grant-type:apikey"
GRANT_CR_TOKEN = "urn:ibm:params:oauth:grant-type:cr-token"


class IAM(Server):
    """`POST /identity/token` (IAM Identity Services API, "Create an IAM access token").

    `lifetime` is what a token says, in seconds; if `valid_for` is set, it is valid for that long.
    """

    def __init__(self, api_key: str, lifetime: int = 3600) -> None:
        super().__init__()
        self.issued: list[str] = []
        self._api_key = api_key
        self.lifetime = lifetime
        self.valid_for: int | None = None
        self._valid_until: dict[str, float] = {}
        self._refresh: set[str] = set()
        self._linked: dict[tuple[str, str], str] = {}

    def is_valid(self, token: str) -> bool:
        """Whether the token was issued here and has not expired."""
        with self.lock:
            return self._valid_until.get(token, 0) > time.monotonic()

    def revoke_all(self) -> None:
        """Expire all tokens issued so far."""
        with self.lock:
            self._valid_until.clear()

    def link(self, profile_name: str, profile_id: str, cr_token: str) -> None:
        """Allow only this compute resource token to use this trusted profile."""
        with self.lock:
            self._linked |= {
                ("profile_name", profile_name): cr_token,
                ("profile_id", profile_id): cr_token,
            }

    def answer(self, request: HTTPRequest) -> Answer:
        """A token, or IAM's refusal."""
        if (request.method, request.target) != ("POST", "/identity/token"):
            return Answer(404)
        if request.headers.get("content-type") != "application/x-www-form-urlencoded":
            return _refusal("BXNIM0000E", "Content-Type must be a form.")
        fields = parse_qs(request.body.decode("utf-8", errors="replace"))
        form = {name: values[0] for name, values in fields.items()}
        if form.get("response_type") != "cloud_iam":
            return _refusal("BXNIM0106E", "Property response_type is invalid.")
        if form.get("grant_type") == GRANT_APIKEY:
            if form.get("apikey") != self._api_key:
                return _refusal("BXNIM0415E", "Provided API key could not be found.")
        elif form.get("grant_type") == GRANT_CR_TOKEN:
            if refusal := self._refuse_profile(form, request):
                return refusal
            return self._issue(refreshable=False)
        elif form.get("grant_type") != "refresh_token":
            return _refusal("BXNIM0100E", "Property grant_type is missing or invalid.")
        elif form.get("refresh_token") not in self._refresh:
            return _refusal("BXNIM0408E", "Provided refresh_token is invalid.")
        return self._issue()

    def _refuse_profile(self, form: dict[str, str], request: HTTPRequest) -> Answer | None:
        """IAM's refusal of an exchange of a compute resource token; None if it is correct."""
        if "authorization" in request.headers:
            return _refusal("BXNIM0513E", "This exchange takes no client credentials.")
        given = form.keys() - {"grant_type", "response_type", "cr_token"}
        if len(given) != 1 or not given <= {"profile_name", "profile_id"}:
            return _refusal("BXNIM0102E", "Exactly one of profile_name and profile_id is needed.")
        (field,) = given
        with self.lock:
            linked = self._linked.get((field, form[field]))
        if linked is None or form.get("cr_token") != linked:
            return _refusal("BXNIM0433E", "The compute resource is not linked to this profile.")
        return None

    def _issue(self, *, refreshable: bool = True) -> Answer:
        token, refresh = (
            f"iam-access-{secrets.token_hex(24)}",
            f"iam-refresh-{secrets.token_hex(24)}",
        )
        with self.lock:
            self.issued += [token, refresh]
            if refreshable:
                self._refresh.add(refresh)
            self._valid_until[token] = time.monotonic() + (self.valid_for or self.lifetime)
        body = {
            "access_token": token,
            **({"refresh_token": refresh} if refreshable else {}),
            "token_type": "Bearer",
            "expires_in": self.lifetime,
            "expiration": int(time.time()) + self.lifetime,
            "scope": "ibm openid",
        }
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _refusal(code: str, message: str) -> Answer:
    body = {"errorCode": code, "errorMessage": message, "context": {"requestId": "r"}}
    return Answer(400, {"Content-Type": "application/json"}, json.dumps(body).encode())
