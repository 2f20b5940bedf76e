"""The environment and CE_DATA: what is accepted, and the faults of everything else."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

import lib
from bucket.listing import ALWAYS, ObjectRef, Period
from bucket.store import HMAC
from connections.iam import COMPUTE_RESOURCE_TOKEN, IAM, ApiKey, TrustedProfile
from run.environment import parse_url
from run.event import parse_event
from run.report import SafeFormatter
from run.settings import Unusable, read_settings

IAM_WAY = {
    "COS_BUCKET": "flow-logs",
    "COS_ENDPOINT": "s3.us-south.cloud-object-storage.appdomain.cloud",
    "APIKEY": "the-api-key",
    "COS_CRN": "crn:v1:bluemix:public:cloud-object-storage:global:a/1:2::",
    "LOGDNA_INGESTION_KEY": "the-ingestion-key",
    "LOGDNA_REGION": "us-south",
}
HMAC_WAY = {
    **{name: IAM_WAY[name] for name in IAM_WAY if name not in ("APIKEY", "COS_CRN")},
    "COS_HMAC_ACCESS_KEY_ID": "access",
    "COS_HMAC_SECRET_ACCESS_KEY": "the-hmac-secret",
}
EVENT = {"bucket": "flow-logs", "endpoint": "", "key": "ibm_vpc_flowlogs_v1/a=b/x.gz",
         "notification": {"event_type": "Object:Write", "object_etag": "e", "object_length": "587",
                          "request_time": "2026-11-24T10:00:00.000Z"},
         "operation": "Object:Write"}  # fmt: skip


def faults(environ: dict[str, str]) -> str:
    with pytest.raises(Unusable) as caught:
        read_settings(environ)
    return "\n".join(caught.value.faults)


def test_the_settings_of_existing_deployments_are_enough() -> None:
    settings = read_settings({**IAM_WAY, "KEY_FIRST_LOGGED": "first", "LOG": "debug"})
    assert settings.endpoint == "https://s3.us-south.cloud-object-storage.appdomain.cloud"
    assert settings.credentials == IAM(
        ApiKey("the-api-key"), IAM_WAY["COS_CRN"], "https://iam.cloud.ibm.com"
    )
    assert settings.destination.url == "https://logs.us-south.logging.cloud.ibm.com"
    assert (settings.mode, settings.state_key, settings.prefix) == (
        "simple",
        "first",
        "ibm_vpc_flowlogs_",
    )
    assert settings.shard == lib.Shard(0, 1)
    assert settings.event is None


@pytest.mark.parametrize("setting", ["IAM_PROFILE_NAME", "IAM_PROFILE_ID"])
def test_a_trusted_profile_replaces_the_api_key(setting: str) -> None:
    settings = read_settings({**IAM_WAY, "APIKEY": "", setting: "flowlog"})
    profile = TrustedProfile(setting, "flowlog", Path(COMPUTE_RESOURCE_TOKEN))
    assert settings.credentials == IAM(profile, IAM_WAY["COS_CRN"], "https://iam.cloud.ibm.com")
    assert settings.warnings == ()
    both = read_settings({**IAM_WAY, setting: "flowlog", "CR_TOKEN_FILENAME": "/a/token"})
    assert isinstance(both.credentials, IAM)
    assert both.credentials.identity == TrustedProfile(setting, "flowlog", Path("/a/token"))
    assert both.warnings == (f"APIKEY is not used, since {setting} is set",)


def test_a_trusted_profile_has_one_name() -> None:
    text = faults({**IAM_WAY, "APIKEY": "", "IAM_PROFILE_NAME": "a", "IAM_PROFILE_ID": "b"})
    assert text == "IAM_PROFILE_NAME and IAM_PROFILE_ID are both set: remove one of them"


@pytest.mark.parametrize(
    ("mode", "tries", "data", "warned"),
    [
        ("simple", "1", "", True),
        ("remember", "2", "", True),
        ("simple", "0", "", False),
        ("simple", "1", json.dumps(EVENT), False),
        ("catch-up", "1", "", False),
        ("follow", "1", "", False),
    ],
)
def test_a_retry_that_sends_again_is_warned_of(
    mode: str, tries: str, data: str, warned: bool
) -> None:
    environ = {"FLOWLOG_MODE": mode, "JOB_INDEX_RETRY_COUNT": tries, "CE_DATA": data}
    said = " ".join(read_settings({**IAM_WAY, **environ}).warnings)
    assert ("--retrylimit 0" in said) is warned


@pytest.mark.parametrize(
    ("endpoint", "usable"),
    [
        ("https://s3.example.com/flow-logs", False),
        ("flow-logs.s3.us-south.cloud-object-storage.appdomain.cloud", False),
        ("https://flow-logs.example.com", True),
        ("https://s3.example.com/some/path", True),
    ],
)
def test_an_endpoint_that_contains_the_bucket_is_a_fault(endpoint: str, usable: bool) -> None:
    environ = {**IAM_WAY, "COS_ENDPOINT": endpoint}
    if usable:
        assert read_settings(environ)
    else:
        assert "COS_ENDPOINT must not contain the bucket's name" in faults(environ)


def test_an_array_needs_an_index() -> None:
    environ = {**IAM_WAY, "JOB_ARRAY_SIZE": "7", "JOB_INDEX": ""}
    assert "JOB_INDEX is not set" in faults(environ)


def test_hmac_replaces_api_key_and_crn() -> None:
    assert read_settings(HMAC_WAY).credentials == HMAC("access", "the-hmac-secret")


@pytest.mark.parametrize("end", ["", "/", "/logs/ingest", "/logs/ingest/"])
def test_endpoint_wins_over_region(end: str) -> None:
    """Also if it is the complete URL from the service's documentation."""
    settings = read_settings({**IAM_WAY, "LOGDNA_ENDPOINT": f"https://logs.mezmo.com{end}"})
    assert settings.destination.url == "https://logs.mezmo.com"


