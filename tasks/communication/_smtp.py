"""One SMTP conversation: in a thread, cut off when its task ends, every failure said in words."""

from __future__ import annotations

import asyncio
import base64
import smtplib
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass

from blocks.mail import MailServer
from tasks.core.errors import Busy, Rejected, ToolError, Unauthorized, Unreachable, Unsupported
from tasks.core.scrub import excerpt, scrub
from tasks.core.transport import explain_connection


@dataclass(frozen=True)
class Refused:
    """A recipient the server did not take, with its answer (RFC 5321 section 4.2)."""

    address: str
    code: int
    reason: str

    @property
    def temporary(self) -> bool:
        return 400 <= self.code < 500


async def hand_over(
    block: MailServer, sender: str, recipients: list[str], data: bytes, *, step: float, total: float
) -> list[Refused]:
    """Give a mail to the server for the recipients it takes; return those it refuses.

    Args:
        block: The server.
        sender: Address bounces go to.
        recipients: Addresses without names.
        data: The mail, lines ended by CR LF.
        step: Seconds for each answer of the server.
        total: Seconds for the conversation.

    Raises:
        ToolError: Nothing was handed over (or its receipt was lost: `Unreachable`); says what to do next.
    """
    conversation = _Conversation(block, step)
    try:
        async with asyncio.timeout(total):
            return await asyncio.to_thread(conversation.hold, sender, recipients, data)
    except (smtplib.SMTPException, OSError, UnicodeError) as error:
        # from None: the answer of the server and the arguments of encoding errors may hold the password.
        raise _explain(error, block, min(step, total)) from None
    finally:
        conversation.cut()


class _Conversation:
    """Runs in a thread; `cut` may come from another one at any time and ends it at its next step."""

    def __init__(self, block: MailServer, step: float) -> None:
        self._block, self._step = block, step
        self._connection: smtplib.SMTP | None = None
        self._cut = threading.Event()

    def hold(self, sender: str, recipients: list[str], data: bytes) -> list[Refused]:
        self._connection = connection = self._block.connect(self._step)
        try:
            self._check_wanted()
            self._block.sign_in(connection)
            options = _size_option(connection, data, self._block)
            _expect(connection.mail(sender, options), smtplib.SMTPSenderRefused, sender)
            refused = []
            for address in recipients:
                code, answer = connection.rcpt(address)
                if code not in {250, 251}:
                    refused.append(Refused(address, code, scrub(excerpt(answer), _secrets(self._block))))
                if code == 421:  # the server closes the connection
                    raise smtplib.SMTPResponseException(code, answer)
            self._check_wanted()
            if len(refused) < len(recipients):
                code, answer = connection.data(data)
                if code != 250:
                    raise smtplib.SMTPDataError(code, answer)
            with suppress(smtplib.SMTPException, OSError):
                connection.quit()  # the mail is with the server; how it says goodbye changes nothing
            return refused
        finally:
            connection.close()

    def cut(self) -> None:
        """End the conversation: nothing more is sent. A read in progress returns at once."""
        self._cut.set()
        sock = self._connection.sock if self._connection is not None else None
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _check_wanted(self) -> None:
        if self._cut.is_set():
            raise smtplib.SMTPServerDisconnected("cut off")


def _expect(reply: tuple[int, bytes], error: type[smtplib.SMTPSenderRefused], sender: str) -> None:
    code, answer = reply
    if code != 250:
        raise error(code, answer, sender)


def _size_option(connection: smtplib.SMTP, data: bytes, block: MailServer) -> list[str]:
    """The size announced ahead (RFC 1870), so that a mail too large is refused before it is sent."""
    if not connection.has_extn("size"):
        return []
    limit = connection.esmtp_features.get("size", "")
    if limit.isdigit() and 0 < int(limit) < len(data):
        raise smtplib.SMTPDataError(552, f"the mail has {len(data):,} bytes, the server takes {int(limit):,}".encode())
    return [f"size={len(data)}"]


# --- what went wrong -------------------------------------------------------------------------------------------------


def all_refused(refused: list[Refused], block: MailServer) -> ToolError:
    """The error when no recipient was taken."""
    reasons = "; ".join(f"{refusal.address}: {refusal.reason} ({refusal.code})" for refusal in refused)
    message = f"{_place(block)} refuses every recipient: {reasons}."
    if all(refusal.temporary for refusal in refused):
        return Busy(message, hint="It may take them later.")
    return Rejected(message)


def _explain(error: Exception, block: MailServer, patience: float) -> ToolError:
    place = _place(block)
    if isinstance(error, UnicodeError):
        return Unsupported(
            f"The user or password for {place} holds characters beyond ASCII, which SMTP's login cannot carry."
        )
    if isinstance(error, smtplib.SMTPResponseException):
        return _explain_response(error, place, block)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        if block.security == "starttls" and "STARTTLS" in str(error):
            return Unsupported(
                f"{place} offers no STARTTLS, so neither mail nor password was sent.", hint="Is it the right port?"
            )
        return Unsupported(
            f"{place} offers no login of a kind we know.", hint="Does it want one at all? Then leave the user empty."
        )
    if _timed_out(error):
        hint = "Is it a TLS port? Then the server's smtp_type is SSL." if block.security != "tls" else None
        return Unreachable(f"{place} does not answer within {patience:g} s.", hint=hint)
    reason = explain_connection(error, place, block.host)
    if reason is not None:
        return reason
    if isinstance(error, (smtplib.SMTPServerDisconnected, OSError)):
        return Unreachable(f"{place} closed the connection.")
    return Unsupported(f"{place} offers no login of a kind we know.")


def _explain_response(error: smtplib.SMTPResponseException, place: str, block: MailServer) -> ToolError:
    code, answer = error.smtp_code, error.smtp_error
    said = excerpt(answer if isinstance(answer, bytes) else str(answer).encode())
    detail = f": {scrub(said, _secrets(block))} ({code})"
    if not 400 <= code < 600:
        return Unsupported(f"{place} answers, but not with SMTP.", hint="Is it the right port?")
    if code < 500:
        return Busy(f"{place} cannot take the mail now{detail}.")
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return Unauthorized(f"{place} refuses user or password{detail}.", hint="They are in the block's field server.")
    if code in {530, 534, 538}:  # RFC 4954 section 6: login required, or another, or encryption first
        return Unauthorized(
            f"{place} wants a login first{detail}.", hint="User and password are in the block's field server."
        )
    if isinstance(error, smtplib.SMTPSenderRefused):
        return Rejected(f"{place} does not take mail from {error.sender}{detail}.", hint="The sender is in the block.")
    if isinstance(error, smtplib.SMTPDataError):
        return Rejected(f"{place} does not take this mail{detail}.")
    return Rejected(f"{place} refuses{detail}.")


def _timed_out(error: BaseException) -> bool:
    """Whether a step took too long; smtplib hides the time-out of a read behind a disconnect."""
    return isinstance(error, TimeoutError) or (
        isinstance(error, smtplib.SMTPServerDisconnected) and isinstance(error.__context__, TimeoutError)
    )


def _place(block: MailServer) -> str:
    return f"Mail server {block.host}:{block.port}"


def _secrets(block: MailServer) -> list[str]:
    """The password, in every form the login sends it in."""
    user, password = block.server.username or "", block.server.password.get_secret_value()
    if not password:
        return []
    plain = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    return [password, plain]
