"""The newest part of the API: sequences, spans, traced losses, optimizers, inflight samplers, exports, usage."""

import copy
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest

from backends.tinkex_dev.server import DevServer
from backends.tinkex_dev.service.sequences import LIFE_S
from backends.tiny_lm import safetensors

PROMPT = [258, 72, 105, 256, 259]
PARAMS = {"max_tokens": 6, "seed": 3}


def tensor(data: list[Any], dtype: str = "float32") -> dict[str, Any]:
    return {"data": data, "dtype": dtype, "shape": [len(data)]}


class Rollout:
    """One sampled sequence, and the datum that trains on it."""

    def __init__(self, api: Any, sampler: str, seq_id: int = 0, **extra: Any) -> None:
        prompt = {"chunks": [{"type": "encoded_text", "tokens": PROMPT}]}
        body = {"prompt": prompt, "sampling_params": PARAMS, "record_stability_info": True} | extra
        receipt = api.ok("asample", sampling_session_id=sampler, seq_id=seq_id, **body)
        [self.id] = receipt["sample_sequence_ids"]
        [found] = api.result(receipt)["sequences"]
        self.tokens, self.logprobs = found["tokens"], found["logprobs"]

    def span(self, kind: str, offset: int, length: int) -> dict[str, Any]:
        return {"type": f"{kind}_tokens", "sequence_id": self.id, "offset": offset, "length": length}

    def datum(self, advantage: float = 1.0) -> dict[str, Any]:
        whole, unsampled = [*PROMPT, *self.tokens], len(PROMPT) - 1
        count = len(self.tokens)
        return {
            "model_input": {"chunks": [{"type": "encoded_text", "tokens": whole[:-1]}]},
            "loss_fn_inputs": {
                "target_tokens": tensor(whole[1:], "int64"),
                "logprobs": tensor([0.0] * unsampled + self.logprobs),
                "advantages": tensor([0.0] * unsampled + [advantage] * count),
            },
            "model_input_spans": [self.span("prompt", 0, len(PROMPT)), self.span("sampled", 0, count - 1)],
            "loss_fn_input_spans": [self.span("prompt", 1, unsampled), self.span("sampled", 0, count)],
        }


class Trainee:
    """A session, its model, and a sampler of it."""

    def __init__(self, api: Any, **options: Any) -> None:
        self.api = api
        self.session = api.session()
        self.model = api.do(
            "create_model", session_id=self.session, model_seq_id=0, base_model="tiny-lm",
            lora_config={"rank": 4, "seed": 0}, **options,
        )["model_id"]  # fmt: skip
        self.seq_id = 0

    def next(self) -> dict[str, Any]:
        self.seq_id += 1
        return {"model_id": self.model, "seq_id": self.seq_id}

    def sampler(self, number: int = 0, kind: str = "snapshot") -> str:
        body = {"sampling_session_seq_id": number, "kind": kind}
        return self.api.do("save_weights_for_sampler", **self.next(), **body)["sampling_session_id"]

    def send(self, datum: dict[str, Any], loss: str, config: dict[str, Any] | None = None) -> httpx.Response:
        batch = {"data": [datum], "loss_fn": loss, "loss_fn_config": config}
        return self.api.call("forward_backward", **self.next(), forward_backward_input=batch)

    def train(self, datum: dict[str, Any], loss: str, config: dict[str, Any] | None = None) -> dict[str, float]:
        sent = self.send(datum, loss, config)
        assert sent.status_code == 200, sent.text
        return self.api.result(sent.json())["metrics"]


@pytest.fixture
def trainee(api) -> Trainee:
    return Trainee(api)


def test_stable_reinforce_trains_on_recorded_sequences_and_says_that_it_is_a_stand_in(api, trainee):
    """By its stand-in formula; the answer and the capabilities say so."""
    rollout = Rollout(api, trainee.sampler())

    metrics = trainee.train(rollout.datum(), "stable_reinforce", {"kl_coeff": 0.5})

    assert metrics["loss:sum"] == pytest.approx(-sum(rollout.logprobs), rel=1e-4)
    assert metrics["stable_reinforce_stand_in:max"] == 1.0
    assert {"stable_reinforce", "dimuon"} <= api.http.get("get_server_capabilities").json()["stand_ins"].keys()


