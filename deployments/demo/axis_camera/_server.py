"""The camera's web server: who asks, may they, and which API answers.

An API is a function, registered by its path:

    @api("/axis-cgi/usergroup.cgi", level="viewer")
    async def usergroup(device: Device, request: Request) -> Response: ...

A path that ends in `/` is a prefix. Somebody whose level is too low, an unknown path, a wrong verb and every fault are dealt with before
the function is called; JSON APIs are easier to write with `JsonApi` of `_envelope`.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

import h11

from deployments.demo.axis_camera._auth import Verdict
from deployments.demo.axis_camera._device import Device, Logged
from deployments.demo.axis_camera._faults import Fault, spoil
from deployments.demo.axis_camera._messages import (
    ANONYMOUS,
    LEVELS,
    Account,
    Answer,
    NeedsLevel,
    Request,
    Response,
    StreamResponse,
)

Handler = Callable[[Device, Request], Awaitable[Answer]]
Condition = Callable[[Device], bool]

PROTECTED = ("/axis-cgi/", "/vapix/", "/config/", "/axis-media/", "/local/")
MOST_BODY = 4 * 1024 * 1024
KEPT_BODY = 64 * 1024
IDLE_SECONDS = 60.0


@dataclass
class Upgraded:
    """A connection handed over by `@upgrade`: everything after the head of the request is the handler's, `101` included.

    Attributes:
        leftovers: Bytes of the client that came behind the head.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    leftovers: bytes


UpgradeHandler = Callable[[Device, Request, Upgraded], Awaitable[None]]


@dataclass(frozen=True)
class Route:
    """An API of the camera.

    Attributes:
        level: Level needed to be heard at all.
        ptz: The right to move the camera is needed too.
        methods: Verbs it takes; others get 405.
        needs: Ids of API discovery or features the device must have; else the path does not exist on it.
        refusal: JSON error code for a level too low, on devices that answer so.
        open: Requests that need no login although the path does.
    """

    path: str
    handler: Handler | None
    level: str = "viewer"
    ptz: bool = False
    methods: tuple[str, ...] = ("GET", "POST")
    needs: tuple[str, ...] = ()
    when: Condition | None = None
    refusal: int | None = None
    open: Callable[[Device, str], bool] | None = None
    takeover: UpgradeHandler | None = field(default=None)

    def there(self, device: Device) -> bool:
        """Whether this device has it."""
        return device.has(*self.needs) and (self.when is None or self.when(device))


_exact: dict[str, Route] = {}
_prefixes: list[Route] = []
rtsp_factories: list[Callable[[Device], asyncio.BaseProtocol]] = []


def api(
    path: str,
    *,
    level: str = "viewer",
    ptz: bool = False,
    methods: tuple[str, ...] = ("GET", "POST"),
    needs: tuple[str, ...] | str = (),
    when: Condition | None = None,
    refusal: int | None = None,
    open: Callable[[Device, str], bool] | None = None,  # noqa: A002  as the route's field
) -> Callable[[Handler], Handler]:
    """Decorate the function that answers a path; see `Route` for the arguments."""

    def register(handler: Handler) -> Handler:
        wanted = (needs,) if isinstance(needs, str) else needs
        _register(Route(path, handler, level, ptz, methods, wanted, when, refusal, open))
        return handler

    return register


def upgrade(
    path: str, *, level: str = "viewer", needs: tuple[str, ...] | str = (), when: Condition | None = None
) -> Callable[[UpgradeHandler], UpgradeHandler]:
    """Decorate the function that takes over a connection that asks for an upgrade (a WebSocket).

    With `level="anonymous"` the function itself says who may come in: `request.needs("viewer")` where no token of its own lets them.
    """

    def register(handler: UpgradeHandler) -> UpgradeHandler:
        wanted = (needs,) if isinstance(needs, str) else needs
        _register(Route(path, None, level, methods=("GET",), needs=wanted, when=when, takeover=handler))
        return handler

    return register


def rtsp(factory: Callable[[Device], asyncio.BaseProtocol]) -> Callable[[Device], asyncio.BaseProtocol]:
    """Decorate what makes the protocol of one connection to the camera's RTSP port."""
    rtsp_factories[:] = [factory]
    return factory


def _register(route: Route) -> None:
    if route.path.endswith("/") and route.path != "/":
        _prefixes.append(route)
        _prefixes.sort(key=lambda one: -len(one.path))
        return
    if route.path in _exact and _exact[route.path].handler is not route.handler:
        raise ValueError(f"{route.path} is answered already")
    _exact[route.path] = route


def find_route(path: str) -> Route | None:
    """The API of a path; None without one."""
    found = _exact.get(path)
    if found is None:
        found = next((route for route in _prefixes if path.startswith(route.path)), None)
    return found


# --- connections -----------------------------------------------------------------------------------------------------------


