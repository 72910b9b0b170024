"""What a reconcile changed: the events people and alerts see, and the counts of a digest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class EventKind(StrEnum):
    """What can happen to an asset, an address or a site."""

    NEW = "new"
    RETURNED = "returned"
    MISSING = "missing"
    STALE = "stale"
    ARCHIVED = "archived"
    STATUS_CHANGED = "status_changed"
    IP_CHANGED = "ip_changed"
    ADDRESS_ADDED = "address_added"
    ADDRESS_REMOVED = "address_removed"
    MAC_CHANGED = "mac_changed"
    SERVICE_ADDED = "service_added"
    SERVICE_REMOVED = "service_removed"
    SERVICE_CHANGED = "service_changed"
    HOSTNAME_CHANGED = "hostname_changed"
    TYPE_CHANGED = "type_changed"
    VENDOR_CHANGED = "vendor_changed"
    MODEL_CHANGED = "model_changed"
    SERIAL_CHANGED = "serial_changed"
    FIRMWARE_CHANGED = "firmware_changed"
    OS_CHANGED = "os_changed"
    LOCATION_CHANGED = "location_changed"
    METADATA_CHANGED = "metadata_changed"
    LEARNED = "learned"  # an empty field was filled, ports were looked at for the first time
    MERGED = "merged"
    SPLIT = "split"
    CONFLICT = "conflict"
    CANDIDATE = "candidate"
    SUSPECT = "suspect"  # an answer that proves nothing: proxy ARP, a scan nobody answered
    VIRTUAL_ADDRESS = "virtual_address"
    VIRTUAL_ADDRESS_MOVED = "virtual_address_moved"
    # What operators do.
    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"
    ACCEPTED = "accepted"
    IGNORED = "ignored"
    LOCKED = "locked"
    UNLOCKED = "unlocked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        kind: What.
        asset_id: To which asset; None for what is no asset, and for a new asset in a preview (it has no number yet).
        subject: The asset as a person calls it: name, address, MAC or serial.
        ip: The address concerned.
        field: The field that changed (`firmware`), or `tcp/443` for services.
        before: What was; JSON.
        after: What is; JSON.
        baseline: Found by the first scan of its network: imported quietly.
        quiet: Raises no alert by default (random MACs, fields learned).
    """

    kind: EventKind
    asset_id: int | None = None
    subject: str = ""
    ip: str | None = None
    field: str | None = None
    before: Any = None
    after: Any = None
    baseline: bool = False
    quiet: bool = False

    @property
    def loud(self) -> bool:
        """Whether a person should hear of it by default."""
        return not (self.baseline or self.quiet)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """The change set of one reconcile of one site.

    Attributes:
        site: The site.
        run_id: The run that asked.
        preview: Nothing was written.
        baseline: The first scan ever of every network that was scanned.
        suspect: Something was scanned to the end and nothing answered: nothing went missing.
        silent_networks: Planned networks that finished without an answer; nothing went missing there.
        events: In the order they happened.
        asset_of: Asset of each address that was seen; None: no asset (candidate, virtual address, suspect), or new in a preview.
        seen: Assets seen.
        unchanged: Assets seen of which nothing changed.
        duplicates: Observations that were put together with another of the same host.
        candidates: Open candidates that were seen in this run, new ones included.
        conflicts: Open conflicts that were seen in this run, new ones included.
        merges: Numbers of the merges made, for `undo`.
    """

    site: str
    run_id: str
    preview: bool = False
    baseline: bool = False
    suspect: bool = False
    silent_networks: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    asset_of: dict[str, int | None] = field(default_factory=dict)
    seen: int = 0
    unchanged: int = 0
    duplicates: int = 0
    candidates: int = 0
    conflicts: int = 0
    merges: tuple[int, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many events of each kind."""
        return dict(Counter(event.kind.value for event in self.events))

    def of_kind(self, *kinds: EventKind) -> tuple[Event, ...]:
        """Return the events of these kinds."""
        return tuple(event for event in self.events if event.kind in kinds)

    @property
    def loud(self) -> tuple[Event, ...]:
        """The events a person should hear of by default: no baseline, no random MACs, no fields learned."""
        return tuple(event for event in self.events if event.loud)


@dataclass(frozen=True, slots=True, kw_only=True)
class AbsentAsset:
    """An asset that will be called missing if a second method finds it absent too.

    Attributes:
        asset_id: Which.
        subject: As a person calls it.
        addresses: Where to ask, by another method than the scan's.
        method: How it was last seen.
    """

    asset_id: int
    subject: str
    addresses: tuple[str, ...]
    method: str
