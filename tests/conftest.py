"""Fixtures: the services of a test."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from tests.harness import Place, services

# Tests must not fail on a slow machine.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

ON_ANY_WORKER = {"place", "either", "authority"}
"""Fixtures of tests that have services of their own."""


# Before the groups are read.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The other tests of a file share fixtures and folders, so one worker runs all of them."""
    for item in items:
        assert isinstance(item, pytest.Function)
        names = item.fixturenames
        if ON_ANY_WORKER.isdisjoint(names) or "image" in names:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture
def place() -> Iterator[Place]:
    with services() as fresh:
        yield fresh


@pytest.fixture(params=["logdna", "cloud-logs", "otlp"])
def either(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The same with each of the destinations."""
    with services(request.param) as fresh:
        yield fresh
