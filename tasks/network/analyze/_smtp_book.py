"""Counts what conversations of SMTP say, and keeps only what the report needs."""

from __future__ import annotations

import re
from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from tasks.network.analyze import _smtp_findings as say
from tasks.network.analyze._guessing import Guesses, spraying
from tasks.network.analyze._lines import at, may_repeat, shown
from tasks.network.analyze._percentiles import Durations
from tasks.network.analyze._smtp_relay import REFUSES, Relays
from tasks.network.analyze._smtp_rows import AddressRow, ClientRow, LoginRow, RejectionRow, ServerRow, Session
from tasks.network.analyze._smtp_stream import PORTS
from tasks.network.analyze._smtp_wire import HELLOS, READABLE, domain_of
from tasks.network.analyze._tally import Findings, Tally

if TYPE_CHECKING:
    from tasks.network.analyze._lines import Reply
    from tasks.network.analyze._smtp_rows import Command, Mail
    from tasks.network.analyze._smtp_stream import SmtpStream

MOST_SESSIONS: Final = 2_000
MOST_MAILS: Final = 2_000
HARVEST: Final = 20
"""Unknown recipients one client asks a server for, from which on it looks like finding out addresses."""
SLOW_GREETING_NS: Final = 10 * 1_000_000_000
_MOST_OF_EACH: Final = 8
_LATER = re.compile(r"(?i)gr[ae]y|later|temporar|defer|try again|come back")
_MASKED = re.compile(r"^X{6,}")


def _remember(some: set[str], item: str, most: int = _MOST_OF_EACH) -> None:
    if item and len(some) < most:
        some.add(item)


