"""The tester's report, status and named keys, against the stand-ins."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bucket.state_follow import Following, Parked
from bucket.state_text import CatchUp, Status
from desk.status import parse_span
from standins.faults import Answer
from standins.flowlogs import FlowLogObject, flow_log_objects
from tests.canary import assert_no_secret
from tests.harness import BUCKET, Place, lines_of
from tests.test_modes import put_in_order
from tests.test_tester import run


@pytest.fixture
def objects() -> list[FlowLogObject]:
    return list(flow_log_objects(40, 5))[::-1]


def put(place: Place, objects: list[FlowLogObject], minutes: int = 30) -> int:
    """Upload objects, written in the last so many minutes; the time of the first one."""
    now = datetime.now(UTC).replace(microsecond=0)
    for number, item in enumerate(objects):
        written = now - timedelta(minutes=minutes * (1 - number / len(objects)))
        place.store.put(BUCKET, item.key, item.body, written)
    return place.store.written(BUCKET, objects[0].key)


def follow(place: Place, mark: int, *parked: str) -> None:
    """STATE of follow mode."""
    state = Following(
        worker=None, mark=(mark, "~"), late_mark=(mark, "~"),
        parked=tuple(Parked(place.store.written(BUCKET, key), key, mark) for key in parked),
    )  # fmt: skip
    place.store.put(BUCKET, "first_logged", state.content())


def status(place: Place, folder: Path, *arguments: str, **settings: str) -> dict[str, object]:
    result = run(place, folder, "--status", "--json", *arguments, **settings)
    assert result.code == 0, result.log
    found: dict[str, object] = json.loads(result.out)
    return found


# --- status --------------------------------------------------------------------------------------


def test_the_lag_is_the_age_of_what_follow_has_still_to_push(
    place: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    first = put(place, objects)
    follow(place, place.store.written(BUCKET, objects[19].key))
    found = status(place, tmp_path, FLOWLOG_MODE="follow")
    assert found["waiting_objects"] == 20
    assert 14 * 60 < int(str(found["lag_seconds"])) < 17 * 60
    follow(place, first - 10)
    found = status(place, tmp_path, FLOWLOG_MODE="follow")
    assert found["waiting_objects"] == 40
    assert found["interfaces"] == 20
    place.store.delete(BUCKET, "first_logged")
    assert status(place, tmp_path, FLOWLOG_MODE="follow")["waiting_objects"] == 40


def test_a_status_is_a_check(place: Place, objects: list[FlowLogObject], tmp_path: Path) -> None:
    put(place, objects)
    follow(place, place.store.written(BUCKET, objects[19].key))
    behind = run(place, tmp_path, "--status", "--max-lag", "10m", FLOWLOG_MODE="follow")
    assert behind.code == 1
    assert "is over 10 min" in behind.log
    assert "lag         15 min" in behind.out or "lag         16 min" in behind.out
    assert run(place, tmp_path, "--status", "--max-lag", "1h", FLOWLOG_MODE="follow").code == 0
    unknown = run(place, tmp_path, "--status", "--max-lag", "1h", FLOWLOG_MODE="simple")
    assert unknown.code == 2
    assert "--max-lag needs a lag" in unknown.log
    assert_no_secret(place, behind)


def test_nothing_is_written_or_sent(
    place: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    put(place, objects)
    for what in (("--status",), ("--report", str(tmp_path / "page.html"))):
        assert run(place, tmp_path, *what, FLOWLOG_MODE="catch-up").code == 0
    assert set(place.store.operations()) == {"LIST", "GET"}
    assert place.ingestion.requests == []


def test_why_a_parked_object_can_not_be_read(
    place: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    put(place, objects)
    follow(place, place.store.written(BUCKET, objects[-1].key), objects[3].key)
    place.store.script.rule(
        lambda request: (
            Answer(403, body=b"<Error><Code>InvalidObjectState</Code></Error>")
            if request.key == objects[3].key
            else None
        )
    )
    found = status(place, tmp_path, FLOWLOG_MODE="follow")
    (one,) = found["undelivered"]  # type: ignore[misc]
    assert one["key"] == objects[3].key
    assert "InvalidObjectState" in one["reason"]
    assert int(str(found["lag_seconds"])) > 20 * 60
    assert found["lag_behind_mark_seconds"] == 0


def test_failures_of_a_catch_up(place: Place, objects: list[FlowLogObject], tmp_path: Path) -> None:
    put(place, objects)
    place.store.put(BUCKET, objects[2].key, b"\x1f\x8b damaged")
    state = CatchUp(
        worker=None, status=Status.FINISHED, mark=(10**10, "z"), cutoff=10**10,
        failed_total=105, failed=(objects[2].key,),
    )  # fmt: skip
    place.store.put(BUCKET, "first_logged", state.content())
    result = run(place, tmp_path, "--status", FLOWLOG_MODE="catch-up")
    assert result.code == 0
    assert "105 objects failed" in result.out
    assert f"{objects[2].key}: bad gzip" in result.out


def test_what_a_day_costs_with_and_without_the_settings(
    place: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    put(place, objects)
    where = "action=='rejected'"
    found = status(place, tmp_path, FLOWLOG_FIELDS="action,target_ip", FLOWLOG_WHERE=where)
    entries = [entry for item in objects for entry in item.document["flow_logs"]]
    rejected = sum(entry["action"] == "rejected" for entry in entries) / len(entries)
    rows: dict[str, float] = found["rows_a_day"]  # type: ignore[assignment]
    line: dict[str, float] = found["line_bytes"]  # type: ignore[assignment]
    assert 0 < rows["selected"] < rows["all"]
    assert line["selected"] < 100 < 1000 < line["all"]
    assert 0 < float(str(found["rejected_percent"])) < 40 and 0 < rejected < 0.4
    sent: dict[str, dict[str, float]] = found["gb_a_day"]  # type: ignore[assignment]
    assert set(sent) == {"logdna", "cloud-logs", "otlp"}
    assert all(0 < one["selected"] < one["all"] for one in sent.values())


def test_a_sample_reads_no_more_than_it_shows(
    place: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    put(place, objects)
    found = status(place, tmp_path)
    assert place.store.operations().count("GET") == found["sampled_objects"] == 20


def test_spans() -> None:
    assert [parse_span(one) for one in ("90s", "30m", "2h", "1d")] == [90, 1800, 7200, 86400]
    for wrong in ("", "30", "m", "-1m", "1w"):
        with pytest.raises(ValueError, match="span of time"):
            parse_span(wrong)


# --- report --------------------------------------------------------------------------------------


def test_the_page_names_every_interface_and_runs_nothing(
    place: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    put(place, objects)
    evil = objects[0].key.replace("vnic-id=", "vnic-id=<script>alert(1)</script>")
    place.store.put(BUCKET, evil, objects[0].body)
    follow(place, place.store.written(BUCKET, objects[19].key))
    page = tmp_path / "page.html"
    result = run(place, tmp_path, "--report", str(page), FLOWLOG_MODE="follow")
    assert result.code == 0, result.log
    html = page.read_text()
    for item in objects:
        assert str(item.document["network_interface_id"]) in html
    assert "<script" not in html and "&lt;script&gt;" in html
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", html)
    assert_no_secret(place, result)
    assert "mark: sent up to" in html


def test_a_page_that_can_not_be_written_is_said(
    place: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    put(place, objects[:2])
    result = run(place, tmp_path, "--report", str(tmp_path / "none" / "page.html"))
    assert result.code == 2
    assert "Traceback" not in result.log and "page.html" in result.log


def test_an_empty_bucket_has_a_page(place: Place, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run(place, tmp_path, "--report", str(page)).code == 0
    assert "There is no object to take a sample of" in page.read_text()


# --- named keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["simple", "remember", "catch-up", "follow"])
def test_what_a_saved_log_names_is_pushed_in_any_mode(
    place: Place, objects: list[FlowLogObject], tmp_path: Path, mode: str
) -> None:
    put_in_order(place, objects)
    bad = {item.key for item in objects[:7]}
    place.store.script.rule(
        lambda request: (
            Answer(403, body=b"<Error><Code>InvalidObjectState</Code></Error>")
            if request.key in bad
            else None
        )
    )
    failed = place.run(FLOWLOG_MODE="simple")
    assert failed.code == 1 and failed.summary["failed_total"] == 7
    place.store.script.rule(None)
    if mode == "catch-up":
        state = CatchUp(
            worker=None, status=Status.FINISHED, mark=(10**10, "z"), cutoff=10**10,
            failed_total=8, failed=(*sorted(bad), "another"),
        )  # fmt: skip
        place.store.put(BUCKET, "first_logged", state.content())
    log = tmp_path / "saved.log"
    log.write_text(failed.log)
    before = place.received()
    result = run(place, tmp_path, "--keys", str(log), FLOWLOG_MODE=mode)
    assert result.code == 0, result.log
    assert place.received() - before == lines_of(*objects[:7])
    assert result.summary["objects"] == 7
    if mode == "catch-up":
        content = place.store.get(BUCKET, "first_logged")
        assert content and json.loads(content)["failed"] == ["another"]
    assert ("sent twice" in result.log) == (mode == "follow")


def test_keys_that_are_listed_can_be_tried_dry(
    place: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    put_in_order(place, objects)
    file = tmp_path / "keys.txt"
    file.write_text(f"{objects[1].key}\n{objects[3].key}\n")
    result = run(place, tmp_path, "--keys", str(file), "--dry-run")
    assert result.code == 0, result.log
    assert Counter(result.out.splitlines()) == lines_of(objects[1], objects[3])
    assert place.ingestion.requests == []


def test_how_many_a_log_does_not_name(
    place: Place, objects: list[FlowLogObject], tmp_path: Path
) -> None:
    put_in_order(place, objects)
    fields = {"failed": [{"key": objects[0].key, "error": "x"}], "failed_total": 137}
    file = tmp_path / "saved.log"
    file.write_text("summary " + json.dumps(fields))
    result = run(place, tmp_path, "--keys", str(file))
    assert result.code == 0, result.log
    assert "136 more were not delivered" in result.log
    assert place.received() == lines_of(objects[0])


def test_a_file_that_names_nothing_is_refused(place: Place, tmp_path: Path) -> None:
    for name, content in (("none", None), ("empty", ""), ("other", "hello\n")):
        file = tmp_path / name
        if content is not None:
            file.write_text(content)
        result = run(place, tmp_path, "--keys", str(file))
        assert result.code == 2, result.log
        assert "Traceback" not in result.log
    assert place.ingestion.requests == []
