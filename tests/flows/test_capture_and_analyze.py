"""From the wire to a message: traffic is recorded where the worker sits, analyzed, shown and told."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from lab.http_endpoints import WebhookSink
from lab.network import needs_lab
from lab.stack import Stack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.lab,
    needs_lab,
    pytest.mark.xdist_group("faults"),
    pytest.mark.timeout(400),
]

ON_DEMAND = "capture-and-analyze/on-demand"
PASSWORD = "plain-text-4711"


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def pages() -> Iterator[int]:
    """A web server on loopback, in clear text."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def hook(stack: Stack) -> Iterator[WebhookSink]:
    with WebhookSink(secret="hmac-secret") as sink:
        words = ("block", "create", "webhook/traffic", "--url", "-", "--signing-secret", "-", "--overwrite")
        done = stack.cli(*words, stdin=f"{sink.url}\nhmac-secret\n")
        assert done.returncode == 0, done.stderr
        yield sink


def _visit(port: int, until: Any) -> int:
    """Send passwords in clear text, again and again, until it is enough; return how often."""
    asked = 0
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", auth=("operator", PASSWORD), trust_env=False) as client:
        while not until():
            client.get("/")
            client.get("/missing")
            asked += 2
            time.sleep(0.1)
    return asked


def test_traffic_is_recorded_analyzed_shown_and_told(stack: Stack, hook: WebhookSink) -> None:
    with pages() as port:
        run = stack.start(
            ON_DEMAND,
            {
                "interface": "lo",
                "filter": f"tcp port {port}",
                "duration": 8,
                "analyzers": ["http", "tcp", "dns"],
                "notify": ["webhook/traffic"],
            },
        )
        began = time.monotonic()
        seen = {"final": None}

        def over() -> bool:
            state = stack.run(run["id"])["state_type"]
            seen["final"] = state
            return state in {"COMPLETED", "FAILED", "CRASHED"} or time.monotonic() - began > 120

        _visit(port, over)
    final = stack.wait_for_run(run["id"])
    assert (final["state_type"], final["state_name"]) == ("COMPLETED", "Completed"), stack.run_logs(run["id"])
    assert "high" in final["state"]["message"] and "finding" in final["state"]["message"]

    artifacts = stack.artifacts(run["id"])
    assert {
        "traffic",
        "findings",
        "result-http-analyzer",
        "result-tcp-analyzer",
        "result-dpkt",
        "result-tcpdump",
    } <= set(artifacts)
    page = artifacts["traffic"]["data"]
    [picture] = re.findall(r"\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", page)
    drawn = ET.fromstring(base64.b64decode(picture))
    words = " ".join(text for text in drawn.itertext())
    assert "TCP" in words.upper() and "packets a second" in words
    findings = json.loads(artifacts["findings"]["data"])
    [plain] = [row for row in findings if "credentials" in row["code"] or "password" in row["what"].lower()]
    assert plain["analyzer"] == "http" and plain["frames"] and plain["do"]

    # Told once, with what was found and without what it was found by.
    [received] = hook.accepted.values()
    assert received.json["event"] == "traffic" and received.json["findings"][0]["severity"] == findings[0]["severity"]
    secret = base64.b64encode(f"operator:{PASSWORD}".encode()).decode()
    everything = json.dumps([artifacts, received.json, final], default=str)
    assert PASSWORD not in everything and secret not in everything

    # The capture stays, and the same can be looked at again, by whom it concerns or not.
    capture = received.json["capture"]
    assert capture in {row["name"] for row in stack.cli_json("capture", "list")}
    again = stack.run_to_end(ON_DEMAND, {"capture": capture, "analyzers": ["http"], "notify_at": "critical"})
    assert again["state_name"] == "Completed" and len(hook.requests) == 1
    rows = stack.sql("SELECT count(*) FROM tool_run WHERE flow_run_id = %s AND outcome = 'completed'", (run["id"],))
    assert rows == [(6,)]  # tcpdump, dpkt, three analyzers, webhook


def test_a_capture_that_cannot_be_read_fails_by_its_reason_and_bad_input_before_anything_is_recorded(
    stack: Stack,
) -> None:
    for parameters, said in (
        ({}, "Give either interface (to listen) or capture"),
        ({"interface": "lo"}, "needs a filter or a host"),
        ({"interface": "nosuch0", "filter": "tcp"}, "nosuch0"),
        ({"interface": "lo", "filter": "tcp prot 80"}, "filter"),
        ({"interface": "lo", "port": 0}, "port"),
        ({"capture": "not/there.pcap", "analyzers": ["tcp"]}, "no capture not/there.pcap"),
        ({"interface": "lo", "filter": "tcp", "notify": ["slack/nobody"]}, "There is no block 'slack/nobody'"),
    ):
        run = stack.run_to_end(ON_DEMAND, parameters)
        assert run["state_type"] == "FAILED" and said in run["state"]["message"], (parameters, run["state"]["message"])
    identity = stack.deployment(ON_DEMAND)["id"]
    refused = stack.request(
        "POST",
        f"/deployments/{identity}/create_flow_run",
        {"parameters": {"capture": "a.pcap", "analyzers": ["gopher"]}},
    )
    assert refused.status_code == 409 and "gopher" in refused.text


def test_its_hourly_form_waits_for_an_interface(stack: Stack) -> None:
    [schedule] = stack.deployment("capture-and-analyze/hourly")["schedules"]
    assert schedule["active"] is False
    declared = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]
    assert {"on-demand", "hourly"} == {
        entry["name"] for entry in declared if entry["entrypoint"] == "flows.capture_and_analyze.capture_and_analyze"
    }
