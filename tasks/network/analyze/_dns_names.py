"""What names tell: the domain they belong to, and whether data travels in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tasks.core.words import count
from tasks.network.analyze._dns_message import ANY, NULL, TXT, Question

MOST_NAMES = 40_000
"""Names and domains counted one by one; those asked for least give way."""
MOST_SUBDOMAINS = 4_096
"""Distinct names of one domain that are told apart."""
_DATA_TYPES = frozenset({TXT, NULL, 65399})
"""Record types that carry whatever one likes."""
_SECOND_LEVEL = frozenset(
    {"ac", "co", "com", "edu", "gov", "go", "gob", "gouv", "mil", "ne", "net", "nom", "or", "org"}
)


class NameTally:
    """One name, over all types and spellings."""

    __slots__ = ("failed", "frame", "nxdomain", "queries", "types")

    def __init__(self, frame: int) -> None:
        self.queries = self.nxdomain = self.failed = 0
        self.types: set[int] = set()
        self.frame = frame


class DomainTally:
    """One domain with all names below it."""

    __slots__ = ("answer_bytes", "data_queries", "entropy", "frames", "longest", "lookups", "queries", "seen", "sent")

    def __init__(self) -> None:
        self.queries = self.data_queries = self.answer_bytes = 0
        self.lookups = 0  # distinct names below the domain, as far as told apart
        self.sent = 0  # characters below the domain in those
        self.entropy = 0.0  # summed over those
        self.longest = 0
        self.seen: set[int] = set()
        self.frames: list[int] = []

    @property
    def mean_length(self) -> float:
        return self.sent / self.lookups if self.lookups else 0.0

    @property
    def mean_entropy(self) -> float:
        return self.entropy / self.lookups if self.lookups else 0.0

    def tunnel_signs(self) -> list[str]:
        """Say what makes the domain look like a tunnel; empty when too little does.

        Names made of data are many, each asked for once, long, and as mixed as data is. Each sign alone has honest
        causes (content networks, block lists, virus scanners), so it takes several.
        """
        if self.lookups < 20:
            return []
        signs = []
        if self.mean_length >= 30:
            signs.append(f"names {self.mean_length:.0f} characters long on average below the domain")
        if self.mean_entropy >= 3.4 and self.mean_length >= 16:
            signs.append(f"{self.mean_entropy:.1f} bits of entropy a character")
        if self.data_queries >= max(20, self.queries * 0.3):
            signs.append(f"{count(self.data_queries, 'query', 'queries')} for TXT, NULL or private types")
        if self.lookups >= self.queries * 0.7 and self.lookups >= 50:
            signs.append("nearly every name asked for only once")
        if self.longest >= 50:
            signs.append(f"labels of up to {self.longest} characters")
        return signs if len(signs) >= 3 else []


class Names:
    """Counts of names and domains, folded in from questions."""

    def __init__(self) -> None:
        self.names: dict[str, NameTally] = {}
        self.domains: dict[str, DomainTally] = {}
        self.types: Counter[int] = Counter()
        self.classes: Counter[int] = Counter()
        self.left_out = 0
        """Names that gave way."""

    def fold(self, questions: Iterable[Question]) -> None:
        """Take over what questions have counted."""
        for question in questions:
            if not (question.queries or question.nxdomain or question.failed or question.answer_bytes):
                continue
            name = self.names.get(question.folded)
            if name is None:
                name = self.names[question.folded] = NameTally(question.frame)
            name.queries += question.queries
            name.nxdomain += question.nxdomain
            name.failed += question.failed
            if question.queries:
                name.types.add(question.type)
                self.types[question.type] += question.queries
                self.classes[question.class_] += question.queries
            self._fold_domain(question)
            question.queries = question.nxdomain = question.failed = question.answer_bytes = 0
        if len(self.names) > MOST_NAMES:
            kept = sorted(self.names.items(), key=lambda item: -item[1].queries)[: MOST_NAMES // 2]
            self.left_out += len(self.names) - len(kept)
            self.names = dict(kept)
        if len(self.domains) > MOST_NAMES:
            self.domains = dict(sorted(self.domains.items(), key=lambda item: -item[1].queries)[: MOST_NAMES // 2])

    def _fold_domain(self, question: Question) -> None:
        labels = question.folded.split(".")
        domain_labels = labels_of_domain(labels)
        if not domain_labels:
            return
        key = ".".join(labels[-domain_labels:])
        domain = self.domains.get(key)
        if domain is None:
            domain = self.domains[key] = DomainTally()
        domain.queries += question.queries
        domain.answer_bytes += question.answer_bytes
        if question.type in _DATA_TYPES:
            domain.data_queries += question.queries
        below = question.folded[: -len(key) - 1]
        if not below or not question.queries or question.type == ANY or len(domain.seen) >= MOST_SUBDOMAINS:
            return
        mark = hash(below)
        if mark in domain.seen:
            return
        domain.seen.add(mark)
        domain.lookups += 1
        domain.sent += len(below)
        domain.longest = max(domain.longest, *map(len, labels[:-domain_labels]))
        # In its own spelling: encodings that use both cases carry more than the folded name shows.
        domain.entropy += entropy(question.name[: len(below)])
        if len(domain.frames) < 20:
            domain.frames.append(question.frame)

    def top(self, count: int) -> list[dict[str, Any]]:
        """Rows of the names asked for most."""
        from tasks.network.analyze._dns_message import type_name

        ordered = sorted(self.names.items(), key=lambda item: (-item[1].queries, item[0]))[:count]
        return [
            {
                "name": name[:255],
                "queries": tally.queries,
                "types": [type_name(kind) for kind in sorted(tally.types)][:8],
                "nxdomain": tally.nxdomain,
                "failed": tally.failed,
            }
            for name, tally in ordered
            if tally.queries
        ]


def labels_of_domain(labels: list[str]) -> int:
    """How many of a name's last labels are the domain somebody registered; 0 for reverse names and single labels.

    Without the list of public suffixes this is a guess: two, or three below endings such as `co.uk` and `com.au`.
    """
    if len(labels) < 2 or labels[-1] == "arpa":
        return 0
    if len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL:
        return min(3, len(labels))
    return 2


def entropy(text: str) -> float:
    """Shannon entropy of a text's characters, bits a character.

    >>> entropy("aaaa"), entropy("abcd")
    (0.0, 2.0)
    """
    size = len(text)
    if size < 2:
        return 0.0
    return max(0.0, -sum(count / size * math.log2(count / size) for count in Counter(text).values()))
