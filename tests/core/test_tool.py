"""The kit's pipeline around a tool's body, on tools made here."""

from __future__ import annotations

import asyncio
import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from prefect.states import Failed
from pydantic import Field

from blocks.policy import Exclusion, ProbePolicy
from tasks.core import registry
from tasks.core import tool as kit
from tasks.core.errors import (
    Busy,
    DatabaseGone,
    InvalidParameters,
    Refused,
    ToolTimeout,
    Unauthorized,
    UnknownTool,
    Unreachable,
    is_retryable,
)
from tasks.core.ledger import RunEvent
from tasks.core.models import (
    Example,
    PortList,
    ProbeParams,
    Safety,
    Scope,
    Service,
    ToolParams,
    ToolResult,
    parse_ports,
)
from tasks.core.run import current_run

CALLS: list[Any] = []
Perform = Callable[..., Any]


class Sleep(ToolParams):
    """Parameters of `sleep_tool`."""

    seconds: float = Field(0.0, ge=0, le=100, description="How long, seconds.")
    word: str = Field("", description="Anything.")
    confirm: str | None = Field(None, description="Repeats the word.")

    def about(self) -> str:
        return self.word


class Reveal(Sleep):
    """Parameters of a tool that reads, unless it is asked to do more."""

    reveal: bool = Field(False, description="Show what is masked otherwise.")

    def safety(self) -> Safety:
        return Safety.CHANGE if self.reveal else Safety.READ


class Slept(ToolResult):
    """What `sleep_tool` returns."""

    word: str = Field(description="The word.")


class Touch(ProbeParams):
    """Parameters of `touch_tool`."""

    ports: PortList = Field("22", description="Ports.")
    open_door: bool = Field(False, description="Open the door.")
    door: str = Field("the door", description="Which.")
    confirm: str | None = Field(None, description="Repeats what is opened.")

    def approval(self) -> bool:
        return self.open_door

    def subject(self) -> str:
        return f"{self.targets[0]} {self.door}" if self.door else ""

    def scope(self) -> Scope:
        return Scope(targets=tuple(self.targets), ports=parse_ports(self.ports))


class Book:
    """A ledger that remembers; `gone` makes it refuse what must be written ahead."""

    def __init__(self, gone: bool = False) -> None:
        self.events: list[RunEvent] = []
        self.gone = gone

    async def record(self, event: RunEvent, *, ahead: bool) -> None:
        if self.gone and ahead:
            raise DatabaseGone("The inventory database does not answer.")
        self.events.append(event)

    @property
    def story(self) -> list[tuple[str, str | None, str | None]]:
        return [(event.kind, event.outcome, event.error_class) for event in self.events]


@pytest.fixture
def make_tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(registry, "TOOLS", {})
    monkeypatch.setattr(registry, "_NAMES", {})
    CALLS.clear()

    def make(safety: Safety = Safety.READ, body: Callable[[Any], Any] | None = None, **options: Any) -> Any:
        async def sleep_tool(params: Sleep) -> Slept:
            """Sleep for a while."""
            CALLS.append(params)
            if body is not None:
                await body(params)
            await asyncio.sleep(params.seconds)
            return Slept(word=params.word)

        sleep_tool.__annotations__ = {"params": options.pop("params", Sleep), "return": Slept}
        return kit.tool(service=Service.AUTOMATION, safety=safety, timeout=options.pop("timeout", 5), **options)(
            sleep_tool
        )

    return make


@pytest.fixture
def touch(make_tool: Callable[..., Any]) -> Any:
    async def touch_tool(params: Touch) -> Slept:
        """Touch hosts."""
        grant = current_run().grant
        assert grant is not None
        CALLS.append([address for granted in grant.targets for address in granted.addresses])
        return Slept(word="touched")

    touch_tool.__annotations__ = {"params": Touch, "return": Slept}
    return kit.tool(service=Service.NETWORK, safety=Safety.PROBE, timeout=5)(touch_tool)


