"""A conversation over a kept connection: where it goes, what it repeats, what it pays, and when it gives up."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest

from tasks.core import http
from tasks.core.errors import (
    Busy,
    Forbidden,
    Rejected,
    ToolError,
    Unanswered,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from tasks.core.gate import PinnedUrl
from tasks.core.http import Session

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HANG_UP = b""


@dataclass
class Server:
    """Answers with what it is given, in order, then with 200; an empty answer hangs up. Remembers what it was sent, by connection."""

    answers: list[bytes] = field(default_factory=list)
    requests: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    def session(self, **options: object) -> Session:
        url = f"http://camera.example:{self.port}"
        return Session(url, PinnedUrl(url, "http", "camera.example", self.port, "127.0.0.1"), **options)  # type: ignore[arg-type]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := (await reader.readline()).decode().strip():
                headers: dict[str, str] = {}
                while header := (await reader.readline()).decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append((number, line, headers))
                answer = self.answers.pop(0) if self.answers else OK
                if answer == HANG_UP:
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as listening:
        made.port = listening.sockets[0].getsockname()[1]
        yield made


class Guest:
    """A login that sends the same word whenever it was asked once."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[str], int]] = []
        self.targets: list[str] = []
        self.welcome = 0

    def authorization(self, method: str, target: str) -> str | None:
        self.targets.append(f"{method} {target}")
        return "Word sesame" if self.asked else None

    def challenged(self, challenges: Sequence[str], *, tried: int) -> None:
        self.asked.append((challenges, tried))
        if tried:
            raise Unauthorized("That was not the word.")

    def accepted(self) -> None:
        self.welcome += 1


def status(code: int, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} Whatever", "Content-Length: 4", *headers, "", "said"]
    return "\r\n".join(lines).encode()


async def test_requests_share_a_connection_to_the_pinned_address_and_keep_the_name(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    session = server.session()
    for path in ("/a", "/b"):
        answer = await session.ask("GET", path, query={"q": "1 2&x"})
        assert (answer.status, answer.body) == (200, b"ok")
    await session.aclose()
    assert [(number, line) for number, line, _ in server.requests] == [
        (1, "GET /a?q=1%202%26x HTTP/1.1"),
        (1, "GET /b?q=1%202%26x HTTP/1.1"),
    ]
    assert server.requests[0][2]["host"] == f"camera.example:{server.port}"


async def test_a_kept_connection_that_was_closed_is_replaced_for_what_may_be_repeated(server: Server) -> None:
    session = server.session()
    await session.ask("GET", "/")
    server.answers = [HANG_UP]
    assert (await session.ask("POST", "/read", json={})).body == b"ok"
    assert [number for number, *_ in server.requests] == [1, 1, 2]
    await session.aclose()


async def test_credentials_nobody_accepted_yet_are_not_sent_again(server: Server) -> None:
    guest = Guest()
    session = server.session(login=guest)
    server.answers = [status(401), HANG_UP]
    with pytest.raises(Unreachable):
        await session.ask("GET", "/")
    assert len([1 for *_, headers in server.requests if "authorization" in headers]) == 1


async def test_what_must_not_be_sent_twice_is_not(server: Server) -> None:
    session = server.session()
    await session.ask("GET", "/")
    server.answers = [HANG_UP]
    with pytest.raises(Unanswered, match="may have arrived"):
        await session.ask("POST", "/open-gate", json={}, repeatable=False)
    assert len(server.requests) == 2
    await session.aclose()


async def test_a_new_connection_that_hangs_up_is_not_tried_for_ever(server: Server) -> None:
    server.answers = [HANG_UP, HANG_UP]
    session = server.session()
    with pytest.raises(Unreachable):
        await session.ask("GET", "/")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (401, Unauthorized),
        (403, Forbidden),
        (404, Unsupported),
        (405, Unsupported),
        (410, Unsupported),
        (429, Busy),
        (400, Rejected),
        (500, Busy),
        (503, Busy),
    ],
)
async def test_each_status_of_a_device_says_what_to_do_next(server: Server, code: int, error: type[ToolError]) -> None:
    server.answers = [status(code)]
    with pytest.raises(error) as caught:
        await server.session().ask("GET", "/axis-cgi/x.cgi")
    assert str(code) in str(caught.value)


