"""Every exception of LiteLLM becomes a CrucibleError, without secrets."""

import pickle
from typing import Any

import pytest

from backends.litellm_backend import LiteLLMBackend
from backends.litellm_backend.errors import translated
from crucible import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    MalformedAnswer,
    OutOfCredit,
    RequestTimeout,
    Unsupported,
)
from crucible.testing.loop import run_opened

pytestmark = pytest.mark.filterwarnings("default")

WHERE = {"llm_provider": "groq", "model": "m"}
CASES: list[tuple[str, dict[str, Any], type[CrucibleError]]] = [
    ("AuthenticationError", WHERE, AuthenticationFailed),
    ("NotFoundError", WHERE, InvalidRequest),
    ("BadRequestError", WHERE, InvalidRequest),
    ("UnsupportedParamsError", WHERE, Unsupported),
    ("ContextWindowExceededError", WHERE, InvalidRequest),
    ("ContentPolicyViolationError", WHERE, InvalidRequest),
    ("RateLimitError", WHERE, CapacityError),
    ("ServiceUnavailableError", WHERE, BackendUnavailable),
    ("BadGatewayError", WHERE, BackendUnavailable),
    ("InternalServerError", WHERE, BackendUnavailable),
    ("APIConnectionError", WHERE, BackendUnavailable),
    ("Timeout", WHERE, RequestTimeout),
    ("APIResponseValidationError", WHERE, MalformedAnswer),
    ("APIError", {**WHERE, "status_code": 402}, OutOfCredit),
    ("APIError", {**WHERE, "status_code": 403}, AuthenticationFailed),
]


@pytest.mark.parametrize(
    ("name", "fields", "kind"), CASES, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(CASES)]
)
def test_each_exception_has_its_error(library: Any, name: str, fields: dict[str, Any], kind: type) -> None:
    """It names the backend, and can be pickled."""
    error = translated(getattr(library.exceptions, name)(message="so it is", **fields), "m")

    assert type(error) is kind
    assert error.backend == "litellm"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_what_is_not_litellms_is_no_answer() -> None:
    """A plain exception means that the answer could not be read."""
    assert type(translated(ValueError("odd"), "m")) is MalformedAnswer
    assert issubclass(MalformedAnswer, BackendError)


def test_keys_of_the_environment_are_hidden(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any message, once the backend is open."""
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", "gsk-0123456789")

    async def opened(_: LiteLLMBackend) -> str:
        return str(translated(ValueError("bad key gsk-0123456789 or sk-abcdefgh"), "m"))

    said = run_opened(LiteLLMBackend({"api_key": "sk-abcdefgh", "models": ["openai/m"]}), opened)
    assert "gsk-0123456789" not in said
    assert "sk-abcdefgh" not in said
