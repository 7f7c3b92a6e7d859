"""Errors in the form of OpenAI's API: a status and ``{"error": {"message", "type", "param", "code"}}``."""

from dataclasses import dataclass
from typing import Final

from pydantic import JsonValue

from crucible.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    CallerError,
    CapacityError,
    CrucibleError,
    NotFound,
    OutOfCredit,
    PluginError,
    RequestTimeout,
)

_MODEL: Final = "options.model"
"""The field that a backend names for a model that it does not have."""
_OTHER_NAMES: Final = {
    "options.": "",
    # of the Tinker API, whose answers name fields of its own request
    "sampling_params.": "",
    "prompt.chunks": "messages",
    "Prompt": "body",
}
"""Names of fields in a request, by the beginnings of those of prompts and of services."""
_BY_CLASS: Final[tuple[tuple[type[CrucibleError], int, str], ...]] = (
    (NotFound, 404, "invalid_request_error"),
    (CallerError, 400, "invalid_request_error"),
    # the service behind this server refused its key; 401 would mean that of the client
    (AuthenticationFailed, 403, "permission_error"),
    (OutOfCredit, 429, "insufficient_quota"),
    (CapacityError, 429, "rate_limit_error"),
    (RequestTimeout, 504, "timeout_error"),
    (BackendUnavailable, 503, "server_error"),
    (PluginError, 500, "server_error"),
    (BackendError, 502, "server_error"),
    (CrucibleError, 500, "server_error"),
)
"""Status and type of an error, by the first class that it is of."""


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error as this API reports it. ``param`` is the field at fault; ``retry_after_s`` becomes a header."""

    status: int
    message: str
    type: str
    code: str | None = None
    param: str | None = None
    retry_after_s: int | None = None

    @property
    def body(self) -> dict[str, JsonValue]:
        """The JSON of the answer."""
        return {
            "error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code},
        }


def api_error(error: CrucibleError) -> ApiError:
    """Convert an error of a backend or of the checks. Fields are named as in the request."""
    status, kind = next((status, kind) for family, status, kind in _BY_CLASS if isinstance(error, family))
    field = error.details.get("field")
    param, message = None, error.message
    if isinstance(field, str):
        param = _own_name(field)
        message = message.replace(field, param, 1)
    code = error.code
    if field == _MODEL and isinstance(error, CallerError):
        status, code = 404, "model_not_found"
    wait_ms = error.retry_after_ms
    return ApiError(
        status,
        message,
        kind,
        code=code,
        param=param,
        retry_after_s=None if wait_ms is None else -(-wait_ms // 1000),
    )


def _own_name(field: str) -> str:
    for begin, name in _OTHER_NAMES.items():
        if field.startswith(begin):
            return name + field.removeprefix(begin)
    return field
