"""Errors of the server.

CallerError
├── Refused             the request is rejected with an HTTP status and a ``detail``
│   └── InvalidField    422, with the path of the invalid field
└── StateUnusable       the server does not start: its state folder cannot be written, or another server has it
BackendError
└── OperationFailed     the request was accepted; its future ends with ``error`` and ``category``
"""

from collections.abc import Mapping, Sequence
from typing import Self

from crucible.errors import BackendError, CallerError


class Refused(CallerError):
    """The request is rejected with an HTTP status."""

    code = "refused"

    def __init__(self, status: int, detail: object, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(detail))
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


class InvalidField(Refused):
    """422: a field of the body is invalid. The detail has the service's form: ``loc``, ``msg`` and ``type``."""

    code = "invalid_field"

    @classmethod
    def at(cls, path: Sequence[str | int], message: str) -> Self:
        """The error for the field at a path in the body."""
        return cls(422, [{"type": "value_error", "loc": ["body", *path], "msg": message}])


class StateUnusable(CallerError):
    """The state folder cannot be written, or another live server uses it."""

    code = "state_unusable"


class OperationFailed(BackendError):
    """An accepted operation failed. ``fault_of`` is the category in its future: user, server or unknown."""

    code = "operation_failed"

    def __init__(self, message: str, fault_of: str) -> None:
        super().__init__(message)
        self.fault_of = fault_of
