"""ssh_analyzer: OpenSSH and asyncssh on loopback, what tshark says about them, and peers as old as nobody runs them any more."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.captures import CaptureStore
from tasks.core import process
from tasks.core.errors import InvalidParameters, NotFound
from tasks.network.analyze._selection import ALL, Selection
from tasks.network.analyze._ssh import dissect
from tasks.network.analyze.ssh_analyzer import SshReport, ssh_analyzer
from tests.lab.agreement import generated, ports_of, saved, talked
from tests.lab.captures import (
    NOON_NS,
    VARIANTS,
    Capture,
    Packet,
    cut,
    merged,
    needs_tshark,
    recording,
    tcp_talk,
    tshark_fields,
    write_pcap,
)

Perform = Callable[..., Awaitable[Any]]
Talk = list[tuple[bool, bytes]]
SSHD = shutil.which("sshd", path=process.search_path())

needs_sshd = pytest.mark.skipif(
    os.geteuid() != 0 or SSHD is None or shutil.which("tcpdump", path=process.search_path()) is None,
    reason="needs sshd, tcpdump and root",
)


# --- SSH as bytes -----------------------------------------------------------------------------------------------------


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def packet(payload: bytes) -> bytes:
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    return (1 + len(payload) + padding).to_bytes(4, "big") + bytes([padding]) + payload + bytes(padding)


def kexinit(kex: str, host_key: str, cipher: str, mac: str, compression: str = "none") -> bytes:
    lists = [kex, host_key, cipher, cipher, mac, mac, compression, compression, "", ""]
    return packet(b"\x14" + bytes(16) + b"".join(string(names.encode()) for names in lists) + bytes(5))


NEWKEYS = packet(b"\x15")
MODERN = (
    "curve25519-sha256,kex-strict-{}-v00@openssh.com", "ssh-ed25519", "chacha20-poly1305@openssh.com", "hmac-sha2-256",
)  # fmt: skip


def reply(key: bytes) -> bytes:
    return packet(b"\x1f" + string(key) + string(bytes(32)) + string(bytes(64)))


def ed25519(number: int) -> bytes:
    return string(b"ssh-ed25519") + string(bytes([number]) * 32)


def opening(
    client: tuple[str, str, str, str] = MODERN,
    server: tuple[str, str, str, str] = MODERN,
    *,
    banners: tuple[bytes, bytes] = (b"SSH-2.0-OpenSSH_9.9", b"SSH-2.0-OpenSSH_9.9"),
    key: bytes = b"",
) -> Talk:
    """A key exchange; the `{}` of a list is `c` or `s`."""
    return [
        (True, banners[0] + b"\r\n"),
        (False, banners[1] + b"\r\n"),
        (True, kexinit(*(text.format("c") for text in client))),
        (False, kexinit(*(text.format("s") for text in server))),
        (True, packet(b"\x1e" + string(bytes(32)))),
        (False, reply(key or ed25519(1)) + NEWKEYS),
        (True, NEWKEYS),
    ]


ASK, ACCEPT, TRY, REFUSE, CONSENT = (bytes(size) for size in (44, 44, 148, 52, 28))


def login(refused: int, accepted: bool) -> Talk:
    """What a login looks like with chacha20-poly1305: extensions, the service, the question for methods, attempts."""
    talk: Talk = [(False, bytes(408)), (True, ASK), (False, ACCEPT)]
    for _ in range(refused + 1):
        talk += [(True, TRY), (False, REFUSE)]
    if accepted:
        talk += [(True, TRY), (False, CONSENT), (True, bytes(112)), (False, bytes(5000))]
    return talk


def read(packets: list[Packet] | Capture, path: Path, selection: Selection = ALL, top: int = 200) -> dict[str, Any]:
    capture = packets if isinstance(packets, Capture) else Capture(packets)
    return dissect(str(write_pcap(capture, path / "a.pcap")), selection, top)


def found(report: dict[str, Any]) -> dict[str, str]:
    return {finding.code: finding.severity.value for finding in report["findings"]}


def talk(messages: Talk, number: int = 0, **options: Any) -> list[Packet]:
    options = {"server_port": 22, "client_port": 50_000 + number, "start_ns": NOON_NS + number * 2_010_000, **options}
    return tcp_talk(messages, **options)


def agree(path: Path) -> dict[str, Any]:
    """Compare what is found in a capture with what tshark finds, and return it.

    tshark takes the bytes after NEWKEYS for messages where the cipher leaves their length readable, so only banners and KEXINITs
    are compared: it names both by the frame where they end, and so do we.
    """
    report = dissect(str(path), ALL, 100_000, 1 << 30)
    decode = [f"tcp.port=={port},ssh" for port in ports_of(report, [22])]
    assert Counter(
        line for row in report["sessions"] for line in (row["client_banner"], row["server_banner"]) if line
    ) == Counter(row[0] for row in tshark_fields(path, "ssh.protocol", "ssh.protocol", decode_as=decode))
    rows = tshark_fields(
        path, "ssh.message_code == 20 && ssh.kex_algorithms", "ssh.kex.hassh", "ssh.kex.hasshserver", "ssh.kex_algorithms",
        "ssh.server_host_key_algorithms", "ssh.encryption_algorithms_client_to_server", "ssh.mac_algorithms_server_to_client",
        decode_as=decode,
    )  # fmt: skip
    assert Counter(row["hassh"] for row in report["sessions"] if row["hassh"]) == Counter(
        row[0] for row in rows if row[0]
    )
    assert Counter(row["hassh_server"] for row in report["sessions"] if row["hassh_server"]) == Counter(
        row[1] for row in rows if row[1]
    )
    for kind, column in (("kex", 2), ("host_key", 3), ("cipher_to_server", 4), ("mac_to_client", 5)):
        offered = Counter(name for row in rows if row[1] for name in row[column].split(","))
        ours = {row["name"]: row["offered"] for row in report["algorithms"] if row["kind"] == kind and row["offered"]}
        assert ours == offered
    return report


# --- captures made by hand --------------------------------------------------------------------------------------------


def mixed() -> list[Packet]:
    old = (
        "diffie-hellman-group1-sha1,diffie-hellman-group14-sha1",
        "ssh-rsa",
        "aes128-cbc,3des-cbc",
        "hmac-md5,hmac-sha1",
    )
    return merged(
        talk(opening() + login(0, accepted=True)),
        talk(opening() + login(2, accepted=False), 1),
        talk(opening(old, old, banners=(b"SSH-2.0-PuTTY_Release_0.60", b"SSH-1.99-OpenSSH_3.9p1")), 2, server_port=2022),
        talk(
            [(False, b"Welcome\r\nto a lab\r\n"), *opening(banners=(b"SSH-2.0-Go", b"SSH-2.0-dropbear_2022.83"))], 3,
            server="10.0.0.9",
        ),
    )  # fmt: skip


@needs_tshark
def test_banners_and_key_exchanges_are_read_as_tshark_reads_them(tmp_path: Path) -> None:
    report = agree(write_pcap(Capture(mixed()), tmp_path / "a.pcap"))
    assert report["conversations"] == report["encrypted"] == 4 and report["servers_seen"] == 3
    assert report["logins"] == {"accepted": 1, "refused": 1, "unknown": 2, "refused_attempts": 2}
    assert {row["software"] for row in report["software"] if row["role"] == "server"} == {
        "OpenSSH_9.9", "OpenSSH_3.9p1", "dropbear_2022.83",
    }  # fmt: skip
    ancient = next(row for row in report["sessions"] if row["server"].endswith(":2022"))
    assert (ancient["kex"], ancient["host_key"], ancient["cipher"], ancient["mac"], ancient["strict"]) == (
        "diffie-hellman-group1-sha1", "ssh-rsa", "aes128-cbc", "hmac-md5", False,
    )  # fmt: skip
    assert found(report) == {
        "ssh.version-1": "medium", "ssh.old-software": "medium", "ssh.weak-algorithm": "low", "ssh.weak-offer": "low",
        "ssh.other-port": "info", "ssh.refused-login": "info",
    }  # fmt: skip
    weak = {(f.severity.value, f.what.rpartition(" ")[2]) for f in report["findings"] if f.code == "ssh.weak-algorithm"}
    assert weak == {
        ("high", "diffie-hellman-group1-sha1."), ("medium", "ssh-rsa."), ("low", "aes128-cbc."), ("medium", "hmac-md5."),
    }  # fmt: skip


@needs_tshark
def test_key_exchanges_of_any_kind_have_the_fingerprints_that_tshark_gives_them(tmp_path: Path) -> None:
    chance = random.Random(7)
    names = [*MODERN, "ext-info-c", "none", "zlib@openssh.com", "x" * 60, "aes128-ctr", "a-b_c.d@e"]

    def lists() -> list[str]:
        return [",".join(chance.sample(names, chance.randint(1, 6))) for _ in range(5)]

    talks = [
        talk(
            [
                (True, b"SSH-2.0-c%d x y\r\n" % number), (False, b"SSH-2.0-s%d\n" % number),
                (True, kexinit(*lists())), (False, kexinit(*lists())),
            ],
            number, segment_size=chance.choice([50, 1400]),
        )
        for number in range(60)
    ]  # fmt: skip
    report = agree(write_pcap(Capture(merged(*talks)), tmp_path / "a.pcap"))
    assert report["conversations"] == 60 and len({row["hassh"] for row in report["sessions"]}) > 50


algorithms = st.lists(
    st.sampled_from([*MODERN, "ext-info-c", "none", "aes128-ctr", "x" * 60]), min_size=1, max_size=4, unique=True
)


@st.composite
def openings(draw: st.DrawFn) -> Talk:
    name = st.text("abcXYZ019._ ", min_size=1, max_size=30).map(lambda text: b"SSH-2.0-x" + text.strip().encode())
    talk: Talk = [(True, draw(name) + b"\r\n"), (False, draw(name) + draw(st.sampled_from([b"\r\n", b"\n"])))]
    if draw(st.booleans()):
        talk += [(who, kexinit(*(",".join(draw(algorithms)) for _ in range(4)))) for who in (True, False)]
    return talk


@needs_tshark
@generated()
@given(talked(openings(), [22, 2022]))
def test_made_up_openings_are_read_as_tshark_reads_them(
    tmp_path_factory: pytest.TempPathFactory, packets: list[Any]
) -> None:
    agree(saved(packets, tmp_path_factory.mktemp("made") / "a.pcap"))


PACKETS = mixed()


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_said_does_not_depend_on_the_kind_of_capture(variant: str, tmp_path: Path) -> None:
    VARIANTS[variant](Capture(PACKETS), tmp_path / "variant")
    plain, other = read(PACKETS, tmp_path), dissect(str(tmp_path / "variant"), ALL, 200)
    for report in (plain, other):
        del report["coverage"]
        for session in report["sessions"]:
            del session["started_at"], session["seconds"]
    assert plain == other and plain["conversations"] == 4


@pytest.mark.parametrize("segment", [1, 3, 7, 100])
@pytest.mark.unlike_tshark("it does not put a banner together from several segments")
def test_a_key_exchange_in_pieces_is_put_together(segment: int, tmp_path: Path) -> None:
    whole, pieces = (read(talk(opening(), segment_size=size), tmp_path) for size in (1400, segment))
    for name in ("algorithms", "fingerprints", "servers", "encrypted"):
        assert whole[name] == pieces[name]


@pytest.mark.parametrize(
    ("client", "server", "finding"),
    [
        (("curve25519-sha256", *MODERN[1:]), MODERN, "the client"),
        (MODERN, ("curve25519-sha256", *MODERN[1:]), "the server"),
        ((*MODERN[:2], "aes256-gcm@openssh.com", "x"), ("curve25519-sha256", "ssh-ed25519", "aes256-gcm@openssh.com", "x"), None),
        (("a", "b", "aes128-cbc", "hmac-sha2-256-etm@openssh.com"),) * 2 + ("the client and the server",),
        (MODERN, MODERN, None),
    ],
)  # fmt: skip
def test_terrapin_is_found_where_a_side_does_not_prevent_it(
    client: tuple[str, str, str, str], server: tuple[str, str, str, str], finding: str | None, tmp_path: Path
) -> None:
    report = read(talk(opening(client, server)), tmp_path)
    sentences = [found.what for found in report["findings"] if found.code == "ssh.terrapin"]
    assert [finding in what for what in sentences] == ([True] if finding else [])


def test_two_host_keys_of_one_server_are_found(tmp_path: Path) -> None:
    same = merged(talk(opening(key=ed25519(1))), talk(opening(key=ed25519(1)), 1))
    other = merged(talk(opening(key=ed25519(1))), talk(opening(key=ed25519(2)), 1))
    assert "ssh.host-key-changed" not in found(read(same, tmp_path))
    report = read(other, tmp_path)
    assert found(report)["ssh.host-key-changed"] == "high"
    assert report["servers"][0]["host_keys"][0]["kind"] == "ssh-ed25519"


def test_short_host_keys_and_groups_are_found(tmp_path: Path) -> None:
    def key(bits: int) -> bytes:
        return string(b"ssh-rsa") + string(b"\1\0\1") + string((1 << (bits - 1)).to_bytes(bits // 8 + 1, "big"))

    lists = ("diffie-hellman-group-exchange-sha256", "rsa-sha2-256", "aes128-ctr", "hmac-sha2-256")
    begin = opening(lists, lists)[:4]
    group = packet(b"\x1f" + string((1 << 1023).to_bytes(129, "big")) + string(b"\2"))
    answer = packet(b"\x21" + string(key(1024)) + string(bytes(32)) + string(bytes(64)))
    messages = [*begin, (True, packet(b"\x22" + bytes(12))), (False, group), (True, packet(b"\x20" + string(bytes(8))))]
    report = read(talk([*messages, (False, answer + NEWKEYS), (True, NEWKEYS)]), tmp_path)
    assert found(report)["ssh.weak-group"] == found(report)["ssh.weak-host-key"] == "high"
    assert report["servers"][0]["host_keys"][0]["bits"] == 1024


def test_sides_that_have_nothing_in_common_are_found(tmp_path: Path) -> None:
    report = read(
        talk(opening(server=("diffie-hellman-group1-sha1", "ssh-ed25519", "3des-cbc", "hmac-sha1"))[:4]), tmp_path
    )
    (finding,) = [finding for finding in report["findings"] if finding.code == "ssh.no-agreement"]
    assert "kex, cipher to server" in finding.what


def test_ssh_1_is_reported_and_not_read(tmp_path: Path) -> None:
    report = read(talk([(False, b"SSH-1.5-Cisco-1.25\n"), (True, b"SSH-1.5-old\n"), (False, bytes(267))]), tmp_path)
    assert found(report)["ssh.version-1"] == "critical" and report["protocols"] == [{"name": "1.5", "count": 2}]


def test_guessing_is_found_by_how_often_and_how_fast(tmp_path: Path) -> None:
    refused = opening() + login(2, accepted=False)
    fast = merged(*(talk(refused, number, start_ns=NOON_NS + number * 10**9) for number in range(6)))
    report = read(fast, tmp_path)
    (finding,) = [finding for finding in report["findings"] if finding.code == "ssh.brute-force"]
    assert finding.severity == "high" and finding.count == len(finding.frames) == 6
    assert "10.0.0.1 guesses its way into 10.0.0.2:22: about 12 refused attempts, 6 connections" in finding.what
    assert report["clients"][0]["refused"] == 6 and report["sessions"][0]["login"] == "refused"
    slow = merged(
        *(talk(opening() + login(1, accepted=False), number, start_ns=NOON_NS + number * 10**12) for number in range(6))
    )
    assert found(read(slow, tmp_path)) == {"ssh.refused-login": "info"}
    # And then one goes through.
    hit = talk(opening() + login(0, accepted=True), 9, start_ns=NOON_NS + 20 * 10**9)
    assert found(read(merged(fast, hit), tmp_path))["ssh.brute-force-succeeded"] == "critical"
    assert "ssh.brute-force-succeeded" not in found(read(merged(slow, hit), tmp_path))


def test_one_client_that_is_refused_everywhere_is_found(tmp_path: Path) -> None:
    refused = opening() + login(1, accepted=False)
    spray = merged(*(talk(refused, number, server=f"10.0.0.{20 + number}") for number in range(6)))
    assert found(read(spray, tmp_path))["ssh.spraying"] == "high"


def test_many_connections_without_a_key_exchange_are_found(tmp_path: Path) -> None:
    banners = opening()[:2]
    assert found(read(merged(*(talk(banners, number) for number in range(12))), tmp_path)) == {"ssh.scan": "low"}


@pytest.mark.parametrize("farewell", ["fin", "rst", "none"])
def test_a_login_that_was_refused_needs_an_end_to_be_judged(farewell: str, tmp_path: Path) -> None:
    report = read(talk(opening() + login(1, accepted=False), farewell=farewell), tmp_path)
    assert report["sessions"][0]["login"] == ("unknown" if farewell == "none" else "refused")
    assert report["sessions"][0]["refused_attempts"] == 1


def test_what_is_missing_or_cut_off_is_said(tmp_path: Path) -> None:
    packets = talk(opening() + login(1, accepted=False))
    report = read([*packets[:9], *packets[10:]], tmp_path)  # without the server's KEXINIT
    assert report["conversations"] == 1 and report["encrypted"] == 0 and report["logins"]["unknown"] == 1
    assert "bytes are missing" in " ".join(report["coverage"]["notes"])
    report = read(cut(Capture(packets), 120), tmp_path)
    assert report["sessions"][0]["server_banner"] == "SSH-2.0-OpenSSH_9.9" and report["coverage"]["truncated"]
    report = read(talk(login(1, accepted=False)[1:], handshake=False), tmp_path)
    assert report["without_banner"] == 1 and report["conversations"] == 0
    assert "began before the capture" in report["coverage"]["notes"][0]


def test_host_port_and_time_narrow_the_capture_and_tables_are_capped(tmp_path: Path) -> None:
    packets = merged(*(talk(opening(), number, server=f"10.0.0.{20 + number}") for number in range(9)))
    assert read(packets, tmp_path, Selection(addresses=("10.0.0.23",)))["conversations"] == 1
    assert read(packets, tmp_path, Selection(port=23))["conversations"] == 0
    report = read(packets, tmp_path, top=4)
    assert len(report["servers"]) == len(report["sessions"]) == 4 and report["servers_seen"] == 9


# --- real servers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """OpenSSH's server on loopback with keys of its own: nobody's password is right, one key is."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication yes\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        "PidFile none\nMaxStartups 50\nCiphers +aes128-cbc\nKexAlgorithms +diffie-hellman-group14-sha1\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # its privilege separation asks for it
    assert SSHD is not None
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            subprocess.run(["sleep", "0.05"], check=True)
        yield port, tmp_path
    finally:
        server.terminate()
        server.wait(5)


