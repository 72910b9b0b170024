"""Ask a server that begins in plain text to go on with TLS: SMTP, IMAP, POP3, FTP, PostgreSQL.

What the server says is kept short and told when it declines. Nothing is sent but the commands that lead to TLS; we log in nowhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum

from tasks.network.probe._connection import Connection

MOST_LINE_BYTES = 4096
MOST_LINES = 100
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # length 8, code 80877103: PostgreSQL's SSLRequest


class StartTls(StrEnum):
    """The protocol inside which TLS begins."""

    NONE = "none"  # TLS from the first byte
    SMTP = "smtp"  # RFC 3207
    IMAP = "imap"  # RFC 3501
    POP3 = "pop3"  # RFC 2595
    FTP = "ftp"  # RFC 4217
    POSTGRES = "postgres"


PORTS = {
    StartTls.NONE: 443,
    StartTls.SMTP: 25,
    StartTls.IMAP: 143,
    StartTls.POP3: 110,
    StartTls.FTP: 21,
    StartTls.POSTGRES: 5432,
}


class NoStartTls(Exception):
    """The server does not go on with TLS; the text says why, in its words where it has some."""


async def start(connection: Connection, protocol: StartTls) -> None:
    """Bring a fresh connection to the point where the TLS handshake may begin.

    Raises:
        NoStartTls: The server does not speak the protocol, or does not offer TLS in it.
        OSError: The connection broke.
        TimeoutError: It did not answer in time.
    """
    talk = _TALKS.get(protocol)
    if talk is None:
        return
    lines = _Lines(connection)
    await talk(lines)
    if lines.rest:
        # RFC 3207 section 4.2 and CVE-2011-0411: what comes in plain text after the yes could have been put there by anybody.
        raise NoStartTls("it says more in plain text after it agreed to TLS: somebody between may be adding it")


class _Lines:
    """Lines over a connection, each of bounded length."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.rest = b""
        self._left = MOST_LINES

    async def next(self) -> str:
        while b"\n" not in self.rest:
            if len(self.rest) > MOST_LINE_BYTES:
                raise NoStartTls("it answers with a line that does not end")
            data = await self.connection.receive(MOST_LINE_BYTES)
            if not data:
                raise NoStartTls("it closed the connection before TLS could begin")
            self.rest += data
        self._left -= 1
        if self._left < 0:
            raise NoStartTls("its greeting does not end")
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode("utf-8", "replace").rstrip("\r")

    async def say(self, line: str) -> None:
        await self.connection.send(f"{line}\r\n".encode("ascii"))

    async def reply(self) -> tuple[str, list[str]]:
        """Read one reply of SMTP or FTP, which may have several lines; return its code and its lines."""
        first = await self.next()
        code, lines = first[:3], [first]
        if not code.isdigit():
            raise NoStartTls(f"it answers in another protocol: {_quoted(first)}")
        while lines[-1][:4] != f"{code} " and lines[-1] != code:
            lines.append(await self.next())
        return code, lines


async def _smtp(lines: _Lines) -> None:
    await _expect(lines, "220")
    await lines.say("EHLO signalbox.invalid")
    code, said = await lines.reply()
    if code != "250":
        raise NoStartTls(f"it refuses EHLO: {_quoted(said[-1])}")
    if not any(line[4:].strip().upper() == "STARTTLS" for line in said):
        raise NoStartTls("it does not offer STARTTLS")
    await lines.say("STARTTLS")
    await _expect(lines, "220")


async def _ftp(lines: _Lines) -> None:
    await _expect(lines, "220")
    await lines.say("AUTH TLS")
    await _expect(lines, "234")


async def _expect(lines: _Lines, wanted: str) -> None:
    code, said = await lines.reply()
    if code != wanted:
        raise NoStartTls(f"it refuses: {_quoted(said[-1])}")


async def _imap(lines: _Lines) -> None:
    greeting = await lines.next()
    if not greeting.upper().startswith("* OK"):
        raise NoStartTls(f"it does not greet as an IMAP server: {_quoted(greeting)}")
    await lines.say("a1 STARTTLS")
    while (line := await lines.next()).startswith("* "):
        pass  # untagged news
    if not line.upper().startswith("A1 OK"):
        raise NoStartTls(f"it refuses: {_quoted(line)}")


async def _pop3(lines: _Lines) -> None:
    greeting = await lines.next()
    if not greeting.startswith("+OK"):
        raise NoStartTls(f"it does not greet as a POP3 server: {_quoted(greeting)}")
    await lines.say("STLS")
    line = await lines.next()
    if not line.startswith("+OK"):
        raise NoStartTls(f"it refuses: {_quoted(line)}")


async def _postgres(lines: _Lines) -> None:
    await lines.connection.send(_SSL_REQUEST)
    answer = await lines.connection.receive(1)
    if not answer:
        raise NoStartTls("it closed the connection before TLS could begin")
    if answer == b"N":
        raise NoStartTls("it is a PostgreSQL server without TLS (ssl = off)")
    if answer != b"S":
        raise NoStartTls(f"it does not answer as a PostgreSQL server: {_quoted(answer.decode('latin-1'))}")


_TALKS: dict[StartTls, Callable[[_Lines], Awaitable[None]]] = {
    StartTls.SMTP: _smtp,
    StartTls.IMAP: _imap,
    StartTls.POP3: _pop3,
    StartTls.FTP: _ftp,
    StartTls.POSTGRES: _postgres,
}


def _quoted(line: str) -> str:
    text = "".join(character if character.isprintable() else "?" for character in line)
    return repr(text if len(text) <= 120 else f"{text[:117]}...")