async def test_a_result_comes_back_and_the_ledger_has_the_run(make_tool: Callable[..., Any], perform: Perform) -> None:
    book = Book()
    result = await perform(make_tool(), {"word": "hello"}, ledger=book)
    assert result == Slept(word="hello")
    assert book.story == [("started", None, None), ("finished", "completed", None)]
    started, finished = book.events
    assert started.tool_run_id == finished.tool_run_id and started.target == "hello"
    assert finished.result == {"word": "hello"} and finished.duration_s is not None
    assert started.safety == "read" and started.service == "automation" and started.request_id and started.who


async def test_a_deadline_ends_the_body_and_is_a_timeout_error_that_is_not_retried(
    make_tool: Callable[..., Any], perform: Perform
) -> None:
    book = Book()
    begun = time.monotonic()
    with pytest.raises(ToolTimeout, match=r"sleep_tool did not finish within its deadline of 0\.2 s") as caught:
        await perform(make_tool(timeout=0.2), {"seconds": 60}, ledger=book)
    assert isinstance(caught.value, TimeoutError) and time.monotonic() - begun < 30
    assert book.story[-1] == ("finished", "timed_out", "ToolTimeout")
    assert not await kit.retry_condition(None, None, Failed(data=caught.value))  # type: ignore[arg-type]


async def test_a_cancel_reaches_the_body_and_is_noted(make_tool: Callable[..., Any], perform: Perform) -> None:
    book = Book()
    running = asyncio.create_task(perform(make_tool(timeout=60), {"seconds": 60}, ledger=book))
    while not CALLS:
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert book.story[-1] == ("finished", "cancelled", "CancelledError")


async def test_wrong_parameters_are_all_named_before_anything_happens(
    make_tool: Callable[..., Any], perform: Perform
) -> None:
    book = Book()
    with pytest.raises(InvalidParameters) as caught:
        await perform(make_tool(), {"seconds": -1, "no_such": 3}, ledger=book)
    said = str(caught.value)
    assert "seconds: input should be greater than or equal to 0, not -1" in said
    assert (
        "no_such: no such parameter; there are seconds, word, confirm" in said
        and "signalbox tool show sleep_tool" in said
    )
    assert CALLS == [] and book.story == [("finished", "failed", "InvalidParameters")]


async def test_a_tool_above_the_ceiling_is_refused(make_tool: Callable[..., Any], perform: Perform) -> None:
    book = Book()
    with pytest.raises(Refused, match="signalbox policy ceiling destroy"):
        await perform(make_tool(Safety.DESTROY), {"word": "x"}, ledger=book)
    assert CALLS == [] and book.story == [("refused", "refused", "Refused")]


async def test_an_option_can_raise_what_a_call_may_do_but_never_lower_it(
    make_tool: Callable[..., Any], perform: Perform
) -> None:
    async def look(params: Reveal) -> Slept:
        """Look at something."""
        return Slept(word=params.word)

    look.__annotations__ = {"params": Reveal, "return": Slept}
    tool = kit.tool(service=Service.AUTOMATION, safety=Safety.PROBE, timeout=5)(look)
    book = Book()
    await perform(tool, {}, ledger=book, policy=ProbePolicy(ceiling="probe"))
    with pytest.raises(Refused, match="signalbox policy ceiling change"):
        await perform(tool, {"reveal": True}, ledger=book, policy=ProbePolicy(ceiling="probe"))
    with pytest.raises(DatabaseGone):  # written ahead, as everything that may change something
        await perform(tool, {"reveal": True}, ledger=Book(gone=True))
    assert [event.safety for event in book.events] == ["probe", "probe", "change"]


