"""`service_identity` against a real sshd, web servers and TLS servers, and against what only pretends to be one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.authority import Authority
from lab.ssh_server import SshServer, needs_sshd

from blocks.policy import ProbePolicy
from tasks.core.errors import InvalidParameters, Refused
from tasks.network.probe import _ssh_host_key as ssh
from tasks.network.probe._certificate import Parsed
from tasks.network.probe._front_page import NoPage, parse, same_server
from tasks.network.probe.http_check import http_check
from tasks.network.probe.service_identity import (
    Identity,
    Reading,
    ServiceIdentityResult,
    parse_endpoint,
    service_identity,
)

Read = Callable[..., Awaitable[Identity]]
UNHURRIED = ProbePolicy(host_packets_per_second=0)


@pytest.fixture
def read(perform: Any) -> Read:
    async def run(endpoint: str, *, policy: ProbePolicy = UNHURRIED, timeout: float = 3) -> Identity:
        result: ServiceIdentityResult = await perform(
            service_identity, {"endpoints": [endpoint], "timeout": timeout}, policy=policy
        )
        assert len(result.services) == 1
        return result.services[0]

    return run


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@contextlib.asynccontextmanager
async def serving(answer: Callable[[bytes], bytes | None], *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that answers what it is sent by a function of it, then closes; None keeps it silent."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            said = answer(await reader.read(65536))
            if said is None:
                await reader.read()  # up to the other side's end
            writer.write(said or b"")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def page(body: bytes, *head: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *head, "", ""]
    return "\r\n".join(lines).encode() + body


# --- SSH -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sshd() -> Iterator[SshServer]:
    with SshServer() as server:
        yield server


@needs_sshd
async def test_the_host_key_is_the_one_ssh_keygen_shows(read: Read, sshd: SshServer) -> None:
    found = await read(f"ssh://127.0.0.1:{sshd.port}")
    assert (found.outcome, found.host_key, found.host_key_kind) == (
        Reading.READ, sshd.fingerprints["ed25519"], "ssh-ed25519",
    )  # fmt: skip
    assert found.banner and found.banner.startswith("SSH-2.0-OpenSSH")
    assert (await read(f"ssh://127.0.0.1:{sshd.port}")).host_key == found.host_key


@needs_sshd
@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("ecdsa", "KexAlgorithms ecdh-sha2-nistp256"),
        ("rsa", "KexAlgorithms diffie-hellman-group14-sha256"),
        ("rsa", "KexAlgorithms diffie-hellman-group14-sha1\nHostKeyAlgorithms ssh-rsa"),
    ],
)
async def test_older_servers_prove_their_keys_too(read: Read, kind: str, line: str) -> None:
    with SshServer(kinds=[kind], lines=[line]) as server:
        found = await read(f"ssh://127.0.0.1:{server.port}")
    assert (found.outcome, found.host_key) == (Reading.READ, server.fingerprints[kind])


@needs_sshd
async def test_a_server_with_which_nothing_can_be_agreed_says_what_it_offers(read: Read) -> None:
    with SshServer(kinds=["rsa"], lines=["KexAlgorithms diffie-hellman-group16-sha512"]) as server:
        found = await read(f"ssh://127.0.0.1:{server.port}")
    assert found.outcome is Reading.OTHER and "group16" in (found.detail or "") and found.host_key is None
    assert found.banner


async def test_a_key_that_is_shown_without_proof_is_not_taken(read: Read) -> None:
    """An impostor knows another server's public key, as everybody does, and shows it."""
    victim = ed25519.Ed25519PrivateKey.generate()
    for honest in (True, False):
        signer = victim if honest else ed25519.Ed25519PrivateKey.generate()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, signer: Any = signer) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await _pose(reader, writer, victim.public_key(), signer)
            writer.close()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        found = await read(f"ssh://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        server.close()
        assert (found.host_key is not None) is honest
        assert honest or (found.outcome is Reading.OTHER and "could not prove" in (found.detail or ""))


async def _pose(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shown: Any, signer: Any) -> None:
    """Be an SSH server with that key, as far as the proof."""
    banner = b"SSH-2.0-pose"
    mine = ssh._kexinit()
    writer.write(banner + b"\r\n" + ssh._packet(mine))
    theirs_banner = (await reader.readline()).rstrip(b"\r\n")

    class Stream:
        async def send(self, data: bytes) -> None:
            writer.write(data)

        async def receive(self, most: int = 0) -> bytes:
            return await reader.read(65536)

    messages = ssh._Reader(Stream())
    theirs = await messages.message(ssh._KEXINIT)
    init = ssh._Fields((await messages.message(ssh._INIT))[1:]).string()
    private = x25519.X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    secret = int.from_bytes(private.exchange(x25519.X25519PublicKey.from_public_bytes(init)), "big")
    key = base64.b64decode(
        shown.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).split()[1]
    )
    parts = [theirs_banner, banner, theirs, mine, key, init, public]
    proof = hashlib.sha256(b"".join(map(ssh._string, parts)) + ssh._mpint(secret)).digest()
    signature = ssh._string(b"ssh-ed25519") + ssh._string(signer.sign(proof))
    reply = bytes([ssh._REPLY]) + ssh._string(key) + ssh._string(public) + ssh._string(signature)
    writer.write(ssh._packet(b"\x02ignore me") + ssh._packet(reply))
    await writer.drain()
    await reader.read()


