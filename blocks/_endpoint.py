"""What the blocks of HTTP endpoints share: where to send, whom to trust, which proxy."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, ClassVar

import httpx
from prefect.blocks.core import Block
from pydantic import ConfigDict, Field, SecretStr, field_validator

from blocks._trust import TrustedAuthority, trust


class NotDelivered(RuntimeError):
    """The endpoint did not take the message. Says why, without the endpoint's secret address."""


class Endpoint(Block):
    """An HTTP endpoint whose address is a secret."""

    model_config: ClassVar[ConfigDict] = ConfigDict(hide_input_in_errors=True)

    url: SecretStr = Field(description="Address messages are sent to. Whoever knows it can send: it is kept secret.")
    ca: TrustedAuthority = None
    proxy: SecretStr | None = Field(
        None, description="Proxy to go through: http://user:password@proxy.example.com:3128. None: directly."
    )

    @field_validator("url", "proxy")
    @classmethod
    def _http(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        try:
            parsed = httpx.URL(url.get_secret_value().strip())
        except (httpx.InvalidURL, UnicodeError):
            parsed = httpx.URL()
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ValueError("must be an http or https address such as https://example.com/hook")
        return SecretStr(str(parsed))

    @property
    def address(self) -> str:
        """The URL in clear."""
        return self.url.get_secret_value()

    @property
    def host(self) -> str:
        """Host the endpoint is on: what may be shown of it."""
        return httpx.URL(self.address).host

    @property
    def proxy_address(self) -> str | None:
        """The proxy's URL in clear."""
        return self.proxy.get_secret_value() if self.proxy is not None else None

    def tls(self) -> ssl.SSLContext:
        """Whom the connection trusts.

        Raises:
            ValueError: `ca` names a file that cannot be read here.
        """
        return trust(self.ca)

    async def post(self, payload: dict[str, Any], *, timeout: float = 10.0) -> None:
        """Send a JSON payload as it is. For flows of one's own; the tools add checks, budgets, and errors with a next step.

        Args:
            payload: What the endpoint takes.
            timeout: Seconds for all of it.

        Raises:
            NotDelivered: Always, unless the endpoint answered 200 to 299.
        """
        request = httpx.Request("POST", self.address, json=payload)
        await self._deliver(request, timeout)

    async def _deliver(self, request: httpx.Request, timeout: float) -> None:
        try:
            # A transport, not a client: a client logs every URL.
            async with (
                asyncio.timeout(timeout),
                httpx.AsyncHTTPTransport(verify=self.tls(), proxy=self.proxy_address, trust_env=False) as transport,
            ):
                response = await transport.handle_async_request(request)
                await response.aclose()
        except (httpx.HTTPError, OSError) as error:
            raise NotDelivered(f"{self.host} did not take the message: {type(error).__name__}") from None
        if not response.is_success:
            raise NotDelivered(f"{self.host} did not take the message: HTTP {response.status_code}")
