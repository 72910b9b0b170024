"""What can go wrong with a camera, on demand: per path, for a number of requests."""

from __future__ import annotations

import fnmatch
import gzip
import json
from dataclasses import dataclass, field
from typing import Literal

from deployments.demo.axis_camera._messages import Response

Kind = Literal[
    "delay", "slow", "hang", "close", "reset", "truncate", "truncate-json", "html", "empty", "garbage", "content-type", "charset",
    "oversized", "gzip-bomb", "duplicate-keys", "doctype", "500", "500-json", "503", "503-retry", "404", "405", "429", "param-error",
    "error-text", "both", "neither", "code-as-string", "redirect", "redirect-https", "reboot", "stale", "answer",
]  # fmt: skip
"""Kinds of faults:

- of the connection: `hang` never answers; `close` accepts the request and closes; `reset` sends half an answer, then a TCP reset;
  `truncate` ends the connection before the body is whole; `delay` waits `seconds` and answers; `slow` sends the body in pieces with
  `seconds` between;
- of the body: `truncate-json` is half a body with a right length; `html` a login page with 200; `empty`; `garbage` is random bytes;
  `content-type` the wrong one; `charset` adds ISO-8859-1 bytes; `oversized` has `size` bytes more; `gzip-bomb` unpacks to `size` bytes;
  `duplicate-keys` repeats JSON keys with other values; `doctype` puts entities before XML; `param-error` is `# Error: ...` and
  `error-text` is `Error:...`, both with 200; `both` and `neither` of data and error; `code-as-string`;
- of the status: `500`, `500-json`, `503`, `503-retry`, `404`, `405`, `429`, `redirect` to `location`, `redirect-https`;
- of the device: `reboot` restarts it instead of answering; `stale` calls the nonce expired; `answer` sends `response`.
"""
HALF_WAY: frozenset[str] = frozenset({
    "hang", "close", "404", "405", "429", "500", "500-json", "503", "503-retry", "redirect", "redirect-https", "reboot", "stale", "html",
    "empty", "param-error", "error-text", "answer",
})  # fmt: skip
"""Faults in whose case the request has no effect, unless `effect` says so."""
LOGIN_PAGE = b"<!DOCTYPE html><html><head><title>Login</title></head><body><form action='/login'>Please log in</form></body></html>"
MIB = 1024 * 1024


@dataclass
class Fault:
    """One fault.

    Attributes:
        kind: What goes wrong.
        count: How many requests it hits; None for all until it is removed.
        skip: How many matching requests pass before the first one.
        seconds: How long `delay` and `slow` wait.
        effect: Let the request have its effect although its answer is lost (None: what is natural for the kind).
        bare: Hit requests before anybody looks at their credentials; else only those that would reach the API.
        method: Hit only requests for this method of a JSON API, or this HTTP verb.
        size: Bytes of `oversized`, and of what `gzip-bomb` unpacks to.
        location: Where `redirect` goes.
        response: What `answer` sends.
    """

    kind: Kind
    count: int | None = 1
    skip: int = 0
    seconds: float = 1.0
    effect: bool | None = None
    bare: bool = False
    method: str | None = None
    size: int = 32 * MIB
    location: str = "http://198.51.100.7/axis-cgi/elsewhere.cgi"
    response: Response | None = None
    hits: int = 0

    @property
    def has_effect(self) -> bool:
        """Whether the request is carried out all the same."""
        return self.kind not in HALF_WAY if self.effect is None else self.effect


