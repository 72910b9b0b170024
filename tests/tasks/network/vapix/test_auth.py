"""Logging in to cameras: right answers to their challenges, one attempt with a password, none to somebody else."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import Forbidden, Unauthorized, Untrusted
from tasks.network.vapix import _auth
from tasks.network.vapix._auth import CameraLogin, LoginSecrets, Passerby, digest_header, parse_challenges

DIGEST = 'Digest realm="AXIS_B8A44F7C1D20", nonce="n1", algorithm=MD5, qop="auth"'
BASIC = 'Basic realm="AXIS_B8A44F7C1D20"'
STRANGER = 'Digest realm="Printer", nonce="n1", qop="auth"'
STRANGERS_BASIC = 'Basic realm="Printer"'


def login(
    *,
    secure: bool = False,
    clear_text: bool = False,
    certified: bool = False,
    password: str = "pass",
    serial: str | None = None,
) -> CameraLogin:
    return CameraLogin(
        "gate-cam",
        "root",
        password,
        secure=secure,
        clear_text=clear_text,
        certified=certified,
        key=("default", "192.0.2.7", 80),
        serial=serial,
    )


# --- answers as the standards compute them -----------------------------------------------------------------------------


def test_a_digest_with_qop_is_that_of_rfc_2617() -> None:
    header = (
        'Digest realm="testrealm@host.com", qop="auth,auth-int", '
        'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"'
    )
    [challenge] = parse_challenges([header])
    header = digest_header(challenge, "Mufasa", "Circle Of Life", "GET", "/dir/index.html", 1, "0a4f113b")
    assert 'response="6629fae49393a05397450978507c4ef1"' in header
    assert 'opaque="5ccc069c403ebaf9f0171e9517f40e41"' in header and "nc=00000001" in header


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digests_are_those_of_rfc_7616(algorithm: str, response: str) -> None:
    nonce, client = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    [challenge] = parse_challenges(
        [f'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={algorithm}, nonce="{nonce}"']
    )
    header = digest_header(challenge, "Mufasa", "Circle of Life", "GET", "/dir/index.html", 1, client)
    assert f'response="{response}"' in header


def test_a_digest_without_qop_has_no_counter() -> None:
    [challenge] = parse_challenges(['Digest realm="AXIS_B8A44F7C1D20", nonce="n1", stale=FALSE'])
    header = digest_header(challenge, "root", "pass", "GET", "/a?b=c", 1, "x")
    # RFC 2069: H(H(A1) : nonce : H(A2))
    assert 'response="afa065efea662e8d086df97eff55bfba"' in header
    assert "nc=" not in header and "cnonce" not in header and 'uri="/a?b=c"' in header


def test_each_use_of_a_nonce_counts_up() -> None:
    camera = login()
    camera.challenged([DIGEST], tried=0)
    assert "nc=00000001" in (camera.authorization("GET", "/a") or "")
    assert "nc=00000002" in (camera.authorization("GET", "/b") or "")


# --- what a server may ask for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "schemes"),
    [
        ([DIGEST, BASIC], ["digest", "basic"]),
        ([f"{BASIC}, {DIGEST}"], ["basic", "digest"]),
        (["Negotiate", "Bearer"], []),
        (['Digest realm="x"'], []),
        (['Digest realm="x", nonce="n", algorithm=SHA-512-256'], []),
        (['Digest realm="x", nonce="n", qop="auth-int"'], []),
        ([""], []),
        (['Digest realm="x", nonce="a\rX-Injected: 1"'], []),
    ],
)
def test_challenges_are_those_we_can_answer(headers: list[str], schemes: list[str]) -> None:
    assert [challenge.scheme for challenge in parse_challenges(headers)] == schemes


@given(st.lists(st.text(max_size=200), max_size=3))
def test_no_challenge_breaks_the_parser(headers: list[str]) -> None:
    parse_challenges(
        [*headers, *(f"Digest {text}" for text in headers), *(f'Digest realm="{h}", nonce="{h}"' for h in headers)]
    )


def test_basic_goes_over_encrypted_connections_only() -> None:
    open_line = login()
    with pytest.raises(Unauthorized, match="basic_over_http"):
        open_line.challenged([BASIC], tried=0)
    assert open_line.authorization("GET", "/") is None
    for allowed in (login(secure=True), login(clear_text=True)):
        allowed.challenged([BASIC], tried=0)
        assert allowed.authorization("GET", "/") == "Basic " + base64.b64encode(b"root:pass").decode()


def test_digest_is_preferred_also_where_basic_stands_first() -> None:
    camera = login(secure=True)
    camera.challenged([BASIC, DIGEST], tried=0)
    assert (camera.authorization("GET", "/") or "").startswith("Digest ")


def test_a_server_that_offers_nothing_we_know_gets_nothing() -> None:
    with pytest.raises(Unauthorized, match="no way to log in"):
        login(secure=True).challenged(["Negotiate"], tried=0)


# --- one attempt -----------------------------------------------------------------------------------------------------


def test_a_401_to_credentials_is_final() -> None:
    camera = login()
    camera.challenged([DIGEST], tried=0)
    with pytest.raises(Unauthorized, match="refuses the user 'root'"):
        camera.challenged([DIGEST.replace("n1", "n2")], tried=1)


def test_a_refused_password_is_not_tried_again_by_the_next_conversation_either() -> None:
    test_a_401_to_credentials_is_final()
    later = login()
    later.challenged([DIGEST], tried=0)
    with pytest.raises(Unauthorized, match="a moment ago"):
        later.authorization("GET", "/")
    corrected = login(password="another")
    corrected.challenged([DIGEST], tried=0)
    assert corrected.authorization("GET", "/") is not None


def test_a_new_nonce_for_a_stale_one_is_answered_once() -> None:
    camera = login()
    camera.challenged([DIGEST], tried=0)
    camera.authorization("GET", "/")
    camera.challenged([DIGEST.replace("n1", "n2") + ", stale=true"], tried=1)
    assert 'nonce="n2"' in (camera.authorization("GET", "/") or "")
    with pytest.raises(Unauthorized):
        camera.challenged([DIGEST.replace("n1", "n3") + ", stale=true"], tried=2)


def test_stale_with_the_same_nonce_is_a_refusal() -> None:
    camera = login()
    camera.challenged([DIGEST], tried=0)
    with pytest.raises(Unauthorized):
        camera.challenged([DIGEST + ", stale=true"], tried=1)


def test_once_proven_a_401_means_that_the_level_is_too_low() -> None:
    camera = login()
    camera.challenged([DIGEST], tried=0)
    camera.accepted()
    with pytest.raises(Forbidden, match="higher level"):
        camera.challenged([DIGEST], tried=1)
    assert _auth._refused == {}


def test_another_device_than_a_moment_ago_gets_no_credentials() -> None:
    camera = login()
    camera.serial = "ACCC8E000001"
    with pytest.raises(Untrusted, match="B8A44F7C1D20"):
        camera.challenged([DIGEST], tried=0)
    assert camera.authorization("GET", "/") is None


@pytest.mark.parametrize("challenge", [STRANGER, STRANGERS_BASIC, DIGEST])
def test_who_is_to_be_a_certain_camera_and_does_not_say_so_gets_no_credentials(challenge: str) -> None:
    camera = login(secure=True, clear_text=True, certified=True, serial="ACCC8E000001")
    with pytest.raises(Untrusted, match="no credentials were sent"):
        camera.challenged([challenge], tried=0)
    assert camera.authorization("GET", "/") is None and _auth._refused == {}


def test_a_camera_that_said_its_serial_before_may_call_its_realm_otherwise() -> None:
    camera = login(serial="ACCC8E000001")
    camera.introduced = True
    camera.challenged([STRANGER], tried=0)
    assert camera.authorization("GET", "/") is not None
    with pytest.raises(Untrusted, match="another login than a moment ago"):
        camera.challenged([STRANGER.replace("Printer", "Scanner").replace("n1", "n2") + ", stale=true"], tried=1)


def test_a_password_that_can_be_read_goes_to_what_is_known_to_be_an_axis_device_only() -> None:
    for stranger in (login(clear_text=True), login(secure=True)):
        with pytest.raises(Untrusted, match="says nowhere that it is an Axis device"):
            stranger.challenged([STRANGERS_BASIC], tried=0)
        assert stranger.authorization("GET", "/") is None
    introduced = login(clear_text=True)
    introduced.introduced = True
    for known in (introduced, login(secure=True, certified=True)):
        known.challenged([STRANGERS_BASIC], tried=0)
        assert known.authorization("GET", "/") is not None
    # Of a digest nobody reads the password.
    digest = login()
    digest.challenged([STRANGER], tried=0)
    assert digest.authorization("GET", "/") is not None


def test_who_has_no_account_reads_the_serial_number() -> None:
    passerby = Passerby("gate-cam")
    with pytest.raises(Unauthorized, match="accounts only"):
        passerby.challenged([DIGEST], tried=0)
    assert passerby.serial == "B8A44F7C1D20"


def test_no_error_names_the_password() -> None:
    camera = login(password="hunter2secret")
    camera.challenged([DIGEST], tried=0)
    with pytest.raises(Unauthorized) as caught:
        camera.challenged([DIGEST], tried=1)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(_auth._refused)


def test_challenges_made_to_take_long_are_read_at_once() -> None:
    hostile = ["Digest " + "a" * 4089, "Digest " + " a" * 2044, "Digest " + " " * 4089, "," * 4096, ", Basic " * 512]
    began = time.process_time()
    parse_challenges(hostile * 24)  # about the 100 kB of headers that one answer may have
    assert time.process_time() - began < 2


def test_secrets_are_masked_at_once_in_what_was_made_to_take_long() -> None:
    secrets = LoginSecrets("root", "hunter2secret")
    began = time.process_time()
    for piece in ("cm9vdDp", "cm9vdDp...", "hunt...", "a...", "response=", "response=0"):
        secrets.mask(piece * (100_000 // len(piece)))
    assert time.process_time() - began < 2
    assert secrets.mask("hunthunter2s...hunt... hunter2secret hunter") == "hunt***...***... *** hunter"
