"""The official openai library, unchanged, on a chat server over a trained tinkex model."""

import json
from collections.abc import Iterator

import pytest

from backends.tinkex_dev.server import DevServer
from tests.integration.chat_server.conftest import ASKED, SAID, TOOLS, serving, use

openai = pytest.importorskip("openai")
BAD = openai.BadRequestError


@pytest.fixture
def client(url: str) -> Iterator["openai.OpenAI"]:
    """The client, which repeats nothing."""
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_a_chat_has_the_trained_answer(client: "openai.OpenAI", trained: str) -> None:
    """By either name of the model, with usage, finish reason and request id."""
    for model in ("mine", trained):
        answer = client.chat.completions.create(model=model, messages=ASKED, temperature=0, max_tokens=60)

        assert answer.choices[0].message.content == SAID
        assert (answer.choices[0].finish_reason, answer.model) == ("stop", model)
        assert answer.usage.completion_tokens == len(SAID) + 1
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        assert answer._request_id == answer.id
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].logprobs is None


def test_a_stream_adds_up_to_the_answer(client: "openai.OpenAI") -> None:
    """Chunks of one id, the role first, the reason once, and the usage at the end if asked for."""
    chunks = list(
        client.chat.completions.create(
            model="mine",
            messages=ASKED,
            temperature=0,
            max_tokens=60,
            n=2,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    whole = client.chat.completions.create(model="mine", messages=ASKED, temperature=0, max_tokens=60, n=2)

    for index in range(2):
        parts = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert parts[0].delta.role == "assistant"
        assert all(part.delta.role is None for part in parts[1:])
        assert "".join(part.delta.content or "" for part in parts) == SAID
        assert [part.finish_reason for part in parts if part.finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].usage == whole.usage
    without = client.chat.completions.create(model="mine", messages=ASKED, temperature=0, max_tokens=4, stream=True)
    assert all(chunk.usage is None and chunk.choices for chunk in without)
    with pytest.raises(BAD, match="stream_options") as caught:
        client.chat.completions.create(model="mine", messages=ASKED, stream_options={"include_usage": True})
    assert "needs stream" in caught.value.message


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_is_called_and_its_result_is_taken(client: "openai.OpenAI", stream: bool) -> None:
    """The client's own record of the call goes back as it is, with the result."""
    asked = {"model": "mine", "messages": ASKED, "tools": TOOLS, "temperature": 0, "max_tokens": 100}
    if stream:
        with client.chat.completions.stream(**asked) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**asked).choices[0]

    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function",
        "go",
        {"to": "Bonn"},
    )
    result = {"role": "tool", "tool_call_id": call.id, "content": "arrived"}
    went_on = client.chat.completions.create(
        **{**asked, "messages": [*ASKED, choice.message.model_dump(exclude={"parsed"}), result], "max_tokens": 3}
    )
    assert went_on.usage.prompt_tokens > len("arrived") + len(json.dumps(TOOLS))


def test_n_answers_differ_by_their_numbers(client: "openai.OpenAI") -> None:
    """And with a seed they are the same again."""
    asked = {"model": "tiny-lm", "messages": ASKED, "temperature": 1, "seed": 3, "n": 4, "max_tokens": 12}
    first, second = client.chat.completions.create(**asked), client.chat.completions.create(**asked)

    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in second.choices]


@pytest.mark.parametrize("stop", [", to", [", to", "Never"]])
def test_a_stop_sequence_ends_the_answer(client: "openai.OpenAI", stop: object) -> None:
    """Before its text."""
    answer = client.chat.completions.create(model="mine", messages=ASKED, temperature=0, max_tokens=60, stop=stop)

    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Off we go", "stop")


def test_a_limit_of_tokens_cuts_the_answer(client: "openai.OpenAI") -> None:
    """By both of its names."""
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(model="mine", messages=ASKED, temperature=0, **{name: 3})

        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (SAID[:3], "length")


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_each_token(client: "openai.OpenAI", stream: bool) -> None:
    """With the most likely ones beside it; a model that learned its answer is sure of it."""
    asked = {"model": "mine", "messages": ASKED, "temperature": 0, "max_tokens": 8, "logprobs": True}
    answers = client.chat.completions.create(**asked, top_logprobs=2, stream=stream)
    choices = [answers.choices[0]] if not stream else [choice for chunk in answers for choice in chunk.choices]
    tokens = [token for choice in choices if choice.logprobs for token in choice.logprobs.content]

    assert "".join(token.token for token in tokens) == SAID[:8]
    assert [bytes(token.bytes).decode() for token in tokens] == list(SAID[:8])
    assert all(-0.5 < token.logprob <= 0 for token in tokens)
    assert all(token.top_logprobs[0].token == token.token and len(token.top_logprobs) == 2 for token in tokens)


