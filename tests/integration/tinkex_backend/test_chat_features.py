"""Tools, thinking, images and likely tokens with the development model, over real HTTP."""

import json
from collections.abc import Callable, Mapping

import pytest

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible import (
    ByteTokenizer,
    FinishReason,
    IntentKind,
    InvalidRequest,
    OptimizerSpec,
    Options,
    Prompt,
    StepRequest,
    Unsupported,
    collect,
)
from crucible.completion import Choice, UsageSource
from crucible.rendering.chat import chat_of
from crucible.testing.loop import run_opened
from crucible.training import Datum

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
CALL = '<tool_call>{"name": "go", "arguments": {"to": "Bonn"}}</tool_call>'


def asking(*, options: Mapping[str, object] | None = None, **fields: object) -> Prompt:
    """A question with tools and options."""
    chosen = {"model": "tiny-lm", "temperature": 0.0, "max_tokens": 100, **(options or {})}
    asked = [{"role": "user", "content": "Where to?"}]
    return Prompt.model_validate({"messages": asked, **fields, "options": Options.model_validate(chosen)})


async def taught(opened: TinkexBackend, training, prompt: Prompt, answer: str) -> Prompt:
    """The prompt, asked of weights that have learned to answer it so."""
    tokenizer = ByteTokenizer()
    asked = tokenizer.render_chat(chat_of(prompt))
    tokens = [*asked, *tokenizer.encode(answer), tokenizer.END]
    weights = [0.0] * len(asked) + [1.0] * (len(tokens) - len(asked))
    lesson = [Datum(tokens[:-1], {"target_tokens": tokens[1:], "weights": weights[1:]})]
    run = await opened.start(training.spec)
    for number in range(1, 61):
        step = run.prepare_step(StepRequest(number, lesson, OptimizerSpec(learning_rate=4e-2)))
        pending = await run.send(step)
    await pending.result()
    save = run.prepare_save("final", step=60, kind=IntentKind.SAVE_SAMPLER)
    path = (await (await run.send(save)).result()).path
    return prompt.model_copy(update={"options": prompt.options.model_copy(update={"model": path})})


@pytest.mark.parametrize(
    ("said", "judge"),
    [
        (
            "Off." + CALL,
            lambda choice: (
                (choice.message.content, choice.finish_reason, choice.message.tool_calls[0].arguments)
                == ("Off.", FinishReason.TOOL_CALLS, {"to": "Bonn"})
            ),
        ),
        (
            "<tool_call>{go}</tool_call>",
            lambda choice: (
                (choice.message.content, choice.finish_reason, choice.message.tool_calls)
                == ("<tool_call>{go}</tool_call>", FinishReason.STOP, ())
            ),
        ),
    ],
    ids=["well formed", "malformed"],
)
def test_a_tool_call_is_read_from_the_answer(
    training, backend: TinkexBackend, said: str, judge: Callable[[Choice], bool]
) -> None:
    """As a call, and the conversation goes on with its result; one that is malformed stays text."""

    async def body(opened: TinkexBackend) -> Choice:
        prompt = await taught(opened, training, asking(tools=[{"name": "go"}]), said)
        completion = await opened.complete(prompt)
        assert (await collect(opened.stream(prompt))).choices == completion.choices
        told = [
            {"role": "tool", "tool_call_id": call.id, "content": "arrived"}
            for call in completion.choices[0].message.tool_calls
        ]
        going_on = [*prompt.messages, completion.choices[0].message, *told, {"role": "user", "content": "And?"}]
        answered = Prompt(messages=going_on, tools=prompt.tools, options=prompt.options)
        assert (await opened.complete(answered)).choices
        return completion.choices[0]

    choice = run_opened(backend, body)

    assert judge(choice), choice


