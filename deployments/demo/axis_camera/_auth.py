"""Who may log in, and how: digest and Basic as the cameras do them, their policies, and the guard against guessing."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from deployments.demo.axis_camera._messages import Account

Transport = Literal["http", "https", "rtsp"]
MOST_NONCES = 4096
_PAIR = re.compile(r'(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))')


def offered(policy: str, transport: Transport, *, both: bool = False) -> list[str]:
    """Schemes a policy offers on a transport, as the values of `Network.HTTP.AuthenticationPolicy` mean them.

    Args:
        policy: `basic`, `digest`, `basic_digest` or `recommended`.
        transport: Where.
        both: Old firmware offers both under `basic_digest`, everywhere.
    """
    match policy:
        case "basic":
            return ["basic"]
        case "basic_digest" if transport == "rtsp" or both:
            return ["digest", "basic"]
        case "recommended" if transport == "https":
            return ["basic"]
    return ["digest"]


def parse_digest(header: str) -> dict[str, str]:
    """The fields of a `Digest ...` header, names in lower case."""
    _, _, rest = header.partition(" ")
    return {match[1].lower(): match[2] if match[2] is not None else match[3] for match in _PAIR.finditer(rest)}


@dataclass(frozen=True)
class Verdict:
    """What came of a request's credentials.

    Attributes:
        account: Whose they are; None when they are missing or wrong.
        scheme: `digest` or `basic` when there were any.
        stale: Right ones, with a nonce that has expired.
        wrong: They were sent and are wrong: counts as a failed login.
    """

    account: Account | None = None
    scheme: str | None = None
    stale: bool = False
    wrong: bool = False


@dataclass
class Throttle:
    """The guard against guessing: more than `most` failures within `interval` seconds block the client for `period` seconds."""

    on: bool = True
    most: int = 20
    interval: float = 1.0
    period: float = 10.0
    answer: Literal[403, 503, "reset"] = 403
    """What a blocked client gets. Nobody has recorded what a real device sends."""
    clock: Callable[[], float] = time.monotonic
    _failures: dict[str, deque[float]] = field(default_factory=dict)
    _blocked: dict[str, float] = field(default_factory=dict)

    def failed(self, client: str) -> None:
        """Count a failed login."""
        now = self.clock()
        times = self._failures.setdefault(client, deque())
        times.append(now)
        while times[0] < now - self.interval:
            times.popleft()
        if self.on and len(times) > self.most:
            self._blocked[client] = now + self.period
            times.clear()

    def blocks(self, client: str) -> bool:
        """Whether the client is blocked now."""
        until = self._blocked.get(client)
        if until is None:
            return False
        if until > self.clock():
            return True
        del self._blocked[client]
        return False


class Authenticator:
    """The logins of one camera.

    Attributes:
        accounts: By name.
        nonce_seconds: How long a nonce lives.
        stale_every: Call the nonce of every n-th right digest expired; 0 never.
        refuse_all: No account works: the camera has not been set up.
        handed_out: Nonces made so far.
    """

    def __init__(self, realm: str, accounts: Mapping[str, Account]) -> None:
        self.realm = realm
        self.accounts: dict[str, Account] = dict(accounts)
        self.nonce_seconds = 300.0
        self.stale_every = 0
        self.refuse_all = False
        self.handed_out = 0
        self._right = 0
        self._nonces: OrderedDict[str, tuple[float, set[int]]] = OrderedDict()

    # --- the challenge ---------------------------------------------------------------------------------------------------

    def nonce(self) -> str:
        """A fresh nonce."""
        self.handed_out += 1
        nonce = f"{base64.b64encode(secrets.token_bytes(12)).decode()}{secrets.token_hex(20)}"
        self._nonces[nonce] = (time.monotonic(), set())
        while len(self._nonces) > MOST_NONCES:
            self._nonces.popitem(last=False)
        return nonce

    def expire_nonces(self) -> None:
        """Let every nonce expire now."""
        self._nonces.clear()

    def challenges(self, schemes: list[str], *, qop: bool, stale: bool = False) -> list[str]:
        """The values of the `WWW-Authenticate` headers."""
        made = []
        for scheme in schemes:
            if scheme == "basic":
                made.append(f'Basic realm="{self.realm}"')
                continue
            parts = [f'Digest realm="{self.realm}"', f'nonce="{self.nonce()}"', "algorithm=MD5"]
            parts += ["stale=true"] if stale else []
            parts += ['qop="auth"'] if qop else []
            made.append(", ".join(parts))
        return made

    # --- the answer to it ------------------------------------------------------------------------------------------------

    def judge(
        self, authorization: str | None, method: str, target: str, schemes: list[str], *, same_uri: bool = True
    ) -> Verdict:
        """Judge the `Authorization` header of a request.

        Args:
            authorization: The header; None without one.
            method: Verb of the request.
            target: Path and query exactly as they came; with `same_uri` the digest must be about it.
            schemes: What is accepted here.
            same_uri: Off for RTSP, where clients send one URI for all requests.
        """
        if not authorization:
            return Verdict()
        scheme = authorization.partition(" ")[0].lower()
        if scheme not in schemes:
            return Verdict(scheme=scheme, wrong=True)
        if scheme == "basic":
            return self._judge_basic(authorization)
        fields = parse_digest(authorization)
        if same_uri and fields.get("uri") != target:
            return Verdict(scheme="digest", wrong=True)
        return self._judge_digest(fields, method)

    def _judge_basic(self, authorization: str) -> Verdict:
        try:
            plain = base64.b64decode(authorization.partition(" ")[2], validate=True).decode("utf-8", "replace")
        except (binascii.Error, ValueError):
            return Verdict(scheme="basic", wrong=True)
        name, _, password = plain.partition(":")
        account = None if self.refuse_all else self.accounts.get(name)
        if account is None or not hmac.compare_digest(account.password.encode(), password.encode()):
            return Verdict(scheme="basic", wrong=True)
        return Verdict(account, "basic")

    def _judge_digest(self, fields: Mapping[str, str], method: str) -> Verdict:
        account = None if self.refuse_all else self.accounts.get(fields.get("username", ""))
        if account is None or fields.get("realm") != self.realm:
            return Verdict(scheme="digest", wrong=True)
        secret = _md5(f"{account.name}:{self.realm}:{account.password}")
        request = _md5(f"{method}:{fields.get('uri', '')}")
        nonce, qop = fields.get("nonce", ""), fields.get("qop")
        middle = f"{nonce}:{fields.get('nc', '')}:{fields.get('cnonce', '')}:{qop}" if qop else nonce
        if (qop and qop != "auth") or not hmac.compare_digest(
            _md5(f"{secret}:{middle}:{request}").encode(), fields.get("response", "").encode()
        ):
            return Verdict(scheme="digest", wrong=True)
        # From here on the password is right: whatever is wrong with the nonce is answered with a new one.
        known = self._nonces.get(nonce)
        if known is None or time.monotonic() - known[0] > self.nonce_seconds:
            return Verdict(scheme="digest", stale=True)
        if qop:
            try:
                count = int(fields.get("nc", ""), 16)
            except ValueError:
                return Verdict(scheme="digest", wrong=True)
            # Requests at once may overtake each other, so a lower number is fine and only a repeated one is not.
            if count in known[1]:
                return Verdict(scheme="digest", stale=True)
            known[1].add(count)
        self._right += 1
        if self.stale_every and self._right % self.stale_every == 0:
            del self._nonces[nonce]
            return Verdict(scheme="digest", stale=True)
        return Verdict(account, "digest")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
