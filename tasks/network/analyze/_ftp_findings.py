"""What is worth saying about FTP: the wording and the weight of every finding of `ftp_analyzer`."""

from __future__ import annotations

from tasks.core.words import count
from tasks.network.analyze._guessing import guesses
from tasks.network.analyze._report import Severity

Said = tuple[Severity, str, str, str]
"""Severity, what, why, action."""

_USE_TLS = "Use SFTP, or FTP with TLS (AUTH TLS and PROT P), and change the password."

OLD: tuple[tuple[str, Severity, str], ...] = (
    ("vsftpd 2.3.4", Severity.CRITICAL, "A release of it was spread with a backdoor that opens a root shell (CVE-2011-2523)."),
    ("proftpd 1.3.3c", Severity.CRITICAL, "Its source was spread with a backdoor (OSVDB-69562)."),
    ("proftpd 1.3.5 ", Severity.HIGH, "mod_copy lets anybody copy files on the server (CVE-2015-3306)."),
    ("proftpd 1.2.", Severity.HIGH, "It has had no repairs for many years, and holes that let strangers in."),
    ("wu-2.", Severity.HIGH, "wu-ftpd has had no repairs for many years, and holes that let strangers in."),
    ("serv-u ftp server v15.1", Severity.MEDIUM, "Releases up to 15.1.6 let strangers in (CVE-2021-35211 and others)."),
)  # fmt: skip
"""What banners say of software that must go; versions that distributions repair are not here."""


def old(server: str, banner: str) -> Said | None:
    """What is known against the software in a banner."""
    text = banner.lower() + " "
    for name, severity, why in OLD:
        if name in text:
            return severity, f"{server} runs {name.strip()}, by its banner.", why, "Replace it."
    return None


def plain_login(server: str, user: str, *, tls: bool) -> Said:
    offered = " although the server offers TLS" if tls else ""
    return (
        Severity.HIGH,
        f"The password of {user or 'a user'} goes to {server} in clear text{offered}.",
        "Everyone on the path can read it and use it.",
        _USE_TLS if not tls else f"{_USE_TLS} Let the server require TLS.",
    )


def plain_files(server: str) -> Said:
    return (
        Severity.LOW,
        f"Files go to and from {server} in clear text.",
        "Everyone on the path can read them, and change them on the way.",
        "Use SFTP, or FTP with TLS (PROT P), unless the files are public.",
    )


def tls_refused(server: str, code: int) -> Said:
    return (
        Severity.MEDIUM,
        f"{server} refused TLS ({code}).",
        "A client that wanted to encrypt could not; many go on in clear text. Somebody in the middle may also have refused for it.",
        "Set up a certificate on the server, and let clients insist on TLS.",
    )


def anonymous(server: str) -> Said:
    return (
        Severity.LOW,
        f"{server} lets in anybody (anonymous).",
        "What it shows is public, whether that is meant or not.",
        "Switch it off unless it is meant; look through what can be read.",
    )


def writable(server: str, verb: str) -> Said:
    return (
        Severity.HIGH,
        f"{server} lets anybody change what is there: {verb} went through without a name of one's own.",
        "Strangers fill the disk, put up what must not be there, or change what others fetch.",
        "Take the right to write from anonymous users; look at what was put there.",
    )


def brute_force(client: str, server: str, attempts: int, sessions: int, users: int, seconds: float) -> Said:
    return (
        Severity.HIGH,
        guesses(client, server, attempts, users, sessions, seconds),
        "Passwords that many have are found this way.",
        "Block the client, and limit attempts on the server.",
    )


def broken_in(client: str, server: str, user: str, attempts: int) -> Said:
    return (
        Severity.CRITICAL,
        f"{client} got into {server} as {user} after {count(attempts, 'refused login')}.",
        "Its guessing may have hit.",
        "Look at once what was done in that session; change the password.",
    )


def refused(server: str) -> Said:
    return (
        Severity.INFO,
        f"{server} refused logins, now and then.",
        "Typing errors, or accounts that are gone.",
        "Nothing, unless it goes on; the table of users says whose they were.",
    )


_BOUNCE = (
    "So a server can be made to attack others or to scan a network from inside (FTP bounce, RFC 2577); transfers between two servers "
    "(FXP) and clients behind a NAT look alike."
)


def bounce(server: str, client: str, endpoint: str, *, accepted: bool) -> Said:
    return (
        Severity.HIGH if accepted else Severity.MEDIUM,
        f"{client} told {server} to send data to {endpoint}, neither of the two; the server {'agreed' if accepted else 'refused'}.",
        _BOUNCE,
        "Let the server take no address but the client's own." if accepted else "Find out what the client is doing.",
    )


def low_port(server: str, client: str, port: int) -> Said:
    return (
        Severity.MEDIUM,
        f"{client} told {server} to send data to port {port}.",
        "Ports below 1024 belong to services: what arrives there may be a command to one of them (RFC 2577).",
        "Let the server refuse such ports; find out what the client is doing.",
    )


def passive_address(server: str, offered: str) -> Said:
    return (
        Severity.LOW,
        f"{server} names {offered} for its data channels, which is not its address.",
        "Clients that believe it cannot connect, or connect somewhere else.",
        "Set the server's public address (pasv_address, masquerade_address) or use EPSV.",
    )


def stranger(server: str, peer: str, endpoint: str) -> Said:
    return (
        Severity.MEDIUM,
        f"{peer} connected to {endpoint}, where {server} expected somebody else for a data channel.",
        "Whoever comes first gets the file, or puts one there (RFC 2577).",
        "Let the server check the address of data connections; find out what the host is doing.",
    )


def failing(server: str, verb: str, code: int, text: str) -> Said:
    channel = code in {425, 426}
    return (
        Severity.LOW,
        f"{verb} fails on {server}: {code} {text}".rstrip(". ") + ".",
        "The data channel did not come about or broke: mostly a firewall or a NAT between the two."
        if channel
        else "What somebody wanted to move or to see did not go through.",
        "Let the passive ports through, and name them in the server's configuration."
        if channel
        else "Look at what the server says, and at its log.",
    )


def server_busy(server: str, code: int, text: str) -> Said:
    return (
        Severity.MEDIUM,
        f"{server} does not serve: {code} {text}".rstrip(". ") + ".",
        "Clients are sent away before they can log in.",
        "Look at the server's limits and at its log.",
    )


def dangerous(server: str, what: str) -> Said:
    return (
        Severity.MEDIUM,
        f"A client used {what} on {server}, and the server did it.",
        "It runs programs, or copies files past the rights of who asks (CVE-2015-3306 with ProFTPD).",
        "Switch it off; look at what was done with it.",
    )


def backdoor(server: str, client: str) -> Said:
    return (
        Severity.HIGH,
        f"{client} logged in to {server} with a name that ends in a smile.",
        "That opens the backdoor of vsftpd 2.3.4 (CVE-2011-2523); nobody is called so.",
        "Look for connections to port 6200 of the server; block the client.",
    )


def other_port(server: str, port: int) -> Said:
    return (
        Severity.INFO,
        f"{server} speaks FTP on port {port}.",
        "Rules and monitoring that go by port 21 miss it, and firewalls do not open its data channels.",
        "Check that it is meant to be there.",
    )
