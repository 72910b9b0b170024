"""One URL: ask, follow redirects through the gate, and compare the last answer with what is expected."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from tasks.core.errors import CommandFailed, NotFound, Refused, ToolError, ToolTimeout, Unreachable
from tasks.core.offload import offload
from tasks.core.words import count
from tasks.network.probe._certificate import printable
from tasks.network.probe._connection import Paces, Patience
from tasks.network.probe._http_exchange import Answer, NoAnswer, Terms, fetch
from tasks.network.probe._page import holds, text_of, title_of
from tasks.network.probe._web_address import check_url, same_origin, shown
from tasks.network.probe._web_door import Door

State = Literal["ok", "failed", "untrusted", "refused", "unreachable", "not_tried"]

PATTERN_SECONDS = 5.0
PATTERN_MEMORY_BYTES = 512 << 20
_REDIRECTS = {301, 302, 303, 307, 308}
_HEADERS = {"User-Agent": "signalbox", "Accept": "*/*", "Accept-Encoding": "identity"}
_KEPT_SECRET = {"set-cookie", "set-cookie2", "authorization", "proxy-authorization", "www-authenticate"}


class Pattern:
    """A regular expression, searched in a child process that can be killed.

    Args:
        text: The expression; it compiles.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._too_slow = False
        self._slots = asyncio.Semaphore(2)  # a process each

    async def fault(self, page: str) -> str | None:
        """Say what is wrong with a page; None when the expression is found in it."""
        async with self._slots:
            if self._too_slow:
                return "the pattern was not tried: it took too long on another page"
            try:
                found = await offload(
                    holds, self._text, page, timeout=PATTERN_SECONDS, memory_bytes=PATTERN_MEMORY_BYTES
                )
            except ToolTimeout:
                self._too_slow = True
                return f"the pattern takes longer than {PATTERN_SECONDS:g} s on this page; make it simpler"
            except CommandFailed:
                self._too_slow = True
                return "the pattern needs too much memory on this page; make it simpler"
        return None if found else "the pattern is not found in the page"


@dataclass(frozen=True)
class Expectations:
    """What the last answer must be like.

    Attributes:
        status: Statuses that are right, `200-299,401`.
        body: Text that must be in the page.
        pattern: Expression that must be found in it.
        headers: Headers that must be there, and text their values must contain.
        certificate_days: Days the certificate must have left, so there must be one; 0 for none.
        slower_than: Seconds it may take; None for any.
    """

    status: str
    body: str | None
    pattern: Pattern | None
    headers: Mapping[str, str]
    certificate_days: int
    slower_than: float | None

    async def faults(self, answer: Answer, page: str, total: float) -> list[str]:
        """Say everything in which an answer is not as expected."""
        found = []
        if not any(low <= answer.status <= high for low, high in _ranges(self.status)):
            found.append(f"status is {answer.status}, not {self.status}")
        if answer.broke is not None:
            found.append(f"the server {answer.broke}")
        for name, wanted in self.headers.items():
            values = answer.headers.get_list(name)
            if not values:
                found.append(f"there is no header {name}")
            elif not any(wanted in value for value in values):
                said = "" if name.lower() in _KEPT_SECRET else f" but {printable(values[0], 80)!r}"
                found.append(f"header {name} does not contain {wanted!r}{said}")
        if self.body is not None and self.body not in page:
            found.append(f"the text {_short(self.body)} is not in the page{_cut(answer)}")
        if self.pattern is not None and (fault := await self.pattern.fault(page)) is not None:
            found.append(f"{fault}{_cut(answer)}")
        if self.certificate_days and (fault := self._short_lived(answer)) is not None:
            found.append(fault)
        if self.slower_than is not None and total > self.slower_than:
            found.append(f"it took {total:.2f} s, longer than {self.slower_than:g} s")
        return found

    def _short_lived(self, answer: Answer) -> str | None:
        if answer.certificate is None:
            why = "the page came over http" if answer.tls is None else "what the server sent cannot be read"
            return f"there is no certificate to have {count(self.certificate_days, 'day')} left: {why}"
        days = answer.certificate.days_left()
        if days < 0:
            return "the certificate has expired"
        if days < self.certificate_days:
            return f"the certificate has {count(days, 'day')} left, less than {self.certificate_days}"
        return None


@dataclass
class Found:
    """What is known of one URL, as it comes in, so that a deadline loses none."""

    state: State = "not_tried"
    reason: str | None = "The deadline came first."
    answer: Answer | None = None
    title: str | None = None
    dns: float | None = None
    total: float = 0.0
    redirects: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def settle(self, state: State, reason: str | None) -> None:
        """Note how it came out."""
        self.state, self.reason = state, reason

    def facts(self) -> dict[str, Any]:
        """Everything but URL and state, by the names of the result's fields."""
        facts: dict[str, Any] = {"reason": self.reason, "redirects": self.redirects, "notes": self.notes}
        answer = self.answer
        if answer is None:
            return facts
        headers = answer.headers
        after = answer.total - answer.connect - (answer.tls or 0.0) - answer.first_byte
        return facts | {
            "status": answer.status,
            "total_ms": _ms(self.total),
            "dns_ms": _ms(self.dns),
            "connect_ms": _ms(answer.connect),
            "tls_ms": _ms(answer.tls),
            "first_byte_ms": _ms(answer.first_byte),
            "read_ms": _ms(max(0.0, after)),
            "http_version": answer.http_version,
            "body_bytes": len(answer.body),
            "truncated": not answer.complete,
            "title": self.title,
            "server": _header(headers, "server"),
            "content_type": _header(headers, "content-type"),
            "verified": None if answer.tls is None else answer.distrust is None,
            "certificate_days": answer.certificate.days_left() if answer.certificate is not None else None,
            "tls_version": answer.tls_version,
            "address": answer.address,
        }


