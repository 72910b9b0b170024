"""The small Prefect client of the stack's own commands."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deployments.local.api import Api
from deployments.local.errors import StackError


@contextmanager
def answering(*statuses: int) -> Iterator[tuple[Api, list[str]]]:
    """An API that gives these answers one after the other, then the last one for ever."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = statuses[min(len(asked), len(statuses) - 1)]
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Api(f"http://127.0.0.1:{server.server_address[1]}/api"), asked
        server.shutdown()


def test_a_busy_server_is_asked_again_and_one_that_says_no_is_not() -> None:
    with answering(503, 503, 200) as (api, asked):
        assert api.call("POST", "/flows/", {}) == {} and len(asked) == 3
    with answering(500) as (api, asked):
        with pytest.raises(StackError, match="answered 500 to POST /flows/"):
            api.call("POST", "/flows/", {})
        assert len(asked) == 1


def test_a_server_that_stays_busy_is_given_up() -> None:
    with answering(503) as (api, asked):
        with pytest.raises(StackError, match="answered 503"):
            api.call("POST", "/flows/", {})
        assert len(asked) == 4
