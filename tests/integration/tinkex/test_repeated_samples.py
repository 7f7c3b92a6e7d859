"""Samples that can be repeated: numbers, ids, attached and cloned clients, lost answers."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scripted_server import Response, ScriptedServer, json_response
from tinkex_runs import new_run

from backends.tinkex import ServiceClient
from backends.tinkex.client.sampling.client import SamplingClient
from backends.tinkex.types import ModelInput, SamplingParams, TensorData
from backends.tinkex_dev.server import DevServer
from crucible.errors import AnswerLost, InvalidRequest, MalformedAnswer, Unsupported

MakeService = Callable[..., ServiceClient]
PROMPT = ModelInput.from_ints(list(b"the cat sat"))
THREE = SamplingParams(max_tokens=3)
GONE = json_response({"detail": "unknown request"}, 410)
BLOCK = 1_000_000_000


def drawn(*texts: str, **fields: Any) -> Response:
    """A result with one sequence a text."""
    sequences = [{"tokens": list(text.encode()), "stop_reason": "length"} for text in texts]
    return json_response({"sequences": sequences, **fields})


@pytest.fixture
def sampler(scripted: ScriptedServer, make_service: MakeService) -> SamplingClient:
    """A sampler on the scripted server, which answers one sequence to each request."""
    scripted.script("asample", json_response({"request_id": "one", "sample_sequence_ids": ["s:0"]}))
    scripted.futures["one"] = [drawn("a")]
    return make_service(scripted.url).attach_sampling_client("sampling")


def numbers(scripted: ScriptedServer) -> list[int]:
    """The sequence numbers that were sent."""
    return [body["seq_id"] for body in scripted.bodies("asample")]


def test_a_sample_tells_its_number_and_its_ids(service: ServiceClient) -> None:
    """Of the request, on future and result; and of each sequence."""
    sampler = service.create_sampling_client(base_model="tiny-lm")

    future = sampler.sample(PROMPT, 2, THREE)
    response = future.result(30)

    assert response.seq_id == 0
    assert response.request_id is not None
    assert future.request_ids == [response.request_id]
    ids = [sequence.sequence_id for sequence in response.sequences]
    assert len(set(ids)) == 2
    assert None not in ids
    assert sampler.next_seq_id == 1


def test_a_repeated_number_is_the_same_sample(server: DevServer, service: ServiceClient) -> None:
    """In this client, and in one of another process, which attaches to the sampling session by its id."""
    sampler = service.create_sampling_client(base_model="tiny-lm")
    first, second = (sampler.sample(PROMPT, 2, THREE).result(30) for _ in range(2))
    assert first.seq_id == 0
    assert second.seq_id == 1

    assert sampler.sample(PROMPT, 2, THREE, seq_id=0).result(30) == first
    with ServiceClient("tml-test", server.url) as other:
        attached = other.attach_sampling_client(sampler.sampling_session_id, 2, session_id=sampler.session_id)
        assert attached.sample(PROMPT, 2, THREE, seq_id=1).result(30) == second
        third = attached.sample(PROMPT, 2, THREE).result(30)
    assert third.seq_id == 2
    assert third.request_id not in (first.request_id, second.request_id)


def test_another_request_under_a_used_number_is_refused(service: ServiceClient) -> None:
    """By the server, which has the first on record."""
    sampler = service.create_sampling_client(base_model="tiny-lm")
    sampler.sample(PROMPT, 1, THREE, seq_id=5).result(30)

    with pytest.raises(InvalidRequest):
        sampler.sample(PROMPT, 2, THREE, seq_id=5).result(30)
    assert sampler.next_seq_id == 6


def test_clones_share_a_session_and_no_number(service: ServiceClient) -> None:
    """So that their samples differ, though they ask for the same."""
    sampler = service.create_sampling_client(base_model="tiny-lm")
    clone = sampler.clone()

    assert clone.sampling_session_id == sampler.sampling_session_id
    assert clone.next_seq_id >= BLOCK
    assert clone.next_seq_id % BLOCK == 0
    mine, other = (one.sample(PROMPT, 1, THREE).result(30) for one in (sampler, clone))
    assert mine.request_id != other.request_id


def test_a_server_that_numbers_clones_is_asked(scripted: ScriptedServer, make_service: MakeService) -> None:
    """By its flag; the clone has the block of the number that it answers."""
    scripted.script("client/config", json_response({"sample_join_sampling_session": True}))
    scripted.script("join_sampling_session", json_response({"client_counter": 3}))
    sampler = make_service(scripted.url).attach_sampling_client("sampling")

    assert sampler.clone().next_seq_id == 3 * BLOCK
    [body] = scripted.bodies("join_sampling_session")
    assert body == {"sampling_session_id": "sampling", "type": "join_sampling_session"}


def test_a_clone_can_be_awaited(server: DevServer) -> None:
    """On the caller's loop."""

    async def work() -> int:
        async with ServiceClient.on_caller_loop("tml-test", server.url) as service:
            sampler = await service.create_sampling_client_async(base_model="tiny-lm")
            return (await sampler.clone_async()).next_seq_id

    assert asyncio.run(work()) >= BLOCK


