"""The benchmark measures what it says: the services count right, and every figure can be made.

No time is asserted here: what is measured so small and on a busy machine says nothing.
"""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest

from bench import report
from bench.figures import FIGURES
from bench.measure import (
    JOB,
    REFERENCE,
    Latency,
    Process,
    Services,
    Workload,
    Wrong,
    services,
)
from bench.parts import ARRAY, CONCURRENCY, OBJECTS, Curve, Row, Scale
from bench.versions import versions
from bench.workloads import OTHER_DESTINATIONS
from tests.harness import NIGHTLY, PROJECT

TINY = Scale(
    w1=Workload(4, 2),
    w2=Workload(2, 3),
    times=1,
    times_of_reference=1,
    events=1,
    counts=(2, 3),
    keys=1500,
    reading_seconds=0.1,
    array_objects=8,
    array_sizes=(1, 2),
    concurrencies=(1, 2),
    gets=3,
    shard_keys=100,
    shard_sets=2,
    interfaces=3,
    days=1,
)


@pytest.fixture(scope="module")
def where():
    with services(Workload(5, 7)) as started:
        yield started


@pytest.mark.parametrize(
    "settings", [{}, *({"LOG_DESTINATION": name} for name in OTHER_DESTINATIONS)]
)
def test_the_job_delivers_every_row_once(where: Services, settings: dict[str, str]):
    run = where.measure(JOB, settings, Latency(1, 1, 1))
    assert run.summary["rows"] == run.summary["lines_delivered"] == 35
    assert run.wall > 0
    assert run.cpu > 0
    assert run.peak > 10


def test_the_job_delivers_over_tls_and_not_to_anybody(where: Services):
    run = where.measure(JOB, where.over_tls)
    assert run.summary["lines_delivered"] == 35
    with pytest.raises(Wrong, match="exit code 1"):
        where.measure(JOB, {**where.over_tls, "REQUESTS_CA_BUNDLE": certifi.where()})


def test_the_reference_delivers_the_same(where: Services):
    where.measure(REFERENCE)


@pytest.mark.parametrize("arguments", [JOB, REFERENCE])
def test_an_event_delivers_its_object(where: Services, arguments: tuple[str, ...]):
    where.measure(arguments, where.event)


def test_a_run_that_delivers_too_little_is_noticed(where: Services):
    where.measure(JOB, where.event)
    with pytest.raises(Wrong, match="lines received: 7, expected: 35"):
        where.check()


def test_a_run_that_delivers_twice_is_noticed(where: Services):
    where.measure(JOB, where.event)
    Process(JOB, {**where.environ, **where.event}).finish()
    with pytest.raises(Wrong, match="lines received: 14, expected: 7"):
        where.check(event=True)


def test_a_run_that_fails_is_noticed(where: Services):
    with pytest.raises(Wrong, match="exit code 2"):
        where.measure(JOB, {"FLOWLOG_MODE": "nonsense"})


@pytest.mark.parametrize(
    "figure", FIGURES if NIGHTLY else FIGURES[1:3], ids=lambda figure: figure.__name__
)
def test_every_figure_can_be_made(figure):
    part = figure(TINY)
    assert part.rows
    assert "| --- |" in report.table(part.rows)
    assert {curve.panel for curve in part.curves} <= {OBJECTS, CONCURRENCY, ARRAY}


@pytest.mark.skipif(not NIGHTLY, reason="part of `make nightly`")
def test_two_versions_are_compared():
    rows = versions(TINY, PROJECT)
    assert len(rows) == 21
    assert "| what | old | new |" in report.table(rows, "old", "new")


def test_the_table_is_up_to_date():
    text = report.table([Row("a", "2 s", "1 s", "2", "3", False), Row("b", "", "1 s")])
    assert "| a | 2 s | 1 s | 2 | 3 | **no** |" in text
    assert "| b |  | 1 s |  |  |  |" in text


def test_the_plot_is_small(tmp_path: Path):
    pytest.importorskip("matplotlib")
    curves = [Curve(panel, "job", [(1, 2.0), (2, 1.0)]) for panel in (OBJECTS, CONCURRENCY, ARRAY)]
    report.plot(curves, tmp_path / "bench.png")
    assert 1000 < (tmp_path / "bench.png").stat().st_size < 100_000
