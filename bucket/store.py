"""One bucket: lists, reads and looks up objects; reads and writes STATE."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, TypeVar
from urllib.parse import unquote

from bucket.errors import (
    ObjectError,
    ObjectNotFound,
    ObjectTooLarge,
    PreconditionRefused,
    StoreError,
    Unanswered,
    explain_answer,
    explain_state_refusal,
    explained,
)
from bucket.fetch import Answer, Authorization, Bearer, Fetcher, Request, Signature
from bucket.listing import ObjectRef, Page, PageRequest, read_page
from bucket.retries import Retries
from bucket.state import PreconditionFailed, Snapshot
from connections.iam import IAM
from connections.retry import RetryPolicy
from connections.values import http_date

log = logging.getLogger("flowlog.bucket")

_T = TypeVar("_T")

CONCURRENCY = 48
"""Objects read at the same time."""

OBJECT_LIMIT_BYTES = 64 * 1024 * 1024
"""A larger object, as stored, is not a flow log."""

PAGE_LIMIT_BYTES = 16 * 1024 * 1024
"""A thousand keys of 1,024 bytes take 4 MiB when URL-encoded."""

STATE_LIMIT_BYTES = 256 * 1024

STATE_CONNECTIONS = 4
"""A request about STATE that gets no answer must not delay the next one."""


@dataclass(frozen=True, slots=True)
class HMAC:
    """HMAC credentials, for any S3-compatible store."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Location:
    """Where the objects and STATE are; an empty `state_bucket` means the bucket of the objects."""

    endpoint: str
    credentials: HMAC | IAM
    bucket: str
    state_bucket: str = ""


class Body(NamedTuple):
    """An object as stored, and when it was written (seconds since the epoch)."""

    content: bytes
    last_modified: int


def signing_region(endpoint: str) -> str:
    """The region for a SigV4 signature, from the host name of COS; else `us-east-1`."""
    found = re.search(r"s3\.(?:direct\.|private\.)?([a-z0-9-]+)\.cloud-object-storage\.", endpoint)
    return found[1] if found else "us-east-1"


def authorization(endpoint: str, credentials: HMAC | IAM) -> Authorization:
    """Authorizes requests with these credentials."""
    if isinstance(credentials, IAM):
        return Bearer(credentials.tokens())
    return Signature(
        credentials.access_key_id, credentials.secret_access_key, signing_region(endpoint)
    )


def decoded(key: str) -> str | None:
    """The key percent-decoded, as an event may mean it, or None; contract, section 3."""
    try:
        plain = unquote(key, errors="strict")
    except UnicodeDecodeError:
        return None
    return plain if plain and plain != key else None


