"""The job that Code Engine starts: environment in, one mode run, exit code and summary out.

This is the one place that knows the environment; contract, sections 2, 3 and 6.
"""

from __future__ import annotations

import base64
import functools
import itertools
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar
from urllib.parse import urlsplit

import lib
from bucket.state import StateError
from destinations.cloud_logs import CloudLogs
from logdna_synchronous import Delivery, Destination, LogDNA, RetryPolicy

log = logging.getLogger("flowlog")

T = TypeVar("T")

VERSION = "1.0.0"
"""Of the job; CHANGELOG.md says what is in it."""

IAM_URL = "https://iam.cloud.ibm.com"
REGION_URL = "https://logs.{region}.logging.cloud.ibm.com"
CE_DATA_LIMIT_BYTES = 64 * 1024
"""A key has at most 1,024 bytes; an event that is longer than this was not made by Code Engine."""

APPLICATION = "vpc-flow-logs"
MOST_RETRY_SECONDS = 1200
"""Lines that wait longer could become too old for the log service."""

MOST_CONCURRENCY = 256
READS_PER_REQUEST = 4
"""Objects are far smaller than requests, so there are fewer of these in flight."""

NAMED_IN_SUMMARY = 100
NAMED_NOT_BEGUN = 10_000
"""A run that ends early names at most so many objects it had not begun, then counts the rest."""

SUMMARY = logging.CRITICAL + 10
"""Level of the summary line: it is printed whatever LOG says."""


# --- environment ---------------------------------------------------------------------------------


class Unusable(Exception):
    """The environment or CE_DATA is unusable; `faults` names every variable that is at fault."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked environment of one run."""

    bucket: str
    endpoint: str
    credentials: lib.HMAC | lib.IAM
    destination: Destination
    retry: RetryPolicy
    concurrency: int
    mode: str
    state_key: str
    prefix: str
    shard: lib.Shard
    event: lib.Event | None
    warnings: tuple[str, ...] = field(default=())


class _Environment:
    """Reads variables, collecting what is wrong with them instead of stopping at the first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[str] = []
        self.warnings: list[str] = []

    def text(self, name: str, default: str = "") -> str:
        """The value; `default` where it is unset or empty."""
        return self._environ.get(name, "").strip() or default

    def required(self, name: str, why: str = "") -> str:
        """The value; a fault where there is none."""
        value = self.text(name)
        if not value:
            self.faults.append(f"{name} is not set{why}")
        return value

    def secret(self, name: str, why: str = "") -> str:
        """A required value that goes into a header or a form, never named in a fault."""
        value = self.required(name, why)
        if not value.isprintable() or not value.isascii():
            self.faults.append(f"{name} holds characters that no such key has")
        return value

    def parsed(self, name: str, parse: Callable[[str], T], default: T) -> T:
        """The value as `parse` makes it; a fault with the text of its ValueError."""
        value = self.text(name)
        if not value:
            return default
        try:
            return parse(value)
        except ValueError as error:
            self.faults.append(f"{name} {error}")
            return default

    def url(self, name: str, default: str = "") -> str:
        """A base URL without a slash at its end; a host alone gets `https://` before it."""
        url = self.parsed(name, parse_url, default)
        if url.startswith("http://") and urlsplit(url).hostname not in _LOOPBACK:
            self.warnings.append(f"{name} is not encrypted (http://): keys can be read on the way")
        return url


_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def parse_url(text: str) -> str:
    """Check a base URL or a bare host. Raises ValueError, which doesn't repeat the text."""
    url = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable or not re.fullmatch(r"[!-~]+", url):
        raise ValueError("is not a host name or an http(s) URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or password")
    if parts.query or parts.fragment:
        raise ValueError("must be a base URL, without `?` or `#`")
    return url.rstrip("/")