@pytest.mark.parametrize("way", [IAM_WAY, HMAC_WAY])
@pytest.mark.parametrize("value", [None, "", "  "])
def test_each_required_variable_missing_or_empty(way: dict[str, str], value: str | None) -> None:
    for name in way:
        environ = {**way, name: value} if value is not None else {**way}
        if value is None:
            del environ[name]
        named = "LOGDNA_ENDPOINT" if name == "LOGDNA_REGION" else name
        assert f"{named} is not set" in faults(environ), name


def test_all_faults_are_named_at_once() -> None:
    text = faults({"LOG": "loud", "CE_DATA": "[]", "JOB_INDEX": "x", "FLOWLOG_MODE": "fast"})
    for name in (
        "COS_BUCKET", "COS_ENDPOINT", "APIKEY", "COS_CRN", "LOGDNA_INGESTION_KEY",
        "LOGDNA_ENDPOINT", "LOG", "CE_DATA", "JOB_INDEX", "FLOWLOG_MODE",
    ):  # fmt: skip
        assert f"{name} " in text, name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("COS_BUCKET", "a/b"),
        ("COS_BUCKET", "a?b"),
        ("COS_BUCKET", ".."),
        ("COS_ENDPOINT", "ftp://host"),
        ("COS_ENDPOINT", "https://"),
        ("COS_ENDPOINT", "https://host:port"),
        ("COS_ENDPOINT", "https://host:99999"),
        ("COS_ENDPOINT", "https://user:pass@host"),
        ("COS_ENDPOINT", "https://host?x=1"),
        ("COS_ENDPOINT", "ho st"),
        ("COS_ENDPOINT", "https://[::1"),
        ("IAM_ENDPOINT", "::"),
        ("LOGDNA_ENDPOINT", "https://ho\nst"),
        ("LOGDNA_REGION", "evil.example/"),
        ("LOGDNA_INGESTION_KEY", "a\nb"),
        ("APIKEY", "clé"),
        ("FLOWLOG_MODE", "Simple"),
        ("KEY_FIRST_LOGGED", "x" * 1025),
        ("LOG", "NOTSET"),
        ("LOG", "10"),
        ("JOB_INDEX", "-1"),
        ("JOB_INDEX", "1"),
        ("JOB_ARRAY_SIZE", "0"),
        ("JOB_ARRAY_SIZE", "two"),
        ("FLOWLOG_RETRY_SECONDS", "-1"),
        ("FLOWLOG_RETRY_SECONDS", "nan"),
        ("FLOWLOG_SINCE", "yesterday"),
        ("FLOWLOG_SINCE", "-7d"),
        ("FLOWLOG_SINCE", "7"),
        ("FLOWLOG_SINCE", "2026-13-01"),
        ("FLOWLOG_SINCE", "9999-12-31"),
        ("FLOWLOG_UNTIL", "7 days"),
    ],
)
def test_malformed_values_are_named(name: str, value: str) -> None:
    text = faults({**IAM_WAY, name: value})
    assert name in text
    assert len(text.splitlines()) == 1


