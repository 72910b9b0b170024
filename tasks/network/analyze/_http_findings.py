"""What a person should know about a capture's HTTP."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from tasks.core.words import count
from tasks.network.analyze._http_message import address_of
from tasks.network.analyze._http_traffic import Traffic
from tasks.network.analyze._report import plain_finding

MOST_OF_A_KIND: Final = 5
FEW: Final = 5
SLOW_MS: Final = 1_000.0
TOO_SLOW_MS: Final = 5_000.0
GUESSES: Final = 10
PROBES: Final = 30
LOOP: Final = 5

Found = dict[str, Any]
finding = partial(plain_finding, "http")


def find(traffic: Traffic) -> list[Found]:
    """Return everything worth a person's attention, a few of each kind."""
    found: list[Found] = []
    for check in (
        _secrets, _cookies, _server_errors, _client_errors, _unanswered, _slow, _guesses, _probes, _redirects, _uploads,
        _addresses, _tunnels, _ambiguous, _malformed,
    ):  # fmt: skip
        found += sorted(check(traffic), key=lambda item: -item["count"])[:MOST_OF_A_KIND]
    return found


def _secrets(traffic: Traffic) -> Iterator[Found]:
    for (kind, name, host), secret in traffic.secrets.items():
        users = ", ".join(sorted(secret.users)[:5])
        who = f" of {users}" if users else ""
        title = {
            "authorization": f"{name} credentials{who}",
            "form": f"a form's field {name!r}",
            "header": f"a key in the header {name}",
            "query": f"the parameter {name!r} in addresses",
        }[kind]
        hashed = kind == "authorization" and name in {"Digest", "Negotiate", "NTLM"}
        yield finding(
            "low" if hashed else "medium" if kind == "query" else "high",
            "plain-credentials",
            f"{count(secret.count, f'request to {host} carries', f'requests to {host} carry')} {title} in clear text.",
            "The password is not readable, but what is sent can be tried offline and the session taken over."
            if hashed
            else "Addresses end up in logs, histories and at linked sites; everyone on the path reads them."
            if kind == "query"
            else "Everyone on the path reads them and can use them.",
            "Let the server take this over HTTPS only, and change what was sent.",
            secret.count,
            secret.frames,
        )


def _cookies(traffic: Traffic) -> Iterator[Found]:
    if traffic.cookies:
        yield finding(
            "low",
            "plain-cookies",
            f"{count(traffic.cookies, 'request carries', 'requests carry')} cookies in clear text.",
            "A session's cookie is as good as its password while the session lasts.",
            "Serve the sites over HTTPS only, and mark their cookies Secure.",
            traffic.cookies,
            traffic.cookie_frames,
        )


def _server_errors(traffic: Traffic) -> Iterator[Found]:
    for name, host in traffic.hosts.items():
        if host.server_errors:
            share = host.server_errors / max(1, host.answered)
            yield finding(
                "high"
                if share >= 0.5 and host.server_errors >= FEW
                else "medium"
                if share >= 0.05 or host.server_errors >= 100
                else "low",
                "server-errors",
                f"{name} answered {host.server_errors} of {count(host.answered, 'request')} with a server error (5xx).",
                "The server, or what stands behind it, could not do what it was asked.",
                "Look into the server's log at these times.",
                host.server_errors,
                host.frames.get("server"),
            )


def _client_errors(traffic: Traffic) -> Iterator[Found]:
    for name, host in traffic.hosts.items():
        if host.client_errors >= FEW and host.client_errors >= host.answered * 0.2:
            yield finding(
                "low",
                "client-errors",
                f"{name} refused {host.client_errors} of {count(host.answered, 'request')} (4xx).",
                "Clients ask for what is not there or not for them: a broken link, a wrong configuration, or a scan.",
                "Look at which clients ask for what.",
                host.client_errors,
                host.frames.get("client"),
            )


def _unanswered(traffic: Traffic) -> Iterator[Found]:
    for name, host in traffic.hosts.items():
        if host.unanswered:
            all_of_them = not host.answered
            yield finding(
                "medium" if all_of_them or host.unanswered >= host.requests * 0.1 else "low",
                "unanswered",
                f"{name} closed the connection without an answer to {host.unanswered} of {count(host.requests, 'request')}.",
                "Programs crash, time out, or have a limit that cuts connections.",
                "Look into the server's log, and at what stands between (proxy, firewall).",
                host.unanswered,
                host.frames.get("unanswered"),
            )


