"""`vapix_device_info`: what cameras are, what they can do, and how they are."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from tasks.core.errors import Busy, Forbidden, Rejected, Unauthorized, Unsupported
from tasks.core.models import BlockName, Example, Safety, Service
from tasks.core.tool import tool
from tasks.network.vapix._camera import BASICDEVICEINFO, Camera
from tasks.network.vapix._fleet import CameraEntry, CamerasResult, each_camera, entry, fitting
from tasks.network.vapix._params import CameraTargets, fleet_timeout
from tasks.network.vapix._picture import is_jpeg
from tasks.network.vapix._settings import SETTING_GROUPS, Settings, read_settings
from tasks.network.vapix._video_offers import SNAPSHOT
from tasks.network.vapix._wire import CLASSIC, Declined, Nonsense, said

CAMERA_SECONDS = 90.0
"""Most seconds for one camera."""
TEMPERATURE = "/axis-cgi/temperaturecontrol.cgi"
MOST_PROPERTIES = 400
MOST_GLIMPSE = 4 << 20
"""Most bytes of the picture that anybody may have: some cameras give another size than the one that is asked for."""
_SMALL = {"resolution": "320x240", "compression": "90"}
_SETTINGS_IN_WORDS = {"https": "HTTPS", "ssh": "SSH", "upnp": "UPnP", "anonymous": "viewing without an account"}
# Names of the two sources: the API's, and those of the parameters it replaced.
_BASIC = {
    "brand": ("Brand", "Brand.Brand"),
    "name": ("ProdFullName", "Brand.ProdFullName"),
    "number": ("ProdNbr", "Brand.ProdNbr"),
    "type": ("ProdType", "Brand.ProdType"),
    "variant": ("ProdVariant", "Brand.ProdVariant"),
    "hardware_id": ("HardwareID", "Properties.System.HardwareID"),
    "build_date": ("BuildDate", "Properties.Firmware.BuildDate"),
    "architecture": ("Architecture", "Properties.System.Architecture"),
    "soc": ("Soc", "Properties.System.Soc"),
}


class DeviceView(StrEnum):
    """A part of what can be asked."""

    BASIC = "basic"
    CAPABILITIES = "capabilities"
    PROPERTIES = "properties"
    TEMPERATURE = "temperature"
    TIME = "time"
    ACCOUNT = "account"
    CERTIFICATE = "certificate"
    SETTINGS = "settings"


ANONYMOUS = (DeviceView.BASIC, DeviceView.CAPABILITIES, DeviceView.TIME, DeviceView.CERTIFICATE)
"""What cameras tell anybody, most of them."""


class VapixDeviceInfo(CameraTargets):
    """Parameters of `vapix_device_info`."""

    credentials: BlockName | None = Field(
        None,
        description="Block with the account, such as axis/yard (type Axis Credentials). None: only what cameras tell anybody, over http, "
        "or https where port is 443.",
    )
    views: Annotated[list[DeviceView], AfterValidator(lambda views: list(dict.fromkeys(views)))] = Field(
        default_factory=list,
        description="Parts to read: basic, capabilities (APIs with versions), properties, temperature, time, account (its level), "
        "certificate, settings (HTTPS, SSH, UPnP, viewing without an account). Default: basic, time and certificate, with credentials "
        "also account.",
    )

    @model_validator(mode="after")
    def _an_account_for_what_needs_one(self) -> VapixDeviceInfo:
        if self.credentials is None:
            closed = [view for view in self.views if view not in ANONYMOUS]
            if closed:
                raise ValueError(f"views {', '.join(closed)} need credentials: cameras tell nobody else")
        return self

    @property
    def wanted(self) -> list[DeviceView]:
        """The views to read."""
        usual = [DeviceView.BASIC, DeviceView.TIME, DeviceView.CERTIFICATE]
        return self.views or (usual if self.credentials is None else [*usual, DeviceView.ACCOUNT])


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BasicInfo(_Part):
    """What the device is."""

    api: str = Field(description="Where this comes from: basic-device-info or param-cgi.")
    brand: str | None = Field(None, description="Brand.")
    name: str | None = Field(None, description="Whole name of the product.")
    number: str | None = Field(None, description="Number of the product.")
    type: str | None = Field(None, description="Kind of the product, such as Network Camera.")
    variant: str | None = Field(None, description="Variant of the product.")
    hardware_id: str | None = Field(None, description="Hardware id.")
    build_date: str | None = Field(None, description="When its firmware was built, as it writes it.")
    architecture: str | None = Field(None, description="Processor architecture; told to operators and above.")
    soc: str | None = Field(None, description="System on chip; told to operators and above.")


class Api(_Part):
    """An API the device has."""

    id: str = Field(description="Id.")
    version: str = Field(description="Highest version it accepts.")
    status: str | None = Field(None, description="official, beta, deprecated ..., where it says.")


class Temperature(_Part):
    """A temperature sensor."""

    sensor: str = Field(description="Id, such as S0.")
    name: str | None = Field(None, description="Where it sits.")
    celsius: float = Field(description="Degrees Celsius.")


class Climate(_Part):
    """A heater or a fan."""

    device: str = Field(description="Id, such as Heater.H0 or Fan.F0.")
    status: str = Field(description="Running, Stopped, Failure ..., as the device says it.")


class DeviceTime(_Part):
    """The device's clock beside ours."""

    source: str = Field(description="Where the time comes from: the header Date of an HTTP answer.")
    device_at: datetime = Field(description="Its time, UTC, in whole seconds.")
    offset_seconds: float = Field(description="How far it is ahead of us (negative: behind), seconds, to within one.")
    time_zone: str | None = Field(None, description="Its time zone, as it writes it; read with credentials only.")
    sync_source: str | None = Field(None, description="How it sets its clock, such as NTP; read with credentials only.")


