"""The tool run in progress: what a tool's body may ask of the kit.

A body calls `current_run()` and finds the pinned addresses the gate granted, the share of the packet budget it holds, the store for big
output, and the blocks its parameters name. Where those come from is `Wiring`: Prefect and PostgreSQL in production, plain objects in tests.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import uuid4

from tasks.core.errors import InvalidParameters, Refused, Unreachable
from tasks.core.models import FileRef

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from prefect.blocks.core import Block

    from blocks.captures import CaptureStore
    from blocks.policy import ProbePolicy
    from tasks.core.gate import Grant
    from tasks.core.ledger import Ledger
    from tasks.core.rate import Share
    from tasks.core.registry import ToolSpec

B = TypeVar("B", bound="Block")

POLICY_CACHE_SECONDS = 10.0
"""A changed policy holds for new tool runs after this long at most; without a cache every run would pay an API call."""
RATE_WAIT_SECONDS = 900.0
"""Longest wait for a share of the site's packet budget, outside the tool's deadline."""


class Wiring(Protocol):
    """Where a tool run gets what it needs."""

    async def policy(self, site: str) -> ProbePolicy: ...
    async def block(self, name: str, kind: type[B]) -> B: ...
    async def store(self, site: str) -> CaptureStore: ...
    def ledger(self) -> Ledger | None: ...
    def hold(self, site: str, want: int, least: int) -> AbstractAsyncContextManager[Share | None]: ...


class LiveWiring:
    """Blocks from the Prefect API, budget from its limits, ledger in PostgreSQL."""

    def __init__(self) -> None:
        self._policies: dict[str, tuple[float, ProbePolicy]] = {}
        self._blocks: dict[tuple[str, type[Any]], tuple[float, Any]] = {}

    async def policy(self, site: str) -> ProbePolicy:
        from blocks.policy import ProbePolicy

        loaded, policy = self._policies.get(site, (0.0, None))
        if policy is None or time.monotonic() - loaded > POLICY_CACHE_SECONDS:
            policy = await load_or_none(ProbePolicy, site)
            if policy is None:
                raise Refused(
                    f"Site {site!r} has no policy, so nothing is allowed there.",
                    hint=f"Make one: signalbox site add {site}",
                )
            self._policies[site] = (time.monotonic(), policy)
        return policy

    async def block(self, name: str, kind: type[B]) -> B:
        loaded, cached = self._blocks.get((name, kind), (0.0, None))
        if isinstance(cached, kind) and time.monotonic() - loaded < POLICY_CACHE_SECONDS:
            return cached
        prefix, _, document = name.partition("/")
        short: str = kind.short  # type: ignore[attr-defined]
        if prefix != short or not document:
            raise InvalidParameters(f"{name!r} is not a {short} block.", hint=f"Right would be {short}/NAME.")
        block = await load_or_none(kind, document)
        if block is None:
            raise InvalidParameters(
                f"There is no block {name!r}.",
                hint=f"Make it in the UI under Blocks ({kind._block_type_name}), or see: signalbox block list",
            )
        self._blocks[(name, kind)] = (time.monotonic(), block)
        return block

    async def store(self, site: str) -> CaptureStore:
        from blocks.captures import CaptureStore
        from tasks.core.settings import settings

        return (await load_or_none(CaptureStore, site)) or CaptureStore(folder=settings().evidence_folder)

    def ledger(self) -> Ledger | None:
        from tasks.core.ledger import ledger

        return ledger()

    def hold(self, site: str, want: int, least: int) -> AbstractAsyncContextManager[Share | None]:
        from tasks.core.rate import hold

        return hold(site, want, least, wait=RATE_WAIT_SECONDS)


async def load_or_none(kind: type[B], document: str) -> B | None:
    """Load a block by its document name; None when there is none.

    Raises:
        Unreachable: The Prefect API does not answer.
    """
    import httpx

    try:
        block: B = await kind.aload(document)
        return block
    except ValueError as error:
        if "Unable to find block document" in str(error):
            return None
        raise InvalidParameters(
            f"Block {kind.__name__} {document!r} does not load: its stored values no longer fit.", hint="Save it again."
        ) from None
    except httpx.HTTPError:
        # The error's text carries URLs; the block's name is all a reader needs.
        raise Unreachable("The Prefect API does not answer.", hint="Is signalbox up? signalbox status") from None


@dataclass
class FixedWiring:
    """Everything given by hand: for tests and for code that already holds its blocks."""

    policies: Mapping[str, ProbePolicy] = field(default_factory=dict)
    blocks: Mapping[str, Any] = field(default_factory=dict)
    captures: CaptureStore | None = None
    book: Ledger | None = None

    async def policy(self, site: str) -> ProbePolicy:
        if site not in self.policies:
            raise Refused(
                f"Site {site!r} has no policy, so nothing is allowed there.",
                hint=f"Make one: signalbox site add {site}",
            )
        return self.policies[site]

    async def block(self, name: str, kind: type[B]) -> B:
        block = self.blocks.get(name)
        if not isinstance(block, kind):
            raise InvalidParameters(f"There is no block {name!r} of type {kind.__name__}.")
        return block

    async def store(self, site: str) -> CaptureStore:
        if self.captures is None:
            raise InvalidParameters("This run has no CaptureStore.")
        return self.captures

    def ledger(self) -> Ledger | None:
        return self.book

    @asynccontextmanager
    async def hold(self, site: str, want: int, least: int) -> AsyncIterator[Share | None]:
        yield None


_wiring: ContextVar[Wiring | None] = ContextVar("signalbox_wiring", default=None)
_live = LiveWiring()


def wiring() -> Wiring:
    """The wiring in force: what `wired` set, else the live one."""
    return _wiring.get() or _live


@contextmanager
def wired(other: Wiring) -> Iterator[None]:
    """Use another wiring for every tool run inside the block."""
    token = _wiring.set(other)
    try:
        yield
    finally:
        _wiring.reset(token)


@dataclass
class ToolRun:
    """One execution of a tool, as its body sees it.

    Attributes:
        spec: The tool's card.
        site: Site it works at.
        policy: The site's policy at the time the run started.
        id: Identifies the run in the ledger; the Prefect task run's id where there is one.
        request_id: Identifies the request the run belongs to (a flow run's id, or its own).
        grant: What the gate's probe door allowed: pinned addresses; None when nothing is probed.
        share: The held share of the site's packet budget; None when none is held.
    """

    spec: ToolSpec
    site: str
    policy: ProbePolicy
    id: str = field(default_factory=lambda: str(uuid4()))
    request_id: str = field(default_factory=lambda: str(uuid4()))
    attempt: int = 1
    grant: Grant | None = None
    share: Share | None = None

    @property
    def packets_per_second(self) -> int:
        """What this run may send: its held share, else the site's whole budget (nobody else runs in a test)."""
        return self.share.packets_per_second if self.share is not None else self.policy.packets_per_second

    async def load_block(self, name: str, kind: type[B]) -> B:
        """Load the block a parameter names, such as `mail/noc`.

        Raises:
            InvalidParameters: There is no such block, or it is of another type.
            Unreachable: The Prefect API does not answer.
        """
        return await wiring().block(name, kind)

    async def store(self) -> CaptureStore:
        """The site's CaptureStore, where big output goes."""
        return await wiring().store(self.site)

    def file_ref(self, stored: Any) -> FileRef:
        """Make the reference a result carries to a file stored in the CaptureStore (`name`, `size_bytes`, `sha256`)."""
        return FileRef(site=self.site, name=stored.name, size_bytes=stored.size_bytes, sha256=stored.sha256)


_current: ContextVar[ToolRun | None] = ContextVar("signalbox_tool_run", default=None)


def current_run() -> ToolRun:
    """The tool run in progress.

    Raises:
        RuntimeError: Called outside a tool's body: a mistake in code, not in use.
    """
    run = _current.get()
    if run is None:
        raise RuntimeError("current_run() was called outside a tool")
    return run


@contextmanager
def running(run: ToolRun) -> Iterator[ToolRun]:
    """Make `run` the current one inside the block."""
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)
