"""Settings of the fake backend: its folder and its script of failures."""

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
from crucible.values.record import Record
from nsai_work.files.home import FolderSetting, home_folder

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


def scripted_error(code: FailureCode, operation: str, retry_after_ms: int | None = None) -> CrucibleError:
    """The error with that code."""
    return _KINDS[code](f"{operation} fails as scripted", backend="fake", retry_after_ms=retry_after_ms)


class ScriptedFailure(Record):
    """The next ``times`` completions fail with this code."""

    code: FailureCode
    times: int = Field(default=1, ge=1)
    retry_after_ms: int | None = Field(default=None, ge=0)


class ScriptedCorruption(Record):
    """The first ``runs`` runs are corrupted after ``after_steps`` optimizer steps.

    ``flag``: the run is marked corrupted. ``nan``: it is not, but each later step fails for a loss of NaN.
    """

    after_steps: int = Field(ge=1)
    mode: Literal["flag", "nan"] = "flag"
    runs: int = Field(default=1, ge=1)


class Script(Record):
    """Scripted answers, failures and delays."""

    answers: tuple[str, ...] = ()
    """Completions in order, repeated from the first; without any, the model generates."""
    fail: tuple[ScriptedFailure, ...] = ()
    corrupt: ScriptedCorruption | None = None
    delay_ms: int = Field(default=0, ge=0, le=600_000)
    """Delay of every completion and every training result."""


class FakeSettings(Record):
    """Settings. ``home`` is the folder of checkpoints, by default ``fake`` in NSAI_WORK_HOME."""

    home: FolderSetting | None = None
    script: Script = Script()

    def folder(self) -> Path:
        """The folder of checkpoints, resolved by this call; it need not exist."""
        if self.home is not None:
            return self.home
        return home_folder() / "fake"