def test_faults_never_repeat_a_secret() -> None:
    secret = "s3cr\u00e9t-value"
    names = ("APIKEY", "LOGDNA_INGESTION_KEY", "COS_HMAC_SECRET_ACCESS_KEY")
    assert secret not in faults({**HMAC_WAY, **dict.fromkeys(names, secret)})
    assert secret not in faults({**IAM_WAY, "COS_ENDPOINT": f"https://u:{secret}@host"})


def test_an_instance_outside_of_its_array_is_not_silently_everything() -> None:
    text = faults({**IAM_WAY, "JOB_INDEX": "3", "JOB_ARRAY_SIZE": "1"})
    assert "--array-size-var-override" in text


@pytest.mark.parametrize("mode", ["catch-up", "follow"])
def test_a_mode_with_one_worker_refuses_an_array(mode: str) -> None:
    environ = {**IAM_WAY, "FLOWLOG_MODE": mode, "JOB_ARRAY_SIZE": "2", "JOB_INDEX": "0"}
    assert mode in faults(environ)
    assert read_settings({**environ, "JOB_ARRAY_SIZE": "1"}).mode == mode


# --- which period --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02", 86_400),
        ("1970-01-02T01:00", 90_000),
        ("1970-01-02T01:00:00Z", 90_000),
        ("1970-01-02T01:00:00+01:00", 86_400),
        ("1970-01-02T00:00:00.9Z", 86_400),
    ],
)
def test_a_date_or_time_without_a_zone_is_utc(text: str, seconds: int) -> None:
    period = read_settings({**IAM_WAY, "FLOWLOG_SINCE": text}).period
    assert period == Period(seconds)
    assert not period.holds(ObjectRef(seconds - 1, "k"))
    assert period.holds(ObjectRef(seconds, "k"))


@pytest.mark.parametrize(("text", "back"), [("90m", 5400), ("36h", 129_600), ("7d", 604_800)])
def test_a_span_counts_back_from_the_start_of_the_run(text: str, back: int) -> None:
    before = int(time.time())
    until = read_settings({**IAM_WAY, "FLOWLOG_UNTIL": text}).period.until
    assert until is not None and before <= until + back <= int(time.time())


def test_consecutive_periods_share_no_object() -> None:
    noon = "2026-11-01T12:00:00Z"
    before = read_settings({**IAM_WAY, "FLOWLOG_UNTIL": noon}).period
    after = read_settings({**IAM_WAY, "FLOWLOG_SINCE": noon}).period
    for second in range(before.until - 2, before.until + 2):
        ref = ObjectRef(second, "k")
        assert before.holds(ref) is not after.holds(ref)


def test_without_a_period_all_objects_are_meant() -> None:
    assert read_settings({**IAM_WAY, "FLOWLOG_SINCE": "", "FLOWLOG_UNTIL": " "}).period == ALWAYS


@pytest.mark.parametrize(("since", "until"), [("1h", "2h"), ("2026-11-01", "2026-11-01T00:00Z")])
def test_a_period_without_any_moment_is_a_fault(since: str, until: str) -> None:
    assert "FLOWLOG_SINCE must be before FLOWLOG_UNTIL" in faults(
        {**IAM_WAY, "FLOWLOG_SINCE": since, "FLOWLOG_UNTIL": until}
    )


# --- timers --------------------------------------------------------------------------------------

TIMERS_DATA = ["", "{}", '{"hello": "world"}', "not json", json.dumps(EVENT)]


@pytest.mark.parametrize("mode", ["catch-up", "follow"])
@pytest.mark.parametrize("data", TIMERS_DATA)
def test_a_timer_is_a_run_without_an_event_whatever_its_data(mode: str, data: str) -> None:
    timer = {"CE_TYPE": "dev.knative.sources.ping", "CE_DATA": data, "FLOWLOG_MODE": mode}
    assert read_settings({**IAM_WAY, **timer}).event is None


@pytest.mark.parametrize("mode", ["", "simple", "remember"])
@pytest.mark.parametrize("data", TIMERS_DATA)
def test_a_timer_would_push_the_same_objects_again_and_again(mode: str, data: str) -> None:
    timer = {"CE_TYPE": "dev.knative.sources.ping", "CE_DATA": data, "FLOWLOG_MODE": mode}
    said = faults({**IAM_WAY, **timer})
    assert "FLOWLOG_MODE" in said and "follow" in said and len(said.splitlines()) == 1


