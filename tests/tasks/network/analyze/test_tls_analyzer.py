from __future__ import annotations

import hashlib
import subprocess

import pytest

from tasks.network.analyze._ja import ja3, ja3_text, ja3s, ja4
from tasks.network.analyze._tls_hello import ClientHello, ServerHello
from tasks.network.analyze._tls_names import is_grease, suites
from tasks.network.analyze._tls_weakness import weaknesses


def _codes(text: str) -> tuple[int, ...]:
    return tuple(int(code, 16) for code in text.split(","))


def test_ja3_is_that_of_its_authors_examples() -> None:
    # https://github.com/salesforce/ja3, README: "769,47-53-5-10-49161-...,0-10-11,23-24-25,0" and one without extensions.
    hello = ClientHello(
        version=769,
        suites=(47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4),
        extensions=(0, 10, 11),
        groups=(23, 24, 25),
        point_formats=b"\0",
    )
    assert ja3(hello) == "ada70206e40642a3e4461f35503241d5"
    bare = ClientHello(version=769, suites=(4, 5, 10, 9, 100, 98, 3, 6, 19, 18, 99))
    assert ja3_text(bare) == "769,4-5-10-9-100-98-3-6-19-18-99,,,"
    assert ja3(bare) == "de350869b8c85de67a350c8d186f11e6"


def test_ja3_leaves_grease_out() -> None:
    plain = ClientHello(version=771, suites=(0x1301,), extensions=(0, 10), groups=(29,))
    greased = ClientHello(version=771, suites=(0x5A5A, 0x1301), extensions=(0x0A0A, 0, 10, 0xFAFA), groups=(0x2A2A, 29))
    assert ja3(plain) == ja3(greased)


def test_ja4_is_that_of_its_specification() -> None:
    # https://github.com/FoxIO-LLC/ja4/blob/main/technical_details/JA4.md: the worked example.
    hello = ClientHello(
        version=0x0303,
        suites=_codes("2a2a,1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035"),
        extensions=_codes("0a0a,001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015"),
        versions=_codes("6a6a,0304,0303"),
        signatures=_codes("0403,0804,0401,0503,0805,0501,0806,0601"),
        protocols=(b"h2", b"http/1.1"),
        names=("example.com",),
    )
    assert ja4(hello) == "t13d1516h2_8daaf6152771_e5627efa2ab1"
    assert ja4(hello, "q") == "q13d1516h2_8daaf6152771_e5627efa2ab1"


@pytest.mark.parametrize(
    ("protocol", "ends"),
    [
        (b"h2", "h2"), (b"http/1.1", "h1"), (b"h", "hh"), (b"", "00"), (b"\xab", "ab"), (b"\xab\xcd", "ad"),
        (b"0\xab", "3b"), (b"01\xab\xcd", "3d"), (b"0\xab\xcd1", "01"),
    ],
)  # fmt: skip
def test_ja4_writes_the_ends_of_the_first_protocol(protocol: bytes, ends: str) -> None:
    assert ja4(ClientHello(version=0x0303, protocols=(protocol,))).partition("_")[0] == f"t12i0000{ends}"


def test_ja4_of_a_hello_without_anything_is_zeros() -> None:
    assert ja4(ClientHello(version=0x0300)) == "ts3i000000_000000000000_000000000000"


def test_ja3s_counts_version_suite_and_extensions() -> None:
    hello = ServerHello(legacy_version=769, suite=47, extensions=(65281, 0, 11, 35, 5, 16))
    assert ja3s(hello) == hashlib.md5(b"769,47,65281-0-11-35-5-16").hexdigest()


def test_cipher_suites_have_the_names_that_openssl_and_wireshark_give_them() -> None:
    listed = subprocess.run(
        ["openssl", "ciphers", "-V", "-stdname", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    openssl = {
        int("".join(row.split()[0].replace("0x", "").split(",")), 16): row.split()[2] for row in listed.splitlines()
    }
    assert len(openssl) > 100
    assert openssl == {code: suites()[code] for code in openssl}
    values = subprocess.run(["tshark", "-G", "values"], check=True, capture_output=True, text=True).stdout
    wireshark = {
        int(row[2]): row[3]
        for row in (line.split("\t") for line in values.splitlines())
        if row[0] == "V" and row[1] == "tls.handshake.ciphersuite"
    }
    assert len(suites()) > 350
    # AEGIS is newer than that Wireshark.
    assert {code: name for code, name in suites().items() if code not in {0x1306, 0x1307}} == {
        code: wireshark[code] for code in suites() if code in wireshark
    }
    assert [code for code in wireshark if "GREASE" in wireshark[code]] == [
        code for code in range(65536) if is_grease(code)
    ]


def test_weak_suites_are_told_by_their_names() -> None:
    def names(code: int) -> list[str]:
        return [reason.name for reason in weaknesses(code)]

    assert names(0x0000) == ["no encryption", "anonymous", "no forward secrecy"]
    assert names(0x0003) == ["export", "RC4", "MD5", "no forward secrecy"]
    assert names(0x000A) == ["3DES", "no forward secrecy", "CBC with SHA"]
    assert names(0x0034) == ["anonymous", "CBC with SHA"]
    assert names(0xC011) == ["RC4"]
    assert names(0x1301) == names(0xC02B) == names(0xCCAA) == names(0x00FF) == names(0x5600) == []
    assert all(names(code) is not None for code in range(65536))
