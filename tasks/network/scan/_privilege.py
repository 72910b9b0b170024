"""Whether a program we start may send raw packets: CAP_NET_RAW, not "is root"."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

CAP_NET_RAW = 13  # <linux/capability.h>
HOW_TO_GET_IT = "signalbox doctor prints the line that starts signalbox with it, and without root."
"""A capability, and nothing else of root's; the line has this account's numbers and paths in it."""


def may_send_raw(program: str | None = None, *, aware: bool = False) -> bool:
    """Whether `program`, started by this process, will have CAP_NET_RAW.

    What we have is not what a program gets: root passes on all that its bounding set holds, any other account only its ambient
    capabilities; a program with capabilities in its file (setcap) brings its own.

    Args:
        program: Its path.
        aware: Whether the program raises permitted capabilities itself (libcap), so that its file need not make them effective.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return False
    bounding = _has(status, "CapBnd")
    if os.geteuid() == 0:
        return bounding and _has(status, "CapEff")
    return _has(status, "CapAmb") or (bounding and program is not None and _file_has(program, aware))


def _has(status: str, line: str) -> bool:
    match = re.search(rf"^{line}:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(match and int(match[1], 16) >> CAP_NET_RAW & 1)


def _file_has(program: str, aware: bool) -> bool:
    """Whether the file carries CAP_NET_RAW: struct vfs_cap_data of <linux/capability.h>."""
    try:
        magic, permitted = struct.unpack_from("<II", os.getxattr(program, "security.capability"))
    except (OSError, struct.error):
        return False
    return bool((aware or magic & 1) and permitted >> CAP_NET_RAW & 1)
