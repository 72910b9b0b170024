"""Secrets in payload: what is masked, what is not, and that no payload makes it slow."""

from __future__ import annotations

import base64
import os
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.asn1.asn1 import ASN1_OID
from scapy.layers.ldap import LDAP, LDAP_Authentication_simple, LDAP_BindRequest
from scapy.layers.snmp import SNMP, SNMPget, SNMPvarbind

from tasks.network.capture._mask import mask, mask_pieces, mask_text, printable, secrets

SECRET = b"hunter2secret"
ENCODED = base64.b64encode(b"\0bob\0" + SECRET)


@pytest.mark.parametrize(
    "payload",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\n\r\n",
        b"GET / HTTP/1.1\r\nauthorization:Bearer %s\r\n\r\n",
        b'DESCRIBE rtsp://x/ RTSP/1.0\r\nAuthorization: Digest username="a", realm="b",\r\n  response="%s"\r\n\r\n',
        b"GET / HTTP/1.1\r\nCookie: a=1; session=%s\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: session=%s; HttpOnly\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-API-Key: %s\r\n\r\n",
        b"POST /login HTTP/1.1\r\n\r\nuser=bob&password=%s&remember=1",
        b"GET /x?access_token=%s&y=1 HTTP/1.1\r\n\r\n",
        b'{"user": "bob", "password": "%s"}',
        b'{"clientSecret":"%s"}',
        b"{'api_key': '%s'}",
        b'<wsse:Password Type="http://x#PasswordText">%s</wsse:Password>',
        b'--x\r\nContent-Disposition: form-data; name="password"\r\n\r\n%s\r\n--x--',
        b'--x\r\ncontent-disposition: form-data; name="f[new_password]"\r\nContent-Type: text/plain\r\n\r\n%s\r\n--x--',
        b'ion: form-data; name="password"\r\n\r\n%s\r\n--x--',
        b"GET /?x=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.%s HTTP/1.1\r\n",
        b"POST /users HTTP/1.1\r\n\r\nuser[name]=bob&user[password]=%s&remember=1",
        b"POST /users HTTP/1.1\r\n\r\nuser%%5Bname%%5D=bob&user%%5Bpassword%%5D=%s&remember=1".replace(b"%%", b"%"),
        rb'{"event": "{\"user\":\"bob\",\"password\":\"%s\"}"}',
        b"GET http://bob:%s@proxy.example/ HTTP/1.1\r\n",
        b"POST /users HTTP/1.1\r\n\r\nuserpass=%s&remember=1",
        b"POST /users HTTP/1.1\r\n\r\nnewpass=%s&confirmPwd=%s&remember=1",
        b"GET /?next=%2Flogin%3Fpassword%3D%s%26remember=1 HTTP/1.1\r\n",
        b"GET /?next=%252Flogin%253Ftoken%253D%s%2526remember=1 HTTP/1.1\r\n",
        b"POST / HTTP/1.1\r\n\r\njson=%7B%22password%22%3A%22%s%22%2C%22remember=1",
        b'<form><input type=password name=p value="%s">remember=1',
        b"<form><INPUT VALUE='%s' id=x TYPE='password'/>remember=1",
        b'<form><input\n name="wlan_passphrase" title="a > b" value = %s >remember=1',
        b'<input type="hidden" name="csrf_token" value="%s">',
        b'<form><input type="password" value="%s',
        b"-----BEGIN RSA PRIVATE KEY-----\n%s\n-----END RSA PRIVATE KEY-----\n",
        b"USER bob\r\nPASS %s\r\nCWD /\r\n",
        b"USER bob\r\nPASS two words %s\r\n",
        b"APOP bob %s\r\n",
        b'a1 LOGIN "bob smith" %s\r\na2 SELECT INBOX\r\n',
        b"EHLO x\r\nAUTH PLAIN %s\r\nMAIL FROM:<a@b>\r\n",
        b"EHLO x\r\nAUTH LOGIN\r\nYm9i\r\naHVudGVyMg%s\r\nMAIL FROM:<a@b>\r\n",
        b"a1 AUTHENTICATE PLAIN\r\n+ \r\n%s\r\na2 NOOP\r\n",
        b"AUTHINFO PASS %s\r\n",
        b"AUTH %s\r\n",
        b"*2\r\n$4\r\nAUTH\r\n$13\r\n%s\r\n",
        b"*4\r\n$6\r\nCONFIG\r\n$3\r\nSET\r\n$11\r\nrequirepass\r\n$13\r\n%s\r\n",
        b"p\x00\x00\x00\x12%s\x00",
        b"\x10\x1f\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01c\x00\x03bob\x00\x0d%s",
        b"\x10\x20\x00\x04MQTT\x05\xc2\x00\x3c\x00\x00\x01c\x00\x03bob\x00\x0d%s",
        bytes(SNMP(community=SECRET.decode(), PDU=SNMPget(varbindlist=[SNMPvarbind(oid=ASN1_OID("1.3.6.1"))]))),
        bytes(LDAP(protocolOp=LDAP_BindRequest(authentication=LDAP_Authentication_simple(SECRET)))),
    ],
)
def test_a_secret_is_masked_and_what_stands_around_it_is_not(payload: bytes) -> None:
    payload = payload.replace(b"%s", SECRET)
    assert SECRET in payload
    masked = mask(payload, ports=(40000, 5432))
    assert SECRET not in masked and b"***" in masked
    assert masked[:4] == payload[:4]
    for piece in (b"Host: x", b"remember=1", b"MAIL FROM:<a@b>", b"a2 ", b"CWD /", b"USER bob", b"Basic ", b"\r\n\r\n"):
        assert (piece in masked) == (piece in payload)


