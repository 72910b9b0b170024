"""Nothing secret anywhere: secrets planted in blocks are looked for in all that the stack writes, databases and files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from lab.authority import Authority
from lab.http_endpoints import HttpEndpoint, Received, Reply, closed_port
from lab.mail_server import MailServerLab
from lab.stack import Stack
from psycopg2 import sql

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults"), pytest.mark.timeout(600)]

PLANTED = {
    "path": "pathSecret7f3a91",
    "query": "querySecret52bb08",
    "header": "headerSecret9c1d44",
    "signing": "signingSecret0e77aa",
    "password": "passwordSecret6b2f10",
    "wrong password": "wrongSecret3d95ce",
    "proxy": "proxySecret81a6f2",
}


class Echo(HttpEndpoint):
    """Says no, and repeats what it was asked: the path, the query, the credentials."""

    def judge(self, request: Received) -> Reply:
        said = f"no such hook {request.target} for {request.headers.get('authorization', 'nobody')}"
        return Reply(400, json.dumps({"error": said}), {"Content-Type": "application/json", "X-Asked": request.target})


class Content(HttpEndpoint):
    """Takes everything, with the word each kind of receiver uses."""

    def judge(self, request: Received) -> Reply:
        return Reply(200, "ok")


@dataclass
class Planted:
    """Blocks full of secrets, by what happens to messages sent through them."""

    good: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    mail: MailServerLab | None = None
    content: Content | None = None


@pytest.fixture(scope="module")
def planted(stack: Stack) -> Iterator[Planted]:
    authority = Authority()
    found = Planted()
    with ExitStack() as open_servers:
        echo, content = open_servers.enter_context(Echo()), open_servers.enter_context(Content())
        users = {"noc": PLANTED["password"]}
        mail = open_servers.enter_context(MailServerLab(tls=authority.server(), mode="starttls", users=users))
        found.mail, found.content = mail, content
        origins = {"good": content.origin, "echo": echo.origin, "closed": f"http://127.0.0.1:{closed_port()}"}
        for short in ("slack", "teams", "webhook"):
            for kind, origin in origins.items():
                words = ["--url", f"{origin}/services/{PLANTED['path']}?sig={PLANTED['query']}"]
                if short == "webhook":
                    headers = {"Authorization": f"Bearer {PLANTED['header']}"}
                    words += ["--headers", json.dumps(headers), "--signing-secret", PLANTED["signing"]]
                if kind == "closed":
                    words += ["--proxy", f"http://me:{PLANTED['proxy']}@127.0.0.1:{closed_port()}"]
                create(stack, f"{short}/secret-{kind}", *words)
                (found.good if kind == "good" else found.bad).append(f"{short}/secret-{kind}")
        for kind, password, port in (
            ("good", PLANTED["password"], mail.port),
            ("wrong", PLANTED["wrong password"], mail.port),
            ("closed", PLANTED["password"], closed_port()),
        ):
            login = {"username": "noc", "password": password}
            server = {"smtp_server": "127.0.0.1", "smtp_port": port, "smtp_type": "STARTTLS", **login}
            words = ["--server", json.dumps(server), "--sender", "noc@example.com", "--default-to", "ops@example.com"]
            create(stack, f"mail/secret-{kind}", *words, "--ca", authority.pem)
            (found.good if kind == "good" else found.bad).append(f"mail/secret-{kind}")
        yield found
        for name in found.good + found.bad:
            stack.cli("block", "delete", name)


def create(stack: Stack, name: str, *words: str) -> None:
    done = stack.cli("block", "create", name, *words, "--overwrite")
    assert done.returncode == 0, done.stderr
    assert_clean({"block create": done.stdout + done.stderr})


def assert_clean(texts: dict[str, str]) -> None:
    """No planted secret is in any of the texts."""
    hits = [
        f"the {what} in {place}: ...{text[max(0, text.index(secret) - 200) : text.index(secret) + 60]}..."
        for place, text in texts.items()
        for what, secret in PLANTED.items()
        if secret in text
    ]
    assert not hits, "\n".join(hits)


def everything_in(url: str) -> dict[str, str]:
    """Every row of every table of a database, as text, by table."""
    texts = {}
    connection = psycopg2.connect(url.replace("+asyncpg", "").replace("+psycopg2", ""), connect_timeout=5)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT table_schema, table_name FROM information_schema.tables"
                " WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
            )
            for schema, table in cursor.fetchall():
                cursor.execute(sql.SQL("SELECT row::text FROM {} AS row").format(sql.Identifier(schema, table)))
                texts[f"table {schema}.{table}"] = "\n".join(row[0] for row in cursor)
    finally:
        connection.close()
    return texts


def everything_written(stack: Stack) -> dict[str, str]:
    """Both databases, and every file of the home but PostgreSQL's own and the secrets' folder."""
    texts = {}
    for role in ("owner", "prefect"):
        texts |= everything_in((stack.home / "secrets" / f"database-url-{role}").read_text().strip())
    for file in stack.home.rglob("*"):
        if file.is_file() and file.relative_to(stack.home).parts[0] not in {"postgres", "secrets", "run"}:
            texts[str(file)] = file.read_bytes().decode(errors="replace")
    return texts


PARAMETERS: dict[str, dict[str, Any]] = {
    "slack": {"text": "hello"},
    "teams": {"title": "hello", "text": "hello"},
    "webhook": {"json_body": {"hello": 1}},
    "mail": {"to": ["ops@example.com"], "subject": "hello", "text": "hello"},
}


def call(name: str) -> tuple[str, dict[str, Any]]:
    """The tool that sends through a block, and its parameters."""
    short = name.partition("/")[0]
    return (
        ("sendmail", {"server": name, **PARAMETERS["mail"]})
        if short == "mail"
        else (short, {"endpoint": name, **PARAMETERS[short]})
    )


def test_no_planted_secret_is_in_anything_that_is_written(stack: Stack, planted: Planted) -> None:
    said: dict[str, str] = {}
    # Each tool through each of its blocks, by the worker.
    runs = {
        name: stack.start(f"run-tool/{call(name)[0]}", {"params": call(name)[1]}) for name in planted.good + planted.bad
    }
    for name, run in runs.items():
        final = stack.wait_for_run(run["id"], 240)
        expected = "COMPLETED" if name in planted.good else "FAILED"
        assert final["state_type"] == expected, (name, final["state"]["message"], stack.run_logs(run["id"]))

    # The main job tells all of them, and says which it could not tell.
    everyone = planted.good + planted.bad
    done = stack.run_to_end("discover/on-demand", discovery(everyone), timeout=300)
    assert done["state_type"] == "COMPLETED", stack.run_logs(done["id"])
    said["artifacts of the discovery"] = json.dumps(stack.artifacts(done["id"]))

    # The same on the command line, where errors are told in words.
    for name in ("webhook/secret-echo", "mail/secret-wrong", "slack/secret-closed"):
        tool, params = call(name)
        words = [
            f"--{key.replace('_', '-')}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in params.items()
        ]
        words = [word.replace('--to=["', "--to=").replace('"]', "") for word in words]
        failed = stack.cli("tool", "run", tool, *words, timeout=240, env={"SIGNALBOX_LOG_LEVEL": "INFO"})
        assert failed.returncode in {1, 4}, (name, failed.stderr)
        said[f"tool run {name}"] = failed.stdout + failed.stderr
    notify = [word for name in ("webhook/secret-good", "slack/secret-closed") for word in ("--notify", name)]
    partly = stack.cli("discover", "127.0.0.1", "--profile", "quick", "--always", *notify, timeout=240)
    assert partly.returncode == 1 and "slack/secret-closed was not told" in partly.stdout, (
        partly.stdout,
        partly.stderr,
    )
    said["discover"] = partly.stdout + partly.stderr
    for words in (["block", "list", "--json"], ["policy", "show", "--json"], ["status"], ["doctor"]):
        shown = stack.cli(*words)
        said[" ".join(words)] = shown.stdout + shown.stderr

    # Alarms: the flow's, and the server's own.
    done_text = stack.cli(
        "policy", "alert-to", "webhook/secret-good", "slack/secret-good", "teams/secret-closed", "mail/secret-wrong"
    )
    said["alert-to"] = done_text.stdout + done_text.stderr
    try:
        refused = stack.run_to_end("run-tool/ping", {"params": {"targets": ["10.255.9.9"]}})
        crashed = crash(stack)
        assert planted.content is not None
        for run_id in (refused["id"], crashed):
            stack.eventually(lambda run_id=run_id: heard(planted, run_id), 90)
        query = {
            "flows": {"name": {"any_": ["alert"]}},
            "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED"]}}},
        }
        stack.eventually(lambda: not stack.api("POST", "/flow_runs/filter", query), 120)
    finally:
        stack.cli("policy", "alert-to")

    # Events reach their table a little later: when that of the last run is there, those before it are.
    last = stack.run_to_end("run-tool/ping", {"params": {"targets": ["127.0.0.1"], "count": 1}})
    url = (stack.home / "secrets" / "database-url-prefect").read_text().strip()
    stack.eventually(lambda: f"prefect.flow-run.{last['id']}" in everything_in(url).get("table public.events", ""), 60)

    written = everything_written(stack)
    assert "table public.block_document" in written and "table public.tool_run_event" in written
    assert sum("hello" in text for text in written.values()) >= 2, (
        "what was sent is nowhere: the test looks in the wrong place"
    )
    assert_clean(said | written)


def discovery(notify: list[str]) -> dict[str, Any]:
    return {"targets": ["127.0.0.1"], "profile": "quick", "notify": notify, "notify_when": "always"}


def crash(stack: Stack) -> str:
    """A run that is marked crashed: the server's own webhook tells of it."""
    flow = stack.api("POST", "/flows/", {"name": "run-tool"})["id"]
    run = stack.api("POST", "/flow_runs/", {"flow_id": flow, "tags": ["signalbox"], "state": {"type": "PENDING"}})["id"]
    for state in ("RUNNING", "CRASHED"):
        assert stack.api("POST", f"/flow_runs/{run}/set_state", {"state": {"type": state}})["status"] == "ACCEPT"
    return str(run)


def heard(planted: Planted, run_id: str) -> bool:
    assert planted.content is not None
    return any(run_id in request.body.decode() for request in list(planted.content.requests))


def test_secrets_of_the_stack_itself_are_in_its_secrets_folder_alone(stack: Stack) -> None:
    own: dict[str, str] = {}
    for file in (stack.home / "secrets").iterdir():
        assert file.stat().st_mode & 0o077 == 0, f"{file.name} is readable by others"
        text = file.read_text().strip()
        own[file.name] = (
            text.partition("://")[2].partition("@")[0].rpartition(":")[2] if "://" in text else text.rpartition(":")[2]
        )
    assert len(own) >= 4 and all(len(secret) >= 16 for secret in own.values()), list(own)
    # Prefect hands a flow's process its settings in a temporary file: for this user alone, and gone with the next start.
    assert (stack.home / "tmp").stat().st_mode & 0o077 == 0
    written = {
        place: text for place, text in everything_written(stack).items() if not place.startswith(f"{stack.home}/tmp/")
    }
    assert not [
        f"{name} in {place}" for name, secret in own.items() for place, text in written.items() if secret in text
    ]
    assert Path(stack.home / "secrets").stat().st_mode & 0o077 == 0