def _parse_bucket(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", text) or set(text) == {"."}:
        raise ValueError("is not a bucket name")
    return text


def _parse_key(text: str) -> str:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    if not 0 < size <= 1024:
        raise ValueError("is not a key: it must have 1 to 1024 bytes")
    return text


def _parse_region(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]{1,63}", text):
        raise ValueError("is not a region, such as us-south")
    return REGION_URL.format(region=text)


def _parse_mode(text: str) -> str:
    if text not in lib.MODES:
        raise ValueError(f"must be one of: {', '.join(lib.MODES)}")
    return text


def _parse_level(text: str) -> int:
    level = logging.getLevelNamesMapping().get(text.upper())
    if not level or level >= SUMMARY:
        raise ValueError("must be DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return level


def _parse_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError("is not a whole number")
    return int(text)


def _parse_retry(text: str) -> RetryPolicy:
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]+)?", text) or float(text) > MOST_RETRY_SECONDS:
        raise ValueError(f"is not a number of seconds up to {MOST_RETRY_SECONDS}")
    seconds, usual = float(text), RetryPolicy()
    # A single try must leave time for others.
    one_try = max(1.0, seconds / 3)
    return replace(
        usual,
        seconds=seconds,
        connect_seconds=min(usual.connect_seconds, one_try),
        answer_seconds=min(usual.answer_seconds, one_try),
    )


def _parse_concurrency(text: str) -> int:
    number = _parse_number(text)
    if not 1 <= number <= MOST_CONCURRENCY:
        raise ValueError(f"must be from 1 to {MOST_CONCURRENCY}")
    return number


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Check the environment of a run. Raises Unusable with all that is wrong with it."""
    env = _Environment(environ)
    bucket = env.parsed("COS_BUCKET", _parse_bucket, "")
    env.required("COS_BUCKET")
    endpoint = env.url("COS_ENDPOINT")
    env.required("COS_ENDPOINT")
    iam_url = env.url("IAM_ENDPOINT", IAM_URL)
    mode = env.parsed("FLOWLOG_MODE", _parse_mode, "simple")
    state_key = env.parsed("KEY_FIRST_LOGGED", _parse_key, "first_logged")
    prefix = env.parsed("FLOWLOG_PREFIX", _parse_key, "ibm_vpc_flowlogs_")
    retry = env.parsed("FLOWLOG_RETRY_SECONDS", _parse_retry, RetryPolicy())
    concurrency = env.parsed("FLOWLOG_CONCURRENCY", _parse_concurrency, lib.CONCURRENCY)
    event = env.parsed("CE_DATA", lambda text: parse_event(text, env.text("CE_TYPE")), None)
    _check_endpoint(env, endpoint, bucket)
    if event and event.bucket and event.bucket != bucket:
        env.warnings.append(f"the event's bucket {event.bucket!r} wins over COS_BUCKET {bucket!r}")
        bucket = event.bucket
    if (tries := env.parsed("JOB_INDEX_RETRY_COUNT", _parse_number, 0)) and not event:
        env.warnings += _repetition(mode, tries)
    settings = Settings(
        bucket=bucket,
        endpoint=endpoint,
        credentials=_credentials(env, iam_url),
        destination=_destination(env, iam_url),
        retry=retry,
        concurrency=concurrency,
        mode=mode,
        state_key=state_key,
        prefix=prefix,
        shard=_shard(env, mode),
        event=event,
        warnings=tuple(env.warnings),
    )
    env.parsed("LOG", _parse_level, logging.INFO)  # used before this, in start_logging
    if env.faults:
        raise Unusable(dict.fromkeys(env.faults))
    return settings


def _check_endpoint(env: _Environment, endpoint: str, bucket: str) -> None:
    """With the bucket in the endpoint as well, every object would seem to be gone."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if bucket and (host.startswith(f"{bucket}.s3.") or parts.path.endswith(f"/{bucket}")):
        env.faults.append("COS_ENDPOINT must not hold the bucket's name, which is added to it")


def _repetition(mode: str, tries: int) -> Iterable[str]:
    """What to say of a run without an event that Code Engine has started again."""
    if mode != "catch-up":
        yield (
            f"this is retry {tries} of a run that pushes all: what was sent before is sent again;"
            " submit such runs with --retrylimit 0"
        )


def _credentials(env: _Environment, iam_url: str) -> lib.HMAC | lib.IAM:
    if env.text("COS_HMAC_ACCESS_KEY_ID") or env.text("COS_HMAC_SECRET_ACCESS_KEY"):
        pair = ": the HMAC credentials are a pair"
        return lib.HMAC(
            env.secret("COS_HMAC_ACCESS_KEY_ID", pair),
            env.secret("COS_HMAC_SECRET_ACCESS_KEY", pair),
        )
    return lib.IAM(env.secret("APIKEY"), env.secret("COS_CRN"), iam_url)


