"""What signalbox promises whatever happens, shown on the whole stack: nothing survives its run, and the ledger has every run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.network import DELL, HEWLETT_PACKARD, HostSpec, Lab, banner, http, mute, needs_lab, ssh
from lab.stack import ROOT, Stack

from deployments.local.processes import Identity, command_of, descendants, identify

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("guarantees"), pytest.mark.timeout(600)]

GONE_SECONDS = 5.0
"""What a run started is gone this long after the run's end, whatever ended it."""
FAMILY = """#!/bin/sh
# Children and grandchildren, some in sessions of their own, none of which minds SIGTERM.
trap '' TERM HUP INT
(trap '' TERM HUP INT; exec sleep 86397) &
setsid sh -c 'trap "" TERM HUP INT; sleep 86398 & while :; do sleep 1; done' "$0" &
sh -c '(exec setsid sleep 86399) & exec sleep 86396' "$0" &
while :; do sleep 1; done
"""
FAMILY_SIZE = 6
"""Lasting members at least: the program, four sleepers, the shell in its own session."""


@pytest.fixture(scope="module")
def family(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A program that leaves as much behind as it can, on the policy's list."""
    program = tmp_path_factory.mktemp("programs") / "family"
    program.write_text(FAMILY)
    program.chmod(0o755)
    done = stack.cli("policy", "allow-program", str(program))
    assert done.returncode == 0, done.stderr
    yield program
    stack.cli("policy", "allow-program", str(program), "--remove")


def living(*words: str) -> dict[int, str]:
    """Processes of this machine whose command line holds one of the words."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX" and any(word in command for word in words):
            found[int(folder.name)] = command
    return found


def engine_of(stack: Stack, run_id: str) -> int:
    """The process that executes a flow run."""
    for process in stack.processes():
        try:
            folder = Path(f"/proc/{process.pid}")
            if run_id.encode() in (folder / "environ").read_bytes() and b"prefect" in (folder / "cmdline").read_bytes():
                return process.pid
        except OSError:
            continue
    raise AssertionError(f"no process executes run {run_id}")


def cancel(stack: Stack, run_id: str) -> None:
    """Cancel a run as the UI does."""
    stack.api("POST", f"/flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})


def kill(stack: Stack, run_id: str) -> None:
    """Kill a run's process, as the kernel does when memory is short."""
    os.kill(engine_of(stack, run_id), signal.SIGKILL)


def wait_until_gone(look: Callable[[], Any], seconds: float) -> Any:
    """Wait until there is nothing left to see; returns what is left when time is up."""
    end = time.monotonic() + seconds
    while (left := look()) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def ledger_row(stack: Stack, run_id: str) -> dict[str, Any]:
    """The one tool run of a flow run, as the ledger tells it."""
    columns = (
        "tool, service, safety, target, state, outcome, error_class, error_message, duration_s, allowed_by, request_id, flow_run_id,"
        " task_run_id, who, result, started_at, finished_at"
    )
    rows = stack.sql(f"SELECT {columns} FROM tool_run WHERE flow_run_id = %s", (run_id,))
    assert len(rows) == 1, rows
    return dict(zip((name.strip() for name in columns.split(",")), rows[0], strict=True))


# --- deadline, cancel, kill -9 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "final", "outcome", "error_class"),
    [
        ("deadline", "TimedOut", "timed_out", "ToolTimeout"),
        ("cancel", "Cancelled", "cancelled", "CancelledError"),
        ("kill", "Crashed", None, None),
    ],
)
def test_nothing_a_tool_started_outlives_its_run(
    stack: Stack, family: Path, how: str, final: str, outcome: str | None, error_class: str | None
) -> None:
    def look() -> dict[int, str]:
        return living(str(family), "sleep 86396", "sleep 86397", "sleep 86398", "sleep 86399")

    timeout = 6 if how == "deadline" else 300
    run = stack.start("run-tool/shell_command", {"params": {"program": str(family), "timeout": timeout}})
    stack.eventually(lambda: len(look()) >= FAMILY_SIZE, 60)
    if how == "deadline":
        assert not wait_until_gone(look, timeout + GONE_SECONDS)
    else:
        {"cancel": cancel, "kill": kill}[how](stack, run["id"])
        assert not wait_until_gone(look, GONE_SECONDS)
    assert stack.wait_for_run(run["id"], 60)["state_name"] == final

    row = ledger_row(stack, run["id"])
    assert (row["outcome"], row["error_class"]) == (outcome, error_class)
    assert row["state"] == (outcome or "running")
    if how == "kill":
        # Nobody was left to write the end; the hourly maintenance finds that out.
        def settled() -> bool:
            done = stack.run_to_end("maintain/hourly")
            assert done["state_name"] == "Completed", stack.run_logs(done["id"])
            return bool(ledger_row(stack, run["id"])["state"] == "unknown")

        stack.eventually(settled, 120)


