"""Simple mode, end to end: the job as a process against the stand-ins."""

from __future__ import annotations

import base64
import gzip
import json
import signal
import socket
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import flowlog
from bucket.store import CONCURRENCY
from run.report import VERSION
from standins.faults import Answer
from standins.flowlogs import FlowLogObject, flow_log_objects
from standins.rclone import Rclone
from standins.store import S3Request, s3_error
from tests.canary import assert_no_secret
from tests.harness import (
    ACCESS_KEY_ID,
    BUCKET,
    PREFIX,
    REAL,
    SECRETS,
    Place,
    Result,
    event,
    finish,
    lines_of,
    services,
    start,
)

STRANGE_KEYS = [
    PREFIX + "account=1/crn%3Av1%3A%2F/a b.gz",
    PREFIX + "é/日本=%25/+&?#.gz",
    PREFIX + "~'()*!,;:@$[]|^`.gz",
]


IMPATIENT = {"FLOWLOG_RETRY_SECONDS": "0.5"}


def strange_objects() -> list[FlowLogObject]:
    """Realistic objects with keys that a client might decode by mistake."""
    plain = flow_log_objects(len(STRANGE_KEYS), 3, seed=5)
    return [
        FlowLogObject(key, item.body, item.rows, item.document)
        for key, item in zip(STRANGE_KEYS, plain, strict=True)
    ]


def real_object() -> list[FlowLogObject]:
    if not REAL.exists():
        return []
    body = REAL.read_bytes()
    return [FlowLogObject(PREFIX + "real.gz", body, 2, json.loads(gzip.decompress(body)))]


