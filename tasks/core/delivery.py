"""The gate's delivery door: where a URL that came as a parameter may lead.

Endpoints that an administrator put into a block are allowed because they are named there and do not come here. A URL
given as a parameter may go to public addresses only; everything else needs an entry in `egress_allow` of the site's
policy. Import it from `tasks.core.gate`.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from tasks.core.cidr import AddressSet, canonical, embedded_ipv4, single
from tasks.core.errors import InvalidParameters, NotFound, Refused
from tasks.core.models import Address
from tasks.core.resolve import Resolve, resolve_host

if TYPE_CHECKING:
    from blocks.policy import ProbePolicy

_MAX_URL = 8192
_AUTHORITY = re.compile(r"https?://([^/?#]+)", re.IGNORECASE)
_HOST = re.compile(rb"[A-Za-z0-9._-]{1,254}|[0-9A-Fa-f:.]+")
_PORTS = {"http": 80, "https": 443}

_NOT_PUBLIC = AddressSet(
    ipaddress.ip_network(prefix)
    for prefix in (
        # IANA special-purpose registry, IPv4: everything that is not globally reachable.
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # a public address, but inside Azure the host's own control server
        # IPv6: what is not global unicast (2000::/3) is left out below; these parts of it are special.
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
_GLOBAL_IPV6 = AddressSet([ipaddress.ip_network("2000::/3"), ipaddress.ip_network("64:ff9b::/96")])


@dataclass(frozen=True)
class PinnedUrl:
    """A URL that may be called, and the one address it may be called at.

    Attributes:
        url: The URL as asked; not in `repr`, because a webhook's path is its password.
        scheme: `http` or `https`.
        host: Name or address in the URL, in ASCII: for the `Host` header, SNI and the certificate check.
        port: TCP port.
        address: The address to connect to; a second resolution changes nothing.
    """

    url: str = field(repr=False)
    scheme: str
    host: str
    port: int
    address: str

    @property
    def connect_url(self) -> str:
        """The URL with the pinned address in place of the name: what the HTTP client is given."""
        return str(httpx.URL(self.url).copy_with(host=self.address, fragment=None))

    @property
    def host_header(self) -> str:
        """What the `Host` header must say."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


async def admit_delivery(url: str, policy: ProbePolicy, *, resolve: Resolve | None = None) -> PinnedUrl:
    """Let a URL given as a parameter through, or say why not.

    Every address its host resolves to must be public or in `policy.egress_allow`; the first is pinned. Hosts written as
    one number or in octal or hexadecimal are the IPv4 addresses the system would take them for. Messages never repeat
    the URL's path or query.

    Raises:
        InvalidParameters: Not an http or https URL, or one with a user name or password in it.
        Refused: It leads to an address or port that policy does not allow.
        NotFound: The host does not resolve.
        Unreachable: The resolver did not answer.
    """
    parsed = _parse(url)
    host = parsed.raw_host.decode("ascii").lower()
    port = parsed.port or _PORTS[parsed.scheme]
    if policy.is_never_port(port):
        raise Refused(
            f"url: port {port} must never be touched at site {policy.site} (never_ports of its policy).",
            hint=f"If you know what listens there: signalbox policy ports --open {port}{_at(policy)}",
        )
    literal = _literal(host)
    found = [str(literal)] if literal is not None else list(await (resolve or resolve_host)(host))
    if not found:
        raise NotFound(f"url: {host} does not resolve.")
    egress = AddressSet(ipaddress.ip_network(text) for text in policy.egress_allow)
    addresses = [canonical(ipaddress.ip_address(text.partition("%")[0])) for text in found]
    for address in addresses:
        for meaning in (address, *embedded_ipv4(address)):
            if not _is_public(meaning) and meaning not in egress:
                shown = str(meaning) if host == str(meaning) else f"{host} is {meaning}, which"
                raise Refused(
                    f"url: {shown} is not a public address; a URL given as a parameter may not lead there.",
                    hint="Put the endpoint into a block, or allow it: "
                    f"signalbox policy allow --egress {single(meaning)}{_at(policy)}",
                )
    return PinnedUrl(url=str(parsed), scheme=parsed.scheme, host=host, port=port, address=str(addresses[0]))


def _parse(url: str) -> httpx.URL:
    # The HTTP client's own parser: with another one, the two could disagree about what the host is.
    hint = "Right would be https://hooks.example.com/path."
    if len(url) > _MAX_URL or re.search(r"[\x00-\x20\x7f\\]", url):
        raise InvalidParameters(
            f"url: must be text of at most {_MAX_URL} characters without spaces or backslashes.", hint=hint
        )
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError):
        raise InvalidParameters("url: cannot be read as a URL.", hint=hint) from None
    if parsed.scheme not in _PORTS:
        raise InvalidParameters("url: must begin with http:// or https://.", hint=hint)
    authority = _AUTHORITY.match(url)
    if authority is None or not parsed.raw_host:
        raise InvalidParameters("url: names no host.", hint=hint)
    if parsed.userinfo or "@" in authority[1]:
        raise InvalidParameters("url: must not hold a user name or password.", hint="Put the endpoint into a block.")
    if not _HOST.fullmatch(parsed.raw_host):
        raise InvalidParameters("url: its host is neither a name nor an address.", hint=hint)
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise InvalidParameters(f"url: {parsed.port} is not a port.", hint=hint)
    return parsed


def _literal(host: str) -> Address | None:
    """The address a host part is, also in the old spellings (`2130706433`, `0x7f.1`, `0177.0.0.1`), or None for a name."""
    bare = host.strip("[]")
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    if ":" in bare:
        raise InvalidParameters("url: its host is not an address.", hint="Right would be https://[2001:db8::1]/.")
    try:
        return ipaddress.IPv4Address(socket.inet_aton(bare.rstrip(".")))
    except OSError:
        return None


def _is_public(address: Address) -> bool:
    if address.version == 6 and address not in _GLOBAL_IPV6:
        return False
    return address not in _NOT_PUBLIC


def _at(policy: ProbePolicy) -> str:
    return "" if policy.site == "default" else f" --site {policy.site}"
