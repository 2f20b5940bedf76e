"""Reads and checks the environment of a run: contract, section 2. No other module reads it."""

from __future__ import annotations

import logging
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import lib
from bucket.listing import Period
from bucket.shard import Shard
from bucket.store import CONCURRENCY, HMAC, Location
from connections.iam import IAM
from connections.network import read_network
from connections.retry import RetryPolicy
from destinations.base import Destination
from push.selection import Fields, Selection, parse_fields
from run.environment import (
    IAM_URL,
    Environment,
    parse_bucket,
    parse_key,
    parse_moment,
    parse_number,
)
from run.event import TIMER, parse_event
from run.report import parse_level

if TYPE_CHECKING:
    from push.filter import Filter

DESTINATIONS: Mapping[str, str] = {
    "logdna": "logdna_synchronous:LogDNA",
    "cloud-logs": "destinations.cloud_logs:CloudLogs",
    "otlp": "destinations.otlp:OTLP",
}
"""Module and class for each value of LOG_DESTINATION; only the one in use is imported."""

PUSH_ALL_AGAIN = ("simple", "remember")
"""Modes in which another run without an event pushes the same objects again."""

MAX_RETRY_SECONDS = 1200
"""Lines that are retried for longer could become too old for the log service."""

MAX_CONCURRENCY = 256


class Unusable(Exception):
    """The environment or CE_DATA is unusable; each of `faults` names a variable and its fault."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(self.faults))


@dataclass(frozen=True, slots=True)
class Settings:
    """The checked environment of one run."""

    bucket: str
    state_bucket: str
    endpoint: str
    credentials: HMAC | IAM
    destination: Destination
    retry: RetryPolicy
    concurrency: int
    mode: str
    state_key: str
    prefix: str
    shard: Shard
    event: lib.Event | None
    job_run: str
    period: Period
    """Objects written in this period are pushed by a run without an event."""
    selection: Selection
    """Which flows and fields of each object are sent."""
    warnings: tuple[str, ...] = field(default=())

    @property
    def location(self) -> Location:
        """Where the objects and STATE are."""
        return Location(self.endpoint, self.credentials, self.bucket, self.state_bucket)


def mode_of(environ: Mapping[str, str]) -> str:
    """The mode, also for the summary of a run whose environment is unusable."""
    mode = environ.get("FLOWLOG_MODE", "").strip() or "simple"
    return mode if mode in lib.MODES else "unknown"


def log_level_of(environ: Mapping[str, str]) -> int:
    """The log level; INFO if LOG has no valid one."""
    try:
        return parse_level(environ.get("LOG", "").strip() or "INFO")
    except ValueError:
        return logging.INFO


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Check the environment of a run. Raises Unusable with all its faults."""
    env = Environment(environ)
    bucket = env.parsed("COS_BUCKET", parse_bucket, "")
    env.required("COS_BUCKET")
    endpoint = env.url("COS_ENDPOINT")
    env.required("COS_ENDPOINT")
    iam_url = env.url("IAM_ENDPOINT", IAM_URL)
    mode = env.parsed("FLOWLOG_MODE", _parse_mode, "simple")
    event = _event(env, mode)
    _check_endpoint(env, endpoint, bucket)
    bucket = _bucket_of(env, event, bucket)
    _check_retry(env, event, mode)
    destination = _destination(env)
    settings = Settings(
        bucket=bucket,
        state_bucket=env.parsed("FLOWLOG_STATE_BUCKET", parse_bucket, bucket),
        endpoint=endpoint,
        credentials=_credentials(env, iam_url),
        destination=destination,
        retry=env.parsed("FLOWLOG_RETRY_SECONDS", _parse_retry, RetryPolicy()),
        concurrency=env.parsed("FLOWLOG_CONCURRENCY", _parse_concurrency, CONCURRENCY),
        mode=mode,
        state_key=env.parsed("KEY_FIRST_LOGGED", parse_key, "first_logged"),
        prefix=env.parsed("FLOWLOG_PREFIX", parse_key, "ibm_vpc_flowlogs_"),
        shard=_shard(env, mode),
        event=event,
        job_run=_job_run(env),
        period=_period(env),
        selection=_selection(env, destination),
        warnings=tuple(env.warnings),
    )
    env.faults += read_network(environ)[1]
    env.parsed("LOG", parse_level, logging.INFO)  # used before this, by log_level_of
    if env.faults:
        raise Unusable(dict.fromkeys(env.faults))
    return settings


def _job_run(env: Environment) -> str:
    """The name that Code Engine gives this job run; empty if it has none."""
    name = env.text("CE_JOBRUN")
    return name if re.fullmatch(r"[!-~]{1,253}", name) else ""


