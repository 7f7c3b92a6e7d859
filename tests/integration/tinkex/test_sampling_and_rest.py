"""Samples, log-probabilities, and what a server keeps, over real HTTP."""

import asyncio
import contextlib
import tarfile
from pathlib import Path
from typing import Any

import pytest

from backends.tinkex import ServiceClient, TrainingClient
from backends.tinkex.client.rest.download import unpack_archive
from backends.tinkex.types import (
    AdamParams,
    CheckpointKind,
    Datum,
    ImageChunk,
    ModelInput,
    ParsedCheckpointTinkerPath,
    SamplingParams,
)
from backends.tinkex_dev.server import DevServer
from crucible.errors import InvalidRequest, MalformedAnswer, NotFound, Unsupported
from tests.pictures import png

PROMPT = ModelInput.from_ints(list(b"the cat"))


@pytest.fixture
def run(service: ServiceClient, batch: list[Datum]) -> TrainingClient:
    """A run that has learned a little."""
    client = service.create_lora_training_client("tiny-lm", rank=4, seed=0, user_metadata={"job": "j1"})
    for _ in range(3):
        client.forward_backward(batch, "cross_entropy")
        step = client.optim_step(AdamParams(learning_rate=1e-2))
    step.result(30)
    return client


@pytest.mark.parametrize("protobuf", [True, False], ids=["protobuf", "json"])
def test_the_same_seed_draws_the_same(make_server: Any, make_service: Any, protobuf: bool) -> None:
    """Tokens and their log-probabilities, over either encoding."""
    sampler = make_service(make_server(protobuf=protobuf).url).create_sampling_client(base_model="tiny-lm")
    params = SamplingParams(max_tokens=8, seed=3, temperature=0.8)

    first = sampler.sample(PROMPT, 2, params).result(30)

    again = sampler.sample(PROMPT, 2, params).result(30)
    assert [(one.tokens, one.logprobs) for one in first.sequences] == [
        (one.tokens, one.logprobs) for one in again.sequences
    ]
    assert [len(sequence.tokens) for sequence in first.sequences] == [8, 8]
    assert [len(sequence.logprobs or []) for sequence in first.sequences] == [8, 8]
    assert {sequence.stop_reason for sequence in first.sequences} == {"length"}


@pytest.mark.parametrize("protobuf", [True, False], ids=["protobuf", "json"])
def test_log_probabilities_of_a_prompt(make_server: Any, make_service: Any, protobuf: bool) -> None:
    """One for each token, none for the first; the most likely ones come in order."""
    sampler = make_service(make_server(protobuf=protobuf).url).create_sampling_client(base_model="tiny-lm")

    logprobs = sampler.compute_logprobs(PROMPT).result(30)
    topk = sampler.compute_topk_logprobs(PROMPT, 3).result(30)

    assert len(logprobs) == len(topk) == PROMPT.length
    assert logprobs[0] is None
    assert topk[0] is None
    assert all(value is not None and value < 0 for value in logprobs[1:])
    assert all(row == sorted(row, key=lambda pair: -pair[1]) and len(row) == 3 for row in topk[1:] if row)


def test_forward_and_compute_logprobs_agree(service: ServiceClient, run: TrainingClient) -> None:
    """Training and sampling see the same weights."""
    ids = list(b"the cat sat")
    datum = Datum(model_input=ModelInput.from_ints(ids[:-1]), loss_fn_inputs={"target_tokens": ids[1:]})
    datum = Datum(model_input=datum.model_input, loss_fn_inputs={**datum.loss_fn_inputs, "weights": [1.0] * 10})

    trained = run.forward([datum], "cross_entropy").result(30).loss_fn_outputs[0]["logprobs"].tolist()
    sampled = run.save_weights_and_get_sampling_client().compute_logprobs(ModelInput.from_ints(ids)).result(30)

    assert sampled[1:] == pytest.approx(trained, abs=1e-5)


def test_saved_weights_can_be_sampled_by_name(service: ServiceClient, run: TrainingClient) -> None:
    """A name makes a checkpoint that stays; its client says what it samples from."""
    sampler = run.save_weights_and_get_sampling_client("final")

    info = sampler.get_sampler().result(30)

    assert info.base_model == "tiny-lm"
    assert info.model_path == sampler.model_path
    assert ParsedCheckpointTinkerPath.from_tinker_path(info.model_path or "").name == "final"
    assert sampler.get_tokenizer().decode([97]) == "a"


