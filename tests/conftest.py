"""Fixtures: the services of a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from standins.ibmcloud import Account
from tests.desk import Desk
from tests.harness import Place, services


@pytest.fixture
def place() -> Iterator[Place]:
    with services() as fresh:
        yield fresh


@pytest.fixture(params=["logdna", "cloud-logs", "otlp"])
def either(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The same with each of the destinations."""
    with services(request.param) as fresh:
        yield fresh


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with Account(tmp_path) as account:
        desk = Desk(tmp_path, account)
        yield desk
    desk.assert_no_secret_was_shown()
