"""One simulated camera in the foreground, for `signalbox demo camera`."""

from __future__ import annotations

import asyncio
import errno
import shlex
import signal
from collections.abc import Callable

from deployments.demo.axis_camera import PROFILES, Account, Device, Listening, Profile, find_profile
from tasks.core.errors import Busy, InvalidParameters


def known_profile(name: str) -> Profile:
    """The profile of that name.

    Raises:
        InvalidParameters: There is none; says which there are.
    """
    try:
        return find_profile(name)
    except ValueError:
        told = "; ".join(f"{profile.name}: {profile.title}" for profile in PROFILES.values())
        raise InvalidParameters(f"There is no camera profile {name!r}.", hint=f"--profile takes {told}.") from None


async def serve(
    profile: Profile,
    account: Account,
    *,
    host: str,
    port: int,
    https_port: int | None,
    rtsp_port: int | None,
    say: Callable[[str], None],
) -> None:
    """Run a camera until SIGINT or SIGTERM, having said where it is and what to try.

    Raises:
        Busy: A port is taken.
        InvalidParameters: A port is not ours to open, or there is no such address here.
    """
    device = Device(profile, accounts=(account,))
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        async with Listening(device, host=host, port=port, https_port=https_port, rtsp_port=rtsp_port) as camera:
            for line in introduction(camera, account):
                say(line)
            await stopped.wait()
    except OSError as error:
        raise _explained(error, host, [one for one in (port, https_port, rtsp_port) if one]) from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def introduction(camera: Listening, account: Account) -> list[str]:
    """What a person needs to know to try a camera that listens."""
    device = camera.device
    identity = device.identity
    lines = [
        f"A simulated camera: AXIS {device.model}, AXIS OS {device.firmware}, serial {device.serial}",
        "",
        f"  {camera.url}",
    ]
    if camera.https_port and identity is not None:
        host = camera.url.removeprefix("http://").rpartition(":")[0]
        lines += [
            f"  https://{host}:{camera.https_port}",
            f"  its certificate, to be pinned (SHA-256): {identity.fingerprint}",
        ]
    if camera.rtsp_port:
        lines.append(
            f"  rtsp://{camera.url.removeprefix('http://').rpartition(':')[0]}:{camera.rtsp_port}/axis-media/media.amp"
        )
    if device.auth.refuse_all:
        lines += ["", "It is new out of the box and has no account: everything that needs one answers 401."]
    else:
        lines += ["", f"Account: {account.name}, password: {account.password}"]
    block = [
        "signalbox",
        "block",
        "create",
        "axis/demo",
        "--username",
        account.name,
        "--password",
        "-",
        "--scheme",
        "http",
    ]
    tool = ["signalbox", "tool", "run", "vapix_device_info", "--target", camera.host, "--credentials", "axis/demo"]
    lines += [
        "",
        "Try, in another terminal (signalbox up first):",
        f"  echo {shlex.quote(account.password)} | {shlex.join([*block, '--port', str(camera.port)])}",
        f"  {shlex.join(tool)}",
        "",
        "Ctrl-C ends it.",
    ]
    return lines


def _explained(error: OSError, host: str, ports: list[int]) -> Exception:
    shown = ", ".join(map(str, ports)) or "any"
    match error.errno:
        case errno.EADDRINUSE:
            return Busy(
                f"A port of {host} is taken already: one of {shown}.",
                hint="Name others: --port, --https-port, --rtsp-port.",
            )
        case errno.EACCES | errno.EPERM:
            return InvalidParameters(f"Ports below 1024 ({shown}) are for root to open.", hint="Try --port 8080.")
        case errno.EADDRNOTAVAIL:
            return InvalidParameters(
                f"This machine has no address {host}.", hint="--host is one of its own; 127.0.0.1 is the default."
            )
    return error
