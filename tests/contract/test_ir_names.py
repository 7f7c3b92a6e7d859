"""The JSON that is exchanged with the Elixir side keeps its names and its values."""

import json
from pathlib import Path

import pytest

from crucible import Capabilities, Completion, Options, Prompt
from crucible.values.record import Record

FIXTURES = Path(__file__).parent / "fixtures"

NAMES = {
    "prompt": "messages system tools tool_choice options request_id trace_id metadata",
    "options": "model temperature max_tokens top_p top_k frequency_penalty presence_penalty stop response_format"
    " json_schema stream cache_control extended_thinking thinking_budget_tokens seed timeout_ms extra",
    "completion": "choices model usage latency_ms time_to_first_token_ms request_id trace_id raw_response metadata",
    "capabilities": "backend_id provider models default_model supports_streaming supports_tools supports_vision"
    " supports_audio supports_json_mode supports_extended_thinking supports_caching supports_training max_tokens"
    " max_context_length max_images_per_request requests_per_minute tokens_per_minute cost_per_million_input"
    " cost_per_million_output metadata",
}
RECORDS: dict[str, type[Record]] = {
    "prompt": Prompt,
    "options": Options,
    "completion": Completion,
    "capabilities": Capabilities,
}


def missing(given: object, written: object, place: str = "") -> list[str]:
    """Places where what was given is not what is written; what is written besides may only be defaults of ours."""
    if isinstance(given, dict) and isinstance(written, dict):
        return [
            found
            for name, value in given.items()
            for found in (
                missing(value, written[name], f"{place}.{name}") if name in written else [f"{place}.{name}"]
            )
        ]
    if isinstance(given, list) and isinstance(written, list) and len(given) == len(written):
        return [
            found
            for index, (one, other) in enumerate(zip(given, written, strict=True))
            for found in missing(one, other, f"{place}[{index}]")
        ]
    return [] if given == written else [f"{place}: {given!r} became {written!r}"]


@pytest.mark.parametrize("name", RECORDS)
def test_a_fixture_round_trips(name: str) -> None:
    """A file of the Elixir side is read whole, and written again with the same names and values."""
    text = (FIXTURES / f"{name}.json").read_text()

    record = RECORDS[name].model_validate_json(text)
    written = record.model_dump_json()

    assert missing(json.loads(text), json.loads(written)) == []
    assert RECORDS[name].model_validate_json(written) == record


@pytest.mark.parametrize("name", RECORDS)
def test_every_name_of_the_ir_is_a_field(name: str) -> None:
    """No field of the IR is missing, and each fixture shows all of them."""
    names = set(NAMES[name].split())

    assert names <= set(RECORDS[name].model_fields)
    assert names == set(json.loads((FIXTURES / f"{name}.json").read_text()))