def _check_endpoint(env: Environment, endpoint: str, bucket: str) -> None:
    """With the bucket's name in the endpoint as well, no object would be found."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if bucket and (host.startswith(f"{bucket}.s3.") or parts.path.endswith(f"/{bucket}")):
        env.fault("COS_ENDPOINT must not contain the bucket's name, which is added to it")


def _bucket_of(env: Environment, event: lib.Event | None, bucket: str) -> str:
    """The bucket of the run: that of the event, if it names one."""
    if not event or event.bucket in ("", bucket):
        return bucket
    env.warnings.append(
        f"the event's bucket {event.bucket!r} is used instead of COS_BUCKET {bucket!r}"
    )
    return event.bucket


def _check_retry(env: Environment, event: lib.Event | None, mode: str) -> None:
    """Warn if Code Engine has started a run without an event again, which sends all again."""
    tries = env.parsed("JOB_INDEX_RETRY_COUNT", parse_number, 0)
    if tries and not event and mode in PUSH_ALL_AGAIN:
        env.warnings.append(
            f"this is retry {tries} of a run that pushes all: what was sent before is sent again;"
            " submit such runs with --retrylimit 0"
        )


def _event(env: Environment, mode: str) -> lib.Event | None:
    """The object event that started the run; None for a timer, whatever its data."""
    ce_type = env.text("CE_TYPE")
    if ce_type != TIMER:
        return env.parsed("CE_DATA", lambda text: parse_event(text, ce_type), None)
    if mode in PUSH_ALL_AGAIN:
        env.fault(
            f"FLOWLOG_MODE {mode} does not go with a timer (CE_TYPE {TIMER}): it would push"
            " the same objects again each time; set FLOWLOG_MODE to follow"
        )
    return None


def _period(env: Environment) -> Period:
    """The period that FLOWLOG_SINCE and FLOWLOG_UNTIL name."""
    now = datetime.now(UTC)

    def parse(text: str) -> int | None:
        return parse_moment(text, now)

    since = env.parsed("FLOWLOG_SINCE", parse, None)
    until = env.parsed("FLOWLOG_UNTIL", parse, None)
    if since is not None and since > now.timestamp():
        env.fault("FLOWLOG_SINCE is in the future: no object was written since then")
    elif since is not None and until is not None and since >= until:
        env.fault("FLOWLOG_SINCE must be before FLOWLOG_UNTIL: no object was written between them")
    return Period(since, until)


def _selection(env: Environment, destination: Destination) -> Selection:
    """What FLOWLOG_FIELDS and FLOWLOG_WHERE choose."""
    fields = env.parsed("FLOWLOG_FIELDS", parse_fields, Fields())
    where = env.parsed("FLOWLOG_WHERE", _parse_where, None)
    if where:
        env.warnings += where.warnings()
    return Selection(fields.with_default(destination.extra_fields), where)


def _parse_where(text: str) -> Filter:
    # Imported only if there is a filter, since it imports jmespath.
    from push.filter import Filter

    return Filter(text)


def _credentials(env: Environment, iam_url: str) -> HMAC | IAM:
    if env.text("COS_HMAC_ACCESS_KEY_ID") or env.text("COS_HMAC_SECRET_ACCESS_KEY"):
        pair = ": both parts of the HMAC credentials are needed"
        return HMAC(
            env.header("COS_HMAC_ACCESS_KEY_ID", pair),
            env.secret("COS_HMAC_SECRET_ACCESS_KEY", pair),
        )
    return IAM(env.identity(), env.header("COS_CRN"), iam_url)


def _destination(env: Environment) -> Destination:
    """The log service that LOG_DESTINATION names."""
    class_name = env.parsed("LOG_DESTINATION", _parse_destination, DESTINATIONS["logdna"])
    destination: Destination = pkgutil.resolve_name(class_name).read(env)
    return destination


def _parse_mode(text: str) -> str:
    if text not in lib.MODES:
        raise ValueError(f"must be one of: {', '.join(lib.MODES)}")
    return text


def _parse_retry(text: str) -> RetryPolicy:
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]+)?", text) or float(text) > MAX_RETRY_SECONDS:
        raise ValueError(f"is not a number of seconds up to {MAX_RETRY_SECONDS}")
    seconds, default = float(text), RetryPolicy()
    # One try must leave time for another one.
    one_try = max(1.0, seconds / 3)
    return replace(
        default,
        seconds=seconds,
        connect_seconds=min(default.connect_seconds, one_try),
        answer_seconds=min(default.answer_seconds, one_try),
    )


def _parse_concurrency(text: str) -> int:
    number = parse_number(text)
    if not 1 <= number <= MAX_CONCURRENCY:
        raise ValueError(f"must be from 1 to {MAX_CONCURRENCY}")
    return number


def _parse_destination(text: str) -> str:
    if text not in DESTINATIONS:
        raise ValueError(f"must be one of: {', '.join(DESTINATIONS)}")
    return DESTINATIONS[text]


def _shard(env: Environment, mode: str) -> Shard:
    count = env.parsed("JOB_ARRAY_SIZE", parse_number, 1)
    index = env.parsed("JOB_INDEX", parse_number, 0)
    if count < 1:
        env.fault("JOB_ARRAY_SIZE must be 1 or more")
    elif count > 1 and not env.text("JOB_INDEX"):
        env.fault(f"JOB_INDEX is not set, although JOB_ARRAY_SIZE is {count}")
    elif index >= count:
        env.fault(
            f"JOB_INDEX {index} is outside of JOB_ARRAY_SIZE {count}: use indices from 0"
            " on, and --array-size-var-override if only some of them run again"
        )
    if mode not in PUSH_ALL_AGAIN and count > 1:
        env.fault(
            f"JOB_ARRAY_SIZE {count} does not go with FLOWLOG_MODE {mode}, which has one worker:"
            " run it without an array, or push all with an array in FLOWLOG_MODE simple"
        )
    return Shard(index, max(count, 1))
