"""A real SNMP agent: net-snmp's snmpd on a port of loopback or in a namespace of the lab, with the tables of a switch if wanted.

with SnmpAgent(objects=SWITCH) as agent:
    ...  # agent.address, agent.port; community `public`, users of USERS
    agent.stop_answering()

Nothing of the system's own snmpd is read or written: configuration, users and engine boots live in a folder that is gone afterwards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from blocks.snmp import SnmpCredentials
from tasks.core.errors import MissingProgram
from tasks.core.process import find_program

START_SECONDS = 20.0
_NOT_STARTED = "-smux,ip,at,ipAddressTable"
"""Parts of snmpd that are not started: their tables would show this machine's own addresses beside those a test gives."""
COMMUNITY = "signal-red"
AUTH_PASSWORD, PRIV_PASSWORD = "auth-password", "priv-password"

USERS: Mapping[str, tuple[str, str]] = {
    "noauth": ("none", "none"),
    "md5": ("MD5", "none"),
    "sha": ("SHA", "none"),
    "md5-des": ("MD5", "DES"),
    "sha-aes": ("SHA", "AES"),
    "sha224-aes": ("SHA-224", "AES"),
    "sha256-aes": ("SHA-256", "AES"),
    "sha384-aes192": ("SHA-384", "AES-192"),
    "sha512-aes256": ("SHA-512", "AES-256"),
    "sha-aes256": ("SHA", "AES-256"),
    "sha-aes256c": ("SHA", "AES-256-C"),
}
"""Version 3 users of an agent: authentication and encryption protocol."""


def user(name: str, **changes: object) -> SnmpCredentials:
    """Credentials of one of USERS, with changes."""
    auth, priv = USERS[name]
    fields: dict[str, object] = {"version": "3", "username": name, "auth_protocol": auth, "priv_protocol": priv}
    fields |= {"auth_password": AUTH_PASSWORD} if auth != "none" else {}
    fields |= {"priv_password": PRIV_PASSWORD} if priv != "none" else {}
    return SnmpCredentials.model_validate(fields | changes)


def community(text: str = COMMUNITY) -> SnmpCredentials:
    """Credentials of version 2c."""
    return SnmpCredentials.model_validate({"community": text})


def _why_not() -> str | None:
    try:
        find_program("snmpd")
    except MissingProgram:
        return "needs the program snmpd: apt install snmpd"
    return None


needs_snmpd = pytest.mark.skipif(_why_not() is not None, reason=_why_not() or "")

Objects = Mapping[str, tuple[str, object]]
"""Object identifiers with their type in the words of snmpd.conf(5) `pass_persist`, and their value."""


