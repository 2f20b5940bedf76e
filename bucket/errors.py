"""Errors of the object store, and what its answers mean: does one object fail, or the bucket?"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from urllib3 import exceptions as http

from connections.get import NotConnected, UnusableAnswer
from connections.iam import TokenError, TokenUnavailable
from connections.pools import is_unverified
from connections.retry import TryAgain
from connections.time_limit import TooSlow


class StoreError(Exception):
    """The bucket can't be used with these settings; the text says which one to look at."""


class StoreUnavailable(StoreError):
    """The store gave no usable answer until the time for retries was over."""


class ObjectError(Exception):
    """One object can't be delivered; the others are not affected."""

    permanent: ClassVar[bool] = False
    """Whether another run would fail too: the object is at fault, not the store or a permission."""


class ObjectNotFound(ObjectError):
    """There is no such object: as a rule it was deleted before it was read."""


class ObjectForbidden(ObjectError):
    """There is no permission to read this object."""


class ObjectRefused(ObjectError):
    """The store refuses to return this object."""

    permanent = True


class ObjectArchived(ObjectRefused):
    """The object is archived: it can be read after somebody has restored it."""


class ObjectTooLarge(ObjectError):
    """The stored object is larger than a flow log may be after decompression."""

    permanent = True


class PreconditionRefused(ObjectError):
    """The store refused a write because its precondition does not hold."""


class ReadInterrupted(ObjectError):
    """The object can't be read completely, although others can."""


class Trouble(enum.Enum):
    """Why a request got no usable answer: whether the requested object may be the cause."""

    UNREACHABLE = "unreachable"
    """There is no connection, or no token: this concerns all requests."""
    OVERLOAD = "overload"
    """The store rejects requests (429, 503): this concerns most requests, not only this one."""
    NO_ANSWER = "no answer"
    """The requested object may be the cause."""


class Unanswered(TryAgain):
    """The store gave no usable answer this time: the request is retried."""

    def __init__(
        self, what: str, after: float | None = None, trouble: Trouble = Trouble.NO_ANSWER
    ) -> None:
        super().__init__(what, after)
        self.trouble = trouble


@contextmanager
def explained() -> Iterator[None]:
    """Raises errors of connections and tokens as Unanswered or StoreError."""
    try:
        yield
    except TokenError as error:
        raise StoreError(str(error)) from None
    except TokenUnavailable as error:
        raise Unanswered(str(error), error.after, Trouble.UNREACHABLE) from None
    except http.LocationValueError as error:
        raise StoreError(f"COS_ENDPOINT is not a usable address ({type(error).__name__})") from None
    except (
        NotConnected,
        http.NewConnectionError,
        http.ConnectTimeoutError,
        http.ProxyError,
        http.SSLError,
    ) as error:
        kind = str(error) if isinstance(error, NotConnected) else type(error).__name__
        what = f"the object store can't be reached ({kind})"
        if is_unverified(error):
            raise StoreError(
                f"{what}: its certificate can't be verified; look at REQUESTS_CA_BUNDLE and"
                " SSL_CERT_FILE"
            ) from None
        raise Unanswered(
            f"{what}; look at COS_ENDPOINT (a `.direct.` endpoint works only inside IBM Cloud)",
            trouble=Trouble.UNREACHABLE,
        ) from None
    except UnusableAnswer as error:
        what = f"the object store gave no complete answer: {error}"
        raise Unanswered(f"{what}; look at COS_ENDPOINT and the service's status") from None
    except (http.HTTPError, TooSlow) as error:
        what = f"the object store gave no complete answer ({type(error).__name__})"
        raise Unanswered(f"{what}; look at COS_ENDPOINT and the service's status") from None


_RETRIED_STATUSES = frozenset((408, 425, 429))
_RETRIED_CODES = frozenset(
    (
        "ConditionalRequestConflict",
        "OperationAborted",
        "RequestTimeout",
        "SlowDown",
        "InternalError",
        "ServiceUnavailable",
    )
)


