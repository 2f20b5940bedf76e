"""Fixtures: the services of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import Place, services


@pytest.fixture
def place() -> Iterator[Place]:
    with services() as fresh:
        yield fresh
