"""Log in to a camera: Digest where it is offered, Basic where nobody can read it, and one attempt with a password.

The first request goes out bare, the answer says what the camera accepts. A 401 to a request with credentials is final: cameras lock out
who guesses. Only `stale=true` with a new nonce is answered once more, because that says the password was right (RFC 7616, section 3.3).
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from tasks.core.errors import Forbidden, Unauthorized, Untrusted
from tasks.core.scrub import MASK, scrub

REMEMBERED_SECONDS = 60.0
"""How long a refused password is not tried again by this process: a flow that runs six tools must not make six wrong attempts."""
_HASHES: dict[str, Callable[[bytes], hashlib._Hash]] = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
# Names begin where a word does: begun at each letter, a long word without an equals sign would take its length squared.
_PARAMETER = re.compile(r'(?<![A-Za-z0-9_-])([A-Za-z0-9_-]{1,40})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SERIAL = re.compile(r"AXIS_([0-9A-Fa-f]{12})")
_WHO = "Has another device the camera's address now, or do two share it?"
_RESPONSE = re.compile(r"""(\bresponse\W{0,3}[=:]\W{0,4})[0-9a-fA-F]{8,}""")
_TELLING = 4
"""How much of the beginning of a secret is worth masking, characters."""
_LONGEST_CHALLENGE = 4096
_MOST_HEADERS = 8


@dataclass(frozen=True)
class Challenge:
    """What a server asks for.

    Attributes:
        scheme: `digest` or `basic`.
        realm: Whose password it wants.
        nonce: Digest: to be hashed into the answer.
        opaque: Digest: to be sent back as it is.
        algorithm: Digest: MD5 or SHA-256, with -sess or without.
        qop: Digest: whether counters are part of the answer; the oldest cameras know none.
        stale: Digest: the password was right, the nonce too old.
    """

    scheme: str
    realm: str
    nonce: str = ""
    opaque: str | None = None
    algorithm: str = "MD5"
    qop: bool = False
    stale: bool = False

    @property
    def serial(self) -> str | None:
        """The serial number that Axis devices name in their realm."""
        match = _SERIAL.fullmatch(self.realm)
        return match[1].upper() if match else None


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """Return the challenges of `WWW-Authenticate` headers that we can answer, in the order given.

    >>> [challenge.scheme for challenge in parse_challenges(['Basic realm="AXIS_00408C123456"', 'Negotiate'])]
    ['basic']
    """
    found = []
    for header in headers[:_MOST_HEADERS]:
        text = header[:_LONGEST_CHALLENGE]
        # Several challenges may stand in one header, each begins with its scheme and a parameter.
        starts = [match.start(1) for match in re.finditer(r"(?:^|,)\s*((?:Digest|Basic)\s)", text, re.IGNORECASE)]
        for start, end in itertools.pairwise([*starts, len(text)]):
            challenge = _challenge(text[start:end])
            if challenge is not None:
                found.append(challenge)
    return found


def _challenge(text: str) -> Challenge | None:
    scheme, _, rest = text.partition(" ")
    values = {
        match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        for match in _PARAMETER.finditer(rest)
    }
    if scheme.lower() == "basic":
        return Challenge("basic", values.get("realm", ""))
    algorithm = values.get("algorithm", "MD5").upper()
    qops = [part.strip().lower() for part in values.get("qop", "").split(",") if part.strip()]
    if algorithm.removesuffix("-SESS") not in _HASHES or not values.get("nonce") or "realm" not in values:
        return None
    if qops and "auth" not in qops:
        return None
    if not all(
        text.isascii() and text.isprintable() for text in (values["realm"], values["nonce"], values.get("opaque", ""))
    ):
        return None  # they go back in a header
    return Challenge(
        "digest",
        values["realm"],
        nonce=values["nonce"],
        opaque=values.get("opaque"),
        algorithm=algorithm,
        qop=bool(qops),
        stale=values.get("stale", "").lower() == "true",
    )


def digest_header(
    challenge: Challenge, username: str, password: str, method: str, uri: str, count: int, client_nonce: str
) -> str:
    """Answer a Digest challenge (RFC 7616; without qop as RFC 2069).

    Args:
        challenge: What was asked for.
        username: Name of the account.
        password: Its password.
        method: Method of the request.
        uri: Its whole target: path and query.
        count: How often this nonce is used, from 1.
        client_nonce: A nonce of ours.
    """

    def digest(*parts: str) -> str:
        return _HASHES[challenge.algorithm.removesuffix("-SESS")](":".join(parts).encode()).hexdigest()

    secret = digest(username, challenge.realm, password)
    if challenge.algorithm.endswith("-SESS"):
        secret = digest(secret, challenge.nonce, client_nonce)
    request = digest(method, uri)
    counter = f"{count:08x}"
    if challenge.qop:
        response = digest(secret, challenge.nonce, counter, client_nonce, "auth", request)
    else:
        response = digest(secret, challenge.nonce, request)
    parts = [
        f'username="{_quoted(username)}"',
        f'realm="{_quoted(challenge.realm)}"',
        f'nonce="{_quoted(challenge.nonce)}"',
        f'uri="{uri}"',
        f'response="{response}"',
        f"algorithm={challenge.algorithm}",
    ]
    if challenge.opaque is not None:
        parts.append(f'opaque="{_quoted(challenge.opaque)}"')
    if challenge.qop:
        parts += ["qop=auth", f"nc={counter}", f'cnonce="{client_nonce}"']
    elif challenge.algorithm.endswith("-SESS"):
        parts.append(f'cnonce="{client_nonce}"')
    return "Digest " + ", ".join(parts)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


class CameraLogin:
    """The login of one conversation; a `tasks.core.http.Login`, and of use for RTSP and WebSockets as well.

    Args:
        place: What is logged in to, for errors.
        username: Name of the account.
        password: Its password.
        secure: Whether nobody on the way can read what is sent.
        clear_text: Whether the password may be sent in clear text where somebody can.
        certified: Whether a certificate proves who answers.
        key: What a refused password is remembered under: site, address and port of the camera's web server.
        serial: The serial number the device must have: one that does not say it before it asks for a login gets no credentials.

    Attributes:
        serial: The serial number of the device, once it is known: a realm that names another one gets no credentials.
        introduced: Whether the device has said, here and to anybody, what it is.
        realm: Whose password it wanted so far.
        proven: Whether the camera has accepted the credentials in this conversation.
        shown: Whether the password was sent as it is, by Basic.
    """

    def __init__(
        self,
        place: str,
        username: str,
        password: str,
        *,
        secure: bool,
        clear_text: bool,
        certified: bool,
        key: tuple[str, str, int],
        serial: str | None = None,
    ) -> None:
        self._place, self._username, self._password = place, username, password
        self._basic_allowed = secure or clear_text
        self._certified, self._expected = certified, serial
        self._memory = _remembered_as(key, username, password)
        self._challenge: Challenge | None = None
        self._count = 0
        self.serial = serial
        self.introduced = False
        self.realm: str | None = None
        self.proven = False
        self.shown = False

    @property
    def scheme(self) -> str | None:
        """`digest` or `basic`, once the camera has asked and accepted."""
        return self._challenge.scheme if self._challenge is not None and self.proven else None

    def authorization(self, method: str, target: str) -> str | None:
        """What to send along: nothing before the first challenge.

        Raises:
            Unauthorized: The camera refused these credentials a moment ago.
        """
        challenge = self._challenge
        if challenge is None:
            return None
        left = _refused.get(self._memory, 0.0) - time.monotonic()
        if left > 0 and not self.proven:
            raise Unauthorized(
                f"{self._place} refused the user {self._username!r} a moment ago; it is not tried again for {left:.0f} s.",
                hint="Cameras lock out who guesses: correct the block first.",
            )
        if challenge.scheme == "basic":
            self.shown = True
            return "Basic " + base64.b64encode(f"{self._username}:{self._password}".encode()).decode()
        self._count += 1
        return digest_header(
            challenge, self._username, self._password, method, target, self._count, secrets.token_hex(8)
        )

    def challenged(self, challenges: Sequence[str], *, tried: int) -> None:
        """Choose how to answer a 401.

        Raises:
            Unauthorized: The password is wrong, or the camera accepts only what we may not send.
            Forbidden: The account is good, but its level too low.
            Untrusted: Another device answers than the one that is meant, or than a moment ago; or nobody knows what it is.
        """
        offered = parse_challenges(challenges)
        chosen = next((challenge for challenge in offered if challenge.scheme == "digest"), None)
        if tried == 0:
            if chosen is None and self._basic_allowed:
                chosen = next((challenge for challenge in offered if challenge.scheme == "basic"), None)
            if chosen is None:
                raise self._no_scheme(offered)
            self._take(chosen)
            return
        old = self._challenge
        if tried == 1 and chosen is not None and chosen.stale and old is not None and chosen.nonce != old.nonce:
            self._take(chosen)
            return
        if self.proven:
            raise Forbidden(
                f"{self._place} knows the user {self._username!r}, but refuses this (HTTP 401).",
                hint="It takes an account of a higher level: viewer, operator, administrator; or one with PTZ rights.",
            )
        _refused[self._memory] = time.monotonic() + REMEMBERED_SECONDS
        raise Unauthorized(
            f"{self._place} refuses the user {self._username!r} or its password.",
            hint="It was tried once: cameras lock out who guesses. Correct the block.",
        )

    def accepted(self) -> None:
        """Note that the camera took the credentials."""
        self.proven = True
        _refused.pop(self._memory, None)

    def _take(self, challenge: Challenge) -> None:
        if self.serial is not None and challenge.serial is not None and challenge.serial != self.serial:
            raise Untrusted(
                f"{self._place} is {challenge.serial}, not {self.serial}: no credentials were sent.",
                hint=_WHO,
            )
        if self._challenge is not None and challenge.realm != self._challenge.realm:
            raise Untrusted(
                f"{self._place} wants another login than a moment ago: no credentials were sent.", hint=_WHO
            )
        if challenge.serial is None and not self._known(challenge.realm):
            if self._expected is not None:
                raise Untrusted(
                    f"{self._place} does not say that it is {self._expected}: no credentials were sent.", hint=_WHO
                )
            # A digest gives nobody the password, and an owner may have named the realm. Basic is the password itself.
            if challenge.scheme == "basic" and not self._certified:
                raise Untrusted(
                    f"{self._place} says nowhere that it is an Axis device, and no certificate proves it: "
                    "the password was not sent in a form that it can read.",
                    hint="Is it the right address and port? With a certificate that is checked (https) it is sent.",
                )
        self._challenge, self._count, self.realm = challenge, 0, challenge.realm

    def _known(self, realm: str) -> bool:
        """Whether the device has said who it is, where its realm does not."""
        return self.introduced if self.realm is None else realm == self.realm

    def _no_scheme(self, offered: Sequence[Challenge]) -> Unauthorized:
        if offered:  # only Basic, over http
            return Unauthorized(
                f"{self._place} accepts passwords in clear text only, and this connection is not encrypted.",
                hint="Use scheme https in the block, or allow basic_over_http there.",
            )
        return Unauthorized(f"{self._place} offers no way to log in that we know: Digest, or Basic over https.")


class LoginSecrets:
    """What gives an account away when a camera repeats it: the password, and what a login sends of it.

    Args:
        username: Name of the account.
        password: Its password.

    Attributes:
        plain: What `scrub` is to mask, in all its encodings.
    """

    def __init__(self, username: str, password: str) -> None:
        pair = f"{username}:{password}"
        self.plain = (pair, password)
        self._spellings = (password, quote(password, safe=""), base64.b64encode(pair.encode()).decode())

    def mask(self, text: str) -> str:
        """Mask all of it in what a camera said, also where that was cut short in the middle of it.

        >>> LoginSecrets("root", "hunter2secret").mask("It was sent Basic cm9vdDpodW50ZXIyc2VjcmV0 or Basic cm9vdDpodW50Z...")
        'It was sent Basic *** or Basic ***...'
        """
        # Not the password, but whoever has it can try passwords on it without asking the camera.
        text = _RESPONSE.sub(rf"\g<1>{MASK}", scrub(text, self.plain))
        for spelling in self._spellings:
            text = _masked_beginnings(text, spelling)
        return text


def _masked_beginnings(text: str, secret: str) -> str:
    """Mask the beginnings of a secret that end where the text was cut short (`...`)."""
    head, pieces, done = secret[:_TELLING], [], 0
    at = text.find(head) if len(secret) > _TELLING else -1
    while at >= 0:
        end = at + len(head)
        while text[end : end + 1] == secret[end - at : end - at + 1] != "":
            end += 1
        if text.startswith("...", end):
            pieces += [text[done:at], MASK]
            done = end
        at = text.find(head, end)
    return "".join([*pieces, text[done:]])


class Passerby:
    """Who has no account: sends nothing, and reads the serial number off the door.

    Args:
        place: What is asked, for errors.

    Attributes:
        serial: The serial number that the camera's demand for a login names.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self.serial: str | None = None

    def authorization(self, method: str, target: str) -> str | None:
        """Nothing."""
        return None

    def challenged(self, challenges: Sequence[str], *, tried: int) -> None:
        """Give up.

        Raises:
            Unauthorized: Always.
        """
        self.serial = next((found.serial for found in parse_challenges(challenges) if found.serial), self.serial)
        raise Unauthorized(f"{self._place} tells this to accounts only.", hint="Name a block with credentials.")

    def accepted(self) -> None:
        """Nothing to note."""


_SALT = os.urandom(16)
_refused: dict[bytes, float] = {}


def _remembered_as(key: tuple[str, str, int], username: str, password: str) -> bytes:
    now = time.monotonic()
    for old in [memory for memory, until in _refused.items() if until < now]:
        del _refused[old]
    # Salted: the memory of a process holds no hash that could be looked up.
    return hashlib.sha256(_SALT + "\0".join([*map(str, key), username, password]).encode()).digest()
