"""What an audit makes of what cameras said: findings against a policy, rows for tables, the digest. Plain data in, plain data out."""

from __future__ import annotations

import html as markup
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from blocks.cameras import CameraPolicy, version_numbers
from flows._text import count, escape, join, markdown_table
from tasks.core.models import FileRef
from tasks.network.analyze._report import Severity

Say = Callable[[Severity, str, str, str], None]
"""Takes severity, code, what was seen and what to do."""
BLANK_BELOW = 1.5
"""Standard deviation of brightness, of 255, below which a picture shows nothing: noise alone makes more of a scene."""
MOST_GAPS, MOST_NAMED = 10, 3
MOST_LISTED = 40
"""Findings and events a message lists; the run page has all of them."""


@dataclass(frozen=True)
class Disk:
    """A card or share of a camera.

    Attributes:
        name: What the camera calls it: SD_DISK, NetworkShare.
        ok: Whether it can be written.
        state: What the camera says of it.
        ageing: What says that it will not last: worn, hot.
    """

    name: str
    ok: bool
    state: str
    ageing: tuple[str, ...] = ()


@dataclass
class CameraFacts:
    """What one camera said; None where it was not asked or did not tell.

    Attributes:
        target: The camera as asked.
        address: The address that was asked.
        reachable: Whether it answered and let us in.
        problem: Why not, in a sentence.
        asset_id: Its asset, where it was taken from the inventory.
        names: Names the inventory knows it by.
        serial: Serial number.
        model: Model.
        firmware: Firmware version.
        kind: What it is, in the inventory's words.
        clock_offset_s: Its clock less ours, seconds.
        certificate_days: Days its certificate is still valid; negative when it has ended.
        https: Whether it offers HTTPS.
        ssh: Whether its SSH service is on.
        upnp: Whether UPnP discovery is on.
        anonymous: Whether anybody may view.
        disks: Cards and shares.
        recording: Whether it records by itself now.
        set_to_record: Whether it is set to record all the time.
        stream: Whether its stream answers.
        brightness: Mean brightness of its picture, 0 to 255.
        contrast: Standard deviation of that.
        picture: The picture.
        picture_whole: Whether it ends as a picture does.
        expected_serial: The serial the inventory has at this address.
        masks: Privacy masks that are on, or may be.
        masks_sure: Whether one is on for certain.
        untold: What was asked and could not be read, and why.
        excused: Parts of it that this camera does not have at all.
        busy: Parts of it that others kept it too busy for.
        notes: What the connection was like.
    """

    target: str
    address: str | None = None
    reachable: bool = False
    problem: str = ""
    asset_id: int | None = None
    names: tuple[str, ...] = ()
    serial: str | None = None
    model: str | None = None
    firmware: str | None = None
    kind: str | None = None
    clock_offset_s: float | None = None
    certificate_days: int | None = None
    https: bool | None = None
    ssh: bool | None = None
    upnp: bool | None = None
    anonymous: bool | None = None
    disks: tuple[Disk, ...] | None = None
    recording: bool | None = None
    set_to_record: bool = False
    stream: bool | None = None
    brightness: float | None = None
    contrast: float | None = None
    picture: FileRef | None = None
    picture_whole: bool = True
    expected_serial: str | None = None
    masks: int | None = None
    masks_sure: bool = True
    untold: dict[str, str] = field(default_factory=dict)
    excused: frozenset[str] = frozenset()
    busy: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def hidden(self, part: str) -> str | None:
        """Why a part that was asked is not known; None when it is, was not asked, or the camera has no such thing."""
        return None if part in self.excused else self.untold.get(part)

    @property
    def label(self) -> str:
        """How a person calls it."""
        name = next(iter(self.names), "") or self.model or ""
        return f"{self.target} ({name})" if name and name != self.target else self.target


@dataclass(frozen=True)
class CameraFinding:
    """Something about one camera that is not as it should be.

    Attributes:
        severity: How much it matters.
        code: Stable name, such as `camera.firmware-too-old`.
        camera: Which.
        what: What was seen.
        remedy: What to do.
    """

    severity: Severity
    code: str
    camera: str
    what: str
    remedy: str


# --- judging -----------------------------------------------------------------------------------------------------------


