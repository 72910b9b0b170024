"""Cursors: where a page of a search ended, as opaque text that fits only the search it came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any, Literal

from tasks.core.db.assets import Place
from tasks.core.errors import InvalidParameters

Sort = Literal[
    "id", "hostname", "address", "type", "status", "vendor", "owner", "created_at", "updated_at", "last_seen",
    "-id", "-hostname", "-address", "-type", "-status", "-vendor", "-owner", "-created_at", "-updated_at", "-last_seen",
]  # fmt: skip
"""A field to sort by; with a minus sign the largest first."""


def write_cursor(place: Place | None, search: dict[str, Any]) -> str | None:
    """Return the cursor for what follows `place` in this search; None at its end."""
    if place is None:
        return None
    text = json.dumps([_fingerprint(search), place.key, place.id], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, search: dict[str, Any]) -> Place | None:
    """Return the place a cursor means.

    Raises:
        InvalidParameters: It is damaged, or comes from another search.
    """
    if cursor is None:
        return None
    try:
        fingerprint, key, number = json.loads(
            base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        )
        if not (
            isinstance(key, str | None)
            and type(number) is int
            and 0 < number < 2**63
            and fingerprint == _fingerprint(search)
        ):
            raise ValueError
    except (ValueError, TypeError, binascii.Error, UnicodeDecodeError):
        raise InvalidParameters(
            "cursor: does not belong to this search.",
            hint="Give the same filters and sort as for the page before, or no cursor.",
        ) from None
    return Place(key, number)


def _fingerprint(search: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(search, sort_keys=True, default=str).encode()).hexdigest()[:16]
