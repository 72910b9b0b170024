"""The environment variables that make a process belong to this stack, and only to this one.

The user's own Prefect profile (`~/.prefect`) is neither read nor written: every process of the stack, and whoever runs
`eval $(signalbox env)`, has `PREFECT_HOME` and the profiles file inside the signalbox home.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from deployments.local import ui
from deployments.local.errors import StackError
from deployments.local.home import Home

POOL = "signalbox"
QUEUES = ("automation", "communication", "asset", "network")
DEFAULT_PORT = 4200
MARK = "SIGNALBOX_STACK"
"""Variable that every process of one run of the stack inherits; its value is random."""
EMBEDDED_API = "SIGNALBOX_EMBEDDED_API_URL"
"""Set by `signalbox env` beside PREFECT_API_URL, so that a later `up` in that shell does not take its own server for a foreign one."""
PROFILE = "signalbox"
UI_PATH = "/v2"
"""Where the embedded server's UI lives, below its address."""


def external_database() -> str | None:
    """Return the address of the PostgreSQL to use instead of the embedded one, when the environment names one."""
    return os.environ.get("SIGNALBOX_DATABASE_URL") or None


def external_api(home: Home) -> str | None:
    """Return the address of the Prefect API to use instead of the embedded server, when the environment names one."""
    url = os.environ.get("PREFECT_API_URL") or None
    if url is None or url == os.environ.get(EMBEDDED_API) or url == _recorded_api(home):
        return None
    return url.rstrip("/")


def environment(home: Path) -> dict[str, str]:
    """Return what a process needs to talk to this stack. Never imports Prefect.

    Args:
        home: The signalbox home.

    Raises:
        StackError: There is no stack in this home and no external Prefect is named.
    """
    place = Home(home)
    result = {
        "SIGNALBOX_HOME": str(place.folder),
        "PREFECT_HOME": str(place.prefect),
        "PREFECT_PROFILES_PATH": str(place.prefect / "profiles.toml"),
        "PREFECT_PROFILE": PROFILE,
        # A dead flow process together with its worker shows by its missing heartbeats only. Bootstrap's automation waits for three, in
        # runs that a command started as well: with Prefect's own 180 s it would take those for dead.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        **_QUIET,
    }
    api = external_api(place)
    if api is not None:
        result["PREFECT_API_URL"] = api
        for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "PREFECT_UI_URL"):
            if value := os.environ.get(name):
                result[name] = value
    else:
        api = _recorded_api(place)
        if api is None:
            raise StackError(f"There is no signalbox in {place.folder}.", "Start one with: signalbox up")
        result["PREFECT_API_URL"] = result[EMBEDDED_API] = api
        result["PREFECT_API_AUTH_STRING"] = auth_string(place)
        # Prefect 3.8 serves two UIs; the older one loses the way to a page when it asks for the password first.
        result["PREFECT_UI_URL"] = api.removesuffix("/api") + UI_PATH
    if (database := external_database()) is not None:
        result["SIGNALBOX_DATABASE_URL"] = database
    if (downloads := downloads_url(place)) is not None:
        result["SIGNALBOX_DOWNLOADS_URL"] = downloads
    return result


def child_environment(home: Home, mark: str) -> dict[str, str]:
    """Return the whole environment of a process of the stack: the client's, without any other Prefect setting of the user."""
    foreign = re.compile(r"^(PREFECT_|PG|PYTHONDONTWRITEBYTECODE$|PYTHONHOME$|NOTIFY_SOCKET$|VIRTUAL_ENV$)")
    kept = {name: value for name, value in os.environ.items() if not foreign.match(name)}
    if external_api(home) is not None:
        kept |= {name: value for name, value in os.environ.items() if name.startswith("PREFECT_CLIENT_CUSTOM_HEADERS")}
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != root)]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {
        **kept,
        **environment(home.folder),
        "PATH": programs if "/usr/sbin" in programs else f"{programs}{os.pathsep}/usr/sbin{os.pathsep}/sbin",
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "NO_COLOR": "1",
        # Prefect's workers of all users share /tmp/runner_storage, which belongs to the first; and what a killed run leaves goes with
        # the next start.
        "TMPDIR": str(home.temporary),
        # Two seconds between a flow run's creation and its start instead of eleven.
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        MARK: mark,
    }


