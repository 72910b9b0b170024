"""Where mail leaves: an SMTP server, who it is from, and who gets it when nobody is named."""

from __future__ import annotations

import smtplib
import socket
import ssl
from typing import ClassVar, Literal, Self

from prefect.blocks.core import Block
from prefect_email import EmailServerCredentials
from prefect_email.credentials import SMTPServer, SMTPType
from pydantic import ConfigDict, Field, model_validator

from blocks._trust import TrustedAuthority, trust

Security = Literal["none", "starttls", "tls"]


class MailServer(Block):
    """An SMTP server with what stays the same from mail to mail.

    prefect-email's credentials say where the server is and who we are; the connection is opened here, because prefect-email's
    own has neither a timeout nor a way to trust a company's authority.

    Example:
        ```python
        MailServer(
            server=EmailServerCredentials(
                smtp_server="mail.example.com", smtp_type="STARTTLS", username="noc", password="..."
            ),
            sender="NOC <noc@example.com>",
            default_to=["operators@example.com"],
        ).save("noc")
        ```
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    _block_type_name: ClassVar[str] = "Mail Server"
    _block_type_slug: ClassVar[str] = "mail"
    _description: ClassVar[str] = "SMTP server, sender and default recipients; tools name it mail/NAME."
    short: ClassVar[str] = "mail"

    server: EmailServerCredentials = Field(
        description="Server, port, security (INSECURE, STARTTLS or SSL), user and password."
    )
    sender: str = Field(
        description="Who the mail is from: noc@example.com or NOC <noc@example.com>.", min_length=3, max_length=320
    )
    default_to: list[str] = Field(
        default_factory=list, description="Recipients when a mail names none.", examples=[["operators@example.com"]]
    )
    ca: TrustedAuthority = None
    allow_plain_login: bool = Field(
        False, description="Send user and password without encryption. Only for a server on this very machine."
    )

    @model_validator(mode="after")
    def _password_protected(self) -> Self:
        if self.security == "none" and self.server.username is not None and not self.allow_plain_login:
            raise ValueError(
                "the password would cross the network in clear: set the server's smtp_type to STARTTLS or SSL, "
                "or allow_plain_login"
            )
        return self

    @property
    def security(self) -> Security:
        """How the connection is protected."""
        kinds: dict[object, Security] = {SMTPType.SSL: "tls", SMTPType.STARTTLS: "starttls"}
        return kinds.get(self.server.smtp_type, "none")

    @property
    def host(self) -> str:
        """Name or address of the server."""
        server = self.server.smtp_server
        return str(server.value) if isinstance(server, SMTPServer) else str(server)

    @property
    def port(self) -> int:
        """Port of the server: the one given, else the one usual for the protection."""
        kind = self.server.smtp_type
        return self.server.smtp_port or int(kind.value if isinstance(kind, SMTPType) else SMTPType.INSECURE.value)

    def tls(self) -> ssl.SSLContext:
        """Whom the connection trusts; nobody is checked when the server's `verify` is off.

        Raises:
            ValueError: `ca` names a file that cannot be read here.
        """
        if self.server.verify is not False:
            return trust(self.ca, "smtp")
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def connect(self, timeout: float) -> smtplib.SMTP:
        """Open a connection: connected and greeted, not yet encrypted by STARTTLS, not yet logged in.

        Blocks: call it from a thread. Every step of the conversation afterwards may take `timeout` seconds again.

        Args:
            timeout: Seconds for connecting, and for each answer of the server.

        Raises:
            OSError: No connection.
            smtplib.SMTPException: The server does not want to talk.
        """
        # Named here, because smtplib would otherwise look our name up in the DNS, for as long as that takes.
        name = socket.gethostname() or "localhost"
        if self.security == "tls":
            return smtplib.SMTP_SSL(self.host, self.port, local_hostname=name, timeout=timeout, context=self.tls())
        return smtplib.SMTP(self.host, self.port, local_hostname=name, timeout=timeout)

    def sign_in(self, connection: smtplib.SMTP) -> None:
        """Encrypt (STARTTLS) and log in, as the block says. Blocks.

        Raises:
            OSError: The connection broke, or its certificate does not hold.
            smtplib.SMTPException: The server cannot or does not want to.
        """
        connection.ehlo_or_helo_if_needed()
        if self.security == "starttls":
            connection.starttls(context=self.tls())
            connection.ehlo()
        if self.server.username is not None:
            connection.login(self.server.username, self.server.password.get_secret_value())