def judge(facts: CameraFacts, policy: CameraPolicy) -> list[CameraFinding]:
    """Compare what one camera said with what is expected, the gravest first; what it did not tell is not held against it."""
    found: list[CameraFinding] = []

    def say(severity: Severity, code: str, what: str, remedy: str) -> None:
        found.append(CameraFinding(severity, f"camera.{code}", facts.target, what, remedy))

    if not facts.reachable:
        say(
            Severity.HIGH,
            "not-audited",
            facts.problem or "It did not answer.",
            "Is it powered and on the network, and is the account right? Nothing else is known of it.",
        )
        return found
    if facts.expected_serial and facts.serial and facts.expected_serial.upper() != facts.serial.upper():
        say(
            Severity.HIGH,
            "other-device",
            f"It is {facts.serial}; the inventory has {facts.expected_serial} at this address.",
            "Was the camera replaced, or did addresses move? Look where the other one is now.",
        )
    _firmware(facts, policy, say)
    _connection(facts, policy, say)
    _evidence(facts, policy, say)
    return sorted(found, key=lambda finding: -finding.severity.rank)


def _firmware(facts: CameraFacts, policy: CameraPolicy, say: Say) -> None:
    if facts.firmware is None:
        say(Severity.LOW, "firmware-unknown", "It does not say which firmware it runs.", "Look at its own pages.")
        return
    if facts.firmware in policy.known_bad_firmware:
        say(
            Severity.CRITICAL,
            "firmware-known-bad",
            f"Firmware {facts.firmware} is on the list of versions that must not run.",
            "Update it, or take it off the network until it is.",
        )
    if not policy.minimum_firmware:
        return
    track = policy.minimum_for(facts.firmware)
    if track is None:
        if policy.other_tracks == "report":
            say(
                Severity.MEDIUM,
                "firmware-other-track",
                f"Firmware {facts.firmware} belongs to no track that the policy names.",
                f"Move it to one of {', '.join(sorted(policy.minimum_firmware))}.",
            )
    elif version_numbers(facts.firmware) < version_numbers(track[1]):
        say(
            Severity.HIGH,
            "firmware-too-old",
            f"Firmware {facts.firmware} is older than {track[1]}, the lowest that is good enough in track {track[0]}.",
            f"Update it to {track[1]} or later.",
        )


def _connection(facts: CameraFacts, policy: CameraPolicy, say: Say) -> None:
    if facts.clock_offset_s is not None and abs(facts.clock_offset_s) > policy.clock_seconds:
        fast = "fast" if facts.clock_offset_s > 0 else "slow"
        say(
            Severity.MEDIUM,
            "clock-wrong",
            f"Its clock is {_duration(abs(facts.clock_offset_s))} {fast}: its recordings bear wrong times.",
            "Give it an NTP server it can reach.",
        )
    if facts.certificate_days is not None and facts.certificate_days < policy.certificate_days:
        ended = facts.certificate_days < 0
        days = count(abs(facts.certificate_days), "day")
        say(
            Severity.HIGH if ended else Severity.MEDIUM,
            "certificate-ended" if ended else "certificate-ending",
            f"Its certificate ended {days} ago." if ended else f"Its certificate ends in {days}.",
            "Give it a new one.",
        )
    if policy.require_https and facts.https is False:
        say(
            Severity.HIGH,
            "no-https",
            "It offers no HTTPS: what is said to it can be read on the way.",
            "Switch HTTPS on.",
        )
    for wrong, code, severity, what, remedy in (
        (facts.anonymous and not policy.allow_anonymous, "anonymous", Severity.HIGH,
         "Anybody may view it without an account.", "Switch anonymous viewing off."),
        (facts.ssh and not policy.allow_ssh, "ssh-on", Severity.MEDIUM,
         "Its SSH service is on.", "Switch it off when nobody uses it."),
        (facts.upnp and not policy.allow_upnp, "upnp-on", Severity.LOW,
         "UPnP discovery is on: it announces itself to everybody on the link.", "Switch it off."),
    ):  # fmt: skip
        if wrong:
            say(severity, code, what, remedy)