class SnmpAgent:
    """An snmpd that answers while the block runs.

    Args:
        objects: What it serves besides its own tables; whole subtrees of its own are hidden by these (see `_ROOTS`).
        address: Where it listens.
        port: 0 for a free one.
        namespace: Network namespace it lives in.
        lines: Further lines of its configuration.
        name: sysName.
        own_tables: Whether it also serves the addresses its machine or namespace really has.
    """

    def __init__(
        self,
        *,
        objects: Objects | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        namespace: str | None = None,
        lines: Sequence[str] = (),
        name: str = "switch-1",
        own_tables: bool = False,
    ) -> None:
        self.address, self.port, self.name = address, port, name
        self._left_out = "-smux" if own_tables else _NOT_STARTED
        self._objects, self._namespace, self._lines = dict(objects or {}), namespace, list(lines)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="sbx-snmpd-")
        for _ in range(5):  # somebody else may take the free port first
            port = self.port or _free_port(self.address)
            if self._start(port):
                self.port = port
                return self
        self._folder.cleanup()
        raise OSError("snmpd does not start")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._end(self._process)
        self._folder.cleanup()

    def stop_answering(self) -> None:
        """Stop the process as it is: it keeps its port and says nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()  # a stopped process too; its pass_persist child ends with its input
        process.wait()

    def _start(self, port: int) -> bool:
        folder = Path(self._folder.name)
        served = folder / "objects"
        served.write_text("".join(f"{oid}\t{kind}\t{value}\n" for oid, (kind, value) in self._objects.items()))
        (folder / "serve.py").write_text(_SERVE)
        command = f"{sys.executable} -I -S {folder / 'serve.py'} {served}"
        where = f"udp6:[{self.address}]:{port}" if ":" in self.address else f"udp:{self.address}:{port}"
        lines = [
            f"agentAddress {where}",
            f"rocommunity {COMMUNITY}",
            f"rocommunity6 {COMMUNITY}",
            f"sysName {self.name}",
            "sysLocation rack 7",
            "sysContact noc@example.com",
            *self._lines,
        ]
        for name, (auth, priv) in USERS.items():
            words = [name]
            words += [auth, AUTH_PASSWORD] if auth != "none" else []
            words += [priv, PRIV_PASSWORD] if priv != "none" else []
            level = "noauth" if auth == "none" else "auth" if priv == "none" else "priv"
            lines += [f"createUser {' '.join(words)}", f"rouser {name} {level}"]
        roots = sorted({root for root in _ROOTS for oid in self._objects if f"{oid}.".startswith(f"{root}.")})
        # The lowest number wins over the agent's own table.
        lines += [f"pass_persist -p 1 {root} {command}" for root in roots]
        file = folder / "snmpd.conf"
        file.write_text("\n".join(lines) + "\n")
        file.chmod(0o600)
        argv = [find_program("snmpd"), "-f", "-Lf", str(folder / "log"), "-C", "-c", str(file), "-I", self._left_out]
        if self._namespace:
            argv = [find_program("ip", "iproute2"), "netns", "exec", self._namespace, *argv]
        environment = {
            **os.environ, "SNMP_PERSISTENT_DIR": str(folder / "state"), "SNMPCONFPATH": str(folder), "MIBS": "",
        }  # fmt: skip
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and process.poll() is None:
            if _listens(process.pid, port):
                self._process = process
                return True
            time.sleep(0.02)
        self._end(process)
        return False


def _free_port(address: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _listens(pid: int, port: int) -> bool:
    """Whether anybody in the process's network namespace has the UDP port."""
    for table in ("udp", "udp6"):
        with contextlib.suppress(OSError):
            rows = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
            if any(row.split()[1].endswith(f":{port:04X}") for row in rows):
                return True
    return False


_SERVE = '''\
"""Serves objects of a file to snmpd: snmpd.conf(5), pass_persist."""
import bisect, sys

rows = {}
for line in open(sys.argv[1]):
    oid, kind, value = line.rstrip("\\n").split("\\t")
    rows[tuple(map(int, oid.split(".")))] = (oid, kind, value)
order = sorted(rows)
for line in iter(sys.stdin.readline, ""):
    command = line.strip()
    if command == "PING":
        print("PONG", flush=True)
        continue
    oid = tuple(map(int, sys.stdin.readline().strip().strip(".").split(".")))
    if command == "getnext":
        place = bisect.bisect_right(order, oid)
        found = rows[order[place]] if place < len(order) else None
    else:
        found = rows.get(oid)
    if found is None:
        print("NONE", flush=True)
    else:
        print("." + found[0], found[1], found[2], sep="\\n", flush=True)
'''

# --- a switch ------------------------------------------------------------------------------------------------------------

_ROOTS = (
    "1.0.8802.1.1.2", "1.3.6.1.2.1.2.2", "1.3.6.1.2.1.4.20", "1.3.6.1.2.1.4.22", "1.3.6.1.2.1.4.34", "1.3.6.1.2.1.4.35",
    "1.3.6.1.2.1.17", "1.3.6.1.2.1.31.1.1", "1.3.6.1.2.1.47.1.1.1", "1.3.6.1.4.1.9.9.23", "1.3.6.1.4.1.99999",
)  # fmt: skip
_IF, _IFX = "1.3.6.1.2.1.2.2.1", "1.3.6.1.2.1.31.1.1.1"
_LLDP_REMOTE, _LLDP_LOCAL = "1.0.8802.1.1.2.1.4.1.1", "1.0.8802.1.1.2.1.3"
_CDP, _BRIDGE, _ENTITY = "1.3.6.1.4.1.9.9.23.1.2.1.1", "1.3.6.1.2.1.17", "1.3.6.1.2.1.47.1.1.1.1"


def octets(text: str) -> tuple[str, str]:
    """An OCTET STRING of hexadecimal bytes such as `00:40:8c`."""
    return "octet", text.replace(":", " ")


def number(value: int) -> tuple[str, int]:
    """An INTEGER."""
    return "integer", value


def string(text: str) -> tuple[str, str]:
    """A DisplayString."""
    return "string", text


