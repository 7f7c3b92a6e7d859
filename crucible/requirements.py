"""Checks of a prompt against a backend's capabilities, made before anything is sent."""

from collections.abc import Iterator
from typing import Final

from crucible.capabilities import Capabilities
from crucible.errors import InvalidRequest, Unsupported
from crucible.options import ResponseFormat
from crucible.prompt import AudioPart, ImagePart, Prompt, Role, ToolChoice, ToolResultPart

_SAMPLING: Final = (
    "temperature", "max_tokens", "top_p", "top_k", "frequency_penalty", "presence_penalty", "stop", "seed",
    "timeout_ms", "top_logprobs", "extra",
)  # fmt: skip


def require(prompt: Prompt, capabilities: Capabilities) -> None:
    """Check that a backend claims every capability that a prompt needs.

    Raises:
        InvalidRequest: a field has a value that this backend does not accept (an unknown model, too many tokens).
        Unsupported: a capability is missing; the error names the field and the backend.
    """
    backend = capabilities.backend_id
    if not prompt.messages:
        raise InvalidRequest.of("messages", [], "at least one message is required", backend=backend)
    _require_model(prompt.options.model, capabilities)
    for field, flag in _needed_flags(prompt):
        if not getattr(capabilities, flag):
            raise _unsupported(field, backend, f"{flag} is false")
    _require_sampling(prompt, capabilities)
    _require_limits(prompt, capabilities)


def _unsupported(field: str, backend: str, why: str) -> Unsupported:
    return Unsupported(
        f"{field}: the backend {backend!r} does not support this ({why})",
        backend=backend,
        details={"field": field},
    )


def _require_model(model: str | None, capabilities: Capabilities) -> None:
    backend = capabilities.backend_id
    known = ", ".join(capabilities.models) or "(none listed)"
    if model is None:
        if capabilities.default_model is None:
            raise InvalidRequest.of("options.model", None, f"name a model: {known}", backend=backend)
        return
    if capabilities.accepts_other_models or not capabilities.models or model in capabilities.models:
        return
    raise InvalidRequest.of("options.model", model, f"the models of {backend!r} are {known}", backend=backend)


def _needed_flags(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """Yield each field that needs a capability, with the capability's name."""
    if prompt.tools:
        yield "tools", "supports_tools"
    if prompt.tool_choice not in (None, ToolChoice.NONE, ToolChoice.AUTO):
        yield "tool_choice", "supports_tools"
    for index, message in enumerate(prompt.messages):
        path = f"messages[{index}]"
        if message.tool_calls or message.role is Role.TOOL:
            yield path, "supports_tools"
        if message.thinking is not None:
            yield f"{path}.thinking", "supports_thinking_history"
        for number, part in enumerate(message.parts()):
            flag = _PART_FLAGS.get(type(part))
            if flag is not None:
                yield f"{path}.content[{number}]", flag
    options = prompt.options
    for field, needed, flag in (
        ("stream", options.stream, "supports_streaming"),
        ("response_format", options.response_format is ResponseFormat.JSON, "supports_json_mode"),
        ("response_format", options.response_format is ResponseFormat.JSON_SCHEMA, "supports_json_schema"),
        ("extended_thinking", options.extended_thinking, "supports_extended_thinking"),
        ("cache_control", options.cache_control is not None, "supports_caching"),
        ("logprobs", options.logprobs, "supports_logprobs"),
        ("n", options.n > 1, "supports_n"),
    ):
        if needed:
            yield f"options.{field}", flag


_PART_FLAGS: Final[dict[type, str]] = {
    ImagePart: "supports_vision",
    AudioPart: "supports_audio",
    ToolResultPart: "supports_tools",
}


def _require_sampling(prompt: Prompt, capabilities: Capabilities) -> None:
    if capabilities.options is None:
        return
    for index, message in enumerate(prompt.messages):
        for number, part in enumerate(message.parts()):
            is_detailed = isinstance(part, ImagePart) and part.detail not in (None, "auto")
            if is_detailed and "image_detail" not in capabilities.options:
                field = f"messages[{index}].content[{number}].detail"
                raise _unsupported(field, capabilities.backend_id, "it reads images at one resolution")
    options = prompt.options
    for field in _SAMPLING:
        if getattr(options, field) not in (None, (), {}) and field not in capabilities.options:
            raise _unsupported(
                f"options.{field}",
                capabilities.backend_id,
                f"supported are {', '.join(capabilities.options) or 'no sampling options'}",
            )


def _require_limits(prompt: Prompt, capabilities: Capabilities) -> None:
    backend = capabilities.backend_id
    max_tokens, limit = prompt.options.max_tokens, capabilities.max_tokens
    if max_tokens is not None and limit is not None and max_tokens > limit:
        raise InvalidRequest.of("options.max_tokens", max_tokens, f"at most {limit}", backend=backend)
    images = sum(isinstance(part, ImagePart) for message in prompt.messages for part in message.parts())
    max_images = capabilities.max_images_per_request
    if max_images is not None and images > max_images:
        raise InvalidRequest.of("messages", f"{images} images", f"at most {max_images} images", backend=backend)
