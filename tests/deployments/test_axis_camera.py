"""The simulated camera: logins, levels, parameters, faults, profiles, as a client nobody here wrote would meet them."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest
from lab.axis_camera import PASSWORD, Camera, cameras

from deployments.demo.axis_camera import HOSTILE, PROFILES, Account, Device, Fault, Logged, find_profile
from deployments.demo.axis_camera._auth import Authenticator, Throttle, offered, parse_digest
from deployments.demo.axis_camera._parameters import ParameterTree, Update, parse

PARAM = "/axis-cgi/param.cgi"
WHO = "/axis-cgi/usergroup.cgi"
READY = "/axis-cgi/systemready.cgi"
INFO = "/axis-cgi/basicdeviceinfo.cgi"


class Client:
    """A careful client: asks bare, answers the challenge once, keeps the connection."""

    def __init__(self, camera: Camera, user: str | None = "root", *, https: bool = False, **options: Any) -> None:
        basic = https and "basic" in camera.device.schemes("https")
        login: Any = None
        if user is not None:
            login = (user, PASSWORD) if basic else httpx.DigestAuth(user, PASSWORD)
        self.http = httpx.Client(
            base_url=camera.https_url if https else camera.url,
            auth=login,
            verify=False,
            trust_env=False,
            timeout=10,
            **options,
        )

    def get(self, path: str, **query: str) -> httpx.Response:
        return self.http.get(path, params=query or None)

    def call(self, path: str, method: str, version: str | None = "1.0", **params: Any) -> dict[str, Any]:
        asked = (
            {"method": method} | ({"apiVersion": version} if version else {}) | ({"params": params} if params else {})
        )
        answer: dict[str, Any] = self.http.post(path, json=asked).json()
        return answer


@pytest.fixture(scope="module")
def mid() -> Iterator[Camera]:
    with cameras("mid") as [camera]:
        yield camera


@pytest.fixture
def fresh() -> Iterator[Callable[..., Camera]]:
    """Start a camera of its own for a test: `fresh("ptz")`."""
    held: list[Any] = []

    def start(profile: str = "mid", **options: Any) -> Camera:
        context = cameras(profile, **options)
        [camera] = context.__enter__()
        held.append((context, camera))
        return camera

    yield start
    for context, camera in held:
        context.__exit__(None, None, None)
        assert camera.device.errors == []


def talk(camera: Camera, raw: bytes, *, seconds: float = 5.0) -> bytes:
    """Send bytes, read until the camera closes or falls silent."""
    with socket.create_connection((camera.address, camera.port), seconds) as plain:
        plain.settimeout(0.4)
        plain.sendall(raw)
        heard = b""
        try:
            while piece := plain.recv(65536):
                heard += piece
        except TimeoutError:
            pass
        return heard


def digest(
    camera: Camera, method: str, uri: str, *, user: str = "root", password: str = PASSWORD, **fields: str
) -> str:
    """An `Authorization` header made by hand; `fields` replace what is right."""
    nonce = fields.pop("nonce", None) or _challenge(camera)["nonce"]
    realm = camera.device.auth.realm
    said = fields.pop("about", uri)
    first = hashlib.md5(f"{user}:{realm}:{password}".encode()).hexdigest()
    second = hashlib.md5(f"{method}:{said}".encode()).hexdigest()
    if "nc" in fields:
        response = hashlib.md5(f"{first}:{nonce}:{fields['nc']}:c0:auth:{second}".encode()).hexdigest()
        more = f', qop=auth, nc={fields["nc"]}, cnonce="c0"'
    else:
        response = hashlib.md5(f"{first}:{nonce}:{second}".encode()).hexdigest()
        more = ""
    response = fields.pop("response", response)
    return f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{said}", response="{response}"{more}'


def _challenge(camera: Camera) -> dict[str, str]:
    return parse_digest(httpx.get(f"{camera.url}{WHO}", trust_env=False).headers["www-authenticate"])


def send(camera: Camera, authorization: str, path: str = WHO) -> httpx.Response:
    return httpx.get(f"{camera.url}{path}", headers={"Authorization": authorization}, trust_env=False)


# --- logging in ------------------------------------------------------------------------------------------------------


def test_the_challenge_names_the_serial_md5_and_a_fresh_nonce_each_time(mid: Camera) -> None:
    first, second = _challenge(mid), _challenge(mid)
    assert first["realm"] == f"AXIS_{mid.device.serial}" == second["realm"]
    assert first["algorithm"] == "MD5" and first["qop"] == "auth"
    assert first["nonce"] != second["nonce"]


def test_a_401_has_the_headers_and_the_page_of_the_web_server(mid: Camera) -> None:
    answer = httpx.get(f"{mid.url}{PARAM}?action=list", trust_env=False)
    assert answer.status_code == 401
    assert answer.headers["server"].startswith("Apache/2.4")
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["x-frame-options"] == "SAMEORIGIN"
    assert answer.headers["content-type"] == "text/html; charset=iso-8859-1" and "401 Unauthorized" in answer.text


def test_digest_with_and_without_qop_lets_in(mid: Camera) -> None:
    assert send(mid, digest(mid, "GET", WHO)).status_code == 200
    assert send(mid, digest(mid, "GET", WHO, nc="00000001")).status_code == 200


def test_a_device_without_qop_does_not_offer_it(fresh: Callable[..., Camera]) -> None:
    camera = fresh("9.80")
    assert "qop" not in _challenge(camera)
    assert Client(camera).get(WHO).text.splitlines()[0] == "root"


def test_a_digest_about_another_uri_is_refused(mid: Camera) -> None:
    path = f"{PARAM}?action=list&group=Brand"
    assert send(mid, digest(mid, "GET", path), path).status_code == 200
    assert send(mid, digest(mid, "GET", path, about=PARAM), path).status_code == 401


def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(mid: Camera) -> None:
    wrong = send(mid, digest(mid, "GET", WHO, password="wrong"))
    unknown = send(mid, digest(mid, "GET", WHO, user="nobody"))
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text == unknown.text
    assert "stale" not in parse_digest(wrong.headers["www-authenticate"])


def test_an_expired_nonce_is_stale_and_a_new_one_comes_with_it(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    nonce = _challenge(camera)["nonce"]
    camera.device.auth.expire_nonces()
    answer = send(camera, digest(camera, "GET", WHO, nonce=nonce))
    again = parse_digest(answer.headers["www-authenticate"])
    assert answer.status_code == 401 and again["stale"] == "true" and again["nonce"] != nonce
    assert send(camera, digest(camera, "GET", WHO, nonce=again["nonce"])).status_code == 200


def test_a_nonce_lives_as_long_as_it_is_told(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    camera.device.auth.nonce_seconds = 2.0
    header = digest(camera, "GET", WHO)
    assert send(camera, header).status_code == 200
    time.sleep(2.1)
    assert parse_digest(send(camera, header).headers["www-authenticate"])["stale"] == "true"


def test_a_repeated_count_is_refused_and_counts_may_overtake_each_other(mid: Camera) -> None:
    nonce = _challenge(mid)["nonce"]
    assert send(mid, digest(mid, "GET", WHO, nonce=nonce, nc="00000002")).status_code == 200
    assert send(mid, digest(mid, "GET", WHO, nonce=nonce, nc="00000001")).status_code == 200
    assert send(mid, digest(mid, "GET", WHO, nonce=nonce, nc="00000002")).status_code == 401


def test_every_nth_login_can_find_its_nonce_expired(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    camera.device.auth.stale_every = 3
    client = Client(camera)
    assert [client.get(WHO).status_code for _ in range(8)] == [200] * 8
    assert sum(one.stale for one in camera.requests) >= 2


@pytest.mark.parametrize(
    ("policy", "transport", "schemes"),
    [
        ("basic", "http", ["basic"]), ("basic", "https", ["basic"]), ("basic", "rtsp", ["basic"]),
        ("digest", "http", ["digest"]), ("digest", "https", ["digest"]), ("digest", "rtsp", ["digest"]),
        ("basic_digest", "http", ["digest"]), ("basic_digest", "https", ["digest"]), ("basic_digest", "rtsp", ["digest", "basic"]),
        ("recommended", "http", ["digest"]), ("recommended", "https", ["basic"]), ("recommended", "rtsp", ["digest"]),
    ],
)  # fmt: skip
def test_each_policy_offers_its_schemes(policy: str, transport: Any, schemes: list[str]) -> None:
    assert offered(policy, transport) == schemes


def test_recommended_takes_basic_inside_tls_and_digest_outside_alone(fresh: Callable[..., Camera]) -> None:
    camera = fresh("new")
    inside = httpx.get(f"{camera.https_url}{WHO}", verify=False, trust_env=False)
    assert inside.headers.get_list("www-authenticate") == [f'Basic realm="AXIS_{camera.device.serial}"']
    assert Client(camera, https=True).get(WHO).status_code == 200
    assert httpx.get(f"{camera.url}{WHO}", auth=("root", PASSWORD), trust_env=False).status_code == 401
    digest_inside = httpx.get(
        f"{camera.https_url}{WHO}", auth=httpx.DigestAuth("root", PASSWORD), verify=False, trust_env=False
    )
    assert digest_inside.status_code == 401  # why the library of the cameras' fans fails there
    assert Client(camera).get(WHO).status_code == 200


def test_the_policy_is_the_parameter_anybody_may_change(fresh: Callable[..., Camera]) -> None:
    camera = fresh("new")
    assert Client(camera).get(PARAM, action="update", **{"Network.HTTP.AuthenticationPolicy": "basic"}).text == "OK"
    challenges = httpx.get(f"{camera.url}{WHO}", trust_env=False).headers.get_list("www-authenticate")
    assert challenges == [f'Basic realm="AXIS_{camera.device.serial}"']


def test_the_oldest_offers_both_schemes_at_once(fresh: Callable[..., Camera]) -> None:
    camera = fresh("ancient")
    challenges = httpx.get(f"{camera.url}{WHO}", trust_env=False).headers.get_list("www-authenticate")
    assert [challenge.split()[0] for challenge in challenges] == ["Digest", "Basic"]
    assert httpx.get(f"{camera.url}{WHO}", auth=("viewer", PASSWORD), trust_env=False).status_code == 200


def test_a_body_is_not_read_before_the_login_has_no_effect_and_leaves_the_connection_usable(mid: Camera) -> None:
    before = mid.device.params.get("ImageSource.I0.Sensor.Brightness")
    body = b"action=update&ImageSource.I0.Sensor.Brightness=1"
    head = f"POST {PARAM} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    heard = talk(mid, head + body + f"GET {WHO} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert heard.count(b"HTTP/1.1 401") == 2
    assert mid.device.params.get("ImageSource.I0.Sensor.Brightness") == before


def test_broken_json_without_a_login_is_a_401_and_with_one_an_error(mid: Camera) -> None:
    assert httpx.post(f"{mid.url}/axis-cgi/viewarea/info.cgi", content=b"{", trust_env=False).status_code == 401
    assert Client(mid).http.post("/axis-cgi/viewarea/info.cgi", content=b"{").json()["error"]["code"] == 2101


def test_a_client_that_waits_for_100_continue_gets_it(mid: Camera) -> None:
    head = f"POST {READY} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode()
    assert talk(mid, head).startswith(b"HTTP/1.1 100 ")


def test_nonsense_instead_of_http_is_a_400(mid: Camera) -> None:
    assert talk(mid, b"\x16\x03\x01 hello\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_more_than_twenty_failures_in_a_second_block_the_client_for_a_while(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    camera.device.throttle.period = 3.0
    camera.device.throttle.interval = 30.0  # a second is over soon on a busy machine
    header = digest(camera, "GET", WHO, password="wrong")
    with httpx.Client(base_url=camera.url, headers={"Authorization": header}, trust_env=False) as client:
        statuses = [client.get(WHO).status_code for _ in range(25)]
    assert statuses[:20] == [401] * 20 and statuses[-1] == 403
    assert Client(camera).get(WHO).status_code == 403  # right credentials too
    time.sleep(3.1)
    assert Client(camera).get(WHO).status_code == 200


def test_a_blocked_client_can_get_a_503_or_a_reset(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    client = Client(camera)
    for _ in range(21):
        camera.device.throttle.failed(client_address(camera))
    camera.device.throttle.answer = 503
    assert client.get(WHO).status_code == 503
    camera.device.throttle.answer = "reset"
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        client.get(WHO)


def client_address(camera: Camera) -> str:
    """The address the camera sees us come from."""
    Client(camera, None).get("/")
    return camera.requests[-1].client


def test_the_guard_forgets_failures_older_than_its_interval() -> None:
    now = [0.0]
    guard = Throttle(clock=lambda: now[0])
    for _ in range(50):
        guard.failed("a")
        now[0] += 0.1
    assert not guard.blocks("a")
    for _ in range(21):
        guard.failed("a")
    assert guard.blocks("a") and not guard.blocks("b")
    now[0] += 10.1
    assert not guard.blocks("a")


def test_without_an_account_nobody_gets_in_and_the_device_says_so(fresh: Callable[..., Camera]) -> None:
    camera = fresh("needs-setup")
    assert Client(camera).get(WHO).status_code == 401
    assert Client(camera, None).call(READY, "systemready")["data"]["needsetup"] == "yes"


def test_passwords_never_show_in_the_log_of_requests(fresh: Callable[..., Camera]) -> None:
    camera = fresh("new")
    Client(camera, https=True).get(WHO)
    assert camera.requests[-1].credentials == "basic" and camera.requests[-1].account == "root"
    assert "authorization" not in camera.requests[-1].headers and PASSWORD not in repr(camera.requests)


# --- levels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method", "lowest"),
    [(WHO, None, "viewer"), ("/axis-cgi/pwdgrp.cgi?action=get", None, "root"), (INFO, "getAllProperties", "operator"),
     ("/axis-cgi/applications/list.cgi", None, "root")],
)  # fmt: skip
def test_each_api_takes_accounts_from_its_level_on(mid: Camera, path: str, method: str | None, lowest: str) -> None:
    order = ["viewer", "operator", "root"]
    for user in order:
        client = Client(mid, user).http
        answer = client.post(path, json={"apiVersion": "1.0", "method": method}) if method else client.get(path)
        assert (answer.status_code == 200) == (order.index(user) >= order.index(lowest)), user


def test_too_low_a_level_is_a_401_a_403_or_a_json_error(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    client, path = Client(camera, "viewer"), "/axis-cgi/viewarea/configure.cgi"
    asked = {"apiVersion": "1.0", "method": "resetGeometry", "context": "c"}
    assert client.http.post(path, json=asked).status_code == 401
    camera.device.insufficient = "403"
    assert client.http.post(path, json=asked).status_code == 403
    camera.device.insufficient = "json"
    answer = client.http.post(path, json=asked)
    assert answer.status_code == 200 and answer.json()["error"]["code"] == 2105 and answer.json()["context"] == "c"
    assert (
        Client(camera, "viewer")
        .http.post(INFO, json={"apiVersion": "1.0", "method": "getAllProperties"})
        .json()["error"]["code"]
        == 2001
    )


def test_who_one_is_has_a_line_for_the_name_and_one_for_the_groups(mid: Camera) -> None:
    assert Client(mid, "ptz").get(WHO).text == "ptz\nusers ptz viewer\n"
    name, groups = Client(mid, "operator").get(WHO).text.splitlines()
    assert name == "operator" and set(groups.split()) == {"users", "operator", "viewer", "ptz"}


def test_an_anonymous_viewer_sees_without_logging_in_where_that_is_allowed(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    camera.device.anonymous_viewer = True
    nobody = Client(camera, None)
    assert nobody.get(PARAM, action="list", group="Brand.Brand").text == "Brand.Brand=AXIS\n"
    assert nobody.get(PARAM, action="update", **{"ImageSource.I0.Sensor.Contrast": "1"}).status_code == 401


def test_accounts_are_listed_added_and_removed_by_an_administrator(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    client = Client(camera)
    listed = client.get("/axis-cgi/pwdgrp.cgi", action="get").text
    assert 'operator="root,operator"' in listed and 'digusers="' in listed
    form = {"action": "add", "user": "new1", "pwd": "secret", "grp": "users", "sgrp": "viewer:operator"}
    assert "Created account new1." in client.http.post("/axis-cgi/pwdgrp.cgi", data=form).text
    assert "already exists" in client.http.post("/axis-cgi/pwdgrp.cgi", data=form).text
    assert "Error: account user name." in client.get("/axis-cgi/pwdgrp.cgi", action="add", user="a b", pwd="x").text
    assert "Error: invalid password." in client.get("/axis-cgi/pwdgrp.cgi", action="add", user="ab", pwd="").text
    assert "Removed account new1." in client.get("/axis-cgi/pwdgrp.cgi", action="remove", user="new1").text


# --- paths and verbs -----------------------------------------------------------------------------------------------------


def test_an_unknown_path_is_a_401_without_and_an_html_404_with_credentials(mid: Camera) -> None:
    assert Client(mid, None).get("/axis-cgi/nothing.cgi").status_code == 401
    answer = Client(mid).get("/axis-cgi/nothing.cgi")
    assert answer.status_code == 404 and answer.headers["content-type"].startswith("text/html")
    assert Client(mid, None).get("/nothing").status_code == 404


def test_the_wrong_verb_is_a_405_or_the_apis_own_error(mid: Camera) -> None:
    assert Client(mid).http.put(PARAM).status_code == 405
    assert Client(mid).get(INFO).json()["error"]["code"] == 2002
    assert Client(mid).get("/axis-cgi/apidiscovery.cgi").json()["error"]["code"] == 2002


def test_an_api_the_firmware_does_not_have_is_a_404(fresh: Callable[..., Camera]) -> None:
    old = fresh("old")
    for path in ("/axis-cgi/apidiscovery.cgi", INFO, READY):
        assert Client(old).http.post(path, json={"apiVersion": "1.0", "method": "getApiList"}).status_code == 404


def test_a_body_too_large_is_drained_and_refused(mid: Camera) -> None:
    client = Client(mid)
    client.get(WHO)
    assert client.http.post(PARAM, content=b"x" * (5 * 1024 * 1024)).status_code == 413
    assert client.get(WHO).status_code == 200


# --- the JSON envelope -------------------------------------------------------------------------------------------------


def test_the_context_comes_back_only_when_it_was_sent_and_the_version_is_the_devices(mid: Camera) -> None:
    client = Client(mid)
    without = client.call("/axis-cgi/apidiscovery.cgi", "getApiList")
    assert "context" not in without and without["apiVersion"] == "1.1" and without["method"] == "getApiList"
    asked = {"apiVersion": "1.0", "method": "getApiList", "context": "Axis library"}
    assert client.http.post("/axis-cgi/apidiscovery.cgi", json=asked).json()["context"] == "Axis library"


def test_basic_device_info_answers_without_the_method(mid: Camera) -> None:
    answer = Client(mid, None).call(INFO, "getAllUnrestrictedProperties")
    assert "method" not in answer
    assert answer["data"]["propertyList"]["SerialNumber"] == mid.device.serial
    assert not {"Architecture", "Soc", "SocSerialNumber"} & answer["data"]["propertyList"].keys()


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"apiVersion": "1.0", "method": "nothing"}, 2004),
        ({"apiVersion": "9.0", "method": "getApiList"}, 2003),
        ({"apiVersion": "1.9", "method": "getApiList"}, 2003),
        ({"apiVersion": "1.0"}, 4002),
        ({"method": "getApiList"}, 4002),
        ([], 4000),
    ],
)
def test_a_json_api_says_what_is_wrong_by_its_own_number(mid: Camera, asked: Any, code: int) -> None:
    answer = Client(mid, None).http.post("/axis-cgi/apidiscovery.cgi", json=asked).json()
    assert answer["error"]["code"] == code and "data" not in answer


def test_supported_versions_are_asked_without_a_version(mid: Camera) -> None:
    answer = Client(mid, None).call("/axis-cgi/apidiscovery.cgi", "getSupportedVersions", None)
    assert answer == {"method": "getSupportedVersions", "data": {"apiVersions": ["1.1"]}}


def test_the_order_of_keys_and_apis_is_nobodys_promise(mid: Camera) -> None:
    answers = [
        Client(mid, None)
        .http.post("/axis-cgi/apidiscovery.cgi", json={"apiVersion": "1.0", "method": "getApiList"})
        .text
        for _ in range(12)
    ]
    assert len(set(answers)) > 1
    assert len({json.dumps(sorted(str(api) for api in json.loads(text)["data"]["apiList"])) for text in answers}) == 1


def test_discovery_filters_by_globs_and_knows_no_unknown(mid: Camera) -> None:
    client = Client(mid, None)
    found = client.call("/axis-cgi/apidiscovery.cgi", "getApiList", id="disk-*")["data"]["apiList"]
    assert {api["id"] for api in found} == {"disk-management", "disk-properties", "disk-network-share"}
    assert client.call("/axis-cgi/apidiscovery.cgi", "getApiList", id="nothing")["data"] == {"apiList": []}


def test_the_track_980_wants_a_login_for_discovery_and_names_no_status(fresh: Callable[..., Camera]) -> None:
    camera = fresh("9.80")
    asked = {"apiVersion": "1.0", "method": "getApiList"}
    assert httpx.post(f"{camera.url}/axis-cgi/apidiscovery.cgi", json=asked, trust_env=False).status_code == 401
    answer = Client(camera).http.post("/axis-cgi/apidiscovery.cgi", json=asked)
    assert answer.headers["content-type"] == "application/json;charset=utf8" and answer.json()["apiVersion"] == "1.0"
    assert all("status" not in api for api in answer.json()["data"]["apiList"])
    assert Client(camera).call(INFO, "getAllUnrestrictedProperties")["error"]["code"] == 2004


def test_properties_can_be_asked_one_by_one(mid: Camera) -> None:
    client = Client(mid, "operator")
    assert client.call(INFO, "getProperties", propertyList=["Version"])["data"] == {
        "propertyList": {"Version": "11.11.150"}
    }
    assert client.call(INFO, "getProperties", propertyList=["Colour"])["error"]["code"] == 1000
    assert len(client.call(INFO, "getAllProperties")["data"]["propertyList"]) == 14


def test_unknown_keys_are_ignored_or_refused_as_told(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    client, asked = Client(camera, None), {"apiVersion": "1.0", "method": "getApiList", "colour": "red"}
    assert "data" in client.http.post("/axis-cgi/apidiscovery.cgi", json=asked).json()
    camera.device.strict_json = True
    assert client.http.post("/axis-cgi/apidiscovery.cgi", json=asked).json()["error"]["code"] == 1000


def test_temperatures_are_for_operators(mid: Camera) -> None:
    path = "/axis-cgi/temperaturecontrol.cgi"
    assert Client(mid, "viewer").get(path, action="statusall").status_code == 401
    assert "Sensor.S0.Celsius=41.25\n" in Client(mid, "operator").get(path, action="statusall").text


# --- param.cgi ---------------------------------------------------------------------------------------------------------


def test_names_begin_with_root_where_the_request_did_or_named_no_group(mid: Camera) -> None:
    client = Client(mid)
    assert client.get(PARAM, action="list", group="root.Brand.Brand").text == "root.Brand.Brand=AXIS\n"
    assert client.get(PARAM, action="list", group="Brand.Brand").text == "Brand.Brand=AXIS\n"
    lines = client.get(PARAM, action="list").text.splitlines()
    assert len(lines) > 300 and all(line.startswith("root.") and "=" in line for line in lines)


def test_groups_come_as_a_list_and_with_a_star_a_level(mid: Camera) -> None:
    client = Client(mid)
    both = client.get(PARAM, action="list", group="Brand.ProdNbr,root.Properties.Firmware.Version").text
    assert both == "Brand.ProdNbr=P3245-SIM\nroot.Properties.Firmware.Version=11.11.150\n"
    starred = client.get(PARAM, action="list", group="Image.*.Enabled").text.splitlines()
    assert starred[:2] == ["Image.I0.Enabled=yes", "Image.I1.Enabled=no"] and len(starred) == 8


def test_an_unknown_group_is_an_error_at_200_and_the_known_ones_are_listed(mid: Camera) -> None:
    answer = Client(mid).get(PARAM, action="list", group="Properties.Nothing,Brand.Brand")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/plain"
    assert answer.text == "# Error: Error -1 getting param in group 'Properties.Nothing'\nBrand.Brand=AXIS\n"


def test_a_form_is_read_whatever_its_type_says(mid: Camera) -> None:
    answer = Client(mid).http.post(
        PARAM, content=b"action=list&group=root.Brand.Brand", headers={"Content-Type": "text/plain"}
    )
    assert answer.text == "root.Brand.Brand=AXIS\n"


def test_an_update_is_ok_without_a_newline_and_reads_back(fresh: Callable[..., Camera]) -> None:
    client = Client(fresh("mid"), "operator")
    assert (
        client.get(
            PARAM,
            action="update",
            **{"ImageSource.I0.Sensor.Brightness": "55", "root.ImageSource.I0.Sensor.WDR": "off"},
        ).text
        == "OK"
    )
    assert (
        client.get(PARAM, action="list", group="ImageSource.I0.Sensor.Brightness").text
        == "ImageSource.I0.Sensor.Brightness=55\n"
    )


def test_of_several_values_the_good_ones_are_set_and_the_bad_ones_named(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    wanted = {"ImageSource.I0.Sensor.Brightness": "77", "ImageSource.I0.Sensor.Contrast": "500", "Image.I0.Foo": "bar"}
    text = Client(camera, "operator").get(PARAM, action="update", **wanted).text
    assert text.splitlines() == [
        "# Error: Error setting 'root.ImageSource.I0.Sensor.Contrast' to '500'!",
        "# Error: Error setting 'root.Image.I0.Foo' to 'bar'!",
    ]
    assert camera.device.params.get("ImageSource.I0.Sensor.Brightness") == "77"
    assert camera.device.params.get("ImageSource.I0.Sensor.Contrast") == "50"


def test_values_may_hold_every_sign_a_url_can_carry(fresh: Callable[..., Camera]) -> None:
    client = Client(fresh("mid"), "operator")
    value = "a=b&c:d/e\\f 100% ü"
    assert client.get(PARAM, action="update", **{"Image.I0.Text.String": value}).text == "OK"
    assert client.get(PARAM, action="list", group="Image.I0.Text.String").text == f"Image.I0.Text.String={value}\n"


def test_a_viewer_may_read_some_and_write_none(mid: Camera) -> None:
    viewer = Client(mid, "viewer")
    assert viewer.get(PARAM, action="update", **{"ImageSource.I0.Sensor.Brightness": "1"}).status_code == 401
    assert "# Error" in viewer.get(PARAM, action="list", group="Image.I0.Text.String").text
    listed = viewer.get(PARAM, action="list").text
    assert "root.ImageSource.I0.Sensor.Brightness=" in listed and "root.Network.SSH.Enabled" not in listed


def test_nobody_writes_what_is_read_only(mid: Camera) -> None:
    text = Client(mid).get(PARAM, action="update", **{"Properties.PTZ.PTZ": "no"}).text
    assert text == "# Error: Error setting 'root.Properties.PTZ.PTZ' to 'no'!\n"


def test_a_group_of_users_lowers_what_one_sees_and_never_raises_it(mid: Camera) -> None:
    assert "root.Network.SSH" not in Client(mid).get(PARAM, action="list", usergroup="viewer").text
    assert "root.Network.SSH" not in Client(mid, "viewer").get(PARAM, action="list", usergroup="admin").text
    open_to_all = Client(mid, None).get(PARAM, action="list", usergroup="anonymous")
    assert open_to_all.status_code == 200
    assert {line.split(".")[1] for line in open_to_all.text.splitlines()} == {"Brand", "Properties"}


def test_an_invalid_scene_is_answered_with_ok_and_changes_nothing(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    assert Client(camera).get(PARAM, action="update", **{"ImageSource.I0.SceneProfile": "party"}).text == "OK"
    assert camera.device.params.get("ImageSource.I0.SceneProfile") == "forensic"


def test_a_number_can_be_clamped_instead_of_refused(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    camera.device.params.clamped.add("ImageSource.I0.Sensor.Sharpness")
    assert Client(camera).get(PARAM, action="update", **{"ImageSource.I0.Sensor.Sharpness": "900"}).text == "OK"
    assert camera.device.params.get("ImageSource.I0.Sensor.Sharpness") == "100"


def test_a_password_is_masked_and_a_community_is_not(mid: Camera) -> None:
    listed = Client(mid).get(PARAM, action="list", group="RemoteService,SNMP").text
    assert (
        "RemoteService.ProxyPassword=******\n" in listed and "SNMP.V1ReadCommunity=not-masked-by-the-device\n" in listed
    )


def test_entries_are_added_from_a_template_numbered_and_removed(fresh: Callable[..., Camera]) -> None:
    client = Client(fresh("mid"), "operator")
    form = {"action": "add", "template": "streamprofile", "group": "StreamProfile", "StreamProfile.S.Name": "low"}
    form |= {"StreamProfile.S.Description": "x", "StreamProfile.S.Parameters": "resolution=640x360&fps=5"}
    assert client.http.post(PARAM, data=form).text == "S0 OK\n"
    assert client.http.post(PARAM, data=form).text == "S1 OK\n"
    assert (
        "StreamProfile.S0.Parameters=resolution=640x360&fps=5\n"
        in client.get(PARAM, action="list", group="StreamProfile").text
    )
    assert client.get(PARAM, action="remove", group="root.StreamProfile.S0").text == "OK"
    assert client.http.post(PARAM, data=form).text == "S0 OK\n"
    assert client.get(PARAM, action="remove", group="StreamProfile.S9").text.startswith("# Request failed:")
    assert client.get(PARAM, action="remove", group="Brand").text.startswith("# Request failed:")


def test_a_partial_add_names_what_failed_and_adds_all_the_same(fresh: Callable[..., Camera]) -> None:
    client = Client(fresh("mid"), "operator")
    form = {"action": "add", "template": "streamprofile", "group": "StreamProfile", "StreamProfile.S.Colour": "red"}
    first, last = client.http.post(PARAM, data=form).text.splitlines()
    assert first.startswith("# Error:") and last == "S0 OK"
    assert client.http.post(PARAM, data=form | {"template": "nothing"}).text.startswith("# Request failed:")


def test_there_is_room_for_so_many_entries_and_no_more() -> None:
    tree = Device("mid").params
    for number in range(26):
        assert tree.add_entry("streamprofile", {"Name": f"p{number}"})[0] == f"S{number}"
    with pytest.raises(ValueError, match="Max number"):
        tree.add_entry("streamprofile", {"Name": "one more"})


def test_a_viewer_adds_and_removes_nothing(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    camera.device.params.add_entry("streamprofile", {"Name": "a"})
    viewer = Client(camera, "viewer")
    form = {"action": "add", "template": "streamprofile", "group": "StreamProfile", "StreamProfile.S.Name": "b"}
    assert viewer.http.post(PARAM, data=form).status_code == 401
    assert viewer.get(PARAM, action="remove", group="StreamProfile.S0").status_code == 401
    assert camera.device.params.entries("StreamProfile", "S") == ["S0"]


def test_definitions_say_types_ranges_and_levels(mid: Camera) -> None:
    answer = Client(mid).get(
        PARAM, action="listdefinitions", listformat="xmlschema", group="ImageSource.I0.DayNight,RemoteService"
    )
    assert answer.headers["content-type"] == "text/xml" and answer.content.startswith(
        b'<?xml version="1.0" encoding="ISO-8859-1"?>'
    )
    root = ET.fromstring(answer.content)
    space = {"d": "http://www.axis.com/ParameterDefinitionsSchema"}
    path = (
        "d:group[@name='root']/d:group[@name='ImageSource']/d:group[@name='I0']/d:group[@name='DayNight']/d:parameter"
    )
    irc, shift = root.findall(path, space)
    assert irc.attrib == {"name": "IrCutFilter", "value": "auto", "securityLevel": "7714", "niceName": "IR cut filter"}
    assert [entry.get("value") for entry in irc.findall("d:type/d:enum/d:entry", space)] == ["no", "yes", "auto"]
    number = shift.find("d:type/d:int", space)
    assert number is not None and number.attrib == {"min": "0", "max": "100", "maxlen": "3"}
    secret = root.find(".//d:parameter[@name='ProxyPassword']", space)
    assert (
        secret is not None and secret.get("value") == "******" and secret.find("d:type/d:password", space) is not None
    )
    assert root.findtext("d:firmwareVersion", None, space) == "11.11.150"


@pytest.mark.parametrize("profile", PROFILES)
def test_all_definitions_of_every_profile_are_well_formed_and_hold_their_values(profile: str) -> None:
    device = Device(profile)
    tree = device.params
    root = ET.fromstring(tree.definitions_xml([""], 9, model=device.model, firmware=device.firmware))
    assert len(list(root.iter("{http://www.axis.com/ParameterDefinitionsSchema}parameter"))) == len(tree.names())
    wrong = {name: tree.get(name) for name in tree.names() if not tree.definitions[name].allows(tree.get(name))}
    assert not wrong
    assert not [name for name in tree.names() if "{" in name + tree.get(name)]


def test_old_devices_answer_in_latin_1(fresh: Callable[..., Camera]) -> None:
    client = Client(fresh("ancient"))
    client.http.get(f"{PARAM}?action=update&Image.I0.Text.String=Stra%DFe")
    assert client.get(
        PARAM, action="list", group="Image.I0.Text.String"
    ).content == "Image.I0.Text.String=Straße\n".encode("latin-1")


def test_unknown_and_repeated_arguments_are_errors_at_200(mid: Camera) -> None:
    client = Client(mid)
    assert client.get(PARAM, action="list", group="Brand", colour="red").text == "# Error: Invalid argument 'colour'\n"
    assert client.http.get(f"{PARAM}?action=list&group=Brand&group=Image").text == "# Error: Invalid argument 'group'\n"


def test_percent_signs_are_decoded_and_a_raw_backslash_is_taken(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    raw = r"/axis-cgi/param.cgi?action=update&Image.I0.Text.String=a%2Fb%5Cc%3Ad\e"
    header = digest(camera, "GET", raw)
    heard = talk(camera, f"GET {raw} HTTP/1.1\r\nHost: x\r\nAuthorization: {header}\r\n\r\n".encode())
    assert heard.endswith(b"OK") and camera.device.params.get("Image.I0.Text.String") == r"a/b\c:d\e"


def test_an_unknown_action_is_an_error_at_200(mid: Camera) -> None:
    assert Client(mid).get(PARAM, action="explode").text.startswith("# Error:")
    assert Client(mid).get(PARAM, action="listdefinitions").text.startswith("# Error:")


def test_other_apis_hear_of_changes_and_write_the_same_tree() -> None:
    tree, heard = ParameterTree(), []
    tree.define("[A.B 7714]\nC = 1 | int 0..9\nD = no | bool yes/no\n")
    tree.watch("A.B", lambda name, value: heard.append((name, value)))
    assert tree.update("root.A.B.C", "5", 4) is Update.DONE and tree.update("A.B.C", "5", 1) is Update.FORBIDDEN
    tree.set("A.B.D", True)
    tree.set("A.B.D", True)
    assert heard == [("A.B.C", "5"), ("A.B.D", "yes")] and tree.flag("A.B.D") and tree.number("A.B.C") == 5
    with pytest.raises(ValueError, match="line 1"):
        parse("neither")


# --- faults ------------------------------------------------------------------------------------------------------------


def faulty(camera: Camera, kind: Any, path: str = WHO, **options: Any) -> Client:
    camera.device.faults.add(path, Fault(kind, **options))
    return Client(camera)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("close", httpx.RemoteProtocolError),
        ("truncate", httpx.RemoteProtocolError),
        ("reset", (httpx.ReadError, httpx.RemoteProtocolError)),
    ],
)
def test_a_broken_connection_is_one_and_the_next_request_goes_well(
    fresh: Callable[..., Camera], kind: str, error: Any
) -> None:
    client = faulty(fresh("mid"), kind)
    with pytest.raises(error):
        client.get(WHO)
    assert client.get(WHO).status_code == 200


def test_a_hanging_api_hangs_and_the_others_answer(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    client = faulty(camera, "hang", count=None)
    client.http.timeout = httpx.Timeout(0.5)
    with pytest.raises(httpx.ReadTimeout):
        client.get(WHO)
    assert Client(camera).get(PARAM, action="list", group="Brand").status_code == 200
    camera.device.faults.clear()
    assert Client(camera).get(WHO).status_code == 200


def test_a_fault_hits_what_would_reach_the_api_so_often_and_no_more(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    fault = camera.device.faults.add("/axis-cgi/*", Fault("503-retry", count=2, skip=1, seconds=7))
    client = Client(camera)
    answers = [client.get(WHO) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 503, 503, 200]
    assert answers[1].headers["retry-after"] == "7" and fault.hits == 2


def test_a_fault_can_hit_before_anybody_logs_in_and_one_method_alone(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    camera.device.faults.add(WHO, Fault("500", bare=True))
    assert httpx.get(f"{camera.url}{WHO}", trust_env=False).status_code == 500
    camera.device.faults.add(INFO, Fault("500-json", method="getAllProperties"))
    assert (
        Client(camera)
        .http.post(INFO, json={"apiVersion": "1.0", "method": "getProperties", "params": {"propertyList": []}})
        .status_code
        == 200
    )
    assert Client(camera).http.post(INFO, json={"apiVersion": "1.0", "method": "getAllProperties"}).status_code == 500


def test_what_is_lost_on_the_way_back_has_happened_or_not_as_told(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    name = "ImageSource.I0.Sensor.Brightness"
    for effect, left in ((False, "50"), (True, "7")):
        client = faulty(camera, "close", PARAM, effect=effect)
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(PARAM, action="update", **{name: "7"})
        assert camera.device.params.get(name) == left


def test_answers_can_be_spoilt_in_every_way(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")

    def spoilt(kind: Any, **options: Any) -> httpx.Response:
        client = faulty(camera, kind, INFO, **options)
        return client.http.post(INFO, json={"apiVersion": "1.0", "method": "getAllUnrestrictedProperties"})

    assert "<form" in spoilt("html").text and spoilt("empty").content == b""
    with pytest.raises(ValueError, match=r"Expecting|decode|Invalid|Unterminated|codec"):
        spoilt("truncate-json").json()
    with pytest.raises(ValueError, match=r"Expecting|decode|Invalid|Unterminated|codec"):
        json.loads(spoilt("garbage").content)
    assert spoilt("content-type").headers["content-type"] == "application/octet-stream"
    with pytest.raises(UnicodeDecodeError):
        spoilt("charset").content.decode()
    assert len(spoilt("oversized", size=100_000).content) > 100_000
    assert {"data", "error"} <= spoilt("both").json().keys() and not {"data", "error"} & spoilt("neither").json().keys()
    assert spoilt("code-as-string").json()["error"]["code"] == "1000"
    assert spoilt("duplicate-keys").text.count('"data"') == 2
    assert b"<!DOCTYPE" in spoilt("doctype").content
    assert spoilt("param-error").text.startswith("# Error:") and spoilt("error-text").text.startswith("Error:")
    assert spoilt("redirect").headers["location"].startswith("http://198.51.100.7/")
    assert spoilt("redirect-https").headers["location"] == f"https://{camera.address}{INFO}"
    assert [spoilt(kind).status_code for kind in ("404", "405", "429", "500", "503")] == [404, 405, 429, 500, 503]


def test_a_gzip_bomb_is_small_on_the_wire(fresh: Callable[..., Camera]) -> None:
    client = faulty(fresh("mid"), "gzip-bomb", size=10_000_000)
    with client.http.stream("GET", WHO) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip" and len(raw) < 20_000
    assert len(zlib.decompress(raw, 31)) == len(gzip.decompress(raw)) == 10_000_000


def test_an_answer_can_be_late_and_slow(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    client = faulty(camera, "delay", seconds=0.3)
    began = time.monotonic()
    assert client.get(WHO).status_code == 200 and time.monotonic() - began >= 0.3
    client = faulty(camera, "slow", seconds=0.02)
    assert client.get(WHO).text.startswith("root\n")


def test_a_stale_nonce_on_demand_is_answered_by_a_client_once_more(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    client = Client(camera)
    client.get(WHO)
    camera.device.faults.add(WHO, "stale")
    assert client.get(WHO).status_code == 200
    assert [one.status for one in camera.requests][-2:] == [401, 200]


def test_a_reboot_refuses_then_starts_then_has_another_boot_id(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    client = Client(camera, None)
    before = client.call(READY, "systemready")["data"]
    hooked: list[bool] = []
    camera.device.on_reboot(lambda: hooked.append(True))
    camera.device.reboot(1.0, 1.0)
    time.sleep(0.1)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((camera.address, camera.port), 1)
    until = time.monotonic() + 10
    states = []
    while time.monotonic() < until and "yes" not in states:
        try:
            states.append(client.call(READY, "systemready")["data"]["systemready"])
            if states[-1] == "no" and (other := client.get(WHO).status_code) != 503:
                assert other == 401 and camera.device.ready  # it became ready between the two
        except httpx.TransportError:
            time.sleep(0.05)
    after = client.call(READY, "systemready")["data"]
    assert states[0] == "no" and states[-1] == "yes" and hooked == [True]
    assert after["bootid"] != before["bootid"] and int(after["uptime"]) < 10 < int(before["uptime"])


def test_a_camera_that_is_asked_to_wait_answers_when_it_has_started(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    camera.device.ready = False
    camera.device.later(0.3, lambda: setattr(camera.device, "ready", True))
    assert Client(camera, None).call(READY, "systemready", timeout=5)["data"]["systemready"] == "yes"


def test_a_camera_can_refuse_connections_and_accept_them_again(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    camera.device.refuse()
    with pytest.raises(httpx.ConnectError):
        Client(camera).get(WHO)
    camera.device.refuse(False)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            assert Client(camera).get(WHO).status_code == 200
            break
        except httpx.ConnectError:
            time.sleep(0.05)
    else:
        pytest.fail("it stays shut")


def test_the_certificate_is_for_the_serial_and_another_one_after_a_change(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")

    def presented() -> str:
        return hashlib.sha256(
            ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((camera.address, camera.https_port)))
        ).hexdigest()

    first = presented()
    assert first == camera.fingerprint
    assert camera.change_certificate() == presented() != first


def test_a_wrong_clock_shows_in_the_date(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid", clock_offset=-86_400.0)
    said = parsedate_to_datetime(Client(camera, None).get("/").headers["date"])
    assert 86_300 < (datetime.now(UTC) - said).total_seconds() < 86_500


# --- events, requests, fleets --------------------------------------------------------------------------------------------


def test_events_reach_subscribers_once_per_change_and_new_ones_get_what_is_so_now() -> None:
    device = Device("mid")
    topic = "tns1:Device/Mine"
    device.emit(topic, {"port": 40}, {"state": False})
    heard: list[tuple[str, str]] = []
    mine = {topic, "tns1:Device/Pulse"}
    end = device.subscribe(
        lambda event: heard.append((event.operation, event.data["state"])) if event.topic in mine else None,
        initial=True,
    )
    device.emit(topic, {"port": 40}, {"state": True})
    device.emit(topic, {"port": 40}, {"state": True})
    device.emit("tns1:Device/Pulse", {}, {"state": "x"}, stateful=False)
    end()
    device.emit(topic, {"port": 40}, {"state": False})
    assert heard == [("Initialized", "0"), ("Changed", "1"), ("Changed", "x")]
    assert device.subscribers == 0


def test_events_from_a_tests_thread_are_told_in_the_cameras_own(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    loops: list[Any] = []
    camera.device.subscribe(lambda event: loops.append(asyncio.get_running_loop()))
    camera.device.emit("tns1:A/B", {}, {"x": 1})
    assert len(loops) == 1


def test_the_log_tells_how_many_requests_were_in_flight(fresh: Callable[..., Camera]) -> None:
    camera = fresh("mid")
    camera.device.faults.add(WHO, Fault("delay", seconds=0.3, count=None))

    async def together() -> None:
        async with httpx.AsyncClient(base_url=camera.url, trust_env=False) as client:
            await asyncio.gather(*(client.get(WHO, auth=httpx.DigestAuth("viewer", PASSWORD)) for _ in range(3)))

    asyncio.run(together())
    assert camera.most_in_flight == 3
    entry = camera.asked(WHO)[0]
    assert (entry.account, entry.credentials, entry.status) == ("viewer", "digest", 200) and (entry.seconds or 0) >= 0.3


def test_a_hundred_cameras_share_ports_and_answer_each_by_its_own_serial() -> None:
    with cameras(*["mid"] * 100) as fleet:
        assert len({camera.address for camera in fleet}) == 100 and len({camera.port for camera in fleet}) == 1

        async def ask() -> list[str]:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
                asked = {"apiVersion": "1.0", "method": "getAllUnrestrictedProperties"}
                answers = await asyncio.gather(*(client.post(f"{camera.url}{INFO}", json=asked) for camera in fleet))
            return [answer.json()["data"]["propertyList"]["SerialNumber"] for answer in answers]

        assert asyncio.run(ask()) == [camera.device.serial for camera in fleet]
        assert len({camera.fingerprint for camera in fleet}) == 1


# --- profiles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_says_what_it_is_by_parameters(profile: str, fresh: Callable[..., Camera]) -> None:
    camera = fresh(profile)
    camera.device.auth.refuse_all = False
    text = Client(camera).get(PARAM, action="list", group="root.Properties.System.SerialNumber,root.Brand.ProdNbr").text
    assert f"SerialNumber={camera.device.serial}" in text and "-SIM" in text
    assert re.fullmatch(r"(B8A44F|ACCC8E|00408C)[0-9A-F]{6}", camera.device.serial)
    assert camera.device.mac.replace(":", "").upper() == camera.device.serial


def test_a_sensor_without_video_has_no_properties_of_an_image(fresh: Callable[..., Camera]) -> None:
    answer = Client(fresh("bare")).get(PARAM, action="list", group="Properties.Image.Resolution")
    assert answer.text == "# Error: Error -1 getting param in group 'Properties.Image.Resolution'\n"


def test_view_areas_map_cameras_to_the_sensor(mid: Camera) -> None:
    found = Client(mid, "viewer").call("/axis-cgi/viewarea/info.cgi", "list")["data"]["viewAreas"]
    assert [area["camera"] for area in found] == list(range(1, 9)) and not found[0]["configurable"]
    assert found[1]["canvasSize"] == {"horizontal": 1920, "vertical": 1080}


def test_an_installer_can_mean_harm(fresh: Callable[..., Camera]) -> None:
    camera = fresh(
        "mid", names=dict.fromkeys(("view", "source", "port", "text", "friendly", "model", "profile"), HOSTILE)
    )
    client = Client(camera)
    assert HOSTILE.encode() in client.get(PARAM, action="list", group="Image.I0.Name").content
    named = client.call(INFO, "getAllUnrestrictedProperties")["data"]["propertyList"]["ProdFullName"]
    assert named == HOSTILE == camera.device.params.get("StreamProfile.S0.Name")


def test_the_log_forgets_the_oldest_of_very_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.demo.axis_camera._device.MOST_REQUESTS", 10)
    device = Device("mid")
    for number in range(25):
        device.remember(Logged("GET", f"/{number}", "", "http", "127.0.0.1"))
    assert len(device.requests) <= 10 and device.requests[-1].path == "/24"


def test_serials_of_two_cameras_differ_and_an_unknown_profile_names_those_there_are() -> None:
    assert len({Device("mid", index=index).serial for index in range(300)}) == 300
    assert find_profile("12.9").name == "new"
    with pytest.raises(ValueError, match=r"ancient, old, 9\.80, mid"):
        find_profile("P9999")


def test_an_account_shows_its_groups_and_not_its_password() -> None:
    account = Account("a", "secret", "operator", ptz=True)
    assert account.groups == ["operator", "viewer", "ptz"] and "secret" not in repr(account)
    assert not Authenticator("AXIS_0", {"a": account}).judge("Basic !!!", "GET", "/", ["basic"]).account
