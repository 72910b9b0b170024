"""Processes are told apart by pid and start time, and ended with what they started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from deployments.local import processes
from deployments.local.supervisor import LOG_BYTES, _rotate


def identity_of(child: subprocess.Popen[bytes]) -> processes.Identity:
    found = processes.identify(child.pid)
    assert found is not None
    return found


def test_a_process_that_ignores_term_is_killed_after_its_grace() -> None:
    child = subprocess.Popen(
        ["bash", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    begun = time.monotonic()
    assert processes.end([identity_of(child)], grace=0.5)
    assert time.monotonic() - begun < 3
    assert child.wait() == -signal.SIGKILL


def test_a_pid_that_belongs_to_somebody_else_by_now_is_not_signalled() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        earlier = identity_of(child)._replace(started=1)
        assert not processes.send(earlier, signal.SIGKILL)
        assert processes.end([earlier], grace=0) == []
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_a_zombie_counts_as_gone() -> None:
    child = subprocess.Popen(["true"])
    while processes.identify(child.pid) is not None:
        time.sleep(0.01)
    assert child.wait() == 0


def test_descendants_are_found_through_sessions_and_by_their_mark_after_their_parent_is_gone(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 60' & wait"
    parent = subprocess.Popen(["bash", "-c", script], env={**os.environ, "SBX_TEST_MARK": str(tmp_path)})
    while not (pid_file.exists() and pid_file.read_text().strip()):
        time.sleep(0.01)
    grandchild = int(pid_file.read_text())
    try:
        assert grandchild in {process.pid for process in processes.descendants([parent.pid])}
        parent.kill()
        parent.wait()
        assert [process.pid for process in processes.marked("SBX_TEST_MARK", str(tmp_path))] == [grandchild]
        assert processes.marked("SBX_TEST_MARK", "another") == []
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_a_long_log_is_cut_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    log.write_bytes(b"x" * LOG_BYTES)
    (tmp_path / "service.log.1").write_text("older")
    with log.open("ab") as writer:
        _rotate(log)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    assert (tmp_path / "service.log.1").stat().st_size == LOG_BYTES
    assert (tmp_path / "service.log.2").read_text() == "older"
