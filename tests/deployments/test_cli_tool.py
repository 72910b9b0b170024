"""The command's options come from the parameter models; mistakes are told before anything is started."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from blocks.policy import ProbePolicy
from deployments.cli import _output, main
from deployments.cli._options import command_line
from deployments.cli._options import parse as parse_options
from flows._text import CONTROLS, markdown_table
from tasks.core.errors import InvalidParameters
from tasks.core.registry import ToolSpec, find_tool, load_tools
from tasks.core.run import FixedWiring, wired
from tasks.core.settings import settings
from tasks.core.tool import validate

every_tool = pytest.mark.parametrize("spec", list(load_tools().values()), ids=lambda spec: spec.name)


def parse(tool: str, *options: str) -> dict[str, Any]:
    asked = parse_options(find_tool(tool), options)
    assert asked is not None
    return asked[0]


@pytest.mark.parametrize("name", ["\x1b[2Jprinter", "a\x9b31mb", "\x1b]0;x\x07", "a\u202eb", "a\ud800b", "a\x00b\rc"])
def test_a_name_on_the_wire_gives_the_terminal_no_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _output.emit_table([{"name": name, "other": "x"}], title=name)
    _output.emit_table([{f"column {number}": name + "x" * 30 for number in range(12)}], title=name)
    _output.say(name)
    _output.complain(name, name, status=1)
    _output.emit_json({"name": name})
    printed = capsys.readouterr()
    assert "x" in printed.out and not CONTROLS.search(printed.out + printed.err)
    assert json.loads(printed.out[printed.out.index("{") :]) == {"name": name}
    assert not CONTROLS.search(markdown_table([{name: name}]))


def test_a_list_may_be_given_once_or_often_in_the_singular_or_plural() -> None:
    for options in (
        ["--target", "10.0.0.1", "--target", "10.0.0.2"],
        ["--target", "10.0.0.1", "10.0.0.2"],
        ["--targets", "10.0.0.1", "10.0.0.2"],
    ):
        assert parse("ping", *options)["targets"] == ["10.0.0.1", "10.0.0.2"]


def test_underscores_hyphens_and_flags_are_read_as_people_type_them() -> None:
    assert parse("nmap", "--target", "10.0.0.1", "--top_ports", "5", "--no-discovery") == {
        "targets": ["10.0.0.1"],
        "top_ports": "5",
        "discovery": False,
    }
    assert parse("nmap", "--target", "10.0.0.1", "--top-ports", "5", "--discovery")["discovery"] is True


def test_objects_are_json_and_a_mistake_in_it_says_where() -> None:
    assert parse("asset_create", "--hostname", "x", "--metadata", '{"rack": 4}')["metadata"] == {"rack": 4}
    with pytest.raises(InvalidParameters, match=r"metadata must be JSON: .* at character"):
        parse("asset_create", "--metadata", '{"rack": }')


def test_all_parameters_may_come_as_one_json_object_and_options_win() -> None:
    assert parse("ping", "--params", '{"targets": ["10.0.0.1"], "count": 2}', "--count", "3") == {
        "targets": ["10.0.0.1"],
        "count": "3",
    }


def test_an_unknown_option_is_a_usage_error_that_names_the_tool(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tool", "run", "ping", "--no-such"]) == 2
    said = capsys.readouterr().err
    assert "--no-such" in said and "signalbox tool show ping" in said


@every_tool
def test_no_option_of_a_tool_is_taken_by_the_command_itself(
    spec: ToolSpec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[dict[str, Any]] = []

    def keep(_: ToolSpec, options: list[str]) -> None:
        given.append({"options": list(options)})
        raise InvalidParameters("read")

    monkeypatch.setattr("deployments.cli.tool.parse", keep)
    words = [f"--{name.replace('_', '-')}" for name in spec.params_model.model_fields]
    assert main(["tool", "run", spec.name, *words]) == 2
    assert given == [{"options": words}], capsys.readouterr()


def test_an_unknown_tool_gets_the_nearest_names_and_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tool", "show", "tcp-port-chek"]) == 2
    assert "Did you mean: tcp_port_check" in capsys.readouterr().err


def test_wrong_parameters_are_told_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tool", "run", "PING", "--target", "300.1.1.1", "--count", "0"]) == 2
    said = capsys.readouterr().err
    assert "'300.1.1.1'" in said and "count: input should be greater than or equal to 1" in said


def test_a_command_that_needs_the_stack_says_that_it_is_not_up(own_home: Path) -> None:
    # A process of its own: Prefect reads where its server is when it is first imported, which here was long ago.
    command = [sys.executable, "-c", "import sys; from deployments.cli import main; sys.exit(main())"]
    for words in (["tool", "run", "ping", "--target", "127.0.0.1"], ["policy", "show"], ["discover"]):
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode in (1, 4) and done.stdout == "", done
        assert "signalbox status" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-command"]) == 2
    assert "no-such-command" in capsys.readouterr().err


def test_json_is_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tool", "list", "--json"]) == 0
    assert {row["tool"] for row in json.loads(capsys.readouterr().out)} == set(load_tools())


@every_tool
def test_the_help_of_every_tool_shows_all_its_options(spec: ToolSpec, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tool", "show", spec.name, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["parameters"]["properties"]) == set(spec.params_model.model_fields)
    assert main(["tool", "show", spec.name]) == 0
    said = capsys.readouterr().out
    assert spec.summary in said
    assert "e+0" not in said, "limits are written out"


@every_tool
def test_the_command_lines_shown_as_examples_give_the_examples_parameters(spec: ToolSpec) -> None:
    import shlex

    for example in spec.examples:
        asked = parse_options(spec, shlex.split(command_line(spec, example.params)))
        assert asked is not None
        assert validate(spec, asked[0]) == validate(spec, example.params)


@pytest.mark.parametrize(
    "words", [("asset", "update", "lobby-cam"), ("asset", "create"), ("block", "create", "snmp")], ids=" ".join
)
def test_a_field_called_version_is_not_the_version_of_the_command(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    import cyclopts

    assert main([*words, "--version", "no such version"]) == 2
    assert cyclopts.__version__ not in capsys.readouterr().out


# --- a dry run


CLOSE = [
    "tool",
    "run",
    "vapix_privacy_mask",
    "--target",
    "127.0.0.1",
    "--credentials",
    "axis/yard",
    "--action",
    "remove",
]
CLOSE += ["--name", "Window", "--dry-run"]


def dry(*more: str) -> int:
    policy = ProbePolicy(allowed=["127.0.0.0/8"], ceiling="destroy")
    with wired(FixedWiring({settings().site: policy})):
        return main([*CLOSE, *more])


def test_a_dry_run_says_what_would_have_to_be_confirmed(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry() == 0
    assert "It needs approval: --confirm '127.0.0.1 Window'" in capsys.readouterr().out
    assert dry("--json") == 0
    assert json.loads(capsys.readouterr().out)["approval"] == "127.0.0.1 Window"


def test_a_dry_run_refuses_what_the_run_itself_would_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry("--confirm", "127.0.0.1 Door") == 3
    assert "--confirm '127.0.0.1 Window'" in capsys.readouterr().err
    assert dry("--confirm", "127.0.0.1 Window") == 0
    assert "It is approved." in capsys.readouterr().out
