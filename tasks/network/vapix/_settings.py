"""Settings of a camera that let strangers in, as its parameters say: HTTPS, SSH, UPnP, viewing without an account."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

SETTING_GROUPS = (
    "HTTPS",
    "Network.SSH",
    "Network.UPnP",
    "Network.RTSP",
    "System.BoaGroupPolicy",
    "System.BoaProtViewer",
)
"""Parameter groups that tell; a device that lacks one, or does not show it to the account, leaves its setting open."""
_ON, _OFF = {"yes", "true", "on", "1"}, {"no", "false", "off", "0"}


class Settings(BaseModel):
    """Settings an audit looks at; None where the camera does not tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    https: bool | None = Field(None, description="Whether it offers HTTPS.")
    plain_http: bool | None = Field(None, description="Whether it also answers over plain HTTP.")
    ssh: bool | None = Field(None, description="Whether its SSH service is on.")
    upnp: bool | None = Field(None, description="Whether UPnP discovery is on.")
    anonymous: bool | None = Field(None, description="Whether anybody may view without an account.")


def read_settings(parameters: Mapping[str, str]) -> Settings:
    """Make sense of the parameters of `SETTING_GROUPS`, names without `root.`.

    >>> read_settings({"Network.SSH.Enabled": "no", "System.BoaProtViewer": "anonymous"})
    Settings(https=None, plain_http=None, ssh=False, upnp=None, anonymous=True)
    """
    policies = {
        value.lower() for name, value in parameters.items() if name.startswith("System.BoaGroupPolicy.") and value
    }
    https = _switch(parameters.get("HTTPS.Enabled"))
    if policies & {"https", "both"}:
        https = True if https is None else https
    # Who may view: both switches are recorded as `password` or `anonymous`; other words are not taken for either.
    viewers = {
        value.lower()
        for name in ("System.BoaProtViewer", "Network.RTSP.ProtViewer")
        if (value := parameters.get(name)) is not None
    }
    anonymous = True if "anonymous" in viewers else False if viewers and viewers <= {"password"} else None
    return Settings(
        https=https,
        plain_http=bool(policies & {"http", "both"}) if policies and policies <= {"http", "https", "both"} else None,
        ssh=_switch(parameters.get("Network.SSH.Enabled")),
        upnp=_switch(parameters.get("Network.UPnP.Enabled")),
        anonymous=anonymous,
    )


def _switch(value: str | None) -> bool | None:
    folded = (value or "").strip().lower()
    return True if folded in _ON else False if folded in _OFF else None
