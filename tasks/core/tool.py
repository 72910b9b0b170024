"""`@tool`: turns a typed async function into a Prefect task that is safe to run.

What the kit does around every body, in this order: validate the parameters; load the site's policy; check the safety ceiling and the
approval; ask the gate; write the ledger (ahead of the act when it changes something); wait for the packet budget; run the body under its
deadline; write the outcome. A body does its own job only and raises `ToolError`s.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_type_hints
from uuid import UUID, uuid4

from pydantic import ValidationError

from tasks.core.errors import InvalidParameters, Refused, ToolError, ToolTimeout, is_retryable
from tasks.core.log import run_logger
from tasks.core.models import Example, ProbeParams, Safety, Service, SiteParams, ToolParams, ToolResult
from tasks.core.registry import ToolSpec, file_card
from tasks.core.run import RATE_WAIT_SECONDS, ToolRun, running, wiring
from tasks.core.settings import settings

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun

EventKind = Literal["queued", "refused", "started", "finished", "unknown"]

P = TypeVar("P", bound=ToolParams)
R = TypeVar("R", bound=ToolResult)
P_contra = TypeVar("P_contra", bound=ToolParams, contravariant=True)
R_co = TypeVar("R_co", bound=ToolResult, covariant=True)


class ToolTask(Protocol[P_contra, R_co]):
    """What `@tool` makes: a Prefect task that takes the tool's parameters, and carries its card."""

    spec: ToolSpec
    name: str

    def __call__(self, params: P_contra) -> Coroutine[Any, Any, R_co]: ...


PREPARATION_SECONDS = 30.0
"""Longest the steps before the body may take (policy, names, ledger), so that a silent server cannot hold a run."""
RECORDING_SECONDS = 5.0
"""Longest the ledger may take to note an outcome."""
RETRY_DELAYS_SECONDS = (2.0, 4.0, 8.0, 16.0, 32.0)
LONGEST_RETRY_AFTER_SECONDS = 120.0
"""A receiver that asks for a longer pause is left alone; the caller is told when to come back."""