class Store:
    """One bucket, and the bucket of STATE. Errors are raised as StoreError or ObjectError.

    Objects are read by at most `concurrency` threads at the same time. `pause` waits for this many
    seconds, and raises Stopped if the run is to end.
    """

    def __init__(
        self,
        location: Location,
        policy: RetryPolicy,
        concurrency: int = CONCURRENCY,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.bucket = location.bucket
        self.concurrency = concurrency
        self.policy = policy
        self._state_bucket = location.state_bucket or location.bucket
        signer = authorization(location.endpoint, location.credentials)
        self._objects = Fetcher(location.endpoint, self.bucket, signer, concurrency, policy)
        self._states = Fetcher(
            location.endpoint, self._state_bucket, signer, STATE_CONNECTIONS, policy
        )
        self._retries = Retries(policy, concurrency, pause)
        self._etag_is_checksum = True
        self._mismatches: dict[str, str] = {}
        self._last_read = ""
        self._state_is_known_locked = False

    # --- listing and objects ---------------------------------------------------------------------

    def pages(self, prefix: str) -> Iterator[list[ObjectRef]]:
        """The listing of all keys that start with `prefix`, page by page, in the store's order."""
        more: str | None = ""
        while more is not None:
            page = self.page(PageRequest(prefix, more=more))
            yield page.refs
            if page.more == more:
                raise StoreError("the object store's listing does not end; look at COS_ENDPOINT")
            more = page.more

    def page(self, request: PageRequest) -> Page:
        """One page of the listing. Raises StoreError."""
        return self._retries.ask(partial(self._page, request.query()))

    def _page(self, query: Mapping[str, str]) -> Page:
        answer = _answer(self._objects, Request("GET", "", PAGE_LIMIT_BYTES, query))
        if answer.status != 200:
            raise _explained(answer, self.bucket)
        try:
            return read_page(answer.content)
        except ValueError as error:
            raise Unanswered(
                f"the object store's listing is unusable: {error}; look at COS_ENDPOINT"
            ) from None

    def read(self, key: str) -> Body:
        """Read one whole object. Raises StoreError or ObjectError."""
        body = self._retries.read(partial(self._read, key), self._read_another)
        self._last_read = key
        return body

    def read_event(self, key: str) -> tuple[str, Body]:
        """Read the object that an event names; also returns its real key. Raises as `read`."""
        return self._by_event_key(key, lambda key: (key, self.read(key)))

    def _by_event_key(self, key: str, get: Callable[[str], _T]) -> _T:
        """What `get` returns for the key or, if there is no such object, for the decoded key."""
        try:
            return get(key)
        except ObjectNotFound:
            other = decoded(key)
            if other is None:
                raise
        found = get(other)
        log.info("no object has this key, but one has it percent-decoded: %s", other)
        return found

    def _read_another(self) -> Body:
        """Read the last object again that could be read. Raises Unanswered if there is none."""
        if not self._last_read:
            raise Unanswered("no object could be read yet")
        return self._read(self._last_read)

    def _read(self, key: str) -> Body:
        answer = _answer(self._objects, Request("GET", key, OBJECT_LIMIT_BYTES))
        if answer.status != 200:
            raise _explained(answer, self.bucket, key)
        if answer.size > OBJECT_LIMIT_BYTES:
            raise ObjectTooLarge(f"too large: over {OBJECT_LIMIT_BYTES} bytes as stored")
        self._check_intact(key, answer)
        return Body(answer.content, _written(answer))

    def _check_intact(self, key: str, answer: Answer) -> None:
        """Compare the MD5 of the content with the ETag, which as a rule is the MD5.

        With some kinds of encryption it is not (S3 API, "Object": ETag), so content that comes
        twice is accepted. Raises Unanswered.
        """
        etag = answer.headers.get("etag", "").strip('"')
        if not self._etag_is_checksum or not re.fullmatch("[0-9a-f]{32}", etag):
            return
        checksum = hashlib.md5(answer.content, usedforsecurity=False).hexdigest()
        if checksum == etag:
            return
        if self._mismatches.pop(key, None) != checksum:
            self._mismatches[key] = checksum
            raise Unanswered("the object's content does not match its ETag")
        self._etag_is_checksum = False
        log.warning("ETags are not MD5 here; relying on gzip's CRC: %s", key)

    def stat(self, key: str) -> ObjectRef:
        """The object's time and size, without its content. Raises StoreError or ObjectError.

        If no object has this key but one has the decoded key, it is that one.
        """
        return self._by_event_key(key, self._stat)

    def _stat(self, key: str) -> ObjectRef:
        answer = self._retries.read(partial(self._head, key), self._read_another)
        if answer is None:
            # An answer to HEAD has no text, so a missing object looks like a wrong endpoint, and an
            # archived one like one without permission: GET tells.
            body = self.read(key)
            return ObjectRef(body.last_modified, key, len(body.content))
        return ObjectRef(_written(answer), key, answer.size)

    def _head(self, key: str) -> Answer | None:
        answer = _answer(self._objects, Request("HEAD", key, 0))
        if answer.status in (400, 403, 404):
            return None
        if answer.status != 200:
            raise _explained(answer, self.bucket, key)
        return answer

    # --- STATE -----------------------------------------------------------------------------------

    def get_state(self, key: str) -> Snapshot | None:
        """STATE, or None if there is none. Raises StoreError, Unanswered; does not retry."""
        try:
            return self._get_state(key)
        except ObjectNotFound:
            return None
        except ObjectError as error:
            raise StoreError(f"the STATE object {key!r} can't be read: {error}") from None

    def _get_state(self, key: str) -> Snapshot:
        answer = _answer(self._states, Request("GET", key, STATE_LIMIT_BYTES))
        if answer.status != 200:
            raise _explained(answer, self._state_bucket, key)
        if answer.size > STATE_LIMIT_BYTES:
            raise ObjectTooLarge(f"too large: over {STATE_LIMIT_BYTES} bytes")
        self._state_is_known_locked |= any(map(_RETENTION, answer.headers))
        return Snapshot(answer.content, _etag(answer), _written(answer), _date(answer))

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        """Write STATE if it has `etag` (None: if there is none), and return the new ETag.

        Raises PreconditionFailed, StoreError, Unanswered. Does not retry: the caller must first
        find out whether the first write was carried out.
        """
        condition = {"If-None-Match": "*"} if etag is None else {"If-Match": etag}
        request = Request("PUT", key, STATE_LIMIT_BYTES, headers=condition, body=content)
        try:
            return _etag(self._change_state(request))
        except (ObjectNotFound, PreconditionRefused) as error:
            # The answer to If-Match on an object that does not exist is 404 or 412.
            raise PreconditionFailed(str(error)) from None

    def delete_state(self, key: str) -> None:
        """Delete STATE. Raises StoreError, Unanswered."""
        self._change_state(Request("DELETE", key, STATE_LIMIT_BYTES))

    def _change_state(self, request: Request) -> Answer:
        answer = _answer(self._states, request)
        if answer.status in (200, 204):
            # If it was written once and can't be written again, it is locked.
            self._state_is_known_locked |= request.method == "PUT"
            return answer
        error = _explained(answer, self._state_bucket, request.key)
        if isinstance(error, ObjectError):
            text = answer.content.decode("utf-8", "replace")
            error = explain_state_refusal(
                error, answer.status, text, request.key, known_locked=self._state_is_known_locked
            )
        raise error


_RETENTION = re.compile("(?:x-amz-object-lock|(?:x-amz-|ibm-|x-ibm-)?retention)-", re.I).match
"""Headers of an object that must not be changed (COS docs, "Immutable Object Storage")."""


def _answer(fetcher: Fetcher, request: Request) -> Answer:
    with explained():
        return fetcher.ask(request)


def _explained(
    answer: Answer, bucket: str, key: str | None = None
) -> StoreError | ObjectError | Unanswered:
    return explain_answer(answer.status, answer.error_code, bucket, key, answer.retry_after)


def _etag(answer: Answer) -> str:
    return answer.headers.get("etag", "")


def _written(answer: Answer) -> int:
    """When an object was written, by the `Last-Modified` of an answer. Raises Unanswered."""
    written = http_date(answer.headers.get("last-modified"))
    if written is None:
        raise Unanswered("the object store did not say when the object was written")
    return written


def _date(answer: Answer) -> int:
    """The store's clock, from the `Date` header (RFC 9110, 6.6.1) of an answer."""
    now = http_date(answer.headers.get("date"))
    if now is None:
        raise StoreError("the object store's answers have no Date header; look at COS_ENDPOINT")
    return now
