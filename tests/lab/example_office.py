"""The office the documentation's worked examples are recorded in: the demo's, with real servers, traffic, and a signalbox of its own.

`python -m deployments.docs --examples` calls `play`. Needs root and what the tests need: dnsmasq, sshd, snmpd, ssh, pyftpdlib.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ftplib
import hashlib
import http.client
import io
import json
import os
import pty
import re
import shlex
import smtplib
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import dns.message
import dns.query
from aiosmtpd.handlers import Sink
from aiosmtpd.smtp import SMTP

from deployments.demo.axis_camera import http_protocol
from deployments.demo.lab import CISCO
from deployments.demo.network import Office
from deployments.demo.servers import Served, https
from deployments.docs._situations import SETUP, Situation
from deployments.docs._transcripts import Recorded, command_of, shorten
from tasks.core.process import find_program
from tests.lab.announcers import announcing_mdns, service_records
from tests.lab.http_endpoints import SlackEndpoint, TeamsWorkflow, WebhookSink
from tests.lab.network import Lab, processes_of
from tests.lab.snmp_agent import COMMUNITY, SWITCH, SnmpAgent
from tests.lab.ssh_server import SshServer
from tests.lab.stack import Stack
from tests.lab.tls_servers import Pki

COLUMNS = 110
"""Width of the terminal the examples are run in: what a page shows without scrolling sideways."""
COMMAND_SECONDS = 300.0
AGENT = ("sysDescr Cisco IOS Software, C2960 Software, Version 15.2(7)E3", "sysObjectID 1.3.6.1.4.1.9.1.1208")
"""What the switch says it is; else it would tell of the machine the examples are recorded on."""
START_SECONDS = 20.0
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")


def play(situations: Iterable[Situation]) -> Iterator[tuple[Situation, Recorded, int]]:
    """Set the office up, run the examples one after the other as a person would, and give what each printed and its exit status."""
    with contextlib.ExitStack() as held:
        runner = held.enter_context(asyncio.Runner())
        office = Office()
        runner.run(office.build())
        held.callback(lambda: runner.run(office.remove()))
        lab = office.lab
        assert lab is not None
        secrets = _furnish(office, runner, held)
        stack = held.enter_context(Stack())
        # Names are answered by the office's own name server, as for anybody who works there.
        Path(stack._folder.name, "resolv.conf").write_text(f"nameserver {lab.hosts['mail'].address}\n")
        for line in SETUP:
            secret, _, command = line.rpartition(" | ")
            match = re.fullmatch(r'echo "\$(\w+)"', secret)
            # A variable that is no secret stands in the line itself, as a shell would have it.
            words = [secrets.get(word.removeprefix("$"), word) for word in shlex.split(_there(lab, command))[1:]]
            done = stack.cli(*words, stdin=secrets[match[1]] + "\n" if match else None, timeout=COMMAND_SECONDS)
            if done.returncode != 0:
                raise RuntimeError(f"{line}: {done.stdout}\n{done.stderr}")
        for situation in situations:
            command = command_of(situation)
            with _traffic(lab) if "--interface" in command else contextlib.nullcontext():
                status, output = _run(stack, shlex.split(_there(lab, command))[1:])
            print(f"{status}  {command}", file=sys.stderr)
            yield situation, Recorded(command, shorten(_here(lab, stack, output), situation.lines)), status


def _there(lab: Lab | object, text: str) -> str:
    """Addresses of the pages become those of the lab, which takes the first free range of this machine."""
    slot = lab.slot  # type: ignore[union-attr]
    return text.replace("10.64.", f"10.{slot}.").replace("sbx64", f"sbx{slot}")


def _here(lab: Lab | object, stack: Stack, text: str) -> str:
    """Addresses of the lab become those of the pages; what is this machine's own does not appear."""
    slot = lab.slot  # type: ignore[union-attr]
    assert slot < 100, "a wider number would not fit the tables: end other labs"
    text = text.replace(f"10.{slot}.", "10.64.").replace(f"sbx{slot}", "sbx64").replace(f"fd5b:{slot}:", "fd5b:64:")
    text = text.replace(f"02:5b:{slot:02x}:", "02:5b:40:").replace(f"{CISCO}:00:{slot:02x}:", f"{CISCO}:00:40:")
    text = text.replace(f".{slot}.10.in-addr", ".64.10.in-addr")
    return text.replace(str(stack.home), "~/.signalbox").replace(socket.gethostname(), "probe")


# --- the office ------------------------------------------------------------------------------------------------------


