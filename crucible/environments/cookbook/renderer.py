"""The tokenizer and the renderer of a run in the cookbook's form."""

import json
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock
from typing import Any, Final

from crucible.errors import InvalidRequest, Unsupported
from crucible.options import Options
from crucible.prompt import Message, Prompt, Tool
from crucible.rendering.chat import chat_of
from crucible.rendering.chat_template import TemplateTokenizer
from crucible.rendering.output_parser import parse_output
from crucible.rendering.tokenizer import Tokenizer

OWN_RENDERER: Final = "crucible"
"""The name of the run's renderer in the cookbook's table."""
_TOOLS: Final = "crucible_tools"
_OPTIONS: Final = Options(model="policy")
_registering = Lock()
_registered: dict[str, str] = {}


def register(model: str, tokenizer: Tokenizer) -> None:
    """Make the run's tokenizer that of its model in the cookbook, and its renderer known there. Once for each
    process: another run of the model has the same.

    Raises:
        InvalidRequest: the model of another run has this name and other tokens.
    """
    from tinker_cookbook import tokenizer_utils
    from tinker_cookbook.renderers import Renderer, register_renderer

    kind = type("OwnRenderer", (RunRenderer, Renderer), {})
    with _registering:
        if _registered.setdefault(model, tokenizer.tokenizer_id) != tokenizer.tokenizer_id:
            raise InvalidRequest.of(
                "base_model", model, f"in this process the cookbook has the tokens of {_registered[model]} for it"
            )
        register_renderer(OWN_RENDERER, lambda inner, _=None: kind(inner))
        own = tokenizer.inner if isinstance(tokenizer, TemplateTokenizer) else CookbookTokenizer(model, tokenizer)
        tokenizer_utils.register_tokenizer(model, lambda: own)


class CookbookTokenizer:
    """A tokenizer of ours with the methods of ``transformers`` that the cookbook's environments call."""

    def __init__(self, model: str, own: Tokenizer) -> None:
        self.name_or_path = model
        self.own = own
        self.eos_token_id = own.stop_tokens[0] if own.stop_tokens else None
        self.bos_token = None

    def encode(self, text: str, add_special_tokens: bool = False, **_: Any) -> list[int]:
        """Encode plain text."""
        del add_special_tokens  # ours has none of this kind
        return self.own.encode(text)

    def decode(self, token_ids: int | Iterable[int], **_: Any) -> str:
        """Decode tokens, without special ones."""
        return self.own.decode([token_ids] if isinstance(token_ids, int) else token_ids)

    def __len__(self) -> int:
        return self.own.vocab_size


class RunRenderer:
    """The renderer of a run, but for the cookbook's base class: it renders and parses as the run itself does."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        name = str(getattr(tokenizer, "name_or_path", "policy"))
        self._own = tokenizer.own if hasattr(tokenizer, "own") else TemplateTokenizer(name, tokenizer)

    def get_stop_sequences(self) -> list[int]:
        """Return the tokens that end a turn of the model."""
        return list(self._own.stop_tokens)

    def build_generation_prompt(
        self, messages: Sequence[Mapping[str, Any]], role: str = "assistant", prefill: str | None = None
    ) -> Any:
        """Render a conversation as a prompt for the model's next turn."""
        import tinker

        if role != "assistant":
            raise Unsupported(f"a turn of {role} is not sampled; only those of the assistant are")
        tools = [Tool.model_validate(tool) for message in messages for tool in message.get(_TOOLS, ())]
        shown = [_message(message) for message in messages if _TOOLS not in message or message["content"]]
        chat = chat_of(Prompt(messages=tuple(shown), tools=tuple(tools), options=_OPTIONS))
        tokens = self._own.render_chat(chat)
        return tinker.ModelInput.from_ints([*tokens, *self._own.encode(prefill or "")])

    def parse_response(self, response: Sequence[int]) -> tuple[dict[str, Any], Any]:
        """Parse sampled tokens into a message of the cookbook; return how they ended, too."""
        from tinker_cookbook.renderers import ParseTermination, ToolCall

        stops = set(self._own.stop_tokens)
        ends = [place for place, token in enumerate(response) if token in stops]
        text = self._own.decode([token for token in response if token not in stops])
        whole = ends == [len(response) - 1]
        termination = ParseTermination.STOP_SEQUENCE if whole else ParseTermination.MALFORMED
        parsed = parse_output(text, thinks=True, opened=False, calls=True, turn=0)
        message: dict[str, Any] = {"role": "assistant", "content": parsed.content}
        if parsed.thinking:
            message["content"] = [
                {"type": "thinking", "thinking": parsed.thinking},
                {"type": "text", "text": parsed.content},
            ]
        if parsed.tool_calls:
            message["tool_calls"] = [
                ToolCall(
                    id=call.id, function=ToolCall.FunctionBody(name=call.name, arguments=call.arguments_text())
                )
                for call in parsed.tool_calls
            ]
        return message, termination

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[Mapping[str, Any]], system_prompt: str = ""
    ) -> list[dict[str, Any]]:
        """Return the system message of a conversation with tools."""
        return [{"role": "system", "content": system_prompt, _TOOLS: list(tools)}]

    def render_message(self, message: Mapping[str, Any], ctx: Any) -> Any:
        """Refuse a single message: only whole conversations are rendered."""
        raise Unsupported(f"the renderer {OWN_RENDERER} renders whole conversations; name one of the cookbook's")


def _message(message: Mapping[str, Any]) -> Message:
    """A message of the cookbook in our form."""
    content, thinking = message["content"], ""
    if not isinstance(content, str):
        thinking = "".join(part["thinking"] for part in content if part["type"] == "thinking")
        content = [part for part in content if part["type"] != "thinking"]
        if all(part["type"] == "text" for part in content):
            content = "".join(part["text"] for part in content)
    calls = [
        {
            "id": call.id or f"call_{place}",
            "name": call.function.name,
            "arguments": json.loads(call.function.arguments),
        }
        for place, call in enumerate(message.get("tool_calls", ()))
    ]
    kept = {key: message[key] for key in ("name", "tool_call_id") if message.get(key) is not None}
    return Message.model_validate(
        {"role": message["role"], "content": content, "thinking": thinking or None, "tool_calls": calls, **kept}
    )