def test_the_models_are_listed(client: "openai.OpenAI", trained: str) -> None:
    """Each once, by its first name; every name that is accepted can be looked up."""
    assert [model.id for model in client.models.list()] == ["mine", "tiny-lm"]
    assert client.models.retrieve("mine").owned_by == "tinkex"
    assert client.models.retrieve(trained).id == trained
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


ERRORS = {
    "unknown model": ({"model": "minne"}, openai.NotFoundError, "model", "did you mean mine?"),
    "no messages": ({"messages": []}, BAD, "messages", "messages"),
    "bad role": ({"messages": [{"role": "king", "content": "x"}]}, BAD, "messages[0].role", ""),
    "bad temperature": ({"temperature": -1}, BAD, "temperature", "temperature: -1"),
    "too many answers": ({"n": 129}, BAD, "n", "128"),
    "too many tokens": ({"max_tokens": 10**7}, BAD, "max_tokens", "max_tokens: Input should be less than"),
    "no stop": ({"stop": ""}, BAD, "stop", "must not be empty"),
    "tops alone": ({"top_logprobs": 2}, BAD, "top_logprobs", "needs logprobs"),
    "two limits": (
        {"max_tokens": 2, "max_completion_tokens": 3},
        openai.BadRequestError,
        "max_completion_tokens",
        "give one",
    ),
    "unknown field": ({"extra_body": {"temprature": 1}}, BAD, "temprature", "mean temperature?"),
    "unsupported": ({"presence_penalty": 1.0}, BAD, "presence_penalty", "does not support"),
    "required tool": (
        {"tools": TOOLS, "tool_choice": "required"},
        openai.BadRequestError,
        "tool_choice",
        "nothing makes a model call a tool",
    ),
    "kept answers": ({"store": True}, BAD, "store", "store"),
    "bias": ({"logit_bias": {"1": 2}}, BAD, "logit_bias", "logit_bias"),
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", ERRORS)
def test_an_error_has_the_form_of_the_api(client: "openai.OpenAI", case: str, stream: bool) -> None:
    """The library's own class for it, with the field and what is allowed, also where a stream was asked for."""
    change, kind, param, text = ERRORS[case]
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": "mine", "messages": ASKED, "stream": stream, **change})

    assert caught.value.param == param
    assert text in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_a_key_of_its_own(dev_server: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the key it answers; without, or with another, nothing is answered, and the key is not quoted."""
    use(dev_server, monkeypatch)
    with serving("tinkex", {"mine": "tiny-lm"}, key="sesame-42-open") as url:
        with openai.OpenAI(base_url=url, api_key="sesame-42-open", max_retries=0) as right:
            assert [model.id for model in right.models.list()] == ["mine"]
        for wrong in ("sesame-42-opem", "x"):
            with (
                openai.OpenAI(base_url=url, api_key=wrong, max_retries=0) as refused,
                pytest.raises(openai.AuthenticationError) as caught,
            ):
                refused.models.list()
            assert caught.value.code == "invalid_api_key"
            assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("out_of_credit", openai.RateLimitError, "out_of_credit"),
        ("wrong_key", openai.PermissionDeniedError, "authentication_failed"),
    ],
)
def test_a_failure_of_the_service_has_its_own_status(
    dev_server: DevServer,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    kind: type[Exception],
    code: str,
    stream: bool,
) -> None:
    """One that says whose fault it is: 401 would be about the key of the client."""
    use(dev_server, monkeypatch)
    if fault == "wrong_key":
        monkeypatch.setenv("TINKER_API_KEY", "other-key-of-ours")
    with (
        serving("tinkex", {"mine": "tiny-lm"}) as url,
        openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client,
    ):
        if fault == "out_of_credit":
            dev_server.fault(kind="out_of_credit")
        try:
            with pytest.raises(kind) as caught:
                client.chat.completions.create(model="mine", messages=ASKED, stream=stream)
        finally:
            dev_server.clear_faults()
        assert caught.value.code == code
        assert "other-key-of-ours" not in str(caught.value)
