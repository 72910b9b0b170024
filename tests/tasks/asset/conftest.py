"""A site on a real database: scans it on any day, and reads what became of it."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from blocks.policy import ProbePolicy
from tasks.asset._changes import Changes, Event
from tasks.asset._observation import ObservedHost, ObservedService, ScanCoverage
from tasks.asset._reconcile import missing_candidates, reconcile
from tasks.core.db.engine import Database, database
from tasks.core.db.sites import ensure_site
from tasks.core.settings import settings

START = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)


class SiteLab:
    """A site of a test: `at` moves its clock, `scan` is a scan of 10.0.0.0/24 that ended."""

    def __init__(self, db: Database, site: str = "default") -> None:
        self.db = db
        self.site = site
        self.now = START
        self.runs = 0

    def later(self, **delta: float) -> None:
        """Let time pass."""
        self.now += timedelta(**delta)

    def host(self, address: str | None, method: str = "arp", **more: Any) -> ObservedHost:
        """Something seen now. A MAC counts as first-hand unless said otherwise."""
        more.setdefault("mac_first_hand", "mac" in more)
        more.setdefault("seen_at", self.now)
        return ObservedHost(address=address, method=method, site=self.site, **more)

    def coverage(self, networks: Sequence[str] = ("10.0.0.0/24",), **more: Any) -> ScanCoverage:
        return ScanCoverage(
            **{
                "planned": tuple(networks),
                "attempted": tuple(networks),
                "finished": tuple(networks),
                "methods": ("arp",),
            }
            | more
        )

    async def scan(
        self,
        *hosts: ObservedHost,
        networks: Sequence[str] = ("10.0.0.0/24",),
        confirm: bool = True,
        preview: bool = False,
        **more: Any,
    ) -> Changes:
        """Reconcile a scan that ended; with `confirm`, a second method agrees that what is silent is absent."""
        coverage = self.coverage(networks, **more)
        if confirm:
            absent = await missing_candidates(self.site, coverage, hosts, now=self.now, db=self.db)
            coverage = coverage.confirming({ip for asset in absent for ip in asset.addresses})
        return await self.tell(*hosts, coverage=coverage, preview=preview)

    async def tell(self, *hosts: ObservedHost, coverage: ScanCoverage | None = None, preview: bool = False) -> Changes:
        """Reconcile observations; without coverage nothing goes missing."""
        self.runs += 1
        return await reconcile(
            self.site, hosts, coverage, run_id=f"run-{self.runs}", preview=preview, now=self.now, db=self.db
        )

    async def settle(self, *hosts: ObservedHost, **more: Any) -> Changes:
        """The first scan of the site: what it finds is the baseline. An hour passes."""
        changes = await self.scan(*hosts, **more)
        self.later(hours=1)
        return changes

    async def rows(self, statement: str, **values: Any) -> list[Any]:
        """Read rows of the site; `:site` is its number."""

        def read(connection: Any) -> list[Any]:
            site = ensure_site(connection, self.site)
            return [tuple(row) for row in connection.execute(text(statement), {"site": site, **values})]

        return await self.db.run(read)

    async def do(self, statement: str, **values: Any) -> None:
        """Change something by hand."""

        def write(connection: Any) -> None:
            connection.execute(text(statement), {"site": ensure_site(connection, self.site), **values})

        await self.db.run(write)

    async def assets(self, *columns: str) -> list[Any]:
        """The assets that were not merged away, by number."""
        names = ", ".join(columns) or "id, host(primary_ip), mac::text, hostname, status"
        return await self.rows(f"SELECT {names} FROM asset WHERE site_id = :site AND status <> 'merged' ORDER BY id")

    async def held(self) -> dict[str, int | None]:
        """Who holds each address."""
        found = await self.rows(
            "SELECT host(ip), asset_id FROM address WHERE site_id = :site AND state = 'held' ORDER BY ip"
        )
        return dict(found)

    @staticmethod
    def ports(*numbers: int) -> tuple[ObservedService, ...]:
        """Open TCP ports."""
        return tuple(ObservedService("tcp", number) for number in numbers)

    @staticmethod
    def told(changes: Changes | Iterable[Event]) -> list[tuple[Any, ...]]:
        """Events as tuples: kind, asset, before, after; those with details by kind and asset alone."""
        events = changes.events if isinstance(changes, Changes) else changes
        return [
            (event.kind.value, event.asset_id)
            if isinstance(event.after, dict) or isinstance(event.before, dict)
            else (event.kind.value, event.asset_id, event.before, event.after)
            for event in events
        ]

    @staticmethod
    def addresses(network: str, first: int, count: int) -> list[str]:
        """`count` addresses of a network from its `first`."""
        base = int(ipaddress.ip_network(network).network_address)
        return [str(ipaddress.ip_address(base + first + number)) for number in range(count)]


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url.replace("postgresql://", "postgresql+psycopg2://"))
    yield database
    database.close()


@pytest.fixture
def lab(db: Database) -> SiteLab:
    return SiteLab(db)


# --- the asset tools, as the role `app` ---

Call = Callable[..., Awaitable[Any]]


@pytest.fixture
def inventory(postgres, database_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:  # type: ignore[no-untyped-def]
    """An empty inventory that the tools use."""
    monkeypatch.setenv("SIGNALBOX_DATABASE_URL", postgres.url("app", database_name))
    settings.cache_clear()
    database.cache_clear()
    yield database()
    database().close()
    database.cache_clear()


@pytest.fixture
def call(inventory: Database, perform: Call) -> Call:
    """Run an asset tool through the kit: `await call("asset_create", hostname="a")`. The ceiling allows everything."""
    from tasks.core.registry import find_tool

    async def run(name: str, **params: Any) -> Any:
        return await perform(find_tool(name).task, params, policy=ProbePolicy(ceiling="destroy"))

    return run


@pytest.fixture
def rows(inventory: Database) -> Call:
    """Run a query and return its rows as tuples."""

    async def run(statement: str, **values: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await inventory.run(lambda c: c.execute(text(statement), values).all())]

    return run


@pytest.fixture
def change(inventory: Database) -> Call:
    """Run a statement as something else than a tool would: a scan, a merge."""

    async def run(statement: str, **values: Any) -> None:
        await inventory.run(lambda c: c.execute(text(statement), values))

    return run
