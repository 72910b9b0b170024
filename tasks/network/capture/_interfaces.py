"""The interfaces of this machine, and which of them may be captured."""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import TYPE_CHECKING

from tasks.core.errors import InvalidParameters, Refused

if TYPE_CHECKING:
    from blocks.policy import ProbePolicy

ANY = "any"
"""libpcap's name for all interfaces at once."""

_SIOCGIFFLAGS = 0x8913  # <linux/sockios.h>
_IFF_UP = 0x1  # <linux/if.h>


def interface_names() -> list[str]:
    """Names of the interfaces there are, in the kernel's order."""
    return [name for _, name in socket.if_nameindex()]


def check_interface(name: str, policy: ProbePolicy) -> None:
    """Make sure that an interface exists, is up, and may be captured.

    Raises:
        InvalidParameters: There is no such interface, or it is down; says which there are.
        Refused: The policy does not let it be captured.
    """
    names = interface_names()
    if name != ANY and name not in names:
        raise InvalidParameters(f"There is no interface {name!r}.", hint=f"There are: {', '.join(names)}.")
    if not policy.may_capture(name):
        allowed = ", ".join(policy.capture_interfaces) or "none"
        what = "all interfaces at once (any)" if name == ANY else f"the interface {name}"
        raise Refused(
            f"The policy of site {policy.site!r} does not allow capturing {what}; it allows: {allowed}.",
            hint=f"Add {name} to capture_interfaces of the block policy/{policy.site}.",
        )
    if name != ANY and not is_up(name):
        up = [other for other in names if is_up(other)]
        raise InvalidParameters(
            f"The interface {name} is down: nothing passes there.", hint=f"Up are: {', '.join(up)}."
        )


def is_up(name: str) -> bool:
    """Whether an interface is administratively up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as question:
        try:
            answer = fcntl.ioctl(question, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
        except OSError:
            return False
    flags: int = struct.unpack_from("16xH", answer)[0]
    return bool(flags & _IFF_UP)