@needs_sshd
@needs_tshark
@pytest.mark.lab
async def test_real_logins_are_judged_by_their_sizes(sshd: tuple[int, Path], perform: Perform) -> None:
    port, folder = sshd
    askpass = folder / "askpass"
    askpass.write_text("#!/bin/sh\necho wrong\n")
    askpass.chmod(0o755)

    async def fail(**options: Any) -> None:
        with pytest.raises(asyncssh.PermissionDenied):
            await asyncssh.connect(
                "127.0.0.1", port, username="nobody", password="wrong", known_hosts=None, client_keys=None, config=None, **options
            )  # fmt: skip

    async def enter(**options: Any) -> None:
        async with asyncssh.connect(
            "127.0.0.1", port, username="root", client_keys=[str(folder / "user")], known_hosts=None, config=None, **options
        ) as client:  # fmt: skip
            assert len(str((await client.run("seq 1 5000")).stdout)) > 20_000

    def openssh(*options: str) -> int:
        command = [
            "ssh",
            "-F",
            "none",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-p",
            str(port),
        ]
        command += [*options, "root@127.0.0.1", "true"]
        environment = {**os.environ, "SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
        return subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False).returncode

    store = CaptureStore(folder=folder / "evidence")
    path = store.new("lab/ssh.pcap")
    async with recording(path, f"tcp port {port}"):
        await fail()
        await fail(encryption_algs=["aes128-ctr"], mac_algs=["hmac-sha2-256"])
        await fail(encryption_algs=["aes256-gcm@openssh.com"])
        await fail(encryption_algs=["aes128-cbc"], mac_algs=["hmac-sha2-512-etm@openssh.com"])
        await enter()
        await enter(encryption_algs=["aes256-ctr"], mac_algs=["hmac-sha1"], kex_algs=["diffie-hellman-group14-sha1"])
        # Three prompts, so three attempts in one connection.
        assert await asyncio.to_thread(openssh, "-o", "PubkeyAuthentication=no") == 255
        assert await asyncio.to_thread(openssh, "-o", "IdentitiesOnly=yes", "-i", str(folder / "user")) == 0
    store.commit(path)
    report: SshReport = await perform(ssh_analyzer, {"capture": "lab/ssh.pcap", "top": 50}, store=store)
    assert report.logins.model_dump() == {"accepted": 3, "refused": 5, "unknown": 0, "refused_attempts": 7}
    assert (report.conversations, report.encrypted, report.servers_seen) == (8, 8, 1)
    codes = {finding.code: finding.severity.value for finding in report.findings}
    assert codes["ssh.brute-force"] == "high" and codes["ssh.brute-force-succeeded"] == "critical"
    assert codes["ssh.weak-algorithm"] == "low" and codes["ssh.other-port"] == "info"
    own = asyncssh.read_public_key(folder / "host.pub").get_fingerprint()
    assert [key.fingerprint for key in report.servers[0].host_keys] == [own]
    assert "AsyncSSH" in str(report.clients[0].banners) and "OpenSSH" in str(report.clients[0].banners)
    entered = next(row for row in report.sessions if row.kex == "diffie-hellman-group14-sha1")
    assert entered.login == "accepted" and entered.server_bytes > 20_000 and entered.mac == "hmac-sha1"
    assert report.headline().startswith("8 SSH conversations, 1 server, 5 with refused logins; ")
    agree(store.path("lab/ssh.pcap"))


async def test_a_capture_that_is_not_there_or_none_is_refused(perform: Perform, tmp_path: Path) -> None:
    store = CaptureStore(folder=tmp_path / "evidence")
    store.write("notes/a.txt", b"nothing of this is a capture")
    with pytest.raises(NotFound):
        await perform(ssh_analyzer, {"capture": "lab/none.pcap"}, store=store)
    with pytest.raises(InvalidParameters):
        await perform(ssh_analyzer, {"capture": "notes/a.txt"}, store=store)
