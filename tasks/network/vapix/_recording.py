"""Recordings on a camera's disks: how they are listed, and what the camera says of each."""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.errors import InvalidParameters, ToolError
from tasks.core.words import count
from tasks.network.vapix._wire import Declined, Nonsense
from tasks.network.vapix._xml import anywhere, child, local, raise_for_result

if TYPE_CHECKING:
    from tasks.network.vapix._camera import Camera

LIST_PATH = "/axis-cgi/record/list.cgi"
PAGE = 100
"""Recordings asked for at once: an answer of about 60 KB, which a camera makes without effort."""
MOST_SCANNED = 20_000
"""Recordings looked at in one listing; what is beyond is said to be left out."""
RECORDING_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{2,99}\Z")
"""Real ones are YYYYMMDD_HHMMSS_XXXX_SERIAL. A comma or an asterisk would name several."""

EXPORT_CODES = {
    10: "it could not process the request",
    20: "it found the request invalid",
    40: "it does not know this version of the export",
    110: "there is no such recording",
    120: "the start time is malformed",
    130: "the stop time is malformed",
    140: "the stop time is before the start time",
    150: "the start time is outside the recording",
    160: "the stop time is outside the recording",
    170: "it does not export to this format",
    180: "the recording does not fit this format",
    190: "there is no such export job",
    200: "the external disk is not there",
    210: "the external disk cannot be written",
    220: "it has too many exports at work; try again when they are done",
    230: "the path is not allowed",
    240: "the password is not allowed",
    250: "it does not know this encryption",
}
"""What the codes of a failed export mean; those of 120 to 160 are documented as errors of the times without saying which is which."""
_TIME_CODES = range(120, 170)