def _furnish(office: Office, runner: asyncio.Runner, held: contextlib.ExitStack) -> dict[str, str]:
    """Give the demo's office real servers; return the secrets and fingerprints the set-up asks for."""
    lab = office.lab
    assert lab is not None
    run, hosts = runner.run, lab.hosts
    folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="sbx-office-")))
    pki = Pki()
    files, mail = hosts["files"], hosts["mail"]
    for host, port in ((files, 22), (mail, 25), (mail, 53), (hosts["camera-door"], 443)):
        run(lab.stop_service(host, port))
    switch = run(lab.add("core-sw1", 2, f"{CISCO}:12:34:02"))
    good = pki.server("files.office.example", files.address).context(folder)
    run(lab.add_service(files, https(good, title="Files")))
    expired = pki.server("camera-door.office.example", hosts["camera-door"].address, days=-3, key="rsa-2048")
    door, yard = office.cameras["camera-door"], office.cameras["camera-yard"]
    inside = Served("https", 443, http_protocol(door, tls=True), tls=expired.context(folder))
    run(lab.add_service(hosts["camera-door"], inside))
    assert yard.identity is not None
    run(lab.add_service(mail, _mail_server()))
    held.enter_context(SshServer(address=files.address, port=22, namespace=files.namespace, kinds=("ed25519", "rsa")))
    held.enter_context(
        SnmpAgent(
            objects=SWITCH, name="core-sw1", lines=AGENT, address=switch.address, port=161, namespace=switch.namespace
        )
    )
    names = [f"{name}.office.example" for name in ("files", "mail", "printer", "desk-1", "desk-2", "core-sw1")]
    lines = ["no-resolv", "no-hosts", "bind-interfaces", "listen-address=" + mail.address, "local=/office.example/"]
    lines += ["local=/10.in-addr.arpa/", "mx-host=office.example,mail.office.example,10"]
    lines += [f"host-record={name},{hosts[name.partition('.')[0]].address}" for name in names]
    lines += [f"host-record={name}.office.example,{hosts[name].address}" for name in ("camera-door", "camera-yard")]
    lines.append(f"host-record=gateway.office.example,{files.subnet.gateway}")
    (folder / "dnsmasq.conf").write_text("\n".join(lines) + "\n")
    dnsmasq = [find_program("dnsmasq"), "--keep-in-foreground", f"--conf-file={folder / 'dnsmasq.conf'}"]
    _start(held, mail.namespace, [*dnsmasq, "--pid-file=", "--user=root", "--dhcp-leasefile=/dev/null"])
    (folder / "ftp").mkdir()
    ftp = [sys.executable, "-m", "pyftpdlib", "-i", files.address, "-p", "21", "-d", str(folder / "ftp"), "-w"]
    _start(held, files.namespace, [*ftp, "-u", "backup", "-P", "correct-horse"])
    _wait(lambda: _names(mail.address))
    _wait(lambda: ftplib.FTP(files.address, timeout=2).close())
    printer = hosts["printer"]
    paper = service_records(
        "_ipp._tcp", "HP LaserJet", "printer", 631, printer.address, rp="ipp/print", ty="HP LaserJet"
    )
    held.enter_context(announcing_mdns(printer.namespace, paper))
    share = service_records("_smb._tcp", "files", "files", 445, files.address)
    held.enter_context(announcing_mdns(files.namespace, share))
    slack, teams, tickets = (held.enter_context(kind()) for kind in (SlackEndpoint, TeamsWorkflow, WebhookSink))
    server = {"smtp_server": mail.address, "smtp_port": 25, "smtp_type": "INSECURE"}
    return {
        "SLACK_URL": slack.url,
        "TEAMS_URL": teams.url,
        "TICKETS_URL": tickets.url,
        "MAIL_SERVER": json.dumps(server),
        "COMMUNITY": COMMUNITY,
        "PASSWORD": "pass",
        "DOOR": hashlib.sha256(expired.der).hexdigest(),
        "YARD": yard.identity.fingerprint,
    }


class _Mailbox(Sink):
    """Takes mail for everybody but one."""

    async def handle_RCPT(  # noqa: N802  aiosmtpd calls it by name
        self, server: object, session: object, envelope: object, address: str, options: list[str]
    ) -> str:
        if address.startswith("gone@"):
            return "550 5.1.1 No such user here"
        envelope.rcpt_tos.append(address)  # type: ignore[attr-defined]
        return "250 2.1.5 OK"


def _mail_server() -> Served:
    return Served("smtp", 25, lambda: SMTP(_Mailbox(), hostname="mail.office.example", ident="ESMTP Postfix"))