def test_plain_http_is_warned_about_except_on_this_machine() -> None:
    environ = {**IAM_WAY, "COS_ENDPOINT": "http://minio.internal:9000"}
    assert "COS_ENDPOINT" in read_settings(environ).warnings[0]
    environ["COS_ENDPOINT"] = "http://127.0.0.1:9000"
    assert read_settings(environ).warnings == ()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("host", "https://host"),
        ("host:8443/", "https://host:8443"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("https://host/base//", "https://host/base"),
    ],
)
def test_urls(text: str, url: str) -> None:
    assert parse_url(text) == url


# --- CE_DATA -------------------------------------------------------------------------------------


def event(**changes: object) -> str:
    return json.dumps({**EVENT, **changes})


def test_event_as_code_engine_sends_it() -> None:
    assert parse_event(event()) == lib.Event(EVENT["key"], "flow-logs", lib.Operation.WRITE)


def test_the_events_bucket_wins_with_a_warning() -> None:
    settings = read_settings({**IAM_WAY, "CE_DATA": event(bucket="other")})
    assert settings.bucket == "other"
    assert "other" in settings.warnings[0]
    assert "flow-logs" in settings.warnings[0]


def test_an_event_without_bucket_means_the_configured_one() -> None:
    for bucket in ("", None):
        assert read_settings({**IAM_WAY, "CE_DATA": event(bucket=bucket)}).bucket == "flow-logs"


@pytest.mark.parametrize(
    ("operation", "notified", "ce_type", "expected"),
    [
        ("Object:Write", "Object:Delete", "", lib.Operation.WRITE),
        ("Object:Delete", "", "", lib.Operation.DELETE),
        (None, "Object:Delete", "", lib.Operation.DELETE),
        (None, None, "com.ibm.cloud.cos.document.delete", lib.Operation.DELETE),
        (None, None, "com.ibm.cloud.cos.document.write", lib.Operation.WRITE),
        (None, None, "", lib.Operation.WRITE),
        ("Object:Write:CompleteMultipartUpload", None, "", lib.Operation.WRITE),
    ],
)
def test_operations(
    operation: str | None, notified: str | None, ce_type: str, expected: lib.Operation
) -> None:
    text = event(operation=operation, notification={"event_type": notified})
    assert parse_event(text, ce_type).operation is expected


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '"text"',
        "null",
        "{}",
        event(key=None),
        event(key=""),
        event(key=7),
        event(key=["k"]),
        event(key="k" * 1025),
        event(key="\ud800"),
        event(bucket="a/b"),
        event(bucket=7),
        event(operation="Object:Melt"),
        event(operation=7),
        event(padding="x" * 1_000_000),
        "[" * 10_000,
        '{"key": ' + "[" * 5_000 + "]" * 5_000 + "}",
    ],
    ids=lambda text: text[:40],
)
def test_unusable_events(text: str) -> None:
    assert "CE_DATA" in faults({**IAM_WAY, "CE_DATA": text})


def test_an_unusable_event_names_all_that_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match=r"`key`.*`bucket`.*`operation`"):
        parse_event(event(key=None, bucket=7, operation="x"))


def test_keys_are_taken_as_they_are() -> None:
    key = "ibm_vpc_flowlogs_v1/a=crn%3Av1%3A/b c/é\n.gz"
    assert parse_event(event(key=key)).key == key


# --- which events have something to do -----------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (lib.Event("logs/a"), None),
        (lib.Event("logs/a", operation=lib.Operation.DELETE), "deleted"),
        (lib.Event("logs/STATE"), "STATE"),
        (lib.Event("other/a"), "FLOWLOG_PREFIX"),
    ],
)
def test_nothing_to_do(asked: lib.Event, reason: str | None) -> None:
    said = lib.Scope("logs/", "logs/STATE", lib.Shard()).nothing_to_do(asked)
    assert (said is None) if reason is None else (said is not None and reason in said)


# --- the log -------------------------------------------------------------------------------------


def test_the_log_can_not_be_forged_by_a_key(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    record = logging.makeLogRecord({"msg": "%s", "args": ("a\nsummary {}\x1b[2J\u2028é\ud800",)})
    text = SafeFormatter([]).format(record)
    assert text.isprintable()
    assert r"a\nsummary {}\x1b[2J\u2028é\ud800" in text


def test_the_log_hides_secrets_whoever_logged_them() -> None:
    import base64
    import logging

    secret = "the-ingestion-key"
    for form in (
        secret,
        base64.b64encode(f"{secret}:".encode()).decode(),
        base64.b64encode(secret.encode()).decode(),
    ):
        record = logging.makeLogRecord({"msg": f"auth {form}!"})
        text = SafeFormatter([secret, ""]).format(record)
        assert form.rstrip("=") not in text
        assert "***" in text
