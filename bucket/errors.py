"""What an answer of the object store means, as errors: the bucket's fault, or one object's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from connections.iam import TokenError
from connections.time_limit import TooSlow


class StoreError(Exception):
    """The bucket can't be used as it is set up; the text says which setting to look at."""


class StoreUnavailable(StoreError):
    """The store gave no usable answer, although it was asked several times."""


class ObjectError(Exception):
    """One object can't be delivered; the others are not affected."""


class ObjectGone(ObjectError):
    """The object was deleted before it was read."""


class ObjectRefused(ObjectError):
    """The store does not hand out this object."""


class ObjectTooLarge(ObjectError):
    """The object is larger as stored than a flow log may be once unpacked."""


class PreconditionRefused(ObjectError):
    """The store refused a write because its precondition does not hold."""


class ReadInterrupted(ObjectError):
    """The body did not arrive whole, although it was asked for several times."""


@contextmanager
def explained(bucket: str, key: str | None = None) -> Iterator[None]:
    """Turns the errors of the SDK and of urllib3 into StoreError and ObjectError.

    `key` where one object is meant.
    """
    from ibm_botocore import exceptions as sdk
    from urllib3 import exceptions as http

    try:
        yield
    except sdk.ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise explain_answer(status, code, bucket, key) from None
    except TokenError as error:
        raise StoreError(str(error)) from None
    except (
        sdk.EndpointConnectionError,
        sdk.ConnectTimeoutError,
        sdk.SSLError,
        http.NewConnectionError,
        http.ConnectTimeoutError,
        http.ProxyError,
        http.SSLError,
    ) as error:
        raise StoreUnavailable(
            f"the object store can't be reached ({type(error).__name__}); look at COS_ENDPOINT"
            " (a `.direct.` one is reached from inside IBM Cloud only)"
        ) from None
    except (sdk.BotoCoreError, http.HTTPError, TooSlow) as error:
        what = f"the object store gave no whole answer ({type(error).__name__})"
        raise ReadInterrupted(what) if key else StoreUnavailable(what) from None


def explain_answer(
    status: int, code: str, bucket: str, key: str | None = None
) -> StoreError | ObjectError:
    """The error that an answer of the store stands for, by HTTP status and S3 error code.

    `key` says that one object was asked for: then a refusal concerns only that object.
    """
    answer = f"the object store answered {status} {code}"
    if code == "NoSuchBucket":
        return StoreError(f"there is no bucket {bucket!r} at this endpoint; look at COS_BUCKET")
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return StoreError(
            f"{answer}; look at COS_HMAC_ACCESS_KEY_ID and COS_HMAC_SECRET_ACCESS_KEY"
        )
    if key is not None and code == "NoSuchKey":
        return ObjectGone("the object is not in the bucket any more")
    if status == 404:
        return StoreError(
            f"{answer}: this is not an answer of an object store; look at COS_ENDPOINT"
        )
    if key is not None and status == 412:
        return PreconditionRefused(answer)
    if status in (401, 403):
        refused = (
            f"{answer}: no permission to read; look at the role of the key, COS_CRN, COS_BUCKET"
        )
        return ObjectRefused(refused) if key is not None and status == 403 else StoreError(refused)
    if status in (301, 307, 308):
        return StoreError(f"{answer}: the bucket is in another region; look at COS_ENDPOINT")
    if status >= 500 or status in (409, 429):
        return ReadInterrupted(answer) if key is not None else StoreUnavailable(answer)
    return ObjectRefused(answer) if key is not None else StoreError(f"{answer}; look at COS_BUCKET")
