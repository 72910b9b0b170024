"""`tls_certificate` against OpenSSL's own server, real mail, FTP and database servers, and what is no TLS server at all."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import re
import socket
import struct
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given as generated
from hypothesis import strategies as st

from blocks.captures import CaptureStore
from blocks.policy import ProbePolicy
from deployments.demo.servers import https
from tasks.core.errors import InvalidParameters, NotFound, Refused
from tasks.core.redact import json_size
from tasks.core.run import FixedWiring, ToolRun, running, wired
from tasks.network._sparing import spare
from tasks.network.probe import tls_certificate as module
from tasks.network.probe._cipher_suites import OLDER_SUITES, SUITES
from tasks.network.probe._starttls import StartTls
from tasks.network.probe._tls_hello import Flight, NotTls, Version, client_hello
from tasks.network.probe._tls_survey import Offer, Question, Survey
from tasks.network.probe.tls_certificate import TlsCertificate, TlsCertificateResult, TlsHost, tls_certificate
from tests.lab.mail_server import MailServerLab
from tests.lab.network import DELL, Lab, needs_lab
from tests.lab.tls_servers import Pki, openssl_server, s_client, sslv3_server, talking, tcp_server

QUICK = ProbePolicy(host_packets_per_second=0, packets_per_second=100_000)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki()


@pytest.fixture
def look(perform, pki):
    """Look at a port of this machine, with the tests' authority trusted."""

    async def run(port: int, **more: object) -> TlsCertificateResult:
        given = {"targets": ["127.0.0.1"], "port": port, "ca": pki.pem, "versions": False, **more}
        return await perform(tls_certificate, given, policy=QUICK)

    return run


def codes(result: TlsCertificateResult) -> set[str]:
    return {finding.code.removeprefix("tls.") for finding in result.findings}


def only(result: TlsCertificateResult) -> TlsHost:
    (host,) = result.hosts
    return host


# --- what it shows is what OpenSSL shows -------------------------------------------------------------------------------


def openssl(*arguments: str) -> str:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True).stdout


def openssl_x509(pem: str) -> dict[str, str]:
    argv = ["openssl", "x509", "-noout", "-subject", "-issuer", "-serial", "-startdate", "-enddate", "-fingerprint"]
    argv += ["-sha256", "-nameopt", "RFC2253", "-dateopt", "iso_8601"]
    said = subprocess.run(argv, input=pem, capture_output=True, text=True, check=True).stdout
    text = subprocess.run(["openssl", "x509", "-noout", "-text"], input=pem, capture_output=True, text=True, check=True)
    found = dict(line.split("=", 1) for line in said.splitlines())
    found["bits"] = re.search(r"Public-Key: \((\d+) bit\)|(ED25519) Public-Key", text.stdout)[1]
    found["signature"] = re.search(r"Signature Algorithm: (\S+)", text.stdout)[1]
    found["ca"] = "CA:TRUE" in text.stdout
    names = re.search(r"Subject Alternative Name:\s*\n\s*(.*)", text.stdout)
    found["names"] = [part.split(":", 1)[1] for part in names[1].split(", ")] if names else []
    return found


@pytest.mark.parametrize("key", ["ec", "ec-p384", "rsa-2048", "ed25519"])
async def test_every_certificate_of_the_chain_agrees_with_openssl(look, pki, tmp_path, key):
    identity = pki.server("localhost", "*.example.com", "127.0.0.1", key=key, days=33.5)
    with openssl_server(tmp_path, identity) as server:
        result = await look(server.port)
        shown = s_client(server.port, "-showcerts")
    sent = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", shown, re.DOTALL)
    assert len(sent) == len(result.certificates) == 2
    for place, (pem, seen) in enumerate(zip(sent, result.certificates, strict=True)):
        expected = openssl_x509(pem)
        assert seen.place == place
        assert (seen.subject, seen.issuer) == (expected["subject"], expected["issuer"])
        assert int(seen.serial, 16) == int(expected["serial"], 16)
        assert seen.sha256 == expected["sha256 Fingerprint"].replace(":", "").lower()
        assert f"{seen.not_before:%Y-%m-%d %H:%M:%SZ}" == expected["notBefore"]
        assert f"{seen.not_after:%Y-%m-%d %H:%M:%SZ}" == expected["notAfter"]
        assert seen.signature == expected["signature"]
        assert seen.ca == expected["ca"] and not seen.self_signed
        assert sorted(seen.names) == sorted(expected["names"])
        assert expected["bits"] is None or seen.key_bits == int(expected["bits"])
    host = only(result)
    assert host.valid and host.days_left == 33 and host.reason is None
    assert f"New, {host.protocol}, Cipher is {host.suite}" in shown


