"""The `signalbox` command.

Exit status: 0 done, 1 failed or partial, 2 wrong usage or parameters, 3 refused by policy, 4 target unreachable or not found;
128 and the signal's number when one ended it: 130 Ctrl-C, 129 a closed terminal, 143 a kill.
Prefect reads its settings when it is first imported, so `main` points the environment at SIGNALBOX_HOME before any command is loaded.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from types import FrameType

from cyclopts import App, CycloptsError

from deployments.cli._output import complain
from tasks.core.errors import ToolError

app = App(
    name="signalbox",
    help="Network operations you can trust: scans, probes, inventory and messages, each with a deadline, a policy and a ledger.",
    version=lambda: version("signalbox"),
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # `main` says that it stopped, and which signal it was
)
for _name, _module in {
    "up": "stack:up",
    "down": "stack:down",
    "status": "stack:status",
    "env": "stack:env",
    "doctor": "stack:doctor",
    "first-run": "stack:first_run",
    "discover": "discover:discover",
    "tool": "tool:app",
    "asset": "asset:app",
    "site": "site:app",
    "events": "asset:events",
    "policy": "policy:app",
    "capture": "capture:app",
    "audit": "audit:app",
    "cameras": "cameras:app",
    "block": "block:app",
    "demo": "demo:app",
}.items():
    app.command(f"deployments.cli.{_module}", name=_name)

_WITHOUT_PREFECT = {"up", "down", "status", "env", "first-run", "demo"}
"""Commands that look after the stack itself: they must see the user's own PREFECT_API_URL, if any."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    with _ended_as_by_ctrl_c() as told:
        status = _main(argv)
        return 128 + told[0] if told and status == 128 + signal.SIGINT else status


@contextmanager
def _ended_as_by_ctrl_c() -> Iterator[list[int]]:
    """Let SIGHUP (a closed terminal, a lost ssh) and SIGTERM do what Ctrl-C does: what runs is cancelled, and cleans up.

    A camera's head that turns is stopped then. Yields a list that gets the number of the signal.
    """
    told: list[int] = []
    here = threading.current_thread() is threading.main_thread()  # nobody else may have handlers
    # What somebody ignores on purpose (nohup) stays ignored.
    taken = [
        number for number in (signal.SIGHUP, signal.SIGTERM) if here and signal.getsignal(number) is signal.SIG_DFL
    ]

    def end(number: int, frame: FrameType | None) -> None:
        told.append(number)
        for other in taken:
            signal.signal(other, signal.SIG_IGN)  # a second one must not disturb the clean-up
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs ignore Ctrl-C
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    for number in taken:
        signal.signal(number, end)
    try:
        yield told
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _stopped(number: int) -> int:
    with suppress(OSError):  # a closed terminal cannot be told
        complain("Stopped.", status=128 + number)
    return 128 + number


def _main(argv: Sequence[str] | None) -> int:
    from tasks.core.settings import settings

    words = sys.argv[1:] if argv is None else list(argv)
    try:
        if words[:1] and words[0] not in _WITHOUT_PREFECT:
            point_at_home()
        # A command prints its own report; Prefect's log lines, a traceback of each failure among them, would bury it. They still reach
        # the run's page. SIGNALBOX_LOG_LEVEL=DEBUG brings them back.
        debug = settings().log_level.upper() == "DEBUG"
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "DEBUG" if debug else "INFO")
        os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "ERROR")
        if not debug:
            os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        # It tells, at the end of many a short command, that it is still sending the last event: true, and of no use.
        logging.getLogger("EventsWorker").setLevel(logging.ERROR)
        result = app(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return complain(
            str(error).rstrip("."),
            f"See: signalbox {' '.join(error.command_chain or ())} --help".replace("  ", " "),
            status=2,
        )
    except ToolError as error:
        return complain(error.message, error.hint, status=error.exit_status)
    except KeyboardInterrupt:
        return _stopped(signal.SIGINT)
    except BrokenPipeError:  # `signalbox ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if settings().log_level.upper() == "DEBUG":
            raise
        from deployments.cli._output import explain_unexpected

        return explain_unexpected(error)
    except BaseException as error:
        # In a flow Prefect takes SIGTERM itself, and this comes when everything was cancelled. Not imported for it: that takes a second.
        if not isinstance(error, getattr(sys.modules.get("prefect.exceptions"), "TerminationSignal", ())):
            raise
        return _stopped(signal.SIGTERM)
    return result if isinstance(result, int) else 0


def point_at_home() -> None:
    """Make Prefect's client talk to the server of SIGNALBOX_HOME (or the one PREFECT_API_URL names), never to the user's own profile."""
    from deployments.local import StackError, environment
    from tasks.core.settings import settings

    home = settings().home
    try:
        os.environ.update(environment(home))
    except StackError:
        # Nothing runs yet. Without an address Prefect would start a server of its own; port 9 (discard) answers nobody, and a command that
        # needs the server then says that signalbox is not up.
        warnings.filterwarnings("ignore", message="Failed to create the Prefect home")
        # SIGNALBOX_EMBEDDED_API_URL says that this address is ours: `up` must not take it for an external Prefect.
        nowhere = "http://127.0.0.1:9/api"
        os.environ.update(
            PREFECT_HOME=str(home / "prefect"),
            PREFECT_API_URL=nowhere,
            SIGNALBOX_EMBEDDED_API_URL=nowhere,
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE="false",
        )
