"""Fingerprints of TLS clients and servers: JA3, JA3S and JA4."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from tasks.network._tls_numbers import is_grease
from tasks.network.analyze._tls_hello import ALPN, SERVER_NAME, ClientHello, ServerHello

_JA4_VERSIONS = {
    0x0304: "13",
    0x0303: "12",
    0x0302: "11",
    0x0301: "10",
    0x0300: "s3",
    0x0002: "s2",
    0xFEFF: "d1",
    0xFEFD: "d2",
    0xFEFC: "d3",
}
_NOTHING = "000000000000"


def _joined(codes: Iterable[int]) -> str:
    return "-".join(str(code) for code in codes if not is_grease(code))


def ja3_text(hello: ClientHello) -> str:
    """What JA3 hashes: version, cipher suites, extensions, groups, point formats, without GREASE.

    The definition is that of https://github.com/salesforce/ja3.
    """
    return (
        f"{hello.version},{_joined(hello.suites)},{_joined(hello.extensions)},{_joined(hello.groups)},"
        f"{'-'.join(str(code) for code in hello.point_formats)}"
    )


def ja3(hello: ClientHello) -> str:
    """The JA3 fingerprint of a client."""
    return hashlib.md5(ja3_text(hello).encode(), usedforsecurity=False).hexdigest()


def ja3s(hello: ServerHello) -> str:
    """The JA3S fingerprint of a server's answer: version, cipher suite, extensions."""
    said = f"{hello.legacy_version},{hello.suite},{_joined(hello.extensions)}"
    return hashlib.md5(said.encode(), usedforsecurity=False).hexdigest()


def ja4(hello: ClientHello, transport: str = "t") -> str:
    """The JA4 fingerprint of a client (https://github.com/FoxIO-LLC/ja4, technical_details/JA4.md).

    Args:
        hello: What the client offered.
        transport: `t` for TCP, `q` for QUIC.
    """
    suites = sorted(f"{code:04x}" for code in hello.suites if not is_grease(code))
    extensions = [code for code in hello.extensions if not is_grease(code)]
    version = _JA4_VERSIONS.get(hello.offered[0], "00")
    # An extension that is there counts, also when it holds no name.
    named = "d" if SERVER_NAME in hello.extensions else "i"
    head = f"{transport}{version}{named}{min(99, len(suites)):02}{min(99, len(extensions)):02}{_ends(hello.protocols)}"
    others = ",".join(sorted(f"{code:04x}" for code in extensions if code not in {SERVER_NAME, ALPN}))
    signatures = ",".join(f"{code:04x}" for code in hello.signatures if not is_grease(code))
    rest = f"{others}_{signatures}" if signatures else others
    return f"{head}_{_short(','.join(suites))}_{_short(rest) if extensions else _NOTHING}"


def _short(said: str) -> str:
    return hashlib.sha256(said.encode()).hexdigest()[:12] if said else _NOTHING


def _ends(protocols: tuple[bytes, ...]) -> str:
    """First and last character of the first protocol; of its hexadecimal form when one of them is no letter or digit."""
    if not protocols or not protocols[0]:
        return "00"
    first = protocols[0]
    ends = first[:1] + first[-1:]
    if ends.isalnum():  # bytes.isalnum() is about ASCII alone
        return ends.decode()
    return first.hex()[0] + first.hex()[-1]