class AccountLevel(_Part):
    """What our account may do."""

    name: str = Field(description="Name of the account, as the device says it.")
    level: str = Field(description="none, viewer, operator or admin.")
    ptz: bool = Field(description="Whether it may move the camera.")
    scheme: str | None = Field(None, description="How we logged in: digest or basic.")


class CertificateInfo(_Part):
    """The certificate of this conversation."""

    fingerprint: str = Field(description="SHA-256, 64 hexadecimal digits: what a block pins.")
    subject: str = Field(description="For whom it is.")
    issuer: str = Field(description="Who signed it.")
    not_after: datetime | None = Field(None, description="When it expires, UTC; None when it cannot be read.")
    days_left: int | None = Field(None, description="Whole days until then; negative when it has expired.")


class DeviceEntry(CameraEntry):
    """What one camera said."""

    boot_id: str | None = Field(None, description="Changes when it starts; only firmware from about 11 on has one.")
    uptime_seconds: int | None = Field(
        None, description="Seconds since it started; only firmware from about 11 on says it."
    )
    basic: BasicInfo | None = Field(None, description="What it is.")
    apis: list[Api] = Field(default_factory=list, description="Its APIs by API discovery; none before firmware 8.50.")
    properties: dict[str, str] = Field(
        default_factory=dict, description="Its parameters Properties, without that word."
    )
    temperatures: list[Temperature] = Field(default_factory=list, description="Its temperature sensors.")
    climate: list[Climate] = Field(default_factory=list, description="Its heaters and fans.")
    time: DeviceTime | None = Field(None, description="Its clock beside ours.")
    account: AccountLevel | None = Field(None, description="What our account may do.")
    certificate: CertificateInfo | None = Field(None, description="Its certificate; None over http.")
    settings: Settings | None = Field(None, description="Settings that let strangers in, or keep them out.")
    missing: dict[str, str] = Field(
        default_factory=dict, description="Views it could not or would not show, and why, by view."
    )


class VapixDeviceInfoResult(CamerasResult):
    """An entry for each camera, in the order asked."""

    cameras: list[DeviceEntry] = Field(description="One entry for each camera, in the order asked.")

    def one_line(self, camera: DeviceEntry) -> str:
        if camera.firmware is None:
            return super().one_line(camera)
        parts = [f"{camera.model or 'a device'} {camera.firmware}", f"serial {camera.serial}"]
        if camera.time is not None and abs(camera.time.offset_seconds) > 2:
            parts.append(f"clock off by {camera.time.offset_seconds:+.0f} s")
        if camera.account is not None:
            parts.append(f"account {camera.account.level}")
        return f"{camera.target}: {', '.join(parts)}"