@dataclass
class Faults:
    """The faults of one camera."""

    _faults: list[tuple[str, Fault]] = field(default_factory=list)

    def add(self, path: str, fault: Fault | Kind) -> Fault:
        """Let a fault happen on a path; `*` stands for anything in it."""
        made = fault if isinstance(fault, Fault) else Fault(fault)
        self._faults.append((path, made))
        return made

    def clear(self, path: str | None = None) -> None:
        """Remove the faults of a path, or all."""
        self._faults = [one for one in self._faults if path is not None and one[0] != path]

    def take(self, path: str, verb: str, body: bytes, *, bare: bool) -> Fault | None:
        """The fault this request meets, counted; None for a request that goes well."""
        for pattern, fault in self._faults:
            if fault.bare is not bare or fault.count == 0:
                continue
            if pattern != path and not ("*" in pattern and fnmatch.fnmatchcase(path, pattern)):
                continue
            if fault.method is not None and fault.method != verb and f'"{fault.method}"'.encode() not in body:
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.count is not None:
                fault.count -= 1
            fault.hits += 1
            return fault
        return None


def spoil(fault: Fault, answer: Response | None, path: str, host: str) -> Response:
    """Turn an answer into what the fault makes of it. The faults of the connection itself leave it as it is."""
    answer = answer or Response()
    body, json_type = answer.body, "application/json"
    match fault.kind:
        case "html":
            return Response(200, LOGIN_PAGE, "text/html; charset=utf-8")
        case "empty":
            return Response(200, b"", answer.content_type)
        case "garbage":
            return Response(
                200, bytes((number * 73 + 41) % 256 for number in range(max(len(body), 400))), answer.content_type
            )
        case "truncate-json":
            return Response(answer.status, body[: len(body) // 2], answer.content_type)
        case "content-type":
            return Response(answer.status, body, "application/octet-stream")
        case "charset":
            return Response(
                answer.status,
                body.replace(b"=", b"=\xe9\xfc\xdf") if b"=" in body else body + b"\xe9\xfc\xdf",
                answer.content_type,
            )
        case "oversized":
            filler = b"root.Filler.Value=" + b"x" * 1006 + b"\n"
            return Response(200, body + filler * (fault.size // len(filler) + 1), answer.content_type)
        case "gzip-bomb":
            bomb = gzip.compress(b"\0" * fault.size, compresslevel=9)
            return Response(200, bomb, answer.content_type, {"Content-Encoding": "gzip"})
        case "duplicate-keys":
            return Response(200, b'{"apiVersion": "9.9", "data": {}, ' + body.lstrip()[1:], json_type)
        case "doctype":
            entity = b'<?xml version="1.0"?>\n<!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;">]>\n'
            rest = body.partition(b"?>")[2] if body.startswith(b"<?xml") else body
            return Response(200, entity + rest, "text/xml")
        case "500":
            return Response(500, b"")
        case "500-json":
            return Response(
                500,
                json.dumps({"apiVersion": "1.0", "error": {"code": 1100, "message": "Internal error"}}).encode(),
                json_type,
            )
        case "503":
            return Response(503, b"<html><body>Service Unavailable</body></html>", "text/html")
        case "503-retry":
            wait = {"Retry-After": str(int(fault.seconds))}
            return Response(503, b"<html><body>Service Unavailable</body></html>", "text/html", wait)
        case "404" | "405" | "429":
            return Response.page(int(fault.kind))
        case "param-error":
            return Response.text(f"# Error: Error -1 getting param in group '{path}'\n")
        case "error-text":
            return Response.text("Error:the device has another opinion\n")
        case "both" | "neither" | "code-as-string":
            return Response.json(_envelope(fault.kind, body))
        case "redirect":
            return Response(302, b"", "text/html", {"Location": fault.location})
        case "redirect-https":
            return Response(301, b"", "text/html", {"Location": f"https://{host.rpartition(':')[0] or host}{path}"})
        case "answer" if fault.response is not None:
            return fault.response
    return answer


def _envelope(kind: str, body: bytes) -> dict[str, object]:
    try:
        made = dict(json.loads(body))
    except (ValueError, TypeError):
        made = {"apiVersion": "1.0", "data": {}}
    error: dict[str, object] = {"code": "1000" if kind == "code-as-string" else 1000, "message": "Invalid value"}
    if kind == "both":
        made.setdefault("data", {})
        return {**made, "error": error}
    made.pop("data", None)
    made.pop("error", None)
    return {**made, "error": error} if kind == "code-as-string" else made