def test_a_lost_answer_is_asked_for_again_under_its_number(
    scripted: ScriptedServer, sampler: SamplingClient
) -> None:
    """And only then under a new one."""
    scripted.futures["one"] = [GONE, GONE, drawn("b")]

    response = sampler.sample(PROMPT, 1, THREE).result(30)

    assert numbers(scripted) == [0, 0, 1]
    assert response.seq_id == 1


def test_a_chosen_number_is_never_exchanged(scripted: ScriptedServer, sampler: SamplingClient) -> None:
    """A journal knows what it asked for; whether to spend a new number is its decision."""
    scripted.futures["one"] = [GONE]

    with pytest.raises(AnswerLost):
        sampler.sample(PROMPT, 1, THREE, seq_id=7).result(30)
    assert numbers(scripted) == [7, 7]


def test_a_busy_service_is_asked_again_under_the_same_number(
    scripted: ScriptedServer, sampler: SamplingClient
) -> None:
    """Told by a header that the client knows what 429 means."""
    busy = json_response({"detail": "wait"}, 429)
    scripted.script("asample", busy, json_response({"request_id": "one", "sample_sequence_ids": ["s:0"]}))

    sampler.sample(PROMPT, 1, THREE).result(30)

    assert numbers(scripted) == [0, 0]
    [request] = [one for one in scripted.received if one.route == "asample"][-1:]
    assert request.headers["x-tinker-sampling-backpressure"] == "1"


def test_ids_that_do_not_fit_the_sequences_are_malformed(scripted: ScriptedServer, sampler: SamplingClient) -> None:
    """Rather than given to the wrong sequence."""
    scripted.futures["one"] = [drawn("a", "b")]

    with pytest.raises(MalformedAnswer, match="1 sequence ids for 2 sequences"):
        sampler.sample(PROMPT, 2, THREE).result(30)


@pytest.mark.parametrize("number", [-1, 2**63, 1.5, True, "1"])
def test_an_impossible_number_is_refused_at_once(sampler: SamplingClient, number: Any) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidRequest, match="seq_id"):
        sampler.sample(PROMPT, 1, THREE, seq_id=number)


@pytest.mark.parametrize("seed", [-1, -7, 2**64])
def test_a_seed_that_the_service_does_not_have_is_refused(seed: int) -> None:
    """-7 was once sampled as 7."""
    with pytest.raises(ValidationError, match="seed"):
        SamplingParams(seed=seed)


def test_recording_and_scores_are_sent_only_when_asked_for(
    scripted: ScriptedServer, sampler: SamplingClient, make_service: MakeService
) -> None:
    """Older servers refuse fields that they do not know."""
    target = TensorData.from_numpy(np.full((10, 2), -1))
    answer = {"data": [0.0] * 20, "dtype": "float32", "shape": [10, 2]}
    scripted.futures["one"] = [drawn("a", target_prompt_logprobs=answer)]
    recording = make_service(scripted.url).attach_sampling_client("sampling", record_stability_info=True)

    sampler.sample(PROMPT, 1, THREE).result(30)
    found = recording.sample(PROMPT, 1, THREE, True, target_prompt_logprobs=target, prompt_logprobs_last_n=2)
    scores = found.result(30).target_prompt_logprobs

    plain, full = scripted.bodies("asample")
    assert plain.keys() == {"prompt", "num_samples", "sampling_params", "sampling_session_id", "seq_id", "type"}
    assert full["record_stability_info"] is True
    assert full["prompt_logprobs_last_n"] == 2
    assert full["target_prompt_logprobs"]["shape"] == [10, 2]
    assert scores is not None
    assert scores.to_numpy().shape == (10, 2)
    assert recording.clone().record_stability_info


def test_scores_that_a_server_leaves_out_are_named(sampler: SamplingClient) -> None:
    """A server that does not know the field ignores it."""
    with pytest.raises(Unsupported, match="prompt_alt_tokens_k is not offered"):
        sampler.sample(PROMPT, 1, THREE, prompt_alt_tokens_k=2).result(30)


@pytest.mark.parametrize("shape", [(20,), (9, 2), (11, 2)])
def test_targets_of_another_shape_are_refused_at_once(sampler: SamplingClient, shape: tuple[int, ...]) -> None:
    """There is one row per token of the prompt after the first."""
    with pytest.raises(InvalidRequest, match="target_prompt_logprobs"):
        sampler.sample(PROMPT, 1, THREE, target_prompt_logprobs=TensorData.from_numpy(np.zeros(shape, dtype=int)))


def test_a_sampler_can_live_in_the_session_of_the_run(service: ServiceClient) -> None:
    """As recorded sequences must, for the run to train on them: saved by name, and not."""
    run = new_run(service.with_new_session())
    saved = run.save_weights_for_sampler("w").result(30).path
    assert saved is not None

    samplers = [
        run.create_sampling_client(saved, record_stability_info=True),
        run.save_weights_and_get_sampling_client("v"),
        run.save_weights_and_get_sampling_client(),
    ]

    assert {sampler.session_id for sampler in samplers} == {run.session_id}
    assert run.session_id != service.session_id
    for sampler in samplers:
        assert sampler.sampling_session_id.startswith(f"{run.session_id}:")


def test_an_inflight_sampler_has_no_name(service: ServiceClient) -> None:
    """Nor a life span."""
    with pytest.raises(InvalidRequest, match="neither a name nor ttl_seconds"):
        new_run(service).save_weights_and_get_sampling_client("name", kind="inflight")
