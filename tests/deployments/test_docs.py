"""The generated documentation: what the pages show, and what `--check` finds."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from deployments.cli._options import parse
from deployments.docs import _pages, _situations
from deployments.docs.__main__ import EXAMPLES, main, wanted
from deployments.docs._situations import SITUATIONS, Situation, fallback, of_tool, situations
from deployments.docs._transcripts import Recorded, command_of, dump, load, problems, shorten
from tasks.core.registry import ToolSpec, find_tool, load_tools
from tasks.core.tool import validate

every_tool = pytest.mark.parametrize("spec", list(load_tools().values()), ids=lambda spec: spec.name)


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A folder in which every example of every tool was recorded."""
    folder = tmp_path / "examples"
    folder.mkdir()
    for name in load_tools():
        done = [Recorded(command_of(one), f"{one.title}\n\nrows\nA  B\n1  2") for one in of_tool(name)]
        (folder / f"{name}.txt").write_text(dump(done))
    return folder


def complaint(folder: Path) -> str:
    (found,) = problems(folder)
    return found


# --- checking --------------------------------------------------------------------------------------------------------


def test_nothing_is_wrong_when_every_example_was_recorded(recorded: Path) -> None:
    assert problems(recorded) == []


def test_a_tool_whose_examples_were_never_run_is_told_with_the_line_that_runs_them(recorded: Path) -> None:
    (recorded / "ping.txt").unlink()
    assert complaint(recorded).endswith("python -m deployments.docs --examples ping")


def test_an_example_that_was_changed_and_not_run_again_is_told(recorded: Path) -> None:
    file = recorded / "ping.txt"
    file.write_text(file.read_text().replace("files.office.example", "mail.office.example"))
    assert "ping" in complaint(recorded)


def test_an_example_without_output_is_told(recorded: Path) -> None:
    (recorded / "arp_scan.txt").write_text(dump([Recorded(command_of(one), "") for one in of_tool("arp_scan")]))
    assert "without output" in complaint(recorded)


def test_an_example_that_names_a_parameter_which_is_gone_is_told(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = Situation("ping", "As it was called before", "--hosts 10.64.1.10")
    monkeypatch.setattr(_situations, "SITUATIONS", (*SITUATIONS, renamed))
    (recorded / "ping.txt").write_text(dump([Recorded(command_of(one), "x") for one in of_tool("ping")]))
    assert "not valid" in complaint(recorded) and "--hosts" in complaint(recorded)


def test_an_example_whose_value_is_out_of_range_now_is_told(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _situations, "SITUATIONS", (*SITUATIONS, Situation("ping", "Too many", "--target 10.64.1.1 --count 500"))
    )
    (recorded / "ping.txt").write_text(dump([Recorded(command_of(one), "x") for one in of_tool("ping")]))
    assert "count" in complaint(recorded)


def test_an_example_of_a_tool_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, recorded: Path) -> None:
    monkeypatch.setattr(_situations, "SITUATIONS", (*SITUATIONS, Situation("pong", "Nothing", "--target 10.64.1.1")))
    assert "pong" in complaint(recorded)


@pytest.mark.parametrize("private", ["/root/signalbox/x", "/home/jo/.ssh", "-----BEGIN RSA PRIVATE KEY-----"])
def test_what_is_of_the_machine_or_secret_is_told(recorded: Path, private: str) -> None:
    (recorded / "ping.txt").write_text(dump([Recorded(command_of(one), private) for one in of_tool("ping")]))
    assert "recorded on" in complaint(recorded)


def test_examples_nobody_would_read_to_the_end_are_told(recorded: Path) -> None:
    (recorded / "ping.txt").write_text(dump([Recorded(command_of(one), "line\n" * 2000) for one in of_tool("ping")]))
    assert "more than anybody reads" in complaint(recorded)


def test_a_transcript_of_no_tool_is_told(recorded: Path) -> None:
    (recorded / "pong.txt").write_text("$ signalbox tool run pong\nx\n")
    assert "pong.txt belongs to no tool" in complaint(recorded)