def http_protocol(device: Device, *, tls: bool = False) -> Callable[[], asyncio.Protocol]:
    """What makes the protocol of one connection to the camera's web server, for `asyncio`'s `create_server` and for a lab's `Served`."""

    def factory() -> asyncio.Protocol:
        device.bind(asyncio.get_running_loop())
        return asyncio.StreamReaderProtocol(
            asyncio.StreamReader(), lambda reader, writer: _Connection(device, reader, writer, tls).serve()
        )

    return factory


class _Hangup(Exception):
    """The connection ends here."""


class _Connection:
    def __init__(self, device: Device, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tls: bool) -> None:
        self.device, self.reader, self.writer = device, reader, writer
        self.scheme = "https" if tls else "http"
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
        peer = writer.get_extra_info("peername") or ("", 0)
        self.client = str(peer[0]).removeprefix("::ffff:")
        self.keep = True

    async def serve(self) -> None:
        device, transport = self.device, self.writer.transport
        if device.refusing:
            self._reset()
            return
        device.connections += 1
        device.open.add(transport)
        task = asyncio.current_task()
        assert task is not None
        device.tasks.add(task)
        try:
            while await self._request() and self.keep:
                self.http.start_next_cycle()
        except (_Hangup, ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            pass  # the camera stops, and this is the whole task
        except h11.RemoteProtocolError:
            with contextlib.suppress(Exception):
                self._write(Response.page(400))
        except Exception as error:  # noqa: BLE001  kept for the tests: a bug of the simulator must not look like a camera's fault
            device.errors.append(error)
        finally:
            device.tasks.discard(task)
            device.open.discard(transport)
            with contextlib.suppress(Exception):
                self.writer.close()

    async def _next(self, seconds: float = IDLE_SECONDS) -> Any:
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self.http.they_are_waiting_for_100_continue:
                self.writer.write(self.http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
            try:
                data = await asyncio.wait_for(self.reader.read(65536), seconds)
            except TimeoutError:
                raise _Hangup from None
            self.http.receive_data(data)

    async def _request(self) -> bool:
        """Answer one request; False when the client has gone."""
        head = await self._next()
        if not isinstance(head, h11.Request):
            return False
        device = self.device
        device.in_flight += 1
        device.most_in_flight = max(device.most_in_flight, device.in_flight)
        self.counted = True
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        target = head.target.decode("latin-1")
        path, _, query = target.partition("?")
        entry = Logged(
            head.method.decode(), unquote(path), query, self.scheme, self.client,
            {name: value for name, value in headers.items() if name != "authorization"}, in_flight=device.in_flight,
        )  # fmt: skip
        device.remember(entry)
        try:
            return await self._answer(head, headers, target, entry)
        finally:
            entry.seconds = time.monotonic() - entry.at
            self._settled()

    def _settled(self) -> None:
        if self.counted:
            self.counted = False
            self.device.in_flight -= 1

    async def _body(self) -> bytes:
        pieces, size = [], 0
        while True:
            event = await self._next()
            if isinstance(event, h11.Data):
                size += len(event.data)
                if size <= MOST_BODY:
                    pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return b"".join(pieces) if size <= MOST_BODY else b"\0" * (MOST_BODY + 1)
            else:
                raise _Hangup

    # --- one request -----------------------------------------------------------------------------------------------------

    async def _answer(self, head: h11.Request, headers: dict[str, str], target: str, entry: Logged) -> bool:
        device, path = self.device, entry.path
        wants_upgrade = "upgrade" in headers.get("connection", "").lower() and "upgrade" in headers
        body = b"" if wants_upgrade else await self._body()
        entry.body = body[:KEPT_BODY]
        self.head_only = entry.method == "HEAD"
        fault = device.faults.take(path, entry.method, body, bare=True)
        if fault is not None and not fault.has_effect:
            return await self._fail(fault, None, entry, headers)
        if not device.ready and path != "/axis-cgi/systemready.cgi":
            return self._send(Response(503, b"<html><body>Starting</body></html>", "text/html"), entry)
        if device.throttle.blocks(self.client):
            if device.throttle.answer == "reset":
                self._reset()
                raise _Hangup
            return self._send(Response.page(int(device.throttle.answer)), entry)
        route = find_route(path)
        verdict = self._verdict(headers, entry, target)
        if verdict.wrong:
            device.throttle.failed(self.client)
        account = verdict.account or (Account("", level="viewer") if device.anonymous_viewer else ANONYMOUS)
        needed = route.level if route is not None else ("viewer" if path.startswith(PROTECTED) else "anonymous")
        if route is not None and route.open is not None and account is ANONYMOUS and route.open(device, entry.query):
            needed = "anonymous"
        ptz = route is not None and route.ptz
        if not account.reaches(needed, ptz and needed != "anonymous"):
            return self._send(self._refusal(route, verdict, account, body), entry)
        if len(body) > MOST_BODY:
            return self._send(Response.page(413), entry)
        if route is None or not route.there(device):
            return self._send(Response.page(404), entry)
        verb = "GET" if self.head_only else entry.method
        if verb not in route.methods:
            return self._send(Response.page(405, {"Allow": ", ".join(route.methods)}), entry)
        fault = fault or device.faults.take(path, entry.method, body, bare=False)
        if fault is not None and fault.kind == "stale":
            device.auth.expire_nonces()
            return self._send(self._challenge(stale=True), entry)
        if fault is not None and not fault.has_effect:
            return await self._fail(fault, None, entry, headers)
        request = Request(
            verb, target, path, _pairs(entry.query, body, headers, device.profile.charset), headers, body, account, self.scheme,
            self.client, _raw(head),
        )  # fmt: skip
        try:
            if route.takeover is not None:
                if not wants_upgrade:
                    return self._send(Response.page(400), entry)
                return await self._hand_over(route.takeover, request, entry)
            assert route.handler is not None
            answer = await route.handler(device, request)
        except NeedsLevel as refused:
            answer = self._refusal(route, verdict, account, body, refused.level)
        except Exception as error:  # noqa: BLE001  a bug of the simulator: seen by the tests, a 500 for the client
            device.errors.append(error)
            answer = Response.page(500)
        if fault is not None:
            return await self._fail(fault, answer, entry, headers)
        if isinstance(answer, StreamResponse):
            return await self._stream(answer, entry)
        return self._send(answer, entry)

    def _verdict(self, headers: dict[str, str], entry: Logged, target: str) -> Verdict:
        device = self.device
        transport = "https" if self.scheme == "https" else "http"
        verdict = device.auth.judge(
            headers.get("authorization"),
            entry.method,
            target,
            device.schemes("https" if transport == "https" else "http"),
        )
        entry.credentials, entry.stale = verdict.scheme, verdict.stale
        entry.account = verdict.account.name if verdict.account else None
        return verdict

    def _challenge(self, *, stale: bool = False) -> Response:
        device = self.device
        schemes = device.schemes("https" if self.scheme == "https" else "http")
        answer = Response.page(401)
        self.challenges = device.auth.challenges(schemes, qop=device.qop, stale=stale)
        return answer

    def _refusal(
        self, route: Route | None, verdict: Verdict, account: Account, body: bytes, needed: str | None = None
    ) -> Response:
        """What somebody gets who may not: a challenge, or with right credentials what the device says to too low a level."""
        device = self.device
        if account.rank == 0 or device.insufficient == "401" or (verdict.account is None and account.name == ""):
            return self._challenge(stale=verdict.stale)
        if device.insufficient == "json" and route is not None and route.refusal is not None:
            error: dict[str, Any] = {
                "error": {"code": route.refusal, "message": "Access forbidden"},
                "apiVersion": "1.0",
            }
            with contextlib.suppress(ValueError, TypeError, AttributeError):
                asked = json.loads(body)
                error |= {key: asked[key] for key in ("context", "method") if key in asked}
            return Response.json(error)
        return Response.page(403)

    # --- answers ---------------------------------------------------------------------------------------------------------

    challenges: list[str] = []  # noqa: RUF012  replaced, never changed
    head_only = False
    counted = False

    def _head(self, status: int, content_type: str | None, extra: Any) -> list[tuple[str, str]]:
        device = self.device
        made = [
            ("Date", email.utils.format_datetime(device.now(), usegmt=True)),
            ("Server", device.profile.server),
        ]
        if status == 401 and self.challenges:
            made += [("WWW-Authenticate", challenge) for challenge in self.challenges]
            self.challenges = []
        made += [("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "SAMEORIGIN")]
        if content_type:
            made.append(("Content-Type", content_type))
        made += list(extra.items())
        return made

    def _send(self, answer: Answer, entry: Logged) -> bool:
        assert isinstance(answer, Response)
        entry.status = answer.status
        self._write(answer)
        return True

    def _write(self, answer: Response) -> None:
        headers = self._head(answer.status, answer.content_type, answer.headers)
        if answer.status != 204:
            headers.append(("Content-Length", str(len(answer.body))))
        parts = self.http.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        if answer.body and answer.status != 204 and not self.head_only:
            parts += self.http.send(h11.Data(data=answer.body)) or b""
        parts += self.http.send(h11.EndOfMessage()) or b""
        self.writer.write(parts)
        # A client that asked for the connection to be closed, or one of HTTP/1.0, gets it closed; so does one whose upgrade was refused:
        # what it may have sent behind its request is no HTTP.
        self.keep = self.http.our_state is h11.DONE and self.http.their_state is h11.DONE

    async def _stream(self, answer: StreamResponse, entry: Logged) -> bool:
        entry.status = answer.status
        headers = self._head(answer.status, answer.content_type, {**answer.headers, "Connection": "close"})
        self.writer.write(self.http.send(h11.Response(status_code=answer.status, headers=headers)) or b"")
        self._settled()
        gone = asyncio.ensure_future(self.reader.read(1))
        pieces = answer.chunks.__aiter__()
        try:
            while True:
                following = asyncio.ensure_future(_following(pieces))
                await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    with contextlib.suppress(asyncio.CancelledError, Exception):
                        await following
                    return False
                piece = following.result()
                if piece is None:
                    break
                if piece:
                    self.writer.write(self.http.send(h11.Data(data=piece)) or b"")
                    await self.writer.drain()
            self.writer.write(self.http.send(h11.EndOfMessage()) or b"")
            await self.writer.drain()
        except h11.LocalProtocolError:
            pass  # a length was promised that the pieces did not keep: some tests want just that
        finally:
            gone.cancel()
            if (close := getattr(pieces, "aclose", None)) is not None:
                with contextlib.suppress(Exception):
                    await close()
        self.keep = False
        return False

    async def _hand_over(self, takeover: UpgradeHandler, request: Request, entry: Logged) -> bool:
        leftovers = bytes(self.http.trailing_data[0])
        self._settled()
        entry.status = 101
        await takeover(self.device, request, Upgraded(self.reader, self.writer, leftovers))
        return False

    # --- faults ----------------------------------------------------------------------------------------------------------

    async def _fail(self, fault: Fault, answer: Answer | None, entry: Logged, headers: dict[str, str]) -> bool:
        if isinstance(answer, StreamResponse):
            if fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
                return await self._stream(answer, entry)
            answer = Response(answer.status, await _first(answer), answer.content_type)
        if answer is not None and answer.status == 401:
            return self._send(answer, entry)
        match fault.kind:
            case "hang":
                while await self.reader.read(65536):
                    pass
                raise _Hangup
            case "close":
                raise _Hangup
            case "reboot":
                self.device.reboot()
                raise _Hangup
            case "delay":
                await asyncio.sleep(fault.seconds)
            case "reset" | "truncate" | "slow":
                return await self._piecemeal(fault, answer or Response.text("OK"), entry)
        return self._send(spoil(fault, answer, entry.path, headers.get("host", "")), entry)

    async def _piecemeal(self, fault: Fault, answer: Response, entry: Logged) -> bool:
        """Send an answer in pieces, or a part of it and no more."""
        entry.status = answer.status
        body = answer.body
        promised = len(body)
        if fault.kind != "slow":
            promised, body = max(promised, 64), body[: max(promised, 2) // 2]
        lines = [
            f"HTTP/1.1 {answer.status} OK",
            *(f"{name}: {value}" for name, value in self._head(answer.status, answer.content_type, answer.headers)),
        ]
        lines += [f"Content-Length: {promised}", "Connection: close", "", ""]
        self.writer.write("\r\n".join(lines).encode("latin-1"))
        if fault.kind == "slow":
            step = max(1, len(body) // 20)
            for place in range(0, len(body), step):
                self.writer.write(body[place : place + step])
                await self.writer.drain()
                await asyncio.sleep(fault.seconds)
            raise _Hangup
        self.writer.write(body)
        await self.writer.drain()
        if fault.kind == "reset":
            await asyncio.sleep(0.02)  # else the client may see the reset before what came first
            self._reset()
        raise _Hangup

    def _reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        if raw is not None:
            # SO_LINGER with zero seconds: closing sends RST.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def _following(pieces: Any) -> bytes | None:
    try:
        piece: bytes = await pieces.__anext__()
    except StopAsyncIteration:
        return None
    return piece


async def _first(answer: StreamResponse) -> bytes:
    async for piece in answer.chunks:
        return piece
    return b""


def _pairs(query: str, body: bytes, headers: dict[str, str], charset: str) -> list[tuple[str, str]]:
    """Arguments of the query and of a form, whatever the form's content type says: some clients label them text/plain."""
    pairs = parse_qsl(query, keep_blank_values=True, encoding=charset, errors="replace") if query else []
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if (
        body
        and kind not in {"application/json", "application/soap+xml", "multipart/form-data"}
        and body.lstrip()[:1] not in {b"{", b"<", b"["}
    ):
        pairs += parse_qsl(body.decode("latin-1"), keep_blank_values=True, encoding=charset, errors="replace")
    return pairs


def _raw(head: h11.Request) -> bytes:
    lines = [head.method + b" " + head.target + b" HTTP/1.1"]
    lines += [name + b": " + value for name, value in head.headers.raw_items()]
    return b"\r\n".join([*lines, b"", b""])


def level_of(account: Account) -> int:
    """The digit an account's level is in a parameter's security level."""
    return LEVELS.get(account.level, 0)
