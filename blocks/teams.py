"""Where Microsoft Teams messages go: a Workflows webhook, or a legacy connector."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, HttpUrl

from blocks._endpoint import Endpoint

_CONNECTOR_HOSTS = ("webhook.office.com", "outlook.office.com", "outlook.office365.com")


class TeamsWebhook(Endpoint):
    """A webhook of Teams: a Workflow ("Post to a channel when a webhook request is received"), or an Office 365 connector.

    Example:
        ```python
        TeamsWebhook(url="https://prod-00.westeurope.logic.azure.com/workflows/...").save("noc")
        ```
    """

    _block_type_name: ClassVar[str] = "Teams Channel"
    _block_type_slug: ClassVar[str] = "teams"
    _description: ClassVar[str] = (
        "Workflows webhook (or legacy connector) of a Teams channel; tools name it teams/NAME."
    )
    _documentation_url: ClassVar[HttpUrl] = HttpUrl(
        "https://learn.microsoft.com/en-us/microsoftteams/platform/webhooks-and-connectors/how-to/add-incoming-webhook"
    )
    short: ClassVar[str] = "teams"

    kind: Literal["auto", "workflow", "connector"] = Field(
        "auto",
        description="What the address belongs to: workflow takes Adaptive Cards, connector (legacy) MessageCards; "
        "auto tells them by the host.",
    )

    @property
    def is_connector(self) -> bool:
        """Whether it takes MessageCards."""
        if self.kind != "auto":
            return self.kind == "connector"
        return any(self.host == host or self.host.endswith(f".{host}") for host in _CONNECTOR_HOSTS)
