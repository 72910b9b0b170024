"""What a person should know about a capture's DNS."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from tasks.core.words import count
from tasks.network.analyze._dns_local import LLMNR, MDNS, NETBIOS, LocalNames
from tasks.network.analyze._dns_message import DNSSEC_ERRORS, EXTENDED_ERRORS, RCODES
from tasks.network.analyze._dns_traffic import Server, Traffic
from tasks.network.analyze._report import plain_finding

MOST_OF_A_KIND: Final = 5
"""Findings of one kind; those left out are counted in the last one's words by their number in the tables."""
SLOW_MS: Final = 500.0
TOO_SLOW_MS: Final = 2000.0
AMPLIFIED: Final = 10.0
AMPLIFIED_BYTES: Final = 20_000
UNASKED: Final = 20
FEW: Final = 5

Found = dict[str, Any]
finding = partial(plain_finding, "dns")


def find(traffic: Traffic, local: list[LocalNames]) -> list[Found]:
    """Return everything worth a person's attention, a few of each kind."""
    found: list[Found] = []
    for check in (
        _tunnels, _storms, _amplification, _forged, _unanswered, _failures, _slow, _truncation, _transfers, _dnssec,
        _malformed, _ports, _public_resolvers,
    ):  # fmt: skip
        kind = sorted(check(traffic), key=lambda item: (item["code"], -item["count"]))
        found += kind[:MOST_OF_A_KIND]
    for names in local:
        found += list(_local(names))[:MOST_OF_A_KIND]
    return found


def _tunnels(traffic: Traffic) -> Iterator[Found]:
    for name, domain in traffic.names.domains.items():
        signs = domain.tunnel_signs()
        if signs:
            yield finding(
                "high" if len(signs) >= 4 else "medium",
                "tunnel",
                f"Names below {name[:255]} look like data: {domain.lookups} different ones in {count(domain.queries, 'query', 'queries')}; "
                + "; ".join(signs)
                + ".",
                "Data can be carried out of a network, and commands into it, inside DNS names where nothing else gets through.",
                "Find out which program on the clients asks for them; block the domain at the resolver until that is known.",
                domain.queries,
                domain.frames,
            )


def _storms(traffic: Traffic) -> Iterator[Found]:
    for client, refused in traffic.refused.items():
        if refused.storm:
            # A name each says algorithm, a few names say a broken configuration.
            names = len(refused.names)
            most = ", ".join(name[:80] for name, _ in refused.names.most_common(3))
            many = names >= refused.storm * 0.5
            yield finding(
                "high" if many and refused.storm >= 100 else "medium",
                "nxdomain-storm",
                f"{client} was told {count(refused.storm, 'time')} or more within minutes that a name does not exist"
                + (f" ({most})." if most else "."),
                "Malware that computes its servers' names, a search list that multiplies every look-up, or a program with a wrong name."
                if many
                else "A program or a search list asks for the same wrong names again and again.",
                "Look at the names: random ones mean an infected host, names with your own domain at the end a search list.",
                refused.storm,
                refused.frames,
            )


def _amplification(traffic: Traffic) -> Iterator[Found]:
    for pair in traffic.pairs():
        trouble = pair.trouble
        if trouble.unasked >= UNASKED and trouble.unasked > pair.queries:
            yield finding(
                "high" if trouble.unasked_bytes >= AMPLIFIED_BYTES else "medium",
                "reflected",
                f"{pair.server.address} sent {count(trouble.unasked, 'answer')} ({trouble.unasked_bytes:,} bytes) to {pair.client} "
                "for which the capture has no question.",
                "Somebody sends questions in that address's name, and the answers flood it; or the capture sees one direction only.",
                "Check that the capture has both directions; then have the upstream filter the answers.",
                trouble.unasked,
                trouble.unasked_frames,
            )
        elif (
            pair.query_bytes
            and pair.answer_bytes >= AMPLIFIED_BYTES
            and pair.answer_bytes >= AMPLIFIED * pair.query_bytes
        ):
            ratio = pair.answer_bytes / pair.query_bytes
            anys = f", {count(trouble.any, 'question')} for ANY" if trouble.any else ""
            yield finding(
                "high" if trouble.any >= pair.queries * 0.5 else "medium",
                "amplification",
                f"{pair.server.address} answered {pair.client} with {ratio:.0f} times the bytes of the questions "
                f"({pair.query_bytes:,} to {pair.answer_bytes:,}{anys}).",
                "Questions with a forged sender make such a server flood the one whose address was used.",
                "Limit the server to its own clients, switch on response rate limiting, and answer ANY minimally (RFC 8482).",
                pair.queries,
                trouble.large_frames,
            )
        elif trouble.any >= UNASKED:
            yield finding(
                "low",
                "any",
                f"{pair.client} asked {pair.server.address} {count(trouble.any, 'time')} for ANY.",
                "Hardly any program asks for ANY; reconnaissance and amplification do.",
                "Find out what asks; let the server answer ANY minimally (RFC 8482).",
                trouble.any,
            )


