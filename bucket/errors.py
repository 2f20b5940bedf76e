"""What an answer of the object store means, as errors: the bucket's fault, or one object's."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from urllib3 import exceptions as http

from connections.get import NotConnected, NoWholeAnswer
from connections.iam import TokenError, TokenUnavailable
from connections.pools import is_unverified
from connections.retry import TryAgain
from connections.time_limit import TooSlow


class StoreError(Exception):
    """The bucket can't be used as it is set up; the text says which setting to look at."""


class StoreUnavailable(StoreError):
    """The store gave no usable answer for as long as it may be asked."""


class ObjectError(Exception):
    """One object can't be delivered; the others are not affected."""

    permanent: ClassVar[bool] = False
    """Whether another run would fail again: a fault of the object, not of the store or a right."""


class ObjectNotFound(ObjectError):
    """The object was deleted before it was read."""


class ObjectForbidden(ObjectError):
    """There is no permission to read this object."""


class ObjectRefused(ObjectError):
    """The store does not hand out this object as things are."""

    permanent = True


class ObjectArchived(ObjectRefused):
    """The object is in an archive: it can be read once somebody has restored it."""


class ObjectTooLarge(ObjectError):
    """The object is larger as stored than a flow log may be once unpacked."""

    permanent = True


class PreconditionRefused(ObjectError):
    """The store refused a write because its precondition does not hold."""


class ReadInterrupted(ObjectError):
    """The object does not arrive whole, although others can be read."""


class Trouble(enum.Enum):
    """Why a request has no usable answer, as far as it tells whose fault that is."""

    UNREACHABLE = "unreachable"
    """There is no connection, or no token: whatever was asked for."""
    OVERLOAD = "overload"
    """The store turns requests away (429, 503): mostly, not always, whatever was asked for."""
    NO_ANSWER = "no answer"
    """It may be what was asked for."""


class Unanswered(TryAgain):
    """The store gave no usable answer this time: it is asked again."""

    def __init__(
        self, what: str, after: float | None = None, trouble: Trouble = Trouble.NO_ANSWER
    ) -> None:
        super().__init__(what, after)
        self.trouble = trouble


@contextmanager
def explained() -> Iterator[None]:
    """Turns what keeps an answer from coming into Unanswered, or into StoreError."""
    try:
        yield
    except TokenError as error:
        raise StoreError(str(error)) from None
    except TokenUnavailable as error:
        raise Unanswered(str(error), error.after, Trouble.UNREACHABLE) from None
    except http.LocationValueError as error:
        raise StoreError(f"COS_ENDPOINT is no usable address ({type(error).__name__})") from None
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
            f"{what}; look at COS_ENDPOINT"
            " (a `.direct.` one is reached from inside IBM Cloud only)",
            trouble=Trouble.UNREACHABLE,
        ) from None
    except NoWholeAnswer as error:
        what = f"the object store gave no whole answer: {error}"
        raise Unanswered(f"{what}; look at COS_ENDPOINT and the service's status") from None
    except (http.HTTPError, TooSlow) as error:
        what = f"the object store gave no whole answer ({type(error).__name__})"
        raise Unanswered(f"{what}; look at COS_ENDPOINT and the service's status") from None


_AGAIN_STATUSES = frozenset((408, 425, 429))
_AGAIN_CODES = frozenset(
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
    """The error that an answer of the store stands for, by HTTP status and S3 error code.

    `key` says that one object was asked for: then a refusal concerns only that object. `after` is
    the answer's `Retry-After` in seconds. The table of docs/reliability.md says the same.
    """
    answer = f"the object store answered {status} {code}".rstrip()
    if status in _AGAIN_STATUSES or status >= 500 or code in _AGAIN_CODES:
        overload = status in (429, 503) or code == "SlowDown"
        return Unanswered(answer, after, Trouble.OVERLOAD if overload else Trouble.NO_ANSWER)
    if fault := _fault_of_setup(status, code, answer, bucket):
        return fault
    if key is not None:
        return _fault_of_object(status, code, answer)
    if status == 403:
        return StoreError(f"{answer}: no permission; {_ROLE}")
    return StoreError(f"{answer}; look at COS_BUCKET")


_ROLE = "look at the role of the key, COS_CRN, COS_BUCKET"


def _fault_of_setup(status: int, code: str, answer: str, bucket: str) -> StoreError | None:
    """What makes every request fail, whatever it asks for."""
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


def _fault_of_object(status: int, code: str, answer: str) -> ObjectError:
    if code == "NoSuchKey":
        return ObjectNotFound("the object is not in the bucket any more")
    if code == "InvalidObjectState":
        return ObjectArchived(f"the object is archived ({status} {code}): restore it, then push it")
    if status == 412:
        return PreconditionRefused(answer)
    if status == 403:
        return ObjectForbidden(f"{answer}: no permission; {_ROLE}")
    return ObjectRefused(f"{answer}: the store does not hand out this object")


_LOCKED = re.compile("retention|object ?lock|locked|legal ?hold|protected|immutable|worm", re.I)


def explain_state_refusal(
    error: ObjectError, status: int, text: str, key: str, *, known_locked: bool
) -> StoreError | ObjectError | Unanswered:
    """Why STATE can't be changed: its precondition, a role that is missing, or a locked object.

    A bucket with a retention policy or Object Lock lets objects be created and refuses to change
    them, with AccessDenied as for a missing role (COS docs, "Immutable Object Storage", "Object
    Lock"). So beside the answer's own `text` counts what is known: `known_locked` where this run
    has written STATE before, or its headers tell of a retention. `error` is what the answer means
    for any object.
    """
    answer = f"the STATE object {key!r} can't be changed: {error}"
    said = status in (400, 403, 405, 409) and _LOCKED.search(text)
    if said or (status == 403 and known_locked):
        return StoreError(
            f"{answer}; it is locked, by a retention policy or Object Lock of its bucket: let"
            " FLOWLOG_STATE_BUCKET name a bucket without one"
        )
    if isinstance(error, ObjectNotFound | PreconditionRefused):
        return error
    if status == 409:  # a conflict with another request: it may be sent again
        return Unanswered(str(error))
    return StoreError(
        f"{answer}; these modes need the role Object Writer (or Writer) on its bucket, which"
        " FLOWLOG_STATE_BUCKET can name"
    )
