"""The parts of ssh_analyzer on bytes: banners, key exchanges, weak algorithms, and what strangers may send."""

from __future__ import annotations

import contextlib
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.network.analyze._ssh import report
from tasks.network.analyze._ssh_book import SshBook
from tasks.network.analyze._ssh_stream import SshStream
from tasks.network.analyze._ssh_weakness import old_software, weak_chosen, weak_in, weakness
from tasks.network.analyze._ssh_wire import (
    IMPLICIT,
    KexInit,
    Malformed,
    hassh,
    is_strict,
    negotiate,
    parse_banner,
    parse_host_key,
    parse_kexinit,
    smallest_packet,
    terrapin_modes,
)


def offer(kex: str, host_key: str, cipher: str, mac: str, compression: str = "none") -> KexInit:
    lists = [tuple(text.split(",")) for text in (kex, host_key, cipher, cipher, mac, mac, compression, compression)]
    return KexInit(*lists)


def packed(given: KexInit) -> bytes:
    lists = [",".join(getattr(given, name)).encode() for name in KexInit.__dataclass_fields__]
    body = b"".join(len(names).to_bytes(4, "big") + names for names in [*lists, b"", b""])
    return b"\x14" + bytes(16) + body + bytes(5)


MODERN = offer(
    "curve25519-sha256,kex-strict-c-v00@openssh.com", "ssh-ed25519", "chacha20-poly1305@openssh.com,aes128-ctr",
    "hmac-sha2-256-etm@openssh.com",
)  # fmt: skip


def test_a_kexinit_is_read_as_it_was_written() -> None:
    assert parse_kexinit(packed(MODERN)) == MODERN


def test_hassh_is_the_md5_of_four_lists() -> None:
    text = (
        "curve25519-sha256,kex-strict-c-v00@openssh.com;chacha20-poly1305@openssh.com,aes128-ctr;"
        "hmac-sha2-256-etm@openssh.com;none"
    )
    assert hassh(MODERN) == hashlib.md5(text.encode()).hexdigest()


@pytest.mark.parametrize("cut", [0, 1, 16, 17, 20, 30, 60])
def test_a_kexinit_that_is_cut_off_is_malformed(cut: int) -> None:
    with pytest.raises(Malformed):
        parse_kexinit(packed(MODERN)[:cut])


def test_the_clients_first_choice_that_the_server_has_is_taken() -> None:
    server = offer("ext-info-s,diffie-hellman-group14-sha1,curve25519-sha256", "rsa-sha2-512,ssh-ed25519", "aes128-ctr,aes256-cbc",
                   "hmac-sha1,hmac-sha2-256-etm@openssh.com")  # fmt: skip
    chosen = negotiate(MODERN, server)
    assert (chosen.kex, chosen.host_key, chosen.cipher_to_server, chosen.mac_to_client) == (
        "curve25519-sha256", "ssh-ed25519", "aes128-ctr", "hmac-sha2-256-etm@openssh.com",
    )  # fmt: skip
    assert chosen.complete
    assert not negotiate(MODERN, offer("x", "y", "aes128-ctr", "hmac-sha1")).complete
    assert negotiate(MODERN, MODERN).mac_to_server == IMPLICIT
    # What only signals is no algorithm.
    signals = offer("ext-info-c,kex-strict-c-v00@openssh.com,curve25519-sha256", "b", "c", "d")
    assert negotiate(signals, signals).kex == "curve25519-sha256"


def test_terrapin_needs_a_mode_it_works_on_and_a_side_that_is_not_strict() -> None:
    strict = offer(
        "curve25519-sha256,kex-strict-s-v00@openssh.com", "ssh-ed25519", "chacha20-poly1305@openssh.com", "hmac-sha1"
    )
    lax = offer("curve25519-sha256", "ssh-ed25519", "chacha20-poly1305@openssh.com", "hmac-sha1")
    assert is_strict(MODERN, strict) and not is_strict(MODERN, lax) and not is_strict(lax, strict)
    assert terrapin_modes(negotiate(MODERN, lax)) == ["chacha20-poly1305@openssh.com"]
    etm = offer("a", "b", "aes128-cbc", "hmac-sha2-256-etm@openssh.com")
    assert terrapin_modes(negotiate(etm, etm)) == ["aes128-cbc with hmac-sha2-256-etm@openssh.com"]
    ctr = offer("a", "b", "aes128-ctr", "hmac-sha2-256-etm@openssh.com")
    assert terrapin_modes(negotiate(ctr, ctr)) == []


def test_weak_algorithms_are_told_by_their_names() -> None:
    old = offer("diffie-hellman-group1-sha1", "ssh-rsa,ssh-dss", "aes128-cbc,arcfour", "hmac-md5-96")
    assert [name for _, name, _ in weak_in(old)] == [
        "arcfour", "ssh-dss", "diffie-hellman-group1-sha1", "hmac-md5-96", "ssh-rsa", "aes128-cbc",
    ]  # fmt: skip
    assert weak_in(MODERN) == []
    assert weakness("host key", "rsa-sha2-256") is None
    assert weakness("host key", "ssh-rsa-cert-v01@openssh.com") is not None
    # A MAC of "none" is no weakness beside a cipher that authenticates by itself.
    aead = offer("a", "b", "aes128-gcm@openssh.com", "none")
    assert weak_chosen(negotiate(aead, aead)) == []


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        (b"SSH-2.0-OpenSSH_5.3", "medium"),
        (b"SSH-2.0-OpenSSH_7.9p1 Debian-10", "low"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10", "info"),
        (b"SSH-2.0-OpenSSH_9.2p1", "medium"),
        (b"SSH-2.0-OpenSSH_9.8p1", None),
        (b"SSH-2.0-dropbear_2014.63", "high"),
        (b"SSH-2.0-libssh_0.8.1", "high"),
        (b"SSH-2.0-libssh_0.10.5", None),
        (b"SSH-2.0-Go", None),
        (b"SSH-2.0-OpenSSH_", None),
    ],
)
def test_old_software_is_told_by_its_banner(line: bytes, severity: str | None) -> None:
    found = old_software(parse_banner(line))
    assert (found.severity.value if found else None) == severity