def _destination(env: _Environment, iam_url: str) -> Destination:
    """The log service that LOG_DESTINATION names."""
    default: _Reader = _logdna
    return env.parsed("LOG_DESTINATION", _parse_destination, default)(env, iam_url)


def _logdna(env: _Environment, iam_url: str) -> LogDNA:
    by_region = env.parsed("LOGDNA_REGION", _parse_region, "")
    url = env.url("LOGDNA_ENDPOINT", by_region).removesuffix("/logs/ingest")
    if not env.text("LOGDNA_ENDPOINT") and not env.text("LOGDNA_REGION"):
        env.faults.append("LOGDNA_ENDPOINT is not set, nor is LOGDNA_REGION: one of them must be")
    return LogDNA(url, env.secret("LOGDNA_INGESTION_KEY"))


def _cloud_logs(env: _Environment, iam_url: str) -> CloudLogs:
    url = env.url("CLOUD_LOGS_ENDPOINT").removesuffix("/logs/v1/singles")
    env.required("CLOUD_LOGS_ENDPOINT")
    key = env.secret("APIKEY")
    return CloudLogs(
        url,
        functools.partial(lib.tokens_for, key, iam_url),
        env.parsed("CLOUD_LOGS_APPLICATION", _parse_label, APPLICATION),
        env.parsed("CLOUD_LOGS_SUBSYSTEM", _parse_label, ""),
    )


_Reader = Callable[[_Environment, str], Destination]

DESTINATIONS: Mapping[str, _Reader] = {
    "logdna": _logdna,
    "cloud-logs": _cloud_logs,
}
"""By the value of LOG_DESTINATION."""


def _parse_destination(text: str) -> _Reader:
    if text not in DESTINATIONS:
        raise ValueError(f"must be one of: {', '.join(DESTINATIONS)}")
    return DESTINATIONS[text]


def _parse_label(text: str) -> str:
    if len(text) > 100 or not text.isprintable():
        raise ValueError("is not a name of at most 100 printable characters")
    return text


def _shard(env: _Environment, mode: str) -> lib.Shard:
    count = env.parsed("JOB_ARRAY_SIZE", _parse_number, 1)
    index = env.parsed("JOB_INDEX", _parse_number, 0)
    if count < 1:
        env.faults.append("JOB_ARRAY_SIZE must be 1 or more")
    elif count > 1 and not env.text("JOB_INDEX"):
        env.faults.append(f"JOB_INDEX is not set, although JOB_ARRAY_SIZE is {count}")
    elif index >= count:
        env.faults.append(
            f"JOB_INDEX {index} is outside of JOB_ARRAY_SIZE {count}: run indices from 0 on,"
            " and give --array-size-var-override when only some of them run again"
        )
    if mode == "catch-up" and count > 1:
        env.faults.append(
            f"JOB_ARRAY_SIZE {count} does not go with FLOWLOG_MODE catch-up, which has one worker:"
            " run it without an array, or push all with an array in FLOWLOG_MODE simple"
        )
    return lib.Shard(index, max(count, 1))


def parse_event(text: str, ce_type: str = "") -> lib.Event:
    """Read CE_DATA (Code Engine docs, "Object Storage event producer"); contract, section 3.

    `ce_type` (`com.ibm.cloud.cos.document.write` or `.delete`) counts where the data itself doesn't
    say what happened. Raises ValueError.
    """
    if len(text) > CE_DATA_LIMIT_BYTES:
        raise ValueError(f"is longer than {CE_DATA_LIMIT_BYTES} bytes")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    if not isinstance(data, dict):
        raise ValueError("is not a JSON object")
    faults: list[str] = []
    key = _event_field(data, "key", _parse_key, faults)
    bucket = _event_field(data, "bucket", _parse_bucket, faults) if data.get("bucket") else ""
    operation = _event_operation(data, ce_type, faults)
    if faults:
        raise ValueError("; ".join(faults))
    return lib.Event(key, bucket, operation)


