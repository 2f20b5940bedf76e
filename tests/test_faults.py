"""The fault table, row by row, with all destinations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from standins.authority import Authority
from standins.faults import Answer
from standins.flowlogs import FlowLogObject
from standins.ingestion import Ingestion
from tests.canary import assert_no_secret
from tests.faults import (
    BATCH,
    DESTINATIONS,
    HOSTILE,
    IAM,
    KEY,
    LOG_SERVICE,
    NONE,
    STORE,
    Hostile,
    Row,
    objects,
    table,
)
from tests.harness import (
    BUCKET,
    NIGHTLY,
    PROJECT,
    SECRETS,
    Place,
    Result,
    event,
    lines_of,
    services,
)
from tests.test_modes import put_in_order

PLAIN, TLS = "http", "https"


def combinations(row: Row, number: int) -> list[tuple[str, str]]:
    """Destinations, and the schemes of the services' URLs: all of them in nightly runs.

    In other runs faults of a connection are tested over TLS, as it is in use, and with one
    destination, since all have the same connections. All other faults are tested over plain HTTP,
    with their first destination and one of the others in turn.
    """
    first, *others = row.destinations
    if NIGHTLY:
        return [(each, scheme) for each in row.destinations for scheme in (PLAIN, TLS)]
    if row.on_the_wire:
        return [(first, TLS)]
    return [(first, PLAIN), *((others[number % len(others)], PLAIN) for _ in others[:1])]


CASES = [
    pytest.param(row, destination, scheme, id=f"{group}: {row.fault} ({destination}, {scheme})")
    for group, rows in (("log", LOG_SERVICE), ("store", STORE), ("iam", IAM))
    for number, row in enumerate(rows)
    for destination, scheme in combinations(row, number)
    if group == "log" or destination == "logdna"
]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@contextmanager
def arranged(
    row: Row, destination: str, authority: Authority | None, folder: Path
) -> Iterator[tuple[Place, list[FlowLogObject], dict[str, str]]]:
    """The services with the fault set up, the objects, and further settings of the job."""
    with services(destination, **dict(row.limits)) as place:
        if authority:
            place.secure(authority, folder)
        items = objects(row.rows)
        put_in_order(place, items)
        yield place, items, row.arrange(place, items) or {}


@pytest.mark.parametrize(("row", "destination", "scheme"), CASES)
def test_a_fault(
    row: Row, destination: str, scheme: str, authority: Authority, tmp_path: Path
) -> None:
    over_tls = authority if scheme == TLS else None
    with arranged(row, destination, over_tls, tmp_path) as (place, items, settings):
        result = place.run(LOG="DEBUG", **settings)
        assert result.code == row.code, result.log
        assert row.says in result.log
        assert "Traceback" not in result.log
        assert_no_secret(place, result)
        check_accounts(place, row, items, result)


NOT_LISTED = f"not delivered: all objects of bucket {BUCKET} whose keys start with "
"""Logged instead of the objects' names if a run ended before it knew any."""


@pytest.mark.parametrize("row", [row for row in (*STORE, *IAM) if row.code and row.failed == NONE])
def test_a_fault_before_the_first_object_in_an_events_run(row: Row, tmp_path: Path) -> None:
    """A failed listing does not affect such a run; after all other faults its object is named."""
    with arranged(row, "logdna", None, tmp_path) as (place, items, settings):
        result = place.run(CE_DATA=event(items[0].key), **settings)
        assert result.failed().keys() == ({items[0].key} if result.code else set()), result.log
        assert result.code or "LIST" not in place.store.operations()


def check_accounts(place: Place, row: Row, items: list[FlowLogObject], result: Result) -> None:
    """Compare what was received, and what the run reported, with the bucket."""
    received = place.received()
    failed = set(result.failed())
    if result.code:
        assert failed or NOT_LISTED in result.log, "what was not delivered is named"
    skipped = {items[number].key for number in row.skipped}
    if row.failed == "some":
        assert 0 < len(failed) < len(items)
    elif row.code and row.failed == NONE:
        assert not failed and not received, "nothing was begun"
        return
    else:
        assert failed == row.named(items)
    assert result.summary["failed_total"] == len(failed)
    assert result.summary["skipped"] == len(skipped)
    assert result.summary["remarks"] == row.remarks
    if row.repeated == NONE:
        assert result.summary["lines_delivered"] == received.total(), "lines are counted exactly"
    if row.missing is not None:
        assert received.total() == lines_of(*items).total() - row.missing
    for item in items:
        expected = lines_of(item)
        if item.key in failed | skipped or row.repeated == "not received":
            continue
        assert expected - received == Counter(), "a line was lost in silence"
    repeated = received - lines_of(*items)
    assert received.keys() <= lines_of(*items).keys()
    if row.repeated == BATCH:
        assert repeated
        assert max(repeated.values()) == 1
        assert len(repeated) < received.total() or row.rows < 100
        assert result.summary["retries"] == 1
    else:
        assert not repeated


HOSTILE_CASES = [
    pytest.param(destination, row, id=f"{row.what} ({destination})")
    for row in HOSTILE
    # What is refused never comes to a destination.
    for destination in (DESTINATIONS if NIGHTLY or not row.refused else DESTINATIONS[:1])
]


@pytest.mark.parametrize(("either", "row"), HOSTILE_CASES, indirect=["either"])
def test_a_hostile_object(either: Place, row: Hostile) -> None:
    good = objects(3, 2)
    put_in_order(either, good)
    either.store.put(BUCKET, KEY, row.make())
    result = either.run(LOG="DEBUG")
    assert result.code == (1 if row.refused else 0), result.log
    assert result.failed().keys() == ({KEY} if row.refused else set())
    assert row.refused in result.failed().get(KEY, "")
    lines = row.lines_at(either.environ.get("LOG_DESTINATION", "logdna"))
    assert either.received() == lines_of(*good) + Counter(lines)
    assert result.summary["skipped"] == row.skipped
    assert_no_secret(either, result)


def test_the_table_in_the_documentation_is_this_one() -> None:
    page = (PROJECT / "docs" / "reliability.md").read_text()
    assert f"\n\n{table()}\n" in page, "print it with: python -m tests.faults"


def test_a_redirect_of_iam_takes_no_key_along(place: Place) -> None:
    with Ingestion("x") as elsewhere:
        place.iam.script.always(Answer(307, {"Location": f"{elsewhere.url}/identity/token"}))
        assert place.run().code == 1
        assert elsewhere.requests == []


def test_a_redirect_takes_no_secret_along(either: Place) -> None:
    items = objects(2)
    put_in_order(either, items)
    with Ingestion(SECRETS["LOGDNA_INGESTION_KEY"]) as elsewhere:
        either.ingestion.script.always(Answer(307, {"Location": f"{elsewhere.url}/logs/ingest"}))
        assert either.run().code == 1
        assert elsewhere.requests == []
