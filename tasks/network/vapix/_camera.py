"""One camera: a conversation that is held alone, logged in once, paced, and read by the family of each function's answers.

`_fleet.each_camera` makes these. One request is under way at a time; what the camera is and can do is asked once and remembered until it
starts again or gets other firmware.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar
from xml.etree.ElementTree import Element

from blocks._trust import trust
from blocks.axis import AxisCredentials, unchecked
from tasks.core.db.devices import conversation
from tasks.core.delivery import PinnedUrl
from tasks.core.errors import (
    Busy,
    InvalidParameters,
    Rejected,
    ToolError,
    Unanswered,
    Unauthorized,
    Unreachable,
    Unsupported,
    Untrusted,
)
from tasks.core.http import Answer, Session, Stream
from tasks.network.probe._certificate import Parsed
from tasks.network.probe._connection import OPENING_PACKETS, SEGMENT_BYTES, Pace
from tasks.network.probe._http_exchange import EXCHANGE_PACKETS, TLS_PACKETS
from tasks.network.vapix._auth import CameraLogin, LoginSecrets, Passerby
from tasks.network.vapix._wire import (
    CLASSIC,
    MOST_BYTES,
    Capabilities,
    Declined,
    Definition,
    DeviceId,
    Level,
    Meanings,
    Missing,
    NeedsSetup,
    Nonsense,
    NotReady,
    Rank,
    data_of,
    decode,
    parse_json,
    parse_level,
    parse_parameters,
    raise_for_json,
    raise_for_text,
    said,
    version_tuple,
)
from tasks.network.vapix._xml import child, children, envelope, local, parse_xml, unwrap

T = TypeVar("T")

OTHERS_SECONDS = 15.0
"""Longest wait for another run that talks with the same camera."""
CACHE_SECONDS = 3600.0
"""How long what a camera can do is remembered, when it says by its boot id that it has not started again meanwhile."""
BLIND_CACHE_SECONDS = 300.0
"""The same for cameras that have no boot id."""
_DISCOVERY_SINCE = (8, 50)
"""The first AXIS OS that lists its APIs."""
ANONYMOUS_PORT = 80
"""Where cameras are asked what they tell anybody, when nobody says another port."""
LARGE_BYTES = 64 << 10
"""Longer answers take so long to read that others would wait for it."""
_SHOWN = "The password was sent in clear text: the block allows it."
MAY_HAVE = "It may have done what was asked: look there before you send it again."

SYSTEMREADY = "/axis-cgi/systemready.cgi"
BASICDEVICEINFO = "/axis-cgi/basicdeviceinfo.cgi"
APIDISCOVERY = "/axis-cgi/apidiscovery.cgi"
USERGROUP = "/axis-cgi/usergroup.cgi"
PARAM = "/axis-cgi/param.cgi"
SERVICES = "/vapix/services"


@dataclass(frozen=True)
class Place:
    """Where a transport of one's own (RTSP, WebSocket) goes: pinned, and with everything it needs to log in.

    Attributes:
        name: How errors call it.
        host: The target as asked: for `Host`, SNI and certificates.
        address: The address to connect to.
        port: TCP port.
        tls: Whom TLS trusts; None without TLS.
        login: Answers challenges; knows whether the credentials are proven.
        camera: Whose certificate check and pace it shares.
    """

    name: str
    host: str
    address: str
    port: int
    tls: ssl.SSLContext | None
    login: CameraLogin = field(repr=False)
    camera: Camera = field(repr=False)

    def check_certificate(self, der: bytes) -> None:
        """Check the certificate of a new TLS connection (DER), before anything is sent on it.

        Raises:
            Untrusted: It is not among the pinned ones.
        """
        self.camera.check_certificate(der)

    async def pay(self, packets: int) -> None:
        """Wait until so many packets may be sent."""
        await self.camera.pay(packets)


@dataclass(frozen=True)
class Certificate:
    """The certificate a camera showed.

    Attributes:
        fingerprint: SHA-256 of it, 64 hexadecimal digits.
        not_after: When it expires; None when it cannot be read.
        subject: For whom it is.
        issuer: Who signed it.
    """

    fingerprint: str
    not_after: datetime | None
    subject: str
    issuer: str

    @property
    def days_left(self) -> int | None:
        """Whole days until it expires; negative when it has."""
        return (self.not_after - datetime.now(UTC)).days if self.not_after is not None else None


class Camera:
    """A conversation with one camera. Made by `open_camera`.

    Every method raises `ToolError`s that say what to do next: `Unreachable`, `Untrusted`, `Unauthorized` (wrong password), `Forbidden`
    (level too low), `Unsupported` (not on this model or firmware), `Declined` (it said no), `Busy`, `NotReady`, `NeedsSetup`, `Nonsense`
    (an answer nobody can read) and, where `write` is set and the answer got lost, `Unanswered`.

    Attributes:
        asked: The target as asked.
        address: The pinned address.
        secure: Whether the conversation is encrypted.
        notes: What a person should know about it, such as that no certificate was checked.
        requests: How many requests it took, those of the login included.
        clock: When the camera says it is (header `Date` of its first answer), and when that was by our clock; None where it does not say.
    """

    def __init__(
        self,
        site: str,
        asked: str,
        address: str,
        *,
        credentials: AxisCredentials | None,
        port: int | None,
        timeout: float,
        pace: Pace,
        serial: str | None = None,
    ) -> None:
        self.site, self.asked, self.address = site, asked, address
        self._expected = serial
        self.timeout = timeout
        self.notes: list[str] = []
        self.requests = 0
        self.clock: tuple[datetime, datetime] | None = None
        self._credentials, self._pace = credentials, pace
        if credentials is not None:
            self.secure, self.port = credentials.scheme == "https", credentials.port_of(port)
        else:
            # Nothing secret is sent: what anybody may ask needs no proof of who answers.
            self.secure, self.port = port == 443, port or ANONYMOUS_PORT
        self._der: bytes | None = None
        self._login = self._new_login(asked, self.secure) if credentials is not None else None
        self._passerby = Passerby(asked)
        self._session = self._new_session()
        self._turn = asyncio.Lock()
        self._held = AsyncExitStack()
        self._holding = False
        self._device: DeviceId | None = None
        self._level: Level | None = None
        self._apis: tuple[dict[str, str], dict[str, str]] | None = None

    # --- who it is and what it can do ------------------------------------------------------------------------------

    async def device(self) -> DeviceId:
        """Say who the camera is; anonymous where it allows that.

        Raises:
            Untrusted: It is not the one that is expected here.
        """
        if self._device is None:
            self._device = self._checked(await self._identify())
            if self._login is not None and self._device.serial:
                self._login.serial, self._login.introduced = self._device.serial, True
        return self._device

    async def capabilities(self) -> Capabilities:
        """Say what the camera can do, by API discovery and its parameters `Properties`."""
        device = await self.device()
        key = (self.site, self.address, self.port, device.serial, device.firmware, device.boot_id)
        kept = _capabilities.get(key)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        apis, statuses = await self._discover()
        found = Capabilities(apis, await self.parameters("Properties"), statuses)
        if apis or version_tuple(device.firmware) < _DISCOVERY_SINCE:  # else it has them, and could not say so now
            seconds = CACHE_SECONDS if device.boot_id else BLIND_CACHE_SECONDS
            _remember(_capabilities, key, found, seconds)
        return found

    async def apis(self) -> tuple[dict[str, str], dict[str, str]]:
        """The versions and the statuses of its APIs by id, without asking for its parameters; anonymous where it allows that."""
        return await self._discover()

    async def level(self) -> Level:
        """Say what our account may do.

        Raises:
            Unauthorized: The camera does not know it, or its password is another.
        """
        if self._level is None:
            try:
                answer = await self._ask("GET", USERGROUP)
                self._level = parse_level(decode(answer.body))
            except (Unsupported, Rejected):
                self._level = Level(Rank.NONE)
            finally:
                if not self.secure and self._login is not None and self._login.shown and _SHOWN not in self.notes:
                    self.notes.append(_SHOWN)
        return self._level

    @property
    def has_account(self) -> bool:
        """Whether there are credentials to log in with."""
        return self._credentials is not None

    @property
    def login_scheme(self) -> str | None:
        """How we logged in: `digest` or `basic`; None when that was not needed."""
        return self._login.scheme if self._login is not None else None

    @property
    def certificate(self) -> Certificate | None:
        """The certificate it showed; None without TLS."""
        if not self._der:
            return None
        fingerprint = hashlib.sha256(self._der).hexdigest()
        try:
            parsed = Parsed(self._der)
        except ValueError:
            return Certificate(fingerprint, None, "", "")
        return Certificate(fingerprint, parsed.not_after, said(parsed.subject), said(parsed.issuer))

    # --- its functions, by family ------------------------------------------------------------------------------------

    async def call(
        self,
        path: str,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        version: str | None = "1.0",
        meanings: Meanings | None = None,
        timeout: float | None = None,
        write: bool = False,
        anonymous: bool = False,
    ) -> Any:
        """Call a method of a JSON function and return its `data`; an empty dict when the answer has none.

        Args:
            path: Such as `/axis-cgi/lightcontrol.cgi`.
            method: Name of the method.
            params: Its parameters.
            version: Version of the API to ask for: the lowest that has what is needed. None leaves it out.
            meanings: What this API's error codes mean; `CLASSIC` and `NUMBERED` of `_wire` hold what several share.
            timeout: Seconds for the answer, where it is not the parameters'.
            write: It must not be sent twice.
            anonymous: Send no credentials.
        """
        body: dict[str, Any] = {"method": method}
        if version is not None:
            body = {"apiVersion": version, **body}
        if params is not None:
            body["params"] = dict(params)
        known = meanings or {}

        def explain(answer: Answer) -> str | None:
            # Some send their errors with a status that fits, some with 200; the body says more.
            with suppress(Nonsense):
                raise_for_json(parse_json(answer.body, self.asked), self.asked, known)
            return None

        answer = await self._ask(
            "POST", path, json=body, timeout=timeout, write=write, anonymous=anonymous, explain=explain
        )
        with _unclear(write):
            return data_of(await apart(parse_json, answer.body, self.asked), self.asked, known)

    async def parameters(self, *groups: str) -> dict[str, str]:
        """Read parameters; names without `root.`. Groups the camera does not know, or does not show to our account, are absent.

        Args:
            groups: Such as `ImageSource.I0.Sensor`; `*` stands for one part of a name.
        """
        query = {"action": "list", "group": ",".join(_group(group) for group in groups)}
        answer = await self._ask("GET", PARAM, query=query)
        return await apart(lambda body: parse_parameters(decode(body), self.asked), answer.body)

    async def definitions(self, *groups: str) -> dict[str, Definition]:
        """Read what parameters take: type, choices, range, level; by name without `root.`."""
        query = {
            "action": "listdefinitions",
            "listformat": "xmlschema",
            "group": ",".join(_group(group) for group in groups),
        }
        answer = await self._ask("GET", PARAM, query=query)
        raise_for_text(decode(answer.body[:1000]), self.asked)
        return await apart(lambda body: _definitions(parse_xml(body, self.asked)), answer.body)

    async def set_parameters(self, values: Mapping[str, str]) -> None:
        """Write parameters. The camera may take a value and clamp or ignore it: read back.

        Raises:
            Declined: It does not take one; those before it in the same call may hold.
        """
        form = {"action": "update", **{_group(name): _value(name, value) for name, value in values.items()}}
        text = await self._post_form(PARAM, form)
        if text.strip() != "OK":
            raise self._not_taken(text)

    async def add_parameters(self, template: str, group: str, values: Mapping[str, str], force: bool = False) -> str:
        """Add an entry to a group, and return its name, such as `M1`.

        Raises:
            Declined: It was not added.
        """
        form = {"action": "add", "template": template, "group": _group(group)}
        form |= {_group(name): _value(name, value) for name, value in values.items()}
        if force:
            form["force"] = "yes"
        text = await self._post_form(PARAM, form)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        added = next((line.removesuffix(" OK") for line in lines if line.endswith(" OK")), None)
        if added is None:
            raise self._not_taken(text)
        for line in lines:
            if line.startswith("#"):
                self.notes.append(f"{said(added, 40)} was added, but: {said(line.lstrip('# '))}")
        return added.rpartition(".")[2]

    async def remove_parameters(self, group: str) -> None:
        """Remove an entry of a group.

        Raises:
            Declined: It was not removed.
        """
        text = await self._post_form(PARAM, {"action": "remove", "group": _group(group)})
        if not text.strip().endswith("OK"):
            raise self._not_taken(text)

    async def text(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        form: bool = False,
        write: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Call a function that answers with text, or with nothing.

        Args:
            path: Such as `/axis-cgi/com/ptz.cgi`.
            query: Its arguments.
            form: Send them in the body of a POST.
            write: It must not be sent twice.
            timeout: Seconds for the answer.

        Raises:
            Declined: The text is an error.
        """
        if form:
            answer = await self._ask("POST", path, data=query or {}, write=write, timeout=timeout)
        else:
            answer = await self._ask("GET", path, query=query, write=write, timeout=timeout)
        return raise_for_text(decode(answer.body), self.asked)

    async def xml(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        form: bool = False,
        write: bool = False,
        timeout: float | None = None,
    ) -> Element:
        """Call a function that answers with XML, and return the document as it is: `_xml` tells errors from success."""
        if form:
            answer = await self._ask("POST", path, data=query or {}, write=write, timeout=timeout)
        else:
            answer = await self._ask("GET", path, query=query, write=write, timeout=timeout)
        if not answer.body.lstrip().startswith(b"<"):
            raise_for_text(decode(answer.body[:1000]), self.asked)
        with _unclear(write):
            return await apart(parse_xml, answer.body, self.asked)

    async def soap(self, operation: Element, *, action: str, write: bool = False) -> Element:
        """Call an operation of a SOAP service, and return the element of its response.

        Args:
            operation: The element of the request, with its namespace.
            action: Its action, such as `http://www.axis.com/vapix/ws/action1/GetActionRules`.
            write: It must not be sent twice.

        Raises:
            Missing: A fault that says what was named is not there; `fault` is its name.
            Declined: Another fault.
        """

        def explain(answer: Answer) -> str | None:
            with suppress(Nonsense):
                unwrap(answer.body, self.asked)
            return None

        answer = await self._ask(
            "POST",
            SERVICES,
            content=envelope(operation),
            headers={"Content-Type": f'application/soap+xml; charset=utf-8; action="{action}"'},
            write=write,
            explain=explain,
        )
        with _unclear(write):
            return await apart(unwrap, answer.body, self.asked)

    async def rest(self, method: str, path: str, data: Any = None) -> Any:
        """Call a resource of the device configuration, and return its `data`; None when the answer has none.

        Args:
            method: GET, PATCH, POST, PUT or DELETE.
            path: Such as `/config/rest/network-settings/v2beta`; take it from `rest_api` of `/config/discover`.
            data: What is sent as `data`.

        Raises:
            Missing: There is no such item (code 2).
            Declined: It says no; `code` is its number.
        """

        def explain(answer: Answer) -> str | None:
            with suppress(Nonsense):
                self._rest_error(parse_json(answer.body, self.asked))
            return None

        answer = await self._ask(
            method,
            path,
            json=None if data is None else {"data": data},
            headers={"Content-Type": "application/json"},
            write=method.upper() != "GET",
            explain=explain,
        )
        if not answer.body.strip():
            return None
        with _unclear(method.upper() != "GET"):
            found = await apart(parse_json, answer.body, self.asked)
        self._rest_error(found)
        return found if "status" not in found and "data" not in found else found.get("data")

    async def fetch(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        max_bytes: int,
        timeout: float | None = None,
        anonymous: bool = False,
    ) -> Answer:
        """Read one whole body, such as a snapshot; with `anonymous` as anybody, without credentials.

        Raises:
            Nonsense: It is longer than `max_bytes`, or breaks off.
        """
        return await self._ask("GET", path, query=query, max_bytes=max_bytes, timeout=timeout, anonymous=anonymous)

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        seconds: float | None,
        idle: float = 30.0,
        form: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[Stream]:
        """Read a long answer as it comes, on a connection of its own; count its bytes, it has no end by itself.

        Call `let_go` before a long one, so that others can talk with the camera meanwhile.

        Args:
            path: Such as `/axis-cgi/mjpg/video.cgi`.
            query: Its arguments.
            seconds: Seconds after which reading ends, with `over` set; None: when it ends.
            idle: Longest silence in between, seconds.
            form: Send the arguments in the body of a POST.
            timeout: Seconds until it begins.
        """
        await self._log_in()
        self.requests += 1
        async with self._session.stream(
            "POST" if form else "GET",
            path,
            query=None if form else query,
            data=query if form else None,
            timeout=timeout or self.timeout,
            seconds=seconds,
            idle=idle,
        ) as stream:
            yield stream

    # --- for transports of one's own -----------------------------------------------------------------------------------

    async def let_go(self) -> None:
        """End the time alone with the camera, before a long stream. A request that follows takes it again for as long as it lasts."""
        self._holding = False
        await self._held.aclose()

    def websocket_place(self) -> Place:
        """Where its WebSockets are: on the port of everything else."""
        return self._place(self.asked, self.port, self.secure, clear_text=True)

    def rtsp_place(self, port: int = 554, *, secure: bool = False) -> Place:
        """Where its RTSP is. The gate has to have seen the port: a tool names it in its scope.

        Args:
            port: TCP port; 322 is usual for RTSPS.
            secure: RTSP over TLS.
        """
        return self._place(f"The RTSP server of {self.asked} (port {port})", port, secure, clear_text=False)

    def check_certificate(self, der: bytes) -> None:
        """Check the certificate of a new TLS connection (DER).

        Raises:
            Untrusted: It is not among the pinned ones.
        """
        fingerprint, credentials = hashlib.sha256(der).hexdigest(), self._credentials
        pinned = credentials.fingerprints if credentials is not None and credentials.verification == "pinned" else None
        if pinned is not None and fingerprint not in pinned:
            raise Untrusted(
                f"The certificate of {self.asked} is not among the pinned ones: its fingerprint is {fingerprint}.",
                hint="If it is the camera's, and you know that from elsewhere, add it to the block's fingerprints.",
            )
        self._der = der

    async def pay(self, packets: int) -> None:
        """Wait until so many packets may be sent to this camera."""
        await self._pace.pay(packets)

    # --- inside ----------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin: be alone with the camera, and see that it is ready.

        Raises:
            Busy: Another run talks with it.
            NotReady: It is starting.
            NeedsSetup: It has no account yet; `device` says who it is, which it tells anybody.
            Untrusted: It is not the one that is expected here.
        """
        await self._held.enter_async_context(conversation(self.site, self.address, wait=OTHERS_SECONDS))
        self._holding = True
        if self._credentials is not None and self._credentials.verification == "off" and self.secure:
            self.notes.append("Its certificate was not checked (verification off).")
        elif self._credentials is None and self.secure:
            self.notes.append("Its certificate was not checked: nothing secret was sent.")
        try:
            await self._ready()
        except NeedsSetup as error:
            with suppress(Unsupported, Unauthorized, Declined, Nonsense, Unreachable, Busy):
                error.device = await self._introduction()
            if error.device is not None:
                self._checked(error.device)
            raise

    async def aclose(self) -> None:
        """End the conversation."""
        try:
            await self._session.aclose()
        finally:
            await self.let_go()

    async def _ready(self) -> None:
        try:
            data = await self.call(
                SYSTEMREADY,
                "systemready",
                {"timeout": 1},
                meanings={2100: Unsupported, 2102: Unsupported},
                anonymous=True,
            )
        except (Unsupported, Unauthorized, Declined):
            return  # firmware before it, or one that tells nobody
        if not isinstance(data, dict):
            raise Nonsense(f"{self.asked} does not answer as a camera does.")
        uptime = str(data.get("uptime", ""))
        self._boot_id = said(data.get("bootid") or "", 64) or None
        self._uptime = int(uptime) if uptime.isascii() and uptime.isdigit() and len(uptime) < 12 else None
        if str(data.get("needsetup", "")).lower() == "yes":
            raise NeedsSetup(
                f"{self.asked} is as it left the factory: it has no account yet.",
                hint="Set it up on its own web page first: make an administrator there, and put an account into the block.",
            )
        if str(data.get("systemready", "yes")).lower() == "no":
            raise NotReady(
                f"{self.asked} is starting, and not ready yet.", hint="Try again in a minute.", retry_after=15
            )

    async def _identify(self) -> DeviceId:
        key = (self.site, self.address, self.port, self._boot_id)
        kept = _devices.get(key) if self._boot_id else None
        if kept is not None and kept[0] > time.monotonic():
            return replace(kept[1], uptime=self._uptime)
        try:
            found = await self._introduction()
        except (Unsupported, Unauthorized, Declined):
            # Firmware before 8.40, or 1.0 of the API, which tells logged-in users only.
            try:
                facts = await self.parameters("Brand", "Properties.Firmware", "Properties.System")
            except Unauthorized:
                if self._login is not None or self._passerby.serial is None:
                    raise
                self.notes.append("It tells nobody more than its serial number.")
                return DeviceId(self._passerby.serial, None, None, self._boot_id, self._uptime)
            facts = {name: said(value) for name, value in facts.items()}
            found = self._device_id(
                facts, "Properties.System.SerialNumber", "Brand.ProdShortName", "Properties.Firmware.Version"
            )
        if self._boot_id:
            _remember(_devices, key, found, CACHE_SECONDS)
        return found

    async def _introduction(self) -> DeviceId:
        """What it tells anybody of itself."""
        data = await self.call(
            BASICDEVICEINFO, "getAllUnrestrictedProperties", version="1.2", meanings=CLASSIC, anonymous=True
        )
        facts = data.get("propertyList") if isinstance(data, dict) else None
        if not isinstance(facts, dict):
            raise Nonsense(f"{self.asked} does not say what it is.")
        facts = {said(name, 60): said(value) for name, value in list(facts.items())[:60]}
        return self._device_id(facts, "SerialNumber", "ProdShortName", "Version")

    def _checked(self, device: DeviceId) -> DeviceId:
        """The device, if it is the one that is expected here."""
        if self._expected is not None and device.serial != self._expected:
            raise Untrusted(
                f"{self.asked} is {device.serial or 'a device without a serial number'}, not {self._expected}. "
                "Nothing was done there.",
                hint="Look up which address the camera you mean has now: signalbox asset query --text SERIAL.",
            )
        return device

    def _device_id(self, facts: Mapping[str, str], serial: str, model: str, firmware: str) -> DeviceId:
        number = facts.get(serial, "").replace(":", "").replace("-", "").upper()
        if not number and not facts.get(firmware):
            raise Nonsense(f"{self.asked} does not say what it is: is it an Axis camera?")
        return DeviceId(
            number, facts.get(model) or None, facts.get(firmware) or None, self._boot_id, self._uptime, dict(facts)
        )

    async def _discover(self) -> tuple[dict[str, str], dict[str, str]]:
        if self._apis is None:
            self._apis = await self._list_apis()
        return self._apis

    async def _list_apis(self) -> tuple[dict[str, str], dict[str, str]]:
        try:
            try:
                data = await self.call(APIDISCOVERY, "getApiList", meanings=CLASSIC, anonymous=True)
            except Unauthorized:  # 9.80 and 10.12 want a login
                data = await self.call(APIDISCOVERY, "getApiList", meanings=CLASSIC)
        except Unsupported:
            return {}, {}
        listed = data.get("apiList") if isinstance(data, dict) else None
        if not isinstance(listed, list):
            raise Nonsense(f"{self.asked} does not list its APIs.")
        entries = [entry for entry in listed[:500] if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
        apis = {said(entry["id"], 80): said(entry.get("version", ""), 20) for entry in entries}
        statuses = {said(entry["id"], 80): said(entry["status"], 20) for entry in entries if entry.get("status")}
        return apis, statuses

    async def _log_in(self) -> None:
        """Prove the credentials once, where a 401 can only mean they are wrong: elsewhere it may mean the level is too low."""
        if self._level is None and self._login is not None:
            await self.level()

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        json: Any = None,
        data: Mapping[str, str] | None = None,
        timeout: float | None = None,
        max_bytes: int = MOST_BYTES,
        write: bool = False,
        anonymous: bool = False,
        explain: Any = None,
    ) -> Answer:
        if not anonymous and path != USERGROUP:
            await self._log_in()
        async with self._turn, AsyncExitStack() as alone:
            if not self._holding:
                await alone.enter_async_context(conversation(self.site, self.address, wait=OTHERS_SECONDS))
            self.requests += 1
            answer = await self._session.ask(
                method,
                path if path.startswith("/") else f"/axis-cgi/{path}",
                query=query,
                headers=headers,
                content=content,
                json=json,
                data=data,
                timeout=timeout or self.timeout,
                max_bytes=max_bytes,
                repeatable=not write,
                anonymous=anonymous and self._login is not None,
                explain=explain,
            )
        self._note_clock(answer)
        if answer.truncated:
            raise self._cut(answer, max_bytes, write)
        return answer

    def _cut(self, answer: Answer, max_bytes: int, write: bool) -> ToolError:
        if len(answer.body) >= max_bytes:
            return Nonsense(f"{self.asked} answers with more than {max_bytes} bytes; the rest was not read.")
        what = f"{self.asked} broke its answer off after {len(answer.body)} bytes"
        if write:
            return Unanswered(f"{what}: it may have done what was asked.", hint="Look there before you send it again.")
        return Nonsense(f"{what}.", hint="Try again; when it stays so, the camera is overloaded or broken.")

    def _note_clock(self, answer: Answer) -> None:
        if self.clock is None:
            said_at = answer.said_at
            if said_at is not None:
                self.clock = said_at, datetime.now(UTC)

    async def _post_form(self, path: str, form: Mapping[str, str]) -> str:
        answer = await self._ask("POST", path, data=form, write=True)
        return decode(answer.body)

    def _not_taken(self, text: str) -> ToolError:
        lines = [said(line.strip().lstrip("# ")) for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error", "request failed"))]
        if errors:
            return Declined(f"{self.asked} says no: {'; '.join(errors[:5])}.")
        return Nonsense(
            f"{self.asked} does not say whether it took that: {said(text, 80) or 'it answers with nothing'}.",
            hint=MAY_HAVE,
        )

    def _rest_error(self, found: Mapping[str, Any]) -> None:
        if found.get("status") != "error":
            return
        error = found.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        message = said(error.get("message") if isinstance(error, dict) else error) or "it gives no reason"
        if code == 2:
            raise Missing(f"{self.asked} says no: {message}.")
        if code == 1:
            raise Unsupported(f"{self.asked} has no such setting: {message}.")
        raise Declined(f"{self.asked} says no: {message}.", code=code if isinstance(code, int) else None)

    def _new_login(self, place: str, secure: bool, *, clear_text: bool = True) -> CameraLogin:
        credentials = self._credentials
        if credentials is None:
            raise Unauthorized(f"{self.asked} wants an account.", hint="Name a block with credentials.")
        return CameraLogin(
            place,
            credentials.username,
            credentials.password.get_secret_value(),
            secure=secure,
            clear_text=clear_text and credentials.basic_over_http,
            certified=secure and credentials.verification != "off",
            # A password refused by one of its servers is refused by all.
            key=(self.site, self.address, self.port),
            serial=self._expected,
        )

    def _new_session(self) -> Session:
        scheme = "https" if self.secure else "http"
        host = f"[{self.asked}]" if ":" in self.asked else self.asked
        origin = f"{scheme}://{host}:{self.port}"
        credentials = self._credentials
        return Session(
            origin,
            PinnedUrl(url=origin, scheme=scheme, host=self.asked, port=self.port, address=self.address),
            tls=self._tls(self.secure),
            login=self._login or self._passerby,
            peer=self.check_certificate,
            pay=self.pay,
            costs=(OPENING_PACKETS, TLS_PACKETS, EXCHANGE_PACKETS, SEGMENT_BYTES),
            secrets=secrets_of(credentials).plain if credentials is not None else (),
        )

    def _tls(self, secure: bool) -> ssl.SSLContext | None:
        if not secure:
            return None
        credentials = self._credentials
        if credentials is None:
            return unchecked()
        try:
            return credentials.tls() or trust()
        except ValueError as error:
            raise InvalidParameters(f"The block's {error}.", hint="The file has to be on the worker.") from None

    def _place(self, name: str, port: int, secure: bool, *, clear_text: bool) -> Place:
        login = self._new_login(name, secure, clear_text=clear_text)
        if self._login is not None:
            # Of its own, because its nonces are; but what was proven and who answers holds for all.
            login.serial, login.proven, login.realm = self._login.serial, self._login.proven, self._login.realm
            # At another port another device may be, behind a router that shares one address out.
            login.introduced = self._login.introduced and port == self.port
        return Place(
            name=name,
            host=self.asked,
            address=self.address,
            port=port,
            tls=self._tls(secure),
            login=login,
            camera=self,
        )

    _boot_id: str | None = None
    _uptime: int | None = None


def secrets_of(credentials: AxisCredentials) -> LoginSecrets:
    """What nobody may repeat after a camera."""
    return LoginSecrets(credentials.username, credentials.password.get_secret_value())


@contextmanager
def _unclear(write: bool) -> Iterator[None]:
    """Say of a change whose answer nobody can read that it may have been made."""
    try:
        yield
    except Nonsense as error:
        if write:
            error.hint = error.hint or MAY_HAVE
        raise


async def apart(read: Callable[..., T], body: bytes, *more: Any) -> T:
    """Read an answer; a large one in a thread, so that other cameras do not wait for it."""
    return await asyncio.to_thread(read, body, *more) if len(body) > LARGE_BYTES else read(body, *more)


def _group(name: str) -> str:
    if not name.replace("*", "x").replace(".", "x").replace("_", "x").replace("-", "x").isalnum() or not name.isascii():
        raise ValueError(f"{name!r} is not the name of a parameter or group")
    return name.removeprefix("root.")


def _value(name: str, value: str) -> str:
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise InvalidParameters(f"The value of {name} holds control characters.")
    return value


def _definitions(root: Element) -> dict[str, Definition]:
    found: dict[str, Definition] = {}

    def walk(element: Element, prefix: str) -> None:
        for below in element:
            name = below.get("name", "")
            whole = f"{prefix}.{name}" if prefix else name
            if local(below) == "group":
                walk(below, "" if whole == "root" else whole)
            elif local(below) == "parameter":
                found[whole] = _definition(whole, below)

    walk(root, "")
    return found


def _definition(name: str, parameter: Element) -> Definition:
    kind = child(parameter, "type")
    inner = next(iter(kind), None) if kind is not None else None
    type_name = local(inner) if inner is not None else "string"
    choices: tuple[str, ...] = ()
    if inner is not None and type_name == "enum":
        choices = tuple(entry.get("value", "") for entry in children(inner, "entry"))
    elif inner is not None and type_name == "bool":
        choices = tuple(word for word in (inner.get("true"), inner.get("false")) if word is not None)

    def number(attribute: str) -> int | None:
        text = inner.get(attribute, "") if inner is not None else ""
        try:
            return int(text[:20])
        except ValueError:
            return None

    return Definition(
        name=name,
        value=parameter.get("value", ""),
        type=type_name,
        choices=choices,
        minimum=number("min"),
        maximum=number("max"),
        maxlen=number("maxlen"),
        readonly=kind is not None and kind.get("readonly", "").lower() in {"true", "yes", "1"},
        level=parameter.get("securityLevel", ""),
        nice=said(parameter.get("niceName", "")),
    )


# --- what is remembered ----------------------------------------------------------------------------------------------

_MOST_REMEMBERED = 4096
_devices: dict[tuple[Any, ...], tuple[float, DeviceId]] = {}
_capabilities: dict[tuple[Any, ...], tuple[float, Capabilities]] = {}


def _remember(
    memory: dict[tuple[Any, ...], tuple[float, Any]], key: tuple[Any, ...], value: Any, seconds: float
) -> None:
    now = time.monotonic()
    if len(memory) >= _MOST_REMEMBERED:
        for old in [known for known, (until, _) in memory.items() if until < now] or list(memory)[
            : _MOST_REMEMBERED // 4
        ]:
            del memory[old]
    memory[key] = (now + seconds, value)


@asynccontextmanager
async def open_camera(
    site: str,
    asked: str,
    address: str,
    *,
    credentials: AxisCredentials | None,
    port: int | None,
    timeout: float,
    pace: Pace,
    serial: str | None = None,
) -> AsyncIterator[Camera]:
    """Hold a conversation with a camera while the block runs.

    Args:
        site: The site.
        asked: The target as asked: a name or an address.
        address: What the gate pinned it to.
        credentials: The account; None to ask only what anybody may.
        port: TCP port, where it is not the block's.
        timeout: Seconds to wait for each answer.
        pace: What the camera may be sent.
        serial: Its serial number, where that is known: any other device gets neither credentials nor a change.

    Raises:
        ToolError: It is not there, not ready, or somebody else talks with it.
    """
    camera = Camera(site, asked, address, credentials=credentials, port=port, timeout=timeout, pace=pace, serial=serial)
    try:
        await camera.open()
        yield camera
    finally:
        await camera.aclose()
