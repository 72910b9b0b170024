"""Hand out files of the capture store over HTTP on loopback: what the links on a run's page lead to.

Prefect serves no files, and its pages strip `data:` and `file:` links. This service of the embedded stack answers to
`GET /captures/SITE/NAME` and to nothing else; it lists nothing, writes nothing, and asks for the login of the Prefect UI. Not part of
`deployments.local`, which the command imports and which stays free of Prefect: the store's folder is in a block.

    python -m deployments.downloads PORT
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
import re
import stat
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response

from deployments.local.home import Home
from deployments.local.variables import downloads_login
from tasks.core.errors import ToolError
from tasks.core.run import wiring
from tasks.core.settings import settings

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from blocks.captures import CaptureStore

HOSTS = frozenset({"127.0.0.1", "localhost"})
"""Names a browser may have used; any other means that somebody's DNS leads to this port (rebinding)."""
_PATH = re.compile(r"/captures/([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)/(.+)")
CAPTURE_ENDINGS = (".pcap", ".cap", ".dmp")
"""Of application/vnd.tcpdump.pcap as IANA registered it; pcapng has no registered type."""
HEADERS = {
    "Cache-Control": "no-store",
    # A file of the store is never a page: whatever is in it, a browser runs and embeds nothing of it.
    "Content-Security-Policy": "default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
STALLED_SECONDS = 60.0
"""A client that takes nothing for so long is let go: while it is served, its file is kept from being pruned."""
MOST_CONNECTIONS = 64
MOST_STORES = 64
GRACE_SECONDS = 3
"""Seconds a transfer may go on when the stack goes down."""
STORE_CACHE_SECONDS = 10.0
"""A changed CaptureStore block holds after this long at most."""
_REALM = 'Basic realm="signalbox", charset="UTF-8"'
_NOT_LOGGED_IN = (
    "User and password are those of the Prefect UI: signalbox env shows them as PREFECT_API_AUTH_STRING, user:password."
    " With a Prefect of your own that has none, they are in secrets/prefect-auth-string of SIGNALBOX_HOME.\n"
)
_NOT_THERE = "The capture store has no such file, or no longer: signalbox capture list shows what it has.\n"

_log = logging.getLogger("signalbox.downloads")


class Downloads:
    """The ASGI application.

    Args:
        login: `user:password` that a client must know.
        stalled_seconds: Seconds a client may take to accept the next piece of a file.
    """

    def __init__(self, login: str, *, stalled_seconds: float = STALLED_SECONDS) -> None:
        self._login = login.encode()
        self._stalled_seconds = stalled_seconds
        self._stores: dict[str, tuple[float, CaptureStore]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; its line in the log has no query and no login."""
        request = Request(scope)
        exchange = _Exchange(send, self._stalled_seconds)
        try:
            if (refusal := self._refuse(request)) is not None:
                await refusal(scope, receive, exchange.send)
            elif scope["path"] == "/health":
                await JSONResponse({"status": "ok"})(scope, receive, exchange.send)
                return  # asked again and again by `doctor` and at the start: not worth a line
            else:
                await self._download(scope, receive, exchange)
        except TimeoutError:
            exchange.remark = " stalled"
        client = request.client.host if request.client else "-"
        where = scope.get("raw_path", b"").decode("ascii", "backslashreplace")[:500]
        _log.info("%s %s %s %d %d%s", client, request.method, where, exchange.status, exchange.sent, exchange.remark)

    def _refuse(self, request: Request) -> Response | None:
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or hosts[0].partition(":")[0].lower() not in HOSTS:
            return PlainTextResponse("This service answers to 127.0.0.1 and localhost only.\n", 400)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("Files can be fetched, nothing else.\n", 405, {"Allow": "GET, HEAD"})
        if not self._knows_login(request.headers.get("authorization", "")):
            return PlainTextResponse(_NOT_LOGGED_IN, 401, {"WWW-Authenticate": _REALM})
        return None

    def _knows_login(self, authorization: str) -> bool:
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            given = base64.b64decode(credentials.strip(), validate=True)
        except ValueError:
            return False
        return hmac.compare_digest(given, self._login)

    async def _download(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        # As long as the stack holds the store's read lock nobody prunes the file.
        with ExitStack() as held:
            await (await self._answer(scope["path"], held, exchange))(scope, receive, exchange.send)

    async def _answer(self, path: str, held: ExitStack, exchange: _Exchange) -> Response:
        asked = _PATH.fullmatch(path)
        if asked is None:
            return PlainTextResponse(_NOT_THERE, 404)
        try:
            store = await self._store(asked[1])
        except ToolError as error:
            return PlainTextResponse(f"The capture store cannot be found: {error.message}\n", 503)
        try:
            return await asyncio.to_thread(_open, store, asked[3], held)
        except FileNotFoundError:
            pass
        except (ValueError, RuntimeError, OSError) as error:  # RuntimeError: pathlib's, for a loop of symbolic links
            exchange.remark = f" {type(error).__name__}"
        return PlainTextResponse(_NOT_THERE, 404)

    async def _store(self, site: str) -> CaptureStore:
        """The site's store; the one last seen while Prefect does not answer."""
        loaded, known = self._stores.get(site, (0.0, None))
        if known is not None and time.monotonic() - loaded < STORE_CACHE_SECONDS:
            return known
        try:
            store = await wiring().store(site)
        except ToolError:
            if known is None:
                raise
            return known
        if len(self._stores) >= MOST_STORES:
            self._stores.clear()
        self._stores[site] = (time.monotonic(), store)
        return store


def _open(store: CaptureStore, name: str, held: ExitStack) -> Response:
    """Lock a file of the store for reading until `held` ends, and make the answer that sends it."""
    if not stat.S_ISREG(store.path(name).lstat().st_mode):  # opening a pipe would wait for its writer
        raise FileNotFoundError(name)
    path = held.enter_context(store.reading(name))
    kind = "application/vnd.tcpdump.pcap" if name.lower().endswith(CAPTURE_ENDINGS) else "application/octet-stream"
    return FileResponse(path, media_type=kind, filename=path.name, stat_result=path.stat())


class _Exchange:
    """What is sent in answer to one request: with the headers every answer has, counted, and never waited for without end."""

    def __init__(self, send: Send, stalled_seconds: float) -> None:
        self.status = 0
        self.sent = 0
        self.remark = ""
        self._send = send
        self._stalled_seconds = stalled_seconds

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=message["headers"])
            headers.update(HEADERS)
            message = {**message, "headers": headers.raw}
        async with asyncio.timeout(self._stalled_seconds):
            await self._send(message)
        self.sent += len(message.get("body", b""))


def serve(port: int, login: str, *, stalled_seconds: float = STALLED_SECONDS) -> None:
    """Serve on a port of 127.0.0.1 until TERM or INT.

    Args:
        port: The port.
        login: `user:password` that a client must know.
        stalled_seconds: Seconds a client may take to accept the next piece of a file.
    """
    import uvicorn

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    _log.setLevel(logging.INFO)
    config = uvicorn.Config(
        Downloads(login, stalled_seconds=stalled_seconds),
        host="127.0.0.1",
        port=port,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        # uvicorn's own line has the query in it.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    serve(int(sys.argv[1]), downloads_login(Home(settings().home)))