@tool(
    service=Service.NETWORK,
    safety=Safety.PROBE,
    timeout=fleet_timeout(CAMERA_SECONDS),
    retries=1,
    aliases=("axis_vapix_device_info", "axis_info", "camera_info"),
    examples=[
        Example("What is this camera, is its clock right?", {"targets": ["10.0.0.11"], "credentials": "axis/yard"}),
        Example("Which of these are Axis cameras? Without logging in", {"targets": ["10.0.0.11", "10.0.0.12"]}),
        Example(
            "What can it do, and how warm is it?",
            {"targets": ["gate.example.com"], "credentials": "axis/yard", "views": ["capabilities", "temperature"]},
        ),
    ],
)
async def vapix_device_info(params: VapixDeviceInfo) -> VapixDeviceInfoResult:
    """Say what Axis cameras are, what they can do, and how they are.

    Model, serial, firmware, APIs, temperatures, clock, certificate, and what our account may do. Without credentials it reads what
    cameras tell anybody. A view that a camera cannot show is noted in `missing`; a camera that does not answer is an outcome.

    Raises:
        InvalidParameters: There is no such block.
        NotFound: No target's name resolves.
        ToolError: What became of the camera, when there is one target only.
    """

    async def read(camera: Camera) -> Reading:
        reading = Reading(camera)
        for view in params.wanted:
            await reading.read(view)
        return reading

    seen = await each_camera(params, read, seconds=CAMERA_SECONDS)
    cameras = [entry(DeviceEntry, one, **(one.value.fields() if one.value is not None else {})) for one in seen]
    droppable = ("properties", "apis", "climate", "temperatures", "missing", "boot_id", "certificate", "basic", "time")
    return await fitting(VapixDeviceInfoResult(cameras=cameras), [*droppable, "account", "uptime_seconds"])