def _start(held: contextlib.ExitStack, namespace: str, argv: list[str]) -> None:
    """Run a server in a namespace until the office closes."""
    inside = [find_program("ip", "iproute2"), "netns", "exec", namespace, *argv]
    process = subprocess.Popen(inside, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    held.callback(process.wait, 10)
    held.callback(process.kill)


def _wait(work: Callable[[], object]) -> None:
    """Try until it works: a server that has just been started."""
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            work()
        except (OSError, EOFError, dns.exception.DNSException):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


# --- its traffic -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _traffic(lab: object) -> Iterator[None]:
    """Let a morning pass as soon as somebody listens."""
    stop = threading.Event()

    def morning() -> None:
        until = time.monotonic() + 60
        while not processes_of("tcpdump"):
            if stop.wait(0.1) or time.monotonic() > until:
                return
        stop.wait(1.5)  # it listens a moment after it is started
        for work in (_lookups, _web, _encrypted, _logins, _files, _mails, _unanswered):
            if stop.is_set():
                return
            with contextlib.suppress(OSError, EOFError):
                work(lab.hosts)  # type: ignore[attr-defined]

    thread = threading.Thread(target=morning, name="morning")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


def _names(server: str, *names: str, kind: str = "A") -> None:
    for name in names or ("files.office.example",):
        dns.query.udp(dns.message.make_query(name, kind), server, timeout=2)


def _lookups(hosts: dict[str, object]) -> None:
    server = hosts["mail"].address  # type: ignore[attr-defined]
    for _ in range(3):
        _names(server, "files.office.example", "mail.office.example", "printer.office.example")
    _names(server, "wpad.office.example", "old-nas.office.example", "old-nas.office.example")
    _names(server, "office.example", kind="MX")


def _web(hosts: dict[str, object]) -> None:
    for name, path in (("files", "/"), ("files", "/reports/week-20"), ("printer", "/status"), ("camera-door", "/view")):
        host = hosts[name].address  # type: ignore[attr-defined]
        connection = http.client.HTTPConnection(host, timeout=3)
        headers = {"Host": f"{name}.office.example", "User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}
        if name == "camera-door":
            headers["Authorization"] = "Basic cm9vdDpwYXNz"  # root:pass, which no report may show
        connection.request("GET", path, headers=headers)
        connection.getresponse().read()
        connection.close()


def _encrypted(hosts: dict[str, object]) -> None:
    for name, version in (("files", ssl.TLSVersion.TLSv1_3), ("camera-door", ssl.TLSVersion.TLSv1_2)):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = version
        address = hosts[name].address  # type: ignore[attr-defined]
        with (
            socket.create_connection((address, 443), 3) as plain,
            context.wrap_socket(plain, server_hostname=f"{name}.office.example") as inside,
        ):
            inside.sendall(b"GET / HTTP/1.0\r\n\r\n")
            inside.recv(4096)


def _logins(hosts: dict[str, object]) -> None:
    address = hosts["files"].address  # type: ignore[attr-defined]
    for _ in range(2):
        options = "BatchMode=yes StrictHostKeyChecking=no UserKnownHostsFile=/dev/null IdentityFile=/dev/null ConnectTimeout=3"
        words = [word for option in options.split() for word in ("-o", option)]
        argv = ["ssh", "-F", "/dev/null", *words, f"backup@{address}", "true"]
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)


def _files(hosts: dict[str, object]) -> None:
    address = hosts["files"].address  # type: ignore[attr-defined]
    # It takes three seconds to refuse a login.
    with ftplib.FTP(address, timeout=10) as client, contextlib.suppress(ftplib.error_perm):
        client.login("backup", "guess")
    with ftplib.FTP(address, timeout=10) as client:
        client.login("backup", "correct-horse")
        client.storbinary("STOR core-sw1.cfg", io.BytesIO(b"hostname core-sw1\n" * 200))
        client.retrlines("LIST", lambda line: None)


def _mails(hosts: dict[str, object]) -> None:
    text = "From: noc@office.example\r\nTo: ops@office.example\r\nSubject: Backup done\r\n\r\ncore-sw1 in 12 s\r\n"
    with smtplib.SMTP(hosts["mail"].address, 25, "desk-1.office.example", timeout=3) as client:  # type: ignore[attr-defined]
        client.sendmail("noc@office.example", ["ops@office.example", "gone@office.example"], text)


def _unanswered(hosts: dict[str, object]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in (123, 123, 514):
            sender.sendto(b"anybody there?", (hosts["printer"].address, port))  # type: ignore[attr-defined]
    with contextlib.suppress(OSError):
        socket.create_connection((hosts["printer"].address, 8080), 2).close()  # type: ignore[attr-defined]


# --- the terminal ----------------------------------------------------------------------------------------------------


def _run(stack: Stack, words: list[str]) -> tuple[int, str]:
    """Run a command in a terminal of its own; return its exit status and what stands there then, the lines about progress left out."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(
        stack.command(*words),
        env={**stack.env, "PYTHONPATH": str(Path.cwd()), "TERM": "xterm"},
        cwd=stack._folder.name,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    said = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: the command has closed the terminal
            while data := os.read(ours, 65536):
                said.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        _, complaints = process.communicate(timeout=COMMAND_SECONDS)
    finally:
        process.kill()
        process.wait()
    reader.join()
    os.close(ours)
    output = _ESCAPES.sub("", said.decode()).replace("\r\n", "\n")
    output = "\n".join(line.rstrip() for line in output.splitlines()).strip("\n")
    if process.returncode != 0:
        complaint = complaints.decode()
        output = "\n".join(part for part in (output, complaint[complaint.find("signalbox:") :].rstrip()) if part)
    return process.returncode, output