def test_streaming_is_refused_by_name(service: ServiceClient) -> None:
    """No known server has it."""
    sampler = service.create_sampling_client(base_model="tiny-lm")

    with pytest.raises(Unsupported, match="streaming"):
        sampler.sample_stream(PROMPT, SamplingParams(max_tokens=1))


def test_an_image_is_part_of_a_prompt(service: ServiceClient) -> None:
    """It goes to the server as servers accept it."""
    sampler = service.create_sampling_client(base_model="tiny-lm")
    prompt = PROMPT.append(ImageChunk(data=png(1, 1), format="png", height=1, width=1, expected_tokens=2))

    assert sampler.sample(prompt, 1, SamplingParams(max_tokens=2)).result(30).sequences


@pytest.mark.parametrize(
    ("prompt", "samples", "field"),
    [
        pytest.param(ModelInput.empty(), 1, "prompt", id="empty"),
        pytest.param([1, 2], 1, "prompt", id="a list"),
        pytest.param(ModelInput.from_ints([-1]), 1, "tokens", id="negative token"),
        pytest.param(PROMPT, 0, "num_samples", id="no samples"),
        pytest.param(ModelInput.from_ints([9999]), 1, "token", id="outside the vocabulary"),
    ],
)
def test_a_wrong_prompt_is_refused(service: ServiceClient, prompt: Any, samples: int, field: str) -> None:
    """And the client stays usable."""
    sampler = service.create_sampling_client(base_model="tiny-lm")

    with pytest.raises(InvalidRequest, match=field):
        sampler.sample(prompt, samples, SamplingParams(max_tokens=1)).result(30)

    assert sampler.sample(PROMPT, 1, SamplingParams(max_tokens=1)).result(30).sequences


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({}, InvalidRequest),
        ({"base_model": "tiny-lm", "model_path": "tinker://a/weights/b"}, NotFound),
        ({"base_model": "no/such"}, InvalidRequest),
        ({"model_path": "nonsense"}, InvalidRequest),
        ({"model_path": "tinker://nobody/sampler_weights/x"}, NotFound),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(service: ServiceClient, arguments: dict[str, str], kind: Any) -> None:
    """By a typed error."""
    with pytest.raises(kind):
        service.create_sampling_client(**arguments)


def test_runs_are_listed_page_by_page(service: ServiceClient, run: TrainingClient) -> None:
    """Every run once, with what was said of it at its making."""
    others = {service.create_lora_training_client("tiny-lm", rank=1).model_id for _ in range(3)}
    rest = service.create_rest_client()

    seen, offset = [], 0
    while offset is not None:
        page = rest.list_training_runs(limit=2, offset=offset).result(30)
        seen += page.training_runs
        assert page.cursor is not None
        offset = page.cursor.next_offset

    assert sorted(item.training_run_id for item in seen) == sorted(others | {run.model_id})
    mine = rest.get_training_run(run.model_id).result(30)
    assert (mine.base_model, mine.lora_rank, mine.corrupted, mine.user_metadata) == (
        "tiny-lm",
        4,
        False,
        {"job": "j1"},
    )