async def test_approval_means_repeating_the_target_exactly(make_tool: Callable[..., Any], perform: Perform) -> None:
    tool = make_tool(Safety.CHANGE, approval=True)
    for confirm in (None, "", "Core-sw1", "core-sw1 "):
        with pytest.raises(Refused, match="--confirm 'core-sw1'"):
            await perform(tool, {"word": "core-sw1", "confirm": confirm})
    assert CALLS == []
    await perform(tool, {"word": "core-sw1", "confirm": "core-sw1"})
    assert len(CALLS) == 1


async def test_parameters_can_ask_for_approval_of_what_they_name(touch: Any, perform: Perform) -> None:
    with pytest.raises(Refused, match=r"--confirm '127\.0\.0\.9 the door'"):
        await perform(touch, {"targets": ["127.0.0.9"], "open_door": True, "confirm": "127.0.0.9"})
    assert CALLS == []
    await perform(touch, {"targets": ["127.0.0.9"], "open_door": True, "confirm": "127.0.0.9 the door"})
    await perform(touch, {"targets": ["127.0.0.9"]})
    assert len(CALLS) == 2


async def test_without_a_subject_nothing_can_be_approved(touch: Any, perform: Perform) -> None:
    for confirm in ("", None):
        with pytest.raises(Refused):
            await perform(touch, {"targets": ["127.0.0.9"], "open_door": True, "door": "", "confirm": confirm})
    assert CALLS == []


@pytest.mark.parametrize(("reveal", "again"), [(False, True), (True, False)])
async def test_what_was_raised_to_change_something_is_not_tried_again(
    make_tool: Callable[..., Any], perform: Perform, reveal: bool, again: bool
) -> None:
    async def vanish(_: Any) -> None:
        raise Unreachable("The answer was lost.")

    tool = make_tool(body=vanish, params=Reveal, retries=1)
    with pytest.raises(Unreachable) as caught:
        await perform(tool, {"reveal": reveal})
    assert is_retryable(caught.value) is again
    assert is_retryable(pickle.loads(pickle.dumps(caught.value))) is again
    assert is_retryable(Unreachable("Another one."))


async def test_an_idempotent_change_may_be_tried_again(make_tool: Callable[..., Any], perform: Perform) -> None:
    async def vanish(_: Any) -> None:
        raise Unreachable("The answer was lost.")

    with pytest.raises(Unreachable) as caught:
        await perform(make_tool(Safety.CHANGE, body=vanish, idempotent=True, retries=1), {})
    assert is_retryable(caught.value)


@pytest.mark.parametrize("safety", [Safety.CHANGE, Safety.DESTROY])
async def test_what_changes_something_does_not_run_when_the_ledger_cannot_be_written(
    make_tool: Callable[..., Any], perform: Perform, safety: Safety
) -> None:
    with pytest.raises(DatabaseGone):
        await perform(make_tool(safety), {}, ledger=Book(gone=True), policy=ProbePolicy(ceiling="destroy"))
    assert CALLS == []


@pytest.mark.parametrize("safety", [Safety.READ, Safety.PROBE])
async def test_what_changes_nothing_runs_without_the_database(
    make_tool: Callable[..., Any], perform: Perform, safety: Safety
) -> None:
    await perform(make_tool(safety), {}, ledger=Book(gone=True))
    assert len(CALLS) == 1


async def test_a_ledger_that_fails_at_the_end_does_not_hide_the_result(
    make_tool: Callable[..., Any], perform: Perform, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Book):
        async def record(self, event: RunEvent, *, ahead: bool) -> None:
            if event.kind == "finished":
                raise OSError(28, "No space left on device")

    with caplog.at_level(logging.ERROR):
        assert await perform(make_tool(), {"word": "kept"}, ledger=Failing()) == Slept(word="kept")
    assert "could not note" in caplog.text


