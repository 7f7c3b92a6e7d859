"""What a backend does not claim is refused before anything is sent; what it claims passes."""

from typing import Any

import pytest

from crucible import Capabilities, InvalidRequest, Prompt, Unsupported, require

PLAIN = {"messages": [{"role": "user", "content": "Hi"}]}
IMAGE = {"type": "image", "url": "https://example.org/a.png"}
BARE = {"backend_id": "small", "provider": "us", "models": ["m"], "default_model": "m", "options": []}

NEEDS: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "tools": ({"tools": [{"name": "a"}]}, "tools", {"supports_tools": True}),
    "images": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, IMAGE]}]},
        "messages[0].content[1]",
        {"supports_vision": True},
    ),
    "audio": (
        {"messages": [{"role": "user", "content": [{"type": "audio", "url": "https://example.org/a.wav"}]}]},
        "messages[0].content[0]",
        {"supports_audio": True},
    ),
    "json": ({"options": {"response_format": "json"}}, "options.response_format", {"supports_json_mode": True}),
    "schema": (
        {"options": {"response_format": "json_schema", "json_schema": {}}},
        "options.response_format",
        {"supports_json_schema": True},
    ),
    "stream": ({"options": {"stream": True}}, "options.stream", {"supports_streaming": True}),
    "thinking": (
        {"options": {"extended_thinking": True}},
        "extended_thinking",
        {"supports_extended_thinking": True},
    ),
    "thinking of an earlier turn": (
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x", "thinking": "y"}]},
        "messages[1].thinking",
        {"supports_thinking_history": True},
    ),
    "resolution of an image": (
        {"messages": [{"role": "user", "content": [{**IMAGE, "detail": "low"}]}]},
        "messages[0].content[0]",
        {"supports_vision": True, "options": ["image_detail"]},
    ),
    "caching": ({"options": {"cache_control": "ephemeral"}}, "cache_control", {"supports_caching": True}),
    "logprobs": ({"options": {"logprobs": True}}, "options.logprobs", {"supports_logprobs": True}),
    "n": ({"options": {"n": 2}}, "options.n", {"supports_n": True}),
    **{
        name: ({"options": {name: value}}, f"options.{name}", {"options": [name]})
        for name, value in {
            "temperature": 0.0,
            "max_tokens": 3,
            "top_p": 0.5,
            "top_k": 2,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.1,
            "stop": ["x"],
            "seed": 0,
            "timeout_ms": 5,
            "extra": {"a": 1},
        }.items()
    },
}


@pytest.mark.parametrize("case", NEEDS)
def test_a_need_is_claimed_or_refused(case: str) -> None:
    """Without the claim: Unsupported, with the field and the backend. With it: nothing."""
    asked, field, claim = NEEDS[case]
    prompt = Prompt.model_validate({**PLAIN, **asked})

    with pytest.raises(Unsupported) as caught:
        require(prompt, Capabilities.model_validate(BARE))
    require(prompt, Capabilities.model_validate({**BARE, **claim}))

    assert field in str(caught.value)
    assert caught.value.backend == "small"


@pytest.mark.parametrize(
    ("asked", "claim", "named"),
    [
        ({"messages": []}, {}, "messages"),
        ({"options": {"model": "x"}}, {}, "options.model: 'x' is not allowed; the models of 'small' are m"),
        ({}, {"default_model": None}, "options.model"),
        ({"options": {"max_tokens": 9}}, {"max_tokens": 8, "options": None}, "at most 8"),
        (
            {"messages": [{"role": "user", "content": [IMAGE, IMAGE]}]},
            {"supports_vision": True, "max_images_per_request": 1},
            "at most 1 images",
        ),
    ],
    ids=["no messages", "unknown model", "no model", "too many tokens", "too many images"],
)
def test_what_is_wrong_for_this_backend_is_invalid(
    asked: dict[str, Any], claim: dict[str, Any], named: str
) -> None:
    """Limits and models are told with what is allowed."""
    prompt = Prompt.model_validate({**PLAIN, **asked})

    with pytest.raises(InvalidRequest) as caught:
        require(prompt, Capabilities.model_validate({**BARE, **claim}))

    assert named in str(caught.value)


def test_other_models_pass_where_they_are_accepted() -> None:
    """The path of a checkpoint is for the backend to judge."""
    prompt = Prompt.model_validate({**PLAIN, "options": {"model": "fake://run/weights/a"}})

    require(prompt, Capabilities.model_validate({**BARE, "accepts_other_models": True}))
