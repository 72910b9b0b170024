"""The audit of a fleet: 200 simulated cameras of all generations, over TLS, with everything an audit looks at.

The cameras run in a process of their own, on loopback addresses of this machine, and share its cores with the audit.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.stack import allow

CAMERAS = 200
GOAL_SECONDS = 60.0
HANGING = 4
"""Cameras among them that take connections and never answer."""
KINDS = ("mid", "new", "ptz", "9.80", "old")
NETWORK = "127.77"
ACCOUNT = ("audit", "benchmark")


def audit(home: Path) -> list[Figure]:
    """Measure the audit of all of them, and of them with some that hang."""
    with _fleet() as fleet:
        return asyncio.run(_audit(fleet))


async def _audit(fleet: _Fleet) -> list[Figure]:
    from pydantic import SecretStr

    from blocks.axis import AxisCredentials

    await allow(f"{NETWORK}.0.0/16")
    name, password = ACCOUNT
    account: Any = AxisCredentials(
        username=name,
        password=SecretStr(password),
        port=fleet.port,
        verification="pinned",
        fingerprints=[fleet.fingerprint],
    )
    await account.save("benchmark", overwrite=True)
    figures = []
    for hanging in (0, HANGING):
        await asyncio.to_thread(fleet.hang, hanging)
        computed = time.process_time()
        seconds, result = await _run(fleet.addresses)
        computed = time.process_time() - computed
        audited = sum(row["audited"] == "yes" for row in result.cameras)
        if audited != CAMERAS - hanging or result.failed:
            raise RuntimeError(f"{audited} of {CAMERAS} cameras were audited: {result.title}; {result.failed}")
        said = await asyncio.to_thread(fleet.said)
        if said["most_in_flight"] != 1:
            raise RuntimeError(f"a camera had {said['most_in_flight']} requests at once")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures.append(
            Figure(
                f"audit {CAMERAS} cameras over TLS" + (f", {hanging} of which hang" if hanging else ", all parts"),
                f"{seconds:.1f} s, {computed:.1f} of it computing: {CAMERAS / seconds:.1f} cameras/s, {peak:.0f} MB",
                f"{said['requests'] / CAMERAS:.0f} requests to each, one at a time" if not hanging else "",
                goal=f"at most {GOAL_SECONDS:.0f} s",
                good=seconds <= GOAL_SECONDS,
            )
        )
    return figures


async def _run(addresses: list[str]) -> tuple[float, Any]:
    """Run the flow in this process, as the command does."""
    from flows.audit_cameras import CameraAudit, audit_cameras

    began = time.perf_counter()
    state: Any = await audit_cameras(credentials="axis/benchmark", targets=addresses, return_state=True)
    seconds = time.perf_counter() - began
    result = getattr(state.data, "result", state.data)
    if not isinstance(result, CameraAudit):
        raise RuntimeError(f"the audit ended {state.name}: {state.message}")
    return seconds, result


# --- the cameras, in a process of their own -----------------------------------------------------------------------------


class _Fleet:
    """The process with the cameras: asked by lines on its stdin, answers by JSON on its stdout."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        hello = self._read()
        self.addresses: list[str] = hello["addresses"]
        self.port: int = hello["port"]
        self.fingerprint: str = hello["fingerprint"]

    def said(self) -> dict[str, int]:
        """How many requests there were since `hang`, and the most a camera had at once."""
        return self._ask("said")

    def hang(self, number: int) -> None:
        """Make so many of them hang, and begin to count anew."""
        self._ask(f"hang {number}")

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the simulated cameras ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def _fleet() -> Iterator[_Fleet]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cameras"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _Fleet(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


async def _serve() -> None:
    from deployments.demo.axis_camera import Account, Device, Fault, Listening, self_signed

    identity = self_signed("cameras.invalid")
    devices = [
        Device(KINDS[number % len(KINDS)], index=number, accounts=(Account(*ACCOUNT, "admin"),))
        for number in range(CAMERAS)
    ]
    addresses: list[str] = []
    port = rtsp_port = 0  # all have the ports of the first
    async with AsyncExitStack() as exits:
        for number, device in enumerate(devices):
            addresses.append(f"{NETWORK}.{number // 250}.{number % 250 + 1}")
            camera = await exits.enter_async_context(
                Listening(
                    device, host=addresses[-1], port=None, https_port=port, rtsp_port=rtsp_port, identity=identity
                )
            )
            port, rtsp_port = camera.https_port, camera.rtsp_port
        _tell(addresses=addresses, port=port, fingerprint=identity.fingerprint)
        while words := (await asyncio.to_thread(sys.stdin.readline)).split():
            if words[0] == "hang":
                for device in devices:
                    device.requests.clear()
                for device in devices[: int(words[1])]:
                    device.faults.add("/*", Fault("hang", count=None, bare=True))
            _tell(
                requests=sum(len(device.requests) for device in devices),
                most_in_flight=max(device.most_in_flight for device in devices),
            )


def _tell(**said: Any) -> None:
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
