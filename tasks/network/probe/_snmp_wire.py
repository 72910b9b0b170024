"""One SNMP request on the wire, and what came of it.

pysnmp makes and reads the messages (RFC 3412, user-based security RFC 3414, 3826, 7860). The sockets are ours, because pysnmp's own can
neither wait for a share of the packet budget nor hear that nobody listens: each agent has a connected socket, so that answers of
strangers are dropped by the kernel and an ICMP "port unreachable" arrives as an error. Every message that leaves has been paid for.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from pyasn1.type import univ  # type: ignore[import-untyped]
from pysnmp.carrier.base import AbstractTransportDispatcher  # type: ignore[import-untyped]
from pysnmp.entity import config  # type: ignore[import-untyped]
from pysnmp.entity.engine import SnmpEngine  # type: ignore[import-untyped]
from pysnmp.error import PySnmpError  # type: ignore[import-untyped]
from pysnmp.proto import errind, rfc1902, rfc1905  # type: ignore[import-untyped]
from pysnmp.proto.api import v2c  # type: ignore[import-untyped]

from blocks.snmp import SnmpCredentials
from tasks.core.errors import Busy
from tasks.network.probe._snmp_values import Oid, Value, ValueType, opaque_float

DISCOVERIES = 4
"""Messages for one request at most: its engine is unknown, its clock is unknown, it restarted, and the request itself."""
_COMMUNITY = "reader"  # pysnmp's name for the community; it never leaves this process
_STRANGER = "signalbox"
"""Version 3 user without passwords that asks version 2c agents who they are. An engine not met before is asked without any user."""
_MODELS = {"2c": (1, 2), "3": (3, 3)}  # message processing and security model (RFC 3411 section 3)
_LEVELS = {"community": 1, "noAuthNoPriv": 1, "authNoPriv": 2, "authPriv": 3}
_AUTH = {
    "none": config.USM_AUTH_NONE,
    "MD5": config.USM_AUTH_HMAC96_MD5,
    "SHA": config.USM_AUTH_HMAC96_SHA,
    "SHA-224": config.USM_AUTH_HMAC128_SHA224,
    "SHA-256": config.USM_AUTH_HMAC192_SHA256,
    "SHA-384": config.USM_AUTH_HMAC256_SHA384,
    "SHA-512": config.USM_AUTH_HMAC384_SHA512,
}
_PRIV = {
    "none": config.USM_PRIV_NONE,
    "DES": config.USM_PRIV_CBC56_DES,
    "AES": config.USM_PRIV_CFB128_AES,
    "AES-192": config.USM_PRIV_CFB192_AES_BLUMENTHAL,
    "AES-256": config.USM_PRIV_CFB256_AES_BLUMENTHAL,
    "AES-192-C": config.USM_PRIV_CFB192_AES,
    "AES-256-C": config.USM_PRIV_CFB256_AES,
}
_NO_WAY = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EACCES, errno.EPERM}
_OUT_OF = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}

TOO_BIG, NO_SUCH_NAME, GENERAL_ERROR, NO_ACCESS, AUTHORIZATION_ERROR = 1, 2, 5, 6, 16
"""error-status of a response (RFC 3416 section 3)."""

Command = Literal["get", "bulk"]
Pay = Callable[[], Awaitable[None]]


class AgentOutcome(StrEnum):
    """What came of asking an agent."""

    ANSWERED = "answered"
    PARTIAL = "partial"  # it answered, but not everything that was asked for; `detail` says why
    SILENT = "silent"  # nothing came back
    WRONG_COMMUNITY = "wrong_community"  # version 2c: an agent is there, and does not answer this community
    NO_AGENT = "no_agent"  # the host says that nobody listens at the port
    UNREACHABLE = "unreachable"  # a router, or this machine, says that packets do not get there
    UNKNOWN_USER = "unknown_user"  # version 3: the agent does not know the user
    # Version 3: it knows the user, but the authentication password or protocol is another.
    WRONG_PASSWORD = "wrong_password"  # noqa: S105
    WRONG_ENCRYPTION = "wrong_encryption"  # version 3: authenticated, but it cannot read what we encrypt
    WRONG_LEVEL = "wrong_level"  # version 3: the user needs or allows another level of protection
    NOT_IN_TIME_WINDOW = "not_in_time_window"  # version 3: its clock and ours do not come together
    NOT_ALLOWED = "not_allowed"  # it knows us, and does not let us read this
    AGENT_ERROR = "agent_error"  # it answered with an error of its own
    NONSENSE = "nonsense"  # what came back is no SNMP, or no answer to what was asked
    BUSY = "busy"  # another run talks with this device
    UNRESOLVED = "unresolved"  # the target's name has no address
    NOT_TRIED = "not_tried"  # the deadline came first


class SnmpProblem(Exception):
    """A request that brought no values.

    Attributes:
        outcome: What is wrong.
        status: The response's error-status, where there was a response; else 0.
        index: Which of the asked values it is about, from 1; 0 when it says none.
    """

    def __init__(self, outcome: AgentOutcome, detail: str, *, status: int = 0, index: int = 0) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.status = status
        self.index = index


_INDICATIONS: dict[type[Any], tuple[AgentOutcome, str]] = {
    errind.UnknownUserName: (AgentOutcome.UNKNOWN_USER, "the agent does not know this user"),
    errind.UnknownSecurityName: (AgentOutcome.UNKNOWN_USER, "the agent does not know this user"),
    errind.WrongDigest: (
        AgentOutcome.WRONG_PASSWORD,
        "the agent knows the user, but its authentication password or protocol is another",
    ),
    errind.AuthenticationFailure: (AgentOutcome.WRONG_PASSWORD, "the answer is not signed with the user's password"),
    errind.DecryptionError: (AgentOutcome.WRONG_ENCRYPTION, "the agent cannot decrypt: another password or protocol"),
    errind.UnsupportedSecurityLevel: (
        AgentOutcome.WRONG_LEVEL,
        "the agent does not offer this level of protection to this user",
    ),
    errind.NotInTimeWindow: (
        AgentOutcome.NOT_IN_TIME_WINDOW,
        "the agent calls every message too old or too new; did it lose its boot counter?",
    ),
    errind.UnknownEngineID: (AgentOutcome.NONSENSE, "the agent does not recognise the engine id it gave us"),
}


class Wire:
    """The SNMP engine of one tool run, with one set of credentials. Making one takes some 0.1 s of computing: do it in a thread.

    Args:
        credentials: What lets us in.
    """

    def __init__(self, credentials: SnmpCredentials) -> None:
        self._processing, self._security = _MODELS[credentials.version]
        self._level = _LEVELS[credentials.level]
        self._context = credentials.context
        self._name = credentials.username or _COMMUNITY
        self.version: str = credentials.version
        self.encrypts = self._level == 3
        self.engine = SnmpEngine()
        self._outgoing = _Outgoing()
        self.engine.register_transport_dispatcher(self._outgoing)
        if credentials.version == "2c":
            assert credentials.community is not None
            config.add_v1_system(self.engine, _COMMUNITY, credentials.community.get_secret_value())
            config.add_v3_user(self.engine, _STRANGER, config.USM_AUTH_NONE, None, config.USM_PRIV_NONE, None)
        else:
            config.add_v3_user(
                self.engine,
                self._name,
                _AUTH[credentials.auth_protocol],
                credentials.auth_password.get_secret_value() if credentials.auth_password else None,
                _PRIV[credentials.priv_protocol],
                credentials.priv_password.get_secret_value() if credentials.priv_password else None,
            )

    def compose(
        self, peer: tuple[str, int], pdu: Any, answered: Callable[[Any, Any], None], *, as_stranger: bool = False
    ) -> bytes:
        """Make one message. `answered` gets the response, or what is wrong, when `read` meets it.

        Version 3: to an engine not met before it is the question who it is (RFC 5343), and the request has to be made again.

        Args:
            peer: Address and port.
            pdu: The request.
            answered: Is told.
            as_stranger: With version 2c: ask by version 3, as somebody the agent does not know.
        """
        name, processing, security, level = self._name, self._processing, self._security, self._level
        if as_stranger:
            name, (processing, security), level = _STRANGER, _MODELS["3"], _LEVELS["noAuthNoPriv"]
        principal = rfc1902.OctetString(name)  # pysnmp looks it up by this type only
        self._outgoing.message = b""

        def process(*arguments: Any) -> None:
            # ..., PDU, status information, handle, context: pysnmp calls with what RFC 3412 section 4.1.2 lists.
            answered(arguments[8], arguments[9])

        self._outgoing.listening = True
        try:
            self.engine.message_dispatcher.send_pdu(
                self.engine, config.SNMP_UDP_DOMAIN, peer, processing, security, principal, level,
                None, self._context, 1, pdu, True, 0.0, process, None,
            )  # fmt: skip
        finally:
            self._outgoing.listening = False
        return self._outgoing.message

    def read(self, peer: tuple[str, int], message: bytes) -> None:
        """Read what an agent sent; whoever waits for it is told.

        Raises:
            Exception: Any: pysnmp reads bytes of strangers and does not catch everything they can do.
        """
        self.engine.message_dispatcher.receive_message(self.engine, config.SNMP_UDP_DOMAIN, peer, message)

    def engine_id(self, peer: tuple[str, int]) -> str | None:
        """Return the engine id an agent gave when it was asked by version 3, as hexadecimal digits."""
        model: Any = self.engine.message_processing_subsystems.get(3)
        found = model.get_peer_engine_info(config.SNMP_UDP_DOMAIN, peer)[0] if model is not None else None
        return bytes(found).hex() if found else None


class _Outgoing(AbstractTransportDispatcher):  # type: ignore[misc]  # pysnmp has no types
    """Catches the message the engine makes. What it would send on its own account (reports to whoever asks *us*) goes nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.message = b""
        self.listening = False

    def send_message(self, outgoingMessage: Any, transportDomain: Any, transportAddress: Any) -> None:  # noqa: N803
        if self.listening:
            self.message = bytes(outgoingMessage)