class Reading:
    """The views of one camera, as they come."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._found: dict[str, object] = {}
        self._missing: dict[str, str] = {}

    async def read(self, view: DeviceView) -> None:
        """Read one view; what the camera does not have or does not show is noted."""
        try:
            await getattr(self, f"_{view}")()
        except (Unsupported, Forbidden, Declined, Nonsense) as error:
            self._missing[view] = said(error)
        except Unauthorized as error:
            if self._camera.has_account:
                raise
            self._missing[view] = said(error)

    def fields(self) -> dict[str, object]:
        """Fields of the entry."""
        return {**self._found, "missing": self._missing}

    async def _basic(self) -> None:
        device = await self._camera.device()
        self._found |= {"boot_id": device.boot_id, "uptime_seconds": device.uptime}
        facts = dict(device.facts or {})
        if not facts:
            raise Unauthorized(f"{self._camera.asked} tells this to accounts only.")
        if "Brand" in facts and self._camera.has_account:
            # The rest of it is for operators; viewers keep what anybody gets.
            try:
                more = await self._camera.call(BASICDEVICEINFO, "getAllProperties", meanings=CLASSIC)
                facts |= {said(name, 60): said(value) for name, value in dict(more["propertyList"]).items()}
            except (Unsupported, Forbidden, Declined):
                pass
            except (KeyError, TypeError, ValueError):
                raise Nonsense(f"{self._camera.asked} does not list its properties.") from None
        modern = "Brand" in facts
        values = {field: facts.get(names[0] if modern else names[1]) or None for field, names in _BASIC.items()}
        self._found["basic"] = BasicInfo(api="basic-device-info" if modern else "param-cgi", **values)

    async def _capabilities(self) -> None:
        apis, statuses = await self._camera.apis()
        self._found["apis"] = [Api(id=id_, version=apis[id_], status=statuses.get(id_)) for id_ in sorted(apis)]
        if not apis:
            self._missing["capabilities"] = "This firmware has no API discovery; see the view properties."

    async def _properties(self) -> None:
        properties = (await self._camera.capabilities()).properties
        shown = sorted(properties)[:MOST_PROPERTIES]
        self._found["properties"] = {name.removeprefix("Properties."): said(properties[name]) for name in shown}

    async def _temperature(self) -> None:
        values = await self._temperature_values()
        sensors = sorted({name.split(".")[1] for name in values if name.startswith("Sensor.")})
        self._found["temperatures"] = [
            Temperature(sensor=sensor, name=values.get(f"Sensor.{sensor}.Name") or None, celsius=celsius)
            for sensor in sensors
            if (celsius := _number(values.get(f"Sensor.{sensor}.Celsius"))) is not None
        ]
        self._found["climate"] = [
            Climate(device=name.removesuffix(".Status"), status=values[name])
            for name in sorted(values)
            if name.endswith(".Status") and name.startswith(("Heater.", "Fan."))
        ]

    async def _temperature_values(self) -> dict[str, str]:
        """Read `name=value` lines such as `Sensor.S0.Celsius=43.50`; devices without sensors have no such function."""
        text = await self._camera.text(TEMPERATURE, {"action": "statusall"})
        values = {}
        for line in text.splitlines()[:500]:
            name, separator, value = line.strip().partition("=")
            if separator and 2 < len(name) < 60 and name.count(".") == 2:
                values[name] = said(value, 60)
        if text.strip() and not values:
            raise Nonsense(f"{self._camera.asked} does not list its temperatures: {said(text, 80)}.")
        return values

    async def _time(self) -> None:
        clock = self._camera.clock
        if clock is None:
            self._missing["time"] = "The camera's answers carry no date."
            return
        device_at, our_time = clock
        # The header has whole seconds: on average half of one is cut off.
        offset = (device_at + timedelta(seconds=0.5) - our_time).total_seconds()
        settings = await self._camera.parameters("Time") if self._camera.has_account else {}
        self._found["time"] = DeviceTime(
            source="HTTP header Date",
            device_at=device_at,
            offset_seconds=round(offset, 1) + 0.0,  # never -0.0
            time_zone=said(settings.get("Time.TimeZone") or settings.get("Time.POSIXTimeZone") or "", 80) or None,
            sync_source=said(settings.get("Time.SyncSource", ""), 40) or None,
        )

    async def _account(self) -> None:
        level = await self._camera.level()
        self._found["account"] = AccountLevel(
            name=level.user, level=level.rank, ptz=level.ptz, scheme=self._camera.login_scheme
        )

    async def _certificate(self) -> None:
        found = self._camera.certificate
        if found is None:
            self._missing["certificate"] = "The conversation was not encrypted."
            return
        self._found["certificate"] = CertificateInfo(
            fingerprint=found.fingerprint,
            subject=found.subject,
            issuer=found.issuer,
            not_after=found.not_after,
            days_left=found.days_left,
        )

    async def _settings(self) -> None:
        settings = read_settings(await self._camera.parameters(*SETTING_GROUPS))
        if (seen := await self._anybody_may_view()) is not None:
            settings = settings.model_copy(update={"anonymous": seen})
        self._found["settings"] = settings
        # To an administrator it shows all it has: what is missing then is not there.
        admin = self._camera.has_account and (await self._camera.level()).at_least("admin")
        hidden = [words for name, words in _SETTINGS_IN_WORDS.items() if getattr(settings, name) is None and not admin]
        if hidden:
            self._missing["settings"] = f"It does not tell this account about {', '.join(hidden)}."

    async def _anybody_may_view(self) -> bool | None:
        """Whether a picture is given to anybody: parameters call the switch differently, so it is tried; None when that says nothing."""
        try:
            answer = await self._camera.fetch(SNAPSHOT, _SMALL, max_bytes=MOST_GLIMPSE, anonymous=True)
        except (Unauthorized, Forbidden):
            return False
        except (Unsupported, Declined, Rejected, Nonsense, Busy):
            return None
        return True if is_jpeg(answer.body) else None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if -200 < value < 500 else None
