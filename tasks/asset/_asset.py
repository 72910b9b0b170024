"""An asset as people see it, and the shapes of what they may say about one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from tasks.asset._identity import MacKind, classify_mac, clean_serial, is_no_host, parse_address
from tasks.core.models import parse_mac

LARGEST_ID = 2**63 - 1
"""PostgreSQL's bigint."""
MOST_METADATA_BYTES = 16 * 1024
TIMEOUT = 15.0
"""Seconds an asset tool may take: a reconcile of the site goes first."""

Status = Literal["active", "planned", "missing", "stale", "archived"]
SettableStatus = Literal["active", "planned", "archived"]
"""What a person may say; `missing` and `stale` follow from scans."""

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def _printable(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be blank")
    if not all(character.isprintable() for character in value):
        raise ValueError("must be one line of printable characters")
    return value.strip()


def _hostname(value: str) -> str:
    name = value.strip().rstrip(".").lower()
    if re.fullmatch(r"[0-9.]+", name) or ":" in name:
        raise ValueError("is an address or a number, not a host name; right would be camera-7 or camera-7.example.com")
    if not 1 <= len(name) <= 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError("is not a host name; right would be camera-7 or camera-7.example.com")
    return name


def _address(value: str) -> str:
    text = value.strip()
    try:
        address = parse_address(text)
    except ValueError:
        raise ValueError("is not an address; right would be 192.168.1.7 or 2001:db8::7") from None
    if "%" in text or is_no_host(address):
        raise ValueError("is not an address a host can have")
    return str(address)


def _host_mac(value: Any) -> str:
    mac = parse_mac(value)
    if classify_mac(mac) is MacKind.NONE:
        raise ValueError("is a group, broadcast or zero address: no host has it")
    return mac


def _serial(value: str) -> str:
    if clean_serial(_printable(value)) is None:
        raise ValueError("is not a serial number that tells one device from another")
    return value.strip()


def _reference(value: Any) -> Any:
    """Take the number of an asset, or its host name, as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return value
    text = value.strip()
    if re.fullmatch(r"[1-9][0-9]{0,18}", text) and int(text) <= LARGEST_ID:
        return text
    if re.fullmatch(r"[+-]?[0-9.]+", text):
        raise ValueError("is not the number of an asset (a whole number from 1), nor a host name")
    return _hostname(text)


def _tags(values: list[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    try:
        size = len(json.dumps(value, allow_nan=False).encode())
    except (TypeError, ValueError):
        raise ValueError("must be plain JSON: texts, numbers, true, false, null, lists, objects") from None
    if size > MOST_METADATA_BYTES:
        raise ValueError(f"must be at most {MOST_METADATA_BYTES} bytes of JSON, not {size}")
    if not _storable(value):
        raise ValueError("must not contain NUL characters or halves of surrogate pairs")
    return value


def _storable(value: Any) -> bool:
    match value:
        case str():
            return not re.search("[\x00\ud800-\udfff]", value)
        case dict():
            return all(_storable(name) and _storable(item) for name, item in value.items())
        case list():
            return all(map(_storable, value))
    return True


Hostname = Annotated[str, AfterValidator(_hostname)]
IpAddress = Annotated[str, AfterValidator(_address)]
HostMac = Annotated[str, BeforeValidator(_host_mac)]
Serial = Annotated[str, Field(max_length=100), AfterValidator(_serial)]
Text = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Tag = Annotated[str, Field(pattern=r"^[\w][\w.:/@+=-]{0,99}$")]
Tags = Annotated[list[Tag], Field(max_length=50), AfterValidator(_tags)]
Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]
AssetReference = Annotated[str, BeforeValidator(_reference), Field(max_length=253)]
"""The number of an asset, or its host name, which is unique at its site."""
AnySite = Annotated[str, Field(pattern=r"^(\*|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)$")]
"""The name of a site, or * for all."""


class Asset(BaseModel):
    """What is known of a thing on the network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int = Field(description="Its number.")
    site: str = Field(description="Its site.")
    hostname: str | None = Field(description="Its name, unique within the site.")
    address: str | None = Field(description="Its main address.")
    addresses: list[str] = Field(description="All addresses it holds.")
    mac: str | None = Field(description="Its MAC address.")
    type: str | None = Field(description="What it is: camera, printer, server.")
    status: str = Field(description="active, planned, missing, stale, archived or merged.")
    environment: str | None = Field(description="What it is for: production, test.")
    location: str | None = Field(description="Where it stands.")
    owner: str | None = Field(description="Who answers for it.")
    vendor: str | None = Field(description="Who made it.")
    model: str | None = Field(description="Its model.")
    serial: str | None = Field(description="Its serial number.")
    firmware: str | None = Field(description="Its firmware version.")
    os: str | None = Field(description="Its operating system.")
    tags: list[str] = Field(description="Its tags, `key:value` by convention.")
    metadata: dict[str, Any] = Field(description="Whatever else was noted.")
    version: int = Field(description="Counts changes; give it back to change only what you have seen.")
    merged_into: int | None = Field(description="The asset it was merged into.")
    created_at: datetime = Field(description="When it was entered.")
    updated_at: datetime = Field(description="When a field last changed.")
    first_seen: datetime | None = Field(description="When it was first seen on the network.")
    last_seen: datetime | None = Field(description="When it was last seen on the network.")

    @classmethod
    def of(cls, row: Mapping[str, Any] | Any) -> Asset:
        """Make it from a row of `tasks.core.db.assets`."""
        return cls.model_validate({name: row[name] for name in cls.model_fields})

    def label(self) -> str:
        """How a person calls it."""
        return self.hostname or self.address or self.mac or self.serial or f"asset {self.id}"
