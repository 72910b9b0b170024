"""One flow runs any one tool: what a `run-tool/NAME` deployment, the API and `signalbox tool run` start."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows._report import publish_result
from tasks.core.models import ToolResult
from tasks.core.registry import find_tool
from tasks.core.tool import validate

FLOW_NAME = "run-tool"


def _flow_run_name() -> str:
    from prefect.runtime import flow_run

    return f"{flow_run.parameters.get('tool', 'tool')}"


@flow(name=FLOW_NAME, flow_run_name=_flow_run_name, validate_parameters=True, persist_result=False)
async def run_tool(tool: str, params: dict[str, Any] | None = None) -> ToolResult:
    """Run one tool and show its result.

    Args:
        tool: Name or alias of the tool, in any spelling.
        params: The tool's parameters, as `signalbox tool show NAME` lists them.

    Raises:
        UnknownTool: There is no such tool; the nearest names are in the message.
        ToolError: What the tool said went wrong.
    """
    spec = find_tool(tool)
    # The API accepts unknown names and bad formats (Prefect checks the schema's shape only): checked again before anything starts.
    checked = validate(spec, params or {})
    result: ToolResult = await spec.task(checked)
    await publish_result(spec, checked, result)
    return result


def form_schema(name: str) -> dict[str, Any]:
    """JSON schema of the flow's parameters for one tool's deployment: what the UI's form is made of and the API enforces."""
    spec = find_tool(name)
    inner = spec.parameter_schema()
    definitions = inner.pop("$defs", {})
    inner["title"] = "Parameters"
    schema = {
        "type": "object",
        "title": "Parameters",
        "properties": {
            "tool": {
                "type": "string",
                "title": "Tool",
                "description": spec.summary,
                "enum": [spec.name],
                "default": spec.name,
                "position": 0,
            },
            "params": {"$ref": f"#/definitions/{spec.params_model.__name__}", "title": "Parameters", "position": 1},
        },
        "required": ["params"],
        "additionalProperties": False,
        "definitions": {spec.params_model.__name__: inner, **definitions},
    }
    return _rename_references(schema)  # type: ignore[no-any-return]


def _rename_references(node: Any) -> Any:
    """Point `#/$defs/X` at `#/definitions/X`: Prefect's forms and its validator know only the latter."""
    if isinstance(node, dict):
        return {
            key: value.replace("#/$defs/", "#/definitions/")
            if key == "$ref" and isinstance(value, str)
            else _rename_references(value)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [_rename_references(item) for item in node]
    return node
