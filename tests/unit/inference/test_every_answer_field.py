"""Every field of a backend's answer is in the result of an inference job and in the rows of a batch.

A new field fails here until the answer below has it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from crucible import Completion, Prompt
from crucible.prompt import AudioPart, ImagePart, ToolResultPart
from nsai_work.inference import pin_prompts
from nsai_work.payloads import DataSource, Inference
from tests.inference_rig import Echo, run
from tests.unit.openai.test_every_prompt_field import models

OTHER = {"token": "b", "token_id": 6, "logprob": -1.5}
ANSWER: dict[str, Any] = {
    "choices": [
        {
            "index": 1,
            "message": {
                "role": "assistant",
                "content": [{"type": "text", "text": "Ho"}],
                "thinking": "Hm",
                "refusal": "No",
                "name": "ann",
                "tool_calls": [{"id": "c1", "name": "add", "arguments": {"x": 1}}],
            },
            "finish_reason": "stop",
            "raw_finish_reason": "eos",
            "thinking": {"content": "Hm", "tokens": 1},
            "logprobs": [
                {
                    "token": "a",
                    "token_id": 5,
                    "logprob": -0.5,
                    "top": [{"token": "b", "token_id": 6, "logprob": -1.5}],
                }
            ],
            "tokens": [5],
        }
    ],
    "model": "m",
    "usage": {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "thinking_tokens": 1,
        "cached_tokens": 2,
        "source": "estimated",
    },
    "latency_ms": 5.0,
    "time_to_first_token_ms": 2.5,
    "request_id": "r",
    "trace_id": "t",
    "cost": 0.5,
    "raw_response": {"x": 1},
    "metadata": {"y": 2},
}
"""An answer with every field that a backend can set."""

NOT_IN_ANSWERS = {ImagePart, AudioPart, ToolResultPart}
"""Parts of a user's message."""
NOT_SET = {"Message.tool_call_id"}
"""It is of a tool's message."""


class Full(Echo):
    """A backend whose answer has every field."""

    async def complete(self, prompt: Prompt) -> Completion:
        return Completion.model_validate(ANSWER)


def names(record: BaseModel) -> set[str]:
    """The fields that are set in a record and in the records inside it."""
    found = {f"{type(record).__name__}.{name}" for name in record.model_fields_set}
    for name in type(record).model_fields:
        value = getattr(record, name)
        for item in value if isinstance(value, tuple) else [value]:
            if isinstance(item, BaseModel):
                found |= names(item)
    return found


def test_the_answer_has_every_field() -> None:
    """Of every model that an answer consists of."""
    kinds = [kind for kind in models(Completion) if kind not in NOT_IN_ANSWERS]
    fields = {f"{kind.__name__}.{name}" for kind in kinds for name in kind.model_fields}
    assert fields - NOT_SET == names(Completion.model_validate(ANSWER))


def test_the_result_of_a_job_has_every_field_of_the_answer() -> None:
    """As it came."""
    prompt = Prompt.model_validate({"messages": [{"role": "user", "content": "1"}]})
    assert Completion.model_validate(run(Inference(prompt=prompt), Full())["result"]) == Completion.model_validate(
        ANSWER
    )


@pytest.mark.parametrize("count", [1, 3])
def test_the_rows_of_a_batch_have_every_field_of_their_answers(tmp_path: Path, count: int) -> None:
    """As it came."""
    source, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    source.write_text('{"prompt": "1"}\n' * count)
    run(Inference(input=pin_prompts(DataSource(path=str(source))), output=str(output)), Full())
    answers = [json.loads(line)["completion"] for line in output.read_text().splitlines()]
    assert [Completion.model_validate(answer) for answer in answers] == [Completion.model_validate(ANSWER)] * count