def test_sequences_last_a_day_from_their_last_use_and_no_longer_than_their_session(tmp_path, connect):
    """Each training request starts the day again; another session cannot use them."""
    with DevServer(tmp_path / "patient", session_ttl_s=1e9) as server:
        api = connect(server)
        trainee = Trainee(api)
        rollout = Rollout(api, trainee.sampler())
        assert Trainee(api).send(rollout.datum(), "stable_reinforce").status_code == 422
        for _ in range(2):
            server.clock.ahead_s += LIFE_S - 60
            trainee.train(rollout.datum(), "stable_reinforce")
        server.clock.ahead_s += LIFE_S + 1

        refused = trainee.send(rollout.datum(), "stable_reinforce")

    assert refused.status_code == 422
    assert "expired" in refused.json()["detail"][0]["msg"]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda datum: datum["model_input_spans"].pop(), id="not covered"),
        pytest.param(lambda datum: datum.pop("model_input_spans"), id="one list alone"),
        pytest.param(lambda datum: datum["loss_fn_input_spans"][1].update(length=5), id="too short"),
        pytest.param(lambda datum: datum["loss_fn_input_spans"][1].update(length=-1), id="negative"),
    ],
)
@pytest.mark.parametrize("loss", ["importance_sampling", "stable_reinforce"])
def test_spans_that_do_not_cover_are_refused_with_every_loss(api, trainee, loss, spoil):
    """Sums of lengths and pairs count for each loss; good spans are taken with each."""
    datum = Rollout(api, trainee.sampler()).datum()
    trainee.train(datum, loss)
    spoil(datum)

    assert trainee.send(datum, loss).status_code == 422


def test_spans_are_part_of_a_request_and_their_tokens_are_compared(api, trainee):
    """Under one seq_id other spans are another request; a span of other tokens is refused."""
    sampler = trainee.sampler()
    rollout, other = Rollout(api, sampler), Rollout(api, sampler, 1, sampling_params=PARAMS | {"seed": 4})
    trainee.train(rollout.datum(), "importance_sampling")
    trainee.seq_id -= 1
    datum = rollout.datum()
    datum["loss_fn_input_spans"][1]["sequence_id"] = other.id

    assert trainee.send(datum, "importance_sampling").status_code == 409
    refused = trainee.send(datum, "stable_reinforce")
    assert "other tokens" in refused.json()["detail"][0]["msg"]


def test_the_targets_of_a_prompt_are_not_compared_but_its_length_is(api, trainee):
    """As the cookbook fills them, with zeros; the sampled targets and the input are compared."""
    rollout = Rollout(api, trainee.sampler())
    expected = trainee.train(rollout.datum(), "stable_reinforce")["loss:sum"]
    zeros, long, wrong = rollout.datum(), rollout.datum(), rollout.datum()
    targets = zeros["loss_fn_inputs"]["target_tokens"]["data"]
    targets[: len(PROMPT) - 1] = [0] * (len(PROMPT) - 1)
    long["loss_fn_input_spans"][0]["offset"] = 2
    wrong["loss_fn_inputs"]["target_tokens"]["data"][-1] = 1

    assert trainee.train(zeros, "stable_reinforce")["loss:sum"] == pytest.approx(expected)
    for datum, problem in ((long, "beyond the prompt"), (wrong, "other tokens")):
        refused = trainee.send(datum, "stable_reinforce")
        assert refused.status_code == 422
        assert problem in refused.json()["detail"][0]["msg"]