def _forged(traffic: Traffic) -> Iterator[Found]:
    if traffic.forged_count:
        _, client, server, name = traffic.forged[0]
        yield finding(
            "high",
            "forged-answers",
            f"{count(traffic.forged_count, 'answer')} to a query that has another answer, or to another question than was asked, "
            f"the first from {server} to {client} for {name[:255] or '(no name)'}.",
            "Two different answers to one query are how cache poisoning, and filters that inject answers, look on the wire.",
            "Compare the two answers' TTL and addresses; use DNSSEC, or DNS over TLS to the resolver.",
            traffic.forged_count,
            [entry[0] for entry in traffic.forged],
        )


def _unanswered(traffic: Traffic) -> Iterator[Found]:
    for address, server in traffic.servers.items():
        pairs = server.pairs.values()
        unanswered = sum(pair.unanswered for pair in pairs)
        queries = sum(pair.queries for pair in pairs)
        answers = sum(pair.answers for pair in pairs)
        if not unanswered or (unanswered < FEW and answers):
            continue
        frames = [frame for pair in pairs for frame in pair.trouble.unanswered_frames]
        if not answers:
            yield finding(
                "high" if queries >= FEW else "medium",
                "silent-server",
                f"{address} answered none of {count(queries, 'query', 'queries')} of {count(len(pairs), 'client')}.",
                "Clients wait seconds for a silent server before they try another one.",
                "Check that the server runs and port 53 is open to it, or take it out of the clients' configuration.",
                queries,
                frames,
            )
        elif unanswered >= queries * 0.02:
            yield finding(
                "medium" if unanswered >= queries * 0.1 else "low",
                "unanswered",
                f"{address} left {unanswered} of {count(queries, 'query', 'queries')} unanswered.",
                "Each costs its client a timeout of seconds.",
                "Look for packet loss and rate limits on the way, and for domains whose own servers do not answer.",
                unanswered,
                frames,
            )


def _failures(traffic: Traffic) -> Iterator[Found]:
    for server in traffic.servers.values():
        total = sum(server.rcodes.values())
        for rcode, times in server.rcodes.items():
            if rcode in {0, 3} or times < FEW or times < total * 0.05:
                continue
            name = RCODES.get(rcode, f"RCODE{rcode}")
            action = {
                2: "Check the server's upstream and the domain's delegation and signatures.",
                5: "Ask another server, or allow these clients on this one.",
            }.get(rcode, "Look at the queries: the server does not understand them.")
            yield finding(
                "medium" if times >= total * 0.2 else "low",
                f"{name.lower()}",
                f"{server.address} answered {times} of {count(total, 'query', 'queries')} with {name}.",
                "These names could not be resolved although they may exist.",
                action,
                times,
                server.failed_frames.get(rcode),
            )


def _slow(traffic: Traffic) -> Iterator[Found]:
    for server in traffic.servers.values():
        slowest = server.durations.percentile_ms(90)
        if slowest is None or server.durations.count < FEW or slowest < SLOW_MS:
            continue
        yield finding(
            "medium" if slowest >= TOO_SLOW_MS else "low",
            "slow-server",
            f"{server.address} needed {slowest:,.0f} ms or more for one in ten answers (median "
            f"{server.durations.percentile_ms(50):,.0f} ms, {count(server.durations.count, 'answer')}).",
            "Every connection starts with a look-up: users feel this as a slow network.",
            "Check the way to the server and its upstream; let clients ask a nearer one.",
            server.durations.count,
            [entry[1] for entry in sorted(traffic.slowest, reverse=True) if entry[3] == server.address],
        )


def _truncation(traffic: Traffic) -> Iterator[Found]:
    waiting = len(traffic.truncated_waiting)
    if waiting:
        yield finding(
            "medium" if waiting >= FEW else "low",
            "truncated-not-retried",
            f"{count(waiting, 'truncated answer was', 'truncated answers were')} not followed by the same question over TCP "
            f"({traffic.retried} were).",
            "A client that cannot ask again over TCP does not get the whole answer.",
            "Check that TCP port 53 is open between these clients and servers.",
            waiting,
            list(traffic.truncated_waiting.values()),
        )


def _transfers(traffic: Traffic) -> Iterator[Found]:
    for name, client, server, frame, _ in traffic.transfers:
        yield finding(
            "medium",
            "zone-transfer",
            f"{server} gave the zone {name[:255]} to {client}.",
            "A zone lists every host; only secondary servers should get it.",
            f"If {client} is no secondary of this zone, limit transfers on {server}.",
            frames=[frame],
        )


