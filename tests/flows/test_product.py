"""The product, end to end: a network is discovered on a request to the API, its inventory kept, people told once, nights included."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
import xml.etree.ElementTree as ET
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from lab.authority import Authority
from lab.http_endpoints import WebhookSink
from lab.mail_server import MailServerLab
from lab.network import AXIS, CISCO, DELL, HEWLETT_PACKARD, SYNOLOGY, UBIQUITI, Lab, http, needs_lab, smtp, ssh
from lab.stack import Stack

from tasks.core.errors import NotFound

pytestmark = [
    pytest.mark.slow,
    pytest.mark.lab,
    needs_lab,
    pytest.mark.xdist_group("product"),
    pytest.mark.timeout(600),
]

SECRET = "hmac-secret-0815"
PASSWORD = "mail-password-4711"
ON_DEMAND, NIGHTLY = "discover/on-demand", "discover/nightly"


@dataclass
class Office:
    """A network that policy allows, and the people who are told about it."""

    stack: Stack
    lab: Lab
    loop: asyncio.Runner
    mail: MailServerLab
    hook: WebhookSink

    @property
    def networks(self) -> list[str]:
        return [subnet.cidr for subnet in self.lab.subnets.values()]

    def change(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something to the network."""
        return self.loop.run(work)

    def address(self, name: str) -> str:
        return self.lab.hosts[name].address

    def discover(self, **parameters: Any) -> Any:
        """Trigger the deployment over HTTP, as README does with curl, and wait for its run."""
        asked = {"targets": self.networks, "notify": ["mail/noc", "webhook/ops"], **parameters}
        return self.stack.run_to_end(ON_DEMAND, asked, timeout=240)

    def events(self, run: Any) -> set[tuple[Any, ...]]:
        """What a run wrote down and people hear of; whatever other labs of this machine do to its own addresses is not it."""
        return set(
            self.stack.sql(
                "SELECT kind, subject, host(ip), field, baseline FROM asset_event WHERE run_id = %s AND NOT quiet",
                (run["id"],),
            )
        )

    def mails(self) -> list[tuple[str, str]]:
        """Subject and text of the mails so far."""
        return [(str(m["Subject"]), m.get_body(("plain",)).get_content()) for m in self.mail.messages]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A signalbox of its own: its inventory is empty, while labs of other tests share addresses and left theirs in the common one."""
    with Stack() as running:
        yield running


@pytest.fixture(scope="module")
def office(stack: Stack) -> Iterator[Office]:
    authority = Authority()
    with (
        asyncio.Runner() as loop,
        MailServerLab(tls=authority.server(), mode="starttls", users={"noc": PASSWORD}) as mail,
        WebhookSink(secret=SECRET) as hook,
    ):
        lab = loop.run(Lab(("office", "cameras")).__aenter__())
        try:
            place = Office(stack, lab, loop, mail, hook)
            # Laboratory numbers: the budget and its cap per host have tests of their own.
            for arguments in (["allow", *place.networks], ["rate", "20000", "--host", "0"]):
                done = stack.cli("policy", *arguments)
                assert done.returncode == 0, done.stderr
            _make_blocks(place, authority)
            yield place
            stack.cli("policy", "allow", "--remove", *place.networks)
        finally:
            loop.run(lab.__aexit__(None, None, None))


def _make_blocks(office: Office, authority: Authority) -> None:
    server = {"smtp_server": "127.0.0.1", "smtp_port": office.mail.port, "smtp_type": "STARTTLS", "username": "noc"}
    mail = ["--server", json.dumps(server | {"password": PASSWORD}), "--sender", "NOC <noc@example.com>"]
    mail += ["--default-to", "ops@example.com", "--ca", authority.pem]
    for arguments, stdin in (
        (["mail/noc", *mail], ""),
        # Secrets come on standard input, out of the shell's history.
        (["webhook/ops", "--url", "-", "--signing-secret", "-"], f"{office.hook.url}\n{SECRET}\n"),
    ):
        done = office.stack.cli("block", "create", *arguments, "--overwrite", stdin=stdin)
        assert done.returncode == 0, done.stderr


def test_a_network_is_discovered_kept_and_told_about_once(office: Office) -> None:
    stack, lab = office.stack, office.lab
    office.change(lab.add("web", 10, f"{DELL}:00:00:10", services=[http(title="Intranet")]))
    office.change(lab.add("nas", 11, f"{SYNOLOGY}:00:00:11", services=[ssh(), http(5000, title="NAS")]))
    office.change(lab.add("printer", 12, f"{HEWLETT_PACKARD}:00:00:12", services=[http(title="LaserJet")]))
    office.change(lab.add("mailer", 13, f"{DELL}:00:00:13", services=[smtp(name="mx.office.test")]))
    office.change(lab.add("spare", 14, f"{DELL}:00:00:14", services=[ssh()]))
    office.change(lab.add("cam", 21, f"{AXIS}:00:00:21", subnet="cameras", services=[http(title="Camera")]))
    stack.names.update({f"{name}.office.test": office.address(name) for name in ("web", "nas", "cam")})
    where = {name: host.address for name, host in lab.hosts.items()}
    gateway = lab.first.gateway

    # --- the first look: everything is found, nothing of it is news
    first = office.discover()
    assert first["state"]["type"] == "COMPLETED" and first["state_name"] == "Completed", stack.run_logs(first["id"])
    assert first["state"]["message"].startswith("first look: ")
    names = {"web": "web.office.test", "nas": "nas.office.test", "cam": "cam.office.test", "mailer": "mx.office.test"}
    assets = {
        row[0]: row[1:]
        for row in stack.sql("SELECT host(primary_ip), hostname, mac::text, vendor, status FROM asset")
        if row[0] in {*where.values(), gateway}
    }
    assert {address: row[:2] for address, row in assets.items()} == {
        gateway: (None, f"{CISCO}:00:{lab.slot:02x}:01"),
        **{where[name]: (names.get(name), lab.hosts[name].mac) for name in where if name != "cam"},
        # Behind the router no MAC is seen: its name and its open port make it an asset.
        where["cam"]: (names["cam"], None),
    }
    assert {row[3] for row in assets.values()} == {"active"}
    assert assets[where["printer"]][2] == "Hewlett Packard" and assets[where["web"]][2] == "Dell"
    services = stack.sql("SELECT host(ip), protocol, port, name FROM service WHERE active ORDER BY ip, port")
    assert [row for row in services if row[0] in where.values()] == [
        (where["web"], "tcp", 80, "http"),
        (where["nas"], "tcp", 22, "ssh"),
        (where["nas"], "tcp", 5000, "http"),
        (where["printer"], "tcp", 80, "http"),
        (where["mailer"], "tcp", 25, "smtp"),
        (where["spare"], "tcp", 22, "ssh"),
        (where["cam"], "tcp", 80, "http"),
    ]
    assert {event[4] for event in office.events(first)} == {True}

    # --- what the run page has
    artifacts = stack.artifacts(first["id"])
    assert artifacts["discovery"]["type"] == "markdown" and artifacts["hosts"]["type"] == "table"
    assert artifacts["progress"]["data"] == 100.0
    summary = artifacts["discovery"]["data"]
    assert summary.startswith("## first look: ") and "512 addresses in scope, 512 scanned" in summary
    [picture] = re.findall(r"!\[Address space\]\(data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)\)", summary)
    assert ET.fromstring(base64.b64decode(picture)).tag.endswith("svg")
    table = {row["address"]: row for row in json.loads(artifacts["hosts"]["data"])}
    assert table[where["web"]]["name"] == "web.office.test" and table[where["web"]]["services"] == "80/tcp nginx 1.24.0"

    # --- who was told, once, and what
    [(subject, text)] = office.mails()
    assert office.mail.logins == ["noc"] and office.mail.encrypted == [True]
    assert office.mail.messages[0]["To"] == "ops@example.com"
    assert "first look" in subject and f"{where['web']}, web.office.test, Dell, 80/tcp nginx 1.24.0" in text
    page = f"{stack.env['PREFECT_UI_URL']}/runs/flow-run/{first['id']}"
    assert page in text
    [received] = office.hook.accepted.values()
    assert len(office.hook.requests) == 1
    assert received.json["event"] == "discovery" and received.json["url"].startswith(page)

    # --- the lab changes; declared as a network where one missed scan is enough
    _declare(office, missing_scans=1, missing_hours=0)
    office.change(lab.remove("mailer"))
    office.change(lab.move("nas", 31))
    office.change(lab.add("access-point", 40, f"{UBIQUITI}:00:00:40", services=[http(title="AP")]))
    office.change(lab.add_service("web", ssh()))
    office.change(lab.change_mac("spare", f"{CISCO}:aa:00:14"))
    stack.names["nas.office.test"] = office.address("nas")
    second = office.discover()
    assert second["state_name"] == "Completed", stack.run_logs(second["id"])
    spare = where["spare"]
    assert office.events(second) == {
        ("new", office.address("access-point"), office.address("access-point"), None, False),
        # Another MAC at the same address is another device; the one that was there goes missing.
        ("new", spare, spare, None, False),
        ("missing", spare, spare, None, False),
        ("missing", "mx.office.test", where["mailer"], None, False),
        ("ip_changed", "nas.office.test", office.address("nas"), "primary_ip", False),
        ("service_added", "web.office.test", where["web"], "tcp/22", False),
    }
    assert second["state"]["message"] == "2 new, 2 changed, 2 gone"
    rows = stack.sql("SELECT mac::text, host(primary_ip), status FROM asset WHERE mac IS NOT NULL")
    status = {mac: (address, state) for mac, address, state in rows}
    assert status[f"{SYNOLOGY}:00:00:11"] == (office.address("nas"), "active")
    assert status[f"{DELL}:00:00:13"][1] == status[f"{DELL}:00:00:14"][1] == "missing"
    assert status[f"{CISCO}:aa:00:14"] == (spare, "active")
    artifacts = stack.artifacts(second["id"])
    assert {"new", "changed", "missing", "hosts", "discovery"} <= set(artifacts)

    [_, (subject, text)] = office.mails()
    assert "2 new, 2 changed, 2 gone" in subject
    digest = text[: text.index("Scanned ")]
    for line in (
        f"  - {office.address('access-point')}: Ubiquiti Networks, {UBIQUITI}:00:00:40, tcp/80",
        f"  - nas.office.test moved: {where['nas']} -> {office.address('nas')}",
        "  - web.office.test: new service tcp/22 (OpenSSH 9.6p1 Ubuntu 3ubuntu13.5)",
        f"  - mx.office.test ({where['mailer']}) missing",
    ):
        assert line in digest.splitlines(), digest
    assert len(office.hook.requests) == 2

    # --- a preview after one more change says it and does nothing
    office.change(lab.remove("printer"))
    office.change(lab.add("laptop", 50, f"{DELL}:00:00:50", services=[ssh()]))
    before = _fingerprint(stack)
    preview = office.discover(preview=True)
    assert preview["state_name"] == "Completed" and preview["state"]["message"] == "1 new, 1 gone (preview)"
    said = stack.artifacts(preview["id"])["preview-discovery"]["data"]
    assert office.address("laptop") in said and "nothing was written to the inventory" in said
    assert _fingerprint(stack) == before
    assert len(office.mail.messages) == 2 and len(office.hook.requests) == 2

    # --- and a run that finds what is known already tells nobody
    office.change(lab.remove("laptop"))
    office.change(lab.add("printer", 12, f"{HEWLETT_PACKARD}:00:00:12", services=[http(title="LaserJet")]))
    quiet = office.discover(profile="quick")
    assert quiet["state"]["message"].startswith("nothing changed, "), office.events(quiet)
    assert len(office.mail.messages) == 2 and len(office.hook.requests) == 2


def _declare(office: Office, missing_scans: int, missing_hours: float) -> None:
    """Say what an operator knows of the office network, in the table the rules are read from."""
    office.stack.sql(
        "INSERT INTO subnet (site_id, prefix, missing_scans, missing_hours)"
        " SELECT id, %s::cidr, %s, %s FROM site WHERE name = 'default'",
        (office.networks[0], missing_scans, missing_hours),
    )


def _fingerprint(stack: Stack) -> list[tuple[Any, ...]]:
    """Everything the inventory holds, as one line a table."""
    tables = (
        "asset",
        "asset_identifier",
        "address",
        "service",
        "observation",
        "asset_event",
        "candidate",
        "scan_history",
    )
    return [stack.sql(f"SELECT md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM {table} t")[0] for table in tables]


# --- nights ------------------------------------------------------------------------------------------------------------


def _nightly(stack: Stack, **more: Any) -> list[Any]:
    asked = {
        "deployments": {"name": {"any_": ["nightly"]}},
        "flow_runs": more,
        "sort": "EXPECTED_START_TIME_ASC",
        "limit": 20,
    }
    found: list[Any] = stack.api("POST", "/flow_runs/filter", asked)
    return found


def _switch(stack: Stack) -> bool:
    [schedule] = [one for one in stack.deployment(NIGHTLY)["schedules"] if one["slug"] == "nightly"]
    return bool(schedule["active"])


def test_the_nightly_schedule_sleeps_until_a_network_is_allowed_and_then_gets_runs(office: Office) -> None:
    stack = office.stack
    assert _switch(stack)
    scheduled = stack.eventually(lambda: _nightly(stack, state={"type": {"any_": ["SCHEDULED"]}}), timeout=90)
    assert [run["expected_start_time"][11:16] for run in scheduled[:2]] == ["02:30", "02:30"]
    assert all(run["auto_scheduled"] for run in scheduled)

    stack.cli("policy", "allow", "--remove", *office.networks)
    assert not _switch(stack)
    assert "resumed" in stack.cli("policy", "allow", *office.networks).stdout
    assert _switch(stack)


def _job_template(stack: Stack) -> dict[str, Any]:
    template = stack.api("GET", "/work_pools/signalbox")["base_job_template"]
    assert isinstance(template, dict)
    return template


def test_a_new_version_leaves_what_an_operator_switched_and_starts_runs_in_one_process(office: Office) -> None:
    stack = office.stack
    assert _switch(stack)
    template = _job_template(stack)
    command = template["variables"]["properties"]["command"]
    assert command["default"] == "python -m prefect.engine"
    for before, after in ((None, "python -m prefect.engine"), ("nice python -m prefect.engine",) * 2):
        command["default"] = before
        stack.api("PATCH", "/work_pools/signalbox", {"base_job_template": template})
        done = stack.python("-m", "deployments.bootstrap", "--force")
        assert done.returncode == 0, done.stderr
        assert _job_template(stack)["variables"]["properties"]["command"]["default"] == after
    assert _switch(stack)
    command["default"] = "python -m prefect.engine"
    stack.api("PATCH", "/work_pools/signalbox", {"base_job_template": template})


def test_deployments_that_prefect_refuses_are_said_in_one_sentence(office: Office, tmp_path: Path) -> None:
    broken = tmp_path / "prefect.yaml"
    broken.write_text(
        "deployments:\n- name: broken\n  entrypoint: flows.nothing.nothing\n  work_pool: {name: nobody}\n"
    )
    program = (
        "import sys; from pathlib import Path; import deployments.bootstrap as bootstrap\n"
        "bootstrap.PREFECT_YAML = Path(sys.argv[1])\n"
        "bootstrap.main(['--force'])\n"
    )
    done = office.stack.python("-c", program, str(broken))
    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if line.strip()][-1]
    assert last.startswith("tasks.core.errors.CommandFailed: Prefect did not accept prefect.yaml."), done.stderr


def test_the_schedule_starts_a_discovery_by_itself(office: Office) -> None:
    stack = office.stack
    nightly = stack.deployment(NIGHTLY)["id"]
    # The server's scheduler looks once a minute: a time before its next look would be taken for tomorrow's.
    soon = datetime.now(UTC) + timedelta(seconds=80)
    schedule = {
        "active": True,
        "schedule": {"interval": 86400, "anchor_date": soon.isoformat()},
        "parameters": {"profile": "quick", "targets": office.networks[:1]},
    }
    [made] = stack.api("POST", f"/deployments/{nightly}/schedules", [schedule])
    try:
        started = {"type": {"any_": ["RUNNING", "COMPLETED", "FAILED"]}}
        [run] = stack.eventually(lambda: _nightly(stack, state=started), timeout=180)
        assert run["auto_scheduled"]
        run = stack.wait_for_run(run["id"])
        assert run["state_name"] == "Completed", stack.run_logs(run["id"])
        assert "discovery" in stack.artifacts(run["id"])
    finally:
        stack.api("DELETE", f"/deployments/{nightly}/schedules/{made['id']}")


def test_a_scheduled_run_that_is_late_is_skipped_and_says_so(office: Office) -> None:
    stack = office.stack
    nightly = stack.deployment(NIGHTLY)["id"]
    now = datetime.now(UTC)
    # What the server's scheduler made while no worker was there to start it: runs of the time before.
    missed = {
        "start_time": (now - timedelta(hours=25)).isoformat(),
        "end_time": (now - timedelta(minutes=20)).isoformat(),
    }
    stack.api("POST", f"/deployments/{nightly}/schedule", {**missed, "max_runs": 1})
    before = {"before_": (now - timedelta(minutes=16)).isoformat()}
    [late] = stack.eventually(lambda: _nightly(stack, expected_start_time=before), timeout=30)
    assert late["auto_scheduled"]
    late = stack.wait_for_run(late["id"])
    assert (late["state"]["type"], late["state"]["name"]) == ("CANCELLED", "SkippedLate"), late["state"]
    assert re.fullmatch(
        r"Should have started (\d+ hours? and )?\d+ minutes? ago; the next run does the work\.",
        late["state"]["message"],
    )
    assert stack.artifacts(late["id"]) == {}


# --- one tool, and bad input -----------------------------------------------------------------------------------------


def test_a_tool_runs_on_a_request_to_the_api(office: Office) -> None:
    run = office.stack.run_to_end("run-tool/ping", {"params": {"targets": [office.lab.first.gateway], "count": 2}})
    assert run["state_name"] == "Completed", run["state"]
    artifact = office.stack.artifacts(run["id"])["result-ping"]
    assert artifact["data"].startswith(f"## {office.lab.first.gateway} answered 2 of 2")


@pytest.mark.parametrize(
    ("deployment", "parameters", "said"),
    [
        ("run-tool/ping", {"params": {"targets": ["127.0.0.1"], "count": 0}}, ["params.count", "0", "minimum of 1"]),
        ("run-tool/ping", {"params": {"targets": "127.0.0.1"}}, ["params.targets", "127.0.0.1", "array"]),
        ("run-tool/ping", {"params": {}}, ["params", "targets", "required"]),
        ("run-tool/ping", {"params": {"targets": ["127.0.0.1"], "cuont": 3}}, ["params", "cuont"]),
        ("run-tool/nmap", {"params": {"targets": ["127.0.0.1"], "profile": "all"}}, ["params.profile", "all", "sweep"]),
        (ON_DEMAND, {"targets": "10.0.0.0/24"}, ["targets", "10.0.0.0/24"]),
        (ON_DEMAND, {"profile": "everything"}, ["profile", "everything", "standard"]),
        (ON_DEMAND, {"preview": "maybe"}, ["preview", "maybe", "boolean"]),
    ],
)
def test_the_api_refuses_wrong_parameters_and_names_the_field(
    stack: Stack, deployment: str, parameters: dict[str, Any], said: list[str]
) -> None:
    identity = stack.deployment(deployment)["id"]
    answer = stack.request("POST", f"/deployments/{identity}/create_flow_run", {"parameters": parameters})
    assert answer.status_code == 409
    for part in said:
        assert part in answer.json()["detail"]


BAD_INPUT: list[tuple[list[str], int, list[str]]] = [
    # arguments, exit status, what the message says: field, value, what is right
    (["discover", "10.0.0.0/33"], 2, ["targets: '10.0.0.0/33'", "right would be 192.168.1.0/24"]),
    (["discover", "10.9.1.7/24"], 2, ["targets: '10.9.1.7/24' has host bits set", "10.9.1.0/24"]),
    (["discover", "0.0.0.0/0"], 3, ["targets: 0.0.0.0/0", "name the networks you run"]),
    (["discover", "fd00::/64"], 3, ["targets: fd00::/64", "/116 and longer"]),
    (["discover", "10.0.0.0/12"], 3, ["targets: 10.0.0.0/12", "1,048,576 addresses", "4,096"]),
    (["discover", "nobody.office.invalid"], 4, ["targets: nobody.office.invalid does not resolve"]),
    (["discover", "198.51.100.0/24"], 3, ["targets: 198.51.100.0/24 is not allowed", "policy allow 198.51.100.0/24"]),
    (["discover", "--profile", "everything"], 2, ["everything", "--profile", '"quick", "standard", "deep"']),
    (["discover", "127.0.0.1", "--notify", "mail/nobody"], 2, ["notify", "mail/nobody", "block list"]),
    (["discover", "127.0.0.1", "--notify", "pigeon/x"], 2, ["notify", "pigeon/x", "slack/NAME"]),
    (["discover", "127.0.0.1", "--site", "nowhere"], 3, ["nowhere", "site add nowhere"]),
    (["tool", "run", "nmpa"], 2, ["nmpa", "Did you mean: nmap"]),
    (["tool", "run", "ping", "--target", "127.0.0.1", "--count", "0"], 2, ["count", "'0'", "tool show ping"]),
    (["tool", "run", "ping"], 2, ["targets", "required"]),
    (["tool", "run", "ping", "--target", "198.51.100.1"], 3, ["198.51.100.1 is not allowed", "policy allow"]),
    (["tool", "run", "ping", "--target", "nobody.office.invalid"], 4, ["nobody.office.invalid does not resolve"]),
]


def test_bad_input_names_the_field_the_value_and_what_is_right_before_any_packet(office: Office) -> None:
    stack = office.stack

    async def counted() -> tuple[int, list[Any]]:
        async with office.lab.counting() as sent:
            done = await asyncio.to_thread(ask)
        return sent.to.total() - sent.to["arp"], done

    def ask() -> list[Any]:
        with ThreadPoolExecutor(3) as pool:
            return list(pool.map(lambda case: stack.cli(*case[0]), BAD_INPUT))

    packets, outcomes = office.change(counted())
    for (arguments, status, said), done in zip(BAD_INPUT, outcomes, strict=True):
        assert done.returncode == status, (arguments, done)
        assert done.stdout == "" and "Traceback" not in done.stderr, (arguments, done)
        for part in said:
            assert part in done.stderr, (arguments, done.stderr)
    assert packets == 0


def test_what_the_api_cannot_see_fails_the_run_with_the_same_words(stack: Stack) -> None:
    cases = [
        ({"targets": []}, ["targets", "empty list", "leave targets out"]),
        ({"targets": ["999.0.0.1"]}, ["targets", "999.0.0.1"]),
        ({"targets": ["127.0.0.1"], "notify": ["mail/nobody"]}, ["notify", "mail/nobody"]),
    ]
    runs = [stack.start(ON_DEMAND, parameters) for parameters, _ in cases]
    for run, (_, said) in zip(runs, cases, strict=True):
        state = stack.wait_for_run(run["id"])["state"]
        assert state["type"] == "FAILED"
        for part in said:
            assert part in state["message"], state["message"]


# --- the command ------------------------------------------------------------------------------------------------------


def test_exit_status_and_json_are_what_scripts_rely_on(office: Office) -> None:
    stack, gateway = office.stack, office.lab.first.gateway
    for arguments in (
        ["tool", "run", "ping", "--target", gateway, "--count", "1"],
        ["discover", gateway, "--profile", "quick"],
        ["discover", gateway, "--dry-run"],
        ["policy", "show"],
        ["status"],
        ["tool", "list"],
        ["tool", "show", "nmap"],
        ["block", "list"],
        ["asset", "list"],
        ["site", "list"],
    ):
        assert stack.cli_json(*arguments) is not None  # status 0 and one JSON document, nothing else
    one = stack.cli_json("asset", "show", gateway)
    assert gateway in one["addresses"] and one["events"]
    assert f"Asset {one['id']}: " in stack.cli("asset", "show", str(one["id"])).stdout
    unknown = stack.cli("asset", "show", "nobody-here")
    assert unknown.returncode == NotFound.exit_status and "signalbox asset query" in unknown.stderr
    silent = str(office.lab.first.network[77])
    done = stack.cli("tool", "run", "ping", "--target", silent, "--count", "1", "--json")
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["hosts"][0]["received"] == 0
    begun = time.monotonic()
    failed = stack.cli("discover", silent, "--profile", "quick", "--json")
    assert failed.returncode in (0, 1) and json.loads(failed.stdout)["outcome"] in ("NoneAnswered", "Suspect")
    assert time.monotonic() - begun < 60