@dataclass
class Check:
    """A URL being checked.

    Attributes:
        found: Where it goes.
        door: Where requests may go.
        paces: What each host may be sent.
        terms: What holds for every request.
        expected: What the last answer must be like.
        headers: Headers to send along, to the server of the URL only.
        most_redirects: How many are followed.
        timeout: Seconds for all of it.
    """

    found: Found
    door: Door
    paces: Paces
    terms: Terms
    expected: Expectations
    headers: Mapping[str, str]
    most_redirects: int
    timeout: float

    async def run(self, url: httpx.URL) -> None:
        """Check a URL.

        Raises:
            Busy: This machine is out of sockets or local ports.
        """
        found, patience = self.found, Patience(self.timeout)
        found.settle("not_tried", "The deadline came first.")
        try:
            answer = await self._follow(url, patience)
        except NoAnswer as error:
            state: State = "untrusted" if error.untrusted else "failed" if error.reached else "unreachable"
            found.settle(state, str(error))
            return
        except TimeoutError:
            found.settle("unreachable", f"{shown(url)} gives no answer within {self.timeout:g} s.")
            return
        except _NotFollowed as error:
            found.settle(error.state, str(error))
            return
        page = text_of(answer.body, answer.headers.get("content-type", ""))
        found.title = title_of(page) if "html" in answer.headers.get("content-type", "html").lower() else None
        faults = await self.expected.faults(answer, page, found.total)
        reason = "; ".join(faults)
        found.settle("failed" if faults else "ok", f"{reason[:1].upper()}{reason[1:]}." if faults else None)

    async def _follow(self, url: httpx.URL, patience: Patience) -> Answer:
        """Ask, and ask on where redirects lead; the last answer."""
        found, headers = self.found, {**_HEADERS, **self.headers}
        addresses = self.door.addresses(url)
        found.dns, note = await self.door.time_name(url, patience)
        if note:
            found.notes.append(note)
        seen = {url}
        while True:
            answer = await fetch(
                url,
                addresses,
                terms=self.terms,
                headers=headers,
                pace=self.paces.of(addresses[0]),
                patience=patience,
            )
            found.answer = answer
            found.total += answer.total + (found.dns or 0.0)
            if answer.distrust:
                found.notes.append(
                    f"the certificate of {url.host} does not hold: {answer.distrust}; asked nevertheless"
                )
            location = answer.headers.get("location")
            if answer.status not in _REDIRECTS or location is None or self.most_redirects == 0:
                return answer
            target = _target(url, location)
            found.redirects.append({"status": answer.status, "to": shown(target)})
            if target in seen:
                raise _NotFollowed("failed", f"It redirects in a circle: {shown(target)} was asked already.")
            if len(found.redirects) > self.most_redirects:
                raise _NotFollowed("failed", f"It redirects more than {self.most_redirects} times.")
            if url.scheme == "https" and target.scheme == "http":
                found.notes.append(f"{shown(url)} redirects from https to http")
            if not same_origin(url, target):
                headers = dict(_HEADERS)
            try:
                addresses, found.dns = await self.door.follow(target, patience)
            except Refused as error:
                place = f"{target.scheme}://{target.netloc.decode('ascii')}"
                raise _NotFollowed(
                    "refused", f"It redirects to {place}, and nothing was sent there: {error.message}"
                ) from None
            except (NotFound, Unreachable) as error:
                raise _NotFollowed("failed", f"It redirects to {shown(target)}: {error.message}") from None
            except ToolError as error:
                raise _NotFollowed("failed", f"It redirects to what cannot be asked: {error.message}") from None
            seen.add(target)
            url = target


class _NotFollowed(Exception):
    """A redirect leads nowhere; the text says why."""

    def __init__(self, state: State, reason: str) -> None:
        super().__init__(reason)
        self.state = state


def _target(url: httpx.URL, location: str) -> httpx.URL:
    try:
        target = url.join(location).copy_with(fragment=None)
        check_url(target)
    except (httpx.InvalidURL, UnicodeError):
        raise _NotFollowed("failed", "It redirects to something that is no address.") from None
    except ValueError as error:
        raise _NotFollowed("failed", f"It redirects to an address that {str(error).partition(';')[0]}.") from None
    return target


def _ranges(statuses: str) -> list[tuple[int, int]]:
    bounds = (part.partition("-") for part in statuses.split(","))
    return [(int(low), int(high or low)) for low, _, high in bounds]


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _header(headers: httpx.Headers, name: str) -> str | None:
    value = headers.get(name)
    return printable(value, 120) if value else None


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _cut(answer: Answer) -> str:
    return "" if answer.complete or answer.broke else f" (of which the first {len(answer.body)} bytes were read)"
