"""What the server answers when it does not do what it was asked.

CallerError
├── Refused             an HTTP status with a ``detail``: the request itself is turned down
│   └── InvalidField    422, and the place in the body that is wrong
└── StateUnusable       the server does not start: its state folder cannot be written, or another server has it
BackendError
└── OperationFailed     the request was taken, its future ends with ``error`` and ``category``
"""

from collections.abc import Mapping, Sequence
from typing import Self

from crucible.errors import BackendError, CallerError


class Refused(CallerError):
    """The request is turned down with an HTTP status."""

    code = "refused"

    def __init__(self, status: int, detail: object, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(detail))
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


class InvalidField(Refused):
    """422: a field of the body is wrong, named by its place as the service names it."""

    code = "invalid_field"

    @classmethod
    def at(cls, place: Sequence[str | int], message: str) -> Self:
        """The error for one place in the body."""
        return cls(422, [{"type": "value_error", "loc": ["body", *place], "msg": message}])


class StateUnusable(CallerError):
    """The state folder cannot be written, or another live server uses it."""

    code = "state_unusable"


class OperationFailed(BackendError):
    """The operation was accepted and failed: its future carries the message and whose fault it is."""

    code = "operation_failed"

    def __init__(self, message: str, fault_of: str) -> None:
        super().__init__(message)
        self.fault_of = fault_of
