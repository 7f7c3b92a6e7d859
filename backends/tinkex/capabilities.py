"""What a service can do with a model, as data; and what no service of this protocol can."""

from collections.abc import Collection, Iterator
from typing import Final

from backends.tinkex.errors import BACKEND
from backends.tinkex.types.server_capabilities import ServerCapabilities
from crucible.capabilities import Capabilities
from crucible.errors import Unsupported
from crucible.prompt import NamedTool, Prompt, ToolChoice
from crucible.tokenizer import ChatFeatures

EVERYTHING: Final = ChatFeatures(tools=True, thinking=True, names=True, image_token=0)
"""What a template might know; whether it does is seen once the model is known."""
LOSSES: Final = ("cross_entropy",)
"""Those that read no more than tokens and weights. The API's others (importance_sampling, ppo, cispo, dro) read log
probabilities and advantages besides, which no text gives: they are for users of ``TrainingClient``."""
_OPTIONS: Final = ("temperature", "max_tokens", "top_p", "top_k", "stop", "seed", "timeout_ms", "top_logprobs")


def claims(served: ServerCapabilities, features: ChatFeatures, lacking: Collection[str] = ()) -> Capabilities:
    """The capabilities for a model whose template has ``features``, without the options that are ``lacking``."""
    models = served.model_names
    lengths = {
        model.model_name: model.max_context_length
        for model in served.supported_models
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
        supports_training=True,
        supports_logprobs=True,
        supports_n=True,
        options=tuple(option for option in _OPTIONS if option not in lacking),
        losses=LOSSES,
    )


def refuse_unsayable(prompt: Prompt, features: ChatFeatures) -> None:
    """Refuse what has no place in a request: the protocol samples freely, and a template says what it says.

    Raises:
        Unsupported: naming the field.
    """
    for field, why in _unsayable(prompt, features):
        raise Unsupported(
            f"{field}: the backend {BACKEND!r} does not support this ({why})",
            backend=BACKEND,
            details={"field": field},
        )


def _unsayable(prompt: Prompt, features: ChatFeatures) -> Iterator[tuple[str, str]]:
    if isinstance(prompt.tool_choice, NamedTool) or prompt.tool_choice is ToolChoice.REQUIRED:
        yield "tool_choice", "nothing makes a model call a tool; allowed are auto and none"
    for index, tool in enumerate(prompt.tools):
        if tool.strict:
            yield f"tools[{index}].strict", "nothing holds a model to a schema"
    if prompt.options.thinking_budget_tokens is not None:
        yield "options.thinking_budget_tokens", "thinking has no limit of its own; max_tokens limits all of it"
    for index, message in enumerate(prompt.messages):
        if message.name is not None and not features.names:
            yield f"messages[{index}].name", "the model's template leaves it out"
