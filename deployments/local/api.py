"""Ask a Prefect API with the standard library alone: `status`, `doctor` and the supervisor do not import Prefect for it."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import Any

from deployments.local.errors import StackError


class _Busy(StackError):
    """The server had no time; asking again is harmless."""


class Api:
    """A Prefect API.

    Args:
        url: Its address, ending in `/api`.
        auth: Its login `user:password`, when it has one.
        key: A bearer token instead, as Prefect Cloud takes.
    """

    def __init__(self, url: str, auth: str | None = None, key: str | None = None) -> None:
        self.url = url.rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise StackError(f"PREFECT_API_URL is {url!r}; right would be http://127.0.0.1:4200/api.")
        self._headers = {"Content-Type": "application/json"}
        if auth:
            self._headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
        elif key:
            self._headers["Authorization"] = f"Bearer {key}"
        # Never through a proxy of the environment when the server is on this very machine.
        handlers = [urllib.request.ProxyHandler({})] if "//127.0.0.1" in self.url else []
        self._opener = urllib.request.build_opener(*handlers)

    @classmethod
    def from_environment(cls, environment: dict[str, str]) -> Api:
        """Return the API that the variables of `environment()` name."""
        return cls(
            environment["PREFECT_API_URL"],
            environment.get("PREFECT_API_AUTH_STRING"),
            environment.get("PREFECT_API_KEY"),
        )

    def call(self, method: str, path: str, body: object = None, timeout: float = 10.0) -> Any:
        """Return the decoded answer to one request; None for an empty one.

        Raises:
            StackError: No answer, or one that says no.
        """
        for pause in (0.5, 1.0, 2.0):
            try:
                text, _ = self._exchange(method, path, body, timeout)
                break
            except _Busy:
                time.sleep(pause)
        else:
            text, _ = self._exchange(method, path, body, timeout)
        return json.loads(text) if text else None

    def date(self, timeout: float = 10.0) -> str | None:
        """Return what the server's clock shows, as the HTTP header it sends.

        Raises:
            StackError: No answer.
        """
        return self._exchange("GET", "/health", None, timeout)[1].get("Date")

    def _exchange(self, method: str, path: str, body: object, timeout: float) -> tuple[bytes, Message]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=self._headers, method=method)  # noqa: S310 - see __init__
        try:
            with self._opener.open(request, timeout=timeout) as answer:
                return answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            hint = "Check PREFECT_API_AUTH_STRING or PREFECT_API_KEY." if error.code in (401, 403) else None
            # Prefect says 503 when its database is busy: nothing was done, and a moment later it may be.
            kind = _Busy if error.code == 503 else StackError
            raise kind(f"The Prefect API at {self.url} answered {error.code} to {method} {path}.", hint) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise StackError(
                f"The Prefect API at {self.url} does not answer: {reason}.", "See: signalbox status"
            ) from None

    def answers(self, path: str, timeout: float = 5.0) -> bool:
        """Whether a GET of this path is answered well."""
        try:
            self.call("GET", path, timeout=timeout)
        except StackError:
            return False
        return True

    def healthy(self, timeout: float = 5.0) -> bool:
        """Whether the server answers and reaches its database."""
        try:
            self.call("GET", "/health", timeout=timeout)
            self.call("POST", "/flows/count", {}, timeout=timeout)
        except StackError:
            return False
        return True
