"""Call one function in this process and write its pickled answer to standard output, for `tasks.core.offload`."""

from __future__ import annotations

import marshal
import os
import pickle
import sys
import traceback


def describe(error: BaseException) -> bytes:
    """Pickle an error for the other side; one that does not survive that becomes a RuntimeError with the same words."""
    text = "".join(traceback.format_exception(error))
    try:
        data = pickle.dumps((False, error, text))
        pickle.loads(data)  # noqa: S301 - our own words; some exceptions pickle and then do not load
    except Exception:  # noqa: BLE001 - whatever a foreign exception's reduce raises
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}"), text))
    return data


def main() -> None:
    """Read `sys.path`, the function and its arguments from standard input, call, answer."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what the function prints must not end up in the answer
    given = sys.stdin.buffer.read()
    size = int.from_bytes(given[:4], "big")
    sys.path[:] = marshal.loads(given[4 : 4 + size])  # noqa: S302 - from the process that started us
    try:
        function, arguments = pickle.loads(given[4 + size :])  # noqa: S301 - from the process that started us
        data = pickle.dumps((True, function(*arguments), None), protocol=pickle.HIGHEST_PROTOCOL)
    except BaseException as error:  # noqa: BLE001 - it belongs to the caller, whatever it is
        data = describe(error)
    view = memoryview(data)
    while view:
        view = view[os.write(answer, view) :]


if __name__ == "__main__":
    main()
