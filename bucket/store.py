"""One bucket: list, read and look up objects; read and write STATE."""

from __future__ import annotations

import functools
import hashlib
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, ParamSpec, TypeVar

import tenacity

from bucket.errors import (
    ObjectError,
    ObjectGone,
    ObjectTooLarge,
    PreconditionRefused,
    ReadInterrupted,
    StoreError,
    StoreUnavailable,
    explain_answer,
    explained,
)
from bucket.fetch import Answer, Authorization, Bearer, Fetcher, Signature
from bucket.listing import ObjectRef, Page, PageRequest, read_page
from bucket.state import PreconditionFailed, Snapshot, Unanswered
from connections.iam import IAM
from connections.retry import RetryPolicy, retry_after_seconds

log = logging.getLogger("flowlog.bucket")

P = ParamSpec("P")
T = TypeVar("T")

CONCURRENCY = 32
"""Objects read at the same time."""

OBJECT_LIMIT_BYTES = 64 * 1024 * 1024
"""A larger object, as stored, is no flow log."""

PAGE_LIMIT_BYTES = 16 * 1024 * 1024
"""A thousand keys of 1,024 bytes, each of them encoded, take 4 MiB."""

STATE_LIMIT_BYTES = 256 * 1024

READ_TRIES = 5
FIRST_WAIT_SECONDS = 0.2
"""The wait before the second try is random up to this, and doubled each time."""


@dataclass(frozen=True, slots=True)
class HMAC:
    """HMAC credentials, for any S3-compatible store."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Body:
    """An object as stored, and when it was written (seconds since the epoch)."""

    content: bytes
    last_modified: int


def signing_region(endpoint: str) -> str:
    """The region a SigV4 signature names, read from COS's host names; else `us-east-1`."""
    found = re.search(r"s3\.(?:direct\.|private\.)?([a-z0-9-]+)\.cloud-object-storage\.", endpoint)
    return found[1] if found else "us-east-1"


