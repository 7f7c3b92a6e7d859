"""The capabilities of a service and model as data, and the prompt features that the protocol cannot express."""

from collections.abc import Collection, Iterator
from typing import Final

from backends.tinkex.errors import BACKEND
from backends.tinkex.types.server_capabilities import ServerCapabilities
from crucible.capabilities import Capabilities
from crucible.errors import Unsupported
from crucible.prompt import NamedTool, Prompt, ToolChoice
from crucible.rendering.tokenizer import ChatFeatures

ALL_FEATURES: Final = ChatFeatures(tools=True, thinking=True, thinking_history=True, names=True, image_token=0)
"""Every feature that a chat template can have; those of a model are known once its tokenizer is loaded."""
LOSSES: Final = ("cross_entropy",)
"""The losses that read only tokens and weights. The API's others (importance_sampling, ppo, cispo, dro) also read
log probabilities and advantages, which text does not provide: they are for users of ``TrainingClient``."""
METRICS: Final = ("loss:sum", "grad_norm", "optimizer_step")
"""The metrics of a step. A service may send fewer, but a checkpoint can be chosen by no other."""
_OPTIONS: Final = ("temperature", "max_tokens", "top_p", "top_k", "stop", "seed", "timeout_ms", "top_logprobs")


def capabilities_of(
    server: ServerCapabilities, features: ChatFeatures, missing_options: Collection[str] = ()
) -> Capabilities:
    """Return the capabilities for a model whose template has ``features``, without ``missing_options``."""
    models = server.model_names
    lengths = {
        model.model_name: model.max_context_length
        for model in server.supported_models
        if model.model_name and model.max_context_length
    }
    return Capabilities(
        backend_id=BACKEND,
        provider=BACKEND,
        models=models,
        default_model=models[0] if models else None,
        accepts_other_models=True,
        context_lengths=lengths,
        max_context_length=max(lengths.values(), default=None),
        supports_streaming=True,
        token_streaming=False,
        supports_tools=features.tools,
        supports_vision=features.image_token is not None,
        supports_extended_thinking=features.thinking,
        supports_thinking_history=features.thinking_history,
        supports_training=True,
        supports_forward=True,
        supports_soft_targets=True,
        supports_image_training=features.image_token is not None,
        supports_download=True,
        supports_logprobs=True,
        supports_n=True,
        options=tuple(option for option in _OPTIONS if option not in missing_options),
        losses=LOSSES,
    )


def require_expressible(prompt: Prompt, features: ChatFeatures) -> None:
    """Reject prompt features that a request or the model's template cannot express.

    Raises:
        Unsupported: naming the field.
    """
    for field, reason in _inexpressible(prompt, features):
        raise Unsupported(
            f"{field}: the backend {BACKEND!r} does not support this ({reason})",
            backend=BACKEND,
            details={"field": field},
        )


def _inexpressible(prompt: Prompt, features: ChatFeatures) -> Iterator[tuple[str, str]]:
    if isinstance(prompt.tool_choice, NamedTool) or prompt.tool_choice is ToolChoice.REQUIRED:
        yield "tool_choice", "nothing makes a model call a tool; allowed are auto and none"
    for index, tool in enumerate(prompt.tools):
        if tool.strict:
            yield f"tools[{index}].strict", "nothing constrains a model to a schema"
    if prompt.options.thinking_budget_tokens is not None:
        yield "options.thinking_budget_tokens", "thinking has no separate limit; max_tokens limits all output"
    if prompt.options.seed is not None and prompt.options.seed < 0:
        yield "options.seed", "the service has seeds from 0"
    for index, message in enumerate(prompt.messages):
        if message.name is not None and not features.names:
            yield f"messages[{index}].name", "the model's template ignores it"