def test_gspo_has_one_ratio_for_the_sequence_and_thresholds_may_be_per_token(api, trainee):
    """All ratios are clipped alike; a threshold as an input and as a setting at once is refused."""
    rollout = Rollout(api, trainee.sampler())
    datum = rollout.datum()
    rows, count = len(PROMPT) - 1, len(rollout.tokens)
    datum["loss_fn_inputs"]["sequence_ratio_mask"] = tensor([0.0] * rows + [1.0] * count)
    datum["loss_fn_inputs"]["logprobs"] = tensor([0.0] * rows + [value - 1.0 for value in rollout.logprobs])

    clipped = trainee.train(datum, "gspo", {"clip_high_threshold": 1.5})
    datum["loss_fn_inputs"]["clip_high_threshold"] = tensor([1.0] * rows + [2.0] * count)
    per_token = trainee.train(datum, "gspo")

    assert clipped["loss:sum"] == pytest.approx(-1.5 * count)
    assert per_token["loss:sum"] == pytest.approx(-2.0 * count)
    assert trainee.send(datum, "gspo", {"clip_high_threshold": 1.5}).status_code == 422
    datum["loss_fn_inputs"]["sequence_ratio_mask"] = tensor([0.0] * (rows + count))
    assert trainee.send(datum, "gspo").status_code == 422


def test_gspo_without_a_mask_takes_the_rows_that_were_sampled_and_says_that_it_is_a_stand_in(api, trainee):
    """As with a mask of these rows; where neither says which tokens they are, the request is refused."""
    rollout = Rollout(api, trainee.sampler())
    datum = rollout.datum()
    rows, count = len(PROMPT) - 1, len(rollout.tokens)
    datum["loss_fn_inputs"]["logprobs"] = tensor([3.0] * rows + [value - 0.1 for value in rollout.logprobs])
    masked = copy.deepcopy(datum)
    masked["loss_fn_inputs"]["sequence_ratio_mask"] = tensor([0.0] * rows + [1.0] * count)
    untraced = {name: value for name, value in datum.items() if not name.endswith("_spans")}

    derived, given = trainee.train(datum, "gspo"), trainee.train(masked, "gspo")

    assert derived.pop("gspo_mask_stand_in:max") == 1.0
    assert derived == given
    assert "gspo without sequence_ratio_mask" in api.http.get("get_server_capabilities").json()["stand_ins"]
    refused = trainee.send(untraced, "gspo")
    assert refused.status_code == 422
    assert "required by gspo" in refused.json()["detail"][0]["msg"]


def graph(target: str = "operator.mul") -> dict[str, Any]:
    """``-(logprobs * advantages).sum()``, with a metric."""
    product = [{"ref": "logprobs"}, {"ref": "advantages"}]
    nodes = [
        {"op": "placeholder", "name": "logprobs", "target": "logprobs"},
        {"op": "placeholder", "name": "advantages", "target": "advantages"},
        {"op": "call_function", "name": "mul", "target": target, "args": product},
        {"op": "call_method", "name": "sum_1", "target": "sum", "args": [{"ref": "mul"}]},
        {"op": "call_function", "name": "neg", "target": "operator.neg", "args": [{"ref": "sum_1"}]},
        {
            "op": "output", "name": "output", "target": "output",
            "args": [{"tuple": [{"ref": "neg"}, {"dict": {"custom/gain:mean": {"ref": "sum_1"}}}]}],
        },
    ]  # fmt: skip
    return {"format": 1, "nodes": nodes}


def test_a_traced_loss_runs_in_its_session(api, trainee):
    """Its value and metric; another session's loss and an operation that is not listed are refused by name."""
    inputs = [{"name": "logprobs", "rank": 1}, {"name": "advantages", "rank": 1}]
    body = {"session_id": trainee.session, "custom_loss_seq_id": 0, "name": "gain", "inputs": inputs}
    rollout = Rollout(api, trainee.sampler())
    datum = rollout.datum()
    del datum["loss_fn_inputs"]["logprobs"]

    loss_id = api.do("create_custom_loss", **body, graph=graph())["loss_id"]
    metrics = trainee.train(datum, "custom", {"loss_id": loss_id})
    refused = api.call("create_custom_loss", **body | {"custom_loss_seq_id": 1}, graph=graph("torch.load"))

    assert api.do("create_custom_loss", **body, graph=graph())["loss_id"] == loss_id
    assert metrics["custom/gain:mean"] == pytest.approx(sum(rollout.logprobs), rel=1e-4)
    assert metrics["loss:sum"] == pytest.approx(-metrics["custom/gain:mean"])
    assert refused.status_code == 422
    assert "'torch.load' is not supported" in refused.json()["detail"][0]["msg"]
    assert api.call("create_custom_loss", **body | {"name": "other"}, graph=graph()).status_code == 409
    assert Trainee(api).send(datum, "custom", {"loss_id": loss_id}).status_code == 422