def test_a_line_of_base64_between_mail_servers_is_an_answer_to_auth() -> None:
    assert mask(ENCODED + b"\r\n", ports=(40000, 587)) == b"***\r\n"
    assert mask(ENCODED + b"\r\n", ports=(40000, 9)) == ENCODED + b"\r\n"


def test_what_is_typed_into_telnet_is_masked_and_what_the_ends_agree_on_is_not() -> None:
    agreed = b"\xff\xfd\x18\xff\xfb\x1f"
    typed = agreed + b"bob\r\n" + SECRET + b"\xff\xff!\r\0\xff\xf4"
    assert mask(typed, (50000, 23)) == agreed + b"***\r\n***\r\0\xff\xf4"
    assert mask(b"\xff\xfa\x27\0\3PW\1" + SECRET + b"\xff\xf0", (50000, 23)) == b"\xff\xfa***\0***\xff\xf0"
    assert mask_pieces([b"h", b"u", b"\xff", b"\xff", b"\r"], (50000, 23)) == [b"***"] * 4 + [b"\r"]
    # The server says again what it was told, apart from passwords: that is what a reader sees.
    assert mask(b"$ show version\r\n", (23, 50000)) == b"$ show version\r\n"
    assert mask(b"show version\r\n", (50000, 2323)) == b"show version\r\n"


def test_what_is_no_secret_stays() -> None:
    for payload in (
        b'GET /compass?direction=north HTTP/1.1\r\nHost: tokens.example\r\nWWW-Authenticate: Basic realm="x"\r\n\r\n',
        b"AUTH TLS\r\n234 go ahead\r\n",
        b"220 mail.example ESMTP\r\n250-AUTH PLAIN LOGIN\r\n",
        b"331 Password required for bob\r\n",
        b"GET /?compass=north&bypass=1&overpass=x HTTP/1.1\r\n",
        b'<input type="text" name="city" value="Berlin"><input type="password" name="p"><input value="x">',
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"",
    ):
        assert mask(payload) == payload


def test_a_secret_spread_over_packets_is_masked_in_each() -> None:
    pieces = [b"USER bob\r\nPA", b"SS hun", b"ter2\r\n", b"QUIT\r\n"]
    assert mask_pieces(pieces) == [b"USER bob\r\nPA", b"SS ***", b"***\r\n", b"QUIT\r\n"]


def test_text_is_masked_and_other_text_is_returned_as_it_is() -> None:
    assert mask_text("Authorization: Basic YWRtaW46c2VjcmV0\\r\\n") == "Authorization: Basic ***\\r\\n"
    assert mask_text("\xe9t\xe9 \ud800") == "\xe9t\xe9 \ud800"


def test_control_characters_never_reach_a_terminal() -> None:
    assert printable(b"a\x1b]0;x\x07\r\nb\tc\xe2\x80\xae\xff") == "a\\x1b]0;x\\x07\nb\tc\\u202e\\xff"


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_any_bytes_can_be_masked_whole_or_in_pieces(data: bytes, cuts: list[int]) -> None:
    spans = secrets(data)
    assert all(0 <= first < last <= len(data) for first, last in spans)
    assert all(before[1] < after[0] for before, after in pairwise(spans))
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(bounds)]
    masked = mask_pieces(pieces)
    assert len(masked) == len(pieces)
    if not spans:
        assert b"".join(masked) == data == mask(data)


@pytest.mark.parametrize(
    "unit",
    [b"A", b"a=", b"password", b"pass:", b"://a:", b'"', b"\\", b"name=\r\n", b" ", b"\r\n ", b"<token", b"eyJ", b"AUTH A\r\n",
     b"$4\r\nAUTH\r\n$1\r\n", b"\x60\x00", b"x" * 50 + b"=", b"-----BEGIN PRIVATE KEY-----", b"Cookie:", b"\n",
     b"name=password;", b"name=password\r\n", b"Content-Disposition: x; name=password\r\n", b"eyJaaaaaaaa-", b"eyJaaaaaaaa.eyJaaa",
     b"<input ", b'<input "', b"<input type=password value=", b'<input type=password value="', b"'<input", b"password%3D", b"pass%22",
     b"userpass", b"newnewnew", b"%253D"],
)  # fmt: skip
def test_the_cost_grows_with_the_payload_and_not_with_its_square(unit: bytes) -> None:
    def seconds(size: int) -> float:
        data = (unit * (size // len(unit) + 1))[:size]
        began = time.process_time()
        secrets(data)
        return time.process_time() - began

    small = min(seconds(16_000) for _ in range(3))
    assert seconds(128_000) < 0.05 + 8 * 4 * small


def test_random_bytes_are_masked_in_reasonable_time() -> None:
    data = os.urandom(1_000_000)
    began = time.process_time()
    secrets(data)
    assert time.process_time() - began < 5