@pytest.mark.lab
@needs_lab
@pytest.mark.parametrize("how", ["cancel", "kill"])
async def test_no_packet_leaves_after_a_scan_was_stopped(stack: Stack, how: str) -> None:
    async with Lab() as lab:
        await lab.add("server", 20, f"{DELL}:00:00:20", subnet="cameras")
        network = lab.subnets["cameras"].cidr
        await ask(stack, "policy", "allow", network)
        try:
            parameters = {
                "targets": [lab.hosts["server"].address],
                "profile": "ports",
                "ports": "50000-65000",
                "max_rate": 200,
            }
            async with lab.counting("tcp") as sent:
                run = await asyncio.to_thread(stack.start, "run-tool/nmap", {"params": parameters})
                started = await asyncio.to_thread(stack.eventually, lambda: scanners(stack, run["id"]), 60)
                await asyncio.sleep(3)
                await asyncio.to_thread({"cancel": cancel, "kill": kill}[how], stack, run["id"])
                stopped = time.time()
                await asyncio.sleep(GONE_SECONDS + 3)
            left = [process for process in started if identify(process.pid) == process]
            assert not left
            assert [moment for moment in sent.times if moment < stopped], (
                "it never sent anything: the test shows nothing"
            )
            assert not [moment - stopped for moment in sent.times if moment > stopped + GONE_SECONDS]
            final = await asyncio.to_thread(stack.wait_for_run, run["id"], 60)
            assert final["state_name"] == {"cancel": "Cancelled", "kill": "Crashed"}[how]
        finally:
            await ask(stack, "policy", "allow", network, "--remove")


def scanners(stack: Stack, run_id: str) -> list[Identity]:
    """The nmap processes of a flow run, with their supervisors; empty as long as there is no nmap."""
    try:
        found = descendants([engine_of(stack, run_id)])
    except AssertionError:
        return []
    return found if any(command_of(process).startswith("/usr/bin/nmap") for process in found) else []


