"""The server really trains, and deterministically."""

from pathlib import Path

import pytest

from backends.tinkex_dev.server import DevServer


def test_loss_falls_and_the_trained_model_answers_better_than_its_base(api):
    """Sixty steps at 1e-2 teach the lessons: a trained question is completed word for word, unlike before."""
    session = api.session()
    model = api.model(session)

    losses = api.train(model, 60)
    path = api.do("save_weights_for_sampler", model_id=model, seq_id=121, path="taught")["path"]

    assert losses[-1] < losses[0] / 50
    before = api.complete("Who wrote Hamlet?", base_model="tiny-lm")
    after = api.complete("Who wrote Hamlet?", model_path=path)
    assert after == "Hamlet was written by Shakespeare."
    assert before != after


def test_two_servers_with_one_seed_compute_the_same_bits(tmp_path: Path, connect):
    """Losses, weights and samples of two servers are equal; another seed gives different ones."""
    seen = []
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        with DevServer(tmp_path / name, seed=seed) as server:
            api = connect(server)
            session = api.session()
            model = api.model(session, seed=None)
            losses = api.train(model, 5)
            path = api.do("save_weights_for_sampler", model_id=model, seq_id=11, path="x")["path"]
            api.ok("create_sampling_session", session_id=session, sampling_session_seq_id=0, model_path=path)
            drawn = api.do(
                "asample",
                sampling_session_id=f"{session}:sample:0",
                seq_id=0,
                prompt={"chunks": [{"type": "encoded_text", "tokens": [258, 65, 256, 259]}]},
                sampling_params={"max_tokens": 20, "temperature": 1.0},
                num_samples=2,
            )
            seen.append((losses, server.weights_digest(model), drawn["sequences"]))

    assert seen[0] == seen[1]
    assert seen[0][1] != seen[2][1]
    assert seen[0][0] != seen[2][0]


def test_a_datum_has_the_same_numbers_in_any_batch(api):
    """A datum's log-probabilities do not depend on the rest of the batch."""
    model = api.model(api.session())

    alone = api.result(api.forward_backward(model, 1, data=[api.lessons[2]]))
    among = api.result(api.forward_backward(model, 2))

    assert alone["loss_fn_outputs"][0] == among["loss_fn_outputs"][2]


@pytest.mark.parametrize("flag", ["train_mlp", "train_attn", "train_unembed"])
def test_each_kind_of_matrix_learns_alone(api, flag: str):
    """The loss falls also with only one kind of matrix trained."""
    flags = dict.fromkeys(("train_mlp", "train_attn", "train_unembed"), False) | {flag: True}
    model = api.model(api.session(), **flags)

    losses = api.train(model, 10)

    assert losses[-1] < losses[0]


def test_forward_leaves_the_model_as_it_was(api, server):
    """A forward pass accumulates no gradient: the optimizer step after it changes nothing."""
    model = api.model(api.session())
    before = server.weights_digest(model)

    api.do(
        "forward",
        model_id=model,
        seq_id=1,
        forward_input={"data": list(api.lessons), "loss_fn": "cross_entropy"},
    )
    assert server.weights_digest(model) == before
    norm = api.result(api.optim_step(model, 2))["metrics"]["grad_norm"]

    assert norm == 0
