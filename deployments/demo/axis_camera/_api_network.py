"""Network settings: network_settings.cgi."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deployments.demo.axis_camera._device import Device
from deployments.demo.axis_camera._envelope import ApiError, Call, Codes, JsonApi
from deployments.demo.axis_camera._network_state import NetworkRefusal, NetworkState

CODES = Codes(
    only_post=2000, version=4001, method=4000, bad_json=3000, missing=4003, invalid=4004, forbidden=4002, internal=1000
)

network = JsonApi(
    "/axis-cgi/network_settings.cgi",
    id="network-settings",
    level="admin",
    codes=CODES,
    statuses={1000: 500},
    versions_key="supportedVersions",
)


@network.method("getNetworkInfo")
def get_network_info(device: Device, call: Call) -> dict[str, Any]:
    return device.slot(NetworkState).info()


def _refused(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except NetworkRefusal as refusal:
        details = {"details": {"subCode": refusal.subcode}} if refusal.subcode is not None else {}
        raise ApiError(refusal.code, refusal.message, status=refusal.status, **details) from None


def _params(call: Call) -> dict[str, Any]:
    if not isinstance(call.params, dict):
        raise ApiError(2000, "Invalid request")
    return call.params


@network.method("setHostnameConfiguration")
def set_hostname(device: Device, call: Call) -> None:
    _refused(lambda: device.slot(NetworkState).set_hostname(_params(call)))


@network.method("setResolverConfiguration")
def set_resolver(device: Device, call: Call) -> None:
    _refused(lambda: device.slot(NetworkState).set_resolver(_params(call)))


@network.method("setIPv4AddressConfiguration")
def set_ipv4(device: Device, call: Call) -> None:
    state = device.slot(NetworkState)
    apply = _refused(lambda: state.set_ipv4(_params(call)))
    if apply is None:
        return
    if state.reaction == "silent":
        # The answer never leaves: the address is gone before it is written.
        apply()
    else:
        # It answers first, and has another address a moment later, unless it is told something else before that.
        state.told += 1
        mine = state.told
        device.later(state.delay, lambda: apply() if state.told == mine else None)


@network.method("setGlobalProxyConfiguration")
def set_proxy(device: Device, call: Call) -> None:
    params = _params(call)
    device.slot(NetworkState).proxies = {
        key: str(params.get(key, "")) for key in ("httpProxy", "httpsProxy", "noProxy")
    }
