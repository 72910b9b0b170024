"""Why the embedded stack cannot do what was asked, in words for the person who typed the command."""

from __future__ import annotations

from tasks.core.errors import ToolError


class StackError(ToolError):
    """The embedded stack could not be started, stopped or asked; `hint` names the command or variable that helps."""

    def __init__(self, message: str, hint: str | None = None, *, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint, retry_after=retry_after)
