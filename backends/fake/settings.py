"""What the scripted backend may be told: where to keep checkpoints, and what is to go wrong."""

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from crucible.errors import (
    AuthenticationFailed,
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    MalformedAnswer,
    OutOfCredit,
    RequestTimeout,
)
from crucible.record import Record
from nsai_work.home import home_folder

FailureCode = Literal[
    "authentication_failed",
    "backend_unavailable",
    "capacity",
    "invalid_request",
    "malformed_answer",
    "out_of_credit",
    "timeout",
]

_KINDS: Final[dict[str, type[CrucibleError]]] = {
    kind.code: kind
    for kind in (
        AuthenticationFailed,
        BackendUnavailable,
        CapacityError,
        InvalidRequest,
        MalformedAnswer,
        OutOfCredit,
        RequestTimeout,
    )
}


def scripted_error(code: FailureCode, what: str, retry_after_ms: int | None = None) -> CrucibleError:
    """The error of that code."""
    return _KINDS[code](f"{what} fails as scripted", backend="fake", retry_after_ms=retry_after_ms)


class ScriptedFailure(Record):
    """The next ``times`` completions fail with this code."""

    code: FailureCode
    times: int = Field(default=1, ge=1)
    retry_after_ms: int | None = Field(default=None, ge=0)


class ScriptedCorruption(Record):
    """A run is corrupted when it has made ``after_steps`` optimizer steps; every run, or the first ``runs``.

    ``flag``: it says so and refuses to go on. ``nan``: it says nothing and its losses are NaN.
    """

    after_steps: int = Field(ge=1)
    mode: Literal["flag", "nan"] = "flag"
    runs: int = Field(default=1, ge=1)


class Script(Record):
    """What happens instead of the plain course of things."""

    answers: tuple[str, ...] = ()
    """Given one after the other, then again from the first; without any, the model speaks."""
    fail: tuple[ScriptedFailure, ...] = ()
    corrupt: ScriptedCorruption | None = None
    delay_ms: int = Field(default=0, ge=0, le=600_000)
    """How long every completion and every training result takes."""


class FakeSettings(Record):
    """``home``: the folder of checkpoints; by default ``fake`` in NSAI_WORK_HOME, or in the user's state folder."""

    home: Path | None = None
    script: Script = Script()

    def folder(self) -> Path:
        """The folder to keep things in, resolved now; it need not exist."""
        if self.home is not None:
            return self.home
        return home_folder() / "fake"
