"""The prompt of a turn: messages that are rendered here, or tokens that an episode has rendered."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Final

from crucible.environments import Episode, Feedback, Observation, TokenEpisode, TokenPrompt
from crucible.errors import CrucibleError
from crucible.options import Options
from crucible.prompt import Message, Prompt, Tool
from crucible.rendering.chat import chat_of
from crucible.rendering.tokenizer import Tokenizer
from nsai_work.training.rollouts.episodes.environment_calls import EpisodeBroken
from nsai_work.training.rollouts.episodes.turns import Turn, common_length, full_sequence

RENDERED_INLINE: Final = 2_000
"""Up to this many characters a conversation is rendered on the event loop: a thread costs more."""
MAX_CHARS_PER_TOKEN: Final = 256
"""More text than this for each token of the context is not rendered: no tokenizer makes it fit."""
_OPTIONS: Final = Options(model="policy")


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """The prompt that the model sees before a turn: its tokens, those that end the answer, and the new messages."""

    tokens: list[int]
    stop_tokens: tuple[int, ...]
    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class PromptRenderer:
    """Makes the prompts of a rollout. ``context`` is the longest sequence of the model, in tokens."""

    tokenizer: Tokenizer
    context: int

    async def shown(
        self,
        episode: Episode,
        shown: Observation | Feedback,
        tools: Sequence[Tool],
        messages: Sequence[Message],
        turns: Sequence[Turn],
    ) -> ShownPrompt | None:
        """Return the prompt that an episode shows after ``messages`` and ``turns``; None if it is too long.

        Raises:
            EpisodeBroken: there is none, or it cannot be rendered.
        """
        if isinstance(episode, TokenEpisode):
            return await self._of_tokens(shown.prompt, turns)
        require_messages(shown.messages)
        whole = [*messages, *shown.messages]
        size = sum(len(message.text()) for message in whole)
        if size > self.context * MAX_CHARS_PER_TOKEN:
            return None
        tokens = await self._rendered(whole, tools, size)
        return ShownPrompt(tokens, self.tokenizer.stop_tokens, tuple(shown.messages))

    async def _of_tokens(self, prompt: TokenPrompt | None, turns: Sequence[Turn]) -> ShownPrompt | None:
        if not isinstance(prompt, TokenPrompt) or not prompt.tokens:
            raise EpisodeBroken("an episode of tokens that goes on must have a prompt with tokens")
        if len(prompt.tokens) >= self.context:
            return None
        tokens, stops = self._checked(prompt.tokens), tuple(self._checked(prompt.stop_tokens))
        before = full_sequence(turns, len(turns) - 1) if turns else []
        new = tokens[common_length(before, tokens) :]
        text = await asyncio.to_thread(self.tokenizer.decode, new)
        return ShownPrompt(tokens, stops, (Message(role="user", content=text),))

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        try:
            checked = [index(token) for token in tokens]
        except TypeError as error:
            raise EpisodeBroken(f"its prompt has something else than tokens: {error}") from error
        if checked and not 0 <= min(checked) <= max(checked) < self.tokenizer.vocab_size:
            raise EpisodeBroken(
                f"its prompt has tokens from {min(checked)} to {max(checked)}; those of the model are 0 to "
                f"{self.tokenizer.vocab_size - 1}"
            )
        return checked

    async def _rendered(self, messages: Sequence[Message], tools: Sequence[Tool], size: int) -> list[int]:
        try:
            chat = chat_of(Prompt(messages=tuple(messages), tools=tuple(tools), options=_OPTIONS))
            if size <= RENDERED_INLINE:
                return self.tokenizer.render_chat(chat)
            return await asyncio.to_thread(self.tokenizer.render_chat, chat)
        except (CrucibleError, ValueError) as error:
            raise EpisodeBroken(f"its messages cannot be rendered: {error}") from error


def require_messages(messages: Sequence[Message]) -> None:
    """Require that an episode that goes on has messages.

    Raises:
        EpisodeBroken: it has none, or something else.
    """
    if not messages or not all(isinstance(message, Message) for message in messages):
        raise EpisodeBroken("an episode that goes on must have messages to answer")
