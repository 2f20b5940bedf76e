"""The environment of a run, checked: contract, section 2. Nobody else reads it."""

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
"""Module and class by the value of LOG_DESTINATION; only the one that is used is imported."""

PUSH_ALL_AGAIN = ("simple", "remember")
"""Modes in which another run without an event pushes the same objects again."""

MOST_RETRY_SECONDS = 1200
"""Lines that wait longer could become too old for the log service."""

MOST_CONCURRENCY = 256


class Unusable(Exception):
    """The environment or CE_DATA is unusable; `faults` names every variable that is at fault."""

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
    """Which objects concern a run without an event."""
    selection: Selection
    """What is sent of each object."""
    warnings: tuple[str, ...] = field(default=())

    @property
    def location(self) -> Location:
        """Where the objects and STATE are."""
        return Location(self.endpoint, self.credentials, self.bucket, self.state_bucket)


def mode_of(environ: Mapping[str, str]) -> str:
    """The mode, for the summary also of a run whose environment is unusable."""
    mode = environ.get("FLOWLOG_MODE", "").strip() or "simple"
    return mode if mode in lib.MODES else "unknown"


def log_level_of(environ: Mapping[str, str]) -> int:
    """The log level; INFO where LOG names none."""
    try:
        return parse_level(environ.get("LOG", "").strip() or "INFO")
    except ValueError:
        return logging.INFO


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Check the environment of a run. Raises Unusable with all that is wrong with it."""
    env = Environment(environ)
    bucket = env.parsed("COS_BUCKET", parse_bucket, "")
    env.required("COS_BUCKET")
    endpoint = env.url("COS_ENDPOINT")
    env.required("COS_ENDPOINT")
    iam_url = env.url("IAM_ENDPOINT", IAM_URL)
    mode = env.parsed("FLOWLOG_MODE", _parse_mode, "simple")
    state_key = env.parsed("KEY_FIRST_LOGGED", parse_key, "first_logged")
    prefix = env.parsed("FLOWLOG_PREFIX", parse_key, "ibm_vpc_flowlogs_")
    retry = env.parsed("FLOWLOG_RETRY_SECONDS", _parse_retry, RetryPolicy())
    concurrency = env.parsed("FLOWLOG_CONCURRENCY", _parse_concurrency, CONCURRENCY)
    event = _event(env, mode)
    _check_endpoint(env, endpoint, bucket)
    if event and event.bucket and event.bucket != bucket:
        env.warnings.append(f"the event's bucket {event.bucket!r} wins over COS_BUCKET {bucket!r}")
        bucket = event.bucket
    if (tries := env.parsed("JOB_INDEX_RETRY_COUNT", parse_number, 0)) and not event:
        env.warnings += _repetition(mode, tries)
    destination = _destination(env)
    settings = Settings(
        bucket=bucket,
        state_bucket=env.parsed("FLOWLOG_STATE_BUCKET", parse_bucket, bucket),
        endpoint=endpoint,
        credentials=_credentials(env, iam_url),
        destination=destination,
        retry=retry,
        concurrency=concurrency,
        mode=mode,
        state_key=state_key,
        prefix=prefix,
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
    """The name that Code Engine gives this job run; empty where it has no name."""
    name = env.text("CE_JOBRUN")
    return name if re.fullmatch(r"[!-~]{1,253}", name) else ""


def _check_endpoint(env: Environment, endpoint: str, bucket: str) -> None:
    """With the bucket in the endpoint as well, every object would seem to be gone."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if bucket and (host.startswith(f"{bucket}.s3.") or parts.path.endswith(f"/{bucket}")):
        env.fault("COS_ENDPOINT must not hold the bucket's name, which is added to it")


def _event(env: Environment, mode: str) -> lib.Event | None:
    """The object's event that the run was started for; a timer is none, whatever its data."""
    ce_type = env.text("CE_TYPE")
    if ce_type != TIMER:
        return env.parsed("CE_DATA", lambda text: parse_event(text, ce_type), None)
    if mode in PUSH_ALL_AGAIN:
        env.fault(
            f"FLOWLOG_MODE {mode} does not go with a timer (CE_TYPE {TIMER}), at whose every tick"
            " it would push the same objects again: set FLOWLOG_MODE to follow"
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
        env.fault("FLOWLOG_SINCE lies in the future: no object was written since then")
    elif since is not None and until is not None and since >= until:
        env.fault("FLOWLOG_SINCE must be before FLOWLOG_UNTIL: no object lies between them")
    return Period(since, until)


def _selection(env: Environment, destination: Destination) -> Selection:
    """What FLOWLOG_FIELDS and FLOWLOG_WHERE choose."""
    fields = env.parsed("FLOWLOG_FIELDS", parse_fields, Fields())
    where = env.parsed("FLOWLOG_WHERE", _parse_where, None)
    if where:
        env.warnings += where.warnings()
    return Selection(fields.with_default(destination.extra_fields), where)


def _parse_where(text: str) -> Filter:
    # Only where there is a filter: it brings jmespath along.
    from push.filter import Filter

    return Filter(text)


def _repetition(mode: str, tries: int) -> Iterable[str]:
    """What to say of a run without an event that Code Engine has started again."""
    if mode in PUSH_ALL_AGAIN:
        yield (
            f"this is retry {tries} of a run that pushes all: what was sent before is sent again;"
            " submit such runs with --retrylimit 0"
        )


def _credentials(env: Environment, iam_url: str) -> HMAC | IAM:
    if env.text("COS_HMAC_ACCESS_KEY_ID") or env.text("COS_HMAC_SECRET_ACCESS_KEY"):
        pair = ": the HMAC credentials are a pair"
        return HMAC(
            env.header("COS_HMAC_ACCESS_KEY_ID", pair),
            env.secret("COS_HMAC_SECRET_ACCESS_KEY", pair),
        )
    return IAM(env.identity(), env.header("COS_CRN"), iam_url)


def _destination(env: Environment) -> Destination:
    """The log service that LOG_DESTINATION names."""
    where = env.parsed("LOG_DESTINATION", _parse_destination, DESTINATIONS["logdna"])
    destination: Destination = pkgutil.resolve_name(where).read(env)
    return destination


def _parse_mode(text: str) -> str:
    if text not in lib.MODES:
        raise ValueError(f"must be one of: {', '.join(lib.MODES)}")
    return text


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
    number = parse_number(text)
    if not 1 <= number <= MOST_CONCURRENCY:
        raise ValueError(f"must be from 1 to {MOST_CONCURRENCY}")
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
            f"JOB_INDEX {index} is outside of JOB_ARRAY_SIZE {count}: run indices from 0 on,"
            " and give --array-size-var-override when only some of them run again"
        )
    if mode not in PUSH_ALL_AGAIN and count > 1:
        env.fault(
            f"JOB_ARRAY_SIZE {count} does not go with FLOWLOG_MODE {mode}, which has one worker:"
            " run it without an array, or push all with an array in FLOWLOG_MODE simple"
        )
    return Shard(index, max(count, 1))
