"""How a run's page leads to the files of a result."""

from __future__ import annotations

import pytest

from flows._report import MOST_FILES, file_lines
from flows._traffic import Report, markdown
from tasks.core.models import FileRef
from tasks.core.settings import settings

REF = FileRef(site="default", name="tcpdump/day_1/run-1.pcap", size_bytes=2048, sha256="0" * 64)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a run beside the embedded stack."""
    monkeypatch.setenv("SIGNALBOX_DOWNLOADS_URL", "http://127.0.0.1:4201")
    settings.cache_clear()


def test_a_file_has_a_link_and_the_command_for_whoever_has_no_browser_there(downloads: None) -> None:
    page = "\n".join(file_lines([REF]))
    link = "http://127.0.0.1:4201/captures/default/tcpdump/day_1/run-1.pcap"
    assert f"- [Download tcpdump/day\\_1/run-1.pcap]({link}) (2,048 bytes)" in page
    assert "\nsignalbox capture save tcpdump/day_1/run-1.pcap\n" in page


def test_a_worker_that_nobody_downloads_from_names_the_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGNALBOX_DOWNLOADS_URL", raising=False)
    settings.cache_clear()
    page = "\n".join(file_lines([REF]))
    assert "http" not in page and "signalbox capture save tcpdump/day_1/run-1.pcap" in page
    said = markdown(Report(capture=REF.name, site="default", results={}, failed={}))
    assert "](http" not in said and "`signalbox capture save tcpdump/day_1/run-1.pcap --site default`" in said


def test_a_file_of_another_site_is_asked_for_there(downloads: None) -> None:
    page = "\n".join(file_lines([REF.model_copy(update={"site": "harbour"})]))
    assert "/captures/harbour/tcpdump/" in page and "run-1.pcap --site harbour\n" in page


def test_of_many_files_the_rest_is_counted(downloads: None) -> None:
    many = [REF.model_copy(update={"name": f"ring/{number}.pcap"}) for number in range(MOST_FILES + 3)]
    page = "\n".join(file_lines(many))
    assert page.count("[Download") == MOST_FILES and "... and 3 more" in page


def test_without_files_nothing_is_said() -> None:
    assert file_lines([]) == []
