"""Tests against what the environment names: `make test-live`. A file whose variable is unset is not collected.

Nothing here runs in CI or by accident: these tests send real messages and probe a real host.
"""

from __future__ import annotations

import os

import pytest

NEEDS = {
    "test_slack.py": "SIGNALBOX_LIVE_SLACK_URL",
    "test_teams.py": "SIGNALBOX_LIVE_TEAMS_URL",
    "test_webhook.py": "SIGNALBOX_LIVE_WEBHOOK_URL",
    "test_sendmail.py": "SIGNALBOX_LIVE_SMTP_URL",
    "test_target.py": "SIGNALBOX_LIVE_TARGET",
}
collect_ignore_glob = [file for file, variable in NEEDS.items() if not os.environ.get(variable)]


def pytest_report_header(config: pytest.Config) -> list[str]:
    return [f"{variable}: {'set' if os.environ.get(variable) else 'unset'}" for variable in NEEDS.values()]


@pytest.fixture
def live_url(request: pytest.FixtureRequest) -> str:
    """What the variable of the test's file says."""
    return os.environ[NEEDS[request.path.name]]