@pytest.mark.parametrize(
    ("cipher", "mac", "size"),
    [
        ("chacha20-poly1305@openssh.com", IMPLICIT, 28),
        ("aes256-gcm@openssh.com", IMPLICIT, 36),
        ("aes128-ctr", "hmac-sha2-256-etm@openssh.com", 52),
        ("aes128-ctr", "hmac-sha2-256", 48),
        ("aes128-cbc", "hmac-sha1-96", 28),
        ("3des-cbc", "hmac-sha1-etm@openssh.com", 32),
        ("aes128-ctr", "unheard-of", None),
    ],
)
def test_the_smallest_packet_is_counted(cipher: str, mac: str, size: int | None) -> None:
    assert smallest_packet(cipher, mac) == size


# --- what strangers may send ------------------------------------------------------------------------------------------


def framed(payload: bytes, padding: int = 6) -> bytes:
    return (1 + len(payload) + padding).to_bytes(4, "big") + bytes([padding]) + payload + bytes(padding)


TALK = [
    (True, b"SSH-2.0-OpenSSH_9.9\r\n"),
    (False, b"hello\r\nSSH-2.0-OpenSSH_9.9\r\n"),
    (True, framed(packed(MODERN))),
    (False, framed(packed(MODERN))),
    (True, framed(b"\x1e" + bytes(36))),
    (False, framed(b"\x1f" + (51).to_bytes(4, "big") + b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32) + bytes(80))),
    (False, framed(b"\x15")),
    (True, framed(b"\x15")),
    *[
        (True, bytes(44)),
        (False, bytes(44)),
        (True, bytes(60)),
        (False, bytes(52)),
        (True, bytes(60)),
        (False, bytes(52)),
    ],
]


def played(pieces: list[tuple[bool, bytes]], gaps: dict[int, int]) -> SshStream:
    book = SshBook()
    stream = SshStream(("10.0.0.1", 5000), ("10.0.0.2", 22), 0, book)
    for number, (from_client, data) in enumerate(pieces):
        if number in gaps:
            stream.gap(from_client, gaps[number], number, number)
        if data:
            stream.data(from_client, data, number, number + 1)
    stream.end(["fin", "rst", "capture"][len(pieces) % 3], len(pieces), len(pieces))
    book.finish()
    json.dumps(report(book, 20), default=str)
    return stream


def test_the_talk_of_these_tests_is_understood() -> None:
    stream = played(TALK, {})
    assert (
        stream.sealed and stream.host_key is not None and stream.host_key.kind == "ssh-ed25519" and not stream.malformed
    )
    assert (stream.refusals, stream.attempts, stream.turns) == (2, 1, 3)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.one_of(st.binary(max_size=80), st.sampled_from([data for _, data in TALK]))),
        max_size=14,
    ),
    st.dictionaries(st.integers(0, 13), st.integers(1, 5000), max_size=3),
)
def test_anything_may_be_sent_in_any_order(pieces: list[tuple[bool, bytes]], gaps: dict[int, int]) -> None:
    played(pieces, gaps)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_never_fail(changes: list[tuple[int, int, int]]) -> None:
    talk = [(side, bytearray(data)) for side, data in TALK]
    for message, at, value in changes:
        talk[message][1][at % len(talk[message][1])] = value
    played([(side, bytes(data)) for side, data in talk], {})


@given(st.binary(max_size=200))
def test_packets_and_keys_are_read_or_refused(data: bytes) -> None:
    for parse in (parse_kexinit, parse_host_key, parse_banner):
        with contextlib.suppress(Malformed):
            parse(data)
    with contextlib.suppress(Malformed):
        parse_kexinit(b"\x14" + bytes(16) + data)


def test_banners_are_written_without_anything_a_terminal_obeys() -> None:
    assert parse_banner(b"SSH-2.0-x\x1b[31m \xff").line == "SSH-2.0-x\\x1b[31m \\xff"


def test_endless_words_before_a_banner_and_huge_packets_are_given_up() -> None:
    book = SshBook()
    stream = SshStream(("10.0.0.1", 5000), ("10.0.0.2", 22), 0, book)
    for number in range(100):
        stream.data(False, b"a" * 1400, number, number)
        stream.data(True, b"b\n" * 700, number, number)
    assert stream.client.lost and stream.server.lost and not stream.server.head
    stream = SshStream(("10.0.0.1", 5000), ("10.0.0.2", 22), 0, book)
    stream.data(True, b"SSH-2.0-a\r\n" + (200_000).to_bytes(4, "big") + bytes([8]) + bytes(100), 1, 1)
    for number in range(150):
        stream.data(True, bytes(1400), number, number)
    assert not stream.client.head and stream.client.skip == 0 and stream.malformed  # what followed the packet was none


def test_a_long_packet_before_encryption_is_passed_over() -> None:
    stream = SshStream(("10.0.0.1", 5000), ("10.0.0.2", 22), 0, SshBook())
    sent = b"SSH-2.0-a\r\n" + framed(b"\x02" + bytes(100_000)) + framed(packed(MODERN))
    for at in range(0, len(sent), 1400):
        stream.data(True, sent[at : at + 1400], at, at)
        assert len(stream.client.head) < 70_000
    assert stream.client.offer == MODERN