def _slow(traffic: Traffic) -> Iterator[Found]:
    for name, host in traffic.hosts.items():
        slow = host.durations.percentile_ms(90)
        if slow is None or slow < SLOW_MS or host.durations.count < FEW:
            continue
        yield finding(
            "medium" if slow >= TOO_SLOW_MS else "low",
            "slow",
            f"{name} needed {slow:,.0f} ms or more for the first byte of one in ten answers (median "
            f"{host.durations.percentile_ms(50):,.0f} ms, {count(host.durations.count, 'answer')}).",
            "Users wait.",
            "Look at the slowest requests in the report, and at what the server does for them.",
            host.durations.count,
            [entry[1] for entry in sorted(traffic.slowest, reverse=True) if entry[4].startswith(name)],
        )


def _guesses(traffic: Traffic) -> Iterator[Found]:
    for address, client in traffic.clients.items():
        for host, times in client.refused.items():
            if times >= GUESSES:
                yield finding(
                    "high" if times >= 10 * GUESSES else "medium",
                    "login-failures",
                    f"{host} refused {address} {count(times, 'time')} for lack of permission (401, 403).",
                    "Somebody tries passwords, or a program has a wrong one and may lock an account.",
                    f"Find out what runs on {address}; limit attempts on the server.",
                    times,
                    client.refused_frames,
                )


def _probes(traffic: Traffic) -> Iterator[Found]:
    for address, client in traffic.clients.items():
        if len(client.missing_paths) >= PROBES and client.missing >= client.requests * 0.5:
            yield finding(
                "medium",
                "probing",
                f"{address} asked for {count(len(client.missing_paths), 'address', 'different addresses')} that do not exist (404).",
                "That is how scanners look for forgotten files and weak programs.",
                "If it is no scanner of yours, block it, and check what it found (answers 200 in its requests).",
                client.missing,
            )


def _redirects(traffic: Traffic) -> Iterator[Found]:
    for (address, location), times in traffic.redirects.items():
        if times >= LOOP and location.removeprefix("http://") == address:
            yield finding(
                "medium",
                "redirect-loop",
                f"{address} redirected to itself {count(times, 'time')}.",
                "Users see an error page.",
                "Check the server's rules for this address; behind a proxy, whether it knows the outer scheme.",
                times,
                traffic.redirect_frames.get((address, location)),
            )


def _uploads(traffic: Traffic) -> Iterator[Found]:
    for (client, host), (size, frames) in traffic.uploads.items():
        outside = _outside(host)
        yield finding(
            "medium" if outside else "low",
            "large-upload",
            f"{client} sent {size / 1e6:,.0f} MB to {host} in requests of 10 MB and more.",
            "Readable by everyone on the path, and a way out for data.",
            "Check that this transfer is meant, and use HTTPS for it.",
            len(frames),
            frames,
        )


def _outside(host: str) -> bool:
    address = address_of(host)
    return address is not None and ipaddress.ip_address(address).is_global


def _addresses(traffic: Traffic) -> Iterator[Found]:
    hosts = {name: host for name, host in traffic.hosts.items() if _outside(name)}
    requests: dict[str, int] = defaultdict(int)
    for name, host in hosts.items():
        requests[name] += host.requests
    if requests:
        most = ", ".join(sorted(requests, key=lambda name: -requests[name])[:5])
        yield finding(
            "low",
            "address-as-host",
            f"{count(sum(requests.values()), 'request names', 'requests name')} a public address instead of a host: {most}.",
            "People and browsers use names; malware and badly configured devices use addresses.",
            "Find out which program on the clients does that.",
            sum(requests.values()),
        )


def _tunnels(traffic: Traffic) -> Iterator[Found]:
    if traffic.tunnels:
        most = ", ".join(name for name, _ in traffic.tunnels.most_common(5))
        yield finding(
            "info",
            "tunnels",
            f"{count(traffic.tunnels.total(), 'tunnel was', 'tunnels were')} opened through a proxy (CONNECT): {most}.",
            "What goes through them is not seen here.",
            "Check that the proxy allows only the ports and hosts it should.",
            traffic.tunnels.total(),
        )


def _ambiguous(traffic: Traffic) -> Iterator[Found]:
    if traffic.ambiguous_frames:
        yield finding(
            "high",
            "ambiguous-length",
            f"{count(len(traffic.ambiguous_frames), 'request')} or more: the length is given twice "
            "(Content-Length with Transfer-Encoding, or two different lengths).",
            "Servers and proxies may disagree where such a request ends: request smuggling (RFC 9112 section 11.2).",
            "Look at the frames; let the front server refuse such requests.",
            len(traffic.ambiguous_frames),
            traffic.ambiguous_frames,
        )


def _malformed(traffic: Traffic) -> Iterator[Found]:
    if traffic.malformed:
        yield finding(
            "low",
            "malformed",
            f"In {traffic.malformed} places an HTTP conversation went on with what is no HTTP message.",
            "Broken software, a wrong length, or another protocol inside.",
            "Look at the frames.",
            traffic.malformed,
            traffic.malformed_frames,
        )
