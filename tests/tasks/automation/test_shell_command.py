# The tests look at files while the loop stands still; that is fine here:
# ruff: noqa: ASYNC240
from __future__ import annotations

import dataclasses
import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.automation.shell_command import ShellCommand, readable, shell_command
from tasks.core import registry
from tasks.core.errors import CommandFailed, InvalidParameters, MissingProgram, Refused, ToolTimeout
from tasks.core.models import Service

LISTED = [
    "cat",
    "echo",
    "false",
    "head",
    "pwd",
    "env",
    "sleep",
    "seq",
    "grep",
    "uptime",
    "ulimit",
    "sh",
    "ls",
    "tee",
    "touch",
]
POLICY = ProbePolicy(programs=LISTED)


def script(folder: Path, text: str, name: str = "job") -> str:
    """An executable of the test's own; what starts with #! is no shell to us."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_listed_program_runs_and_its_output_comes_back(perform: Any) -> None:
    result = await perform(shell_command, {"program": "echo", "arguments": ["hello", "world"]}, policy=POLICY)
    assert result.stdout == "hello world\n"
    assert (result.returncode, result.stderr, result.truncated, result.output) == (0, "", False, None)
    assert Path(result.program).name == "echo"
    assert result.headline() == f"echo ended with status 0 in {result.duration:.1f} s: hello world"


async def test_no_shell_looks_at_the_arguments(perform: Any) -> None:
    arguments = ["$HOME", "`id`", "$(id)", "; id", "*", "a  b", "> /tmp/x", "\n", "'"]
    result = await perform(shell_command, {"program": "echo", "arguments": arguments}, policy=POLICY)
    assert result.stdout == " ".join(arguments) + "\n"


async def test_what_policy_does_not_list_is_refused_with_the_command_that_would_list_it(perform: Any) -> None:
    with pytest.raises(
        Refused, match=r"policy of site default allows \(none\)\. Allow it: signalbox policy allow-program id$"
    ):
        await perform(shell_command, {"program": "id"})
    with pytest.raises(Refused, match=r"allows \(uptime\)"):
        await perform(shell_command, {"program": "/usr/bin/id"}, policy=ProbePolicy(programs=["uptime"]))


async def test_name_and_path_of_one_program_are_one(perform: Any) -> None:
    path = (await perform(shell_command, {"program": "echo"}, policy=POLICY)).program
    await perform(shell_command, {"program": path}, policy=POLICY)
    await perform(shell_command, {"program": "echo"}, policy=ProbePolicy(programs=[path]))


async def test_a_program_of_the_same_name_elsewhere_is_another_program(perform: Any, tmp_path: Path) -> None:
    impostor = script(tmp_path, "echo impostor", "echo")
    with pytest.raises(Refused, match="is not among the programs"):
        await perform(shell_command, {"program": impostor}, policy=POLICY)


async def test_a_link_to_a_listed_program_is_another_program(perform: Any, tmp_path: Path) -> None:
    # One file may be many programs, by the name it is called by.
    (tmp_path / "other").symlink_to("/bin/cat")
    with pytest.raises(Refused, match="is not among the programs"):
        await perform(shell_command, {"program": str(tmp_path / "other")}, policy=POLICY)


@pytest.mark.parametrize("program", ["sh", "/bin/sh"])
async def test_a_shell_is_refused_although_it_is_listed(perform: Any, program: str) -> None:
    with pytest.raises(Refused, match="is a shell"):
        await perform(
            shell_command,
            {"program": program, "arguments": ["-c", "id"]},
            policy=ProbePolicy(programs=["sh", "/bin/sh"]),
        )


async def test_a_shell_under_another_name_is_refused(perform: Any, tmp_path: Path) -> None:
    (tmp_path / "tool").symlink_to("/bin/sh")
    path = str(tmp_path / "tool")
    with pytest.raises(Refused, match="is a shell"):
        await perform(shell_command, {"program": path}, policy=ProbePolicy(programs=[path]))


async def test_a_program_that_starts_others_is_refused_although_it_is_listed(perform: Any) -> None:
    with pytest.raises(Refused, match="starts any other program"):
        await perform(shell_command, {"program": "env", "arguments": ["id"]}, policy=POLICY)


async def test_a_program_that_has_a_tool_of_its_own_is_refused_although_it_is_listed(
    perform: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.load_tools()
    card = dataclasses.replace(shell_command.spec, name="sweeper", service=Service.NETWORK, programs=("seq",))
    monkeypatch.setitem(registry.TOOLS, "sweeper", card)
    with pytest.raises(Refused, match=r"asks the gate first\. Use: signalbox tool run sweeper"):
        await perform(shell_command, {"program": "seq", "arguments": ["1"]}, policy=POLICY)


async def test_a_program_that_anyone_may_change_is_refused(perform: Any, tmp_path: Path) -> None:
    path = script(tmp_path, "echo hi")
    policy = ProbePolicy(programs=[path])
    assert (await perform(shell_command, {"program": path}, policy=policy)).stdout == "hi\n"
    Path(path).chmod(0o777)
    with pytest.raises(Refused, match="chmod o-w"):
        await perform(shell_command, {"program": path}, policy=policy)


async def test_a_listed_program_that_is_not_installed_says_how_to_get_it(perform: Any) -> None:
    with pytest.raises(MissingProgram, match="apt-get install no-such-program"):
        await perform(shell_command, {"program": "no-such-program"}, policy=ProbePolicy(programs=["no-such-program"]))


async def test_it_is_a_change_and_needs_that_ceiling(perform: Any) -> None:
    with pytest.raises(Refused, match="ceiling"):
        await perform(shell_command, {"program": "echo"}, policy=ProbePolicy(programs=LISTED, ceiling="probe"))


# --- what it runs in --------------------------------------------------------------------------------------------------


async def test_it_runs_in_an_empty_folder_that_is_gone_afterwards(perform: Any, tmp_path: Path) -> None:
    path = script(tmp_path, 'pwd; ls -A; echo "$HOME"; echo "$TMPDIR"; touch left')
    first, home, scratch = (
        await perform(shell_command, {"program": path}, policy=ProbePolicy(programs=[path]))
    ).stdout.split()
    assert first == home == scratch
    assert not Path(first).exists()


async def test_it_sees_nothing_of_our_environment(
    perform: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:hunter2")
    path = script(tmp_path, "tr '\\0' '\\n' < /proc/self/environ")
    result = await perform(shell_command, {"program": path}, policy=ProbePolicy(programs=[path]))
    assert {line.split("=")[0] for line in result.stdout.splitlines()} <= {
        "HOME",
        "TMPDIR",
        "PATH",
        "LANG",
        "TZ",
        "PWD",
    }


async def test_limits_are_in_force(perform: Any, tmp_path: Path) -> None:
    path = script(tmp_path, "ulimit -t; ulimit -v; ulimit -f; ulimit -n; ulimit -c; grep NoNewPrivs /proc/self/status")
    params = {"program": path, "timeout": 20, "memory_bytes": 512 << 20}
    result = await perform(shell_command, params, policy=ProbePolicy(programs=[path]))
    # sh counts memory in KiB and file size in blocks of 512 bytes.
    assert result.stdout.split() == ["21", str(512 << 10), str((64 << 20) // 512), "256", "0", "NoNewPrivs:", "1"]


async def test_a_program_that_uses_too_much_memory_fails(perform: Any, tmp_path: Path) -> None:
    path = tmp_path / "greedy"
    path.write_text(f"#!{sys.executable} -IS\nx = bytearray(1 << 30)\n")
    path.chmod(0o755)
    with pytest.raises(CommandFailed, match="MemoryError"):
        await perform(
            shell_command,
            {"program": str(path), "memory_bytes": 256 << 20},
            policy=ProbePolicy(programs=[str(path)]),
        )


async def test_nothing_it_started_survives_it(perform: Any, tmp_path: Path) -> None:
    path = script(tmp_path, "setsid sh -c 'trap \"\" TERM; sleep 300' & echo $!")
    result = await perform(shell_command, {"program": path}, policy=ProbePolicy(programs=[path]))
    assert not Path(f"/proc/{result.stdout.strip()}").exists()


async def test_a_program_that_takes_too_long_is_ended_and_its_output_kept(perform: Any, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    path = script(tmp_path, "echo so far; sleep 60")
    with pytest.raises(ToolTimeout, match=r"did not finish within 1 s\. Its output until then: .*/job\.out$") as caught:
        await perform(shell_command, {"program": path, "timeout": 1}, policy=ProbePolicy(programs=[path]), store=store)
    name = str(caught.value.hint).rpartition(" ")[2]
    assert store.path(name).read_text() == "so far\n"


# --- input and output -------------------------------------------------------------------------------------------------


async def test_it_reads_what_it_is_given(perform: Any) -> None:
    result = await perform(shell_command, {"program": "cat", "stdin": "grün\n"}, policy=POLICY)
    assert result.stdout == "grün\n"
    assert (await perform(shell_command, {"program": "cat"}, policy=POLICY)).stdout == ""


async def test_a_failure_says_why_and_an_expected_status_is_none(perform: Any) -> None:
    with pytest.raises(CommandFailed, match=r"ls ended with status 2: .*cannot access '/no/such'"):
        await perform(shell_command, {"program": "ls", "arguments": ["/no/such"]}, policy=POLICY)
    result = await perform(shell_command, {"program": "false", "expect": [1]}, policy=POLICY)
    assert result.returncode == 1


async def test_long_output_is_kept_whole_in_the_store(perform: Any, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    result = await perform(shell_command, {"program": "seq", "arguments": ["20000"]}, policy=POLICY, store=store)
    assert len(result.stdout) == 16 << 10
    assert not result.truncated
    assert result.output is not None
    assert store.path(result.output.name).read_text().splitlines()[-1] == "20000"
    assert store.describe(result.output.name).sha256 == result.output.sha256
    assert len(result.model_dump_json()) < 64 << 10


async def test_output_beyond_the_cap_is_dropped_and_said(perform: Any) -> None:
    params = {"program": "seq", "arguments": ["20000"], "max_output_bytes": 100}
    result = await perform(shell_command, params, policy=POLICY)
    assert len(result.stdout) == 100
    assert result.truncated


async def test_binary_output_is_kept_as_it_is_and_shown_readable(perform: Any, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "store")
    data = tmp_path / "data"
    data.write_bytes(bytes(range(256)))
    result = await perform(shell_command, {"program": "cat", "arguments": [str(data)]}, policy=POLICY, store=store)
    assert "\0" not in result.stdout
    assert result.output is not None
    assert store.path(result.output.name).read_bytes() == data.read_bytes()


def test_colours_are_dropped_and_control_characters_replaced() -> None:
    assert readable(b"\x1b[1;31mred\x1b[0m\tgr\xc3\xbcn\r\n") == ("red\tgrün\n", True)
    assert readable(b"a\0b\x07\xff") == ("a\N{REPLACEMENT CHARACTER}b" + "\N{REPLACEMENT CHARACTER}" * 2, False)


async def test_a_full_store_does_not_hide_what_the_program_did(perform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(CaptureStore, "write", full)
    result = await perform(shell_command, {"program": "seq", "arguments": ["20000"]}, policy=POLICY)
    assert result.output is None
    assert result.returncode == 0


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["", "./x", "../x", "a b", "x;id", "bin/x", "/usr/../x/", "-c", "$(id)", "x\n"])
async def test_a_program_is_a_name_or_an_absolute_path(perform: Any, program: str) -> None:
    with pytest.raises(InvalidParameters, match="program: "):
        await perform(shell_command, {"program": program}, policy=POLICY)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--password=hunter2"],
        ["--password", "hunter2"],
        ["-token", "hunter2"],
        ["--api-key=hunter2"],
        ["--db-password=hunter2"],
        ["https://me:hunter2@example.com/"],
    ],
)
async def test_credentials_are_no_arguments_and_are_not_repeated(perform: Any, arguments: list[str]) -> None:
    with pytest.raises(InvalidParameters, match="looks like a credential") as caught:
        await perform(shell_command, {"program": "echo", "arguments": arguments}, policy=POLICY)
    assert "hunter2" not in str(caught.value)


def test_what_only_sounds_like_a_credential_is_an_argument() -> None:
    ShellCommand(
        program="x", arguments=["--password-file", "/etc/x", "tokens", "https://example.com/a:b@c", "--tokenize"]
    )


async def test_arguments_have_bounds(perform: Any) -> None:
    with pytest.raises(InvalidParameters, match="NUL"):
        await perform(shell_command, {"program": "echo", "arguments": ["a\0b"]}, policy=POLICY)
    with pytest.raises(InvalidParameters, match="longer than 65,536 bytes"):
        await perform(shell_command, {"program": "echo", "arguments": ["x" * 30_000] * 3}, policy=POLICY)


def test_the_subject_is_the_command_as_one_would_type_it() -> None:
    assert ShellCommand(program="df", arguments=["-h", "/mnt/my disk"]).about() == "df -h '/mnt/my disk'"
    assert len(ShellCommand(program="df", arguments=["x" * 1000]).about()) == 500
