"""Sampling over the wire."""

import math

import pytest

PROMPT = {"chunks": [{"type": "encoded_text", "tokens": [258, *b"Who wrote Hamlet?", 256, 259]}]}


@pytest.fixture
def taught(api) -> str:
    """A sampler checkpoint that knows its lessons."""
    model = api.model(api.session())
    api.train(model, 40)
    return api.do("save_weights_for_sampler", model_id=model, seq_id=81, path="taught")["path"]


def drawn(api, path: str, count: int = 1, **params):
    body = {"prompt": PROMPT, "num_samples": count, "sampling_params": params}
    return api.do("asample", model_path=path, **body)["sequences"]


def test_a_greedy_answer_ends_with_its_turn(api, taught):
    """Temperature zero selects the most likely token, up to and including the end of turn."""
    [sequence] = drawn(api, taught, temperature=0, max_tokens=60)

    assert bytes(sequence["tokens"][:-1]) == b"Hamlet was written by Shakespeare."
    assert (sequence["tokens"][-1], sequence["stop_reason"]) == (256, "stop")
    assert all(value <= 0 for value in sequence["logprobs"])


@pytest.mark.parametrize(("stop", "end"), [(["was"], b"Hamlet was"), ("w", b"Hamlet w"), ([ord("t")], b"Hamlet")])
def test_stop_texts_and_tokens(api, taught, stop, end: bytes):
    """Sampling ends with the stop, which is included in the answer."""
    [sequence] = drawn(api, taught, temperature=0, max_tokens=60, stop=stop)

    assert bytes(sequence["tokens"]) == end
    assert sequence["stop_reason"] == "stop"


def test_an_empty_stop_list_stops_nowhere(api, taught):
    """Not even the end of turn ends it: ``max_tokens`` tokens are sampled."""
    [sequence] = drawn(api, taught, temperature=0, max_tokens=50, stop=[])

    assert len(sequence["tokens"]) == 50
    assert sequence["stop_reason"] == "length"


def test_a_seed_fixes_each_sequence(api, taught):
    """The same seed gives the same sequences, for any number of them; another seed gives different ones."""
    params = {"temperature": 3.0, "max_tokens": 20}

    two = drawn(api, taught, 2, seed=5, **params)
    three = drawn(api, taught, 3, seed=5, **params)
    other = drawn(api, taught, 2, seed=6, **params)

    assert two == three[:2]
    assert two[0] != two[1]
    assert two != other


@pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 1e-6}], ids=["top_k", "top_p"])
def test_narrowed_to_one_token_sampling_is_greedy(api, taught, narrow):
    """Any temperature then gives the greedy answer."""
    [greedy] = drawn(api, taught, temperature=0, max_tokens=30)
    [sequence] = drawn(api, taught, temperature=5.0, max_tokens=30, **narrow)

    assert sequence["tokens"] == greedy["tokens"]


def test_prompt_scores_agree_with_training(api, taught):
    """Prompt log-probabilities equal those of a forward pass with the same weights, None for the first."""
    result = api.do(
        "asample",
        model_path=taught,
        prompt=PROMPT,
        sampling_params={"max_tokens": 1},
        prompt_logprobs=True,
        topk_prompt_logprobs=2,
    )

    scores, tops = result["prompt_logprobs"], result["topk_prompt_logprobs"]
    assert len(scores) == len(PROMPT["chunks"][0]["tokens"])
    assert (scores[0], tops[0]) == (None, None)
    assert all(math.isfinite(value) and value <= 0 for value in scores[1:])
    assert all(len(top) == 2 and top[0][1] >= top[1][1] for top in tops[1:])
    assert all(score <= top[0][1] for score, top in zip(scores[1:], tops[1:], strict=True))


def test_a_snapshot_keeps_the_weights_of_its_moment(api):
    """Weights saved for one sampling session do not change as training continues."""
    session = api.session()
    model = api.model(session)
    api.train(model, 40)
    made = api.do("save_weights_for_sampler", model_id=model, seq_id=81, sampling_session_seq_id=7)
    sampler = made["sampling_session_id"]
    before = api.complete("Name a color.", sampling_session_id=sampler, seq_id=0)
    api.result(api.optim_step(model, 82, learning_rate=0.5))

    after = api.complete("Name a color.", sampling_session_id=sampler, seq_id=1)

    assert sampler == f"{session}:sample:7"
    assert before == after == "Red is a color."


def test_a_training_checkpoint_is_not_for_sampling(api):
    """400, with the supported names."""
    model = api.model(api.session())
    path = api.do("save_weights", model_id=model, seq_id=1, path="a")["path"]

    refused = api.call("asample", model_path=path, prompt=PROMPT, sampling_params={})

    assert refused.status_code == 400
    assert "save_weights_for_sampler" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_prompt_logprobs", {"data": [1, 2], "dtype": "int64", "shape": [2, 1]}),
        ("target_prompt_logprobs", {"data": [1.0] * 3, "dtype": "float32", "shape": [3, 1]}),
        ("target_prompt_logprobs", {"data": [320] * 3, "dtype": "int64", "shape": [3, 1]}),
        ("prompt_logprobs_last_n", 2),
        ("record_stability_info", True),
        ("sampling_params", {"seed": -7}),
        ("beam_width", 4),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(api, field, value):
    """422 names the field; nothing is silently ignored. A negative seed is not the positive one."""
    body = {"base_model": "tiny-lm", "prompt": PROMPT, "sampling_params": {}} | {field: value}
    refused = api.call("asample", **body)

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"][:2] == ["body", field]
