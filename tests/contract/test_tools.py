"""What is true of every tool, said once and held for all of them by looking at the registry."""

from __future__ import annotations

import inspect
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel

from deployments.cli._options import parse
from flows.run_tool import form_schema
from tasks.core.models import ProbeParams, Safety, Service, SiteParams, ToolParams, ToolResult
from tasks.core.registry import ToolSpec, find_tool, load_tools
from tasks.core.tool import retry_condition

ROOT = Path(__file__).resolve().parents[2]
SPECS = list(load_tools().values())

every_tool = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)

EXPECTED = {
    "automation": {"shell_command"},
    "communication": {"sendmail", "slack", "teams", "webhook"},
    "asset": {"asset_query", "asset_list", "asset_create", "asset_update", "asset_delete"},
    "network/scan": {"nmap", "masscan", "arp_scan", "netdiscover"},
    "network/capture": {"tcpdump", "tshark", "ngrep", "tcpflow", "pyshark", "dpkt", "scapy"},
    "network/analyze": {
        f"{protocol}_analyzer" for protocol in ("dns", "http", "tls", "tcp", "udp", "ssh", "ftp", "smtp")
    },
    "network/probe": {
        "ping",
        "traceroute",
        "dns_lookup",
        "http_check",
        "tcp_port_check",
        "snmp_query",
        "tls_certificate",
    },
    "network/vapix": {
        "vapix_ptz_control",
        "vapix_video_streaming",
        "vapix_imaging",
        "vapix_daynight",
        "vapix_event_services",
        "vapix_event_streaming",
        "vapix_edge_storage",
        "vapix_recording",
        "vapix_io_ports",
        "vapix_light_control",
        "vapix_overlay",
        "vapix_privacy_mask",
        "vapix_device_info",
        "vapix_stream_profiles",
        "vapix_network_settings",
    },
}


def test_the_tools_that_were_promised_are_there() -> None:
    for group, names in EXPECTED.items():
        assert names <= {spec.name for spec in SPECS if spec.group == group}
    assert {spec.service for spec in SPECS} == set(Service)


@every_tool
def test_its_name_is_its_modules_name_and_its_tasks_name(spec: ToolSpec) -> None:
    assert spec.name == spec.module.rsplit(".", 1)[1] == spec.task.name == spec.body.__name__
    assert str(spec.service) == spec.module.split(".")[1]


@every_tool
def test_it_has_a_test_file_in_the_same_place(spec: ToolSpec) -> None:
    service = spec.module.split(".")[1]
    assert list((ROOT / "tests" / "tasks" / service).rglob(f"test_{spec.name}.py")), (
        f"tests/tasks/{service}/test_{spec.name}.py"
    )


@every_tool
def test_its_documentation_begins_with_one_short_imperative_line(spec: ToolSpec) -> None:
    assert spec.documentation.strip()
    assert len(spec.summary) < 80 and spec.summary.endswith("."), spec.summary
    assert spec.summary.split()[0].lower() not in {"this", "a", "the", "tool"}


@every_tool
def test_it_is_async_and_has_a_deadline(spec: ToolSpec) -> None:
    assert inspect.iscoroutinefunction(spec.body)
    assert 0 < spec.timeout <= 3600
    assert spec.task.timeout_seconds > spec.timeout  # the task's also bounds the wait for the packet budget


@every_tool
def test_its_results_are_never_cached_or_persisted_by_prefect(spec: ToolSpec) -> None:
    from prefect.cache_policies import NO_CACHE

    assert spec.task.cache_policy == NO_CACHE and spec.task.persist_result is False


@every_tool
def test_it_retries_only_by_the_kits_rule_and_only_when_a_second_call_is_harmless(spec: ToolSpec) -> None:
    assert spec.task.retries == spec.retries <= 5
    assert spec.task.retry_condition_fn is retry_condition and inspect.isfunction(spec.task.retry_condition_fn)
    assert spec.idempotent or spec.safety < Safety.CHANGE or spec.retries == 0


@every_tool
def test_its_parameters_are_frozen_refuse_what_they_do_not_know_and_never_repeat_the_input(spec: ToolSpec) -> None:
    assert issubclass(spec.params_model, ToolParams)
    config = spec.params_model.model_config
    assert config["frozen"] and config["extra"] == "forbid" and config["hide_input_in_errors"]
    assert spec.params_model.__module__ == spec.module, "parameters live in the tool's own module"


@every_tool
def test_every_parameter_and_result_field_says_what_it_is(spec: ToolSpec) -> None:
    for model in (spec.params_model, spec.result_model):
        for name, field in model.model_fields.items():
            assert field.description and field.description.endswith((".", ")", "?")), f"{model.__name__}.{name}"


@every_tool
def test_numbers_among_its_parameters_have_a_range(spec: ToolSpec) -> None:
    for name, schema in spec.params_model.model_json_schema()["properties"].items():
        for variant in schema.get("anyOf", [schema]):
            if variant.get("type") in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & set(variant), f"{name} has no lower bound"


@every_tool
def test_it_has_examples_and_they_are_valid(spec: ToolSpec) -> None:
    assert spec.examples
    for example in spec.examples:
        params = spec.params_model.model_validate(example.params)
        assert spec.params_model.model_validate(params.model_dump(mode="json")) == params
        deadline = params.deadline()
        assert deadline is None or deadline > 0


@every_tool
def test_its_form_accepts_its_examples_and_refuses_an_unknown_parameter(spec: ToolSpec) -> None:
    schema = form_schema(spec.name)
    for example in spec.examples:
        jsonschema.validate({"tool": spec.name, "params": example.params}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"tool": spec.name, "params": {**spec.examples[0].params, "no_such_parameter": 1}}, schema)


@every_tool
def test_its_options_on_the_command_line_have_names_of_their_own(spec: ToolSpec) -> None:
    assert parse(spec, ["--help"]) is None  # all options are declared before any is read


@every_tool
def test_its_form_shows_the_fields_in_the_models_order(spec: ToolSpec) -> None:
    inner = form_schema(spec.name)["definitions"][spec.params_model.__name__]
    assert [name for name, field in sorted(inner["properties"].items(), key=lambda item: item[1]["position"])] == list(
        spec.params_model.model_fields
    )


@every_tool
def test_what_it_returns_is_a_typed_result(spec: ToolSpec) -> None:
    assert issubclass(spec.result_model, ToolResult) and spec.result_model.__module__ == spec.module
    assert issubclass(spec.result_model, BaseModel)
    assert spec.result_model.headline is not ToolResult.headline, "say in one line what came out"


@every_tool
def test_what_sends_packets_asks_the_gate_and_what_does_not_says_so(spec: ToolSpec) -> None:
    if spec.safety is Safety.PROBE and spec.service is Service.NETWORK:
        assert spec.params_model.scope is not ToolParams.scope
    if issubclass(spec.params_model, ProbeParams):
        assert spec.safety >= Safety.PROBE


@every_tool
def test_inventory_tools_know_their_site(spec: ToolSpec) -> None:
    if spec.service is Service.ASSET:
        assert issubclass(spec.params_model, SiteParams)


@every_tool
def test_any_spelling_of_its_name_and_aliases_finds_it(spec: ToolSpec) -> None:
    for name in (spec.name, *spec.aliases):
        words = name.split("_")
        for spelling in (
            name,
            name.upper(),
            name.title(),
            "-".join(words),
            " ".join(words),
            "".join(word.title() for word in words),
            f" {name} ",
            "_".join(words).swapcase(),
        ):
            found = find_tool(spelling)
            assert found.name == spec.name and found.service == spec.service