def nothing_listens() -> str:
    """A URL of this machine that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


# --- everything arrives, once --------------------------------------------------------------------


def test_all_objects_with_bearer_tokens(place: Place) -> None:
    objects = [*flow_log_objects(40, 7), *strange_objects(), *real_object()]
    expected = place.put(*objects)
    place.store.put(BUCKET, "other/thing", b"not a flow log")
    place.store.put(BUCKET, "first_logged", b"not a flow log")
    result = place.run()
    assert result.code == 0, result.log
    assert place.received() == expected
    assert result.summary == {
        "mode": "simple",
        "objects": len(objects),
        "rows": expected.total(),
        "lines_delivered": expected.total(),
        "bytes_sent": sum(len(request.body) for request in place.ingestion.requests),
        "requests": len(place.ingestion.requests),
        "retries": 0,
        "failed": [],
        "failed_total": 0,
        "skipped": 0,
        "filtered": 0,
        "incomplete": 0,
        "remarks": 0,
        "lag_seconds": None,
        "seconds": result.summary["seconds"],
        "version": VERSION,
    }
    assert list(result.summary)[-1] == "version"
    assert "HEAD" not in place.store.operations()


def test_all_objects_with_hmac_signatures(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "buckets"
    (folder / BUCKET).mkdir(parents=True)
    objects = [*flow_log_objects(10, 7), *strange_objects(), *real_object()]
    with Rclone(folder, ACCESS_KEY_ID, SECRETS["COS_HMAC_SECRET_ACCESS_KEY"]) as store:
        for item in objects:
            store.put(BUCKET, item.key, item.body)
        (folder / BUCKET / "readme.txt").write_bytes(b"not a flow log")
        hmac = {
            "COS_ENDPOINT": store.url,
            "COS_HMAC_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "COS_HMAC_SECRET_ACCESS_KEY": SECRETS["COS_HMAC_SECRET_ACCESS_KEY"],
            "APIKEY": "",
            "COS_CRN": "",
        }
        result = place.run(**hmac)
        assert result.code == 0, result.log
        assert place.received() == lines_of(*objects)
        one = place.run(**hmac, CE_DATA=event(objects[-1].key))
        assert one.code == 0, one.log
        assert place.received() == lines_of(*objects) + lines_of(objects[-1])
        refused = place.run(**{**hmac, "COS_HMAC_SECRET_ACCESS_KEY": "a-wrong-key"})
        assert refused.code == 1
        assert "COS_HMAC_SECRET_ACCESS_KEY" in refused.log


@pytest.mark.parametrize("index", [0, 1, 2, -1])
def test_an_event_pushes_its_object_alone(place: Place, index: int) -> None:
    objects = [*strange_objects(), *flow_log_objects(3, 4)]
    place.put(*objects)
    result = place.run(CE_DATA=event(objects[index].key))
    assert result.code == 0, result.log
    assert place.received() == lines_of(objects[index])
    assert place.store.operations() == ["GET"], "one object needs one request"
    assert len(place.ingestion.requests) == 1


def test_more_keys_than_two_pages_hold(place: Place) -> None:
    """An object on each page is recent; all others are listed but not pushed."""
    body, wanted = gzip.compress(b'{"flow_logs":[{}]}'), {0, 1_500, 2_099}
    for number in range(2_100):
        written = datetime.now(UTC) - timedelta(days=0 if number in wanted else 9)
        place.store.put(BUCKET, f"{PREFIX}{number:05}", body, written)
    result = place.run(FLOWLOG_SINCE="1d")
    assert result.code == 0, result.log
    keys = Counter(json.loads(text)["key"] for text in place.ingestion.texts)
    assert keys == Counter(f"{PREFIX}{number:05}" for number in wanted)
    assert place.store.operations().count("LIST") == 3


def test_oldest_first_by_time_then_by_key(place: Place) -> None:
    begin = datetime(2026, 11, 24, 10, tzinfo=UTC)
    order = [("c", 0), ("b", 1), ("d", 1), ("a", 2)]
    for name, seconds in sorted(order):
        body = b'{"flow_logs":[{}]}'
        place.store.put(BUCKET, PREFIX + name, body, begin + timedelta(seconds=seconds))
    assert place.run().code == 0
    assert [json.loads(text)["key"] for text in place.ingestion.texts] == [
        PREFIX + name for name, _ in order
    ]


@pytest.mark.parametrize("mode", ["simple", "remember"])
def test_a_period_names_the_objects_of_a_run_without_an_event(place: Place, mode: str) -> None:
    begin = datetime(2026, 11, 24, 10, tzinfo=UTC)
    for minute in range(6):
        moment = begin + timedelta(minutes=minute)
        place.store.put(BUCKET, f"{PREFIX}{minute}", b'{"flow_logs":[{}]}', moment)
    period = {"FLOWLOG_SINCE": "2026-11-24T10:02", "FLOWLOG_UNTIL": "2026-11-24T12:04+02:00"}
    assert place.run(FLOWLOG_MODE=mode, **period).code == 0
    pushed = [json.loads(text)["key"] for text in place.ingestion.texts]
    assert pushed == [f"{PREFIX}2", f"{PREFIX}3"]
    # An event means its object, at any time it was written.
    assert place.run(FLOWLOG_MODE=mode, **period, CE_DATA=event(f"{PREFIX}5")).code == 0
    assert json.loads(place.ingestion.texts[-1])["key"] == f"{PREFIX}5"


def test_a_timer_in_a_mode_that_would_push_all_again_sends_nothing(place: Place) -> None:
    place.put(*flow_log_objects(1, 2))
    result = place.run(CE_TYPE="dev.knative.sources.ping", CE_DATA='{"every": "5 minutes"}')
    assert result.code == 2
    assert "set FLOWLOG_MODE to follow" in result.log
    assert place.ingestion.requests == [] and place.store.requests == []


def list_result(*parts: str) -> Answer:
    body = f"<ListBucketResult>{''.join(parts)}</ListBucketResult>".encode()
    return Answer(200, {"Content-Type": "application/xml"}, body)


def test_a_listing_that_goes_round_ends(place: Place) -> None:
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>"
    place.store.script.always(list_result(more))
    assert_one_clear_sentence(place.run(), "COS_ENDPOINT", "does not end")


def test_keys_that_were_not_asked_for_are_left_out(place: Place) -> None:
    (item,) = flow_log_objects(1, 2)
    place.put(item)
    place.store.put(BUCKET, "other", item.body)
    entry = (
        "<Contents><Key>{}</Key><LastModified>2026-11-24T10:00:00Z</LastModified>"
        "<Size>5</Size></Contents>"
    )
    place.store.script.next([list_result(*map(entry.format, (item.key, "other")))])
    assert place.run().code == 0
    assert place.received() == lines_of(item)


def test_an_empty_bucket_is_said_and_fine(place: Place) -> None:
    place.store.put(BUCKET, "other/thing", b"x")
    result = place.run()
    assert result.code == 0
    assert "nothing to do" in result.log
    assert place.ingestion.requests == []


def test_two_shards_cover_all_keys_once(place: Place) -> None:
    expected = place.put(*flow_log_objects(40, 2))
    results = [place.run(JOB_ARRAY_SIZE="2", JOB_INDEX=index) for index in "01"]
    assert [result.code for result in results] == [0, 0]
    assert all(result.summary["objects"] > 5 for result in results)
    assert place.received() == expected


def test_an_event_in_an_array_is_pushed_by_one_instance(place: Place) -> None:
    (item,) = flow_log_objects(1, 2)
    expected = place.put(item)
    for index in "012":
        settings = {"JOB_ARRAY_SIZE": "3", "JOB_INDEX": index}
        assert place.run(**settings, CE_DATA=event(item.key)).code == 0
    assert place.received() == expected


def test_lines_are_as_the_contract_says(place: Place) -> None:
    now = datetime.now(UTC)
    (item,) = flow_log_objects(1, 50, newest=now)
    place.put(item)
    assert place.run().code == 0
    sent = zip(place.ingestion.received, item.document["flow_logs"], strict=True)
    for line, entry in sent:
        assert set(line) == {"line", "timestamp", "level", "app", "hostname"}
        assert line["level"] == ("WARN" if entry["action"] == "rejected" else "INFO")
        assert (line["app"], line["hostname"]) == ("FLCE", "flowlogjob")
        ended = entry["end_time"] or item.document["capture_end_time"]
        assert line["timestamp"] == datetime.fromisoformat(ended).timestamp() * 1000
    (request,) = place.ingestion.requests
    assert request.headers["content-encoding"] == "gzip"
    assert request.target.startswith("/logs/ingest?hostname=flowlogjob&now=")


def test_many_requests_share_few_connections(place: Place) -> None:
    expected = place.put(*flow_log_objects(12, 1500))
    assert place.run().code == 0
    assert place.received() == expected
    assert len(place.ingestion.requests) > 4
    assert place.ingestion.connections <= CONCURRENCY // flowlog.READS_PER_REQUEST
    assert all(len(gzip.decompress(r.body)) < 10_000_000 for r in place.ingestion.requests)


# --- events that ask for nothing -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (event(PREFIX + "a", operation="Object:Delete"), "deleted"),
        (event("first_logged"), "STATE"),
        (event("other/thing"), "FLOWLOG_PREFIX"),
    ],
)
def test_an_event_with_nothing_to_do(place: Place, data: str, said: str) -> None:
    result = place.run(CE_DATA=data)
    assert result.code == 0
    assert said in result.log
    assert result.summary["skipped"] == 1
    assert place.store.requests == []
    assert place.iam.requests == []


def test_an_event_has_nothing_to_do_in_follow_mode(place: Place) -> None:
    (item,) = flow_log_objects(1, 2)
    place.put(item)
    result = place.run(FLOWLOG_MODE="follow", CE_DATA=event(item.key))
    assert result.code == 0
    assert "a run of the timer will push it" in result.log
    assert result.summary["skipped"] == 1
    assert place.store.requests == []


def test_the_events_bucket_wins_over_the_setting(place: Place) -> None:
    (item,) = flow_log_objects(1, 2)
    expected = place.put(item)
    result = place.run(COS_BUCKET="another-bucket", CE_DATA=event(item.key))
    assert result.code == 0
    assert "WARNING the event's bucket" in result.log
    assert place.received() == expected


def test_a_deleted_object_is_a_warning(place: Place) -> None:
    result = place.run(CE_DATA=event(PREFIX + "gone"))
    assert result.code == 0
    assert "WARNING not in the bucket, or deleted before it was read" in result.log
    assert (result.summary["skipped"], result.summary["objects"]) == (1, 0)


def test_an_object_that_goes_between_listing_and_reading(place: Place) -> None:
    first, second = flow_log_objects(2, 2)
    place.put(first, second)

    def gone(request: S3Request) -> Answer | None:
        wanted = request.operation == "GET" and request.key == first.key
        return s3_error(404, "NoSuchKey") if wanted else None

    place.store.script.rule(gone)
    result = place.run()
    assert result.code == 0
    assert (result.summary["skipped"], result.summary["objects"]) == (1, 1)
    assert place.received() == lines_of(second)


# --- settings that lead nowhere ------------------------------------------------------------------


def assert_one_clear_sentence(result: Result, *names: str) -> None:
    """Exit 1, and exactly the messages that a person needs."""
    assert result.code == 1, result.log
    assert "Traceback" not in result.log
    errors = [line for line in result.log.splitlines() if " ERROR " in line]
    assert any(all(name in line for name in names) for line in errors), result.log
    assert len(errors) <= 3, result.log


def test_unusable_settings_are_named_and_nothing_is_sent(place: Place) -> None:
    result = place.run(COS_BUCKET="", LOGDNA_INGESTION_KEY=" ", CE_DATA="[]", LOG="loud")
    assert result.code == 2
    for name in ("COS_BUCKET", "LOGDNA_INGESTION_KEY", "CE_DATA", "LOG "):
        assert name in result.log
    assert "Traceback" not in result.log
    assert result.summary["failed_total"] == 0
    assert not (place.store.requests or place.ingestion.requests or place.iam.requests)


def test_a_bucket_that_does_not_exist(place: Place) -> None:
    assert_one_clear_sentence(place.run(COS_BUCKET="no-such-bucket"), "COS_BUCKET")
    result = place.run(CE_DATA=event(PREFIX + "a", bucket="no-such-bucket"))
    assert_one_clear_sentence(result, "COS_BUCKET")
    assert result.failed().keys() == {PREFIX + "a"}


@pytest.mark.parametrize("data", ["", event(PREFIX + "a")])
def test_a_wrong_api_key(place: Place, data: str) -> None:
    assert_one_clear_sentence(place.run(APIKEY="a-wrong-key", CE_DATA=data), "APIKEY")


@pytest.mark.parametrize("data", ["", event(PREFIX + "a")])
def test_an_iam_that_is_not_there(place: Place, data: str) -> None:
    result = place.run(IAM_ENDPOINT=nothing_listens(), CE_DATA=data, **IMPATIENT)
    assert_one_clear_sentence(result, "IAM_ENDPOINT")


@pytest.mark.parametrize("data", ["", event(PREFIX + "a")])
def test_a_store_that_is_not_there(place: Place, data: str) -> None:
    result = place.run(COS_ENDPOINT=nothing_listens(), CE_DATA=data, **IMPATIENT)
    assert_one_clear_sentence(result, "COS_ENDPOINT")


def test_a_key_that_may_not_read(place: Place) -> None:
    place.store.script.always(s3_error(403, "AccessDenied"))
    assert_one_clear_sentence(place.run(), "COS_CRN", "403")


def test_a_wrong_ingestion_key(place: Place) -> None:
    objects = list(flow_log_objects(3, 2))
    place.put(*objects)
    result = place.run(LOGDNA_INGESTION_KEY="a-wrong-key")
    assert result.code == 1
    assert "LOGDNA_INGESTION_KEY" in result.log
    assert result.failed().keys() == {item.key for item in objects}
    assert len(place.ingestion.requests) == 1, "a wrong key is not tried again"


def test_a_log_service_that_is_not_there(place: Place) -> None:
    objects = list(flow_log_objects(3, 2))
    place.put(*objects)
    result = place.run(LOGDNA_ENDPOINT=nothing_listens(), FLOWLOG_RETRY_SECONDS="1")
    assert result.code == 1
    assert "LOGDNA_ENDPOINT" in result.log
    assert result.failed().keys() == {item.key for item in objects}
    assert "Traceback" not in result.log


# --- bad objects and a service that fails --------------------------------------------------------


def test_bad_objects_fail_alone(place: Place) -> None:
    expected = place.put(*flow_log_objects(10, 3))
    bad = {
        "bad-gzip": gzip.compress(b"{}")[:-4],
        "bad-json": b"{",
        "no-list": b"{}",
        "too-large": gzip.compress(bytes(70_000_000)),
    }
    for name, body in bad.items():
        place.store.put(BUCKET, PREFIX + name, body)
    place.store.put(BUCKET, PREFIX + "no-entries", b'{"flow_logs":[]}')
    place.store.put(BUCKET, PREFIX, b"")  # the marker of a folder
    result = place.run()
    assert result.code == 1
    assert result.failed().keys() == {PREFIX + name for name in bad}
    assert (result.summary["objects"], result.summary["skipped"]) == (11, 1)
    assert place.received() == expected
    for name in bad:
        assert f"not delivered: {PREFIX}{name}: " in result.log


def test_503_three_times_and_then_it_works(place: Place) -> None:
    expected = place.put(*flow_log_objects(3, 5))
    place.ingestion.script.next([Answer(503)] * 3)
    result = place.run()
    assert result.code == 0, result.log
    assert place.received() == expected
    assert (result.summary["retries"], result.summary["requests"]) == (3, 4)


def test_a_service_that_never_works(place: Place) -> None:
    objects = list(flow_log_objects(60, 2))
    place.put(*objects)
    place.ingestion.script.always(Answer(503))
    result = place.run(FLOWLOG_RETRY_SECONDS="1")
    assert result.code == 1
    assert result.failed().keys() == {item.key for item in objects}
    assert all(f"not delivered: {item.key}: " in result.log for item in objects)
    assert result.summary["lines_delivered"] == 0


def test_sigterm_ends_waits_and_undelivered_objects_are_named(place: Place) -> None:
    objects = list(flow_log_objects(3, 2))
    place.put(*objects)
    place.ingestion.script.always(Answer(503, {"Retry-After": "100"}))
    job = place.start()
    place.ingestion.wait_for_requests(1)
    job.send_signal(signal.SIGTERM)
    result = finish(job)
    assert result.code == 143, result.log
    assert result.failed().keys() == {item.key for item in objects}


def test_a_run_that_fails_at_the_first_object_names_all_of_them(place: Place) -> None:
    objects = list(flow_log_objects(300, 100))
    place.put(*objects)
    place.ingestion.script.always(Answer(401))
    result = place.run()
    assert result.code == 1
    assert result.summary["failed_total"] == 300
    assert len(result.summary["failed"]) == 100
    assert all(f"not delivered: {item.key}: " in result.log for item in objects)


# --- secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({}, None),
        ({}, Answer(503)),
        ({}, Answer(401)),
        ({}, Answer(400)),
        ({}, Answer(302, {"Location": "http://127.0.0.1:9/"})),
        ({"CE_DATA": event(PREFIX + "gone")}, None),
        ({"CE_DATA": "[1]"}, None),
        ({"COS_BUCKET": "no-such-bucket"}, None),
        ({"IAM_ENDPOINT": "broken"}, None),
        ({"COS_ENDPOINT": "broken"}, None),
        ({"LOGDNA_ENDPOINT": "broken"}, None),
        ({"COS_CRN": SECRETS["APIKEY"]}, None),
        ({"LOG": SECRETS["APIKEY"]}, None),
        ({"FLOWLOG_MODE": SECRETS["LOGDNA_INGESTION_KEY"]}, None),
        ({"FLOWLOG_MODE": "remember"}, None),
    ],
)
def test_no_secret_is_ever_logged(
    place: Place, settings: dict[str, str], fault: Answer | None
) -> None:
    place.put(*flow_log_objects(2, 2))
    place.ingestion.script.always(fault)
    if "broken" in settings.values():
        settings = {name: nothing_listens() for name in settings}
    result = place.run(**{"LOG": "DEBUG", "FLOWLOG_RETRY_SECONDS": "0.5", **settings})
    assert result.log.splitlines()[-1].startswith("summary ")
    assert_no_secret(place, result)


def test_the_canary_would_sing(place: Place) -> None:
    """The check above finds a secret, also in base64, when there is one."""
    for leak in (
        SECRETS["APIKEY"],
        base64.b64encode(f"{SECRETS['LOGDNA_INGESTION_KEY']}:".encode()).decode(),
    ):
        with pytest.raises(AssertionError):
            assert_no_secret(place, Result(0, leak, ""))


def test_start_without_any_environment() -> None:
    result = finish(start({}))
    assert result.code == 2
    assert result.summary["mode"] == "simple"


def test_body_limit_of_the_service_is_met_by_splitting() -> None:
    with services(body_limit=50_000) as place:
        expected = place.put(*flow_log_objects(5, 50))
        result = place.run()
        assert result.code == 0, result.log
        assert place.received() == expected
        assert Counter(place.ingestion.texts).most_common(1)[0][1] == 1
