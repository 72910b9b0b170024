"""Servers the communication tools talk to, one of each kind for a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.authority import Authority
from lab.http_endpoints import SlackEndpoint, TeamsConnector, TeamsWorkflow


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def slack_endpoint() -> Iterator[SlackEndpoint]:
    with SlackEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def workflow() -> Iterator[TeamsWorkflow]:
    with TeamsWorkflow() as endpoint:
        yield endpoint


@pytest.fixture
def connector() -> Iterator[TeamsConnector]:
    with TeamsConnector() as endpoint:
        yield endpoint