class Recording(BaseModel):
    """A recording on a disk of a camera."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recording_id: str = Field(description="Its id, by which it is exported and removed.")
    disk_id: str | None = Field(None, description="The disk it is on: SD_DISK, NetworkShare, ...")
    started_at: datetime | None = Field(None, description="When it begins (UTC, by the camera's clock).")
    stopped_at: datetime | None = Field(None, description="When it ends (UTC); None while it goes on.")
    duration: float | None = Field(None, description="Length, seconds; None while it goes on.")
    type: str | None = Field(None, description="triggered, scheduled or continuous.")
    status: str | None = Field(None, description="recording, completed or unknown.")
    event_id: str | None = Field(None, description="Name of the event or configuration that made it.")
    event_trigger: str | None = Field(None, description="What triggered it.")
    source: str | None = Field(None, description="Number of the view, 1 is the first.")
    video: str | None = Field(None, description="Codec, resolution and frames a second.")
    audio: str | None = Field(None, description="Audio codec; None without sound.")

    @property
    def running(self) -> bool:
        """Whether the camera is still recording it. One of unknown status without an end is what a power cut left."""
        return self.status == "recording" or (self.status is None and self.stopped_at is None)


@dataclass
class Listing:
    """What a camera listed.

    Attributes:
        recordings: Those wanted, in the camera's order.
        total: How many the camera says match what it was asked; None when it does not say.
        scanned: How many were looked at.
        complete: Whether all of them were.
    """

    recordings: list[Recording] = field(default_factory=list)
    total: int | None = None
    scanned: int = 0
    complete: bool = True


def recordings_of(root: Element) -> tuple[int | None, list[Recording]]:
    """Read one page of `record/list.cgi`: how many there are in all, and those of the page.

    Raises:
        Declined: The camera said no.
        Nonsense: The answer is no list of recordings.
    """
    refuse_failure(root, "listing recordings")
    container = root if local(root) == "recordings" else child(root, "recordings")
    if container is None:
        raise Nonsense("The camera's answer is no list of recordings.")
    total = whole(container.get("totalnumberofrecordings"))
    found = [_recording(row) for row in container if local(row) == "recording"]
    return total, [recording for recording in found if recording is not None]


def _recording(row: Element) -> Recording | None:
    recording_id = text(row.get("recordingid"))
    if recording_id is None:
        return None
    started, stopped = parse_time(row.get("starttime")), parse_time(row.get("stoptime"))
    video, audio = child(row, "video"), child(row, "audio")
    length = (stopped - started).total_seconds() if started and stopped else None
    return Recording(
        recording_id=recording_id,
        disk_id=text(row.get("diskid")),
        started_at=started,
        stopped_at=stopped,
        duration=length if length is not None and length >= 0 else None,
        type=text(row.get("recordingtype")),
        status=text(row.get("recordingstatus")),
        event_id=text(row.get("eventid")),
        event_trigger=text(row.get("eventtrigger")),
        source=text(row.get("source")),
        video=_video(video) if video is not None else None,
        audio=_codec(audio) if audio is not None else None,
    )


def _video(video: Element) -> str | None:
    rate = re.match(r"(\d{1,6}):(\d{1,6})\Z", video.get("framerate") or "")
    frames = f"{int(rate[1]) / int(rate[2]):g} fps" if rate and int(rate[2]) else None
    return " ".join(part for part in (_codec(video), text(video.get("resolution"), 20), frames) if part) or None


def _codec(media: Element) -> str | None:
    kind = text(media.get("mimetype"), 60)
    return kind.rsplit("/", 1)[-1].removeprefix("x-") if kind else None


async def list_recordings(
    camera: Camera,
    *,
    recording_id: str = "all",
    disk: str | None = None,
    start: datetime | None = None,
    stop: datetime | None = None,
    event: str | None = None,
    source: int | None = None,
    type_: str | None = None,
    running: bool | None = None,
    ascending: bool = False,
    most: int = PAGE,
    scan: int = MOST_SCANNED,
) -> Listing:
    """List recordings, page by page.

    What the camera can filter it filters; type and state are looked at here.

    Args:
        camera: The camera.
        recording_id: One recording's id, or `all`.
        disk: Only those on this disk.
        start: Only from this time on.
        stop: Only until this time.
        event: Only those of this event.
        source: Only those of this view.
        type_: Only those of this type: triggered, scheduled, continuous.
        running: Only those that go on, or only those that do not.
        ascending: Oldest first.
        most: Recordings wanted at most.
        scan: Recordings looked at in all.
    """
    query: dict[str, Any] = {"recordingid": recording_id}
    asked = {
        "diskid": disk,
        "starttime": wire_time(start) if start else None,
        "stoptime": wire_time(stop) if stop else None,
        "eventid": event,
        "source": source,
        "sortorder": "ascending" if ascending else "descending",
    }
    query |= {name: value for name, value in asked.items() if value is not None}
    listing = Listing()
    async for recording in _pages(camera, query, listing, scan):
        if type_ is not None and recording.type != type_:
            continue
        if running is not None and recording.running is not running:
            continue
        if len(listing.recordings) == most:
            listing.complete = False
            break
        listing.recordings.append(recording)
    return listing


async def _pages(camera: Camera, query: dict[str, Any], listing: Listing, scan: int) -> AsyncIterator[Recording]:
    seen: set[str] = set()
    wanted = min(PAGE, max(1, scan))
    while True:
        page = {**query, "maxnumberofresults": wanted}
        if seen:
            # Whether the first result is number 0 or 1 is documented nowhere: one is asked for again and known by its id.
            page["startatresultnumber"] = len(seen)
        total, recordings = recordings_of(await camera.xml(LIST_PATH, page))
        listing.total = total if total is not None else listing.total
        fresh = [recording for recording in recordings if recording.recording_id not in seen]
        for recording in fresh:
            if recording.recording_id not in seen:
                seen.add(recording.recording_id)
                listing.scanned += 1
                yield recording
        if not fresh or (len(seen) >= total if total is not None else len(recordings) < wanted):
            return
        if listing.scanned >= scan:
            listing.complete = False
            return


async def find_recording(camera: Camera, recording_id: str) -> Recording | None:
    """Look one recording up by its id; None when the camera has none of it."""
    listing = await list_recordings(camera, recording_id=recording_id, most=PAGE, scan=PAGE)
    return next((found for found in listing.recordings if found.recording_id == recording_id), None)


def check_recording_id(value: str) -> str:
    """Return the id when it can name one recording only.

    Raises:
        ValueError: It names all of them, or several, or none.
    """
    if value.lower() == "all" or not RECORDING_ID.match(value):
        raise ValueError(
            "names exactly one recording, without wildcards; right would be 20260101_120000_A1B2_B8A44F7C1D20 as the list gives it"
        )
    return value


# --- what XML answers say --------------------------------------------------------------------------------------------


def refuse_failure(root: Element, doing: str) -> None:
    """Raise when an answer says that something failed: such answers come with HTTP 200.

    Raises:
        Declined: With what the camera said.
    """
    raise_for_result(root, f"The camera, asked for {doing},")
    failure = next(anywhere(root, "GeneralError"), None)
    if failure is not None:
        raise export_error(failure, doing)


def export_error(failure: Element, doing: str) -> ToolError:
    """Make the error that a `GeneralError` element means."""
    number_element = next(anywhere(failure, "ErrorCode"), None)
    description = next(anywhere(failure, "ErrorDescription"), None)
    code = whole(number_element.text) if number_element is not None else None
    said = text(description.text) if description is not None else None
    meaning = EXPORT_CODES.get(code if code is not None else -1)
    parts = [part for part in (meaning, said) if part]
    reasons = "; ".join(parts) or "without saying why"
    why = f"The camera refuses {doing} (code {code if code is not None else 'unknown'}): {reasons}."
    if code in _TIME_CODES:
        return InvalidParameters(
            why, hint="Give start and stop inside the recording's own times, UTC, start before stop."
        )
    return Declined(why, code=code)


def text(value: str | None, most: int = 160) -> str | None:
    r"""What a camera says, without control characters and not too long; None when that is nothing.

    >>> text(" a\x00b\n")
    'ab'
    """
    if value is None:
        return None
    shown = "".join(c for c in value[: 4 * most] if c.isprintable()).strip()[:most]
    return shown or None


def whole(value: str | None) -> int | None:
    """A whole number of at most 18 digits as cameras write it; None when it is none."""
    shown = (value or "").strip()
    return int(shown) if re.fullmatch(r"-?[0-9]{1,18}", shown) else None


def number(value: str | None) -> float | None:
    """A finite number; None when it is none."""
    try:
        found = float((value or "").strip()[:40])
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def parse_time(value: str | None) -> datetime | None:
    """Read a camera's ISO 8601 time as UTC; None when it is empty or none. One without a zone is UTC, as the API says.

    >>> parse_time("2026-01-01T13:00:00.5+01:00").isoformat()
    '2026-01-01T12:00:00.500000+00:00'
    """
    shown = (value or "").strip()[:40]
    if not shown:
        return None
    try:
        found = datetime.fromisoformat(shown)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def wire_time(when: datetime) -> str:
    """Write a time as the camera wants it: ISO 8601, UTC, Z.

    >>> wire_time(datetime(2026, 1, 1, 12, 0, 0, 250000, UTC))
    '2026-01-01T12:00:00.250000Z'
    """
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")


def size_in_words(size_bytes: int) -> str:
    """A size as people say it.

    >>> size_in_words(25_627), size_in_words(1_250_000_000)
    ('25,627 bytes', '1,250.0 MB')
    """
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 100_000 else count(size_bytes, "byte")
