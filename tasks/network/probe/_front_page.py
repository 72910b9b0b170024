"""The front page of a web server: status, `Server`, title. As little of HTTP/1.1 as that takes, over whatever connection there is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from tasks.network.probe._page import shown, text_of, title_of

MOST_BYTES = 32 << 10
"""How much of a page is read: titles stand at its beginning."""
MOST_HEAD = 16 << 10

_STATUS = re.compile(rb"HTTP/1\.[01] +(\d{3})\b")
_TITLE_ENDS = re.compile(rb"</title\s*>", re.IGNORECASE)


class NoPage(Exception):
    """What answers is no web server, or says nothing; says why."""


class Stream(Protocol):
    """What bytes come from and go to; `Connection` is one."""

    async def send(self, data: bytes) -> None: ...
    async def receive(self, most: int = ...) -> bytes: ...


@dataclass(frozen=True)
class FrontPage:
    """What a web server shows first.

    Attributes:
        status: Status code.
        server: Its `Server` header.
        title: The page's title.
        location: Where it sends a visitor instead.
        realm: Of what it asks a password for, if it does.
    """

    status: int
    server: str | None = None
    title: str | None = None
    location: str | None = None
    realm: str | None = None


async def read_front_page(stream: Stream, host: str, path: str = "/") -> FrontPage:
    """Ask for a page and read up to its title.

    Args:
        stream: A fresh connection.
        host: What the `Host` header says.
        path: Path and query of the page.

    Raises:
        NoPage: It is no web server.
        OSError: The connection broke before anything could be read.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: signalbox\r\nAccept: text/html, */*;q=0.1\r\n"
    await stream.send(f"{request}Connection: close\r\n\r\n".encode("ascii", "ignore"))
    data = b""
    while len(data) < MOST_BYTES and not _enough(data):
        try:
            more = await stream.receive()
        except OSError:  # a reset after the answer: what came counts
            if not data:
                raise
            break
        if not more:
            break
        data += more
    return parse(data)


def _enough(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        # Not HTTP at all: no need to wait for more of it.
        return len(head) >= MOST_HEAD or (len(head) >= 5 and not head.startswith(b"HTTP/"))
    length = re.search(rb"\r\ncontent-length:\s*(\d{1,18})\s*(?:\r|$)", head, re.IGNORECASE)
    return (length is not None and len(body) >= int(length[1])) or _TITLE_ENDS.search(body) is not None


def parse(data: bytes) -> FrontPage:
    r"""Read the beginning of an answer.

    >>> parse(b"HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n<title>A &amp; B</title>").title
    'A & B'

    Raises:
        NoPage: It is not HTTP.
    """
    head, _, body = data.partition(b"\r\n\r\n")
    found = _STATUS.match(head)
    if found is None:
        raise NoPage("what answers does not speak HTTP" if data else "it closed the connection without a word")
    headers: dict[str, str] = {}
    for line in head.split(b"\r\n")[1:100]:
        name, _, value = line.decode("latin-1").partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _joined(body)
    realm = re.search(r'realm="([^"]*)"', headers.get("www-authenticate", ""), re.IGNORECASE)
    return FrontPage(
        status=int(found[1]),
        server=shown(headers.get("server")),
        title=title_of(text_of(body, headers.get("content-type", ""))),
        location=shown(headers.get("location")),
        realm=shown(realm[1]) if realm else None,
    )


def _joined(body: bytes) -> bytes:
    """Take the chunks' sizes out, as far as the chunks came."""
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        try:
            length = int(size.partition(b";")[0], 16)
        except ValueError:
            break
        if length <= 0:
            break
        parts.append(body[:length])
        body = body[length + 2 :]
    return b"".join(parts)


def same_server(location: str, scheme: str, host: str, port: int) -> str | None:
    """Return path and query of a redirect that stays at the server, else None.

    >>> same_server("/login.html?a=1", "http", "10.0.0.7", 80), same_server("https://10.0.0.7/", "http", "10.0.0.7", 80)
    ('/login.html?a=1', None)
    """
    try:
        target = urlsplit(urljoin(f"{scheme}://{authority(scheme, host, port)}/", location))
        there = (target.scheme, target.hostname, target.port or {"http": 80, "https": 443}.get(target.scheme))
    except ValueError:
        return None
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    if there != (scheme, host.lower(), port) or not path.isascii() or not path.isprintable() or " " in path:
        return None
    return path


def authority(scheme: str, host: str, port: int) -> str:
    """What a URL or a `Host` header says: the port only where it is not the usual one.

    >>> authority("https", "2001:db8::1", 8443), authority("http", "10.0.0.7", 80)
    ('[2001:db8::1]:8443', '10.0.0.7')
    """
    name = f"[{host}]" if ":" in host else host
    return name if port == {"http": 80, "https": 443}.get(scheme) else f"{name}:{port}"