Said = tuple[Any, Any]
"""A response, or None and the status that pysnmp makes of a report."""


@dataclass
class Line(asyncio.DatagramProtocol):
    """The conversation with one agent: one request at a time.

    Args:
        wire: Makes and reads the messages.
        address: The agent's address.
        port: Its UDP port.
        timeout: Seconds to wait for each answer.
        retries: How often a request is repeated when nothing comes.
        pay: Waits until a packet may be sent.
    """

    wire: Wire
    address: str
    port: int
    timeout: float
    retries: int
    pay: Pay
    sent: int = 0
    heard: int = 0
    strange: int = 0
    _transport: asyncio.DatagramTransport | None = None
    _waiting: asyncio.Future[Said] | None = field(default=None, repr=False)
    _recognised: bool = field(default=False, repr=False)

    async def open(self) -> None:
        """Make the socket. Nothing is sent.

        Raises:
            SnmpProblem: There is no way to the address.
            Busy: This machine is out of sockets.
        """
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        try:
            self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: self, remote_addr=(self.address, self.port), family=family
            )
        except OSError as problem:
            raise _lost(problem) from None

    def close(self) -> None:
        """Close the socket."""
        if self._transport is not None:
            self._transport.close()

    async def ask(self, command: Command, oids: Sequence[Oid], repetitions: int = 0) -> list[tuple[Oid, Value]]:
        """Send one request and return what the agent says, in its order.

        Args:
            command: `get` for exactly these, `bulk` for what comes after each.
            oids: What is asked for.
            repetitions: With `bulk`: how many follow each at most.

        Raises:
            SnmpProblem: No values came; says why.
            Busy: This machine is out of sockets.
        """
        loop = asyncio.get_running_loop()
        discoveries = attempt = 0
        answer: asyncio.Future[Said] = loop.create_future()
        while True:
            await self._exchange(_pdu(command, oids, repetitions), answer)
            if not answer.done():
                attempt += 1
                if attempt <= self.retries:
                    continue  # the answer to an earlier attempt is welcome too
                await self._ask_who_is_there(answer)
            if not answer.done():
                raise self._silence()
            pdu, status = answer.result()
            if pdu is not None:
                return _values(pdu)
            indication = status.get("errorIndication")
            if isinstance(indication, (errind.UnknownEngineID, errind.NotInTimeWindow)):
                # Who it is, or what time it is there: the report told, and pysnmp has noted it.
                discoveries += 1
                if discoveries < DISCOVERIES:
                    answer = loop.create_future()
                    continue
            outcome, detail = _INDICATIONS.get(type(indication), (AgentOutcome.AGENT_ERROR, str(indication)))
            raise SnmpProblem(outcome, detail)

    async def _ask_who_is_there(self, answer: asyncio.Future[Said]) -> None:
        """Where version 2c brought nothing at all, ask by version 3 who the agent is: nobody needs credentials for that.

        RFC 3414 section 4. Agents answer it whatever communities they know, if they speak version 3.

        Args:
            answer: What is waited for; it may still come.

        Raises:
            SnmpProblem: An agent answers, so it does not know the community; or the network says that it is not there.
            Busy: This machine is out of sockets.
        """
        if self.wire.version != "2c" or self.heard or self.strange:
            return
        who: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        await self._exchange(_pdu("get", [], 0), who, or_else=answer)
        if not answer.done() and who.done():
            who.result()  # raises what the network said
            raise SnmpProblem(
                AgentOutcome.WRONG_COMMUNITY,
                "an agent is there and says who it is (by version 3), but does not answer the community: put the one it knows into the "
                "block, or let it answer this machine by version 2c; else use a block of version 3",
            )

    async def _exchange(
        self, pdu: Any, answer: asyncio.Future[Said], *, or_else: asyncio.Future[Said] | None = None
    ) -> None:
        """Send one message and wait until its answer is there, or the time is over.

        Args:
            pdu: What to ask.
            answer: Gets the answer.
            or_else: Ends the waiting as well. With it the message is a stranger's.
        """
        assert self._transport is not None
        self._waiting = answer
        try:
            await self.pay()
            if answer.done() or (or_else is not None and or_else.done()):
                return  # it came late, but it came

            def answered(response: Any, status: Any) -> None:
                self._recognised = True
                self.heard += 1
                self.answered = self.answered or response is not None
                if not answer.done():
                    answer.set_result((response, status))

            try:
                message = self.wire.compose((self.address, self.port), pdu, answered, as_stranger=or_else is not None)
            except PySnmpError as problem:
                raise SnmpProblem(AgentOutcome.AGENT_ERROR, f"no message can be made: {problem}") from None
            self._transport.sendto(message)
            self.sent += 1
            awaited = {answer} if or_else is None else {answer, or_else}
            await asyncio.wait(awaited, timeout=self.timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting = None

    def _silence(self) -> SnmpProblem:
        seconds = f"{self.timeout:g} s, asked {self.retries + 1} times" if self.retries else f"{self.timeout:g} s"
        if self.strange:
            return SnmpProblem(AgentOutcome.NONSENSE, "what came back is no answer to what was asked")
        if self.heard:
            if self.wire.encrypts and self.wire.version == "3" and not self.answered:
                return SnmpProblem(
                    AgentOutcome.WRONG_ENCRYPTION,
                    "the agent says who it is, but does not answer what is encrypted: another encryption password or protocol, "
                    "or a context it does not know?",
                )
            return SnmpProblem(AgentOutcome.SILENT, f"it answered before, then nothing came within {seconds}")
        if self.wire.version == "2c":
            return SnmpProblem(
                AgentOutcome.SILENT,
                f"nothing came within {seconds}: no agent there, a filter in between, or another community "
                "(version 2c agents do not answer a wrong one)",
            )
        return SnmpProblem(
            AgentOutcome.SILENT, f"nothing came within {seconds}: no agent there, or a filter in between"
        )

    answered: bool = False
    """Whether it ever gave a response, not only reports."""

    # What asyncio calls.

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Hand what came to whoever waits for it; bytes that mean nothing are counted."""
        in_time = self._waiting is not None and not self._waiting.done()
        self._recognised = False
        try:
            self.wire.read((self.address, self.port), data)
        except Exception:  # noqa: BLE001  bytes of a stranger; see Wire.read
            self.strange += 1
            return
        if in_time and not self._recognised:
            self.strange += 1

    def error_received(self, exc: Exception) -> None:
        """The network said that a packet did not arrive."""
        if self._waiting is not None and not self._waiting.done() and isinstance(exc, OSError):
            self._waiting.set_exception(_lost(exc))


def _lost(problem: OSError) -> SnmpProblem | Busy:
    if problem.errno == errno.ECONNREFUSED:
        return SnmpProblem(AgentOutcome.NO_AGENT, "the host says that no agent listens there (ICMP port unreachable)")
    said = os.strerror(problem.errno or 0).lower()
    if problem.errno in _OUT_OF:
        return Busy(f"This machine cannot open more sockets: {said}.", hint="Try again in a minute.", retry_after=60)
    outcome = AgentOutcome.UNREACHABLE if problem.errno in _NO_WAY else AgentOutcome.SILENT
    return SnmpProblem(outcome, said)


def _pdu(command: Command, oids: Sequence[Oid], repetitions: int) -> Any:
    api: Any = v2c.apiBulkPDU if command == "bulk" else v2c.apiPDU
    pdu: Any = v2c.GetBulkRequestPDU() if command == "bulk" else v2c.GetRequestPDU()
    api.set_defaults(pdu)
    if command == "bulk":
        api.set_non_repeaters(pdu, 0)
        api.set_max_repetitions(pdu, repetitions)
    api.set_varbinds(pdu, [(oid, v2c.null) for oid in oids])
    return pdu


def _values(pdu: Any) -> list[tuple[Oid, Value]]:
    """Read a response.

    Raises:
        SnmpProblem: It reports an error.
    """
    api: Any = v2c.apiPDU
    status = int(api.get_error_status(pdu))
    if status:
        index = int(api.get_error_index(pdu, muteErrors=True) or 0)
        name = str(api.get_error_status(pdu).prettyPrint())
        outcome = AgentOutcome.NOT_ALLOWED if status in (NO_ACCESS, AUTHORIZATION_ERROR) else AgentOutcome.AGENT_ERROR
        raise SnmpProblem(outcome, f"the agent answered {name}", status=status, index=index)
    return [(tuple(name), _value(value)) for name, value in api.get_varbinds(pdu)]


_NUMBERS: tuple[tuple[type[Any], ValueType], ...] = (
    (rfc1902.Counter64, ValueType.COUNTER64),
    (rfc1902.Counter32, ValueType.COUNTER32),
    (rfc1902.TimeTicks, ValueType.TIMETICKS),
    (rfc1902.Gauge32, ValueType.GAUGE32),
    (rfc1902.Unsigned32, ValueType.GAUGE32),
    (rfc1902.Integer, ValueType.INTEGER),
)
_MISSING: tuple[tuple[type[Any], ValueType], ...] = (
    (rfc1905.NoSuchObject, ValueType.NO_SUCH_OBJECT),
    (rfc1905.NoSuchInstance, ValueType.NO_SUCH_INSTANCE),
    (rfc1905.EndOfMibView, ValueType.END_OF_MIB),
)


def _value(value: Any) -> Value:
    for kind, name in _MISSING:
        if isinstance(value, kind):
            return Value(name)
    for kind, name in _NUMBERS:
        if isinstance(value, kind):
            return Value(name, int(value))
    if isinstance(value, rfc1902.IpAddress):
        return Value(ValueType.ADDRESS, bytes(value))
    if isinstance(value, univ.ObjectIdentifier):
        return Value(ValueType.OID, tuple(value))
    if isinstance(value, rfc1902.Opaque):
        octets = bytes(value)
        number = opaque_float(octets)
        return Value(ValueType.OPAQUE, octets) if number is None else Value(ValueType.FLOAT, number)
    if isinstance(value, rfc1902.OctetString):
        return Value(ValueType.HEX, bytes(value))
    return Value(ValueType.NULL)