_QUIET = {
    "DO_NOT_TRACK": "1",
    # Without a server Prefect would quietly start one of its own, on SQLite.
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
"""Nothing leaves the machine that nobody asked for."""


def server_environment(home: Home, mark: str, database_url: str, port: int) -> dict[str, str]:
    """Return the whole environment of the Prefect server.

    Args:
        home: The signalbox home.
        mark: This run's mark.
        database_url: PostgreSQL for Prefect, `postgresql+asyncpg://`.
        port: Port on 127.0.0.1.
    """
    origins = f"http://127.0.0.1:{port},http://localhost:{port}"
    return {
        **child_environment(home, mark),
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": auth_string(home),
        "PREFECT_SERVER_ENCRYPTION_KEY": encryption_key(home),
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": origins,
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database_url,
        "PREFECT_UI_STATIC_DIRECTORY": str(home.prefect / ui.FOLDER),
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Runs that wait for a deployment's slot look again after two seconds instead of thirty.
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        "PREFECT_SERVER_TASKS_TAG_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        # On disk, in PREFECT_HOME: with leases in memory (the default) a restart leaves the slots held until then taken for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # About 20 KB of events per task run: kept for a week, finished runs for 90 days; the ledger keeps what must stay.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_APPLICATION_NAME": "prefect-server",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        **_schema_of(database_url),
    }


def prefect_database_url(home: Home) -> str:
    """Return the address of the server's database: the one named for it, else the external one's, else the embedded one's."""
    for name in ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL"):
        if url := os.environ.get(name):
            return url
    external = external_database()
    if external is not None:
        return to_asyncpg(external)
    return (home.secrets / "database-url-prefect").read_text().strip()


def to_asyncpg(url: str) -> str:
    """Rewrite a libpq-style address for asyncpg, which calls `sslmode` `ssl` and knows nothing of libpq's other options.

    >>> to_asyncpg("postgresql://u:p@db.example/name?sslmode=require&connect_timeout=5")
    'postgresql+asyncpg://u:p@db.example/name?ssl=require'
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    kept = {
        "ssl" if name == "sslmode" else name: value
        for name, value in options.items()
        if name in ("sslmode", "ssl", "host")
    }
    return urlunsplit(("postgresql+asyncpg", parts.netloc, parts.path, urlencode(kept, quote_via=quote, safe="/"), ""))


def _schema_of(database_url: str) -> dict[str, str]:
    # In a database that is shared with the inventory, Prefect's forty tables live in a schema of their own.
    external = external_database()
    if external is None or database_url != to_asyncpg(external):
        return {}
    return {"PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_SEARCH_PATH": "prefect,public"}


def auth_string(home: Home) -> str:
    """Return the one login of the embedded Prefect API and UI, `user:password`; made on first use."""
    file = home.secrets / "prefect-auth-string"
    with suppress(FileNotFoundError):
        if text := file.read_text().strip():
            return text
    text = f"signalbox:{secrets.token_urlsafe(24)}"
    home.write_private(file, text)
    return text


def encryption_key(home: Home) -> str:
    """Return the key that encrypts the secrets in blocks; without one Prefect keeps it in the same database. Made on first use."""
    file = home.secrets / "prefect-encryption-key"
    with suppress(FileNotFoundError):
        if text := file.read_text().strip():
            return text
    text = base64.urlsafe_b64encode(os.urandom(32)).decode()
    home.write_private(file, text)
    return text


def write_profile(home: Home) -> None:
    """Make the profiles file, so that Prefect never looks at the user's own."""
    file = home.prefect / "profiles.toml"
    if not file.exists():
        home.write_private(file, f'active = "{PROFILE}"\n\n[profiles.{PROFILE}]')


def record_endpoint(home: Home, port: int) -> str:
    """Write down where the embedded server answers and return its API's address."""
    url = f"http://127.0.0.1:{port}/api"
    home.write_private(home.endpoint, json.dumps({"port": port, "api_url": url}))
    return url


def recorded_port(home: Home) -> int | None:
    """Return the port of the last run, so that bookmarks and shells stay right."""
    return _record(home.endpoint).get("port")  # type: ignore[return-value]


def record_downloads(home: Home, port: int) -> str:
    """Write down where files of the capture store are handed out and return that address."""
    url = f"http://127.0.0.1:{port}"
    home.write_private(home.downloads, json.dumps({"port": port, "url": url}))
    return url


def recorded_downloads_port(home: Home) -> int | None:
    """Return the port of the last run, so that links on the pages of earlier runs stay right."""
    return _record(home.downloads).get("port")  # type: ignore[return-value]


def downloads_url(home: Home) -> str | None:
    """Return where files of the capture store are handed out; None before the first start."""
    return _record(home.downloads).get("url")  # type: ignore[return-value]


def downloads_login(home: Home) -> str:
    """Return the login of the downloads: the Prefect API's; one of this home's own where that has none a browser could give."""
    with suppress(StackError):
        text = environment(home.folder).get("PREFECT_API_AUTH_STRING", "")
        if ":" in text:
            return text
    return auth_string(home)


def _recorded_api(home: Home) -> str | None:
    return _record(home.endpoint).get("api_url")  # type: ignore[return-value]


def _record(file: Path) -> Mapping[str, object]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