# --- what it makes of it ----------------------------------------------------------------------------------------------


FAULTS = {
    "good": ({}, True, set()),
    "expired": ({"days": -3}, False, {"expired"}),
    "not yet valid": ({"begun": -5}, False, {"not-yet-valid"}),
    "expiring": ({"days": 9}, True, {"expiring"}),
    "wrong name": ({"names": ("other.example",)}, False, {"wrong-name"}),
    "name in the common name only": ({"names": ("",), "common_name": "127.0.0.1"}, False, {"wrong-name"}),
    "self-signed": ({"by": "self"}, False, {"self-signed"}),
    "weak key": ({"key": "rsa-1024"}, True, {"weak-key"}),
    "everything at once": (
        {"by": "self", "days": -3, "names": ("other.example",), "key": "rsa-1024"},
        False,
        {"self-signed", "expired", "wrong-name", "weak-key"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_of_a_certificate_is_named(look, pki, tmp_path, fault):
    options, valid, expected = FAULTS[fault]
    options = dict(options)
    identity = pki.server(*options.pop("names", ()), **options)
    (tmp_path / "ca.pem").write_text(pki.pem)
    with openssl_server(tmp_path, identity, "-cipher", "ALL:@SECLEVEL=0") as server:
        result = await look(server.port)
        verdict = s_client(server.port, "-CAfile", str(tmp_path / "ca.pem"), "-cipher", "DEFAULT:@SECLEVEL=0")
    host = only(result)
    assert host.valid is valid and codes(result) == expected
    assert host.trusted == ("Verify return code: 0 (ok)" in verdict)
    assert host.valid or host.reason


async def test_a_missing_intermediate_is_told_apart_from_an_unknown_authority(look, pki, tmp_path):
    alone = pki.server()
    alone.chain = []
    with openssl_server(tmp_path, alone) as server:
        result = await look(server.port)
    assert codes(result) == {"missing-intermediate"} and only(result).trusted is False
    assert "signalbox tests intermediate" in result.findings[0].what
    strange = Pki().server()
    strange.chain.append(pki.root.certificate)  # a root that has nothing to do with it
    with openssl_server(tmp_path, strange) as server:
        result = await look(server.port)
    assert "chain-order" in codes(result) and only(result).trusted is False


async def test_a_sent_root_that_is_not_known_is_an_unknown_authority(look, tmp_path):
    other = Pki()
    identity = other.server()
    identity.chain.append(other.root.certificate)
    with openssl_server(tmp_path, identity) as server:
        result = await look(server.port)
    assert codes(result) == {"unknown-authority"}
    assert "its authority is not known here" in only(result).reason


async def test_an_expired_intermediate_is_named(look, tmp_path):
    other = Pki(intermediate_days=-2.5)
    with openssl_server(tmp_path, other.server()) as server:
        result = await look(server.port, ca=other.pem)
    assert codes(result) == {"expired"} and only(result).valid is False and only(result).days_left == 89
    assert result.findings[0].what.startswith("The certificate of the authority CN=signalbox tests intermediate")


async def test_sha_1_signatures_are_found(look, tmp_path):
    identity = Pki().server()
    key, certificate = tmp_path / "sha1.key", tmp_path / "sha1.pem"
    argv = ["req", "-x509", "-sha1", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out"]
    argv += [str(certificate), "-days", "90", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl(*argv)
    with openssl_server(
        tmp_path, identity, "-cert", str(certificate), "-key", str(key), "-cipher", "ALL:@SECLEVEL=0"
    ) as server:
        result = await look(server.port)
    assert {"weak-signature", "self-signed"} <= codes(result)
    assert result.certificates[0].signature == "sha1WithRSAEncryption"


async def test_without_the_authority_given_it_is_not_trusted(look, pki, tmp_path):
    with openssl_server(tmp_path, pki.server()) as server:
        result = await look(server.port, ca=None)
    assert only(result).trusted is False and "issuer is not known here" in only(result).reason


async def test_the_name_to_check_can_be_given(look, pki, tmp_path):
    with openssl_server(tmp_path, pki.server("camera.example", "*.lab.example")) as server:
        assert only(await look(server.port)).name_matches is False
        assert only(await look(server.port, server_name="Camera.Example.")).valid
        assert only(await look(server.port, server_name="a.lab.example")).valid
        assert only(await look(server.port, server_name="a.b.lab.example")).name_matches is False


async def test_the_name_is_sent_so_that_the_right_certificate_comes(look, pki, tmp_path):
    second, key = pki.server("second.example", by="root").write(tmp_path, "second")
    options = ("-servername", "second.example", "-cert2", str(second), "-key2", str(key))
    with openssl_server(tmp_path, pki.server("localhost"), *options) as server:
        seen = await look(server.port, server_name="second.example", versions=True)
        assert only(seen).subject.startswith("CN=second.example") and only(seen).valid
        assert only(await look(server.port, server_name="localhost")).subject.startswith("CN=localhost")


# --- versions, suites, ALPN, staples -----------------------------------------------------------------------------------

_FLAGS = {Version.TLS10: "-tls1", Version.TLS11: "-tls1_1", Version.TLS12: "-tls1_2", Version.TLS13: "-tls1_3"}


@pytest.mark.parametrize("spoken", [[Version.TLS10], [Version.TLS11], [Version.TLS12], [Version.TLS13], list(_FLAGS)])
async def test_the_versions_offered_and_the_suite_of_each_agree_with_openssl(look, pki, tmp_path, spoken):
    flags = [_FLAGS[spoken[0]]] if len(spoken) == 1 else []
    weak = "ALL:@SECLEVEL=0"
    with openssl_server(tmp_path, pki.server(key="rsa-2048"), *flags, "-cipher", weak) as server:
        result = await look(server.port, versions=True)
        asked = {version: s_client(server.port, flag, "-cipher", weak) for version, flag in _FLAGS.items()}
    seen = {entry.version: entry for entry in result.versions}
    names, _ = openssl_names()
    for version, said in asked.items():
        cipher = re.search(r"New, \S+, Cipher is (\S+)", said)[1]
        assert (seen[version].offered == "yes") == (cipher != "(NONE)") == (version in spoken)
        if version in spoken:
            assert seen[version].suite == names[cipher]
    assert seen[Version.SSL3].offered == "no" and len(seen) == 5
    assert only(result).versions == [str(version) for version in reversed(spoken)] and only(result).valid
    old = {Version.TLS10, Version.TLS11} & set(spoken)
    assert sum(finding.code == "tls.old-version" for finding in result.findings) == len(old)
    assert ("no-modern-version" in codes(result)) == (set(spoken) <= {Version.TLS10, Version.TLS11})


def openssl_names() -> tuple[dict[str, str], dict[str, int]]:
    said = openssl("ciphers", "-V", "-stdname", "ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    found = re.findall(r"0x(..),0x(..) - (\S+)\s+- (\S+)", said)
    return {ours: iana for _, _, iana, ours in found}, {iana: int(a + b, 16) for a, b, iana, _ in found}


def test_our_suites_have_the_numbers_openssl_gives_them():
    _, numbers = openssl_names()
    known = {number: name for number, name in SUITES.items() if name in numbers}
    assert len(known) > 50
    assert {name: numbers[name] for name in known.values()} == {name: number for number, name in known.items()}


async def test_sslv3_is_found_although_no_openssl_speaks_it(look, pki):
    with tcp_server(sslv3_server(pki.server().der)) as server:
        result = await look(server.port, versions=True)
    host = only(result)
    assert host.state == "tls" and host.versions == ["SSLv3"] and host.valid is None
    assert host.suite == "TLS_RSA_WITH_3DES_EDE_CBC_SHA" and host.name_matches
    assert {"old-version", "no-modern-version", "weak-suite", "no-forward-secrecy"} - codes(result) == {
        "no-forward-secrecy"
    }
    assert len(result.certificates) == 1 and result.certificates[0].names[0] == "localhost"


OAKLEY_2 = (
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B"
    "302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE6"
    "49286651ECE65381FFFFFFFFFFFFFFFF"
)
"""The group of 1024 bits that half the servers used until 2015 (RFC 2409, section 6.2)."""


async def test_weak_suites_and_a_small_diffie_hellman_group_are_found(look, pki, tmp_path):
    weak = ("-tls1_2", "-cipher", "NULL-SHA256:@SECLEVEL=0")
    with openssl_server(tmp_path, pki.server(key="rsa-2048"), *weak) as server:
        result = await look(server.port, versions=True)
    assert "weak-suite" in codes(result) and "does not encrypt" in str(result.findings)
    parameters = tmp_path / "dh.pem"
    body = base64.encodebytes(bytes.fromhex("30818702818100" + OAKLEY_2 + "020102")).decode()
    parameters.write_text(f"-----BEGIN DH PARAMETERS-----\n{body}-----END DH PARAMETERS-----\n")
    with openssl_server(
        tmp_path, pki.server(key="rsa-2048"), "-tls1_2", "-cipher", "DHE:@SECLEVEL=0", "-dhparam", str(parameters)
    ) as server:
        result = await look(server.port, versions=True)
    assert "weak-dh" in codes(result) and "1024 bits" in str(result.findings)
    with openssl_server(tmp_path, pki.server(key="rsa-2048"), "-tls1_2", "-cipher", "AES128-SHA") as server:
        assert "no-forward-secrecy" in codes(await look(server.port, versions=True))


async def test_alpn_is_offered_where_http_may_be_and_can_be_chosen(look, pki, tmp_path):
    with openssl_server(tmp_path, pki.server(), "-alpn", "h2,imap") as server:
        assert only(await look(server.port)).alpn == "h2"
        assert only(await look(server.port, alpn=["imap"])).alpn == "imap"
        assert only(await look(server.port, alpn=[])).alpn is None
    for port in (993, 465):
        assert TlsCertificate(targets=["a"], port=port).offered() == ()
    assert TlsCertificate(targets=["a"], starttls="smtp", port=2525).offered() == ()
    assert TlsCertificate(targets=["a"]).offered() == ("h2", "http/1.1")


async def test_a_server_that_refuses_our_alpn_is_asked_again_without(look, pki, tmp_path):
    with openssl_server(tmp_path, pki.server(), "-alpn", "imap") as server:
        host = only(await look(server.port))
    assert host.valid and host.alpn is None


@pytest.mark.parametrize("status", ["good", "revoked"])
async def test_a_staple_is_read(look, pki, tmp_path, status):
    identity, now = pki.server(), datetime.now(UTC)
    response = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            identity.certificate,
            pki.intermediate.certificate,
            hashes.SHA1(),
            ocsp.OCSPCertStatus.REVOKED if status == "revoked" else ocsp.OCSPCertStatus.GOOD,
            now,
            None,
            now if status == "revoked" else None,
            None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, pki.intermediate.certificate)
        .sign(pki.intermediate.key, hashes.SHA256())
    )
    (tmp_path / "staple.der").write_bytes(response.public_bytes(Encoding.DER))
    with openssl_server(tmp_path, identity, "-status_file", str(tmp_path / "staple.der")) as server:
        result = await look(server.port, versions=True)
    assert only(result).staple == status
    assert ("revoked" in codes(result)) == (status == "revoked")


@pytest.mark.parametrize("flag", ["-tls1_2", "-tls1_3"])
async def test_a_server_that_wants_a_client_certificate_shows_its_own(look, pki, tmp_path, flag):
    with openssl_server(tmp_path, pki.server(), flag, "-Verify", "1", "-verify_return_error") as server:
        host = only(await look(server.port))
    assert host.state == "tls" and host.name_matches and host.days_left == 89
    if flag == "-tls1_2":
        assert host.wants_certificate and "asks for a client's certificate" in host.reason and host.valid is None


# --- STARTTLS ----------------------------------------------------------------------------------------------------------


async def test_starttls_with_a_real_mail_server(look, pki, tmp_path):
    with MailServerLab(tls=pki.server().context(tmp_path), mode="starttls") as mail:
        result = await look(mail.port, starttls="smtp", versions=True)
        said = s_client(mail.port, "-starttls", "smtp")
    host = only(result)
    assert host.valid and f"New, {host.protocol}, Cipher is {host.suite}" in said
    assert "TLSv1.3" in host.versions and "TLSv1.2" in host.versions


async def test_a_real_postgresql_without_tls_says_so(look):
    from deployments.local import EmbeddedPostgres

    address, port = (
        f"127.83.{os.getpid() >> 8 & 127}.{os.getpid() & 127 | 1}",
        5432,
    )  # its own: others may have that port
    with tempfile.TemporaryDirectory(prefix="sbx-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        options = {"fsync": "off", "listen_addresses": address}  # the embedded build has no TLS
        plain = EmbeddedPostgres(Path(folder), options=options)
        plain.start()
        try:
            refused = only(await look(port, targets=[address], server_name="localhost", starttls="postgres"))
        finally:
            plain.stop()
    assert refused.state == "no_tls" and "ssl = off" in refused.reason


FTP = (b"220-hello\r\n220 ready\r\n", (b"AUTH TLS", b"234 go\r\n"))
IMAP = (b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n", (b"A1 STARTTLS", b"* CAPABILITY news\r\na1 OK begin\r\n"))
POSTGRES = (b"", (bytes.fromhex("0000000804d2162f"), b"S"))
POP3 = (b"+OK ready\r\n", (b"STLS", b"+OK begin\r\n"))
SMTP = (
    b"220-one\r\n220 two\r\n",
    (b"EHLO", b"250-mail\r\n250-PIPELINING\r\n250 STARTTLS\r\n"),
    (b"STARTTLS", b"220 go\r\n"),
)


@pytest.mark.parametrize(
    ("protocol", "talk"), [("ftp", FTP), ("imap", IMAP), ("pop3", POP3), ("postgres", POSTGRES), ("smtp", SMTP)]
)
async def test_starttls_in_every_protocol(look, pki, tmp_path, protocol, talk):
    with tcp_server(talking(*talk, context=pki.server().context(tmp_path))) as server:
        host = only(await look(server.port, starttls=protocol))
    assert host.valid and host.reason is None


@pytest.mark.parametrize(
    ("protocol", "talk", "said"),
    [
        ("smtp", (b"220 mail\r\n", (b"EHLO", b"250-mail\r\n250 SIZE\r\n")), "does not offer STARTTLS"),
        ("smtp", (b"554 go away\r\n",), "'554 go away'"),
        ("smtp", (b"SSH-2.0-OpenSSH_9.2\r\n",), "another protocol: 'SSH-2.0-OpenSSH_9.2'"),
        ("ftp", (b"220 hi\r\n", (b"AUTH", b"530 TLS is off\r\n")), "'530 TLS is off'"),
        ("imap", (b"* OK hi\r\n", (b"A1", b"a1 NO not here\r\n")), "'a1 NO not here'"),
        ("imap", (b"+OK pop\r\n",), "does not greet as an IMAP server"),
        ("pop3", (b"+OK hi\r\n", (b"STLS", b"-ERR no\r\n")), "'-ERR no'"),
        ("postgres", (b"", (b"\x00\x00\x00\x08", b"E")), "does not answer as a PostgreSQL server"),
        ("smtp", (b"",), "closed the connection"),
        ("smtp", (b"220 " + b"x" * 9000,), "does not end"),
        ("smtp", (b"220-x\r\n" * 300,), "its greeting does not end"),
        ("imap", (IMAP[0], (b"A1", b"a1 OK\r\na2 OK injected\r\n")), "more in plain text"),
    ],
)
async def test_a_server_that_does_not_begin_tls_says_why(look, protocol, talk, said):
    with tcp_server(talking(*talk)) as server:
        result = await look(server.port, starttls=protocol)
    host = only(result)
    assert host.state == "no_tls" and said in host.reason and result.reached() and not result.findings


# --- what goes wrong -----------------------------------------------------------------------------------------------------


def reset(connection: socket.socket) -> None:
    connection.recv(100)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def chatter(*pieces: bytes, pause: float = 0.0):
    def handle(connection: socket.socket) -> None:
        connection.settimeout(5)
        connection.recv(100)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        connection.recv(65536)

    return handle


@pytest.mark.parametrize(
    ("handle", "said"),
    [
        (chatter(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "plain HTTP"),
        (chatter(b"SSH-2.0-x\r\n"), "answers with SSH"),
        (chatter(b"220 mail ready\r\n"), "try starttls"),
        (chatter(bytes(range(200, 256)) * 50), "something else"),
        (chatter(b"\x16\x03\x03\x40\x00" + b"\x0b" * 20000), "more than 256 KB"),
        (chatter(b"\x15\x03\x01\x00\x02\x02\x28"), "handshake failure"),
        (reset, "breaks off"),
        (lambda connection: None, "breaks off"),
    ],
)
async def test_what_is_no_tls_server_is_told_apart(look, handle, said):
    with tcp_server(handle) as server:
        result = await look(server.port, versions=True, timeout=3)
    host = only(result)
    assert host.state == "no_tls" and re.search(said, host.reason), host
    assert result.reached() and not result.findings and host.reason in result.headline()


async def test_a_silent_server_costs_one_timeout_and_not_six(look):
    with tcp_server(lambda connection: time.sleep(8)) as server:
        began = time.monotonic()
        host = only(await look(server.port, versions=True, timeout=1))
    assert host.state == "no_tls" and "does not answer to TLS within 1 s" in host.reason
    assert time.monotonic() - began < 5


async def test_a_slow_drip_does_not_outlive_the_timeout(look):
    drip = chatter(*[b"\x16\x03\x03\x10\x00", *[b"\x02"] * 60], pause=0.2)
    with tcp_server(drip) as server:
        began = time.monotonic()
        host = only(await look(server.port, timeout=1))
    assert host.state == "no_tls" and time.monotonic() - began < 6


async def test_nothing_listening_is_unreachable(look):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        result = await look(sock.getsockname()[1])
    host = only(result)
    assert host.state == "unreachable" and "nothing listens" in host.reason and not result.reached()


async def test_every_target_has_an_entry_in_the_order_asked(perform, pki, tmp_path):
    with openssl_server(tmp_path, pki.server()) as server:
        given = {"targets": ["no-such-host.invalid", "127.0.0.1", "127.0.0.9"], "port": server.port, "ca": pki.pem}
        result = await perform(tls_certificate, given, policy=QUICK)
    assert [host.target for host in result.hosts] == given["targets"]
    assert [host.state for host in result.hosts] == ["not_tried", "tls", "unreachable"]
    assert "does not resolve" in result.hosts[0].reason
    assert result.headline() == "3 hosts: 1 valid, 1 unreachable, 1 not tried; the first expires in 89 days"
    with openssl_server(tmp_path, pki.server()) as server:
        result = await perform(tls_certificate, {**given, "port": server.port, "expiring_days": 89}, policy=QUICK)
    assert result.headline().endswith("; the first expires in 89 days; 1 finding")


def test_versions_that_were_asked_for_and_brought_no_answer_are_said():
    offers = {Version.TLS13: Offer("yes"), Version.TLS11: Offer("unknown"), Version.TLS10: Offer("unknown")}
    found = Survey(state="tls", offers=offers, complete=True)
    assert module._host("a.test", found, "a.test").reason == (
        "Not known whether it speaks TLSv1.1, TLSv1: no answer to tell by."
    )


async def test_a_name_whose_first_address_refuses_is_looked_at_at_the_next(perform, pki, tmp_path, monkeypatch):
    both = [(family, 1, 6, "", (address, 0)) for family, address in ((10, "::1"), (2, "127.0.0.1"))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with openssl_server(tmp_path, pki.server()) as server:
        given = {"targets": ["localhost"], "port": server.port, "ca": pki.pem, "versions": False}
        host = only(await perform(tls_certificate, given, policy=QUICK))
    assert host.valid and host.address == "127.0.0.1"


async def test_what_policy_forbids_is_not_connected_to(perform):
    with pytest.raises(Refused, match=r"192\.0\.2\.1 is not allowed"):
        await perform(tls_certificate, {"targets": ["192.0.2.1"]})
    with pytest.raises(Refused, match="9100 must never be touched"):
        await perform(tls_certificate, {"targets": ["127.0.0.1"], "port": 9100})
    with pytest.raises(NotFound):
        await perform(tls_certificate, {"targets": ["no-such-host.invalid"]})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"port": 0}, "port"),
        ({"starttls": "xmpp"}, "starttls"),
        ({"alpn": [""]}, "not a protocol"),
        ({"alpn": ["http\n"]}, "not a protocol"),
        ({"ca": "/etc/ssl/certs"}, "PEM"),
        ({"ca": "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----"}, "cannot be read"),
        ({"timeout": 0}, "timeout"),
        ({"server_name": "a b"}, "server_name"),
    ],
)
async def test_a_wrong_parameter_is_named(perform, more, said):
    with pytest.raises(InvalidParameters, match=said):
        await perform(tls_certificate, {"targets": ["127.0.0.1"], **more})


async def test_a_private_key_given_by_mistake_is_refused_and_not_repeated(perform, pki):
    secret = pki.server().key_pem
    with pytest.raises(InvalidParameters, match="private key") as caught:
        await perform(tls_certificate, {"targets": ["127.0.0.1"], "ca": secret})
    assert secret.splitlines()[1][:20] not in str(caught.value)


async def test_a_deadline_keeps_what_was_found(perform, pki, tmp_path, monkeypatch):
    monkeypatch.setattr(TlsCertificate, "deadline", lambda self: module.REPORTING_SECONDS + 2)
    with openssl_server(tmp_path, pki.server()) as server, tcp_server(lambda connection: time.sleep(6)) as silent:
        fine = {"targets": ["127.0.0.1"], "port": server.port, "ca": pki.pem}
        slow = {"targets": ["127.0.0.1"], "port": silent.port, "timeout": 20}
        result = await perform(tls_certificate, fine, policy=ProbePolicy(host_packets_per_second=10))
        stuck = await perform(tls_certificate, slow, policy=QUICK)
    assert only(result).state == "tls" and only(result).valid
    assert "deadline came before every version" in only(result).reason
    assert only(stuck).state == "not_tried" and "deadline" in only(stuck).reason


async def test_a_large_result_keeps_every_host_and_puts_the_whole_into_the_store(perform, pki, tmp_path):
    names = tuple(f"host-{number:04}.some-long-domain.example" for number in range(60))
    store = CaptureStore(folder=tmp_path / "store")
    with openssl_server(tmp_path, pki.server(*names)) as server:
        targets = [f"127.0.5.{number}" for number in range(1, 61)]
        given = {"targets": ["127.0.0.1", *targets], "port": server.port, "versions": False}
        result = await perform(tls_certificate, given, policy=QUICK, store=store)
        assert len(result.certificates) == 2 and result.certificates[0].more_names == 30 and not result.left_out
        monkeypatched = [result.certificates[0]] * 200
    big = result.model_copy(update={"certificates": monkeypatched})
    with running(ToolRun(tls_certificate.spec, "default", QUICK)), wired(FixedWiring(captures=store)):
        update, report = await spare(big, ("versions", "certificates", "findings"), "port-443")
    small = big.model_copy(update={**update, "report": report})
    assert json_size(small.model_dump(mode="json")) < 64 << 10
    assert len(small.hosts) == 61 and 0 < len(small.certificates) < 200
    assert small.left_out == [f"{200 - len(small.certificates)} of 200 certificates"]
    whole = json.loads((store.folder / report.name).read_text())
    assert len(whole["certificates"]) == 200


# --- the flight, read by hand ---------------------------------------------------------------------------------------------


def test_a_hello_is_what_openssl_would_understand_and_names_the_host():
    for version in Version:
        hello = client_hello(version, "www.example.com")
        assert hello[0] == 22 and int.from_bytes(hello[3:5], "big") == len(hello) - 5
        assert (b"www.example.com" in hello) == (version is not Version.SSL3)
    assert len(OLDER_SUITES) == len(set(OLDER_SUITES.values()))


def test_addresses_are_not_sent_as_names():
    def asked(name: str) -> str | None:
        return Question(("127.0.0.1",), 443, name, StartTls.NONE, (), 1.0, True).server_name

    assert asked("camera.example") == "camera.example"
    assert asked("10.0.0.1") is None and asked("2001:db8::1") is None


@generated(st.binary(max_size=400), st.integers(1, 50))
def test_no_bytes_break_the_reader_and_pieces_read_as_the_whole(data, size):
    def read(pieces: list[bytes]) -> tuple[object, ...]:
        flight = Flight()
        try:
            for piece in pieces:
                flight.feed(piece)
        except NotTls:
            return ("not tls",)
        return flight.version, flight.suite, flight.certificates, flight.alert, flight.done

    read([data])
    record = b"\x16\x03\x03" + len(data).to_bytes(2, "big") + data
    whole, pieces = read([record]), read([record[place : place + size] for place in range(0, len(record), size)])
    assert whole == pieces


@generated(st.data())
def test_a_flight_with_flipped_bits_is_read_or_refused_and_nothing_else(data):
    body = b"\x03\x03" + bytes(32) + b"\x00\xc0\x2f\x00\x00\x05\x00\x17\x00\x00\x00"
    certificates = b"\x00\x00\x09\x00\x00\x06abcdef"
    messages = b"".join(
        bytes([kind]) + len(part).to_bytes(3, "big") + part for kind, part in ((2, body), (11, certificates), (14, b""))
    )
    flipped = bytearray(b"\x16\x03\x03" + len(messages).to_bytes(2, "big") + messages)
    for _ in range(data.draw(st.integers(0, 4))):
        flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    flight = Flight()
    try:
        flight.feed(bytes(flipped))
    except NotTls:
        return
    assert flight.version is None or 0 <= flight.version <= 0xFFFF


def test_an_endless_flight_is_given_up():
    flight = Flight()
    flight.feed(
        b"\x16\x03\x03\x00\x31\x02\x00\x00\x2d\x03\x03"
        + bytes(32)
        + b"\x00\xc0\x2f\x00\x00\x05\x00\x17\x00\x00\x00"[:13]
    )
    warnings = b"\x15\x03\x03\x00\x02\x01\x70"
    flight.feed(warnings * 30_000)
    with pytest.raises(NotTls, match="does not end"):
        flight.feed(warnings * 30_000)


# --- a network --------------------------------------------------------------------------------------------------------------


@pytest.mark.lab
@needs_lab
async def test_what_we_send_stays_within_the_budget(perform, pki, tmp_path):
    secure = https(pki.server("*.cameras.example").context(tmp_path))
    async with Lab() as lab:
        big = await lab.add("big", 10, f"{DELL}:00:00:10", services=[secure])
        await lab.answer_prefix(big, lab.prefix(24))
        targets = [str(address) for address in list(ipaddress.ip_network(lab.prefix(24)).hosts())[:6]]
        policy = ProbePolicy(allow=[lab.prefix(24)], packets_per_second=60, host_packets_per_second=0)
        given = {"targets": targets, "server_name": "one.cameras.example", "ca": pki.pem}
        async with lab.counting("tcp") as sent:
            result = await perform(tls_certificate, given, policy=policy)
    assert all(host.valid and host.versions == ["TLSv1.3", "TLSv1.2"] for host in result.hosts)
    assert sent.total > 180 and sent.worst(seconds=2) <= 2 * 60 + 20
