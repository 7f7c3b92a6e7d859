"""No answer of an OpenAI-compatible server raises anything but an error of the family."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.openai.answers import choices_of, completion_of, text_of, usage_of
from backends.openai.backend import parsed
from backends.openai.chunks import ChunkConverter
from backends.openai.errors import error_in_answer
from backends.openai.server_sent_events import event_data, peeked
from backends.openai.wire import read_answer, read_models
from crucible import Completion, CrucibleError, Prompt, fold
from tests.contract.answer_scenarios import SCENARIOS
from tests.fuzz.mutations import JSON, bounded_memory, fuzzed, mutated, mutated_bytes

PROMPT = Prompt.model_validate({"messages": [{"role": "user", "content": "Hi"}]})


def _chunks(body: bytes) -> list[Any]:
    found = []
    for line in body.split(b"\n"):
        if line.startswith(b"data: "):
            with suppress(ValueError):
                found.append(json.loads(line[6:]))
    return found


def _whole(body: bytes) -> Iterator[Any]:
    with suppress(ValueError, RecursionError):
        yield json.loads(body)


WHOLE = [item for one in SCENARIOS if one.whole for item in _whole(b"".join(one.whole.pieces))]
STREAMS = [_chunks(b"".join(one.streamed.pieces)) for one in SCENARIOS if one.streamed]
BODIES = [b"".join(answer.pieces)[:3000] for one in SCENARIOS for answer in (one.whole, one.streamed) if answer]

FIELDS = ["code", "message", "type", "status", "param", "error", "detail"]


def completed(data: Any) -> Completion:
    """The completion of a whole answer."""
    answer = read_answer(data, "m")
    choices = choices_of(answer)
    usage = usage_of(answer.reported_usage, PROMPT, text_of(choices))
    return completion_of(answer, choices, prompt=PROMPT, model="m", usage=usage, cost=None, began=0.0)


def streamed(chunks: list[Any], complete: bool) -> Completion:
    """The completion of a stream."""
    converter = ChunkConverter(PROMPT, "m")
    events = [event for chunk in chunks for event in converter.events(chunk)]
    events += converter.end_of_stream(complete=complete)
    return fold([*events, *converter.closing_events(usage_of(converter.usage, PROMPT, converter.text), None)])


async def read_body(body: bytes, size: int) -> None:
    """Read a body that arrives in blocks of this size, as the backend does."""

    async def blocks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    found, is_whole = await peeked(blocks())
    if is_whole:
        completed(parsed(b"".join([block async for block in found])))
    else:
        streamed([parsed(data) async for data in event_data(found) if data.strip() != b"[DONE]"], True)


@pytest.fixture(scope="module", autouse=True)
def memory() -> Iterator[None]:
    """Of all tests here."""
    with bounded_memory():
        yield


@fuzzed
@given(JSON | st.sampled_from(WHOLE).flatmap(mutated))
def test_a_whole_answer(data: Any) -> None:
    """It is a completion that can be stored, or an error of the family."""
    try:
        completion = completed(data)
    except CrucibleError as error:
        error.failure().model_dump_json()
    else:
        assert Completion.model_validate_json(completion.model_dump_json()) == completion


@fuzzed
@given(st.sampled_from(STREAMS).flatmap(mutated), st.booleans())
def test_a_stream(chunks: Any, complete: bool) -> None:
    """As a whole answer."""
    try:
        completion = streamed(chunks if isinstance(chunks, list) else [chunks], complete)
    except CrucibleError as error:
        error.failure().model_dump_json()
    else:
        assert Completion.model_validate_json(completion.model_dump_json()) == completion


@fuzzed
@given(st.binary(max_size=200) | st.sampled_from(BODIES).flatmap(mutated_bytes), st.integers(1, 50))
def test_a_body(body: bytes, size: int) -> None:
    """Whole or streamed, in pieces of any size."""

    with suppress(CrucibleError):
        asyncio.run(read_body(body, size))


@fuzzed
@given(
    JSON | st.dictionaries(st.sampled_from(["code", "message", "type", "status", "param", "error", "detail"]), JSON)
)
def test_an_error(data: Any) -> None:
    """Whatever a server calls one."""
    error_in_answer(data, "m").failure().model_dump_json()
    with suppress(CrucibleError):
        read_models(data)
