"""`signalbox demo camera`: a camera for those who have none, until Ctrl-C."""

from __future__ import annotations

import itertools
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from blocks.axis import AxisCredentials
from deployments.cli import main
from deployments.demo.axis_camera import Device, Listening
from deployments.demo.camera import introduction
from tasks.network.vapix.vapix_device_info import VapixDeviceInfo

COMMAND = [sys.executable, "-c", "import sys; from deployments.cli import main; sys.exit(main())", "demo", "camera"]


@pytest.mark.parametrize("profile", ["ptz", "ancient", "needs-setup"])
def test_it_says_where_it_is_and_what_to_try_and_ends_with_ctrl_c(profile: str) -> None:
    options = [
        "--port",
        "0",
        "--https-port",
        "0",
        "--rtsp-port",
        "0",
        "--profile",
        profile,
        "--user",
        "eve",
        "--password",
        "secret",
    ]
    process = subprocess.Popen([*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        url = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert (
            url
            and re.search(r"https://127\.0\.0\.1:\d+", said)
            and re.search(r"rtsp://127\.0\.0\.1:\d+/axis-media", said)
        )
        answer = httpx.get(f"{url[0]}/axis-cgi/usergroup.cgi", auth=httpx.DigestAuth("eve", "secret"), trust_env=False)
        if profile == "needs-setup":
            assert "no account" in said and answer.status_code == 401
        else:
            assert "Account: eve, password: secret" in said and answer.text.startswith("eve\n")
            assert f"--port {url[0].rpartition(':')[2]}" in said
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


async def test_the_commands_it_names_are_ones_that_work() -> None:
    """The options of the block and of the tool are theirs: what is printed is made of nothing else."""
    device = Device("ptz")
    account = next(iter(device.auth.accounts.values()))
    async with Listening(device, https_port=None, rtsp_port=None) as camera:
        block, tool = (
            line.split() for line in introduction(camera, account) if "signalbox" in line and "axis/demo" in line
        )
        made = dict(itertools.pairwise(block[block.index("axis/demo") + 1 :]))
        fields = {name[2:].replace("-", "_"): value for name, value in made.items() if name.startswith("--")}
        credentials = AxisCredentials(**fields | {"password": block[1]})  # type: ignore[arg-type]
        assert credentials.port_of() == camera.port and credentials.scheme == "http"
        given = dict(itertools.pairwise(tool[4:]))
        params = VapixDeviceInfo(targets=[given["--target"]], credentials=given["--credentials"])
        assert params.targets == [camera.host]


def test_a_port_that_is_taken_is_said_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["demo", "camera", "--port", str(taken.getsockname()[1])]) != 0
    said = capsys.readouterr().err
    assert "taken already" in said and "--port" in said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--profile", "P9999"], "ancient"),
        (["--port", "70000"], "no TCP port"),
        (["--user", "a:b"], "without a colon"),
        (["--password", ""], "not empty"),
        (["--host", "192.0.2.1", "--port", "0"], "no address 192.0.2.1"),
    ],
)
def test_wrong_options_are_said_with_what_is_right(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "camera", *options]) == 2
    assert told in capsys.readouterr().err