def tool(
    *,
    service: Service,
    safety: Safety,
    timeout: float,
    retries: int = 0,
    aliases: Sequence[str] = (),
    examples: Sequence[Example] = (),
    programs: Sequence[str] = (),
    approval: bool = False,
    idempotent: bool = False,
) -> Callable[[Callable[[P], Awaitable[R]]], ToolTask[P, R]]:
    """Declare a tool: make its Prefect task and file its card in the registry.

    Args:
        service: Where the tool belongs and may run.
        safety: What it may do to the world.
        timeout: Deadline of one attempt, seconds.
        retries: Further attempts after an error that names itself retryable, exponentially apart with jitter.
        aliases: Other names it answers to.
        examples: Worked calls; the contract test validates them.
        programs: Programs it starts, for `doctor`.
        approval: Refuse every call unless its parameter `confirm` repeats its subject; parameters may ask for that by themselves.
        idempotent: Whether a second identical call changes nothing further. A `change` tool may retry only then.

    Raises:
        ValueError: The declaration contradicts itself.
    """
    if retries and safety >= Safety.CHANGE and not idempotent:
        raise ValueError("a tool that changes something may retry only when it is idempotent")
    if retries > len(RETRY_DELAYS_SECONDS):
        raise ValueError(f"at most {len(RETRY_DELAYS_SECONDS)} retries")

    def decorate(body: Callable[[P], Awaitable[R]]) -> ToolTask[P, R]:
        from prefect import task
        from prefect.cache_policies import NO_CACHE

        name = body.__name__
        hints = get_type_hints(body)
        spec = ToolSpec(
            name=name,
            service=service,
            safety=safety,
            timeout=timeout,
            retries=retries,
            aliases=tuple(aliases),
            examples=tuple(examples),
            programs=tuple(programs),
            approval=approval,
            idempotent=idempotent,
            params_model=hints["params"],
            result_model=hints["return"],
            body=body,
            module=body.__module__,
        )
        file_card(spec)

        @functools.wraps(body)
        async def run(params: P) -> R:
            return await perform(spec, params)  # type: ignore[return-value]

        make: Any = task  # its overloads know no task whose name is a function
        made: Any = make(
            run,
            name=name,
            description=spec.summary,
            tags={f"service:{service}", f"safety:{safety}"},
            task_run_name=_task_run_name,
            # The body's own deadline is kept by `perform`; this one also bounds the wait for the packet budget before it.
            timeout_seconds=longest_attempt(timeout),
            retries=retries,
            retry_delay_seconds=list(RETRY_DELAYS_SECONDS[:retries]),
            retry_jitter_factor=0.5 if retries else None,
            retry_condition_fn=retry_condition,
            # A probe is never answered from a cache, and results travel by the ledger.
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        made.spec = spec
        return made  # type: ignore[no-any-return]

    return decorate


def longest_attempt(timeout: float) -> float:
    """Seconds after which one attempt of a tool with this deadline is over in any case, waiting and recording included."""
    return timeout + RATE_WAIT_SECONDS + PREPARATION_SECONDS + 2 * RECORDING_SECONDS


async def retry_condition(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect may try again: only for errors that name themselves retryable, after the pause they ask for."""
    error = state.data if isinstance(state.data, BaseException) else None
    if not is_retryable(error):
        return False
    pause = getattr(error, "retry_after", None) or 0.0
    if pause > LONGEST_RETRY_AFTER_SECONDS:
        return False
    await asyncio.sleep(pause)
    return True


def _task_run_name() -> str:
    from prefect.runtime import task_run

    params = task_run.parameters.get("params")
    subject = params.about() if isinstance(params, ToolParams) else ""
    short = subject if len(subject) <= 60 else f"{subject[:57]}..."
    return f"{task_run.task_name} {short}".strip()


def validate(spec: ToolSpec, given: ToolParams | Mapping[str, Any]) -> ToolParams:
    """Return the tool's parameters, checked.

    Raises:
        InvalidParameters: Names each parameter that is wrong, what was wrong with it, and an example that is right.
    """
    if isinstance(given, spec.params_model):
        return given
    if isinstance(given, ToolParams):
        given = given.model_dump()
    if not isinstance(given, Mapping):
        raise InvalidParameters(
            f"{spec.name} takes its parameters as names and values.", hint=f"See: signalbox tool show {spec.name}"
        )
    try:
        return spec.params_model.model_validate(dict(given))
    except ValidationError as error:
        raise InvalidParameters(
            f"{spec.name}: {explain(error, given, spec.params_model)}.", hint=f"See: signalbox tool show {spec.name}"
        ) from None


def explain(error: ValidationError, given: Mapping[str, Any], model: type[ToolParams]) -> str:
    """Say in one line per mistake which parameter, what was given, and what is right. Secret fields are not repeated."""
    lines = []
    for mistake in error.errors(include_url=False, include_context=False):
        path = ".".join(str(part) for part in mistake["loc"]) or "parameters"
        top = str(mistake["loc"][0]) if mistake["loc"] else ""
        message = mistake["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if mistake["type"] == "extra_forbidden":
            lines.append(f"{path}: no such parameter; there are {', '.join(model.model_fields)}")
        elif mistake["type"] == "missing":
            about = model.model_fields[top].description if top in model.model_fields else None
            lines.append(f"{path}: is required ({about})" if about else f"{path}: is required")
        else:
            # A mistake of the whole (no place) would show all parameters, secret ones among them.
            shown = "" if not mistake["loc"] or _is_secret(model, top) else _shown(given, mistake["loc"])
            lines.append(f"{path}: {message}" + (f", not {shown}" if shown and shown not in message else ""))
    return "; ".join(lines)


def _is_secret(model: type[ToolParams], name: str) -> bool:
    info = model.model_fields.get(name)
    extra = info.json_schema_extra if info else None
    return "Secret" in repr(info.annotation if info else None) or bool(isinstance(extra, dict) and extra.get("secret"))


def _shown(given: Any, path: Sequence[str | int]) -> str:
    for part in path:
        try:
            given = given[part]
        except (KeyError, IndexError, TypeError):
            return ""
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:57]}..."


async def perform(spec: ToolSpec, given: ToolParams | Mapping[str, Any]) -> ToolResult:
    """Run one attempt of a tool with everything the kit does around it.

    Raises:
        ToolError: What the tool or the kit says went wrong; the ledger has it too.
    """
    book = _Book(spec)
    started = time.monotonic()
    try:
        params, run = await _prepare(spec, given, book)
        async with wiring().hold(run.site, *_wanted(params, run)) as share:
            run.share = share
            started = time.monotonic()
            with running(run):
                result = await _within_deadline(spec, params)
        await book.finished("completed", time.monotonic() - started, result=result)
        return result
    except Refused as error:
        await book.refused(error)
        raise
    except ToolError as error:
        if book.safety >= Safety.CHANGE and not spec.idempotent:
            # The parameters may have raised a tool that reads, and therefore retries, to one that acts: what it did is not done twice.
            error.retryable = False
        outcome = "timed_out" if isinstance(error, ToolTimeout) else "failed"
        await book.finished(outcome, time.monotonic() - started, error=error)
        raise
    except asyncio.CancelledError as error:
        await book.finished("cancelled", time.monotonic() - started, error=error)
        raise
    except Exception as error:
        # A defect of ours: it keeps its traceback, and the ledger keeps its class only (the text may hold anything).
        await book.finished("failed", time.monotonic() - started, error=error)
        raise


async def note_refusal(spec: ToolSpec, params: ToolParams, error: Refused) -> None:
    """Note in the ledger that a run was refused where it was asked for, before there was a run."""
    book = _Book(spec)
    book.know(params, params.site if isinstance(params, SiteParams) else settings().site)
    await book.refused(error)


async def _prepare(spec: ToolSpec, given: ToolParams | Mapping[str, Any], book: _Book) -> tuple[ToolParams, ToolRun]:
    from tasks.core import gate

    params = validate(spec, given)
    site = params.site if isinstance(params, SiteParams) else settings().site
    book.know(params, site)
    try:
        async with asyncio.timeout(PREPARATION_SECONDS):
            # A site of "*" (asset queries over all sites) is under the policy of the machine's own site.
            policy = await wiring().policy(settings().site if site == "*" else site)
            run = ToolRun(
                spec=spec, site=site, policy=policy, id=book.run_id, request_id=book.request_id, attempt=book.attempt
            )
            gate.check_safety(book.safety, policy, spec.name)
            check_approval(spec, params)
            scope = params.scope()
            if scope is not None:
                run.grant = await gate.admit(scope, policy)
                book.allowed_by = run.grant.allowed_by
            else:
                book.allowed_by = f"safety {book.safety} within the ceiling {policy.ceiling}"
            await book.started()
    except TimeoutError:
        raise ToolTimeout(
            f"{spec.name} could not start within {PREPARATION_SECONDS:.0f} s: the Prefect API, the resolver or the database is slow.",
            hint="See: signalbox doctor",
        ) from None
    return params, run


def check_approval(spec: ToolSpec, params: ToolParams) -> None:
    """Check that `confirm` repeats the subject where the call needs approval.

    Raises:
        Refused: It does not; the hint says what to repeat.
    """
    subject = approval_for(spec, params)
    if subject is not None and (not subject or getattr(params, "confirm", None) != subject):
        raise Refused(
            f"{spec.name} needs approval for {subject!r}.",
            hint=f"Repeat the exact target: --confirm {subject!r}",
        )


def approval_for(spec: ToolSpec, params: ToolParams) -> str | None:
    """What `confirm` must repeat; None when the call needs no approval."""
    if not (spec.approval or params.approval()):
        return None
    return params.subject() if isinstance(params, ProbeParams) else params.about()


def _wanted(params: ToolParams, run: ToolRun) -> tuple[int, int]:
    scope = params.scope()
    if scope is None:
        return 0, 0
    want = min(scope.packets_per_second, run.policy.packets_per_second)
    return want, min(scope.least_packets_per_second, want)


async def _within_deadline(spec: ToolSpec, params: ToolParams) -> ToolResult:
    seconds = min(params.deadline() or spec.timeout, spec.timeout)
    try:
        async with asyncio.timeout(seconds) as deadline:
            return await spec.body(params)
    except TimeoutError as error:
        if deadline.expired() and not isinstance(error, ToolError):
            raise ToolTimeout(
                f"{spec.name} did not finish within its deadline of {seconds:g} s.",
                hint="What it started has been stopped.",
            ) from None
        raise


class _Book:
    """Writes one tool run into the ledger; without a ledger (tests) it writes nothing."""

    def __init__(self, spec: ToolSpec) -> None:
        self.spec = spec
        self.run_id, self.request_id, self.attempt, self.flow_run_id, self.task_run_id = _prefect_ids()
        self.params: ToolParams | None = None
        self.safety = spec.safety
        self.site = settings().site
        self.allowed_by: str | None = None

    def know(self, params: ToolParams, site: str) -> None:
        self.params, self.site, self.safety = params, site, self.spec.safety_of(params)

    async def started(self) -> None:
        # Write-ahead: what changes something must be in the ledger before it happens, or it does not happen.
        await self._record("started", ahead=self.safety >= Safety.CHANGE)

    async def refused(self, error: Refused) -> None:
        await self._record_surely("refused", outcome="refused", error_class="Refused", error_message=str(error))

    async def finished(
        self, outcome: str, duration: float, *, result: ToolResult | None = None, error: BaseException | None = None
    ) -> None:
        await self._record_surely(
            "finished",
            outcome=outcome,
            duration_s=duration,
            result=result.model_dump(mode="json") if result is not None else None,
            error_class=type(error).__name__ if error is not None else None,
            error_message=str(error) if isinstance(error, ToolError) else None,
        )

    async def _record_surely(self, kind: EventKind, **what: Any) -> None:
        """Note an outcome even while this task is being cancelled, and never let the ledger hide the tool's own error."""
        noting = asyncio.ensure_future(self._record(kind, ahead=False, **what))
        try:
            async with asyncio.timeout(RECORDING_SECONDS):
                await asyncio.shield(noting)
        except asyncio.CancelledError:
            with suppress(ToolError, OSError):
                async with asyncio.timeout(RECORDING_SECONDS):
                    await asyncio.shield(noting)
            raise
        except (ToolError, OSError) as problem:  # TimeoutError is an OSError
            run_logger().error("The ledger could not note that %s %s: %s", self.spec.name, kind, problem)

    async def _record(self, kind: EventKind, *, ahead: bool, **what: Any) -> None:
        book = wiring().ledger()
        if book is None:
            return
        from tasks.core.ledger import RunEvent

        await book.record(
            RunEvent(
                tool_run_id=UUID(self.run_id),
                site=self.site,
                kind=kind,
                tool=self.spec.name,
                service=str(self.spec.service),
                safety=str(self.safety),
                target=self.params.about()[:500] if self.params is not None else "",
                allowed_by=self.allowed_by,
                request_id=self.request_id,
                flow_run_id=UUID(self.flow_run_id) if self.flow_run_id else None,
                task_run_id=UUID(self.task_run_id) if self.task_run_id else None,
                who=settings().user or _login_name(),
                attempt=self.attempt,
                params=self.params.model_dump(mode="json") if self.params is not None else None,
                **what,
            ),
            ahead=ahead,
        )


@functools.lru_cache(maxsize=1)
def _login_name() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no such user id in the password database: containers
        return "unknown"


def _prefect_ids() -> tuple[str, str, int, str | None, str | None]:
    """Return run id, request id, attempt, flow run id and task run id from Prefect's context, or fresh ids outside one."""
    if "prefect.context" not in sys.modules:
        return str(uuid4()), str(uuid4()), 1, None, None
    from prefect.context import FlowRunContext, TaskRunContext

    task_context = TaskRunContext.get()
    flow_context = FlowRunContext.get()
    flow_run = flow_context.flow_run if flow_context is not None else None
    flow_run_id = str(flow_run.id) if flow_run is not None else None
    if task_context is None:
        run_id = str(uuid4())
        return run_id, flow_run_id or run_id, 1, flow_run_id, None
    task_run = task_context.task_run
    flow_run_id = str(task_run.flow_run_id) if task_run.flow_run_id else flow_run_id
    return str(task_run.id), flow_run_id or str(task_run.id), max(task_run.run_count, 1), flow_run_id, str(task_run.id)
