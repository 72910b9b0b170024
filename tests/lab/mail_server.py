"""SMTP servers on loopback: a real one (aiosmtpd) with TLS, STARTTLS and AUTH, and one that misbehaves by a script.

with MailServerLab(tls=authority.server(), mode="starttls", users={"noc": "secret"}) as mail:
    block = mail.block(ca=authority.pem, username="noc", password="secret")
    ...
    mail.messages[-1]["Subject"]
"""

from __future__ import annotations

import email
import email.policy
import socket
import ssl
import threading
import warnings
from collections.abc import Awaitable, Mapping
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Literal, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from prefect_email import EmailServerCredentials

from blocks.mail import MailServer

Mode = Literal["none", "starttls", "tls"]
_TYPES = {"none": "INSECURE", "starttls": "STARTTLS", "tls": "SSL"}


class _OnAnyPort(Controller):
    """Controller on a socket that is bound already: asking for a free port and using it later is a race."""

    def __init__(self, handler: Any, **arguments: Any) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        super().__init__(handler, hostname="127.0.0.1", port=self._socket.getsockname()[1], **arguments)

    def _create_server(self) -> Awaitable[Any]:
        return self.loop.create_server(self._factory_invoker, sock=self._socket, ssl=self.ssl_context)


class MailServerLab:
    """A mail server that keeps what it takes.

    Args:
        tls: Context of the server's certificate; needed unless `mode` is none.
        mode: How connections are protected.
        users: Names and passwords. Empty: nobody needs to log in.
        refuse: Recipients it refuses, with its answer: {"gone@example.com": "550 no such user"}.
        answer: Its answer to the mail itself.
        size_limit: Largest mail in bytes.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        mode: Mode = "none",
        users: Mapping[str, str] | None = None,
        refuse: Mapping[str, str] | None = None,
        answer: str = "250 taken",
        size_limit: int = 40 << 20,
    ) -> None:
        self.mode, self.users = mode, dict(users or {})
        self.refuse, self.answer = dict(refuse or {}), answer
        self.envelopes: list[Envelope] = []
        self.messages: list[EmailMessage] = []
        self.logins: list[str] = []
        self.encrypted: list[bool] = []
        self._controller = _OnAnyPort(
            self,
            ssl_context=tls if mode == "tls" else None,
            tls_context=tls if mode == "starttls" else None,
            require_starttls=mode == "starttls",
            authenticator=self._authenticate if self.users else None,
            auth_required=bool(self.users),
            # In a TLS session from the start aiosmtpd does not see the TLS.
            auth_require_tls=mode == "starttls",
            data_size_limit=size_limit,
            server_hostname="mail.test",
            ready_timeout=10,
        )

    @property
    def port(self) -> int:
        return int(self._controller.port)

    def block(
        self,
        *,
        ca: str | None = None,
        username: str | None = None,
        password: str = "",
        mode: Mode | None = None,
        **fields: Any,
    ) -> MailServer:
        """The block an administrator would make for this server."""
        credentials = EmailServerCredentials(
            smtp_server=fields.pop("host", "127.0.0.1"),
            smtp_port=self.port,
            smtp_type=_TYPES[mode or self.mode],
            username=username,
            password=password,
        )
        defaults = {"sender": "NOC <noc@example.com>", "default_to": ["ops@example.com"]}
        return MailServer(server=credentials, ca=ca, **{**defaults, **fields})

    # aiosmtpd calls these by name.

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.answer.startswith("250"):
            self.envelopes.append(envelope)
            message = email.message_from_bytes(envelope.content or b"", policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            self.messages.append(message)
            self.encrypted.append(session.ssl is not None or self.mode == "tls")
        return self.answer

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        user, password = data.login.decode(), data.password.decode()
        good = self.users.get(user) == password
        if good:
            self.logins.append(user)
        return AuthResult(success=good, handled=False, message=None if good else "535 5.7.8 not with that password")

    def __enter__(self) -> Self:
        # aiosmtpd warns of AUTH without STARTTLS at each connection: in a TLS session from the start it is mistaken.
        warnings.filterwarnings("ignore", message="Requiring AUTH while not requiring TLS", category=UserWarning)
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._controller.stop()


SILENCE = "silence"
HANG_UP = "hang up"


class ScriptedMailServer(MailServerLab):
    """A server that answers by a script: verb -> answer, `SILENCE` or `HANG_UP`. `greeting` and `body` are verbs too.

    >>> ScriptedMailServer({"greeting": "421 too busy"})  # doctest: +SKIP
    """

    def __init__(self, script: Mapping[str, str], *, mode: Mode = "none") -> None:
        self.mode, self.script = mode, dict(script)
        self.heard: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._heard_more = threading.Condition()
        self._stopped = threading.Event()

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    def hear(self, verb: str, timeout: float = 10.0) -> None:
        """Wait until a client has said `verb`."""
        with self._heard_more:
            assert self._heard_more.wait_for(lambda: any(line.upper().startswith(verb) for line in self.heard), timeout)

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._socket.close()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._converse, args=(connection,), daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            if not self._answer(stream, "greeting", "220 mail.test ready"):
                return
            for line in stream:
                verb = line.decode("latin-1").strip().upper().split(" ")[0].split(":")[0]
                with self._heard_more:
                    self.heard.append(line.decode("latin-1").strip())
                    self._heard_more.notify_all()
                usual = {"EHLO": "250-mail.test\r\n250 AUTH PLAIN LOGIN", "DATA": "354 go on", "QUIT": "221 bye"}
                if not self._answer(stream, verb, usual.get(verb, "250 OK")):
                    return
                if verb == "DATA" and self.script.get("DATA", "354").startswith("354"):
                    for data in stream:
                        if data == b".\r\n":
                            break
                    if not self._answer(stream, "body", "250 taken"):
                        return

    def _answer(self, stream: Any, verb: str, usual: str) -> bool:
        answer = self.script.get(verb, usual)
        if answer == SILENCE:
            self._stopped.wait(30)
            return False
        if answer == HANG_UP:
            return False
        stream.write(answer.encode() + b"\r\n")
        stream.flush()
        return True