def test_thinking_is_parted_from_the_answer(training, backend: TinkexBackend) -> None:
    """Its tokens are counted, and are part of the completion's."""

    async def body(opened: TinkexBackend) -> None:
        asked = asking(options={"extended_thinking": True})
        completion = await opened.complete(await taught(opened, training, asked, "Far?</think>Home."))
        thinking = completion.choices[0].thinking
        assert completion.text == "Home."
        assert thinking is not None
        assert (thinking.content, thinking.tokens) == ("Far?", len("Far?</think>"))
        assert completion.usage is not None
        assert completion.usage.thinking_tokens == len("Far?</think>")
        assert completion.usage.completion_tokens == len("Far?</think>Home.") + 1

    run_opened(backend, body)


def test_an_image_goes_along(server: DevServer, backend: TinkexBackend) -> None:
    """In its place between the texts: another place, another image or none gives another answer."""
    image, text = {"type": "image", "base64": PNG, "media_type": "image/png"}, {"type": "text", "text": "What?"}
    by_address = {"type": "image", "url": "https://example.org/a.png"}

    async def body(opened: TinkexBackend) -> list[str]:
        answers = []
        for content in ([text, image], [image, text], "What?", [by_address, text]):
            prompt = asking(messages=[{"role": "user", "content": content}], options={"logprobs": True, "seed": 1})
            completion = await opened.complete(prompt)
            assert completion.usage is not None
            has_image = not isinstance(content, str)
            assert (completion.usage.source is UsageSource.ESTIMATED) is has_image
            logprobs = completion.choices[0].logprobs or ()
            answers.append(json.dumps([item.logprob for item in logprobs]))
        return answers

    first, second, none, pointed = run_opened(backend, body)

    assert len({first, second, none, pointed}) == 4


def test_the_likeliest_tokens_are_told(backend: TinkexBackend) -> None:
    """As many as asked at each place, the likeliest first; greedily drawn, the first is the one drawn."""
    prompt = asking(options={"logprobs": True, "top_logprobs": 3, "max_tokens": 5})
    logprobs = run_opened(backend, lambda opened: opened.complete(prompt)).choices[0].logprobs

    assert logprobs
    for item in logprobs:
        chances = [top.logprob for top in item.top]
        assert len(chances) == 3
        assert chances == sorted(chances, key=lambda chance: -(chance or 0))
        assert item.top[0].token_id == item.token_id


def test_capabilities_say_what_the_template_knows(backend: TinkexBackend) -> None:
    """The development model's knows all."""
    claimed = run_opened(backend, lambda opened: opened.capabilities())

    assert (claimed.supports_tools, claimed.supports_vision, claimed.supports_extended_thinking) == (True,) * 3
    assert claimed.options is not None
    assert "top_logprobs" in claimed.options


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [{"name": "go"}], "tool_choice": "required"}, "tool_choice"),
        ({"options": {"extended_thinking": True, "thinking_budget_tokens": 5}}, "thinking_budget_tokens"),
        ({"options": {"frequency_penalty": 1.0}}, "options.frequency_penalty"),
        ({"options": {"response_format": "json"}}, "options.response_format"),
    ],
    ids=["tool_choice", "budget", "penalty", "json"],
)
def test_what_cannot_be_done_is_refused_by_every_door(
    backend: TinkexBackend, fields: dict[str, object], field: str
) -> None:
    """``check_prompt`` as well as ``complete``."""
    for ask in (
        lambda opened: opened.check_prompt(asking(**fields)),
        lambda opened: opened.complete(asking(**fields)),
    ):
        with pytest.raises(Unsupported, match=field):
            run_opened(backend, ask)


def test_a_prompt_that_passes_is_checked_without_sampling(backend: TinkexBackend) -> None:
    """Nothing is raised; an unknown model is, where the template matters."""
    run_opened(backend, lambda opened: opened.check_prompt(asking(tools=[{"name": "go"}])))
    unknown = asking(tools=[{"name": "go"}], options={"model": "nobody"})
    with pytest.raises(InvalidRequest, match="nobody"):
        run_opened(backend, lambda opened: opened.check_prompt(unknown))
