"""The only way to the inventory database: short transactions in threads that can be abandoned.

psycopg2 blocks its thread. So every unit of work runs in a daemon thread (never joined: a process must be able to end while
a server is silent), has one connection and one deadline, and is stopped from outside by shutting its connection's socket
down. That wakes the thread at once, also when the server will never say another word, and a server that is well notices
within a second (`client_connection_check_interval`), ends the statement and rolls back.

Not `connection.cancel()`: psycopg2 holds the GIL while libpq sends the request and waits for the answer, so one silent server
stops the whole process, for ever (seen with psycopg2 2.9.13).
"""

from __future__ import annotations

import asyncio
import math
import os
import queue
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, Generic, TypeVar

import psycopg2
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, InvalidRequestError, OperationalError
from sqlalchemy.pool import QueuePool

from blocks.postgresql import CONNECT_TIMEOUT, connect_arguments
from tasks.core.errors import Busy, Conflict, DatabaseGone, NotFound, ToolError, Unauthorized
from tasks.core.settings import settings

T = TypeVar("T")

WORKERS = 8
"""Threads, and so connections, one process uses at most."""
ATTEMPTS = 4
"""How often a transaction is tried that lost a deadlock or a serialization race."""


class Database:
    """A PostgreSQL database, used from any number of event loops.

    Args:
        url: SQLAlchemy URL (`postgresql+psycopg2://...`).
        workers: Most transactions in flight at once; more wait their turn, within their deadlines.
        recycle: Seconds after which a connection is made anew; -1 for never, where the session itself holds something.
    """

    def __init__(self, url: str | URL, *, workers: int = WORKERS, recycle: int = 600) -> None:
        self._workers = _Workers(workers, self._perform)
        self._thread = threading.local()
        self._engine = self._make_engine(make_url(url), workers, recycle)

    def _make_engine(self, url: URL, connections: int, recycle: int) -> Engine:
        arguments = connect_arguments(application_name=f"signalbox {os.getpid()}")
        options = url.query.get("options")
        if options:
            arguments["options"] += " " + (options if isinstance(options, str) else " ".join(options))
        engine = create_engine(
            url,
            connect_args=arguments,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,  # a thread each: none ever waits for another's connection
            pool_use_lifo=True,
            pool_recycle=recycle,
            hide_parameters=True,  # parameters can hold what must not reach a log
            use_native_hstore=False,  # saves a query at each connect
        )
        event.listen(engine, "do_connect", self._connecting)
        # First of its kind, so that the queries SQLAlchemy itself makes on a new connection can be cut as well.
        event.listen(engine, "connect", self._connected, insert=True)
        event.listen(engine, "checkout", self._checked_out)
        return engine

    def __repr__(self) -> str:
        return f"Database({self._engine.url.render_as_string(hide_password=True)!r})"

    async def run(self, fn: Callable[[Connection], T], *, timeout: float | None = None) -> T:
        """Run `fn` in one transaction in a thread, and commit.

        `fn` must do nothing but use its connection: it is run again when it lost a deadlock, and nobody waits for it
        once the deadline has passed. It is then rolled back, unless its commit was already under way.

        Args:
            fn: Called with the connection inside a transaction; an exception rolls back.
            timeout: Seconds for everything: waiting for a thread, connecting, statements, commit. Default: the setting
                `database_timeout`.

        Raises:
            DatabaseGone: The server cannot be reached, or did not answer within `timeout`.
            Busy: Another transaction held a lock for too long.
            Conflict: Others changed the same rows, again and again; or a unique constraint says it exists already.
            Unauthorized: The server refused the login, or the role may not do this.
            NotFound: The database or its tables do not exist.
        """
        timeout = settings().database_timeout if timeout is None else timeout
        call = _Call(fn, time.monotonic() + timeout)
        self._workers.submit(call)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(call.future), timeout)
        except TimeoutError:
            call.abandon()
            raise DatabaseGone(
                f"The inventory database did not answer within {timeout:g} s.", hint="Look at: signalbox status"
            ) from None
        except asyncio.CancelledError:
            call.abandon()
            raise

    def close(self) -> None:
        """Close idle connections. Work in flight is not waited for; the object stays usable."""
        self._engine.dispose()

    # --- in the worker thread ---

    def _perform(self, call: _Call[Any]) -> None:
        """Run a call to its end and tell its future; never raises."""
        if call.abandoned or not call.future.set_running_or_notify_cancel():
            return
        self._thread.call = call
        try:
            call.future.set_result(self._attempt(call))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the one who waits gets it
            call.future.set_exception(error)
        finally:
            self._thread.call = None

    def _attempt(self, call: _Call[T]) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._transact(call)
            except DBAPIError as error:
                problem = _explain(error)
                if problem is None:
                    raise
                if isinstance(problem, Conflict) and _lost_a_race(error) and attempt < ATTEMPTS and not call.abandoned:
                    time.sleep(random.uniform(0.01, 0.05) * attempt)
                    continue
                # The cause would carry the server's address and the statement into logs and states.
                raise problem from None
        raise AssertionError("unreachable")

    def _transact(self, call: _Call[T]) -> T:
        try:
            connection = self._engine.connect()
        except InvalidRequestError:  # SQLAlchemy's word for: broke right after connecting, twice
            call.release()
            raise DatabaseGone("The connection to the inventory database broke.", hint=_HINT) from None
        except BaseException:
            call.release()
            raise
        try:
            with connection.begin():
                result = call.fn(connection)
                call.check()  # nobody waits any more: what was not committed is rolled back
            return result
        finally:
            if call.release():
                connection.invalidate()  # its socket is shut down
            connection.close()

    # Pool events, in the worker thread: `self._thread.call` is the call the connection is for.

    def _connecting(self, _dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
        left = self._thread.call.deadline - time.monotonic()
        parameters["connect_timeout"] = max(2, min(CONNECT_TIMEOUT, math.ceil(left)))  # libpq knows none below 2 s

    def _connected(self, connection: Any, _record: Any) -> None:
        self._thread.call.hold(connection)

    def _checked_out(self, connection: Any, _record: Any, _proxy: Any) -> None:
        call: _Call[Any] = self._thread.call
        call.hold(connection)
        left = max(0.05, call.deadline - time.monotonic())
        statement_ms = max(1, int((left - min(0.25, left * 0.1)) * 1000))
        lock_ms = max(1, statement_ms * 9 // 10)
        try:
            with connection.cursor() as cursor:
                # The limits of this transaction. It is the pool's ping as well, one that can be cut.
                cursor.execute("SET LOCAL statement_timeout = %s; SET LOCAL lock_timeout = %s", (statement_ms, lock_ms))
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            raise DisconnectionError(type(error).__name__) from None  # SQLAlchemy then makes a fresh connection


class _Abandoned(Exception):
    """Nobody waits for this call any more."""


class _Call(Generic[T]):
    """One unit of work on its way through a thread, and the handle by which it can be stopped."""

    def __init__(self, fn: Callable[[Connection], T], deadline: float) -> None:
        self.fn = fn
        self.deadline = deadline
        self.future: Future[T] = Future()
        self.abandoned = False
        self._lock = threading.Lock()
        self._connection: Any = None

    def check(self) -> None:
        if self.abandoned:
            raise _Abandoned

    def hold(self, connection: Any) -> None:
        """Note the psycopg2 connection this call is using."""
        with self._lock:
            self.check()
            self._connection = connection

    def release(self) -> bool:
        """Let go of the connection; says whether it must not be used again."""
        with self._lock:
            self._connection = None
            return self.abandoned

    def abandon(self) -> None:
        """Stop the call, from any thread, without waiting. One that is still connecting ends by `connect_timeout`."""
        with self._lock:  # held while cutting, so that the connection is not given back and closed meanwhile
            self.abandoned = True
            if self._connection is None:
                return
            try:
                with socket.socket(fileno=os.dup(self._connection.fileno())) as line:
                    line.shutdown(socket.SHUT_RDWR)
            except (psycopg2.Error, OSError):
                return  # closed already: what we wanted


class _Workers:
    """Daemon threads that take work from a queue.

    Not `ThreadPoolExecutor`: it joins its threads at the interpreter's end, and so waits for a silent server for ever.
    """

    def __init__(self, most: int, perform: Callable[[_Call[Any]], None]) -> None:
        self._most = most
        self._perform = perform
        self._queue: queue.SimpleQueue[_Call[Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._idle = 0

    def submit(self, call: _Call[Any]) -> None:
        self._queue.put(call)
        with self._lock:
            if self._idle >= self._queue.qsize() or self._started >= self._most:
                return
            self._started += 1
        threading.Thread(target=self._work, name="database", daemon=True).start()

    def _work(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            call = self._queue.get()
            with self._lock:
                self._idle -= 1
            self._perform(call)
            del call  # or an idle thread keeps the last result alive


# --- what went wrong, by SQLSTATE (PostgreSQL manual, appendix A) ---

_RACES = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
_HINT = "Look at: signalbox status"
_LOGIN = "Check SIGNALBOX_DATABASE_URL."
_UP = "Create it, then: signalbox up"


def _lost_a_race(error: DBAPIError) -> bool:
    return getattr(error.orig, "pgcode", None) in _RACES


def _explain(error: DBAPIError) -> ToolError | None:
    """Say what a driver error means to an operator; None for a mistake of ours, which must stay visible as such.

    Never repeats libpq's own text: it names the server, and some of it the user.
    """
    code: str | None = getattr(error.orig, "pgcode", None)
    name = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    match code:
        case None if error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError)):
            return _explain_connection(str(error.orig))
        case "40001" | "40P01":
            return Conflict("Others changed the same rows at the same time, again and again.", hint="Try again.")
        case "55P03":
            return Busy("Another transaction holds what this one needs for too long.", hint="Try again later.")
        case "57014":
            return DatabaseGone("The inventory database did not answer in time.", hint=_HINT)
        case "23505":
            return Conflict(f"It exists already ({name}).")
        case "23503":
            return Conflict(f"What it refers to does not exist, or is still referred to ({name}).")
        case "28000" | "28P01":
            return Unauthorized("The inventory database refused the login.", hint=_LOGIN)
        case "42501":
            return Unauthorized("The database role may not do this.", hint="Migrate as owner, work as app.")
        case "3D000":
            return NotFound("The inventory database does not exist on this server.", hint=_UP)
        case "42P01" | "42703" | "3F000":
            return NotFound("The inventory database lacks tables this version needs.", hint="Migrate it: signalbox up")
        case "25006":
            return DatabaseGone("The inventory database is read-only now (a standby?).", hint=_HINT)
        case str() if code[:2] in {"08", "53", "57", "58"}:  # connection, resources, operator intervention, system
            return DatabaseGone(f"The inventory database cannot serve now (SQLSTATE {code}).", hint=_HINT)
    return None


def _explain_connection(text: str) -> ToolError:
    """Explain an error without SQLSTATE: libpq's own, told apart by its (untranslated) text."""
    if re.search(r'authentication failed|no password supplied|role ".*" does not exist', text):
        return Unauthorized("The inventory database refused the login.", hint=_LOGIN)
    if re.search(r'database ".*" does not exist', text):
        return NotFound("The inventory database does not exist on this server.", hint=_UP)
    if "timeout expired" in text:
        return DatabaseGone("The inventory database accepts connections but does not answer.", hint=_HINT)
    if "could not translate host name" in text:
        return DatabaseGone("The host name of the inventory database does not resolve.", hint=_HINT)
    if "refused" in text or "No such file" in text or "No route" in text or "unreachable" in text:
        return DatabaseGone("The inventory database cannot be reached.", hint=_HINT)
    return DatabaseGone("The connection to the inventory database broke.", hint=_HINT)


@lru_cache(maxsize=1)
def database() -> Database:
    """The inventory database of this process, as the settings name it. Tests call `database.cache_clear()`.

    Raises:
        NotFound: No database is named and the embedded one was never started.
    """
    return Database(settings().resolve_database_url("app"))


# A forked child must not use its parent's connections or threads. (psycopg2 never closes what another process opened.)
os.register_at_fork(after_in_child=database.cache_clear)
