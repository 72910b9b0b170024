"""What an operator sees in a browser: a run's page with what was found, and a form to run a tool."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.stack import Stack
from playwright.sync_api import Browser, Page, expect, sync_playwright
from playwright.sync_api import TimeoutError as NothingThere
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.utils import wrpcap

from tasks.core.registry import find_tool

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

expect.set_options(timeout=60_000)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("alarms"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="the UI's tests need a browser: apt install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """A tab of somebody who was never here before, large enough that nothing is folded away."""
    user, _, password = stack.env["PREFECT_API_AUTH_STRING"].partition(":")
    downloads = stack.env["SIGNALBOX_DOWNLOADS_URL"]
    context = browser.new_context(
        viewport={"width": 1400, "height": 1400},
        # What a person types when the browser asks; without a window nobody can be asked.
        http_credentials={"username": user, "password": password, "origin": downloads},
    )
    context.set_default_timeout(60_000)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    yield context.new_page()
    context.close()
    here = (stack.env["PREFECT_API_URL"].removesuffix("/api"), f"{downloads}/captures/", "data:", "blob:")
    assert [
        url for url in asked if not url.startswith(here)
    ] == []  # the UI works without the internet, and asks nobody


def answer_login(page: Page, stack: Stack) -> None:
    """Answer the UI's one question: the login that `signalbox env` shows."""
    field = page.locator("input[type=password]")
    for _ in range(4):
        try:
            field.wait_for(timeout=8_000)
            break
        except NothingThere:
            # Prefect's page now and then stays empty when its first requests are refused; people reload, so do we.
            page.reload()
    field.fill(stack.env["PREFECT_API_AUTH_STRING"])
    page.keyboard.press("Enter")


def open_page(page: Page, stack: Stack, path: str) -> None:
    """Log in where everybody begins, and go to a page of the UI."""
    page.goto(f"{stack.env['PREFECT_UI_URL']}/dashboard")
    answer_login(page, stack)
    expect(page.get_by_text("Flow Runs").first).to_be_visible()
    page.goto(f"{stack.env['PREFECT_UI_URL']}{path}")


@pytest.fixture(scope="module")
def discovery(stack: Stack) -> Any:
    """A discovery of this machine, as on the first day."""
    run = stack.run_to_end(
        "discover/on-demand", {"targets": ["127.0.0.1"], "profile": "quick", "notify_when": "always"}
    )
    assert run["state_name"] == "Completed", stack.run_logs(run["id"])
    return run


def test_the_link_in_a_message_leads_to_the_run_after_asking_for_the_login(
    page: Page, stack: Stack, discovery: Any
) -> None:
    # What a digest links to; the recipient has never logged in.
    page.goto(f"{stack.env['PREFECT_UI_URL']}/runs/flow-run/{discovery['id']}?tab=Artifacts")
    answer_login(page, stack)
    expect(page.get_by_text(discovery["name"]).first).to_be_visible()
    assert f"/runs/flow-run/{discovery['id']}" in page.url
    expect(page.get_by_text("Completed").first).to_be_visible()


def test_a_discoverys_page_has_summary_picture_and_tables(page: Page, stack: Stack, discovery: Any) -> None:
    open_page(page, stack, f"/runs/flow-run/{discovery['id']}?tab=Artifacts")
    for key in ("discovery", "hosts", "progress"):
        expect(page.get_by_text(key, exact=True).first).to_be_visible()

    # The card leads to the artifact's history, the newest entry of which is this run's.
    page.get_by_text("discovery", exact=True).first.click()
    page.get_by_role("link", name=stack.artifacts(discovery["id"])["discovery"]["id"][:8]).click()
    expect(page.get_by_role("heading", name=discovery["state"]["message"])).to_be_visible()
    picture = page.get_by_alt_text("Address space")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 300
    hosts = page.get_by_role("table").filter(has_text="address")
    expect(hosts.get_by_role("cell", name="127.0.0.1", exact=True).first).to_be_visible()
    for column in ("address", "services", "asset"):
        expect(hosts.get_by_role("columnheader", name=column).first).to_be_visible()
    expect(page.get_by_text(re.compile(r"1 address in scope, 1 scanned, 1 answered")).first).to_be_visible()