def explain_answer(
    status: int, code: str, bucket: str, key: str | None = None, after: float | None = None
) -> StoreError | ObjectError | Unanswered:
    """The error that an answer of the store means, by HTTP status and S3 error code.

    With a `key`, the request was about one object, and most refusals concern only that object.
    `after` is the answer's `Retry-After` in seconds. docs/reliability.md has the same as a table.
    """
    answer = f"the object store answered {status} {code}".rstrip()
    if status in _RETRIED_STATUSES or status >= 500 or code in _RETRIED_CODES:
        overload = status in (429, 503) or code == "SlowDown"
        return Unanswered(answer, after, Trouble.OVERLOAD if overload else Trouble.NO_ANSWER)
    if error := _settings_error(status, code, answer, bucket):
        return error
    if key is not None:
        return _object_error(status, code, answer)
    if status == 403:
        return StoreError(f"{answer}: no permission; {_ROLE}")
    return StoreError(f"{answer}; look at COS_BUCKET")


_ROLE = "look at the role of the key, COS_CRN, COS_BUCKET"


def _settings_error(status: int, code: str, answer: str, bucket: str) -> StoreError | None:
    """The error of an answer that every request would get, because of a setting."""
    if code == "NoSuchBucket":
        return StoreError(f"there is no bucket {bucket!r} at this endpoint; look at COS_BUCKET")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return StoreError(
            f"{answer}; look at COS_HMAC_ACCESS_KEY_ID and COS_HMAC_SECRET_ACCESS_KEY"
        )
    if code == "RequestTimeTooSkewed":
        return StoreError(f"{answer}; look at the clock of this machine")
    if status == 401:
        return StoreError(f"{answer}: no permission; {_ROLE}")
    if 300 <= status < 400:
        return StoreError(f"{answer}: the bucket is in another region; look at COS_ENDPOINT")
    if status == 404 and code != "NoSuchKey":
        return StoreError(
            f"{answer}: this is not an answer of an object store; look at COS_ENDPOINT"
        )
    return None


def _object_error(status: int, code: str, answer: str) -> ObjectError:
    if code == "NoSuchKey":
        return ObjectNotFound("the object is no longer in the bucket")
    if code == "InvalidObjectState":
        return ObjectArchived(f"the object is archived ({status} {code}): restore it, then push it")
    if status == 412:
        return PreconditionRefused(answer)
    if status == 403:
        return ObjectForbidden(f"{answer}: no permission; {_ROLE}")
    return ObjectRefused(f"{answer}: the store refuses to return this object")


_LOCKED = re.compile("retention|object ?lock|locked|legal ?hold|protected|immutable|worm", re.I)


def explain_state_refusal(
    error: ObjectError, status: int, text: str, key: str, *, known_locked: bool
) -> StoreError | ObjectError | Unanswered:
    """Why STATE can't be changed: its precondition, a missing role, or a locked object.

    In a bucket with a retention policy or Object Lock, objects can be created but not changed; the
    answer is AccessDenied, as for a missing role (COS docs, "Immutable Object Storage", "Object
    Lock"). So the answer counts as a lock if its `text` says so, or if `known_locked`: this run has
    written STATE before, or STATE has retention headers. `error` is what the answer means for any
    other object.
    """
    answer = f"the STATE object {key!r} can't be changed: {error}"
    says_locked = status in (400, 403, 405, 409) and _LOCKED.search(text)
    if says_locked or (status == 403 and known_locked):
        return StoreError(
            f"{answer}; it is locked, by a retention policy or Object Lock of its bucket: let"
            " FLOWLOG_STATE_BUCKET name a bucket without one"
        )
    if isinstance(error, ObjectNotFound | PreconditionRefused):
        return error
    if status == 409:  # a conflict with another request: it may be retried
        return Unanswered(str(error))
    return StoreError(
        f"{answer}; these modes need the role Object Writer (or Writer) on its bucket, which"
        " FLOWLOG_STATE_BUCKET can name"
    )