@pytest.mark.parametrize("to", ["http://198.51.100.7/", "https://camera.example/", "/elsewhere", "http://[bad"])
async def test_no_redirect_is_followed(server: Server, to: str) -> None:
    server.answers = [status(302, f"Location: {to}")]
    with pytest.raises(Rejected) as caught:
        await server.session().ask("GET", "/")
    assert len(server.requests) == 1
    assert ("scheme https" in str(caught.value)) is to.startswith("https")


async def test_credentials_are_sent_after_the_first_demand_and_from_then_on(server: Server) -> None:
    guest = Guest()
    session = server.session(login=guest)
    server.answers = [status(401, "WWW-Authenticate: Word", "WWW-Authenticate: Other")]
    await session.ask("POST", "/a", query={"x": "1"}, json={"a": 1})
    await session.ask("GET", "/b")
    assert [headers.get("authorization") for *_, headers in server.requests] == [None, "Word sesame", "Word sesame"]
    assert guest.asked == [(["Word", "Other"], 0)] and guest.targets[0] == "POST /a?x=1" and guest.welcome == 2
    assert {number for number, *_ in server.requests} == {1}
    await session.aclose()


async def test_a_second_401_is_what_the_login_says(server: Server) -> None:
    guest = Guest()
    server.answers = [status(401), status(401), status(401)]
    with pytest.raises(Unauthorized, match="not the word"):
        await server.session(login=guest).ask("GET", "/")
    assert len(server.requests) == 2 and guest.welcome == 0


async def test_an_anonymous_request_sends_no_credentials(server: Server) -> None:
    guest = Guest()
    guest.asked.append(([], 0))
    server.answers = [status(401)]
    with pytest.raises(Unauthorized, match="wants an account"):
        await server.session(login=guest).ask("GET", "/", anonymous=True)
    assert "authorization" not in server.requests[0][2] and guest.targets == []


async def test_a_device_that_takes_no_connection_does_not_cost_the_whole_timeout(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECT_SECONDS", 0.3)
    async with await asyncio.start_server(lambda *_: asyncio.sleep(5), "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        url = f"https://camera.example:{port}"
        session = Session(url, PinnedUrl(url, "https", "camera.example", port, "127.0.0.1"))
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"within 0\.3 s"):
            await session.ask("GET", "/", timeout=20)
        assert time.monotonic() - began < 3


async def test_every_packet_is_paid_for_and_paying_is_not_waiting_for_the_device(server: Server) -> None:
    paid: list[int] = []

    async def pay(packets: int) -> None:
        paid.append(packets)
        await asyncio.sleep(0.2)

    session = server.session(pay=pay, costs=(4, 8, 3, 1000))
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + b"x" * 9000]
    await session.ask("POST", "/", content=b"y" * 2500, timeout=0.3)
    assert sorted(paid) == [4, 4, 3 + 2]  # a connection; nine segments, every second acknowledged; a request of three
    paid.clear()
    await session.ask("GET", "/", timeout=0.3)
    assert paid == [3]
    await session.aclose()


async def test_a_stream_has_its_own_connection_and_ends_when_its_time_is_up(server: Server) -> None:
    session = server.session()
    await session.ask("GET", "/")
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nfirst"]
    async with session.stream("GET", "/video", seconds=0.4) as stream:
        found = [chunk async for chunk in stream]
    assert (b"".join(found), stream.over, stream.received) == (b"first", True, 5)
    assert (await session.ask("GET", "/")).status == 200
    assert [number for number, *_ in server.requests] == [1, 2, 1]
    await session.aclose()


async def test_a_stream_that_breaks_off_is_unreachable_and_one_that_ends_is_over(server: Server) -> None:
    session = server.session()
    server.answers = [status(503), b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsaid"]
    with pytest.raises(Busy):
        await _read_all(session)
    assert await _read_all(session) == b"said"
    broken = Server(answers=[b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsaid", HANG_UP])

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(broken.answers[0])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as listening:
        broken.port = listening.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match="off after 4 bytes"):
            await _read_all(broken.session())


async def _read_all(session: Session) -> bytes:
    async with session.stream("GET", "/", seconds=5) as stream:
        return b"".join([chunk async for chunk in stream])
