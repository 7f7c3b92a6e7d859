"""Scores of given answers: the log-probability of each token of a prompt's last message, under a model."""

import asyncio
import math
from collections.abc import Sequence
from typing import Final

from crucible import Choice, Completion, FinishReason, Prompt, Usage
from crucible.backend import Backend, TrainingBackend
from crucible.completion import TokenLogprob
from crucible.errors import InvalidRequest, Unsupported
from crucible.prompt import Role
from crucible.rendering.chat import chat_of
from crucible.rendering.tokenizer import Tokenizer, TurnWeight
from crucible.runtime.opened_samplers import OpenedSamplers
from crucible.token_sampler import TokenSampler, checked_scores

LOGPROB: Final = "logprob"
"""The metadata of a completion with the sum of the log-probabilities of its tokens."""


def score_problem(prompt: Prompt) -> tuple[str, str] | None:
    """Return why a prompt has no answer to score, as the state and what is allowed; None if it has one."""
    if not prompt.messages or prompt.messages[-1].role is not Role.ASSISTANT or not prompt.messages[-1].text():
        return "has no answer to score", "let messages end with the assistant's"
    options = prompt.options.model_dump(exclude_defaults=True, exclude={"model"})
    if options:
        return (
            f"options.{min(options)} is not allowed here",
            "of options, only model is read where answers are scored",
        )
    if chat_of(prompt).images:
        return "has images", "answers to images are not scored; leave them out"
    return None


class AnswerScorer:
    """Scores answers by the samplers of a backend."""

    def __init__(self, backend: Backend) -> None:
        if not isinstance(backend, TrainingBackend):
            raise Unsupported(f"payload.score: {backend.name!r} scores no given answers", backend=backend.name)
        self._backend = backend
        self._samplers = OpenedSamplers(backend.sampler)

    async def score(self, prompt: Prompt) -> Completion:
        """Return the last message of a prompt as its completion, with the log-probabilities of its tokens, the end
        of the turn included, and their sum as metadata.

        Raises:
            InvalidRequest: there is nothing to score, or the tokenizer does not render it.
            CrucibleError: there is no such model, or the service failed.
        """
        problem = score_problem(prompt)
        model = prompt.options.model
        if problem is not None or model is None:
            raise InvalidRequest("; ".join(problem or ("has no model", "set options.model")))

        async def scored_by(sampler: TokenSampler) -> tuple[Tokenizer, list[int], list[int], Sequence[float]]:
            tokenizer = await self._backend.tokenizer(sampler.base_model or model)
            tokens, places = await asyncio.to_thread(_rendered, prompt, tokenizer)
            return tokenizer, tokens, places, await sampler.score(tokens)

        tokenizer, tokens, places, scores = await self._samplers.ask(model, scored_by)
        scores = checked_scores(scores, tokens, model, backend=self._backend.name)
        found = [scores[place - 1] for place in places]
        scored = tuple(
            TokenLogprob(token=tokenizer.decode([tokens[place]]), token_id=tokens[place], logprob=score)
            for place, score in zip(places, found, strict=True)
        )
        choice = Choice(message=prompt.messages[-1], finish_reason=FinishReason.STOP, logprobs=scored)
        usage = Usage.of(len(tokens) - len(scored), len(scored))
        metadata = {**prompt.metadata, LOGPROB: math.fsum(found)}
        return Completion(choices=(choice,), model=model, usage=usage, metadata=metadata)

    async def close(self) -> None:
        """Close the samplers."""
        await self._samplers.close()


def _rendered(prompt: Prompt, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens of a conversation, and the places of those of its last message."""
    chat = chat_of(prompt)
    weights = [*(TurnWeight() for _ in chat.messages[1:]), TurnWeight(output=1.0)]
    example = tokenizer.render_training(chat, weights)[-1]
    places = [place for place, weight in enumerate(example.weights) if weight]
    if not places or places[0] == 0:
        raise InvalidRequest("the last message has no tokens to score")
    return list(example.tokens), places
