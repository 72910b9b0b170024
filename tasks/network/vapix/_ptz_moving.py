"""Moves a head and watches it until it rests; a continuous move is stopped whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from tasks.core.errors import Busy, Rejected, ToolError, Unanswered, Unauthorized, Unreachable, Unsupported
from tasks.core.log import run_logger
from tasks.network.vapix._ptz_reading import MOTORS, PTZ, Head, Means, Position, queue, read_position, tolerance
from tasks.network.vapix._ptz_text import clean
from tasks.network.vapix._wire import Declined

POLL_SECONDS: Final = 0.5
LATER_POLL_SECONDS: Final = 1.0
_QUICK_POLLS = 6
START_SECONDS: Final = 1.5
"""How long a head that should move may stand still before that counts as rest."""
STOP_PAUSES: Final = (0.5, 1.0, 2.0)
"""Seconds between the attempts to stop: what a camera refuses while it is overloaded or locks somebody out, it may take a moment later."""
STOP_SECONDS: Final = 5.0
"""Longest wait for the answer to one attempt to stop."""
STOPPED_SECONDS: Final = 6.0
"""Longest a head may take to come to rest once it is told to."""
LONGEST_STOP: Final = (len(STOP_PAUSES) + 1) * STOP_SECONDS + sum(STOP_PAUSES)


@dataclass(frozen=True)
class Rest:
    """Where a move ended.

    Attributes:
        position: The last position read.
        rested: Whether it rested there, rather than the time being over.
        seconds: From the command to that reading.
        unseen: Why the camera could not be asked when the time was over; None when it could.
    """

    position: Position
    rested: bool
    seconds: float
    unseen: Busy | None = None


async def command(head: Head, **arguments: str) -> None:
    """Send one command to ptz.cgi; it is never sent twice.

    Raises:
        Unanswered: What came back is not the nothing that a command is answered with.
    """
    answer = await head.say(PTZ, arguments, write=True)
    if answer.strip():
        raise Unanswered(
            f"The camera answers a command with {clean(answer, 80)!r}: it may have moved, or not.",
            hint="See where it points: action position.",
        )


async def wait_for_rest(
    head: Head,
    *,
    seconds: float,
    goal: Mapping[str, float] | None = None,
    before: Position | None = None,
    moved: Collection[str] = (),
) -> Rest:
    """Read the position until it no longer changes.

    Others may have the camera's turn between two looks: as long as it is busy with them it is looked at later.

    Args:
        head: The head.
        seconds: Longest time to watch.
        goal: Where it should end, where that is known: there, two equal readings are rest at once.
        before: Where it was: while it still is there, it may not have begun.
        moved: Axes of the lens that were moved too.

    Raises:
        Busy: It could not be asked once, and where it was is not known either.
    """
    axes = {*MOTORS, *(goal or ()), *moved}
    started = same_since = time.monotonic()
    last: Position | None = None
    for look in itertools.count():
        now, unseen = await _look(head)
        passed = time.monotonic() - started
        if now is not None and (last is None or not now.same(last, axes)):
            last, same_since = now, time.monotonic()
        elif now is not None:
            begun = before is not None and not now.same(before, axes)
            there = goal is not None and not missed(now, goal)
            if begun or there or time.monotonic() - same_since >= START_SECONDS:
                return Rest(now, True, passed)
        if passed >= seconds:
            break
        await asyncio.sleep(min(POLL_SECONDS if look < _QUICK_POLLS else LATER_POLL_SECONDS, seconds - passed))
    known = last or before
    if known is None:
        assert unseen is not None
        raise unseen
    return Rest(known, False, passed, unseen)


async def _look(head: Head) -> tuple[Position | None, Busy | None]:
    try:
        return await read_position(head), None
    except Busy as error:
        return None, error


def missed(reached: Position, goal: Mapping[str, float]) -> list[str]:
    """What of a goal was not reached, in words; readings tremble, so a fifth of a degree or ten steps are no miss."""
    said = []
    for axis, asked in goal.items():
        value = reached.axis(axis)
        if value is None:
            continue
        distance = abs(value - asked)
        if axis == "pan":
            distance = min(distance, abs(360.0 - distance))  # -180 and 180 are one place
        if distance > 2 * tolerance(axis):
            said.append(f"{axis} is {value:g}, not {asked:g}")
    return said


@asynccontextmanager
async def in_control(head: Head, means: Means) -> AsyncIterator[None]:
    """Have control of the head where it has to be asked for, and give it back.

    Raises:
        Busy: Others are before us; says for how long.
    """
    if not means.queueing:
        yield
        return
    state = await queue(head, "request")
    try:
        if state.position != 1:
            waiting = max(1, state.seconds_left)
            raise Busy(
                f"Others have control of the head; we are at place {state.position} of its queue.",
                hint=f"The camera says {state.seconds_left} s.",
                retry_after=float(waiting),
            )
        yield
    finally:
        await surely(_drop(head))


async def _drop(head: Head) -> None:
    with suppress(ToolError, TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await queue(head, "drop")


async def drive(head: Head, speeds: Mapping[str, int], seconds: float) -> None:
    """Move on and on for a while, and stop: after an error, a lost answer, a deadline or a cancel as well.

    Args:
        head: The head.
        speeds: Percent of full speed by axis, -100 to 100.
        seconds: How long.

    Raises:
        Unanswered: It could not be told to stop and may still move.
        ToolError: What the camera said to the command; it was told to stop all the same.
    """
    trouble: BaseException | None = None
    try:
        # The camera's turn is kept all the while: a run that had it in between would keep our stop waiting.
        await command(head, **continuous(speeds))
        await asyncio.sleep(seconds)
    except BaseException as error:
        trouble = error
        raise
    finally:
        begun = not _surely_not_begun(trouble)
        try:
            await surely(stop(head, tuple(speeds), insist=begun))
        except ToolError as error:
            if begun:
                if isinstance(trouble, asyncio.CancelledError):
                    # Whoever cancelled may look at no result: the log tells it too. A deadline gets this error instead of its own.
                    run_logger().critical("%s: %s", head.camera.asked, error)
                raise error from trouble


def _surely_not_begun(trouble: BaseException | None) -> bool:
    """Whether nothing moves: the camera said no, let nobody in, or was never reached. Any other answer may come from one that moves."""
    if isinstance(trouble, Unreachable):
        return not isinstance(trouble, Unanswered)
    return isinstance(trouble, (Declined, Unauthorized, Unsupported))


def continuous(speeds: Mapping[str, int]) -> dict[str, str]:
    """The arguments of ptz.cgi for a continuous move; pan and tilt go together.

    >>> continuous({"pan": -30, "zoom": 5})
    {'continuouspantiltmove': '-30,0', 'continuouszoommove': '5'}
    """
    arguments = {}
    if "pan" in speeds or "tilt" in speeds:
        arguments["continuouspantiltmove"] = f"{speeds.get('pan', 0)},{speeds.get('tilt', 0)}"
    for axis in ("zoom", "focus", "iris"):
        if axis in speeds:
            arguments[f"continuous{axis}move"] = str(speeds[axis])
    return arguments


async def stop(head: Head, axes: tuple[str, ...] = ("pan", "tilt", "zoom"), *, insist: bool = True) -> None:
    """Tell the head to stop until it says yes; pan and tilt at last in the other way there is, `move=stop`.

    Args:
        head: The head.
        axes: What moves.
        insist: Whether it moves by our command: then a refusal is no reason to leave it alone, and the account was good a moment ago.

    Raises:
        Unanswered: It did not say yes; it may still move.
        Unauthorized: It lets nobody in; not with `insist`.
        Unsupported: It has no such function; not with `insist`.
    """
    halt = continuous(dict.fromkeys(axes, 0))
    otherwise = {"move": "stop"} if {"pan", "tilt"} & set(axes) else halt
    last = ""
    for pause in (*STOP_PAUSES, None):
        try:
            async with asyncio.timeout(STOP_SECONDS):
                # A stop may arrive twice: it is the one command that is sent again.
                await command(head, **(halt if pause is not None else otherwise))
                return
        except (Unauthorized, Unsupported) as error:
            if not insist:
                raise
            last = str(error)
        except ToolError as error:
            last = str(error)
        except TimeoutError:
            last = f"no answer within {STOP_SECONDS:g} s"
        if pause is not None:
            await asyncio.sleep(pause)
    raise Unanswered(
        f"THE CAMERA MAY STILL BE MOVING: it did not confirm the stop ({last[:300]}).",
        hint="Send the action stop again now, or stop it in the camera's own pages.",
    )


async def confirm_stopped(head: Head, moved: Collection[str] = ()) -> Rest:
    """Watch a head that was told to stop until it rests; tell it once more when it does not.

    Raises:
        Rejected: It moves all the same.
        Unanswered: It was too busy to say.
    """
    rest = await wait_for_rest(head, seconds=STOPPED_SECONDS, moved=moved)
    if not rest.rested:
        await surely(_stop_otherwise(head, tuple(moved)))
        rest = await wait_for_rest(head, seconds=STOPPED_SECONDS, moved=moved)
    if rest.unseen is not None:
        raise Unanswered(
            f"The camera confirmed the stop, but whether it rests could not be seen ({rest.unseen.message}).",
            hint="See where it points: action position.",
        )
    if not rest.rested:
        raise Rejected(
            "THE CAMERA IS STILL MOVING although it confirmed the stop.",
            hint="Somebody else may move it, or a guard tour; look at its own pages.",
        )
    return rest


async def _stop_otherwise(head: Head, axes: tuple[str, ...]) -> None:
    # `move=stop` is for pan and tilt.
    for arguments in (continuous(dict.fromkeys(axes or MOTORS, 0)), {"move": "stop"}):
        with suppress(ToolError, TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await command(head, **arguments)


async def surely(work: Coroutine[Any, Any, None]) -> None:
    """Finish something that must not be left undone, however often we are cancelled meanwhile; the cancel counts afterwards.

    The work bounds itself in time.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and (task.cancelled() or task.exception() is None):
        raise cancelled
    task.result()
