from __future__ import annotations

import hashlib

import pytest

from tasks.network.analyze._ssh_weakness import old_software, weak_chosen, weak_in, weakness
from tasks.network.analyze._ssh_wire import (
    IMPLICIT,
    KexInit,
    Malformed,
    hassh,
    is_strict,
    negotiate,
    parse_banner,
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