def _event_field(
    data: Mapping[str, object], name: str, parse: Callable[[str], str], faults: list[str]
) -> str:
    value = data.get(name)
    if not isinstance(value, str):
        faults.append(f"holds no text `{name}`")
        return ""
    try:
        return parse(value)
    except ValueError as error:
        faults.append(f"`{name}` {error}")
        return ""


def _event_operation(data: Mapping[str, object], ce_type: str, faults: list[str]) -> lib.Operation:
    said = data.get("operation")
    notification = data.get("notification")
    if not said and isinstance(notification, dict):
        said = notification.get("event_type")
    said = said or ce_type or lib.Operation.WRITE.value
    # Code Engine's own type, or COS's, which may bear a detail behind it ("Object:Write:Post").
    found = re.fullmatch(
        r"(?:object:|com\.ibm\.cloud\.cos\.document\.)(write|delete)(?:[:.].*)?",
        str(said),
        re.IGNORECASE,
    )
    if not found:
        faults.append("`operation` is neither Object:Write nor Object:Delete")
        return lib.Operation.WRITE
    return lib.Operation[found[1].upper()]


# --- the log -------------------------------------------------------------------------------------


class SafeFormatter(logging.Formatter):
    """One line a record, whatever a key holds; and no secret, whoever logged it.

    The summary stands alone, so that it can be cut out by a machine.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime
        self._secrets = [form for secret in secrets if secret for form in _forms(secret)]

    def format(self, record: logging.LogRecord) -> str:
        """The record's text, made safe."""
        text = record.getMessage() if record.levelno == SUMMARY else super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return "".join(map(_visible, text)) if not text.isprintable() else text


def _forms(secret: str) -> tuple[str, ...]:
    """A secret as it is, and as basic auth would write it."""
    plain, as_user = (
        base64.b64encode(text.encode()).decode().rstrip("=") for text in (secret, f"{secret}:")
    )
    return (as_user, plain, secret)


def _visible(character: str) -> str:
    """The character, or its escape where a terminal or a line reader would act on it."""
    return character if character.isprintable() else ascii(character)[1:-1]


_SECRETS = ("APIKEY", "LOGDNA_INGESTION_KEY", "COS_HMAC_SECRET_ACCESS_KEY")