def interface(
    index: int, name: str, mac: str, *, description: str = "", megabits: int = 1000
) -> dict[str, tuple[str, object]]:
    """One interface in ifTable and ifXTable."""
    return {
        f"{_IF}.1.{index}": number(index),
        f"{_IF}.2.{index}": string(description or name),
        f"{_IF}.3.{index}": number(6),
        f"{_IF}.4.{index}": number(1500),
        f"{_IF}.5.{index}": ("gauge", min(megabits * 1_000_000, 4_294_967_295)),
        f"{_IF}.6.{index}": octets(mac),
        f"{_IF}.7.{index}": number(1),
        f"{_IF}.8.{index}": number(1 if index % 2 else 2),
        f"{_IF}.9.{index}": ("timeticks", 0),
        f"{_IF}.10.{index}": ("counter", 1000 * index),
        f"{_IF}.14.{index}": ("counter", index),
        f"{_IF}.16.{index}": ("counter", 2000 * index),
        f"{_IFX}.1.{index}": string(name),
        f"{_IFX}.6.{index}": ("counter64", (1 << 40) + index),
        f"{_IFX}.15.{index}": ("gauge", megabits),
        f"{_IFX}.18.{index}": string(f"to rack {index}"),
    }


def ipv4_address(address: str, index: int, mask: str = "255.255.255.0") -> dict[str, tuple[str, object]]:
    """One row of ipAddrTable."""
    return {
        f"1.3.6.1.2.1.4.20.1.1.{address}": ("ipaddress", address),
        f"1.3.6.1.2.1.4.20.1.2.{address}": number(index),
        f"1.3.6.1.2.1.4.20.1.3.{address}": ("ipaddress", mask),
    }


def chassis(
    serial: str, *, model: str = "WS-C2960", vendor: str = "Cisco Systems, Inc.", firmware: str = "15.2"
) -> dict[str, tuple[str, object]]:
    """A chassis and a module in it, in the entity table."""
    rows: dict[str, tuple[str, object]] = {}
    for index, kind, inside, name, number_ in ((1, 3, 0, "Chassis 1", serial), (2, 9, 1, "Module 1", f"{serial}-M")):
        rows |= {
            f"{_ENTITY}.2.{index}": string(f"{model} {name}"),
            f"{_ENTITY}.4.{index}": number(inside),
            f"{_ENTITY}.5.{index}": number(kind),
            f"{_ENTITY}.7.{index}": string(name),
            f"{_ENTITY}.8.{index}": string("V03"),
            f"{_ENTITY}.9.{index}": string(firmware),
            f"{_ENTITY}.10.{index}": string("15.2(7)E3"),
            f"{_ENTITY}.11.{index}": string(number_),
            f"{_ENTITY}.12.{index}": string(vendor),
            f"{_ENTITY}.13.{index}": string(model),
            f"{_ENTITY}.16.{index}": number(1),
        }
    return rows


_REMOTE = "100.7.1"  # time mark, local port, remote index
_MAC_INDEX = "0.64.140.18.52.86"  # 00:40:8c:12:34:56
_IPV6_INDEX = "32.1.13.184" + ".0" * 11 + ".1"  # 2001:db8::1