def _dnssec(traffic: Traffic) -> Iterator[Found]:
    for code, times in traffic.extended_errors.items():
        if code in DNSSEC_ERRORS:
            yield finding(
                "medium",
                "dnssec-failed",
                f"A resolver refused {count(times, 'answer')}: {EXTENDED_ERRORS[code]}.",
                "The domain's signatures do not hold: it is misconfigured, or the answers were changed on the way.",
                "Check the domain's DNSSEC chain; do not switch validation off.",
                times,
                traffic.extended_frames[code],
            )
        elif code in {4, 15, 16, 17, 18}:
            yield finding(
                "info",
                "blocked",
                f"A resolver answered {count(times, 'query', 'queries')} with what its policy says: {EXTENDED_ERRORS[code]}.",
                "The names are on a block list of the resolver.",
                "Look at which hosts ask for them.",
                times,
                traffic.extended_frames[code],
            )


def _malformed(traffic: Traffic) -> Iterator[Found]:
    times = sum(traffic.malformed.values())
    if times:
        reasons = ", ".join(f"{reason} ({times})" for reason, times in traffic.malformed.most_common(3))
        mostly = times >= max(20, traffic.messages)
        yield finding(
            "high" if mostly else "low",
            "not-dns" if mostly else "malformed",
            f"{count(times, 'message on port 53 is', 'messages on port 53 are')} no DNS: {reasons}.",
            "Port 53 is open nearly everywhere: other protocols (a VPN, malware) hide there."
            if mostly
            else "Broken software, a fuzzer, or another protocol on DNS's port.",
            "Look at the frames and find the program that sends them.",
            times,
            traffic.malformed_frames,
        )


def _ports(traffic: Traffic) -> Iterator[Found]:
    for server in traffic.servers.values():
        for port, frame in server.odd_ports.items():
            yield finding(
                "info",
                "other-port",
                f"{server.address} is asked on port {port}.",
                "Filters and logs for port 53 do not see it.",
                "Check that this server is known; malware uses resolvers on unusual ports.",
                frames=[frame],
            )


def _public_resolvers(traffic: Traffic) -> Iterator[Found]:
    for address, server in traffic.servers.items():
        if not _is_public(server):
            continue
        asked = [pair for pair in server.pairs.values() if pair.queries and pair.answers and _is_private(pair.client)]
        if not asked:
            continue
        queries = sum(pair.queries for pair in asked)
        yield finding(
            "info",
            "public-resolver",
            f"{count(len(asked), 'inner client')} asked {address} on the internet {count(queries, 'time')}.",
            "Names asked for outside leave the network readable, and pass by the inner resolver's filters and logs.",
            "If clients have to use the inner resolver, block port 53 to the outside for all others.",
            queries,
        )


def _is_public(server: Server) -> bool:
    try:
        return ipaddress.ip_address(server.address).is_global
    except ValueError:
        return False


def _is_private(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_private
    except ValueError:
        return False


def _local(names: LocalNames) -> Iterator[Found]:
    if names.protocol == MDNS:
        return
    title = {LLMNR: "LLMNR", NETBIOS: "NetBIOS"}[names.protocol]
    most = {LLMNR: 3, NETBIOS: 5}[names.protocol]  # a host answers NetBIOS for its own names and its groups'
    for address, responder in names.responders.items():
        if len(responder.names) >= most:
            shown = ", ".join(sorted(responder.names)[:5])
            yield finding(
                "critical" if responder.names & {"wpad"} else "high",
                "name-poisoning",
                f"{address} claims {count(len(responder.names), 'different name')} over {title}: {shown}.",
                "A host has one name. One that answers for any collects the passwords of those who connect to it.",
                f"Find {address} and take it off the network; switch {title} off by policy.",
                responder.answers,
                responder.frames,
            )
    if names.proxy_frames:
        yield finding(
            "medium",
            "proxy-discovery",
            f"Hosts ask over {title} for a proxy by name (WPAD or the like).",
            "Whoever answers becomes their proxy and sees their traffic.",
            f"Switch automatic proxy discovery and {title} off, and let DNS answer the name wpad.",
            len(names.proxy_frames),
            names.proxy_frames,
        )
    if names.queries:
        yield finding(
            "low",
            names.protocol,
            f"{count(len(names.clients), 'host')} asked for names over {title}, {count(names.queries, 'time')}.",
            "Any host on the link may answer, and gets the asker's log-in attempt.",
            f"Switch {title} off by policy where DNS knows the names.",
            names.queries,
            names.frames,
        )
