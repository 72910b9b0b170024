"""Many cameras at once: what each error becomes, who waits for whom, and what stays when there is too much of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Literal

import pytest
from lab.axis_camera import Camera as Simulated
from lab.axis_camera import cameras
from lab.axis_camera.asking import FAST, Asking
from pydantic import BaseModel, Field

from blocks.captures import CaptureStore
from tasks.core import registry
from tasks.core import tool as kit
from tasks.core.errors import (
    Busy,
    CommandFailed,
    Conflict,
    Forbidden,
    InvalidParameters,
    NotFound,
    Refused,
    Rejected,
    ToolError,
    ToolTimeout,
    Unanswered,
    Unauthorized,
    Unreachable,
    Unsupported,
    Untrusted,
)
from tasks.core.models import Safety, Service
from tasks.core.redact import MOST_BYTES, json_size
from tasks.core.run import FixedWiring, ToolRun, running, wired
from tasks.network.vapix._auth import LoginSecrets
from tasks.network.vapix._camera import Camera
from tasks.network.vapix._fleet import (
    CameraEntry,
    CameraOutcome,
    CamerasResult,
    Seen,
    each_camera,
    entry,
    fitting,
    only_one,
    outcome_of,
)
from tasks.network.vapix._params import CameraParams, fleet_timeout
from tasks.network.vapix._wire import Declined, DeviceId, Missing, NeedsSetup, Nonsense, NotReady

Ask = Callable[..., Awaitable[Any]]


class Look(CameraParams):
    """Parameters of a tool made here."""


class Thing(BaseModel):
    """A thing it saw."""

    name: str = Field(description="Its name.")
    kind: Literal["hunter2secret", "other"] = Field("other", description="A word of ours.")


class Looked(CameraEntry):
    """What it saw."""

    things: dict[str, Thing] = Field(default_factory=dict, description="Things.")
    words: list[str] = Field(default_factory=list, description="Words.")
    number: int | None = Field(None, description="A number.")


class LookResult(CamerasResult):
    """What it returns."""

    cameras: list[Looked] = Field(description="One entry for each camera.")


@pytest.fixture
def make_look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(registry, "TOOLS", {})
    monkeypatch.setattr(registry, "_NAMES", {})

    def make(work: Callable[[Camera], Any], seconds: float = 30.0, timeout: float = 60.0) -> Any:
        async def look(params: Look) -> LookResult:
            """Look at cameras."""
            seen = await each_camera(params, work, seconds=seconds)
            return LookResult(cameras=[entry(Looked, one, number=one.value) for one in seen])

        look.__annotations__ = {"params": Look, "return": LookResult}
        return kit.tool(service=Service.NETWORK, safety=Safety.PROBE, timeout=timeout)(look)

    return make


@pytest.fixture
def pair() -> Iterator[list[Simulated]]:
    with cameras("mid", "mid") as both:
        yield both


@pytest.fixture
def ask(asking: Asking) -> Ask:
    """`await ask(make_look(work), *pair)`: what a tool made here says of cameras."""

    async def run(tool: Any, *fleet: Simulated, **params: Any) -> Any:
        return await asking(tool, policy=FAST, timeout=15)(*fleet, **params)

    return run


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Unreachable("x"), CameraOutcome.UNREACHABLE),
        (Unanswered("x"), CameraOutcome.UNANSWERED),
        (Untrusted("x"), CameraOutcome.UNTRUSTED),
        (Unauthorized("x"), CameraOutcome.UNAUTHORIZED),
        (Forbidden("x"), CameraOutcome.FORBIDDEN),
        (Unsupported("x"), CameraOutcome.UNSUPPORTED),
        (Rejected("x"), CameraOutcome.REJECTED),
        (Declined("x", code=7), CameraOutcome.REJECTED),
        (Missing("x"), CameraOutcome.REJECTED),
        (NotFound("x"), CameraOutcome.REJECTED),
        (Busy("x"), CameraOutcome.BUSY),
        (NotReady("x"), CameraOutcome.NOT_READY),
        (NeedsSetup("x"), CameraOutcome.NEEDS_SETUP),
        (Nonsense("x"), CameraOutcome.NONSENSE),
        (ToolTimeout("x"), CameraOutcome.TIMED_OUT),
        (Conflict("x"), CameraOutcome.REJECTED),
        (Refused("x"), CameraOutcome.REJECTED),
        (InvalidParameters("x"), CameraOutcome.REJECTED),
        (CommandFailed("x"), CameraOutcome.FAILED),
    ],
)
async def test_each_error_is_an_outcome_of_several_and_the_error_of_one(
    make_look: Callable[..., Any],
    ask: Ask,
    pair: list[Simulated],
    error: ToolError,
    outcome: CameraOutcome,
) -> None:
    async def work(camera: Camera) -> int:
        if camera.asked == pair[0].address:
            raise error
        return 1

    assert outcome_of(error) is outcome
    tool = make_look(work)
    result = await ask(tool, *pair)
    assert [one.outcome for one in result.cameras] == [outcome, CameraOutcome.DONE]
    assert result.cameras[0].serial == pair[0].device.serial and result.cameras[1].number == 1
    with pytest.raises(type(error)):
        await ask(tool, pair[0])


async def test_a_camera_that_takes_too_long_is_timed_out_and_let_go(
    make_look: Callable[..., Any], ask: Ask, pair: list[Simulated]
) -> None:
    async def work(camera: Camera) -> int:
        await asyncio.sleep(60 if camera.asked == pair[0].address else 0)
        return 1

    tool = make_look(work, seconds=1.5)
    result = await ask(tool, *pair)
    assert [one.outcome for one in result.cameras] == [CameraOutcome.TIMED_OUT, CameraOutcome.DONE]
    with pytest.raises(ToolTimeout):
        await ask(tool, pair[0])


@pytest.mark.parametrize("defect", [KeyError, TimeoutError])
async def test_a_defect_that_one_camera_brings_to_light_costs_the_others_nothing(
    make_look: Callable[..., Any],
    ask: Ask,
    pair: list[Simulated],
    caplog: pytest.LogCaptureFixture,
    defect: type[Exception],
) -> None:
    async def work(camera: Camera) -> int:
        if camera.asked == pair[0].address:
            raise defect("ours")
        return 1

    result = await ask(make_look(work), *pair)
    assert [one.outcome for one in result.cameras] == [CameraOutcome.FAILED, CameraOutcome.DONE]
    assert f"a defect of signalbox ({defect.__name__})" in str(result.cameras[0].detail)
    assert "Traceback" in caplog.text


async def test_a_defect_that_every_camera_brings_to_light_is_nobodys_outcome(
    make_look: Callable[..., Any], ask: Ask, pair: list[Simulated]
) -> None:
    async def work(camera: Camera) -> int:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        await ask(make_look(work), *pair)


@pytest.mark.parametrize("profile", ["mid", "ancient"])
async def test_another_camera_than_the_one_that_is_meant_gets_neither_work_nor_account(
    make_look: Callable[..., Any], ask: Ask, profile: str
) -> None:
    worked = []

    async def work(camera: Camera) -> int:
        await camera.level()
        worked.append(camera.asked)
        return 1

    with cameras(profile) as fleet:
        serial = fleet[0].device.serial
        with pytest.raises(Untrusted, match=f"is {serial}, not ACCC8E000001"):
            await ask(make_look(work), *fleet, serial="accc8e000001")
        assert worked == []
        assert not [request for request in fleet[0].requests if request.credentials is not None]
        result = await ask(make_look(work, seconds=20.0), *fleet, serial=serial.lower())
        assert result.cameras[0].outcome is CameraOutcome.DONE and worked == [fleet[0].address]


async def test_a_camera_without_accounts_says_what_it_is_all_the_same(make_look: Callable[..., Any], ask: Ask) -> None:
    async def work(camera: Camera) -> int:
        return 1

    with cameras("needs-setup", "mid") as fleet:
        unset, done = (await ask(make_look(work), *fleet)).cameras
        assert (unset.outcome, done.outcome) == (CameraOutcome.NEEDS_SETUP, CameraOutcome.DONE)
        assert unset.serial == fleet[0].device.serial and unset.model and unset.firmware


def test_a_serial_goes_with_one_target() -> None:
    with pytest.raises(ValueError, match="exactly one target, not 2"):
        Look(targets=["10.0.0.1", "10.0.0.2"], credentials="axis/yard", serial="ACCC8E000001")


async def test_cameras_do_not_wait_for_one_another_but_names_of_one_do(
    make_look: Callable[..., Any], ask: Ask, pair: list[Simulated]
) -> None:
    at_once: dict[str, int] = {}
    most: dict[str, int] = {}

    async def work(camera: Camera) -> int:
        for key in ("all", camera.address):
            at_once[key] = at_once.get(key, 0) + 1
            most[key] = max(most.get(key, 0), at_once[key])
        await asyncio.sleep(0.3)
        for key in ("all", camera.address):
            at_once[key] -= 1
        return 1

    await ask(make_look(work), *pair)
    assert most["all"] == 2 and most[pair[0].address] == 1


async def test_a_cancelled_run_gives_its_cameras_back(
    make_look: Callable[..., Any], ask: Ask, pair: list[Simulated]
) -> None:
    started = asyncio.Event()

    async def work(camera: Camera) -> int:
        started.set()
        await asyncio.sleep(60)
        return 1

    running_tool = asyncio.ensure_future(ask(make_look(work), *pair))
    await asyncio.wait_for(started.wait(), 10)
    running_tool.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running_tool

    async def quick(camera: Camera) -> int:
        return 2

    began = time.monotonic()
    result = await ask(make_look(quick), *pair)
    assert {one.number for one in result.cameras} == {2} and time.monotonic() - began < 8


def test_approval_is_for_one_camera_and_names_it() -> None:
    one = Look(targets=["gate-cam"], credentials="axis/yard")
    several = Look(targets=["gate-cam", "yard-cam"], credentials="axis/yard")
    assert (one.subject(), several.subject()) == ("gate-cam", "")
    only_one(one, "moving")
    with pytest.raises(ValueError, match="exactly one target, not 2"):
        only_one(several, "moving")


def test_deadlines_cover_a_whole_batch() -> None:
    assert fleet_timeout(30) == 8 * 30 + 10 and fleet_timeout(30, 32) == 40


async def test_256_entries_fit_with_an_outcome_each_and_the_whole_is_in_a_file(
    make_look: Callable[..., Any], tmp_path: Any
) -> None:
    async def work(camera: Camera) -> int:
        return 1

    spec = make_look(work).spec
    device = DeviceId("B8A44F7C1D20", "AXIS P3245-LVE", "11.11.150")
    entries = [
        entry(
            Looked,
            Seen(
                f"10.20.{n // 200}.{n % 200}", f"10.20.{n // 200}.{n % 200}", CameraOutcome.DONE, "d" * 400, n, device
            ),
            words=["a word"] * 40,
            number=n,
        )
        for n in range(256)
    ]
    store = CaptureStore(folder=tmp_path)
    with wired(FixedWiring(captures=store)), running(ToolRun(spec=spec, site="default", policy=FAST)):
        small = await fitting(LookResult(cameras=entries[:10]), ["words"])
        assert small.report is None and small.left_out == [] and small.cameras[0].words
        shown = await fitting(LookResult(cameras=entries), ["words"])
    assert json_size(shown.model_dump(mode="json")) <= MOST_BYTES
    assert [one.number for one in shown.cameras] == list(range(256)) and shown.left_out == ["words"]
    assert {one.serial for one in shown.cameras} == {device.serial}
    assert shown.report is not None
    whole = LookResult.model_validate_json(store.path(shown.report.name).read_bytes())
    assert whole.cameras == entries


async def test_a_password_that_a_camera_repeats_is_masked_wherever_it_is_told(
    make_look: Callable[..., Any], ask: Ask, pair: list[Simulated]
) -> None:
    async def work(camera: Camera) -> int:
        if camera.address == pair[1].address:
            camera.notes.append("It calls itself hunter2secret.")
            return 1
        raise Rejected("It says hunter2secret.", hint="There are hunter2secret and Home.")

    tool = make_look(work)
    result = await ask(tool, *pair, password="hunter2secret")
    assert [one.outcome for one in result.cameras] == [CameraOutcome.REJECTED, CameraOutcome.DONE]
    assert "hunter2" not in result.model_dump_json() and "and Home" in str(result.cameras[0].detail)
    with pytest.raises(Rejected) as caught:
        await ask(tool, pair[0], password="hunter2secret")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "echo",
    [
        "Basic cm9vdDpodW50ZXIyc2VjcmV0",
        "Basic cm9vdDpodW50ZXIyc2Vj...",
        "root:hunter2secret",
        "hunter2sec...",
        'response="d41d8cd98f00b204e9800998ecf8427e", algorithm=MD5',
        '"response": "d41d8cd98f00b204e9800998ecf8427e"',
    ],
)
async def test_what_a_login_sends_is_masked_wherever_it_is_told(
    make_look: Callable[..., Any], ask: Ask, pair: list[Simulated], echo: str
) -> None:
    async def work(camera: Camera) -> int:
        if camera.address == pair[1].address:
            camera.notes.append(f"It calls itself {echo} of the yard")
            return 1
        raise Rejected(f"It says {echo} of the yard")

    result = await ask(make_look(work), *pair, password="hunter2secret")
    for said in result.cameras:
        assert "***" in said.detail and said.detail.endswith("of the yard")
        for secret in ("hunter2", "aHVudGVyM", "cm9vdDpodW50", "d41d8cd98f"):
            assert secret not in said.detail


async def test_a_password_that_a_camera_gives_for_a_name_stands_in_no_entry(pair: list[Simulated]) -> None:
    secret = "hunter2secret"
    seen = Seen(
        secret, "192.0.2.7", CameraOutcome.DONE, None, 1, DeviceId(secret, f"AXIS {secret}", "11.11"),
        secrets=LoginSecrets("root", secret),
    )  # fmt: skip
    made = entry(
        Looked, seen, words=["yard", f"x{secret}"], things={secret: Thing(name=f"of {secret}", kind="hunter2secret")}
    )
    assert (made.serial, made.model, made.firmware) == ("***", "AXIS ***", "11.11")
    assert made.words == ["yard", "x***"] and made.things == {"***": Thing(name="of ***", kind="hunter2secret")}
    # The target is the asker's own word, by which the entry is found; what holds no secret stays what it is.
    assert made.target == secret and Looked.model_validate(made.model_dump()) == made


async def test_each_tools_entries_hold_no_password_of_the_camera(
    make_look: Callable[..., Any], ask: Ask, pair: list[Simulated]
) -> None:
    async def work(camera: Camera) -> int:
        return 1

    pair[0].device.params.set("Brand.ProdShortName", "AXIS hunter2secret")
    result = await ask(make_look(work), *pair, password="hunter2secret")
    assert result.cameras[0].model == "AXIS ***"


async def test_cameras_with_long_names_fit_the_ledger_too(make_look: Callable[..., Any], tmp_path: Any) -> None:
    spec = make_look(lambda camera: None).spec
    entries = [
        Looked(target=f"camera{n:03}.{'x' * 60}.{'y' * 50}.example.com", address="192.0.2.7", outcome=CameraOutcome.DONE,
               serial="B8A44F7C1D20", model="AXIS " + "Q" * 195, firmware="1" * 200)
        for n in range(256)
    ]  # fmt: skip
    with (
        wired(FixedWiring(captures=CaptureStore(folder=tmp_path))),
        running(ToolRun(spec=spec, site="default", policy=FAST)),
    ):
        shown = await fitting(LookResult(cameras=entries), ["words"])
    assert json_size(shown.model_dump(mode="json")) <= MOST_BYTES
    assert [one.target for one in shown.cameras] == [one.target for one in entries] and "model" in shown.left_out


async def test_that_no_certificate_was_checked_is_said_when_it_went_wrong_too(
    make_look: Callable[..., Any], ask: Ask, pair: list[Simulated]
) -> None:
    async def work(camera: Camera) -> int:
        raise Rejected("It says no.", hint="Ask it otherwise.")

    result = await ask(make_look(work), *pair, block=pair[0].block(verification="off"))
    assert all(
        "It says no. Ask it otherwise. Its certificate was not checked" in str(one.detail) for one in result.cameras
    )