async def test_the_body_gets_pinned_addresses_and_the_ledger_the_rule(touch: Any, perform: Perform) -> None:
    book = Book()
    await perform(touch, {"targets": ["127.0.0.9", "::ffff:127.0.0.1"]}, ledger=book)
    assert CALLS == [["127.0.0.9", "127.0.0.1"]]
    assert "127.0.0.0/8" in (book.events[0].allowed_by or "")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"targets": ["10.9.9.9"]}, "signalbox policy allow"),
        ({"targets": ["127.0.0.66"]}, "heart monitors"),
        ({"targets": ["::ffff:127.0.0.66"]}, "heart monitors"),
        ({"targets": ["127.0.0.1"], "ports": "80,9100"}, "signalbox policy ports --open 9100"),
    ],
)
async def test_the_gate_refuses_before_the_body_runs(
    touch: Any, perform: Perform, params: dict[str, Any], said: str
) -> None:
    book = Book()
    policy = ProbePolicy(exclude=[Exclusion(target="127.0.0.66", reason="heart monitors")])
    with pytest.raises(Refused, match=said):
        await perform(touch, params, policy=policy, ledger=book)
    assert CALLS == [] and book.story == [("refused", "refused", "Refused")]


async def test_a_defect_keeps_its_traceback_and_the_ledger_keeps_its_class_only(
    make_tool: Callable[..., Any], perform: Perform
) -> None:
    book = Book()

    async def fail(_: Any) -> None:
        raise KeyError("hunter2")

    with pytest.raises(KeyError):
        await perform(make_tool(body=fail), {}, ledger=book)
    assert book.story[-1] == ("finished", "failed", "KeyError") and "hunter2" not in book.events[-1].model_dump_json()


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Unreachable("x"), True),
        (DatabaseGone("x"), True),
        (Busy("x", retry_after=0.01), True),
        (Busy("x", retry_after=100_000), False),
        (Unauthorized("x"), False),
        (Refused("x"), False),
        (InvalidParameters("x"), False),
        (ValueError("x"), False),
    ],
)
async def test_only_errors_that_name_themselves_retryable_are_retried(error: Exception, again: bool) -> None:
    assert await kit.retry_condition(None, None, Failed(data=error)) is again  # type: ignore[arg-type]


def test_a_change_tool_that_is_not_idempotent_may_not_be_declared_with_retries(make_tool: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="idempotent"):
        make_tool(Safety.CHANGE, retries=1)
    make_tool(Safety.CHANGE, retries=1, idempotent=True)


def test_two_tools_cannot_share_a_name(make_tool: Callable[..., Any]) -> None:
    make_tool(aliases=("nap",))

    async def other(params: Sleep) -> Slept:
        """Do something else."""
        return Slept(word="")

    other.__annotations__ = {"params": Sleep, "return": Slept}
    with pytest.raises(ValueError, match="already means tool sleep_tool"):
        kit.tool(service=Service.AUTOMATION, safety=Safety.READ, timeout=1, aliases=("SLEEP-tool",))(other)


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(UnknownTool, match=r"Did you mean: .*ping"):
        registry.find_tool("pinng")


@pytest.mark.parametrize("name", ["ping", "Ping", "tcp-port check"])
def test_a_tool_called_by_its_name_is_found_without_importing_the_others(name: str) -> None:
    """A run starts in a process of its own: all tools would take two seconds of it."""
    script = f"""
import sys
from tasks.core.registry import find_tool
spec = find_tool({name!r})
imported = [module for module in sys.modules if module.startswith("tasks.network.") and module.count(".") == 3]
print(spec.name, *[module for module in imported if not module.split(".")[-1].startswith("_")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    found, *imported = done.stdout.split()
    assert imported == [f"tasks.network.probe.{found}"]


def test_safety_is_compared_by_rank_never_as_text() -> None:
    assert Safety.READ < Safety.PROBE < Safety.CHANGE < Safety.DESTROY
    assert max(Safety.PROBE, Safety.DESTROY, Safety.CHANGE) is Safety.DESTROY
    with pytest.raises(TypeError):
        _ = Safety.READ < "probe"  # type: ignore[operator]


def test_examples_are_data() -> None:
    assert Example("x", {"word": "y"}).params == {"word": "y"}