def test_a_model_keeps_its_optimizer(api):
    """Dimuon trains, says its name everywhere, and is restored; Adam's parameters are refused."""
    trainee = Trainee(api, optimizer_config={"type": "dimuon", "version": 1})
    dimuon = {"optimizer_params": {"type": "dimuon", "learning_rate": 0.02}}
    assert api.call("optim_step", **trainee.next(), adam_params={}).status_code == 422

    losses = []
    for _ in range(3):
        passed = api.do(
            "forward_backward", **trainee.next(),
            forward_backward_input={"data": list(api.lessons), "loss_fn": "cross_entropy"},
        )  # fmt: skip
        losses.append(passed["metrics"]["loss:sum"])
        api.do("optim_step", **trainee.next(), **dimuon)
    saved = api.do("save_weights", **trainee.next(), path="a")["path"]
    load = {"session_id": trainee.session, "model_seq_id": 1, "path": saved}
    restored = api.do("load_weights", **load, optimizer=True)["model_id"]
    cold = api.do("load_weights", **load | {"model_seq_id": 2}, optimizer=False)["model_id"]

    assert losses[-1] < losses[0]
    families = [api.ok("get_info", model_id=one)["optimizer_config"]["type"] for one in (restored, cold)]
    assert families == ["dimuon", "adamw"]
    assert api.ok("weights_info", tinker_path=saved)["optimizer_config"]["type"] == "dimuon"
    refused = api.call(
        "load_weights", **load | {"model_seq_id": 3}, optimizer=True, optimizer_config={"type": "adamw"}
    )
    assert refused.status_code == 422


def test_inflight_samplers_move_and_snapshots_stay(api, trainee):
    """A later inflight save moves the earlier inflight sampler; the snapshot of then samples as before."""
    inflight, snapshot = trainee.sampler(0, "inflight"), trainee.sampler(1)
    greedy = {"sampling_params": {"max_tokens": 12, "temperature": 0}}
    before = [Rollout(api, sampler, 0, **greedy).tokens for sampler in (inflight, snapshot)]
    api.train(trainee.model, 8, first_seq=trainee.seq_id + 1)
    trainee.seq_id += 16
    later = trainee.sampler(2, "inflight")

    after = [Rollout(api, sampler, 1, **greedy).tokens for sampler in (inflight, snapshot, later)]

    assert before[0] == before[1] == after[1] != after[0]
    assert after[2] == after[0]
    api.http.delete(f"samplers/{snapshot}")
    assert api.http.get(f"samplers/{snapshot}").status_code == 404


def test_external_weights_are_files_behind_signed_urls_that_expire(api, server, trainee):
    """The adapter in PEFT's names; listed as external, deleted like any checkpoint."""
    saved = api.do("save_weights_external", **trainee.next(), path="export")
    place = f"training_runs/{trainee.model}/checkpoints/external_weights/export"

    found = api.http.get(f"{place}/external_weights_urls").json()
    files = {name: httpx.get(url, trust_env=False).content for name, url in found["urls"].items()}
    server.clock.ahead_s += 3601
    late = httpx.get(found["urls"]["adapter_config.json"], trust_env=False)

    assert saved["path"] == f"tinker://{trainee.model}/external_weights/export"
    assert saved["size_bytes"] == sum(map(len, files.values()))
    weights = safetensors.unpack(files["adapter_model.safetensors"])
    assert weights["base_model.model.unembed.lora_A.weight"].shape == (4, 128)
    assert late.status_code == 403
    api.http.delete(place)
    assert api.http.get(f"{place}/external_weights_urls").status_code == 404