class SmtpBook:
    """Everything that was seen, in bounded memory."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.conversations = self.sealed = self.implicit = self.unseen = self.others = self.gaps = self.lmtp = 0
        self.tls_offered = self.tls_used = self.tls_refused = 0
        self.pipelined = self.pipelining = self.unknown_commands = 0
        self.commands: dict[str, list[int]] = {}
        self.replies: Counter[int] = Counter()
        self.mails = self.mail_bytes = self.chunks = self.largest = 0
        self.outcomes: Counter[str] = Counter()
        self.recipients_accepted = self.recipients_refused = self.put_off = self.came_back = 0
        self.hellos: Tally[str, set[str]] = Tally(set, 5_000)
        self.senders: Tally[str, AddressRow] = Tally(AddressRow, 10_000)
        self.recipients: Tally[str, AddressRow] = Tally(AddressRow, 10_000)
        self.rejections: Tally[tuple[str, str, int, str], RejectionRow] = Tally(RejectionRow, 2_000)
        self.logins: Tally[str, LoginRow] = Tally(LoginRow, 100)
        self.users: Tally[tuple[str, str], LoginRow] = Tally(LoginRow, 5_000)
        self.servers: Tally[str, ServerRow] = Tally(ServerRow, 5_000)
        self.clients: Tally[str, ClientRow] = Tally(ClientRow, 5_000)
        self.recent_mails: deque[Mail] = deque(maxlen=MOST_MAILS)
        self.recent: deque[Session] = deque(maxlen=MOST_SESSIONS)
        self.times, self.banner_times = Durations(), Durations()
        self._guesses = Guesses()
        self._put_off_frames: dict[str, int] = {}
        self._waiting: set[tuple[str, str, str, str]] = set()
        self._greylisted: Tally[str, list[int]] = Tally(lambda: [0, 0], 2_000)
        self._harvest: Tally[tuple[str, str], list[int]] = Tally(list, 5_000)
        self._relays = Relays()
        self._plain: Tally[tuple[str, str, str], list[int]] = Tally(list, 2_000)

    # --- as it goes on ------------------------------------------------------------------------------------------------

    def greeted(self, stream: SmtpStream, reply: Reply) -> None:
        """The server's first words."""
        server = _server(stream)
        if stream.info.handshake:
            duration = reply.time_ns - stream.info.start_ns
            self.banner_times.add(duration)
            if duration >= SLOW_GREETING_NS:
                self.findings.add(
                    "smtp.slow-greeting", server, reply.frame, lambda: say.slow_greeting(server, duration / 1e9)
                )
        if reply.code == 220:
            row = self.servers.entry(server)
            if row and len(row.banners) < _MOST_OF_EACH:
                row.banners.add(shown(reply.text))
        else:
            self.findings.add(
                "smtp.no-service", (server, reply.code), reply.frame,
                lambda: say.no_service(server, reply.code, shown(reply.text)),
            )  # fmt: skip

    def command(self, stream: SmtpStream, command: Command) -> None:
        """A command was given."""
        if not command.verb:
            self.unknown_commands += 1
            return
        self.commands.setdefault(command.verb, [0, 0])[0] += 1

    def reply(self, stream: SmtpStream, reply: Reply) -> None:
        """The server answered."""
        self.replies[reply.code] += 1

    def failed(self, stream: SmtpStream, command: Command, reply: Reply, code: str) -> None:
        """A command was refused."""
        if command.verb in self.commands:
            self.commands[command.verb][1] += 1
        row = self.rejections.entry((_server(stream), command.verb or "unknown", reply.code, code))
        if row is None:
            return
        row.count += 1
        if not row.text and command.verb and not may_repeat(reply, sure=not stream.gaps):
            row.text = shown(reply.text)
        _remember(row.addresses, command.path or (stream.mail.sender if stream.mail and command.verb != "AUTH" else ""))
        if len(row.frames) < 20:
            row.frames.append(reply.frame)

    def done(self, stream: SmtpStream, command: Command) -> None:
        """A command that carries no mail went through."""
        if command.verb in {"VRFY", "EXPN"}:
            server = _server(stream)
            self.findings.add(
                "smtp.verify", (server, command.verb), command.frame, lambda: say.verified(server, command.verb)
            )

    def offered(self, stream: SmtpStream, command: Command) -> None:
        """The server said what it can."""
        server, row = _server(stream), self.servers.entry(_server(stream))
        if row:
            row.offered += stream.tls_offered
            row.not_offered += not stream.tls_offered
            row.extensions |= set(sorted(stream.extensions)[: 30 - len(row.extensions)])
            row.mechanisms |= set(stream.auth_offered[: 20 - len(row.mechanisms)])
            if len(row.hello_frames) < 20 and not stream.tls_offered:
                row.hello_frames.append(command.frame)
        readable = sorted(READABLE & set(stream.auth_offered))
        if readable:
            tls = stream.tls_offered
            self.findings.add(
                "smtp.auth-in-clear", (server, tls), command.frame,
                lambda: say.auth_in_clear(server, f"AUTH {' and '.join(readable)}", tls=tls),
            )  # fmt: skip
        if any(_MASKED.match(name) for name in stream.extensions):
            self.findings.add("smtp.masked-extensions", server, command.frame, lambda: say.stripped(server))

    def tls_asked(self, stream: SmtpStream, command: Command, reply: Reply) -> None:
        """A client asked for TLS."""
        if reply.code >= 400:
            server = _server(stream)
            self.findings.add("smtp.tls-refused", server, command.frame, lambda: say.tls_refused(server, reply.code))

    def injected(self, stream: SmtpStream, command: Command) -> None:
        """A command came in clear text behind STARTTLS."""
        server, client = _server(stream), stream.info.client
        self.findings.add(
            "smtp.starttls-injection",
            (client, server),
            command.frame,
            lambda: say.injected(server, client, command.verb),
        )

    def odd_end(self, stream: SmtpStream, frame: int) -> None:
        """A mail's text has what some servers take for its end."""
        server, client = _server(stream), stream.info.client
        self.findings.add("smtp.smuggling", (client, server), frame, lambda: say.odd_end(server, client))

    def login(self, stream: SmtpStream, command: Command, *, good: bool, refused: bool) -> None:
        """A client tried to log in, without encryption: otherwise it would not be seen."""
        info, server, user = stream.info, _server(stream), stream.auth_user
        for row in (self.logins.entry(command.mechanism), self.users.entry((user, server)) if user else None):
            if row is not None:
                row.attempts += 1
                row.accepted += good
                row.refused += refused
        if command.step:  # otherwise nothing was sent
            frames = self._plain.entry((server, user, command.mechanism))
            if frames is not None:
                frames.append(command.frame)
        if good:
            attempts = self._guesses.hit(info.client, server, command.time_ns)
            if attempts:
                self.findings.add(
                    "smtp.brute-force-succeeded", (info.client, server, user), command.frame,
                    lambda: say.broken_in(info.client, server, shown(user), attempts),
                )  # fmt: skip
        elif refused:
            self._guesses.refused(info.client, server, user, info.index, command.time_ns, command.frame)
            client = self.clients.entry(info.client)
            if client:
                client.refused_logins += 1

    def recipient(self, stream: SmtpStream, command: Command, reply: Reply) -> None:
        """The server decided about a recipient."""
        info, server, good = stream.info, _server(stream), reply.code < 400
        sender = stream.mail.sender if stream.mail else ""
        self.recipients_accepted += good
        self.recipients_refused += not good
        row = self.recipients.entry(command.path) if command.path else None
        later = 400 <= reply.code < 500 and _LATER.search(reply.text) is not None
        if row:
            row.count += 1
            row.accepted += good
            row.refused += not good
            row.put_off += later
        self._later((info.client, server, sender, command.path), command.frame, later=later, good=good)
        if not good and reply.code in {550, 551, 553, 556} and not REFUSES.search(reply.text):
            frames = self._harvest.entry((info.client, server))
            if frames is not None and len(frames) < 10_000:
                frames.append(command.frame)
        if stream.lmtp:
            return
        if good and (source := self._relays.passed_on(info.client, command.path)) is not None:
            relay, outside = source
            domain = domain_of(command.path)
            self.findings.add(
                "smtp.open-relay", (relay, domain), command.frame, lambda: say.relayed(relay, outside, domain, server)
            )
        if not stream.authenticated:
            self._relays.decided(
                info.client, info.server, server, command.path, command.frame, stream.server_names, code=reply.code,
                text=reply.text,
            )  # fmt: skip

    def _later(self, key: tuple[str, str, str, str], frame: int, *, later: bool, good: bool) -> None:
        """Count what was put off for later, and what came back and was accepted then."""
        if later and key not in self._waiting and len(self._waiting) < 10_000:
            self._waiting.add(key)
            self.put_off += 1
            self._put_off_frames.setdefault(key[1], frame)
            count = self._greylisted.entry(key[1])
            if count:
                count[0] += 1
        elif good and key in self._waiting:
            self._waiting.discard(key)
            self.came_back += 1
            count = self._greylisted.entry(key[1])
            if count:
                count[1] += 1

    def mailed(self, stream: SmtpStream, mail: Mail) -> None:
        """A mail came to its end."""
        self.mails += 1
        self.outcomes[mail.outcome] += 1
        self.mail_bytes += mail.bytes
        self.chunks += mail.chunks
        self.largest = max(self.largest, mail.bytes)
        row = self.senders.entry(mail.sender or "<>")
        if row:
            row.count += 1
            row.accepted += mail.outcome == "accepted"
            row.refused += mail.outcome == "rejected"
            row.put_off += mail.outcome == "deferred"
        server = self.servers.entry(_server(stream))
        if server:
            server.mails += 1
            if mail.bytes:
                server.plain_mails += 1
                if len(server.mail_frames) < 20:
                    server.mail_frames.append(mail.frame)
            server.rejected += mail.outcome == "rejected"
            server.deferred += mail.outcome == "deferred"
        client = self.clients.entry(stream.info.client)
        if client:
            client.mails += 1
            client.rejected += mail.outcome in {"rejected", "deferred"}
        self.recent_mails.append(mail)

    # --- at the end ---------------------------------------------------------------------------------------------------

    def conversation(self, stream: SmtpStream) -> None:
        """A conversation that is over."""
        info = stream.info
        if not stream.is_smtp:
            self.others += 1
            return
        if not (stream.implicit or stream.greeting or stream.commands):
            self.unseen += 1
            return
        self.conversations += 1
        self.gaps += stream.gaps
        self.sealed += stream.sealed
        self.implicit += stream.implicit
        self.lmtp += stream.lmtp
        self.tls_offered += stream.tls_offered
        self.tls_used += stream.sealed and not stream.implicit
        self.tls_refused += stream.tls_refused
        self.pipelined += stream.pipelined > 0
        self.pipelining += "PIPELINING" in stream.extensions
        server = _server(stream)
        row = self.servers.entry(server)
        if row:
            row.sessions += 1
            row.encrypted += stream.sealed
            for name in stream.server_names:
                _remember(row.names, name)
        client = self.clients.entry(info.client)
        if client:
            client.sessions += 1
            client.encrypted += stream.sealed
            _remember(client.names, stream.hello)
            _remember(client.servers, server)
        hello = self.hellos.entry(stream.hello) if stream.hello else None
        if hello is not None:
            _remember(hello, info.client)
        if info.server_port not in PORTS:
            self.findings.add(
                "smtp.other-port", server, stream.first_frame, lambda: say.other_port(server, info.server_port)
            )
        tls = "implicit" if stream.implicit else "used" if stream.sealed else "refused" if stream.tls_refused else ""
        self.recent.append(
            Session(
                stream.first_frame, at(info.client, info.client_port), server, info.start_ns,
                max(0, stream.end_ns - info.start_ns) / 1e9, stream.hello,
                tls or ("offered" if stream.tls_offered else "no"),
                "accepted" if stream.authenticated else "refused" if stream.refused else "none", stream.auth_user,
                stream.mails, stream.commands, stream.ended,
            )
        )  # fmt: skip

    def finish(self) -> None:
        """Say what only the whole capture tells."""
        self._finish_logins()
        self._finish_mails()
        for name, foreign in self._relays.foreign():
            for frame in foreign.values():
                self.findings.add("smtp.may-relay", name, frame, lambda: say.may_relay(name, list(foreign)))  # noqa: B023
        for (client, server), frames in self._harvest:
            if len(frames) >= HARVEST:
                for frame in frames:
                    self.findings.add(
                        "smtp.harvesting", (client, server), frame,
                        lambda: say.harvesting(client, server, len(frames)),  # noqa: B023
                    )  # fmt: skip

    def _finish_logins(self) -> None:
        for (server, user, mechanism), frames in self._plain:
            known = self.servers.entry(server)
            said = say.plain_login(
                server,
                shown(user),
                mechanism,
                readable=mechanism in READABLE,
                tls=known is not None and known.offered > 0,
            )
            for frame in frames:
                self.findings.add("smtp.plain-login", (server, user, mechanism), frame, lambda said=said: said)  # type: ignore[misc]
        for client, server, guessing in self._guesses:
            if guessing.alarmed:
                counts = guessing.attempts, len(guessing.sessions), len(guessing.users)
                said = say.brute_force(client, server, *counts, guessing.seconds)
                code, subject = "smtp.brute-force", (client, server)
            else:
                said, code, subject = say.refused_login(server), "smtp.refused-login", ("", server)
            for frame in guessing.frames:
                self.findings.add(code, subject, frame, lambda said=said: said)  # type: ignore[misc]
        for client, servers in self._guesses.sprays():
            frame = next(guessing.frames[0] for name, _, guessing in self._guesses if name == client)
            self.findings.add("smtp.spraying", client, frame, lambda: spraying(client, servers))  # noqa: B023

    def _finish_mails(self) -> None:
        for (server, verb, code, status), row in self.rejections:
            if verb in HELLOS | {"MAIL", "RCPT", "DATA", "BDAT"}:
                reason = f"{code} {status}".strip()
                text = row.text.removeprefix(status).strip()
                for frame in row.frames:
                    self.findings.add(
                        "smtp.rejected", (server, verb, code, status), frame,
                        lambda: say.rejected(server, verb, reason, text, row.count),  # noqa: B023
                    )  # fmt: skip
        for server, (put_off, came_back) in self._greylisted:
            greylisted = say.greylisted(server, came_back, put_off)
            first = self._put_off_frames.get(server)
            self.findings.add("smtp.greylisting", server, first, lambda said=greylisted: said)  # type: ignore[misc]
        for server, known in self.servers:
            if known.offered and known.not_offered:
                for frame in known.hello_frames:
                    self.findings.add("smtp.tls-sometimes", server, frame, lambda: say.tls_sometimes(server))  # noqa: B023
            for frame in known.mail_frames:
                self.findings.add(
                    "smtp.plain-mail", server, frame,
                    lambda: say.plain_mail(server, known.plain_mails, tls=known.offered > 0),  # noqa: B023
                )  # fmt: skip


def _server(stream: SmtpStream) -> str:
    return at(stream.info.server, stream.info.server_port)
