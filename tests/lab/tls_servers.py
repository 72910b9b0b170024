"""TLS servers on loopback as they are met in the field, and the certificates that go wrong there.

pki = Pki()
with openssl_server(tmp_path, pki.server("localhost", days=-3), "-tls1_2") as server:
    ...  # server.port
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

START_SECONDS = 10


def make_key(kind: str = "ec") -> Any:
    """Make a key: `ec`, `ec-p384`, `ed25519`, `rsa-2048`, `rsa-1024`."""
    match kind:
        case "ec":
            return ec.generate_private_key(ec.SECP256R1())
        case "ec-p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa-")))


@dataclass
class Identity:
    """A certificate, its key, and the certificates that lead from it to a root."""

    certificate: x509.Certificate
    key: Any
    chain: list[x509.Certificate] = field(default_factory=list)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def full_pem(self) -> str:
        return self.pem + "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in self.chain)

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(  # type: ignore[no-any-return]
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def write(self, folder: Path, name: str = "server") -> tuple[Path, Path]:
        """Write certificate with chain, and key; return their paths."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_text(self.full_pem)
        key.write_text(self.key_pem)
        key.chmod(0o600)
        return certificate, key

    def context(self, folder: Path) -> ssl.SSLContext:
        """A server's context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.write(folder, f"context-{self.certificate.serial_number:x}"))
        return context


class Pki:
    """A root, an intermediate authority, and the servers' certificates they issue; `pem` is what has to be trusted.

    Args:
        intermediate_days: Days until the intermediate's certificate expires; negative when it has.
    """

    def __init__(self, intermediate_days: float = 1000) -> None:
        self._intermediate_days = intermediate_days

    @cached_property
    def root(self) -> Identity:
        key = make_key()
        name = _name("signalbox tests root")
        return Identity(_build(name, name, key.public_key(), key, ca=True, days=3650, begun=30), key)

    @cached_property
    def intermediate(self) -> Identity:
        key = make_key()
        certificate = _build(
            _name("signalbox tests intermediate"),
            self.root.certificate.subject,
            key.public_key(),
            self.root.key,
            ca=True,
            days=self._intermediate_days,
            begun=20,
        )
        return Identity(certificate, key)

    @property
    def pem(self) -> str:
        return self.root.pem

    def server(
        self,
        *names: str,
        days: float = 90,
        begun: float = 10,
        key: str = "ec",
        by: str = "intermediate",
        common_name: str | None = None,
    ) -> Identity:
        """Issue a certificate.

        Args:
            names: What it is for; default: localhost and the loopback addresses.
            days: Days until it expires; negative when it has.
            begun: Days since it became valid; negative when it is not yet.
            key: Kind of its key.
            by: `root`, `intermediate`, `self`.
            common_name: Its CN; default: the first name.
        """
        names = names or ("localhost", "127.0.0.1", "::1")
        own = make_key(key)
        subject = _name(common_name or names[0])
        issuer = {"root": self.root, "intermediate": self.intermediate}.get(by)
        certificate = _build(
            subject,
            issuer.certificate.subject if issuer else subject,
            own.public_key(),
            issuer.key if issuer else own,
            names=[] if names == ("",) else names,
            days=days,
            begun=begun,
        )
        return Identity(certificate, own, [self.intermediate.certificate] if by == "intermediate" else [])


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Signalbox, Inc."),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name or "nameless"),
        ]
    )


def _build(
    subject: x509.Name,
    issuer: x509.Name,
    public: Any,
    signer: Any,
    *,
    names: Sequence[str] = (),
    ca: bool = False,
    days: float = 90,
    begun: float = 10,
) -> x509.Certificate:
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now - timedelta(days=begun), end - timedelta(days=1)))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(not ca, False, not ca, False, False, ca, ca, False, False),
            critical=True,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


# --- servers ---------------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A server that runs."""

    port: int


@contextlib.contextmanager
def openssl_server(folder: Path, identity: Identity, *options: str, www: bool = True) -> Iterator[Running]:
    """Run `openssl s_server` with its certificate and its chain; it answers any request with a page."""
    certificate, key = identity.write(folder, "s_server")
    chain = folder / "s_server.chain"
    argv = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", str(certificate), "-key", str(key)]
    if identity.chain:
        chain.write_text("".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in identity.chain))
        argv += ["-cert_chain", str(chain)]
    process = subprocess.Popen(
        [*argv, *(["-www"] if www else []), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    )
    assert process.stdout is not None
    said = []
    try:
        for line in process.stdout:
            said.append(line)
            if found := re.match(r"ACCEPT \S*:(\d+)", line):
                # Its chatter would fill the pipe and stop it.
                threading.Thread(target=process.stdout.read, daemon=True).start()
                yield Running(int(found[1]))
                return
        raise RuntimeError(f"openssl s_server did not start: {''.join(said)}")
    finally:
        process.kill()
        process.wait(10)


def s_client(port: int, *options: str, address: str = "127.0.0.1", say: str = "Q\n") -> str:
    """What `openssl s_client` says about a server."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{address}:{port}", *options],
        input=say,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.stdout + done.stderr


@contextlib.contextmanager
def tcp_server(handle: Callable[[socket.socket], None], address: str = "127.0.0.1") -> Iterator[Running]:
    """Serve each connection with `handle` in a thread; what breaks there ends that connection alone."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                handle(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield Running(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def talking(
    greeting: bytes, *exchanges: tuple[bytes, bytes], context: ssl.SSLContext | None = None
) -> Callable[[socket.socket], None]:
    """A server that greets, answers each expected line with its reply, and then goes on with TLS."""

    def handle(connection: socket.socket) -> None:
        connection.settimeout(10)
        connection.sendall(greeting)
        for expected, reply in exchanges:
            if not connection.recv(4096).upper().startswith(expected):
                connection.sendall(b"500 what?\r\n")
                return
            connection.sendall(reply)
        if context is not None:
            with contextlib.suppress(ssl.SSLError), context.wrap_socket(connection, server_side=True) as inside:
                inside.recv(4096)

    return handle


def sslv3_server(certificate: bytes, suite: int = 0x000A) -> Callable[[socket.socket], None]:
    """A server of 1996: SSLv3 and nothing newer; its first flight, then it waits."""

    def handle(connection: socket.socket) -> None:
        connection.settimeout(10)
        hello = connection.recv(65536)
        if hello[9:11] != b"\x03\x00":
            connection.sendall(bytes.fromhex("15030000020228"))  # fatal handshake_failure
            return
        body = b"\x03\x00" + bytes(32) + b"\x00" + suite.to_bytes(2, "big") + b"\x00"
        one = len(certificate).to_bytes(3, "big") + certificate
        flight = _message(2, body) + _message(11, len(one).to_bytes(3, "big") + one) + _message(14, b"")
        # In records of 100 bytes: a message may be spread over many.
        for place in range(0, len(flight), 100):
            part = flight[place : place + 100]
            connection.sendall(b"\x16\x03\x00" + len(part).to_bytes(2, "big") + part)
        connection.recv(4096)

    return handle


def _message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body
