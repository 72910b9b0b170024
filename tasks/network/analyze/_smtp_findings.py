"""What is worth saying about SMTP: the wording and the weight of every finding of `smtp_analyzer`."""

from __future__ import annotations

from tasks.core.words import count
from tasks.network.analyze._guessing import guesses
from tasks.network.analyze._report import Severity

Said = tuple[Severity, str, str, str]
"""Severity, what, why, action."""


def _sentence(text: str) -> str:
    return text.rstrip(". ") + "."


def plain_login(server: str, user: str, mechanism: str, *, readable: bool, tls: bool) -> Said:
    offered = " although the server offers STARTTLS" if tls else ""
    who = f"The credentials of {user}" if user else "Credentials"
    if readable:
        return (
            Severity.HIGH,
            f"{who} go to {server} in clear text (AUTH {mechanism}){offered}.",
            "Everyone on the path can read them and send mail with them; often they open more than mail.",
            "Let the server offer AUTH after STARTTLS only, let the client insist on TLS, and change the password.",
        )
    return (
        Severity.LOW,
        f"{who} are proven to {server} without encryption (AUTH {mechanism}){offered}.",
        "The password is not readable, but what is sent can be tried offline.",
        "Let the client insist on TLS.",
    )


def auth_in_clear(server: str, mechanisms: str, *, tls: bool) -> Said:
    return (
        Severity.LOW if tls else Severity.MEDIUM,
        f"{server} offers {mechanisms} before encryption.",
        "A client that is configured carelessly sends its password in clear text.",
        "Offer AUTH after STARTTLS only." if tls else "Set up STARTTLS, and offer AUTH after it only.",
    )


def plain_mail(server: str, mails: int, *, tls: bool) -> Said:
    if tls:
        return (
            Severity.LOW,
            f"{count(mails, 'mail')} went to {server} in clear text although it offers STARTTLS.",
            "Everyone on the path can read and change them.",
            "Switch TLS on in the sending server or program.",
        )
    return (
        Severity.LOW,
        f"{count(mails, 'mail')} went to {server} in clear text; it offers no STARTTLS.",
        "Everyone on the path can read and change them.",
        "Set up STARTTLS on the server; see that nobody on the path takes it out of the offer.",
    )


def tls_refused(server: str, code: int) -> Said:
    return (
        Severity.MEDIUM,
        f"{server} offered STARTTLS and refused it ({code}).",
        "Most senders go on in clear text then. Mostly the server's certificate cannot be read.",
        "Look at the server's log and at its certificate.",
    )


def stripped(server: str) -> Said:
    return (
        Severity.HIGH,
        f"Somebody masks what {server} offers: its list of extensions has a word of many X.",
        "That is how firewalls that inspect SMTP, and attackers, take STARTTLS out of the offer: mail goes in clear text.",
        "Switch the inspection of SMTP off (fixup or inspect esmtp), or find out who sits on the path.",
    )


def tls_sometimes(server: str) -> Said:
    return (
        Severity.MEDIUM,
        f"{server} offers STARTTLS to some clients and not to others.",
        "It may be configured so; or on some paths somebody takes it out of the offer.",
        "Compare with what the server offers from its own network.",
    )


def injected(server: str, client: str, verb: str) -> Said:
    return (
        Severity.MEDIUM,
        f"{client} sent {verb} to {server} right behind STARTTLS, before the encryption began.",
        "A server that obeys it after the handshake takes what anybody on the path wrote for the client's (CVE-2011-0411).",
        "Update the server; find out what the client is.",
    )


def odd_end(server: str, client: str) -> Said:
    return (
        Severity.MEDIUM,
        f"A mail of {client} to {server} has a dot between line ends that are not CR LF.",
        "Servers that differ on whether it ends there take the rest for another mail, of any sender (SMTP smuggling, CVE-2023-51764).",
        "Let the server refuse bare line feeds (smtpd_forbid_bare_newline); look at the mail.",
    )  # fmt: skip