async def test_a_server_that_only_greets_is_not_waited_for_to_the_end(read: Read) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-trap\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    began = time.monotonic()
    found = await read(f"ssh://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout=25)
    server.close()
    assert (found.outcome, found.banner) == (Reading.OTHER, "SSH-2.0-trap") and "greets" in (found.detail or "")
    assert time.monotonic() - began < 20


class _Bytes:
    """A connection on which certain bytes come."""

    def __init__(self, data: bytes, piece: int = 1 << 20) -> None:
        self._data, self._piece = data, piece

    async def send(self, data: bytes) -> None: ...

    async def receive(self, most: int = 1 << 20) -> bytes:
        head, self._data = self._data[: self._piece], self._data[self._piece :]
        return head


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_no_bytes_of_a_stranger_break_the_key_exchange(data: bytes, piece: int) -> None:
    for start in (b"", b"SSH-2.0-x\r\n", b"SSH-2.0-x\r\n" + ssh._packet(ssh._kexinit())):
        with pytest.raises(ssh.NoHostKey):
            asyncio.run(ssh.read_host_key(_Bytes(start + data, piece)))


@pytest.mark.parametrize(
    ("greeting", "said"),
    [
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", "closed"),
        (b"SSH-1.5-old\r\n", "version 1"),
        (b"x" * 10000, "no SSH server"),
        (b"hello\r\n" * 2000, "no SSH server"),
        (b"welcome\r\nSSH-2.0-x\r\n" + ssh._packet(b"\x01" + bytes(12)), "hung up"),
        (b"SSH-2.0-x\r\n" + ssh._packet(b"\x02") * 50, "no key exchange"),
        (b"SSH-2.0-x\r\n\xff\xff\xff\xff\x04", "no key exchange"),
    ],
    # Its packets are padded at random: without names every worker would know the test by another one.
    ids=["http", "version 1", "no line", "many lines", "hangs up", "chatter", "huge packet"],
)
async def test_what_is_no_ssh_server_is_said(greeting: bytes, said: str) -> None:
    with pytest.raises(ssh.NoHostKey, match=said):
        await ssh.read_host_key(_Bytes(greeting))


# --- web servers ---------------------------------------------------------------------------------------------------------


async def test_title_and_server_of_a_front_page(read: Read) -> None:
    asked: list[bytes] = []

    def answer(request: bytes) -> bytes:
        asked.append(request)
        body = b"<html><head><title>\n AXIS  P3245 &ndash; Live\n</title></head></html>"
        return page(body, "Server: Apache/2.4", "Content-Type: text/html; charset=utf-8")

    async with serving(answer) as port:
        found = await read(f"http://127.0.0.1:{port}")
    assert (found.outcome, found.status, found.server, found.title) == (
        Reading.READ,
        200,
        "Apache/2.4",
        "AXIS P3245 – Live",
    )
    assert (
        len(asked) == 1
        and asked[0].startswith(b"GET / HTTP/1.1\r\n")
        and f"Host: 127.0.0.1:{port}".encode() in asked[0]
    )


async def test_a_redirect_is_followed_once_and_only_within_the_server(read: Read) -> None:
    asked: list[bytes] = []

    def answer(request: bytes) -> bytes:
        path = request.split()[1]
        asked.append(path)
        if path == b"/":
            return page(b"", "Location: /login.html?next=%2F", "Server: thttpd", status="302 Found")
        return page(b"<title>Log in</title>", status="401 Unauthorized")

    async with serving(answer) as port:
        found = await read(f"http://127.0.0.1:{port}")
        assert (found.title, found.server, found.status) == ("Log in", "thttpd", 302)
        assert asked == [b"/", b"/login.html?next=%2F"]

    async with serving(lambda _: page(b"", "Location: https://elsewhere.example/", status="301 Moved")) as port:
        found = await read(f"http://127.0.0.1:{port}")
        assert (found.location, found.title) == ("https://elsewhere.example/", None)


async def test_what_asks_for_a_password_says_for_what(read: Read) -> None:
    head = ['WWW-Authenticate: Digest realm="AXIS_ACCC8E012345", nonce="x"']
    async with serving(lambda _: page(b"no", *head, status="401 Unauthorized")) as port:
        found = await read(f"http://127.0.0.1:{port}")
    assert (found.status, found.realm) == (401, "AXIS_ACCC8E012345")


async def test_https_gives_the_certificate_and_the_page_with_one_connection(read: Read, authority: Authority) -> None:
    connections = 0

    def answer(_: bytes) -> bytes:
        nonlocal connections
        connections += 1
        return page(b"<title>Door</title>")

    async with serving(answer, tls=authority.server("door.example.com", "door")) as port:
        found = await read(f"https://127.0.0.1:{port}")
    assert (found.outcome, found.title, connections) == (Reading.READ, "Door", 1)
    assert found.certificate_names == ["door.example.com", "door"] and found.self_signed is False
    assert found.certificate_sha256 and len(bytes.fromhex(found.certificate_sha256)) == 32
    assert found.certificate_until is not None


async def test_an_expired_certificate_of_old_tls_is_read_all_the_same(read: Read, authority: Authority) -> None:
    old = authority.server("old.example.com", expired=True, maximum=ssl.TLSVersion.TLSv1_2)
    async with serving(lambda _: None, tls=old) as port:
        found = await read(f"tls://127.0.0.1:{port}")
    assert (found.outcome, found.certificate_names, found.title) == (Reading.READ, ["old.example.com"], None)


async def test_a_certificate_nobody_can_read_costs_nothing_but_itself(read: Read, perform: Any, tmp_path: Path) -> None:
    issued = trustme.CA().issue_cert("odd.example.com")
    der = ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())
    # There is no version 4, but there are devices that say so.
    odd = der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020103"), 1)
    file = tmp_path / "odd.pem"
    file.write_bytes(ssl.DER_cert_to_PEM_cert(odd).encode() + issued.private_key_pem.bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    async with serving(lambda _: page(b"<title>Odd</title>"), tls=context) as port:
        found = await read(f"https://127.0.0.1:{port}")
        asked = {"urls": [f"https://127.0.0.1:{port}/"], "verify": False}
        (checked,) = (await perform(http_check, asked, policy=UNHURRIED)).checks
    assert (found.outcome, found.title, found.certificate_sha256) == (Reading.READ, "Odd", None)
    assert (checked.state, checked.title, checked.certificate_days) == ("ok", "Odd", None)
    # An organisation whose name is bits: OpenSSL reads it where they are well made, the library raises TypeError.
    bits = der.replace(bytes.fromhex("060355040a0c"), bytes.fromhex("060355040a03"), 1)
    for other in (odd, bits, b""):
        with pytest.raises(ValueError):  # noqa: PT011 - what it says is the library's
            Parsed(other)


async def test_the_certificate_stays_when_the_page_does_not_come(read: Read, authority: Authority) -> None:
    async with serving(lambda _: None, tls=authority.server("mute.example.com")) as port:
        found = await read(f"https://127.0.0.1:{port}", timeout=1)
    assert (found.outcome, found.certificate_names) == (Reading.READ, ["mute.example.com"])
    assert found.detail and "nothing came" in found.detail


async def test_strangers_text_comes_in_one_line_without_control_characters(read: Read) -> None:
    body = b"<title>\x1b[31mred\x07" + b"x" * 1000 + b"</title>"
    async with serving(lambda _: page(body, "Server: a\x1b[0m\tb")) as port:
        found = await read(f"http://127.0.0.1:{port}")
    assert found.server == "a [0m b"
    assert found.title is not None and found.title.isprintable() and len(found.title) <= 200


# --- what does not answer, or otherwise ----------------------------------------------------------------------------------


async def test_silent_closed_and_other_services_are_told_apart(read: Read, authority: Authority) -> None:
    async with serving(lambda _: None) as port:
        for kind in ("http", "https", "tls", "ssh"):
            found = await read(f"{kind}://127.0.0.1:{port}", timeout=0.5)
            assert found.outcome is Reading.SILENT, found
    async with serving(lambda _: b"220 mail ESMTP\r\n") as port:
        for kind in ("http", "https"):
            found = await read(f"{kind}://127.0.0.1:{port}", timeout=2)
            assert found.outcome is Reading.OTHER and found.detail, found
    found = await read(f"http://127.0.0.1:{port}")
    assert found.outcome is Reading.CLOSED and "refused" in (found.detail or "")


@given(st.binary(max_size=400))
def test_no_bytes_of_a_stranger_break_the_front_page(data: bytes) -> None:
    for head in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n<title>"):
        with contextlib.suppress(NoPage):
            assert parse(head + data).status


@pytest.mark.parametrize("unit", [b"<title>", b"<title ", b"<title></titl", b"</title", b"<"])
def test_the_cost_of_a_front_page_grows_with_its_length_and_not_with_its_square(unit: bytes) -> None:
    body = (unit * 32_000)[:32_000]
    began = time.process_time()
    assert parse(page(body)).title is None
    assert time.process_time() - began < 0.1


def test_titles_are_read_in_the_charset_the_page_names() -> None:
    umlaut = "<title>Tür</title>"
    assert parse(page(umlaut.encode("latin-1"), "Content-Type: text/html; charset=iso-8859-1")).title == "Tür"
    assert parse(page(umlaut.encode())).title == "Tür"
    assert parse(page(b'<meta charset="shift_jis">' + "<title>カメラ</title>".encode("shift_jis"))).title == "カメラ"
    assert parse(page(umlaut.encode("latin-1"), "Content-Type: text/html; charset=nonsense")).title == "Tür"
    for odd in ("punycode", "unicode_escape", "undefined"):
        assert (
            parse(page(rb"<title>a\u0041-b</title>", f"Content-Type: text/html; charset={odd}")).title == r"a\u0041-b"
        )
    assert parse(page(b"<title>a <b> c</title>")).title == "a <b> c"
    chunked = b"6\r\n<title\r\n9\r\n>Door</ti\r\n4\r\ntle>\r\n0\r\n\r\n"
    assert parse(page(chunked, "Transfer-Encoding: chunked")).title == "Door"


@pytest.mark.parametrize(
    "location",
    ["//evil.example/", "http://10.0.0.7:81/", "ftp://10.0.0.7/", "http://[", "/a b", "http://10.0.0.7:99999/"],
)
def test_a_redirect_that_leaves_the_server_is_not_followed(location: str) -> None:
    assert same_server(location, "http", "10.0.0.7", 80) is None


# --- several, and what is refused ----------------------------------------------------------------------------------------


async def test_each_host_has_one_connection_at_a_time_and_each_service_its_answer(perform: Any) -> None:
    now = most = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await reader.read(1000)
        await asyncio.sleep(0.02)
        now -= 1
        writer.write(page(b"<title>one</title>"))
        writer.close()

    servers = [await asyncio.start_server(handle, "127.0.0.1", 0) for _ in range(6)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    endpoints = [f"http://127.0.0.1:{port}" for port in ports] + ["ssh://gone.invalid"]
    result: ServiceIdentityResult = await perform(service_identity, {"endpoints": endpoints}, policy=UNHURRIED)
    for server in servers:
        server.close()
    assert most == 1
    assert [found.outcome for found in result.services] == [Reading.READ] * 6 + [Reading.UNRESOLVED]
    assert result.headline() == "7 services: 6 read, 1 unresolved" and result.reached()


async def test_a_host_or_port_policy_does_not_allow_is_not_touched(read: Read) -> None:
    def answer(_: bytes) -> bytes:
        raise AssertionError("touched")

    async with serving(answer) as port:
        with pytest.raises(Refused):
            await read(f"http://127.0.0.1:{port}", policy=ProbePolicy(allow=["10.0.0.0/8"]))
        with pytest.raises(Refused):
            await read(f"http://127.0.0.1:{port}", policy=ProbePolicy(never_ports=[str(port)]))


@pytest.mark.parametrize(
    "endpoint",
    [
        "10.0.0.7",
        "ftp://10.0.0.7",
        "http://",
        "http://10.0.0.0/24",
        "http://10.0.0.7:0",
        "http://10.0.0.7/page",
        "http://a@b",
    ],
)
async def test_what_names_no_service_is_said_with_what_would_be_right(perform: Any, endpoint: str) -> None:
    with pytest.raises(InvalidParameters, match="endpoints"):
        await perform(service_identity, {"endpoints": [endpoint]})


def test_endpoints_have_one_spelling() -> None:
    assert parse_endpoint("HTTPS://Camera.Example.com/") == "https://camera.example.com:443"
    assert parse_endpoint("ssh://[2001:DB8::1]:2222") == "ssh://[2001:db8::1]:2222"
    assert parse_endpoint(parse_endpoint("tls://10.0.0.7:8883")) == "tls://10.0.0.7:8883"
