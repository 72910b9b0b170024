"""Requests and answers, as the camera's APIs see them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self

LEVELS = {"anonymous": 0, "viewer": 1, "operator": 4, "admin": 6}
"""The levels, as the digits of a parameter's security level count them."""


@dataclass(frozen=True)
class Account:
    """Somebody who may log in.

    Attributes:
        name: User name; empty for nobody in particular.
        password: What they log in with.
        level: `viewer`, `operator` or `admin`; `anonymous` for a request without credentials.
        ptz: Whether the account may move the camera.
    """

    name: str
    password: str = field(repr=False, default="")
    level: str = "viewer"
    ptz: bool = False

    @property
    def rank(self) -> int:
        return LEVELS.get(self.level, 0)

    def reaches(self, level: str, ptz: bool = False) -> bool:
        """Whether the account has that level, and the right to move the camera if asked for."""
        return self.rank >= LEVELS[level] and (self.ptz or not ptz)

    @property
    def groups(self) -> list[str]:
        """Groups as usergroup.cgi names them, the highest first."""
        ranked = [name for name, rank in reversed(LEVELS.items()) if 0 < rank <= self.rank]
        return [*ranked, *(["ptz"] if self.ptz else [])]


ANONYMOUS = Account("", level="anonymous")


class NeedsLevel(Exception):
    """The account may not do this: the server answers as the device answers too low a level."""

    def __init__(self, level: str = "operator") -> None:
        super().__init__(level)
        self.level = level


@dataclass
class Request:
    """A request whose sender is known.

    Attributes:
        method: HTTP verb.
        target: Path and query as they came.
        path: Path, percent-decoded.
        pairs: Arguments of the query and of a form body, in their order, repetitions kept.
        headers: Headers, names in lower case.
        body: The whole body.
        account: Who asks.
        scheme: `http` or `https`.
        client: Address of the client.
        head: The head as it came over the wire, for those who take the connection over.
    """

    method: str
    target: str
    path: str
    pairs: list[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes = field(repr=False, default=b"")
    account: Account = ANONYMOUS
    scheme: str = "http"
    client: str = ""
    head: bytes = field(repr=False, default=b"")

    @property
    def query(self) -> dict[str, str]:
        """Arguments by name; of repeated ones the last."""
        return dict(self.pairs)

    @property
    def host(self) -> str:
        """Address and port as the client called them."""
        return self.headers.get("host", "")

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: It is none.
        """
        return json.loads(self.body)

    def needs(self, level: str, *, ptz: bool = False) -> None:
        """Go on only for an account of this level.

        Raises:
            NeedsLevel: The account is below it; the server answers that.
        """
        if not self.account.reaches(level, ptz):
            raise NeedsLevel(level)


@dataclass
class Response:
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def text(
        cls, text: str, status: int = 200, *, charset: str = "utf-8", headers: Mapping[str, str] | None = None
    ) -> Self:
        """A plain text; characters the charset lacks become question marks."""
        return cls(status, text.encode(charset, "replace"), "text/plain", headers or {})

    @classmethod
    def json(cls, data: object, status: int = 200, *, content_type: str = "application/json") -> Self:
        return cls(status, json.dumps(data).encode(), content_type)

    @classmethod
    def xml(cls, text: str, status: int = 200, *, charset: str = "utf-8", content_type: str = "text/xml") -> Self:
        return cls(status, text.encode(charset, "xmlcharrefreplace"), content_type)

    @classmethod
    def html(cls, body: str, status: int = 200) -> Self:
        return cls(status, f"<html><body>{body}</body></html>".encode(), "text/html")

    @classmethod
    def empty(cls, status: int = 204) -> Self:
        return cls(status)

    @classmethod
    def page(cls, status: int, headers: Mapping[str, str] | None = None) -> Self:
        """The web server's own page about a status."""
        phrase = f"{status} {HTTPStatus(status).phrase}"
        text = (
            f'<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">\n<html><head>\n<title>{phrase}</title>\n</head><body>\n'
            f"<h1>{HTTPStatus(status).phrase}</h1>\n<p>{HTTPStatus(status).description}.</p>\n</body></html>\n"
        )
        return cls(status, text.encode(), "text/html; charset=iso-8859-1", headers or {})


@dataclass
class StreamResponse:
    """An answer that goes on: its pieces are sent as they come, until they end or the client goes."""

    chunks: AsyncIterator[bytes]
    content_type: str = "application/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200


Answer = Response | StreamResponse
