"""The newest API that serves: some cameras list one that is not there, and have the older one all the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from tasks.core.errors import Unsupported

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

T = TypeVar("T")


async def newest(
    camera: Camera, newer: Callable[[], Awaitable[T]], older: Callable[[], Awaitable[T]], names: tuple[str, str]
) -> T:
    """Read by the newer API, or by the older one where the camera does not have the newer after all.

    Args:
        camera: Whose notes say it.
        newer: Reads by the newer API. It writes nothing.
        older: Reads by the older one; `Unsupported` when there is nothing to read.
        names: What the two are called.

    Raises:
        Unsupported: The camera has neither; says what is wrong with the newer one.
    """
    try:
        return await newer()
    except Unsupported as missing:
        try:
            found = await older()
        except Unsupported:
            raise missing from None
        camera.notes.append(
            f"It lists {names[0]}, which does not serve ({missing.message.rstrip('.')}); {names[1]} was asked in its place."
        )
        return found
