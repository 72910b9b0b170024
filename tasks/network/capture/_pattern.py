r"""Is a regular expression cheap enough to be matched against what strangers send?

ngrep matches by backtracking (PCRE). A pattern that can read the same bytes in many ways takes exponential time to find that it does
not match, and ngrep gives up in the middle of a capture when it does. Such patterns are told by their structure, before use:

* inside a repetition, something variable is followed by what could as well have been part of it: `(a+)+`, `(\w+\s?)*`, `(.*,)*`;
* inside a repetition, two alternatives can begin with the same byte: `(a|ab)*`, `(\d|\w)+`;
* more than two unbounded repetitions in a row can read the same bytes: `.*.*.*x` (a polynomial of that degree);
* repetitions of repetitions multiply to more than a packet's worth: `(a{1,200}){1,200}`.

Back references and recursion are refused: their cost has no bound that could be told. Patterns are in the language that Perl and Python
share; what only one of them knows is refused too, so that a match means the same in ngrep and in what is shown.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from tasks.core.errors import InvalidParameters

LONGEST_PATTERN = 500
MANY = 32
"""Repetitions from which on a repetition counts as unbounded."""
MOST_STEPS = 4096
"""Most that bounded repetitions inside each other may multiply to."""
MOST_OVERLAPPING = 2

_ALL = (1 << 256) - 1
_NO_LEAST = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|(\{,\d*\})", re.DOTALL)
"""A repetition without a lower bound, outside of escapes and of sets."""
_HINT = "Say what separates the repeated parts: (?:[a-z]+,)* instead of (?:[a-z]+,?)*."


def check_pattern(pattern: str, *, ignore_case: bool = False) -> None:
    """Make sure that a pattern can be matched in reasonable time, whatever the packets hold.

    Raises:
        InvalidParameters: It is not a regular expression, uses what is not offered, or can be too costly; says why.
    """
    if "[:" in pattern or "[." in pattern or "[=" in pattern:
        raise InvalidParameters(
            f"The pattern {pattern!r} has a POSIX class.", hint=r"Write \d, \w, \s or ranges such as [0-9a-f]."
        )
    if wrong := next((match[1] for match in _NO_LEAST.finditer(pattern) if match[1]), None):
        raise InvalidParameters(
            f"The pattern {pattern!r} has {wrong}, which Perl takes as it stands and Python for a repetition.",
            hint=f"Write {{0{wrong[1:]} to repeat, or \\{wrong} for the braces themselves.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what may mean something else one day
            tree = _parser.parse(pattern.encode("utf-8"), re.DOTALL | (re.IGNORECASE if ignore_case else 0))
    except (re.error, FutureWarning, DeprecationWarning, OverflowError) as error:
        raise InvalidParameters(
            f"The pattern {pattern!r} is not a regular expression as Perl and Python both know them: {error}."
        ) from None
    except RecursionError:
        raise InvalidParameters("The pattern is nested too deeply.") from None
    _Walk(bool(tree.state.flags & re.IGNORECASE)).check(list(tree))


class _Walk:
    """Looks through a parsed pattern. Sets of bytes are integers of 256 bits."""

    def __init__(self, ignore_case: bool) -> None:
        self.ignore_case = ignore_case

    def check(self, nodes: Sequence[Any]) -> None:
        """Check a whole pattern."""
        self._sequence(nodes, after=0, looped=False, steps=1)

    def _sequence(self, nodes: Sequence[Any], *, after: int, looped: bool, steps: int) -> None:
        """Check nodes in a row; `after` is what can follow them, `looped` whether they are repeated many times."""
        self._runs(nodes)
        for at, node in enumerate(nodes):
            rest = nodes[at + 1 :]
            follows = self._first(rest) | (after if self._nullable(rest) else 0)
            self._node(node, follows, looped=looped, steps=steps)

    def _node(self, node: Any, follows: int, *, looped: bool, steps: int) -> None:
        kind, value = node
        if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            least, most, body = value
            body = list(body)
            if looped and least != most and self._first(body) & follows:
                raise _too_costly("a repetition inside a repetition could end in several places")
            many = most >= MANY
            inner = 1 if most == _constants.MAXREPEAT else int(most)
            if steps * inner > MOST_STEPS and (steps > 1 and inner > 1):
                raise _too_costly("its repetitions inside each other multiply to too many")
            if many and self._nullable(body) and not self._simple(body):
                raise _too_costly("it repeats what may be empty")
            # What is repeated follows itself.
            again = self._first(body) if most > 1 else 0
            self._sequence(body, after=follows | again, looped=looped or most > MOST_OVERLAPPING, steps=steps * inner)
        elif kind is _constants.BRANCH:
            branches = [list(branch) for branch in value[1]]
            if looped and not self._apart(branches):
                raise _too_costly("alternatives inside a repetition can begin alike")
            for branch in branches:
                self._sequence(branch, after=follows, looped=looped, steps=steps)
        elif kind is _constants.SUBPATTERN:
            self._sequence(list(value[3]), after=follows, looped=looped, steps=steps)
        elif kind in (_constants.ASSERT, _constants.ASSERT_NOT):
            self._sequence(list(value[1]), after=_ALL, looped=looped, steps=steps)
        elif kind is _constants.ATOMIC_GROUP:
            self._sequence(list(value), after=follows, looped=looped, steps=steps)
        elif kind in (_constants.GROUPREF, _constants.GROUPREF_EXISTS, _constants.GROUPREF_IGNORE):
            raise InvalidParameters("The pattern refers back to a group, which is not offered.", hint="Write it out.")

    def _runs(self, nodes: Sequence[Any]) -> None:
        """Count unbounded repetitions that can read the same bytes, with nothing between them that they cannot."""
        common, run = _ALL, 0
        for kind, value in _flat(nodes):
            if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT) and value[1] >= MANY:
                chars = self._chars(list(value[2]))
                common, run = (common & chars, run + 1) if common & chars else (chars, 1)
                if run > MOST_OVERLAPPING:
                    raise _too_costly(f"more than {MOST_OVERLAPPING} repetitions in a row can read the same bytes")
            elif not self._nullable([(kind, value)]) and not self._chars([(kind, value)]) & common:
                common, run = _ALL, 0

    def _apart(self, branches: Sequence[Sequence[Any]]) -> bool:
        """Whether no byte begins two alternatives, or all are words of which none begins with another."""
        seen = 0
        for branch in branches:
            first = self._first(branch) if branch else _ALL
            if first & seen:
                return _distinct_words(branches)
            seen |= first
        return True

    def _simple(self, body: Sequence[Any]) -> bool:
        return all(
            kind in (_constants.LITERAL, _constants.NOT_LITERAL, _constants.IN, _constants.ANY) for kind, _ in body
        )

    # --- what nodes can read

    def _first(self, nodes: Iterable[Any]) -> int:
        """Bytes that nodes in a row can begin with."""
        found = 0
        for node in nodes:
            found |= self._begin(node)
            if not self._nullable([node]):
                break
        return found

    def _begin(self, node: Any) -> int:
        kind, value = node
        if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            return self._first(value[2])
        if kind is _constants.BRANCH:
            return _union(self._first(branch) for branch in value[1])
        if kind is _constants.SUBPATTERN:
            return self._first(value[3])
        if kind is _constants.ATOMIC_GROUP:
            return self._first(value)
        return self._one(kind, value)

    def _chars(self, nodes: Iterable[Any]) -> int:
        """Bytes that can stand anywhere in what nodes read."""
        found = 0
        for kind, value in nodes:
            if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
                found |= self._chars(value[2])
            elif kind is _constants.BRANCH:
                found |= _union(self._chars(branch) for branch in value[1])
            elif kind is _constants.SUBPATTERN:
                found |= self._chars(value[3])
            elif kind is _constants.ATOMIC_GROUP:
                found |= self._chars(value)
            else:
                found |= self._one(kind, value)
        return found

    def _nullable(self, nodes: Iterable[Any]) -> bool:
        """Whether nodes in a row can read nothing."""
        for kind, value in nodes:
            if kind in (_constants.AT, _constants.ASSERT, _constants.ASSERT_NOT):
                continue
            if kind in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
                if value[0] == 0 or self._nullable(value[2]):
                    continue
            elif kind is _constants.BRANCH:
                if any(self._nullable(branch) for branch in value[1]):
                    continue
            elif kind is _constants.SUBPATTERN:
                if self._nullable(value[3]):
                    continue
            elif kind is _constants.ATOMIC_GROUP and self._nullable(value):
                continue
            return False
        return True

    def _one(self, kind: Any, value: Any) -> int:
        """Bytes that a node of one byte can be; none for what reads nothing."""
        if kind is _constants.LITERAL:
            return self._folded(1 << int(value))
        if kind is _constants.NOT_LITERAL:
            return _ALL & ~(1 << int(value))
        if kind is _constants.ANY:
            return _ALL
        if kind is not _constants.IN:
            return 0
        found, negated = 0, False
        for entry, what in value:
            if entry is _constants.NEGATE:
                negated = True
            elif entry is _constants.LITERAL:
                found |= 1 << what
            elif entry is _constants.RANGE:
                found |= (1 << what[1] + 1) - (1 << what[0])
            elif entry is _constants.CATEGORY:
                found |= _CATEGORIES[str(what)]
        found = self._folded(found)
        return _ALL & ~found if negated else found

    def _folded(self, chars: int) -> int:
        if not self.ignore_case:
            return chars
        letters = (1 << 26) - 1
        return chars | (chars >> 32 & letters << 65) | (chars & letters << 65) << 32


def _category(pattern: bytes) -> int:
    return sum(1 << code for code in range(256) if re.match(pattern, bytes([code])))


_CATEGORIES = {
    f"CATEGORY_{negated}{name}": _category(pattern)
    for name, lower, upper in (("DIGIT", rb"\d", rb"\D"), ("SPACE", rb"\s", rb"\S"), ("WORD", rb"\w", rb"\W"))
    for negated, pattern in (("", lower), ("NOT_", upper))
}


def _union(sets: Iterable[int]) -> int:
    found = 0
    for one in sets:
        found |= one
    return found


def _flat(nodes: Iterable[Any]) -> Iterable[Any]:
    """Nodes in a row, groups opened: `(.*)(.*)` is `.*.*`."""
    for kind, value in nodes:
        if kind is _constants.SUBPATTERN:
            yield from _flat(value[3])
        else:
            yield kind, value


def _distinct_words(branches: Sequence[Sequence[Any]]) -> bool:
    words = []
    for branch in branches:
        if not branch or any(kind is not _constants.LITERAL for kind, _ in branch):
            return False
        words.append(bytes(value for _, value in branch))
    return not any(one is not other and other.startswith(one) for one in words for other in words)


def _too_costly(why: str) -> InvalidParameters:
    return InvalidParameters(f"The pattern could take for ever on some packets: {why}.", hint=_HINT)
