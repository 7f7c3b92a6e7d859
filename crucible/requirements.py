"""Does a backend have what a prompt needs? Asked before anything is sent."""

from collections.abc import Iterator
from typing import Final

from crucible.capabilities import Capabilities
from crucible.errors import InvalidRequest, Unsupported
from crucible.options import Options, ResponseFormat
from crucible.prompt import AudioPart, ImagePart, Prompt, Role, ToolChoice, ToolResultPart

_SAMPLING: Final = (
    "temperature", "max_tokens", "top_p", "top_k", "frequency_penalty", "presence_penalty", "stop", "seed",
    "timeout_ms", "top_logprobs", "extra",
)  # fmt: skip


def require(prompt: Prompt, capabilities: Capabilities) -> None:
    """Do nothing if the backend claims all that the prompt needs.

    Raises:
        InvalidRequest: a field is wrong for this backend (an unknown model, too many tokens).
        Unsupported: the backend lacks something; the error names the field and the backend.
    """
    backend = capabilities.backend_id
    if not prompt.messages:
        raise InvalidRequest.of("messages", [], "at least one message is needed", backend=backend)
    _require_model(prompt.options.model, capabilities)
    for field, flag in _needs(prompt):
        if not getattr(capabilities, flag):
            raise _lacking(field, backend, f"{flag} is false")
    _require_sampling(prompt.options, capabilities)
    _require_limits(prompt, capabilities)


def _lacking(field: str, backend: str, why: str) -> Unsupported:
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


def _needs(prompt: Prompt) -> Iterator[tuple[str, str]]:
    """Each field that needs a capability, with the capability's name."""
    if prompt.tools:
        yield "tools", "supports_tools"
    if prompt.tool_choice not in (None, ToolChoice.NONE, ToolChoice.AUTO):
        yield "tool_choice", "supports_tools"
    for index, message in enumerate(prompt.messages):
        place = f"messages[{index}]"
        if message.tool_calls or message.role is Role.TOOL:
            yield place, "supports_tools"
        for number, part in enumerate(message.parts()):
            flag = _PART_NEEDS.get(type(part))
            if flag is not None:
                yield f"{place}.content[{number}]", flag
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


_PART_NEEDS: Final[dict[type, str]] = {
    ImagePart: "supports_vision",
    AudioPart: "supports_audio",
    ToolResultPart: "supports_tools",
}


def _require_sampling(options: Options, capabilities: Capabilities) -> None:
    if capabilities.options is None:
        return
    for field in _SAMPLING:
        if getattr(options, field) not in (None, (), {}) and field not in capabilities.options:
            raise _lacking(
                f"options.{field}",
                capabilities.backend_id,
                f"it honours {', '.join(capabilities.options) or 'no sampling option'}",
            )


def _require_limits(prompt: Prompt, capabilities: Capabilities) -> None:
    backend = capabilities.backend_id
    wanted, limit = prompt.options.max_tokens, capabilities.max_tokens
    if wanted is not None and limit is not None and wanted > limit:
        raise InvalidRequest.of("options.max_tokens", wanted, f"at most {limit}", backend=backend)
    images = sum(isinstance(part, ImagePart) for message in prompt.messages for part in message.parts())
    most = capabilities.max_images_per_request
    if most is not None and images > most:
        raise InvalidRequest.of("messages", f"{images} images", f"at most {most} images", backend=backend)
