"""Every alarm rings: failed, crashed, silent, hanging runs, and a pool without a worker; and none of them rings itself."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lab.http_endpoints import HttpEndpoint, SlackEndpoint, TeamsWorkflow, WebhookSink, closed_port
from lab.mail_server import MailServerLab
from lab.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("alarms"), pytest.mark.timeout(600)]

HANGING_AFTER = 12
LASTING = "#!/bin/sh\nwhile :; do sleep 1; done\n"


@pytest.fixture(scope="module")
def lasting(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A program that runs until it is ended, on the policy's list."""
    program = tmp_path_factory.mktemp("programs") / "lasting"
    program.write_text(LASTING)
    program.chmod(0o755)
    command(stack, "policy", "allow-program", str(program))
    yield program
    command(stack, "policy", "allow-program", str(program), "--remove")


def command(stack: Stack, *words: str, **env: str) -> str:
    """Run a command that must succeed."""
    done = stack.cli(*words, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def alarms(stack: Stack, **urls: str) -> Iterator[None]:
    """Make a block for each address (`webhook=...`), have all of them told, and nobody afterwards."""
    names = [f"{short}/alarm-test" for short in urls]
    for name, url in zip(names, urls.values(), strict=True):
        command(stack, "block", "create", name, "--url", url, "--overwrite")
    command(stack, "policy", "alert-to", *names, SIGNALBOX_HANGING_AFTER=str(HANGING_AFTER))
    try:
        yield
    finally:
        command(stack, "policy", "alert-to")


def start_lasting(stack: Stack, lasting: Path) -> str:
    """Start a run that lasts, and return its id once its process is at work."""
    run = stack.start("run-tool/shell_command", {"params": {"program": str(lasting), "timeout": 300}})
    # Its start is in the ledger when the tool is about to begin.
    stack.eventually(lambda: stack.sql("SELECT 1 FROM tool_run WHERE flow_run_id = %s", (run["id"],)), 90)
    return str(run["id"])


def processes_of(stack: Stack, run_id: str) -> list[int]:
    found = []
    for process in stack.processes():
        try:
            if run_id.encode() in Path(f"/proc/{process.pid}/environ").read_bytes():
                found.append(process.pid)
        except OSError:
            continue
    return found


def kill(stack: Stack, run_id: str) -> None:
    engines = processes_of(stack, run_id)
    assert engines
    for pid in engines:
        os.kill(pid, signal.SIGKILL)


def heard(stack: Stack, endpoint: HttpEndpoint, about: Callable[[str], bool], timeout: float = 60) -> str:
    """Wait for a message of which `about` holds, and return it."""
    bodies: list[str] = stack.eventually(
        lambda: [body for request in list(endpoint.requests) if about(body := request.body.decode())], timeout
    )
    return bodies[0]


# --- failed ------------------------------------------------------------------------------------------------------------


def test_a_failed_run_is_told_through_every_named_block(stack: Stack) -> None:
    with WebhookSink() as sink, MailServerLab() as mail:
        server = {"smtp_server": "127.0.0.1", "smtp_port": mail.port, "smtp_type": "INSECURE"}
        words = ("--server", json.dumps(server), "--sender", "noc@example.com", "--default-to", "ops@example.com")
        command(stack, "block", "create", "mail/alarm-test", *words, "--overwrite")
        command(stack, "block", "create", "webhook/alarm-test", "--url", sink.url, "--overwrite")
        said = command(stack, "policy", "alert-to", "webhook/alarm-test", "mail/alarm-test")
        assert "cannot send mail" in said, "that crashes are not told by mail must be said"
        try:
            run = stack.run_to_end("run-tool/ping", {"params": {"targets": ["10.255.3.3"]}})
            assert run["state_name"] == "Failed"
            message = json.loads(heard(stack, sink, lambda body: run["id"] in body))
            assert (message["what"], message["flow"]) == ("failed", "run-tool")
            assert "10.255.3.3 is not allowed" in message["message"]
            assert f"/runs/flow-run/{run['id']}" in message["url"]
            (letter,) = stack.eventually(lambda: mail.messages, 60)
            assert letter["Subject"] == f"signalbox: {message['title']}" and run["id"] in letter.get_content()
        finally:
            command(stack, "policy", "alert-to")


def test_a_block_that_is_gone_does_not_keep_the_others_from_being_told(stack: Stack) -> None:
    with WebhookSink() as sink, alarms(stack, webhook=sink.url, slack="http://127.0.0.1:9/services/x"):
        command(stack, "block", "delete", "slack/alarm-test")
        run = stack.run_to_end("run-tool/ping", {"params": {"targets": ["10.255.3.4"]}})
        assert json.loads(heard(stack, sink, lambda body: run["id"] in body))["what"] == "failed"


def test_a_failing_alert_does_not_start_itself(stack: Stack) -> None:
    began = datetime.now(UTC).isoformat()

    def alerts(run_id: str) -> list[Any]:
        query = {"flows": {"name": {"any_": ["alert"]}}, "flow_runs": {"start_time": {"after_": began}}}
        return [
            found for found in stack.api("POST", "/flow_runs/filter", query) if found["parameters"]["run_id"] == run_id
        ]

    with alarms(stack, webhook=f"http://127.0.0.1:{closed_port()}/x"):
        first = stack.run_to_end("run-tool/ping", {"params": {"targets": ["10.255.3.5"]}})
        (alert,) = stack.eventually(lambda: [one for one in alerts(first["id"]) if one["state_type"] == "FAILED"], 120)
        assert "/x" not in alert["state"]["message"]
        # Events are looked at in order: when this second failure was told, that of the first alert has been looked at.
        second = stack.run_to_end("run-tool/ping", {"params": {"targets": ["10.255.3.6"]}})
        stack.eventually(lambda: alerts(second["id"]), 60)
        assert not alerts(alert["id"])
        assert len(alerts(first["id"])) == 1


# --- hanging -----------------------------------------------------------------------------------------------------------


def test_a_hanging_run_is_told_and_one_that_ended_by_a_name_of_ours_is_not(stack: Stack, lasting: Path) -> None:
    with WebhookSink() as sink, alarms(stack, webhook=sink.url):
        # A run that ended as Partial before: an end whose event is not called Completed.
        flow = stack.api("POST", "/flows/", {"name": "discover"})["id"]
        ended = stack.api(
            "POST", "/flow_runs/", {"flow_id": flow, "tags": ["signalbox"], "state": {"type": "PENDING"}}
        )["id"]
        for state in ({"type": "RUNNING", "name": "Running"}, {"type": "COMPLETED", "name": "Partial"}):
            answer = stack.api("POST", f"/flow_runs/{ended}/set_state", {"state": state})
            assert answer["status"] == "ACCEPT", answer
        hanging = start_lasting(stack, lasting)
        try:
            message = json.loads(heard(stack, sink, lambda body: hanging in body, 90))
            assert message["what"] == "hangs"
            assert not [request for request in sink.requests if ended in request.body.decode()]
        finally:
            stack.api(
                "POST", f"/flow_runs/{hanging}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}}
            )
            stack.wait_for_run(hanging, 60)


# --- crashed -----------------------------------------------------------------------------------------------------------


def test_a_killed_run_is_told_by_the_server_itself_in_each_channels_own_words(stack: Stack, lasting: Path) -> None:
    with (
        WebhookSink() as sink,
        SlackEndpoint() as slack,
        TeamsWorkflow() as teams,
        alarms(stack, webhook=sink.url, slack=slack.url, teams=teams.url),
    ):
        run_id = start_lasting(stack, lasting)
        kill(stack, run_id)
        killed = time.monotonic()
        text = json.loads(heard(stack, sink, lambda body: run_id in body, 30))["text"]
        assert time.monotonic() - killed < 15
        assert "crashed" in text and "shell_command" in text and f"/runs/flow-run/{run_id}" in text
        # These two check the wire format as strictly as the real ones.
        stack.eventually(lambda: slack.accepted, 30)
        stack.eventually(lambda: teams.accepted, 30)
        assert run_id in json.dumps(slack.accepted) and run_id in json.dumps(teams.accepted)
        # The second time too: the server's own client must not be used up by the first.
        again = start_lasting(stack, lasting)
        kill(stack, again)
        heard(stack, sink, lambda body: again in body, 30)


def test_a_run_that_died_together_with_its_worker_is_found_by_its_missing_heartbeats(
    stack: Stack, lasting: Path
) -> None:
    with WebhookSink() as sink, alarms(stack, webhook=sink.url):
        run_id = start_lasting(stack, lasting)
        worker = stack.state().services["worker"].process
        assert worker is not None
        os.kill(worker.pid, signal.SIGKILL)
        kill(stack, run_id)
        killed = time.monotonic()
        run = stack.wait_for_run(run_id, 200)
        assert run["state_type"] == "CRASHED" and "heartbeats stopped" in run["state"]["message"]
        assert time.monotonic() - killed > 30, "something else noticed"
        text = heard(stack, sink, lambda body: run_id in body and "crashed" in body, 30)
        assert "heartbeats stopped" in text


# --- no worker ---------------------------------------------------------------------------------------------------------


def test_a_pool_whose_worker_is_dead_is_told_by_the_server(stack: Stack) -> None:
    worker = stack.state().services["worker"].process
    assert worker is not None
    with WebhookSink() as sink, alarms(stack, webhook=sink.url):
        # Stopped, not killed: the supervisor would start it again at once.
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            text = json.loads(heard(stack, sink, lambda body: "has no worker" in body, 240))["text"]
            assert "signalbox" in text and "signalbox status" in text
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        # Back at work: the next tests need it, and its return must be noticed as well.
        run = stack.run_to_end("run-tool/ping", {"params": {"targets": ["127.0.0.1"], "count": 1}})
        assert run["state_type"] == "COMPLETED"