async def ask(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed."""
    done = await asyncio.to_thread(stack.cli, *words)
    assert done.returncode == 0, done.stderr
    return done


# --- the packet budget -------------------------------------------------------------------------------------------------

BUDGET = 200


@pytest.mark.lab
@needs_lab
async def test_two_discoveries_at_once_stay_within_the_budget_together(stack: Stack) -> None:
    async with Lab() as lab:
        for number, subnet in enumerate(("office", "cameras")):
            await lab.add_all(
                [
                    HostSpec("web" + subnet, 11, f"{DELL}:00:{number:02x}:11", subnet, (http(title="Intranet"), ssh())),
                    # Silence costs nmap a minute: one silent port must do.
                    HostSpec("mute" + subnet, 12, f"{DELL}:00:{number:02x}:12", subnet, (mute(8080),)[number:]),
                    HostSpec(
                        "odd" + subnet,
                        13,
                        f"{HEWLETT_PACKARD}:00:{number:02x}:13",
                        subnet,
                        (banner(21, "220 odd\r\n"),),
                    ),
                ]
            )
        networks = [subnet.cidr.replace("/24", "/26") for subnet in lab.subnets.values()]
        before = await ask_json(stack, "policy", "show")
        await ask(stack, "policy", "allow", *networks)
        # No cap for one host: that is another promise, with tests of its own, and would make this one slow.
        await ask(stack, "policy", "rate", str(BUDGET), "--host", "0")
        try:
            async with lab.counting() as sent:
                found = await asyncio.gather(*(_discover(stack, network) for network in networks))
        finally:
            rates = (str(before["packets_per_second"]), "--host", str(before["host_packets_per_second"]))
            await ask(stack, "policy", "rate", *rates)
            await ask(stack, "policy", "allow", *networks, "--remove")
        (first_began, first_ended, first), (second_began, second_ended, second) = found
        assert max(first_began, second_began) < min(first_ended, second_ended), "they were not at work at the same time"
        for result in (first, second):
            assert result["outcome"] == "Completed", result
            assert result["answered"] >= 3, result
        assert any("http" in str(host) for host in first["hosts"]), "services were to be looked at"
        assert sent.total > 500
        assert sent.worst(seconds=5) <= BUDGET * 5


async def _discover(stack: Stack, network: str) -> tuple[float, float, Any]:
    began = time.monotonic()
    result = await asyncio.to_thread(stack.cli_json, "discover", network, timeout=400)
    return began, time.monotonic(), result


async def ask_json(stack: Stack, *words: str) -> Any:
    return await asyncio.to_thread(stack.cli_json, *words)


# --- the ledger --------------------------------------------------------------------------------------------------------


def test_every_run_is_in_the_ledger_however_it_ended(stack: Stack) -> None:
    true, false = "/bin/true", "/bin/false"
    for program in (true, false):
        assert stack.cli("policy", "allow-program", program).returncode == 0
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "completed": ("ping", {"targets": ["127.0.0.1"], "count": 1}),
        "refused": ("ping", {"targets": ["10.255.0.1"], "count": 1}),
        "failed": ("shell_command", {"program": false}),
    }
    try:
        runs = {
            outcome: stack.start(f"run-tool/{tool}", {"params": params}) for outcome, (tool, params) in asked.items()
        }
        for outcome, run in runs.items():
            stack.wait_for_run(run["id"])
            row = ledger_row(stack, run["id"])
            tool = asked[outcome][0]
            assert (row["tool"], row["state"], row["outcome"]) == (tool, outcome, outcome)
            assert (row["service"], row["safety"]) == {
                "ping": ("network", "probe"),
                "shell_command": ("automation", "change"),
            }[tool]
            assert row["target"] == {"completed": "127.0.0.1", "refused": "10.255.0.1", "failed": false}[outcome]
            assert row["request_id"] == row["flow_run_id"] == run["id"]
            assert row["task_run_id"] and row["who"] and row["finished_at"]
            assert row["error_class"] == {"completed": None, "refused": "Refused", "failed": "CommandFailed"}[outcome]
            if outcome == "refused":
                assert "signalbox policy allow 10.255.0.1/32" in row["error_message"]
                assert row["started_at"] is None and row["allowed_by"] is None
            else:
                assert row["duration_s"] > 0 and row["started_at"]
                assert row["allowed_by"]
        result = ledger_row(stack, runs["completed"]["id"])["result"]
        assert result["hosts"][0]["outcome"] == "answered"
    finally:
        for program in (true, false):
            stack.cli("policy", "allow-program", program, "--remove")


def test_what_the_command_refuses_at_once_is_in_the_ledger_too(stack: Stack) -> None:
    done = stack.cli("tool", "run", "ping", "--target", "10.255.77.1")
    assert done.returncode == 3
    assert "policy allow 10.255.77.1/32" in done.stderr and "Traceback" not in done.stderr
    ((state, error, request),) = stack.sql(
        "SELECT state, error_class, request_id FROM tool_run WHERE target = '10.255.77.1'"
    )
    assert (state, error) == ("refused", "Refused") and request


def test_a_tool_run_on_the_command_line_says_what_failed_and_shows_no_traceback(stack: Stack) -> None:
    done = stack.cli("policy", "ceiling", "destroy")
    assert done.returncode == 0, done.stderr
    try:
        done = stack.cli("tool", "run", "asset_delete", "--asset", "999999999", "--confirm", "999999999")
    finally:
        stack.cli("policy", "ceiling", "change")
    assert done.returncode == 4, done.stderr
    assert "999999999" in done.stderr and "Traceback" not in done.stderr
    assert str(ROOT) not in done.stderr


def test_a_budget_below_the_cap_of_one_host_takes_the_cap_along(stack: Stack) -> None:
    before = stack.cli_json("policy", "show")
    try:
        assert "20 for the site, 20 per host" in stack.cli("policy", "rate", "20").stdout
        refused = stack.cli("policy", "rate", "20", "--host", "21")
        assert refused.returncode == 2 and "more than the whole site's" in refused.stderr
    finally:
        stack.cli("policy", "rate", str(before["packets_per_second"]), "--host", str(before["host_packets_per_second"]))
