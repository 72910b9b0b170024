"""Models and firmware generations, as data. The models end in -SIM, so that nobody takes one for a real camera.

| profile | model, firmware | what is special |
|---|---|---|
| ancient | P5512-SIM 5.51.7 | PTZ dome; no JSON API; digest and Basic; ISO-8859-1 |
| old | M3045-SIM 6.50.5 | fixed; no JSON API; masks and overlays by parameters |
| 9.80 | P3367-SIM 9.80.2 | fixed; API discovery needs a login and has no `status`; no unrestricted properties; no WebSocket; no qop |
| mid | P3245-SIM 11.11.150 | fixed dome, 8 view areas, digital PTZ switched off, IR light, two ports, SD card |
| new | P1468-SIM 12.9.57 | fixed; Basic on HTTPS, digest without qop on HTTP; REST configuration; daynight API |
| ptz | Q6318-SIM 12.6.104 | mechanical PTZ, presets, light, four ports |
| bare | D2210-SIM 12.9.57 | a radar: no video at all |
| needs-setup | P3245-SIM 11.11.150 | as mid, without any account |

Features: `video` `ptz` (mechanical) `digital-ptz` `io` `sd` `lights` `overlay` (dynamic overlays) `mask-cgi` (privacymask.cgi)
`mask-windows` (by parameters) `daynight` (IR-cut filter of the sensor) `daynight-ptz` (of the PTZ driver) `ws` (WebSocket events)
`actions` (action rules) `rest`; and how it behaves: `needs-setup` `offers-both` `discovery-login` `no-status` `unrestricted` `boot-id`
`no-throttle`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployments.demo.axis_camera._parameters import ParameterTree, Template, parse

if TYPE_CHECKING:
    from deployments.demo.axis_camera._device import Device

# --- parameters ----------------------------------------------------------------------------------------------------------

IDENTITY = """
[Brand 7707 readonly]
Brand = AXIS
ProdFullName = AXIS {model} {kind}
ProdNbr = {model}
ProdShortName = AXIS {model}
ProdType = {kind}
ProdVariant =
WebURL = http://www.axis.com
[Properties 7707 readonly]
API.HTTP.AdminPath = /
API.HTTP.Version = 3
API.Metadata.Metadata = yes
API.Metadata.Version = 1.0
API.WebSocket.RTSP = {websocket}
EmbeddedDevelopment.EmbeddedDevelopment = yes
EmbeddedDevelopment.Version = {acap}
Firmware.BuildDate = {built}
Firmware.BuildNumber = 26
Firmware.Version = {firmware}
HTTPS.HTTPS = yes
System.Architecture = {architecture}
System.HardwareID = {hardware}
System.Language = English
System.LanguageType = default
System.SerialNumber = {serial}
System.Soc = {soc}
VirtualInput.VirtualInput = {virtual}
"""
DISCOVERY = """
[Properties 7707 readonly]
ApiDiscovery.ApiDiscovery = yes
"""
SYSTEM = """
[HTTPS 7766]
Enabled = yes | bool yes/no | Enable HTTPS
Port = 443 | int 1..65535 | Port
AllowTLS1 = no | bool yes/no
AllowTLS11 = no | bool yes/no
[Network 7766]
BootProto = dhcp | enum dhcp,none,bootp | Assignment
HostName = axis-{serial_low} | hostname
DefaultRouter = 192.0.2.1 | ip
DomainName = lan | string 63
IPAddress = {address} | ip
SubnetMask = 255.255.255.0 | ip
Broadcast = 192.0.2.255 | ip
Resolver.ObtainFromDHCP = yes | bool yes/no
Resolver.NameServerList = 192.0.2.1 | iplist
[Network.eth0 7747]
MACAddress = {mac_upper} | string 17 readonly
IPAddress = {address} | ip @7767
SubnetMask = 255.255.255.0 | ip @7767
DefaultRouter = 192.0.2.1 | ip @7767
[Network.HTTP 7716]
AuthenticationPolicy = {policy} | enum {policies}
AuthenticationWithQop = {qop} | bool yes/no
Port = 80 | int 1..65535
[Network.RTSP 7766]
Enabled = yes | bool yes/no
Port = 554 | int 1..65535
AllowClientTransportSettings = yes | bool yes/no
[Network 7766]
Bonjour.Enabled = yes | bool yes/no
Bonjour.FriendlyName = AXIS {model} - {serial} | string 63
SSH.Enabled = no | bool yes/no
UPnP.Enabled = {upnp} | bool yes/no
UPnP.FriendlyName = AXIS {model} - {serial} | string 63
[SNMP 7766]
Enabled = no | bool yes/no
V1ReadCommunity = not-masked-by-the-device | string 32
[RemoteService 7766]
Enabled = no | enum no,yes,oneclick
ProxyPassword = hunter2 | password
[System 7766]
BoaGroupPolicy.admin = both | enum both,http,https
BoaGroupPolicy.operator = both | enum both,http,https
BoaGroupPolicy.viewer = both | enum both,http,https
PreventDoSAttack.ActivatePasswordThrottling = {throttling} | bool on/off
PreventDoSAttack.DoSBlockingPeriod = 10 | int 1..3600
PreventDoSAttack.DoSPageCount = 20 | int 1..1000
PreventDoSAttack.DoSPageInterval = 1 | int 1..3600
[Time 7746]
NTP.Server = pool.ntp.org | hostname
ObtainFromDHCP = yes | bool yes/no
POSIXTimeZone = CET-1CEST,M3.5.0,M10.5.0 | string 63
SyncSource = NTP | enum NTP,PC,None
"""
VIDEO = """
[Properties 7707 readonly]
API.RTSP.RTSPAuth = yes
API.RTSP.Version = 2.01
Image.Format = {formats}
Image.NbrOfViews = {views}
Image.Resolution = {resolutions}
Image.Rotation = 0,90,180,270
[Image 7744]
DateFormat = YYYY-MM-DD | enum YYYY-MM-DD,DD-MM-YYYY
MaxViewers = 20 | int 1..20
NbrOfConfigs = {views} | int readonly
OwnTimeFormat = 24 | string 8
TriggerDataEnabled = no | bool yes/no
"""
VIEW = """
[Image.{view} 7714]
Enabled = {enabled} | bool yes/no
Name = {name} | string 64
Source = 0 | int readonly
[Image.{view}.Appearance 7714]
ColorEnabled = yes | bool yes/no | Color
Compression = 30 | int 0..100 | Compression
MirrorEnabled = no | bool yes/no | Mirror image
Resolution = {resolution} | enum {resolutions} | Resolution
Rotation = 0 | enum 0,90,180,270 | Rotation
[Image.{view}.MPEG 7714]
Complexity = 50 | int 0..100
ConfigHeaderInterval = 1 | int 1..1000
FrameSkipMode = drop | enum drop,empty
ICount = 1 | int 1..1
PCount = 61 | int 0..1022
UserDataEnabled = no | bool yes/no
UserDataInterval = 1 | int 1..600
ZChromaQPMode = off | bool on/off
ZFpsMode = fixed | enum fixed,dynamic
ZGopMode = fixed | enum fixed,dynamic
ZMaxGopLength = 300 | int 61..1200
ZMinFps = 0 | string 8
ZStrength = 10 | enum off,10,20,30,40,50
[Image.{view}.RateControl 7714]
MaxBitrate = 0 | int 0..50000
Mode = vbr | enum vbr,mbr,abr
Priority = framerate | enum framerate,quality,none
TargetBitrate = 0 | int 0..50000
[Image.{view}.SizeControl 7714]
MaxFrameSize = 0 | int 0..10000
[Image.{view}.Stream 7714]
Duration = 0 | int 0..
FPS = 0 | int 0..120
NbrOfFrames = 0 | int 0..
[Image.{view}.TriggerData 7744]
AudioEnabled = no | bool yes/no
MotionDetectionEnabled = yes | bool yes/no
MotionLevelEnabled = no | bool yes/no
TamperingEnabled = yes | bool yes/no
UserTriggers = | string 64
"""
VIEW_TEXT = """
[Image.{view}.Appearance 7744]
Overlays = {overlays} | enum all,text,image,application,off | Include overlays
[Image.{view}.Overlay 7744]
Enabled = no | bool yes/no | Include overlay image
XPos = 0 | int 0..10000
YPos = 0 | int 0..10000
MaskWindows.Color = black | enum black,grey,white,red,blurred | Colour
[Image.{view}.Text 7744]
BGColor = black | enum black,white,transparent,semitransparent
ClockEnabled = no | bool yes/no | Include time
Color = white | enum black,white
DateEnabled = no | bool yes/no | Include date
Position = top | enum top,bottom
String = | string 512
TextEnabled = no | bool yes/no | Include text
TextSize = medium | enum small,medium,large
"""
SENSOR = """
[ImageSource 7714]
NbrOfSources = 1 | int readonly
[ImageSource.I0 7714]
Name = Camera 1 | string 64
SceneProfile = forensic | enum forensic,vivid,traffic_overview | Scene profile
[ImageSource.I0.Sensor 7714]
AspectRatio = 16:9 | string 16 readonly
BacklightCompensation = no | bool yes/no | Backlight compensation
BlueBalance = 50 | int 0..100
Brightness = 50 | int 0..100 | Brightness
CaptureMode = 0 | int 0..3 | Capture mode
ColorLevel = 50 | int 0..100 | Color level
Contrast = 50 | int 0..100 | Contrast
DefogEffect = 50 | int 0..100
Defog = off | enum off,on,auto | Defog
Exposure = auto | enum auto,hold,flickerfree50,flickerfree60,flickerreduced50,flickerreduced60 | Exposure control
ExposurePriorityNormal = 50 | int 0..100
ExposureValue = 50 | int 0..100 | Exposure value
ExposureWindow = auto | enum auto,center,upper,lower,left,right,spot,custom
LocalContrast = 50 | int 0..100 | Local contrast
MaxExposureTime = 166667 | int -60..2000000
MinExposureTime = -1 | int -60..2000000
MaxGain = 100 | int 0..100 | Maximum gain
MinGain = 0 | int 0..100
RedBalance = 50 | int 0..100
SNF = 50 | int 0..100
Sharpness = 50 | int 0..100 | Sharpness
Stabilizer = off | enum on:On,off:Off | Stabilizer
TNF = 50 | int 0..100
ToneMapping = 50 | int 0..100 | Tone mapping
WDR = on | enum on:On,off:Off | Wide dynamic range
WDRLevel = 50 | int 0..100
WhiteBalance = auto | enum auto,auto_indoor,auto_outdoor,hold,manual,fixed_outdoor1,fixed_outdoor2,fixed_indoor,fixed_fluor1 | White balance
"""
OLD_SENSOR = """
[ImageSource 7744]
NbrOfSources = 1 | int readonly
[ImageSource.I0 7744]
Name = Camera 1 | string 64
[ImageSource.I0.Sensor 7744]
BacklightCompensation = no | bool yes/no
Brightness = 50 | int 0..100 | Brightness
ColorLevel = 50 | int 0..100 | Color level
Contrast = 50 | int 0..100 | Contrast
Exposure = auto | enum auto,manual | Exposure control
ExposurePriority = 50 | enum 0,50,100 | Exposure priority
MaxExposureTime = -2 | enum -2,-5,-10,-20,-40,-80
MaxGain = 100 | int 0..100
Sharpness = 50 | int 0..100 | Sharpness
WDR = off | enum on:On,off:Off
WhiteBalance = auto | enum auto,hold,fixed_outdoor1,fixed_indoor,fixed_fluor1 | White balance
"""
DAY_NIGHT = """
[ImageSource.I0.DayNight 7714]
IrCutFilter = auto | enum no:Off,yes:On,auto:Auto | IR cut filter
ShiftLevel = 100 | int 0..100 | Shift level
"""
PTZ = """
[Properties 7707 readonly]
API.PTZ.Presets.Version = 2.00
PTZ.DigitalPTZ = {digital}
PTZ.DriverManagement = no
PTZ.DriverModeList = {modes}
PTZ.PTZ = yes
PTZ.PTZOnQuadView = no
PTZ.SelectableDriverMode = no
[PTZ 7744]
BoaProtPTZOperator = password | string 16
CamPorts.Cam1Port = {port} | int -1..8
CameraDefault = 1 | int 1..8
NbrOfCameras = 1 | int readonly
NbrOfSerPorts = 0 | int readonly
PresetNameMaxLen = 95 | int readonly
ResponseEncoding = iso-8859-1 | enum iso-8859-1,utf-8
ImageSource.I0.PTZEnabled = {enabled} | bool true/false
"""
PTZ_DRIVER = """
[PTZ.Limit.L1 7744]
MaxBrightness = 9999 | int 1..9999
MaxFieldAngle = 62 | int 1..360
MaxFocus = 9999 | int 1..9999
MaxIris = 9999 | int 1..9999
MaxPan = 180 | int -180..180
MaxTilt = {max_tilt} | int -180..180
MaxZoom = {max_zoom} | int 1..19999
MinBrightness = 1 | int 1..9999
MinFieldAngle = 3 | int 1..360
MinFocus = 1 | int 1..9999
MinIris = 1 | int 1..9999
MinPan = -180 | int -180..180
MinTilt = {min_tilt} | int -180..180
MinZoom = 1 | int 1..19999
[PTZ.Support.S1 7747]
AbsoluteBrightness = false | bool true/false
AbsoluteFocus = true | bool true/false
AbsoluteIris = true | bool true/false
AbsolutePan = true | bool true/false
AbsoluteTilt = true | bool true/false
AbsoluteZoom = true | bool true/false
ActionNotification = true | bool true/false
AreaZoom = true | bool true/false
AutoFocus = true | bool true/false
AutoIrCutFilter = true | bool true/false
AutoIris = true | bool true/false
Auxiliary = true | bool true/false
BackLight = true | bool true/false
ContinuousBrightness = false | bool true/false
ContinuousFocus = true | bool true/false
ContinuousIris = false | bool true/false
ContinuousPan = true | bool true/false
ContinuousTilt = true | bool true/false
ContinuousZoom = true | bool true/false
DevicePreset = false | bool true/false
DigitalZoom = true | bool true/false
GenericHTTP = false | bool true/false
IrCutFilter = true | bool true/false
JoyStickEmulation = true | bool true/false
LensOffset = false | bool true/false
OSDMenu = false | bool true/false
ProportionalSpeed = true | bool true/false
RelativeBrightness = false | bool true/false
RelativeFocus = true | bool true/false
RelativeIris = true | bool true/false
RelativePan = true | bool true/false
RelativeTilt = true | bool true/false
RelativeZoom = true | bool true/false
ServerPreset = true | bool true/false
SpeedCtl = true | bool true/false
[PTZ.UserCtlQueue.U0 7744]
Priority = 10 | int 1..100
TimeoutTime = 60 | int 1..3600
TimeoutType = activity | enum timespan,activity,infinity
UseCookie = yes | bool yes/no
UserGroup = Operator | string 32
[PTZ.Various.V1 7744]
AutoFocus = true | bool true/false
AutoIris = true | bool true/false
BackLight = false | bool true/false
CtlQueueLimit = 20 | int 1..100
CtlQueuePollTime = 20 | int 5..60
CtlQueueing = false | bool true/false
HomePresetSet = true | bool true/false
IrCutFilter = auto | enum off:Off,on:On,auto:Auto | IR cut filter
Locked = false | bool true/false
MaxProportionalSpeed = 200 | int 1..1000
PanEnabled = true | bool true/false
ProportionalSpeedEnabled = true | bool true/false
ReturnToOverview = 0 | int 0..3600
SpeedCtlEnabled = true | bool true/false
TiltEnabled = true | bool true/false
ZoomEnabled = true | bool true/false
"""
STREAM_PROFILES = """
[StreamProfile 7714]
MaxGroups = 26 | int readonly
"""
STREAM_PROFILE = """
[- 4414]
Name = | string 64
Description = | string 128
Parameters = | string 1024
"""
STORAGE = """
[Properties 7707 readonly]
LocalStorage.LocalStorage = yes
LocalStorage.SDCard = yes
LocalStorage.StorageLimit = yes
LocalStorage.Version = 1.00
[Recording 7744]
DefaultDiskId = SD_DISK | string 64
[Storage.S0 7744]
AutoRepair = yes | bool yes/no
CleanupLevel = 90 | int 0..100
CleanupMaxAge = 7 | int 0..3650
CleanupPolicyActive = fifo | enum fifo,none
DiskID = SD_DISK | string 64 readonly
Enabled = yes | bool yes/no
FriendlyName = SD Card | string 64
Locked = no | bool yes/no
MountOnBoot = yes | bool yes/no
RequiredFileSystem = none | string 16
[Storage.S1 7744]
AutoRepair = no | bool yes/no
CleanupLevel = 90 | int 0..100
CleanupMaxAge = 7 | int 0..3650
CleanupPolicyActive = fifo | enum fifo,none
DiskID = NetworkShare | string 64 readonly
Enabled = yes | bool yes/no
FriendlyName = Network Share | string 64
Locked = no | bool yes/no
MountOnBoot = no | bool yes/no
RequiredFileSystem = cifs | string 16
"""
PORTS = """
[Input 7747]
NbrOfInputs = {inputs} | int readonly
[Output 7747]
NbrOfOutputs = {outputs} | int readonly
[Properties 7707 readonly]
IO.ManualTriggerNbr = {trigger}
"""
INPUT = """
[IOPort.{port} 7744]
Configurable = {configurable} | bool yes/no readonly
Direction = input | enum input,output
Usage = | string 64
Input.Name = Input {number} | string 64
Input.Trig = closed | enum open,closed
Output.Active = closed | enum open,closed
Output.Button = none | enum none,toggle,momentary
Output.DelayTime = 0 | int 0..10000
Output.Mode = bistable | enum bistable,monostable
Output.Name = Output {number} | string 64
Output.PulseTime = 0 | int 0..65535
"""
OUTPUT = INPUT.replace("Direction = input", "Direction = output")
LIGHTS = """
[Properties 7707 readonly]
LightControl.LightControl2 = yes
LightControl.LightControlAvailable = yes
"""
OVERLAYS = """
[Properties 7707 readonly]
DynamicOverlay.DynamicOverlay = yes
DynamicOverlay.Version = 1.00
"""
MASK_CGI = """
[Properties 7707 readonly]
PrivacyMask.MainSwitch = {switch}
PrivacyMask.MaxNbrOfCorners = 10
PrivacyMask.MaxNbrOfPrivacyMasks = {masks}
PrivacyMask.Polygon = {polygon}
PrivacyMask.PrivacyMask = yes
PrivacyMask.Query = {queries}
"""
MASK_WINDOW = """
[- 6646]
Enabled = no | bool yes/no
Name = | string 64
ZoomLowLimit = 1 | int 1..19999
XPos = 0 | int 0..10000
YPos = 0 | int 0..10000
Width = 0 | int 0..10000
Height = 0 | int 0..10000
"""

# --- profiles --------------------------------------------------------------------------------------------------------------

RESOLUTIONS = "1920x1080,1280x960,1280x720,1024x768,800x600,640x480,640x360,480x360,320x240,320x180"
SMALL_RESOLUTIONS = "D1,4CIF,2CIFEXP,2CIF,CIF,QCIF"
APPS = {
    "api-discovery": "1.1", "basic-device-info": "1.3", "param-cgi": "1.0", "systemready": "1.4", "user-management": "1.2",
    "packagemanager": "1.4", "fwmgr": "1.4", "time-service": "1.0", "ntp": "1.5",
}  # fmt: skip
CAMERA = {
    "stream-profiles": "1.0", "media-cgi": "1.0", "streamstatus": "1.0", "rtsp-over-websocket": "1.0", "zipstream": "1.0",
    "view-area": "1.0", "capture-mode": "1.0", "image-size": "1.0", "event-streaming-over-websocket": "1.0",
    "disk-management": "1.0", "disk-properties": "1.1",
    "disk-network-share": "1.0", "recording-storage-limit": "1.0", "recording": "1.0", "recording-group": "1.0", "overlayimage": "1.0",
    "io-port-management": "1.1",
}  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """A model on a firmware.

    Attributes:
        apis: Ids of API discovery with the versions the firmware has; empty before API discovery.
        features: What it has and how it behaves; the module says which there are.
        ports: Its I/O ports: `input`, `output`, and `configurable` ones (inputs first).
        policy: Login policy it comes with; `policies` are those it knows.
        values: What its parameters say, where models differ.
    """

    name: str
    title: str
    model: str
    firmware: str
    kind: str = "Network Camera"
    oui: str = "B8A44F"
    hardware: str = "7F1"
    architecture: str = "aarch64"
    soc: str = "Sim SoC"
    built: str = "Jan 17 2026 18:22"
    server: str = "Apache/2.4.58 (Unix) OpenSSL/3.0.13"
    charset: str = "utf-8"
    json_type: str = "application/json"
    discovery_version: str = "1.1"
    apis: Mapping[str, str] = field(default_factory=dict)
    features: frozenset[str] = frozenset()
    ports: tuple[str, ...] = ()
    policy: str = "digest"
    policies: str = "basic,digest,basic_digest"
    qop: bool = True
    views: int = 1
    resolutions: str = RESOLUTIONS
    formats: str = "jpeg,mjpeg,h264,h265"
    acap: str = "3.0"
    sensor: str = SENSOR
    tilt: tuple[int, int] = (-90, 20)

    def furnish(self, tree: ParameterTree, device: Device) -> None:
        """Give a new camera its parameters."""
        said = self._words(device)
        tree.define(IDENTITY, **said)
        if self.apis:
            tree.define(DISCOVERY)
        _define(tree, SYSTEM, said)
        if "video" in self.features:
            self._video(tree, said)
        if self.features & {"ptz", "digital-ptz"}:
            self._ptz(tree)
        for feature, text in (("sd", STORAGE), ("lights", LIGHTS), ("overlay", OVERLAYS)):
            if feature in self.features:
                tree.define(text)
        if self.ports:
            self._ports(tree)

    def _words(self, device: Device) -> dict[str, str]:
        return {
            "model": self.model, "kind": self.kind, "firmware": self.firmware, "built": self.built, "hardware": self.hardware,
            "architecture": self.architecture, "soc": self.soc, "serial": device.serial, "serial_low": device.serial.lower(),
            "mac_upper": device.mac.upper(), "address": device.address, "policy": self.policy, "policies": self.policies,
            "qop": _yes(self.qop), "formats": self.formats, "views": str(self.views), "resolutions": self.resolutions, "acap": self.acap,
            "virtual": _yes(self.views > 0), "websocket": _yes("ws" in self.features), "upnp": _yes("ws" not in self.features),
            "throttling": "on" if "ws" in self.features else "off",
        }  # fmt: skip

    def _video(self, tree: ParameterTree, said: dict[str, str]) -> None:
        tree.define(VIDEO, **said)
        biggest = self.resolutions.split(",")[0]
        for number in range(self.views):
            view = {
                "view": f"I{number}", "name": "Camera 1" if number == 0 else f"View area {number}", "enabled": _yes(number == 0),
                "resolution": biggest, "resolutions": self.resolutions, "overlays": "all",
            }  # fmt: skip
            _define(tree, VIEW, view)
            _define(tree, VIEW_TEXT, view)
        tree.define(self.sensor)
        tree.silently_ignored.add("ImageSource.I0.SceneProfile")
        if "daynight" in self.features:
            tree.define(DAY_NIGHT)
        tree.define(STREAM_PROFILES)
        tree.templates["streamprofile"] = Template(
            "StreamProfile", "S", parse(STREAM_PROFILE), "StreamProfile.MaxGroups"
        )
        if "mask-cgi" in self.features:
            modern = "ws" in self.features
            tree.define(
                MASK_CGI, switch=_yes(modern), polygon=_yes(modern), masks="20" if modern else "8",
                queries="list,position,listpxjson,positionpxjson" if modern else "list,position",
            )  # fmt: skip
        if "mask-windows" in self.features:
            tree.templates["0_maskwindows"] = Template("Image.I0.Overlay.MaskWindows", "M", parse(MASK_WINDOW), 8, 6)

    def _ptz(self, tree: ParameterTree) -> None:
        mechanical = "ptz" in self.features
        tree.define(
            PTZ, digital=_yes("digital-ptz" in self.features), modes="continuous" if mechanical else "none",
            port="1" if mechanical else "-1", enabled="true" if mechanical else "false",
        )  # fmt: skip
        if mechanical:
            low, high = self.tilt
            tree.define(PTZ_DRIVER, min_tilt=str(low), max_tilt=str(high), max_zoom="19999")

    def _ports(self, tree: ParameterTree) -> None:
        inputs = sum(port != "output" for port in self.ports)
        tree.define(PORTS, inputs=str(inputs), outputs=str(len(self.ports) - inputs), trigger=str(len(self.ports) + 1))
        for number, kind in enumerate(self.ports):
            text = OUTPUT if kind == "output" else INPUT
            _define(
                tree,
                text,
                {"port": f"I{number}", "number": str(number + 1), "configurable": _yes(kind == "configurable")},
            )


def _define(tree: ParameterTree, text: str, said: Mapping[str, str]) -> None:
    """Define parameters whose names or types depend on the model too. Texts that come out equal are parsed once."""
    own = {"serial", "serial_low", "mac_upper", "address"}
    for name, value in said.items():
        if name not in own:
            text = text.replace(f"{{{name}}}", value)
    tree.define(text, **{name: value for name, value in said.items() if name in own} or {"-": ""})


def _yes(value: bool) -> str:
    return "yes" if value else "no"


MID_APIS = {
    **APPS, **CAMERA, "ptz-control": "1.1", "guard-tour": "1.1", "recording-export": "1.2", "light-control": "1.4", "dynamicoverlay": "1.7",
    "privacy-mask": "2.4", "network-settings": "1.33", "device-config": "1.0",
}  # fmt: skip
NEWEST = {
    **APPS, **CAMERA, "systemready": "1.5", "recording-export": "1.3", "dynamicoverlay": "1.8", "privacy-mask": "3.0",
    "network-settings": "1.37", "device-config": "1.0", "widget-overlay": "1.0", "supervised-io": "2.0",
}  # fmt: skip
FIRST_APIS = {
    **{name: version for name, version in {**APPS, **CAMERA}.items()
       if name not in {"event-streaming-over-websocket", "overlayimage", "recording-group", "rtsp-over-websocket"}},
    "api-discovery": "1.0", "basic-device-info": "1.0", "systemready": "1.0", "user-management": "1.0", "privacy-mask": "1.0",
    "dynamicoverlay": "1.0", "network-settings": "1.6", "recording-export": "1.1", "io-port-management": "1.0",
}  # fmt: skip
MODERN = frozenset(
    {"video", "daynight", "sd", "overlay", "mask-cgi", "ws", "actions", "rest", "unrestricted", "boot-id"}
)
MID = Profile(
    "mid",
    "fixed dome on the long-term track 11.11",
    "P3245-SIM",
    "11.11.150",
    oui="B8A44F",
    apis=MID_APIS,
    features=MODERN | {"digital-ptz", "lights", "io"},
    ports=("input", "output"),
    views=8,
)
PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "ancient",
            "PTZ dome of long ago, without any JSON API",
            "P5512-SIM",
            "5.51.7",
            kind="PTZ Dome Network Camera",
            oui="00408C",
            hardware="713",
            architecture="crisv32",
            soc="Axis Artpec-3",
            built="Apr 15 2015 09:12",
            server="Boa/0.94.14rc21",
            charset="iso-8859-1",
            features=frozenset(
                {"video", "ptz", "io", "sd", "actions", "mask-cgi", "daynight-ptz", "offers-both", "no-throttle"}
            ),
            ports=("configurable", "configurable", "output", "output"),
            policy="basic_digest",
            qop=False,
            resolutions=SMALL_RESOLUTIONS,
            formats="jpeg,mjpeg,h264",
            acap="1.12",
            sensor=OLD_SENSOR,
            tilt=(-180, 0),
        ),
        Profile(
            "old",
            "fixed camera on 6.50, without any JSON API",
            "M3045-SIM",
            "6.50.5.4",
            oui="ACCC8E",
            hardware="72D",
            architecture="mips",
            soc="Axis Artpec-5",
            built="Jun 03 2020 10:41",
            server="Apache/2.4.41 (Unix) OpenSSL/1.0.2u",
            features=frozenset({"video", "io", "sd", "actions", "daynight", "mask-windows", "no-throttle"}),
            ports=("input",),
            formats="jpeg,mjpeg,h264",
            acap="2.16",
        ),
        Profile(
            "9.80",
            "fixed camera on the track 9.80: the first JSON APIs",
            "P3367-SIM",
            "9.80.2.2",
            oui="ACCC8E",
            hardware="70B",
            architecture="armv7hf",
            soc="Axis Artpec-6",
            built="Sep 21 2021 14:03",
            server="Apache/2.4.48 (Unix) OpenSSL/1.1.1k",
            json_type="application/json;charset=utf8",
            discovery_version="1.0",
            apis=FIRST_APIS,
            features=frozenset(
                {
                    "video",
                    "io",
                    "sd",
                    "daynight",
                    "overlay",
                    "mask-cgi",
                    "actions",
                    "discovery-login",
                    "no-status",
                    "no-throttle",
                }
            ),
            ports=("configurable", "output"),
            qop=False,
            formats="jpeg,mjpeg,h264",
        ),
        MID,
        Profile(
            "new",
            "fixed camera on 12.9: Basic over HTTPS, REST configuration",
            "P1468-SIM",
            "12.9.57",
            hardware="91C",
            built="Nov 12 2025 11:50",
            apis={**NEWEST, "daynight": "1.2"},
            features=MODERN | {"io"},
            ports=("configurable", "configurable"),
            policy="recommended",
            policies="basic,digest,basic_digest,recommended",
            qop=False,
            resolutions=f"3840x2160,2688x1512,{RESOLUTIONS}",
            formats="jpeg,mjpeg,h264,h265,av1",
            acap="4.0",
        ),
        Profile(
            "ptz",
            "PTZ camera on 12.6, with presets, a light and four ports",
            "Q6318-SIM",
            "12.6.104",
            kind="PTZ Network Camera",
            hardware="8D4",
            built="Aug 29 2025 16:31",
            apis={**NEWEST, "ptz-control": "2.1", "guard-tour": "1.1", "optics-control": "1.2", "light-control": "1.5"},
            features=MODERN - {"daynight"} | {"ptz", "daynight-ptz", "lights", "io"},
            ports=("configurable", "configurable", "output", "output"),
            policy="recommended",
            policies="basic,digest,basic_digest,recommended",
            resolutions=f"3840x2160,{RESOLUTIONS}",
            acap="4.0",
        ),
        Profile(
            "bare",
            "radar without video",
            "D2210-SIM",
            "12.9.57",
            kind="Radar",
            hardware="9A2",
            built="Nov 12 2025 11:50",
            apis={
                **APPS,
                "systemready": "1.5",
                "network-settings": "1.37",
                "device-config": "1.0",
                "event-streaming-over-websocket": "1.0",
                "io-port-management": "1.1",
            },
            features=frozenset({"ws", "actions", "rest", "unrestricted", "boot-id", "io"}),
            ports=("input", "output"),
            policy="recommended",
            policies="basic,digest,basic_digest,recommended",
            qop=False,
            views=0,
            acap="4.0",
        ),
        Profile(
            "needs-setup",
            "as mid, new out of the box: no account yet",
            "P3245-SIM",
            "11.11.150",
            apis=MID_APIS,
            features=MID.features | {"needs-setup"},
            ports=MID.ports,
            views=8,
        ),
    )
}
ALIASES = {
    "5.51": "ancient",
    "6.50": "old",
    "11.11": "mid",
    "12.9": "new",
    "12.x": "ptz",
    "setup": "needs-setup",
    "needs_setup": "needs-setup",
}


def find_profile(name: str) -> Profile:
    """The profile of that name, or of the firmware it stands for.

    Raises:
        ValueError: There is none.
    """
    found = PROFILES.get(ALIASES.get(name, name))
    if found is None:
        raise ValueError(f"There is no camera profile {name!r}. There are: {', '.join(PROFILES)}.")
    return found