def test_the_check_sends_nothing_writes_nothing_and_says_what_is_out_of_date(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, recorded: Path, tmp_path: Path
) -> None:
    import deployments.docs.__main__ as command

    pages = tmp_path / "pages"
    monkeypatch.setattr(command, "EXAMPLES", recorded)
    monkeypatch.setattr(command, "PAGES", pages)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"# x\n{_pages.BEGIN}\n{_pages.END}\n")
    assert main(["--check"]) == 1 and not pages.exists()
    assert "pages/network-scan.md is not what the code says; run: make docs" in capsys.readouterr().err
    pages.mkdir()
    (tmp_path / "docs").mkdir()
    assert main([]) == 0
    capsys.readouterr()
    assert main(["--check"]) == 0 and capsys.readouterr().err == ""
    (pages / "network-gone.md").write_text("x")
    assert main(["--check"]) == 1
    assert "network-gone.md" in capsys.readouterr().err


# --- examples --------------------------------------------------------------------------------------------------------


@every_tool
def test_every_tool_has_an_example_that_its_models_accept(spec: ToolSpec) -> None:
    assert of_tool(spec.name)
    for situation in of_tool(spec.name):
        asked = parse(spec, shlex.split(situation.options))
        assert asked is not None
        validate(spec, asked[0])


@every_tool
def test_a_tool_nobody_wrote_an_example_for_is_shown_all_the_same(spec: ToolSpec) -> None:
    situation = fallback(spec)
    asked = parse(spec, shlex.split(situation.options))
    assert asked is not None
    validate(spec, asked[0])


def test_examples_stay_inside_the_lab_and_the_ranges_for_documentation() -> None:
    import ipaddress
    import re

    allowed = [ipaddress.ip_network(one) for one in ("10.64.0.0/16", "192.0.2.0/24", "127.0.0.0/8")]
    for situation in SITUATIONS:
        for address in re.findall(r"(?<![\d.])\d+\.\d+\.\d+\.\d+(?![\d.])", situation.options):
            assert any(ipaddress.ip_address(address) in one for one in allowed), situation


def test_what_others_need_comes_before_them() -> None:
    order = [one.tool for one in situations()]
    assert order.index("tcpdump") < order.index("dpkt") and order.index("asset_create") < order.index("asset_delete")


def test_a_transcript_is_read_as_it_was_written() -> None:
    done = [
        Recorded("signalbox tool run ping --target x", "a\n\n$ signalbox is no command line\nb"),
        Recorded("signalbox tool run dns", "c"),
    ]
    assert load(dump(done)) == done


def test_a_long_table_is_cut_and_says_by_how_much() -> None:
    table = "hosts\nA  B\n" + "\n".join(f"{n}  x" for n in range(20))
    short = shorten(f"headline\n\n{table}\n\nnotes\nn", 5)
    assert short.split("\n\n")[1].splitlines() == ["hosts", "A  B", "0  x", "1  x", "2  x", "... 17 more lines"]
    assert short.endswith("\n\nnotes\nn") and short.startswith("headline\n")


# --- pages -----------------------------------------------------------------------------------------------------------


def test_there_is_a_page_for_each_group_and_the_index_links_every_tool() -> None:
    files = {path.name: text for path, text in wanted().items() if path.parent == EXAMPLES.parent}
    assert set(files) == {"README.md", *(spec.group.replace("/", "-") + ".md" for spec in load_tools().values())}
    for name, spec in load_tools().items():
        assert f"({spec.group.replace('/', '-')}.md#{name})" in files["README.md"]


@every_tool
def test_a_page_shows_all_of_a_tool(spec: ToolSpec, recorded: Path) -> None:
    page = _pages.group_page(spec.group, [spec], recorded)
    assert spec.summary in page and f"**{spec.safety}**" in page
    for alias in spec.aliases:
        assert f"`{alias}`" in page
    for name in spec.result_model.model_fields:
        assert f"| `{name}` |" in page
    for situation in of_tool(spec.name):
        assert f"{situation.title}:" in page and f"{situation.title}\n\nrows\nA  B\n1  2\n````" in page
    for name, field in spec.params_model.model_fields.items():
        assert _pages._escape(field.description or "") in page, name


@every_tool
def test_a_command_line_broken_over_lines_means_the_same(spec: ToolSpec) -> None:
    for situation in of_tool(spec.name):
        command = command_of(situation)
        folded = _pages._folded(command, 60)
        assert shlex.split(folded.replace("\\\n", "")) == shlex.split(command)


def test_what_a_tool_raises_is_a_list() -> None:
    page = _pages.documentation(find_tool("dns_lookup"))
    assert "- `NotFound`: The name of `server` does not resolve." in page and "Raises" not in page
