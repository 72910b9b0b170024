"""Programs that read what strangers sent run as nobody where we are root: they need neither files nor rights."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tasks.core.process import find_program

NOBODY = 65534
_SETGID, _SETUID, _SETPCAP = 6, 7, 8  # <linux/capability.h>


def may_change_account() -> bool:
    """Whether this process is root and may start programs under other accounts; a container's root may not always."""
    if os.geteuid() != 0:
        return False
    effective = _effective()
    return bool(effective >> _SETUID & 1 and effective >> _SETGID & 1)


def unprivileged() -> list[str]:
    """What to put before a command so that it runs as nobody, without capabilities; nothing where that cannot be."""
    if not may_change_account():
        return []
    argv = [find_program("setpriv", "util-linux"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [*argv, "--inh-caps=-all", *(["--bounding-set=-all"] if _effective() >> _SETPCAP & 1 else [])]


def _effective() -> int:
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(match[1], 16) if match else 0
