"""Fixtures: the services of a test."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from tests.harness import Place, services

# Tests must not fail on a slow machine.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.fixture
def place() -> Iterator[Place]:
    with services() as fresh:
        yield fresh


@pytest.fixture(params=["logdna", "cloud-logs", "otlp"])
def either(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The same with each of the destinations."""
    with services(request.param) as fresh:
        yield fresh
