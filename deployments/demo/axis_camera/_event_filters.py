"""How a camera reads topic filters and message content filters: what it takes, and what it says when it does not understand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

Items = list[tuple[str, str]]
Test = Callable[[Items], bool]

_TOPIC = re.compile(r"(?:(?:tns1|tnsaxis):)?[A-Za-z_][\w.-]*(?:/(?:(?:tns1|tnsaxis):)?[A-Za-z_][\w.-]*)*\Z")
_TOKEN = re.compile(r'\s*(//SimpleItem\b|boolean\b|not\b|and\b|or\b|@Name\b|@Value\b|[()\[\]=]|"[^"]*"|\'[^\']*\')')


class FilterProblem(ValueError):
    """A filter that the camera cannot read; `at` is the place of the first character it stumbled over."""

    def __init__(self, message: str, at: int = 0) -> None:
        super().__init__(message)
        self.at = at


def topic_test(text: str) -> Callable[[str], bool]:
    """Return what tells whether a topic is meant by a topic filter.

    Raises:
        FilterProblem: It cannot be read.
    """
    text = text.strip()
    if text == "//.":
        return lambda topic: True
    below = text.endswith("//.")
    root = text.removesuffix("//.") if below else text
    if not _TOPIC.match(root) or not root.startswith(("tns1:", "tnsaxis:")):
        raise FilterProblem(f"failed to parse topic expression '{text}'")
    if below:
        return lambda topic: topic == root or topic.startswith(f"{root}/")
    return lambda topic: topic == root


def rtsp_topics(text: str) -> list[Callable[[str], bool]]:
    """The tests of RTSP's `eventtopic`: a comma list with the prefixes `onvif:` and `axis:`.

    Raises:
        FilterProblem: A topic has other prefixes, or cannot be read.
    """
    tests = []
    for part in text.split(","):
        if re.search(r"\b(tns1|tnsaxis):", part):
            raise FilterProblem(f"failed to parse topic expression '{part}'")
        named = re.sub(r"\bonvif:", "tns1:", part)
        tests.append(topic_test(re.sub(r"\baxis:", "tnsaxis:", named)))
    return tests


def content_test(text: str) -> Test:
    """Return what tells whether an event's items satisfy a message content filter; an empty one takes everything.

    Raises:
        FilterProblem: It cannot be read.
    """
    if not text.strip():
        return lambda items: True
    return _Reader(text).read()


class _Reader:
    """A recursive reader of `boolean(//SimpleItem[@Name="a" and @Value="b"])`, joined by and, or, not and parentheses."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, int]] = []
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None:
                place += len(text[place:]) - len(text[place:].lstrip())
                raise FilterProblem(
                    f"around character {place + 1}: syntax error, unexpected '{text[place]}'", place + 1
                )
            self.tokens.append((match[1], match.start(1) + 1))
            place = match.end()
        self.end = len(text) + 1
        self.next = 0

    def read(self) -> Test:
        test = self._any(self._part)
        if self.next < len(self.tokens):
            self._fail()
        return test

    def _fail(self) -> None:
        token, place = self.tokens[self.next] if self.next < len(self.tokens) else ("end of expression", self.end)
        raise FilterProblem(f"around character {place}: syntax error, unexpected {token}", place)

    def _take(self, token: str) -> bool:
        if self.next < len(self.tokens) and self.tokens[self.next][0] == token:
            self.next += 1
            return True
        return False

    def _need(self, token: str) -> None:
        if not self._take(token):
            self._fail()

    def _any(self, part: Callable[[], Test]) -> Test:
        tests = [self._all(part)]
        while self._take("or"):
            tests.append(self._all(part))
        return tests[0] if len(tests) == 1 else lambda items: any(test(items) for test in tests)

    def _all(self, part: Callable[[], Test]) -> Test:
        tests = [part()]
        while self._take("and"):
            tests.append(part())
        return tests[0] if len(tests) == 1 else lambda items: all(test(items) for test in tests)

    def _part(self) -> Test:
        if self._take("("):
            inner = self._any(self._part)
            self._need(")")
            return inner
        if self._take("not"):
            self._need("(")
            negated = self._any(self._part)
            self._need(")")
            return lambda items: not negated(items)
        self._need("boolean")
        self._need("(")
        self._need("//SimpleItem")
        self._need("[")
        of_one = self._any(self._attribute)
        self._need("]")
        self._need(")")
        return lambda items: any(of_one([item]) for item in items)

    def _attribute(self) -> Test:
        side = 0 if self._take("@Name") else 1
        if side:
            self._need("@Value")
        self._need("=")
        token = self.tokens[self.next][0] if self.next < len(self.tokens) else ""
        if token[:1] not in ("'", '"'):
            self._fail()
        self.next += 1
        wanted = token[1:-1]
        return lambda items: items[0][side] == wanted


def as_items(*sides: Iterable[tuple[str, str]]) -> Items:
    """The items of an event, all sides together."""
    return [(str(name), str(value)) for side in sides for name, value in side]
