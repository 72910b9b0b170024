"""Which port the Prefect server gets, and who has it when it is taken."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from deployments.local import ports
from deployments.local.errors import StackError


@pytest.fixture
def taken() -> Iterator[int]:
    """A port this process listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_the_holder_of_a_port_is_named_with_command_and_pid(taken: int) -> None:
    assert f"pid {os.getpid()}" in (ports.holder_of(taken) or "")


def test_a_default_port_that_is_taken_gives_way_to_the_next_and_says_so(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "DEFAULT_PORT", taken)
    port, remark = ports.choose_port(None, None)
    assert port > taken
    assert remark is not None
    assert f"Port {taken} is taken by" in remark
    assert "SIGNALBOX_PORT" in remark


def test_the_port_of_the_last_run_is_kept_while_it_is_free(taken: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert ports.choose_port(None, free) == (free, None)
    assert ports.choose_port(None, taken)[0] != taken


def test_what_runs_beside_the_server_gets_the_port_of_its_last_run_or_the_next_free_one(taken: int) -> None:
    beside = ports.choose_port_after(taken - 1, None)
    assert beside > taken  # the first candidate is taken
    assert ports.choose_port_after(taken - 1, taken) == beside
    assert ports.choose_port_after(4200, beside) == beside
    assert ports.choose_port_after(beside, beside) > beside  # the server was told to use it
    assert 0 < ports.choose_port_after(65535, None) < 65535


def test_a_port_that_was_asked_for_is_not_silently_replaced(taken: int) -> None:
    with pytest.raises(StackError, match=f"Port {taken}"):
        ports.choose_port(taken, None)
