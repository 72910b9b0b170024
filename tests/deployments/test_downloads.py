"""What hands out captures over HTTP: the file asked for to whoever knows the login, and nothing else to anybody."""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from blocks.captures import CaptureStore

ROOT = Path(__file__).resolve().parents[2]
LOGIN = "signalbox:top-secret-word"
CAPTURE = "tcpdump/2026-11-22/run-1.pcap"
BYTES = bytes(range(256)) * 8
SCRIPT = """
import sys
from pathlib import Path
from blocks.captures import CaptureStore
from deployments.downloads import serve
from tasks.core.run import FixedWiring, wired

with wired(FixedWiring(captures=CaptureStore(folder=Path(sys.argv[2])))):
    serve(int(sys.argv[1]), sys.argv[3], stalled_seconds=2)
"""


class Service:
    """The service in a process of its own, on a store that the test writes to.

    Attributes:
        store: Its store.
        port: Where it answers.
        pid: Its process.
    """

    def __init__(self, folder: Path) -> None:
        self.store = CaptureStore(folder=folder / "evidence", quota_bytes=1 << 30)
        self.store.write(CAPTURE, BYTES)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(self.port), str(self.store.folder), LOGIN],
                env={**os.environ, "PYTHONPATH": str(ROOT), "SIGNALBOX_HOME": str(folder), "DO_NOT_TRACK": "1"},
                stderr=log,
            )
        self.pid = self._process.pid
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            except ConnectionRefusedError:
                assert time.monotonic() < end and self._process.poll() is None, self._log.read_text()
                time.sleep(0.05)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def log(self) -> str:
        return self._log.read_text()

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        login: str | None = LOGIN,
        host: str | None = "127.0.0.1",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request whose path goes out as it is; returns status, headers in lower case, and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True)
            if host is not None:
                connection.putheader("Host", host)
            if login is not None:
                connection.putheader("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def begin(self, name: str) -> socket.socket:
        """Ask for a file and do not read the answer: the receive buffer is small, so the service has to wait."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", self.port))
        authorization = base64.b64encode(LOGIN.encode()).decode()
        connection.sendall(
            f"GET /captures/default/{name} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {authorization}\r\n\r\n".encode()
        )
        assert connection.recv(15) == b"HTTP/1.1 200 OK"
        return connection

    def huge(self, name: str, size: int) -> None:
        """Put a file of zeros into the store that takes no room on the disk, too old to be kept."""
        path = self.store.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
        os.utime(path, (0, 0))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("downloads"))
    yield running
    running.close()


def test_who_knows_the_login_gets_the_file_to_save_and_never_a_page(service: Service) -> None:
    status, headers, body = service.ask(f"/captures/default/{CAPTURE}")
    assert (status, body) == (200, BYTES)
    assert headers["content-type"] == "application/vnd.tcpdump.pcap"
    assert headers["content-disposition"] == 'attachment; filename="run-1.pcap"'
    assert headers["content-length"] == str(len(BYTES))
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["content-security-policy"] == "default-src 'none'"
    assert "server" not in headers and "access-control-allow-origin" not in headers


def test_what_is_no_capture_has_no_type_a_browser_would_open(service: Service) -> None:
    service.store.write("nmap/sweep.html", b"<script>alert(1)</script>")
    _, headers, _ = service.ask("/captures/default/nmap/sweep.html")
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment")


def test_the_length_can_be_asked_for_and_the_rest_of_a_broken_download(service: Service) -> None:
    path = f"/captures/default/{CAPTURE}"
    status, headers, body = service.ask(path, method="HEAD")
    assert (status, headers["content-length"], body) == (200, str(len(BYTES)), b"")
    status, headers, body = service.ask(path, headers={"Range": "bytes=2000-"})
    assert (status, headers["content-range"], body) == (206, f"bytes 2000-2047/{len(BYTES)}", BYTES[2000:])
    assert service.ask(path, headers={"Range": "bytes=-3"})[2] == BYTES[-3:]
    assert service.ask(path, headers={"Range": "bytes=99999-"})[0] == 416


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Basic",
        "Basic !!!",
        "Basic \u00e4",
        "Bearer top-secret-word",
        "Basic " + base64.b64encode(b"signalbox:").decode(),
        "Basic " + base64.b64encode(b"signalbox:top-secret-wor").decode(),
        "Basic " + base64.b64encode(b"signalbox:top-secret-words").decode(),
        "Basic " + base64.b64encode(b"Signalbox:top-secret-word").decode(),
        "Basic " + base64.b64encode(b"top-secret-word").decode(),
        "Basic " + base64.b64encode(b"\xff\x00" * 2000).decode(),
    ],
)
@pytest.mark.parametrize("path", ["/", "/health", f"/captures/default/{CAPTURE}", "/captures/default/none"])
def test_who_does_not_know_the_login_is_asked_for_it_and_learns_nothing(
    service: Service, authorization: str | None, path: str
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    status, answered, body = service.ask(path, login=None, headers=headers)
    assert status == 401
    assert answered["www-authenticate"] == 'Basic realm="signalbox", charset="UTF-8"'
    assert b"PREFECT_API_AUTH_STRING" in body and b"top-secret" not in body


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1]", "0.0.0.0"]
)
def test_a_name_that_somebody_elses_dns_leads_here_is_refused(service: Service, host: str | None) -> None:
    assert service.ask(f"/captures/default/{CAPTURE}", host=host)[0] == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:4201", "127.0.0.1:9"])
def test_the_machines_own_names_are_answered_whatever_port_a_tunnel_gave_them(service: Service, host: str) -> None:
    assert service.ask(f"/captures/default/{CAPTURE}", host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
def test_files_can_be_fetched_and_nothing_else_done_to_them(service: Service, method: str) -> None:
    status, headers, _ = service.ask(f"/captures/default/{CAPTURE}", method=method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    assert service.store.path(CAPTURE).read_bytes() == BYTES


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/captures",
        "/captures/",
        "/captures/default",
        "/captures/default/",
        "/captures/default/none.pcap",
        "/captures/default/tcpdump",
        "/captures/default/tcpdump/",
        f"/captures/Default/{CAPTURE}",
        f"/captures/../{CAPTURE}",
        "/captures/default/../outside",
        "/captures/default/tcpdump/../../outside",
        "/captures/default/%2e%2e/outside",
        "/captures/default/..%2foutside",
        "/captures/default/%2e%2e%2foutside",
        "/captures/default//etc/passwd",
        "/captures/default/%2fetc%2fpasswd",
        "/captures/default/tcpdump%00/x",
        "/captures/default/%ff%fe",
        "/captures/default/.incoming/x",
        "/captures/default/link",
        "/captures/default/folder/outside",
        "/captures/default/loop",
        "/captures/default/pipe",
        f"/captures/default/{CAPTURE}/more",
        f"/captures/default/{'a' * 300}",
        f"/captures/default/{'a/' * 300}b",
        f"http://evil.example/captures/default/{CAPTURE}x",
    ],
)
def test_what_is_no_file_of_the_store_is_not_there(service: Service, path: str) -> None:
    folder = service.store.folder
    (folder.parent / "outside").write_text("not yours")
    for name, target in (("link", folder.parent / "outside"), ("folder", folder.parent), ("loop", folder / "loop")):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    status, _, body = service.ask(path)
    assert status == 404
    assert body == b"The capture store has no such file, or no longer: signalbox capture list shows what it has.\n"


def test_a_file_that_is_being_sent_is_not_pruned_and_the_next_moment_it_is(service: Service) -> None:
    service.huge("old.pcap", 32 << 20)
    connection = service.begin("old.pcap")
    assert "old.pcap" not in [entry.name for entry in service.store.prune()]
    with connection:
        received = 15
        while piece := connection.recv(1 << 20):
            received += len(piece)
            if received > 32 << 20:
                break
    end = time.monotonic() + 20
    while "old.pcap" not in [entry.name for entry in service.store.prune()]:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert service.ask("/captures/default/old.pcap")[0] == 404


def test_who_takes_nothing_of_a_file_does_not_keep_it_for_ever(service: Service) -> None:
    service.huge("stalled.pcap", 32 << 20)
    with service.begin("stalled.pcap"):
        end = time.monotonic() + 40
        while "stalled.pcap" not in [entry.name for entry in service.store.prune()]:
            assert time.monotonic() < end
            time.sleep(0.1)
    assert re.search(r"GET /captures/default/stalled\.pcap 200 \d+ stalled", service.log())


def test_who_goes_away_in_the_middle_frees_the_file(service: Service) -> None:
    service.huge("left.pcap", 32 << 20)
    service.begin("left.pcap").close()
    end = time.monotonic() + 20
    while "left.pcap" not in [entry.name for entry in service.store.prune()]:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_file_of_any_size_takes_no_memory(service: Service) -> None:
    def peak() -> int:
        [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{service.pid}/status").read_text())
        return int(kilobytes) << 10

    service.ask(f"/captures/default/{CAPTURE}")
    before = peak()
    service.huge("huge.pcap", 256 << 20)
    status, _, body = service.ask("/captures/default/huge.pcap")
    assert (status, len(body)) == (200, 256 << 20)
    assert peak() - before < 32 << 20


def test_its_log_says_who_asked_for_what_without_query_and_login(service: Service) -> None:
    service.ask(f"/captures/default/{CAPTURE}?token=in-the-query")
    service.ask("/captures/default/nobody", login="signalbox:a-wrong-word")
    service.ask("/captures/default/%0aforged%20line")
    log = service.log()
    assert f"127.0.0.1 GET /captures/default/{CAPTURE} 200 {len(BYTES)}\n" in log
    assert re.search(r"GET /captures/default/nobody 401 \d+\n", log)
    assert not re.search("in-the-query|top-secret-word|a-wrong-word|^forged", log, re.MULTILINE)
    assert base64.b64encode(LOGIN.encode()).decode() not in log
