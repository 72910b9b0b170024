"""What the tests of network tools share."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture(autouse=True)
def no_names_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names under `.invalid` do not exist (RFC 6761), and no test asks a resolver outside this machine to say so."""
    ask = socket.getaddrinfo

    def getaddrinfo(host: str, *rest: object, **options: object) -> object:
        if isinstance(host, str) and host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
