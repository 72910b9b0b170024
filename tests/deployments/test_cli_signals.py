"""However a command is told to end, what it runs is cancelled and cleans up."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

COMMAND = """
import asyncio, contextlib, signal, sys
from deployments import cli

async def work():
    with guard():
        try:
            print("running", flush=True)
            await asyncio.sleep(20)
            print("done", flush=True)
        finally:
            await asyncio.sleep(0.5)
            print("cleaned up", flush=True)

# As in a terminal: whoever runs the tests may ignore them (nohup, a job in the background).
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
guard = contextlib.nullcontext
if "flow" in sys.argv:
    sys.argv.remove("flow")
    from prefect.utilities.engine import capture_sigterm as guard
for name in sys.argv[1:]:
    signal.signal(signal.Signals[name], signal.SIG_IGN)
cli._WITHOUT_PREFECT.add("work")
cli.app.command(lambda: asyncio.run(work()), name="work")
sys.exit(cli.main(["work"]))
"""


def told(*numbers: signal.Signals, words: Sequence[str] = ()) -> tuple[int, str, str]:
    """Exit status and output of a command that got these signals, one after the other.

    Args:
        numbers: The signals.
        words: Names of signals that are ignored from the start; "flow" when it runs as one.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        began = process.stdout.readline()
        for number in numbers:
            process.send_signal(number)
        try:
            rest, complaint = process.communicate(timeout=15)
        finally:
            process.kill()
    return process.returncode, began + rest, complaint


@pytest.mark.parametrize(
    ("number", "words", "status"),
    [(signal.SIGINT, [], 130), (signal.SIGHUP, [], 129), (signal.SIGTERM, [], 143), (signal.SIGTERM, ["flow"], 143)],
)
def test_a_closed_terminal_and_a_kill_end_a_command_as_ctrl_c_does(
    number: signal.Signals, words: list[str], status: int
) -> None:
    assert told(number, words=words) == (status, "running\ncleaned up\n", "signalbox: Stopped.\n")


def test_a_second_signal_does_not_disturb_the_clean_up() -> None:
    assert told(signal.SIGHUP, signal.SIGTERM, signal.SIGHUP)[:2] == (129, "running\ncleaned up\n")


def test_a_command_in_the_background_that_ignores_ctrl_c_can_be_ended() -> None:
    assert told(signal.SIGTERM, words=["SIGINT"])[:2] == (143, "running\ncleaned up\n")


def test_what_nohup_ignores_stays_ignored() -> None:
    assert told(signal.SIGHUP, signal.SIGTERM, words=["SIGHUP"])[:2] == (143, "running\ncleaned up\n")
