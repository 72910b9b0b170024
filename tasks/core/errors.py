"""Every way a tool can fail, named by what the caller should do next.

A `ToolError` says what went wrong in `str(error)` and what to do about it in `error.hint`. Neither may contain a secret, the path of a
webhook URL, or a parameter marked secret: both reach logs, Prefect states, the ledger and the screen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from tasks.core.process import Completed


class ToolError(Exception):
    """A tool could not do what was asked.

    Args:
        message: What went wrong, in one sentence an operator understands.
        hint: The next step: a command, a setting, a parameter that would be right.
        retry_after: Seconds the other side asked us to wait, when it did.
    """

    retryable: bool = False
    """Whether the same call may succeed later with nothing changed by us; of one error it can be taken back."""
    exit_status: ClassVar[int] = 1
    """Exit status of the `signalbox` command: 1 failed, 2 wrong usage, 3 refused, 4 unreachable or not found."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword arguments do not survive pickling by themselves; offload and Prefect both pickle.
        return (_rebuild, (type(self), self.message, self.hint, self.retry_after, self.retryable))


def _rebuild(
    kind: type[ToolError], message: str, hint: str | None, retry_after: float | None, retryable: bool
) -> ToolError:
    error = kind(message, hint=hint, retry_after=retry_after)
    error.retryable = retryable
    return error


class InvalidParameters(ToolError, ValueError):
    """A parameter is wrong; says which, what was given (unless secret) and what is right."""

    exit_status = 2


class UnknownTool(ToolError, LookupError):
    """No tool has this name or alias; names the nearest ones."""

    exit_status = 2


class Refused(ToolError):
    """Policy forbids it; names the rule and the command that would change it. Nothing was sent."""

    exit_status = 3


class MissingProgram(ToolError):
    """A program or privilege this tool needs is not there; says how to get it."""


class Unreachable(ToolError):
    """The other side did not answer, or there is no way to it."""

    retryable = True
    exit_status = 4


class Untrusted(Unreachable):
    """The other side's certificate does not prove who it is, so nothing was sent. Trying again does not make it true."""

    retryable = False


class Unanswered(Unreachable):
    """It was sent and no answer came: it may have arrived, so it is not sent a second time."""

    retryable = False


class ToolTimeout(ToolError, TimeoutError):
    """The tool's own deadline passed. Also a `TimeoutError`, so that Prefect names the state TimedOut."""

    partial: Completed | None = None
    """What a program gave until its deadline, where `run_command` raised this; does not survive pickling."""


class CommandFailed(ToolError):
    """A program ended with an error; carries its exit status and the end of its error output."""

    completed: Completed | None = None
    """What the program gave, where `run_command` raised this; does not survive pickling."""


class Unauthorized(ToolError):
    """Credentials were refused. Never retried: repeated attempts lock accounts."""


class Forbidden(Unauthorized):
    """The credentials are good, but not for this: it takes a higher level, or another account."""


class Unsupported(ToolError):
    """The other side cannot do this."""


class Rejected(ToolError):
    """The other side understood and said no."""


class NotFound(ToolError):
    """What was named does not exist."""

    exit_status = 4


class Conflict(ToolError):
    """It changed meanwhile, or exists already."""


class Busy(ToolError):
    """Try again later; `retry_after` says when, if known."""

    retryable = True


class DatabaseGone(ToolError):
    """The inventory database does not answer, or does not answer in time."""

    retryable = True


def is_retryable(error: BaseException | None) -> bool:
    """Whether a retry of the same call can help. Errors that do not name themselves retryable are not."""
    return isinstance(error, ToolError) and error.retryable
