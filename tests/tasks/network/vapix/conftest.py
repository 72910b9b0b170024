"""What the tests of camera tools share: simulated cameras, one each, and asking them with a tool."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from lab.axis_camera import PASSWORD, Camera, cameras
from lab.axis_camera.asking import UNHURRIED, Asking, only

from blocks.axis import AxisCredentials
from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from tasks.core.tool import approval_for
from tasks.network.vapix import _auth, _camera


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered of cameras that had the address before: what they are, can do, and refused."""
    monkeypatch.setattr(_auth, "_refused", {})
    monkeypatch.setattr(_camera, "_devices", {})
    monkeypatch.setattr(_camera, "_capabilities", {})


def alone(profile: str) -> Iterator[Camera]:
    with cameras(profile) as [camera]:
        yield camera
        assert camera.device.errors == []


@pytest.fixture
def ancient() -> Iterator[Camera]:
    """A PTZ dome of long ago, without any JSON API."""
    yield from alone("ancient")


@pytest.fixture
def old() -> Iterator[Camera]:
    """A fixed camera on 6.50, without any JSON API."""
    yield from alone("old")


@pytest.fixture
def mid() -> Iterator[Camera]:
    """A fixed dome on 11.11, with an infrared light."""
    yield from alone("mid")


@pytest.fixture
def new() -> Iterator[Camera]:
    """A fixed camera on 12.9, with daynight.cgi and the REST configuration."""
    yield from alone("new")


@pytest.fixture
def ptz() -> Iterator[Camera]:
    """A PTZ camera on 12.6, with presets, two lights and four ports."""
    yield from alone("ptz")


@pytest.fixture
def camera(mid: Camera) -> Camera:
    """The camera most tests of a file ask; a file whose tool needs another one says so."""
    return mid


@pytest.fixture
def asking(perform: Callable[..., Awaitable[Any]]) -> Asking:
    """Make a file's `ask`: `asking(vapix_overlay, user="operator")`, with what its tests say unless a test says otherwise.

    `await ask(camera, action="add_text", text="Yard")` asks one camera, `ask(*fleet)` several, over HTTP as root with time-outs of 5 s.
    `user`, `password` and `scheme` are those of the first camera's own block, `block` is another one. With `approving` a call has
    the approval it needs, unless the test gives `confirm`. No camera may have failed by its own fault when the tool has its result.
    """

    def make(
        tool: Any,
        *,
        user: str = "root",
        scheme: str = "http",
        policy: ProbePolicy = UNHURRIED,
        store: CaptureStore | None = None,
        approving: bool = False,
        **defaults: Any,
    ) -> Callable[..., Awaitable[Any]]:
        async def ask(
            *asked: Camera,
            user: str = user,
            password: str = PASSWORD,
            scheme: str = scheme,
            block: AxisCredentials | None = None,
            policy: ProbePolicy = policy,
            store: CaptureStore | None = store,
            **params: Any,
        ) -> Any:
            given = {"targets": [camera.address for camera in asked], "credentials": "axis/test", "timeout": 5}
            given |= defaults | params
            if approving and "confirm" not in given:
                with contextlib.suppress(ValueError):
                    given["confirm"] = approval_for(tool.spec, tool.spec.params_model.model_validate(given)) or None
            if asked and block is None:
                block = asked[0].block(user, password, scheme=scheme)
            result = await perform(tool, given, policy=policy, blocks={"axis/test": block}, store=store)
            assert not [error for camera in asked for error in camera.device.errors]
            return result

        return ask

    return make


@pytest.fixture
def asking_one(asking: Asking) -> Asking:
    """As `asking`, for tests that ask one camera at a time: what they get is its entry, and the headline begins with it."""

    def make(tool: Any, **said: Any) -> Callable[..., Awaitable[Any]]:
        ask = asking(tool, **said)

        async def ask_one(camera: Camera, **params: Any) -> Any:
            result = await ask(camera, **params)
            assert result.headline().startswith(camera.address)
            return only(result)

        return ask_one

    return make