def test_chosen_and_alternative_tokens_of_a_prompt(api, trainee):
    """Scores of chosen ids, dense and sparse, are those of the top-k table; alternatives are scored by it too."""
    rows = len(PROMPT) - 1
    dense = {"data": [PROMPT[1], -1] * rows, "dtype": "int64", "shape": [rows, 2]}
    sparse = {
        "data": [PROMPT[1]] * rows, "dtype": "int64", "shape": [rows, 2],
        "sparse_crow_indices": list(range(rows + 1)), "sparse_col_indices": [0] * rows,
    }  # fmt: skip
    body = {
        "base_model": "tiny-lm", "prompt": {"chunks": [{"type": "encoded_text", "tokens": PROMPT}]},
        "sampling_params": PARAMS, "topk_prompt_logprobs": 320, "prompt_alt_tokens_k": 3,
    }  # fmt: skip

    whole, listed = (api.do("asample", **body, target_prompt_logprobs=asked) for asked in (dense, sparse))

    tables = [dict(map(tuple, row)) for row in whole["topk_prompt_logprobs"][1:]]
    scores = np.reshape(whole["target_prompt_logprobs"]["data"], (rows, 2))
    assert scores[:, 0].tolist() == pytest.approx([table[PROMPT[1]] for table in tables])
    assert not scores[:, 1].any()
    assert listed["target_prompt_logprobs"]["data"] == scores[:, 0].tolist()
    assert listed["target_prompt_logprobs"]["sparse_col_indices"] == [0] * rows
    drawn, logprobs = (
        np.reshape(whole["prompt_alt_tokens"][key]["data"], (rows, 3)) for key in ("tokens", "logprobs")
    )
    assert logprobs[2].tolist() == pytest.approx([tables[2][token] for token in drawn[2]])


def test_samples_are_logged_once_and_billed_once(api, server, trainee):
    """A repetition under one seq_id is logged as replayed, and usage counts the tokens of the first."""
    sampler = trainee.sampler()
    first = Rollout(api, sampler)
    assert Rollout(api, sampler).id == first.id
    trainee.train(first.datum(), "importance_sampling")
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    window = {"starting_on": hour.isoformat(), "ending_before": (hour + timedelta(hours=2)).isoformat()}

    usage = api.http.get("billing/usage/events", params=window).json()

    logged = server.log(kind="sample")
    assert [(entry["replayed"], entry["prompt_tokens"]) for entry in logged] == [(False, 5), (True, 5)]
    counted = {event["event_info"]["type"]: event["event_info"]["token_count"] for event in usage["data"]}
    count = len(first.tokens)
    assert counted == {"sampling_prefill": 5, "sampling_sample": count, "training": 4 + count}
    assert api.http.get("billing/usage/events", params=window | {"starting_on": "noon"}).status_code == 422


def test_clients_of_one_sampling_session_have_numbers_and_lists_of_their_own(api, trainee):
    """Each joined client sees the completions of its own requests, once."""
    sampler = trainee.sampler()
    counters = [api.ok("join_sampling_session", sampling_session_id=sampler)["client_counter"] for _ in range(2)]
    own, joined = Rollout(api, sampler, 0), Rollout(api, sampler, 2_000_000_000)

    def ended(client: int, cursor: int) -> dict[str, Any]:
        target = {"sampling_session_id": sampler, "cloned_sampler_id": client}
        return api.ok("retrieve_futures", target=target, prev_cursor=cursor, timeout=0)

    lists = [ended(client, 0) for client in (0, 1, 2)]

    assert counters == [1, 2]
    assert [len(found["completions"]) for found in lists] == [1, 0, 1]
    assert own.id.startswith(lists[0]["completions"][0]["request_id"])
    assert joined.id.startswith(lists[2]["completions"][0]["request_id"])
    assert ended(0, lists[0]["cursor"])["completions"] == []


def test_a_finished_session_says_so_and_keeps_its_first_reason(api, trainee):
    """410 for its heartbeat."""
    for reason in ("errored", "success"):
        assert api.call(f"sessions/{trainee.session}/finish", reason={"type": reason}).status_code == 204

    assert api.call("session_heartbeat", session_id=trainee.session).status_code == 410
    status = api.http.get(f"sessions/{trainee.session}").json()["status"]
    assert status == {"type": "client_finished", "reason": {"type": "errored"}, "detail": None}
