"""The webhook: POSTs each alert as JSON, signed as the Standard Webhooks specification has it.

Source: https://github.com/standard-webhooks/standard-webhooks (id, timestamp and signature headers; HMAC-SHA256).
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
from pydantic import Field, JsonValue, SecretStr, ValidationError, field_validator

from crucible.errors import BackendUnavailable, CrucibleError, InvalidRequest, RequestTimeout
from crucible.http.new_connections import NewConnections
from crucible.values.record import Record
from nsai_work.alerts.alert import Alert
from nsai_work.alerts.target import complaints
from nsai_work.clock import Clock, SystemClock

_PREFIX: Final = "whsec_"
_REPEATED: Final = frozenset({408, 409, 425, 429})


class WebhookSettings(Record):
    """The settings of a webhook. ``secret_variable`` names the environment variable of the signing secret."""

    url: SecretStr
    secret_variable: str | None = Field(default=None, min_length=1, max_length=200)
    timeout_s: float = Field(default=10.0, gt=0, le=300, allow_inf_nan=False)

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: SecretStr) -> SecretStr:
        try:
            url = httpx.URL(value.get_secret_value())
            valid = url.scheme in ("http", "https") and bool(url.host)
        except (httpx.InvalidURL, ValueError):
            valid = False
        if not valid:
            raise ValueError("must be an http or https URL")
        return value


class Webhook:
    """A notifier that sends each alert to one URL. Redirects are not followed."""

    def __init__(self, settings: Mapping[str, JsonValue], clock: Clock | None = None) -> None:
        try:
            self._settings = WebhookSettings.model_validate(settings)
        except ValidationError as error:
            raise InvalidRequest(complaints("settings", error, WebhookSettings)) from None
        self._key = _signing_key(self._settings.secret_variable)
        self._clock = clock or SystemClock()
        self._client: httpx.AsyncClient | None = None
        self._new_connections = NewConnections()

    async def send(self, alert: Alert) -> None:
        """POST an alert. An answer of 2xx is a delivery; 4xx, but for those that ask for a repeat, is final."""
        body = _body(alert)
        url = self._settings.url.get_secret_value()
        place = httpx.URL(url).netloc.decode("ascii")
        if self._new_connections.closed:
            raise BackendUnavailable(f"{place}: the webhook is closed")
        try:
            # the body of the answer is not read: only its status counts
            async with self._open().stream("POST", url, content=body, headers=self._headers(alert, body)) as answer:
                status = answer.status_code
        except httpx.TimeoutException as error:
            raise RequestTimeout(f"{place}: no answer in {self._settings.timeout_s} s") from error
        except httpx.HTTPError as error:
            raise BackendUnavailable(f"{place}: {type(error).__name__}") from error
        if not 200 <= status < 300:
            raise _refusal(place, status)

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            hooks: dict[str, list[Callable[..., Any]]] = {"request": [self._new_connections.watch]}
            self._client = httpx.AsyncClient(
                timeout=self._settings.timeout_s, follow_redirects=False, event_hooks=hooks
            )
        return self._client

    async def close(self) -> None:
        """Close the connections."""
        self._new_connections.close()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    def _headers(self, alert: Alert, body: bytes) -> dict[str, str]:
        timestamp = str(int(self._clock.now().timestamp()))
        headers = {"content-type": "application/json", "webhook-id": alert.id, "webhook-timestamp": timestamp}
        if self._key is not None:
            signed = b".".join((alert.id.encode(), timestamp.encode(), body))
            digest = base64.b64encode(hmac.new(self._key, signed, hashlib.sha256).digest()).decode()
            headers["webhook-signature"] = f"v1,{digest}"
        return headers


def _signing_key(variable: str | None) -> bytes | None:
    if variable is None:
        return None
    secret = os.environ.get(variable, "")
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not 24 <= len(key) <= 64:
        raise InvalidRequest(
            f"secret_variable: {variable} must hold {_PREFIX} and 24 to 64 bytes in base64",
            details={"fields": [variable]},
        )
    return key


def _body(alert: Alert) -> bytes:
    data: dict[str, Any] = alert.model_dump(mode="json", exclude={"id", "kind", "at"})
    message = {"type": f"job.{alert.kind}", "timestamp": alert.at.isoformat(), "data": data}
    # ASCII, as the log lines: what is shown of it elsewhere acts on nothing, and any text of a service can be sent
    return json.dumps(message, separators=(",", ":")).encode()


def _refusal(place: str, status: int) -> CrucibleError:
    if status >= 500 or status in _REPEATED:
        return BackendUnavailable(f"{place}: answered {status}", details={"status": status})
    return InvalidRequest(f"{place}: answered {status}", details={"status": status})
