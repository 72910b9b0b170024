"""What is worth saying about SSH: the wording and the weight of every finding of `ssh_analyzer`."""

from __future__ import annotations

from tasks.network.analyze._report import Severity
from tasks.network.analyze._ssh_weakness import Weakness
from tasks.network.analyze._ssh_wire import Banner, HostKey

Said = tuple[Severity, str, str, str]
"""Severity, what, why, action."""

_UPDATE = "Update it."


def version_1(host: str, banner: Banner) -> Said:
    both = banner.protocol == "1.99"
    return (
        Severity.MEDIUM if both else Severity.CRITICAL,
        f"{host} speaks SSH 1{' beside SSH 2' if both else ''}: {banner.line}.",
        "SSH 1 is broken: who sits on the way reads and changes what goes through.",
        "Switch version 1 off; replace the device if it knows no other.",
    )


def old(host: str, banner: Banner, weakness: Weakness) -> Said:
    return weakness.severity, f"{host} runs {banner.software}.", weakness.why, _UPDATE


def other_port(server: str, port: int) -> Said:
    return (
        Severity.INFO,
        f"{server} speaks SSH on port {port}.",
        "Rules and monitoring that go by port 22 miss it.",
        "Check that it is meant to be there.",
    )


def weak_offer(server: str, weak: list[tuple[str, str, Weakness]]) -> Said:
    names = [name for _, name, _ in weak]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    worst = weak[0][2].severity
    return (
        # What is only offered weighs less than what is used.
        Severity.MEDIUM if worst is Severity.CRITICAL else Severity.LOW,
        f"{server} offers {', '.join(names[:8])}{more}.",
        weak[0][2].why,
        "Remove them from the server's configuration, once no client needs them.",
    )


def weak(server: str, kind: str, name: str, weakness: Weakness) -> Said:
    return (
        weakness.severity,
        f"A client and {server} agreed on the {kind} {name}.",
        weakness.why,
        "Allow newer algorithms on both sides and remove this one.",
    )


def terrapin(server: str, modes: list[str], sides: list[str]) -> Said:
    return (
        Severity.MEDIUM,
        f"A session with {server} is open to Terrapin: {', '.join(modes)}, and {' and '.join(sides)} does not know strict key exchange.",
        "Somebody on the way can drop the first encrypted messages unnoticed (CVE-2023-48795).",
        "Update the side that lacks it (OpenSSH 9.6, or what the distribution repaired), or allow AES-GCM only.",
    )


def terrapin_offer(server: str) -> Said:
    return (
        Severity.LOW,
        f"{server} does not know strict key exchange and offers modes that Terrapin works on.",
        "Somebody on the way can drop the first encrypted messages unnoticed (CVE-2023-48795).",
        "Update the server, or remove chacha20-poly1305 and the CBC ciphers with -etm MACs.",
    )


def no_agreement(server: str, missing: list[str]) -> Said:
    return (
        Severity.MEDIUM,
        f"A client and {server} have nothing in common for: {', '.join(missing)}.",
        "They cannot connect; one of the two is very old, or configured very narrowly.",
        "Update the older side, or allow an algorithm that both know.",
    )


def weak_group(server: str, bits: int) -> Said:
    return (
        Severity.HIGH if bits <= 1024 else Severity.MEDIUM,
        f"{server} uses a Diffie-Hellman group of {bits} bits.",
        "Groups of 1024 bits and less are within reach of a state (Logjam); below 2048 bits nothing is recommended.",
        "Remove the short groups from its moduli file.",
    )


def weak_key(server: str, key: HostKey) -> Said:
    return (
        Severity.HIGH if key.bits <= 1024 else Severity.MEDIUM,
        f"{server} proves itself with an RSA key of {key.bits} bits.",
        "Such keys can be broken, and whoever does so can pretend to be this server.",
        "Make a new host key: Ed25519, or RSA with 3072 bits.",
    )


def key_changed(server: str, before: HostKey, after: HostKey) -> Said:
    return (
        Severity.HIGH,
        f"{server} showed two {after.kind} host keys: {before.fingerprint} and {after.fingerprint}.",
        "Two hosts share the address, its key was replaced, or somebody sits in the middle.",
        "Compare both with the server's own: ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub",
    )


def scan(client: str) -> Said:
    return (
        Severity.LOW,
        f"{client} opened many connections and left before the key exchange.",
        "That is how scanners read banners; monitoring does it too.",
        "Find out what it is; if nobody knows it, block it.",
    )


_GUESS = (
    "Read from sizes and times, for the login itself is encrypted: the server's refusals are of one size. "
    "Passwords that many have are found this way."
)


def brute_force(client: str, server: str, sessions: int, attempts: int, seconds: float) -> Said:
    return (
        Severity.HIGH,
        f"{client} guesses its way into {server}: about {attempts} refused attempts, {sessions} connections, {seconds:.0f} s.",
        _GUESS,
        "Block the client, allow keys only, and limit attempts (fail2ban, PerSourcePenalties).",
    )


def refused(server: str) -> Said:
    return (
        Severity.INFO,
        f"{server} refused logins, now and then.",
        "Read from sizes and times, for the login itself is encrypted. Typing errors, or accounts that are gone.",
        "Nothing, unless it goes on; the table of clients says whose they were.",
    )


def broken_in(client: str, server: str, attempts: int) -> Said:
    return (
        Severity.CRITICAL,
        f"{client} got into {server} after about {attempts} refused attempts.",
        "Read from sizes and times, for the login itself is encrypted: its guessing may have hit.",
        "Look at the server's log at once: who logged in, and what was done; lock the account.",
    )


def spraying(client: str) -> Said:
    return (
        Severity.HIGH,
        f"{client} is refused by many servers.",
        _GUESS,
        "Block the client; look for servers that let it in.",
    )