def create_client(endpoint: str, credentials: HMAC | IAM, policy: RetryPolicy) -> Any:
    """An S3 client of the IBM COS SDK, for everything but listing and reading objects.

    Made from `ibm_botocore`, the core of the SDK: `ibm_boto3` adds resources and transfers on top,
    which nothing here needs, and an event's run is mostly start-up. Imported here for the same
    reason.
    """
    from ibm_botocore.config import Config
    from ibm_botocore.session import Session

    # Nothing but what the environment of the contract says: no profile or config file of some
    # other tool that happens to live on the machine.
    unset = (None, None, None, None)
    session = Session({"profile": unset, "config_file": unset, "credentials_file": unset})
    config = Config(
        signature_version="oauth" if isinstance(credentials, IAM) else "s3v4",
        region_name=signing_region(endpoint),
        s3={"addressing_style": "path"},
        # A request about STATE is sent again by who knows what has become of the first one.
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=policy.connect_seconds,
        read_timeout=policy.answer_seconds,
        # The newer checksums are AWS's; COS and others that speak S3 need not know them.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    if isinstance(credentials, IAM):
        keys = {
            "ibm_service_instance_id": credentials.instance_crn,
            "token_manager": credentials.tokens(),
        }
    else:
        keys = {
            "aws_access_key_id": credentials.access_key_id,
            "aws_secret_access_key": credentials.secret_access_key,
        }
    return session.create_client("s3", endpoint_url=endpoint, config=config, **keys)


def authorization(endpoint: str, credentials: HMAC | IAM) -> Authorization:
    """What shows the store that objects may be read."""
    if isinstance(credentials, IAM):
        return Bearer(credentials.tokens())
    return Signature(
        credentials.access_key_id, credentials.secret_access_key, signing_region(endpoint)
    )


# The SDK's client sends a request again by itself; for a plain GET it is done here.
_again = tenacity.Retrying(
    retry=tenacity.retry_if_exception_type((ReadInterrupted, StoreUnavailable)),
    wait=tenacity.wait_random_exponential(multiplier=2 * FIRST_WAIT_SECONDS, max=5),
    stop=tenacity.stop_after_attempt(READ_TRIES - 1),
    reraise=True,
)


def _retried(function: Callable[P, T]) -> Callable[P, T]:
    """Tries the function up to `READ_TRIES` times.

    The first time without tenacity, whose bookkeeping costs half the time of the whole read.
    """

    @functools.wraps(function)
    def tried(*arguments: P.args, **keywords: P.kwargs) -> T:
        try:
            return function(*arguments, **keywords)
        except (ReadInterrupted, StoreUnavailable):
            time.sleep(random.uniform(0, FIRST_WAIT_SECONDS))
        return _again.copy()(function, *arguments, **keywords)

    return tried


_POLICY = RetryPolicy()


class Store:
    """One bucket. Errors come out as StoreError (nothing works) or ObjectError.

    Objects are read by at most `concurrency` threads at the same time; the store may let them wait
    as `policy` says.
    """

    def __init__(
        self,
        endpoint: str,
        credentials: HMAC | IAM,
        bucket: str,
        concurrency: int = CONCURRENCY,
        policy: RetryPolicy = _POLICY,
    ) -> None:
        self.bucket = bucket
        self.policy = policy
        self.concurrency = concurrency
        self._access = (endpoint, credentials, policy)
        self._authorization = authorization(endpoint, credentials)
        self._fetcher = Fetcher(
            endpoint, bucket, self._authorization, concurrency, policy.answer_seconds
        )
        # By thread: a PUT that gets no answer must not lend its precondition to the next one.
        self._conditions = threading.local()
        self._etag_is_checksum = True
        self._mismatches: dict[str, str] = {}

    @functools.cached_property
    def _client(self) -> Any:
        # An event's run in simple mode does without.
        client = create_client(*self._access)
        client.meta.events.register("before-call.s3.PutObject", self._add_conditions)
        return client

    def pages(self, prefix: str) -> Iterator[list[ObjectRef]]:
        """The listing of all keys that start with `prefix`, page by page, in the store's order."""
        more: str | None = ""
        while more is not None:
            page = self.page(PageRequest(prefix, more=more))
            yield page.refs
            if page.more == more:
                raise StoreError("the object store's listing does not end; look at COS_ENDPOINT")
            more = page.more

    @_retried
    def page(self, request: PageRequest) -> Page:
        """One page of the listing. Raises StoreError."""
        with explained(self.bucket):
            answer = self._fetcher.get("", PAGE_LIMIT_BYTES, request.query())
        if answer.status != 200:
            raise explain_answer(answer.status, answer.error_code, self.bucket)
        try:
            return read_page(answer.content)
        except ValueError as error:
            raise StoreUnavailable(
                f"the object store's listing is unusable: {error}; look at COS_ENDPOINT"
            ) from None

    @_retried
    def read(self, key: str) -> Body:
        """Read one whole object. Raises StoreError or ObjectError."""
        with explained(self.bucket, key):
            answer = self._fetcher.get(key, OBJECT_LIMIT_BYTES)
        if answer.status != 200:
            raise explain_answer(answer.status, answer.error_code, self.bucket, key)
        if answer.size > OBJECT_LIMIT_BYTES:
            raise ObjectTooLarge(f"too large: over {OBJECT_LIMIT_BYTES} bytes as stored")
        self._check_intact(key, answer)
        try:
            written = parsedate_to_datetime(answer.headers.get("Last-Modified", ""))
        except ValueError:
            raise ReadInterrupted("the object store did not say when it was written") from None
        return Body(answer.content, _seconds(written))

    def _check_intact(self, key: str, answer: Answer) -> None:
        """Compare the content with the checksum that an ETag is, as a rule.

        With some kinds of encryption it isn't one (S3 API, "Object": ETag), so content that comes
        the same a second time is believed. Raises ReadInterrupted.
        """
        etag = answer.headers.get("ETag", "").strip('"')
        if not self._etag_is_checksum or not re.fullmatch("[0-9a-f]{32}", etag):
            return
        checksum = hashlib.md5(answer.content, usedforsecurity=False).hexdigest()
        if checksum == etag:
            return
        if self._mismatches.pop(key, None) != checksum:
            self._mismatches[key] = checksum
            raise ReadInterrupted("the object's content does not match its ETag")
        self._etag_is_checksum = False
        log.warning("ETags are not MD5 here; relying on gzip's CRC: %s", key)

    @_retried
    def stat(self, key: str) -> ObjectRef:
        """What the store says of an object without its content. Raises ObjectGone."""
        from ibm_botocore.exceptions import ClientError

        with explained(self.bucket, key):
            try:
                answer = self._ask("head_object", Key=key)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                    raise
                answer = None
        if answer is None:
            # An answer to HEAD has no text that would tell a missing object from a wrong endpoint.
            body = self.read(key)
            return ObjectRef(body.last_modified, key, len(body.content))
        return ObjectRef(_seconds(answer["LastModified"]), key, answer["ContentLength"])

    def get_state(self, key: str) -> Snapshot | None:
        """STATE, or None if there is none. Raises Unanswered."""
        try:
            with self._about_state(key):
                answer = self._ask("get_object", Key=key)
                content = answer["Body"].read(STATE_LIMIT_BYTES + 1)
        except ObjectGone:
            return None
        except ObjectError as error:
            raise StoreError(f"the STATE object {key!r} can't be read: {error}") from None
        return Snapshot(content, answer["ETag"], _seconds(answer["LastModified"]), _date(answer))

    def put_state(self, key: str, content: bytes, etag: str | None) -> str:
        """Write STATE if it has `etag` (None: if there is none).

        Raises PreconditionFailed, Unanswered.
        """
        self._conditions.headers = {"If-None-Match": "*"} if etag is None else {"If-Match": etag}
        try:
            with self._about_state(key):
                answer = self._ask("put_object", Key=key, Body=content)
        except (ObjectGone, PreconditionRefused) as error:
            # If-Match on an object that isn't there is answered with 404 or 412.
            raise PreconditionFailed(str(error)) from None
        except ObjectError as error:
            raise StoreError(
                f"the STATE object {key!r} can't be written: {error};"
                " these modes need the role Writer (or Object Writer) on the bucket"
            ) from None
        return str(answer["ETag"])

    def delete_state(self, key: str) -> None:
        """Delete STATE. Raises Unanswered."""
        with self._about_state(key):
            self._ask("delete_object", Key=key)

    @contextmanager
    def _about_state(self, key: str) -> Iterator[None]:
        """The errors of an exchange about STATE; Unanswered where it is open what was done."""
        from ibm_botocore.exceptions import ClientError

        after = None
        try:
            with explained(self.bucket, key):
                try:
                    yield
                except ClientError as error:
                    headers = error.response["ResponseMetadata"].get("HTTPHeaders", {})
                    after = retry_after_seconds(headers.get("retry-after"), datetime.now(UTC))
                    raise
        except (ReadInterrupted, StoreUnavailable) as error:
            raise Unanswered(str(error), after) from None

    def _add_conditions(self, params: dict[str, Any], **_: object) -> None:
        """Add to a PUT the headers that put_object of ibm-cos-sdk 2.16 has no parameters for."""
        params["headers"].update(self._conditions.headers)

    def _ask(self, operation: str, **arguments: object) -> Any:
        """A request by the SDK's client; once more where its token was refused."""
        from ibm_botocore.exceptions import ClientError

        request = functools.partial(
            getattr(self._client, operation), Bucket=self.bucket, **arguments
        )
        used = self._authorization.headers(self._access[0])
        try:
            return request()
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status in (401, 403) and self._authorization.replace(used):
                return request()
            raise


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())


def _date(answer: Mapping[str, Any]) -> int:
    """The store's clock, from the `Date` header (RFC 9110, 6.6.1) of an answer."""
    text = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        return _seconds(parsedate_to_datetime(text))
    except ValueError:
        raise StoreError("the object store answers without a Date; look at COS_ENDPOINT") from None