def _evidence(facts: CameraFacts, policy: CameraPolicy, say: Say) -> None:
    _storage(facts, policy, say)
    _recording(facts, policy, say)
    _video(facts, policy, say)
    if mask_required(facts, policy):
        if facts.masks == 0:
            say(
                Severity.CRITICAL,
                "mask-missing",
                "It must show a privacy mask and shows none.",
                "Put the mask back before anybody watches or records.",
            )
        elif facts.masks is not None and not facts.masks_sure:
            say(
                Severity.MEDIUM,
                "mask-unsure",
                "It must show a privacy mask, and has one; it does not tell whether it is on.",
                "Look at its picture.",
            )
        elif why := facts.untold.get("masks"):
            say(
                Severity.HIGH,
                "mask-unknown",
                f"It must show a privacy mask, and whether it does is not known: {_sentence(why)}",
                "Audit it with an account that may see masks: an administrator's.",
            )


def _storage(facts: CameraFacts, policy: CameraPolicy, say: Say) -> None:
    for disk in facts.disks or ():
        if not disk.ok:
            say(
                Severity.HIGH if policy.require_storage else Severity.MEDIUM,
                "storage-broken",
                f"{disk.name} is {disk.state}.",
                "Look at the card or the share: nothing can be relied on that is recorded there.",
            )
        for sign in disk.ageing:
            say(Severity.MEDIUM, "storage-ageing", f"{disk.name} is {sign}.", "Replace it before it fails.")
    if not policy.require_storage:
        return
    if facts.disks == ():
        say(Severity.HIGH, "no-storage", "It has no card and no share.", "Put in a card, or connect a share.")
    elif facts.disks is None and (why := facts.untold.get("storage")):
        say(
            Severity.HIGH,
            "storage-unknown",
            f"It must have storage, and whether it does is not known: {_sentence(why)}",
            "Audit it with an account that may see disks: an operator's. A camera without a slot needs an exception.",
        )


def _recording(facts: CameraFacts, policy: CameraPolicy, say: Say) -> None:
    if facts.recording is False and facts.set_to_record:
        say(
            Severity.HIGH,
            "not-recording",
            "It is set to record all the time, and records nothing.",
            "Look at its card or share, then remove and add the continuous recording.",
        )
    elif not policy.require_recording:
        return
    elif facts.recording is False:
        say(
            Severity.HIGH,
            "not-recording",
            "It records nothing itself.",
            "Start a continuous recording, or a rule that records.",
        )
    elif facts.recording is None and (why := facts.untold.get("recording")):
        say(
            Severity.HIGH,
            "recording-unknown",
            f"It must record, and whether it does is not known: {_sentence(why)}",
            "Audit it with an account that may see recordings: an operator's.",
        )


def _video(facts: CameraFacts, policy: CameraPolicy, say: Say) -> None:
    why = facts.hidden("stream")
    if facts.stream is False or (facts.stream is None and why is not None and "stream" not in facts.busy):
        say(
            Severity.HIGH,
            "no-stream",
            f"Its stream does not answer: {_sentence(why or 'no reason given')}",
            "Restart it when its other functions hang as well.",
        )
    if facts.picture is not None and (facts.brightness is None or not facts.picture_whole):
        what = (
            "Its picture breaks off."
            if facts.brightness is not None
            else "What it gives is no picture anybody can read."
        )
        say(
            Severity.HIGH, "picture-broken", what, "Look at its own pages; restart it when they do not show one either."
        )
    if facts.brightness is None:
        if (why := facts.hidden("picture")) and "picture" not in facts.busy:
            say(Severity.HIGH, "no-picture", f"It gives no picture: {_sentence(why)}", "Look at its own pages.")
    elif facts.brightness < policy.black_below:
        say(
            Severity.HIGH,
            "picture-black",
            f"Its picture is black (mean brightness {facts.brightness:.1f} of 255).",
            "Is the lens covered, or its light off at night?",
        )
    elif facts.contrast is not None and facts.contrast < BLANK_BELOW:
        say(
            Severity.MEDIUM,
            "picture-blank",
            f"Its picture is the same all over (brightness {facts.brightness:.0f}, deviation {facts.contrast:.1f} of 255).",
            "Is something before the lens, or does it look into a lamp?",
        )


def _sentence(text: str) -> str:
    return f"{text.rstrip('. ')}."