def test_a_checkpoints_life(service: ServiceClient, run: TrainingClient, tmp_path: Path) -> None:
    """Listed, described, published, given an end, downloaded, deleted; afterwards it is NotFound."""
    rest = service.create_rest_client()
    path = run.save_state("a").result(30).path
    run.save_weights_for_sampler("s").result(30)

    listed = rest.list_checkpoints(run.model_id).result(30).checkpoints
    assert {item.checkpoint_type for item in listed} == {CheckpointKind.TRAINING, CheckpointKind.SAMPLER}
    assert [item.holds_training_state for item in listed if item.tinker_path == path] == [True]
    assert {item.tinker_path for item in rest.list_user_checkpoints().result(30).checkpoints} == {
        item.tinker_path for item in listed
    }
    assert rest.get_weights_info_by_tinker_path(path).result(30).lora_rank == 4
    assert rest.get_training_run_by_tinker_path(path).result(30).last_checkpoint is not None

    rest.publish_checkpoint_from_tinker_path(path).result(30)
    rest.set_checkpoint_ttl_from_tinker_path(path, 3600).result(30)
    changed = next(
        item for item in rest.list_checkpoints(run.model_id).result(30).checkpoints if item.tinker_path == path
    )
    assert changed.public
    assert changed.expires_at is not None
    rest.unpublish_checkpoint_from_tinker_path(path).result(30)
    rest.set_checkpoint_ttl_from_tinker_path(path, None).result(30)
    changed = next(
        item for item in rest.list_checkpoints(run.model_id).result(30).checkpoints if item.tinker_path == path
    )
    assert (changed.public, changed.expires_at) == (False, None)

    archive = rest.download_checkpoint_archive(path, tmp_path / "new" / "a.tar").result(30)
    assert unpack_archive(archive, tmp_path / "unpacked")

    rest.delete_checkpoint_from_tinker_path(path).result(30)
    for call in (rest.delete_checkpoint_from_tinker_path, rest.get_weights_info_by_tinker_path):
        with pytest.raises(NotFound):
            call(path).result(30)


def test_sessions_and_samplers_are_listed(service: ServiceClient, run: TrainingClient) -> None:
    """What was made in a session is found under it."""
    rest = service.create_rest_client()
    sampler = service.create_sampling_client(base_model="tiny-lm")

    assert service.session_id in [item.session_id for item in rest.list_sessions().result(30).sessions]
    made = rest.get_session(service.session_id or "").result(30)
    assert made.training_run_ids == [run.model_id]
    assert sampler.sampling_session_id in made.sampler_ids


@pytest.mark.parametrize("thing", ["get_training_run", "get_session", "get_sampler", "list_checkpoints"])
def test_what_is_not_there_is_not_found(service: ServiceClient, thing: str) -> None:
    """Whatever it is; and an id cannot lead elsewhere."""
    rest = service.create_rest_client()

    with pytest.raises(NotFound):
        getattr(rest, thing)("nobody").result(30)
    for bad in ("", "..", "a/b", "a?b=c"):
        with pytest.raises(InvalidRequest):
            getattr(rest, thing)(bad)


@pytest.mark.parametrize("member", ["../out", "/out", "a/../../out"])
def test_an_archive_stays_where_it_is_unpacked(tmp_path: Path, member: str) -> None:
    """A name that would leave the folder is refused, a root is cut off, and nothing is written outside."""
    file = tmp_path / "in"
    file.write_text("x")
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(file, arcname="fine")
        info = tar.gettarinfo(file)
        info.name = member
        with file.open("rb") as content:
            tar.addfile(info, content)

    with pytest.raises(MalformedAnswer) if ".." in member else contextlib.nullcontext():
        unpack_archive(archive, tmp_path / "deep" / "target")

    assert not list(tmp_path.glob("out"))
    assert not (tmp_path / "deep" / "out").exists()
    assert not Path("/out").exists()


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    """Cut short or no archive at all."""
    (tmp_path / "a.tar").write_bytes(b"nonsense" * 100)

    with pytest.raises(MalformedAnswer):
        unpack_archive(tmp_path / "a.tar", tmp_path / "target")


def test_a_wrong_key_is_named_not_shown(server: DevServer, make_service: Any) -> None:
    """The error says which credential was refused."""
    from crucible.errors import AuthenticationFailed

    service = ServiceClient("not-a-key", server.url)
    try:
        with pytest.raises(AuthenticationFailed, match="TINKER_API_KEY") as caught:
            service.get_server_capabilities().result(30)
    finally:
        service.close()

    assert "not-a-key" not in str(caught.value)


def test_everything_works_on_the_callers_loop(server: DevServer, batch: list[Datum]) -> None:
    """Sampling and listings need no thread either."""

    async def scenario() -> None:
        async with ServiceClient.on_caller_loop("tml-test", server.url) as service:
            client = await service.create_lora_training_client_async("tiny-lm", rank=1)
            sampler = await client.save_weights_and_get_sampling_client_async()
            assert len(await sampler.compute_logprobs(PROMPT)) == PROMPT.length
            assert (await service.create_rest_client().health()).status == "ok"
            assert (await service.get_server_capabilities_async()).model_names
            assert (await client.get_tokenizer_async()).vocab_size == 320

    asyncio.run(scenario())