def start_logging(environ: Mapping[str, str]) -> None:
    """Log to standard error as LOG says."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter(environ.get(name, "").strip() for name in _SECRETS))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # The SDK logs headers at DEBUG and tracebacks at WARNING; what goes wrong in it is said here.
    logging.getLogger("ibm_botocore").setLevel(SUMMARY)
    logging.getLogger("urllib3").setLevel(SUMMARY)
    try:
        log.setLevel(_parse_level(environ.get("LOG", "").strip() or "INFO"))
    except ValueError:
        log.setLevel(logging.INFO)


def say_failures(tally: lib.Tally) -> None:
    """Name every object that was to be delivered and was not."""
    for key, error in tally.failed:
        log.error("not delivered: %s: %s", key, error)
    for ref in tally.not_begun[:NAMED_NOT_BEGUN]:
        log.error("not delivered: %s: not begun", ref.key)
    more = len(tally.not_begun) - NAMED_NOT_BEGUN
    if more > 0:
        log.error("not delivered: %d more, all that are newer than the last one named", more)
    if tally.not_begun:
        log.error("%d objects were not begun: %s", len(tally.not_begun), tally.not_begun_because)


def summary(mode: str, tally: lib.Tally, delivery: Delivery | None, seconds: float) -> str:
    """The last line of a run; contract, section 6."""
    named = itertools.islice(tally.failed, NAMED_IN_SUMMARY)
    failed = [{"key": key, "error": error} for key, error in named]
    for ref in tally.not_begun[: NAMED_IN_SUMMARY - len(failed)]:
        failed.append({"key": ref.key, "error": tally.not_begun_because})
    traffic = delivery.traffic if delivery else None
    fields = {
        "mode": mode,
        "objects": tally.objects,
        "rows": tally.rows,
        "lines_delivered": tally.lines_delivered,
        "bytes_sent": traffic.bytes_sent if traffic else 0,
        "requests": traffic.requests if traffic else 0,
        "retries": traffic.retries if traffic else 0,
        "failed": failed,
        "failed_total": tally.failed_total,
        "skipped": tally.skipped,
        "seconds": round(seconds, 3),
        "version": VERSION,
    }
    return "summary " + json.dumps(fields, separators=(",", ":"))


# --- one run -------------------------------------------------------------------------------------

OK, NOT_DELIVERED, UNUSABLE = 0, 1, 2


def exit_code(tally: lib.Tally, stop: lib.Stop, *, broken: bool) -> int:
    """The exit code of a run that got past its settings; contract, section 6.

    `broken` says that the mode itself could not go on. A signal counts more than what it left
    undone: 128 plus its number, 143 for SIGTERM.
    """
    if stop.signal is not None:
        return 128 + stop.signal
    return NOT_DELIVERED if broken or tally.failed_total else OK


def open_delivery(settings: Settings, stop: lib.Stop) -> Delivery:
    """The delivery of a real run."""
    return Delivery(
        settings.destination,
        policy=settings.retry,
        concurrency=max(1, settings.concurrency // READS_PER_REQUEST),
        stopping=stop.requested,
    )


def run(
    environ: Mapping[str, str],
    stop: lib.Stop | None = None,
    *,
    delivery: Callable[[Settings, lib.Stop], Delivery] = open_delivery,
    on_progress: Callable[[lib.Progress], None] | None = None,
) -> int:
    """Do one run with this environment; its exit code. The last line logged is the summary."""
    started = time.monotonic()
    start_logging(environ)
    tally, opened = lib.Tally(), None
    try:
        settings = read_settings(environ)
    except Unusable as unusable:
        for fault in unusable.faults:
            log.error("%s", fault)
        log.error("nothing was sent: correct the settings named above")
        code = UNUSABLE
    else:
        stop = stop or lib.Stop()
        opened = delivery(settings, stop)
        code = _run_mode(settings, stop, opened, tally, on_progress)
    mode = environ.get("FLOWLOG_MODE", "").strip() or "simple"
    mode = mode if mode in lib.MODES else "unknown"
    say_failures(tally)
    log.log(SUMMARY, "%s", summary(mode, tally, opened, time.monotonic() - started))
    return code


def _run_mode(
    settings: Settings,
    stop: lib.Stop,
    delivery: Delivery,
    tally: lib.Tally,
    on_progress: Callable[[lib.Progress], None] | None,
) -> int:
    for warning in settings.warnings:
        log.warning("%s", warning)
    scope = lib.Scope(settings.prefix, settings.state_key, settings.shard)
    if settings.event and (reason := scope.nothing_to_do(settings.event)):
        log.info("nothing to do for %s: %s", settings.event.key, reason)
        tally.skipped += 1
        return OK
    log.info("mode %s, bucket %s at %s", settings.mode, settings.bucket, settings.endpoint)
    broken = False
    try:
        store = lib.Store(
            settings.endpoint,
            settings.credentials,
            settings.bucket,
            settings.concurrency,
            settings.retry.answer_seconds,
        )
        job = lib.Job(store, delivery, stop, scope, tally, on_progress)
        try:
            lib.MODES[settings.mode](job, settings.event)
        finally:
            job.close()
    except lib.Stopped:
        log.warning("told to stop")
    except (lib.StoreError, StateError) as error:
        log.error("%s", error)
        _name_event(settings.event, tally, str(error))
        broken = True
    except Exception as error:
        log.error("a fault of this program, please report it: %s: %s", type(error).__name__, error)
        log.debug("where it happened", exc_info=True)
        broken = True
    return exit_code(tally, stop, broken=broken)


def _name_event(event: lib.Event | None, tally: lib.Tally, why: str) -> None:
    """Name the event's object where the run ended before it came to it."""
    if event and not (tally.objects or tally.skipped or tally.failed_total):
        tally.failed.append(event.key, why)


def main() -> None:
    """Run once with the process's environment, and end the process with the exit code."""
    stop = lib.Stop()

    def note(number: int, _frame: object) -> None:
        stop.signal = number

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    code = run(os.environ, stop)
    logging.shutdown()
    # Not sys.exit: threads that still wait for the network must not hold up the end.
    os._exit(code)


if __name__ == "__main__":
    main()