def mask_required(facts: CameraFacts, policy: CameraPolicy) -> bool:
    """Whether the policy wants a privacy mask on this camera: by address, prefix, serial or name."""
    known = {text.casefold() for text in (facts.target, facts.address, facts.serial, *facts.names) if text}
    for wanted in policy.masks_required:
        if wanted.casefold() in known:
            return True
        try:
            if facts.address and ipaddress.ip_address(facts.address) in ipaddress.ip_network(wanted, strict=False):
                return True
        except ValueError:
            continue  # a serial or a name
    return False


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


# --- the report --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """One audit.

    Attributes:
        site: The site.
        cameras: What each said.
        findings: What is not as it should be, the gravest first.
        changes: What the inventory learned, a line each.
        failed: Parts that could not be asked of a whole batch, and why.
        duration: Seconds.
        url: The run's page.
    """

    site: str
    cameras: Sequence[CameraFacts]
    findings: Sequence[CameraFinding]
    changes: Sequence[Mapping[str, str]] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    duration: float = 0.0
    url: str | None = None

    @property
    def reached(self) -> int:
        """Cameras that answered and let us in."""
        return sum(facts.reachable for facts in self.cameras)

    @property
    def worst(self) -> Severity | None:
        """The gravest finding's severity."""
        return max((finding.severity for finding in self.findings), key=lambda severity: severity.rank, default=None)

    @property
    def outcome(self) -> str:
        """How the run ends: Completed, Partial, or Failed when no camera could be audited."""
        if self.cameras and not self.reached:
            return "Failed"
        return "Partial" if self.failed or self.reached < len(self.cameras) else "Completed"


def findings_of(cameras: Iterable[CameraFacts], policy: CameraPolicy) -> list[CameraFinding]:
    """Judge all cameras; the gravest findings first, then by camera as asked."""
    found = [finding for facts in cameras for finding in judge(facts, policy)]
    return sorted(found, key=lambda finding: -finding.severity.rank)


def title(report: Report) -> str:
    """The audit in one line."""
    affected = len({finding.camera for finding in report.findings})
    counts = Counter(str(finding.severity) for finding in report.findings)
    grave = join(f"{counts[severity]} {severity}" for severity in reversed(Severity) if counts[severity])
    cameras = f"{report.reached} of {count(len(report.cameras), 'camera')} audited"
    if not report.findings and (silent := sum(any(map(facts.hidden, facts.untold)) for facts in report.cameras)):
        return f"{cameras}, nothing wrong in what they tell; {silent} {'does' if silent == 1 else 'do'} not tell all"
    if not report.findings:
        return f"{cameras}, all as they should be"
    return f"{cameras}, {count(len(report.findings), 'finding')} on {count(affected, 'camera')} ({grave})"


def camera_rows(report: Report) -> list[dict[str, str]]:
    """A row for each camera."""
    by_camera = Counter(finding.camera for finding in report.findings)
    return [
        {
            "camera": facts.target,
            "name": next(iter(facts.names), ""),
            "model": facts.model or "",
            "serial": facts.serial or "",
            "firmware": facts.firmware or "",
            "audited": "yes" if facts.reachable else f"no: {facts.problem}",
            "clock": "" if facts.clock_offset_s is None else f"{round(facts.clock_offset_s):+d} s",
            "certificate": "" if facts.certificate_days is None else count(facts.certificate_days, "day"),
            "storage": _disks(facts),
            "recording": _yes(facts.recording),
            "stream": _yes(facts.stream),
            "masks": "" if facts.masks is None else str(facts.masks),
            "findings": str(by_camera[facts.target]),
            "not told": join(part for part in facts.untold if facts.hidden(part)),
        }
        for facts in report.cameras
    ]


def _disks(facts: CameraFacts) -> str:
    if facts.disks is None:
        return ""
    return join(f"{disk.name} {disk.state}" for disk in facts.disks) or "none"


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def gaps(report: Report) -> list[str]:
    """What cameras did not tell though they were asked: a line for each part and reason, the most cameras first."""
    return _together(
        (f"{part}, of {{}}: {_sentence(why)}", facts.target)
        for facts in report.cameras
        for part in facts.untold
        if (why := facts.hidden(part))
    )


