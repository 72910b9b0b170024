"""Where webhooks go: an HTTP endpoint with its credentials and its signing secret."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from typing import Any, ClassVar

import httpx
from prefect.types import SecretDict
from pydantic import Field, SecretStr, field_validator

from blocks._endpoint import Endpoint

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2


class WebhookEndpoint(Endpoint):
    """An HTTP endpoint, the headers that let us in, and the secret that proves a message comes from us.

    With `signing_secret` every request carries `X-Signalbox-Signature: t=1700000000,v1=HEX`, where HEX is
    HMAC-SHA256(secret, "1700000000." + body). A receiver computes the same, compares in constant time, and refuses
    timestamps more than five minutes off, so that a recorded request cannot be played again.

    Example:
        ```python
        WebhookEndpoint(
            url="https://tickets.example.com/api/events",
            headers={"Authorization": "Bearer ..."},
            signing_secret="...",
        ).save("tickets")
        ```
    """

    _block_type_name: ClassVar[str] = "Webhook Endpoint"
    _block_type_slug: ClassVar[str] = "webhook-endpoint"
    _description: ClassVar[str] = "HTTP endpoint with credentials and signing secret; tools name it webhook/NAME."
    short: ClassVar[str] = "webhook"

    headers: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        description='Headers sent with every request, such as {"Authorization": "Bearer ..."}. Kept secret.',
    )
    signing_secret: SecretStr | None = Field(
        None, description="Secret of the HMAC-SHA256 signature over time and body. None: requests are not signed."
    )
    signature_header: str = Field(
        "X-Signalbox-Signature", description="Header the signature goes into.", pattern=r"^[A-Za-z0-9-]{1,64}$"
    )

    @field_validator("headers")
    @classmethod
    def _wellformed(cls, headers: SecretDict) -> SecretDict:
        for name, value in headers.get_secret_value().items():
            if not _TOKEN.fullmatch(str(name)):
                raise ValueError("a header's name may hold letters, digits and hyphens only")
            if not isinstance(value, str) or not value.isascii() or not value.isprintable():
                raise ValueError(f"the value of header {name} must be printable ASCII text")
        return headers

    def signed_headers(self, body: bytes, *, at: float | None = None) -> dict[str, str]:
        """The block's headers, and the signature of `body` if there is a signing secret.

        Args:
            body: What will be sent, byte for byte.
            at: Seconds since the epoch; default: the clock.
        """
        headers = {str(name): str(value) for name, value in self.headers.get_secret_value().items()}
        if self.signing_secret is not None:
            moment = str(int(time.time() if at is None else at))
            key = self.signing_secret.get_secret_value().encode()
            digest = hmac.new(key, f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
            headers[self.signature_header] = f"t={moment},v1={digest}"
        return headers

    async def post(self, payload: dict[str, Any], *, timeout: float = 10.0) -> None:
        """Send a JSON payload with the block's headers and signature. For flows of one's own.

        Args:
            payload: What the endpoint takes.
            timeout: Seconds for all of it.

        Raises:
            NotDelivered: Always, unless the endpoint answered 200 to 299.
        """
        body = json.dumps(payload).encode()
        headers = {"Content-Type": "application/json", **self.signed_headers(body)}
        await self._deliver(httpx.Request("POST", self.address, content=body, headers=headers), timeout)