@pytest.fixture(scope="module")
def capture(stack: Stack) -> bytes:
    """A capture in the store, `lab/two_words.pcap`: one TCP conversation with a word in each direction."""
    client, server = IP(src="192.0.2.1", dst="192.0.2.2"), IP(src="192.0.2.2", dst="192.0.2.1")
    packets = [
        client / TCP(sport=40000, dport=7, flags="S", seq=1),
        server / TCP(sport=7, dport=40000, flags="SA", seq=1, ack=2),
        client / TCP(sport=40000, dport=7, flags="PA", seq=2, ack=2) / b"ping\n",
        server / TCP(sport=7, dport=40000, flags="PA", seq=2, ack=7) / b"pong\n",
    ]
    file = stack.home.parent / "two_words.pcap"
    wrpcap(str(file), [Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet for packet in packets])
    done = stack.cli("capture", "add", str(file), "--name", "lab/two_words.pcap")
    assert done.returncode == 0, done.stderr
    content: bytes = file.read_bytes()
    return content


def test_a_link_on_a_runs_page_downloads_the_capture_it_read(page: Page, stack: Stack, capture: bytes) -> None:
    run = stack.run_to_end("capture-and-analyze/on-demand", {"capture": "lab/two_words.pcap", "analyzers": ["tcp"]})
    assert run["state_name"] == "Completed", stack.run_logs(run["id"])
    found = stack.artifacts(run["id"])
    assert "signalbox capture save lab/two_words.pcap" in found["traffic"]["data"]
    assert not [key for key in found if key.startswith("download-")]  # this run did not make it
    open_page(page, stack, f"/runs/flow-run/{run['id']}?tab=Artifacts")
    for key, link in (("traffic", "Download the capture"), ("result-tcp-analyzer", "Download lab/two_words.pcap")):
        page.goto(f"{stack.env['PREFECT_UI_URL']}/artifacts/artifact/{found[key]['id']}")
        with page.expect_download() as download:
            page.get_by_role("link", name=link).click()
        assert download.value.suggested_filename == "two_words.pcap"
        assert download.value.path().read_bytes() == capture


def test_a_file_that_a_tool_made_has_a_card_of_its_own_on_the_runs_page(
    page: Page, stack: Stack, capture: bytes, tmp_path: Path
) -> None:
    run = stack.run_to_end("run-tool/tcpflow", {"tool": "tcpflow", "params": {"capture": "lab/two_words.pcap"}})
    assert run["state_name"] == "Completed", stack.run_logs(run["id"])
    open_page(page, stack, f"/runs/flow-run/{run['id']}?tab=Artifacts")
    page.get_by_text("download-tcpflow", exact=True).first.click()
    page.get_by_role("link", name=stack.artifacts(run["id"])["download-tcpflow"]["id"][:8]).click()
    link = page.get_by_role("link", name=re.compile("^Download "))
    with page.expect_download() as download:
        link.click()
    name = link.inner_text().removeprefix("Download ")
    saved = tmp_path / "saved"
    assert stack.cli("capture", "save", name, str(saved)).returncode == 0
    assert download.value.path().read_bytes() == saved.read_bytes() != b""


def test_the_form_of_a_tool_has_its_fields_in_order_and_runs_it(page: Page, stack: Stack) -> None:
    ping = stack.deployment("run-tool/ping")
    open_page(page, stack, f"/deployments/deployment/{ping['id']}/run")
    expect(page.get_by_text("Add item").first).to_be_visible()
    shown = page.locator("body").inner_text()
    position = 0
    for name, field in find_tool("ping").params_model.model_fields.items():
        title = name.replace("_", " ").title()
        assert title in shown[position:], f"{title} is not in the form, or not at its place"
        position = shown.index(title, position)
        assert field.description and field.description in shown[position:]
        assert shown.index(field.description, position) - position < len(title) + 40

    page.get_by_text("Add item").first.click()
    _target(page).fill("127.0.0.1")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile(r"/(deployments/deployment|runs/flow-run)/[0-9a-f-]+(?!/run)(\?|$)"))
    runs = stack.eventually(
        lambda: stack.api("POST", "/flow_runs/filter", {"deployments": {"id": {"any_": [ping["id"]]}}, "limit": 5,
                                                         "sort": "START_TIME_DESC"})
    )  # fmt: skip
    mine = [run for run in runs if run["parameters"].get("params", {}).get("targets") == ["127.0.0.1"]]
    assert mine and mine[0]["parameters"]["tool"] == "ping"
    run = stack.wait_for_run(mine[0]["id"])
    assert run["state_name"] == "Completed", run["state"]


def _target(page: Page) -> Any:
    """The text field of the first item of the list `Targets`."""
    return page.locator("textarea, input").nth(2)


def test_the_form_of_nmap_offers_its_choices(page: Page, stack: Stack) -> None:
    nmap = stack.deployment("run-tool/nmap")
    open_page(page, stack, f"/deployments/deployment/{nmap['id']}/run")
    page.get_by_role("button", name="Select Profile").click()
    for choice in ("sweep", "ports", "services", "os"):
        expect(page.get_by_role("option", name=choice, exact=True)).to_be_visible()
