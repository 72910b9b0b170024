"""How numbers read in a sentence. Knows nothing of Prefect, so that the command line starts fast."""

from __future__ import annotations


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Write a count with its noun.

    >>> count(1, "host"), count(2000, "host"), count(0, "address", "addresses")
    ('1 host', '2,000 hosts', '0 addresses')
    >>> count(1, "request carries", "requests carry")
    '1 request carries'
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
