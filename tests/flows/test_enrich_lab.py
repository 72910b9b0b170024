"""`discover` asks live hosts who they are: SNMP, certificates, host keys and front pages of a lab, in a whole signalbox."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import pytest
from lab.authority import Authority
from lab.network import DELL, Lab, http, needs_lab
from lab.snmp_agent import COMMUNITY, SnmpAgent, chassis, needs_snmpd
from lab.ssh_server import SshServer, needs_sshd
from lab.stack import Stack

from deployments.demo.servers import https

pytestmark = [
    pytest.mark.lab, needs_lab, needs_snmpd, needs_sshd, pytest.mark.slow, pytest.mark.xdist_group("lab"), pytest.mark.timeout(600),
]  # fmt: skip

SECONDS = 240.0
_sites = count(1)

MAKE_SITE = """
import asyncio, json, sys
from blocks.policy import ProbePolicy
from blocks.snmp import SnmpCredentials
from tasks.core.rate import ensure_budget
name, fields, community = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
async def main():
    policy = ProbePolicy(**fields)
    await policy.save(name, overwrite=True)
    await ensure_budget(name, policy.packets_per_second)
    await SnmpCredentials(community=community).save(name, overwrite=True)
    await SnmpCredentials(community="another-one").save(name + "-wrong", overwrite=True)
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def office(stack: Stack) -> AsyncIterator[tuple[Lab, str]]:
    """A lab with a router in two subnets that has an agent, and a site with credentials for it."""
    async with Lab(subnets=("office", "cameras")) as lab:
        site = f"say-{os.getpid()}-{next(_sites)}"
        fields = {"allow": [f"10.{lab.slot}.0.0/16"], "packets_per_second": 20_000, "host_packets_per_second": 0}
        done = await asyncio.to_thread(stack.python, "-c", MAKE_SITE, site, json.dumps(fields), COMMUNITY)
        assert done.returncode == 0, done.stderr
        yield lab, site


async def discover(stack: Stack, *arguments: str, status: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = await asyncio.to_thread(
        stack.cli_json, "discover", *arguments, timeout=SECONDS, status=status
    )
    return found


async def test_hosts_say_who_they_are_and_a_routers_addresses_become_one_asset(stack: Stack) -> None:
    async with office(stack) as (lab, site):
        secure = https(Authority().server("intranet.example.com"), title="Intranet over TLS")
        await lab.add("web", 10, f"{DELL}:00:00:10", services=[http(title="Intranet"), secure])
        server = await lab.add("server", 11, f"{DELL}:00:00:11")
        router = lab._namespace("router")
        agent = SnmpAgent(
            address="0.0.0.0", port=161, namespace=router, name="gw-1", objects=chassis("FOC1234X0AB"), own_tables=True
        )
        gateways = [subnet.gateway for subnet in lab.subnets.values()]
        with agent, SshServer(kinds=["ed25519"], address=server.address, port=22, namespace=server.namespace) as sshd:
            nets = [subnet.cidr for subnet in lab.subnets.values()]
            result = await discover(stack, *nets, "--site", site, "--snmp", f"snmp/{site}")

            def asset(address: str) -> dict[str, Any]:
                (row,) = stack.sql(
                    "SELECT a.id, a.hostname, a.vendor, a.serial, a.model, a.firmware, a.location, a.metadata FROM asset a "
                    "JOIN site ON site.id = a.site_id JOIN address ON address.asset_id = a.id "
                    "WHERE site.name = %s AND address.ip = %s",
                    [site, address],
                )
                names = ("id", "hostname", "vendor", "serial", "model", "firmware", "location", "metadata")
                return dict(zip(names, row, strict=True))

            first, second = (asset(gateway) for gateway in gateways)
            assert first["id"] == second["id"], "one payload accounts for both addresses"
            assert (first["hostname"], first["serial"], first["model"]) == ("gw-1", "FOC1234X0AB", "WS-C2960")
            assert first["vendor"].startswith("Cisco") and first["location"] == "rack 7"
            kinds = stack.sql(
                "SELECT kind, value FROM asset_identifier WHERE asset_id = %s AND strength = 'strong'", [first["id"]]
            )
            assert ("serial", "cisco:foc1234x0ab") in kinds

            web = asset(lab.hosts["web"].address)["metadata"]
            assert web["http_title"] == "Intranet over TLS" and web["http_server"] == "nginx/1.24.0"
            assert web["tls_names"] == "intranet.example.com" and len(web["tls_sha256"]) == 64

            keys = stack.sql(
                "SELECT value FROM asset_identifier WHERE asset_id = %s AND kind = 'ssh_host_key'",
                [asset(server.address)["id"]],
            )
            assert keys == [(sshd.fingerprints["ed25519"],)]
            assert result["outcome"] == "Completed" and not any("SNMP" in note for note in result["notes"])

            tools = {name for (name,) in stack.sql("SELECT DISTINCT tool FROM tool_run WHERE site = %s", [site])}
            assert {"service_identity", "snmp_query"} <= tools
            text = json.dumps(
                stack.sql("SELECT params::text, result::text FROM tool_run_event WHERE site = %s", [site])
            )
            assert COMMUNITY not in text and COMMUNITY not in json.dumps(result)

            again = await discover(stack, *nets, "--site", site, "--snmp", f"snmp/{site}")
            assert again["events"] == [], "nothing changed, and nothing is told"


async def test_without_credentials_snmp_is_not_spoken_and_wrong_ones_do_no_harm(stack: Stack) -> None:
    async with office(stack) as (lab, site):
        router = lab._namespace("router")
        with SnmpAgent(address="0.0.0.0", port=161, namespace=router, own_tables=True):
            async with lab.counting("udp port 161") as asked:
                result = await discover(stack, lab.first.cidr, "--site", site)
            assert asked.total == 0 and result["outcome"] == "Completed"
            result = await discover(stack, lab.first.cidr, "--site", site, "--snmp", f"snmp/{site}-wrong")
            assert result["outcome"] == "Completed" and lab.first.gateway in {
                host["address"] for host in result["hosts"]
            }
            (said,) = [note for note in result["notes"] if "does not fit" in note]
            assert said.startswith(f"{lab.first.gateway}: snmp/{site}-wrong") and "community" in said
            done = await asyncio.to_thread(stack.cli, "discover", lab.first.cidr, "--site", site, "--snmp", "snmp/none")
            assert done.returncode == 2 and "snmp/none" in done.stderr
            quick = ["--profile", "quick", "--snmp", f"snmp/{site}"]
            async with lab.counting("udp port 161") as asked:
                await discover(stack, lab.first.cidr, "--site", site, *quick)
            assert asked.total == 0