SWITCH: Objects = {
    **interface(1, "Gi0/1", "00:1b:54:00:00:01", description="GigabitEthernet0/1"),
    **interface(2, "Te1/1", "00:1b:54:00:00:02", description="TenGigabitEthernet1/1", megabits=10_000),
    **ipv4_address("10.9.8.1", 1),
    "1.3.6.1.2.1.4.34.1.3.1.4.10.9.8.1": number(1),
    "1.3.6.1.2.1.4.34.1.3.1.4.10.9.8.255": number(1),
    f"1.3.6.1.2.1.4.34.1.3.2.16.{_IPV6_INDEX}": number(2),
    "1.3.6.1.2.1.4.34.1.4.1.4.10.9.8.1": number(1),
    "1.3.6.1.2.1.4.34.1.4.1.4.10.9.8.255": number(3),
    f"1.3.6.1.2.1.4.34.1.4.2.16.{_IPV6_INDEX}": number(1),
    f"1.3.6.1.2.1.4.34.1.5.2.16.{_IPV6_INDEX}": (
        "objectid",
        "1.3.6.1.2.1.4.32.1.5.2.2.16.32.1.13.184" + ".0" * 12 + ".64",
    ),
    "1.3.6.1.2.1.4.22.1.2.1.10.9.8.50": octets("00:40:8c:12:34:56"),
    "1.3.6.1.2.1.4.22.1.4.1.10.9.8.50": number(3),
    f"1.3.6.1.2.1.4.35.1.4.2.2.16.{_IPV6_INDEX}": octets("00:40:8c:00:00:07"),
    f"1.3.6.1.2.1.4.35.1.6.2.2.16.{_IPV6_INDEX}": number(3),
    f"{_LLDP_LOCAL}.1.0": number(4),
    f"{_LLDP_LOCAL}.2.0": octets("00:1b:54:00:00:00"),
    f"{_LLDP_LOCAL}.7.1.2.7": number(5),
    f"{_LLDP_LOCAL}.7.1.3.7": string("Gi0/1"),
    f"{_LLDP_LOCAL}.7.1.4.7": string("GigabitEthernet0/1"),
    f"{_LLDP_REMOTE}.4.{_REMOTE}": number(4),
    f"{_LLDP_REMOTE}.5.{_REMOTE}": octets("00:40:8c:12:34:56"),
    f"{_LLDP_REMOTE}.6.{_REMOTE}": number(3),
    f"{_LLDP_REMOTE}.7.{_REMOTE}": octets("00:40:8c:12:34:56"),
    f"{_LLDP_REMOTE}.8.{_REMOTE}": string("eth0"),
    f"{_LLDP_REMOTE}.9.{_REMOTE}": string("axis-door"),
    f"{_LLDP_REMOTE}.10.{_REMOTE}": string("AXIS P3245 Network Camera"),
    f"{_LLDP_REMOTE}.11.{_REMOTE}": octets("28"),
    f"{_LLDP_REMOTE}.12.{_REMOTE}": octets("01"),
    f"1.0.8802.1.1.2.1.4.2.1.3.{_REMOTE}.1.4.10.9.8.50": number(2),
    f"1.0.8802.1.1.2.1.4.2.1.4.{_REMOTE}.1.4.10.9.8.50": number(1),
    f"{_CDP}.3.2.1": number(1),
    f"{_CDP}.4.2.1": octets("0a:09:08:02"),
    f"{_CDP}.5.2.1": string("Cisco IOS Software, Version 15.2"),
    f"{_CDP}.6.2.1": string("core-sw.example.com"),
    f"{_CDP}.7.2.1": string("TenGigabitEthernet1/0/1"),
    f"{_CDP}.8.2.1": string("cisco WS-C3850"),
    f"{_CDP}.9.2.1": octets("00:00:00:29"),
    f"{_CDP}.11.2.1": number(99),
    f"{_BRIDGE}.1.1.0": octets("00:1b:54:00:00:00"),
    f"{_BRIDGE}.1.4.1.2.7": number(1),
    f"{_BRIDGE}.1.4.1.2.8": number(2),
    f"{_BRIDGE}.4.3.1.2.{_MAC_INDEX}": number(7),
    f"{_BRIDGE}.4.3.1.3.{_MAC_INDEX}": number(3),
    f"{_BRIDGE}.4.3.1.2.0.27.84.0.0.1": number(0),
    f"{_BRIDGE}.4.3.1.3.0.27.84.0.0.1": number(4),
    f"{_BRIDGE}.7.1.2.2.1.2.3.{_MAC_INDEX}": number(7),
    f"{_BRIDGE}.7.1.2.2.1.3.3.{_MAC_INDEX}": number(3),
    f"{_BRIDGE}.7.1.4.2.1.3.0.30": ("gauge", 3),  # VLAN 30 has filtering database 3
    **chassis("FOC1234X0AB"),
    "1.3.6.1.4.1.99999.1.0": octets("ff:00:01"),
    "1.3.6.1.4.1.99999.2.0": ("counter64", (1 << 63) + 5),
    "1.3.6.1.4.1.99999.3.0": ("ipaddress", "192.0.2.1"),
    "1.3.6.1.4.1.99999.4.0": ("objectid", "1.3.6.1.4.1.99999"),
    "1.3.6.1.4.1.99999.5.0": ("timeticks", 123456789),
}
"""Tables of a small switch, with two neighbours."""


def large_table(rows: int) -> dict[str, tuple[str, object]]:
    """A table of one column below 1.3.6.1.4.1.99999.9."""
    return {f"1.3.6.1.4.1.99999.9.1.1.{row}": string(f"row {row} {'x' * 20}") for row in range(1, rows + 1)}