def brute_force(client: str, server: str, attempts: int, sessions: int, users: int, seconds: float) -> Said:
    return (
        Severity.HIGH,
        guesses(client, server, attempts, users, sessions, seconds),
        "An account that is found is used to send spam within minutes.",
        "Block the client, limit attempts, and offer AUTH on the submission port only.",
    )


def broken_in(client: str, server: str, user: str, attempts: int) -> Said:
    return (
        Severity.CRITICAL,
        f"{client} got into {server} as {user or 'somebody'} after {count(attempts, 'refused login')}.",
        "Its guessing may have hit.",
        "Look at what was sent from there; change the password.",
    )


def refused_login(server: str) -> Said:
    return (
        Severity.INFO,
        f"{server} refused logins, now and then.",
        "Wrong or changed passwords in somebody's mail program.",
        "Nothing, unless it goes on; the table of users says whose they were.",
    )


def relayed(server: str, client: str, domain: str, onward: str) -> Said:
    return (
        Severity.HIGH,
        f"{server} took a mail for {domain} from {client}, outside, without a login, and passed it on to {onward}.",
        "So does an open relay, which spammers find within hours; but a forwarding address, or the domain's own mail server, does so too.",
        "Check that the domain is one of those the server relays for; if not, restrict relaying at once.",
    )  # fmt: skip


def may_relay(server: str, domains: list[str]) -> Said:
    many = len(domains) >= 3
    return (
        Severity.MEDIUM if many else Severity.INFO,
        f"{server} accepts recipients at {', '.join(domains[:5])}{' and others' if len(domains) > 5 else ''} from outside without a login.",
        "Its name does not say that it is theirs. It may be their mail server all the same; if not, it is an open relay.",
        "Compare with the domains the server is configured for, or test it from outside.",
    )


def harvesting(client: str, server: str, asked: int) -> Said:
    return (
        Severity.MEDIUM,
        f"{client} asked {server} for {count(asked, 'recipient')} that it does not have.",
        "That is how addresses are found out, for spam or for guessing passwords; an outdated list of recipients looks alike.",
        "Limit refused recipients for each connection; block the client if nobody knows it.",
    )


def verified(server: str, verb: str) -> Said:
    return (
        Severity.LOW,
        f"{server} answers {verb}.",
        "Strangers can find out which addresses there are.",
        f"Switch {verb} off.",
    )


def rejected(server: str, verb: str, code: str, text: str, times: int) -> Said:
    return (
        Severity.LOW if times < 10 else Severity.MEDIUM,
        _sentence(f"{server} refused {verb} {count(times, 'time')} with {code} {text}".rstrip()),
        "Mail did not get through.",
        "Look at the reason: a wrong address, a list the sender is on, a missing login, or a rule of the server.",
    )


def greylisted(server: str, came_back: int, put_off: int) -> Said:
    return (
        Severity.INFO,
        f"{server} put off {count(put_off, 'recipient')} for later (greylisting, or short of means); accepted after that: {came_back}.",
        "Mail comes later, if the sender tries again.",
        "Nothing, unless senders do not come back; then let them through by a list.",
    )


def no_service(server: str, code: int, text: str) -> Said:
    return (
        Severity.MEDIUM,
        _sentence(f"{server} does not serve: {code} {text}"),
        "Mail waits, or comes back to its senders.",
        "Look at the server's limits and lists, and at its log.",
    )


def slow_greeting(server: str, seconds: float) -> Said:
    return (
        Severity.LOW,
        f"{server} took up to {seconds:.0f} s to greet.",
        "Many clients give up before. It may be meant against spammers, or a name server does not answer it.",
        "Look at the server's name resolution and load.",
    )


def other_port(server: str, port: int) -> Said:
    return (
        Severity.INFO,
        f"{server} speaks SMTP on port {port}.",
        "Rules and monitoring that go by the usual ports miss it.",
        "Check that it is meant to be there.",
    )