def notes(report: Report) -> list[str]:
    """What the conversations were like, such as that no certificate was checked: a line for each remark, the most cameras first."""
    return _together((f"{{}}: {_sentence(note)}", facts.target) for facts in report.cameras for note in facts.notes)


def _lists(report: Report) -> list[tuple[str, list[str]]]:
    """What there is to say beside findings, by heading; empty lists left out."""
    lists = (
        ("What they do not tell", gaps(report)),
        ("What else to know", notes(report)),
        ("Not asked", [f"{part}: {why}" for part, why in report.failed.items()]),
    )
    return [(heading, lines) for heading, lines in lists if lines]


def _together(said: Iterable[tuple[str, str]]) -> list[str]:
    """Lines with the cameras they are true of in the place of `{}`."""
    of: dict[str, list[str]] = {}
    for line, target in said:
        of.setdefault(line.replace(target, "it"), []).append(target)
    lines = []
    for line, targets in sorted(of.items(), key=lambda one: -len(one[1])):
        named = ", ".join(targets[:MOST_NAMED]) + (", ..." if len(targets) > MOST_NAMED else "")
        lines.append(line.replace("{}", f"{count(len(targets), 'camera')} ({named})", 1))
    return lines if len(lines) <= MOST_GAPS else [*lines[:MOST_GAPS], f"... and {len(lines) - MOST_GAPS} more."]


def finding_rows(report: Report) -> list[dict[str, str]]:
    """A row for each finding."""
    return [
        {
            "severity": str(finding.severity),
            "camera": finding.camera,
            "what": finding.what,
            "remedy": finding.remedy,
            "code": finding.code,
        }
        for finding in report.findings
    ]


def text(report: Report) -> str:
    """The digest as plain text."""
    lines = [f"Cameras at {report.site}: {title(report)}."]
    lines += [""] if report.findings else []
    lines += [f"- {finding.severity}: {finding.camera}: {finding.what}" for finding in report.findings[:MOST_LISTED]]
    if len(report.findings) > MOST_LISTED:
        lines.append(f"... and {len(report.findings) - MOST_LISTED} more on the run's page.")
    if report.changes:
        lines += ["", f"The inventory learned ({len(report.changes)}):"]
        lines += [f"- {' '.join(filter(None, row.values()))}" for row in report.changes[:MOST_LISTED]]
    for heading, said in _lists(report):
        lines += ["", f"{heading}:", *(f"- {line}" for line in said)]
    if report.url:
        lines += ["", report.url]
    return "\n".join(lines)


def html(report: Report) -> str:
    """The digest as HTML, for mail."""
    head = f"<p><b>{markup.escape(title(report))}</b></p>"
    rows = "".join(
        f"<tr><td>{markup.escape(str(finding.severity))}</td><td>{markup.escape(finding.camera)}</td>"
        f"<td>{markup.escape(finding.what)}</td><td>{markup.escape(finding.remedy)}</td></tr>"
        for finding in report.findings[:MOST_LISTED]
    )
    table = (
        "<table cellpadding='4'><tr><th>severity</th><th>camera</th><th>what</th><th>what to do</th></tr>"
        f"{rows}</table>"
        if rows
        else ""
    )
    for heading, said in _lists(report):
        table += f"<p>{heading}:</p><ul>{''.join(f'<li>{markup.escape(line)}</li>' for line in said)}</ul>"
    link = f'<p><a href="{markup.escape(report.url)}">The whole report</a></p>' if report.url else ""
    return head + table + link


def markdown(report: Report, sheet: str | None) -> str:
    """The summary on the run's page; `sheet` is the contact sheet as an image address."""
    parts = [f"# {escape(title(report))}", f"Site {escape(report.site)}, {report.duration:.0f} s."]
    if report.findings:
        parts += ["## Findings", markdown_table(finding_rows(report), most=MOST_LISTED)]
    if report.changes:
        parts += ["## What the inventory learned", markdown_table([dict(row) for row in report.changes])]
    for heading, said in _lists(report):
        parts += [f"## {heading}", "\n".join(f"- {escape(line)}" for line in said)]
    if sheet:
        parts += ["## What they see", f"![Contact sheet]({sheet})"]
    return "\n\n".join(parts)
