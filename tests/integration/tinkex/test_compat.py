"""A program of the Tinker SDK on this client, against the dev server."""

import asyncio
import pickle
import threading
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

import backends.tinkex.compat as tinker
from backends.tinkex.compat import run_watch
from backends.tinkex_dev import faults
from backends.tinkex_dev.server import DEV_KEY, DevServer

PROMPT = tinker.ModelInput.from_ints([1, 2, 3])
GREEDY = tinker.SamplingParams(max_tokens=3, temperature=0.0)
ADAM = tinker.AdamParams(learning_rate=0.05)
MODEL = "llama-3.2-1b"


@pytest.fixture
def service(server: DevServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[tinker.ServiceClient]:
    """The SDK's service client, with the server's address in the environment."""
    monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
    monkeypatch.setenv("TINKER_BASE_URL", server.url)
    client = tinker.ServiceClient(display_name="a program")
    yield client
    client.close("success").result(30)


@pytest.fixture
def run(service: tinker.ServiceClient) -> tinker.TrainingClient:
    """A run."""
    return service.create_lora_training_client(MODEL, rank=4, seed=1).result(30)


def datum() -> tinker.Datum:
    """An example."""
    inputs = {"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 1.0]}
    return tinker.Datum(model_input=PROMPT, loss_fn_inputs=inputs)


def test_a_loop_trains_saves_samples_and_goes_on(service: tinker.ServiceClient, run: tinker.TrainingClient) -> None:
    """Requests are sent without waiting, and take effect in call order: the sampler has the weights between the
    steps."""
    first = run.forward_backward([datum()], "cross_entropy")
    run.optim_step(ADAM)
    between = run.save_weights_and_get_sampling_client()
    run.forward_backward([datum()], "cross_entropy")
    run.optim_step(ADAM)
    state = run.save_state("two").result(30)
    after = run.save_weights_for_sampler("two").result(30)

    assert first.result(30).loss_fn_outputs[0]["logprobs"].shape == [3]
    [old, new] = [
        client.result(30).compute_logprobs(PROMPT).result(30)
        for client in (between, service.create_sampling_client(after.path))
    ]
    assert old[0] is None
    assert old != new
    again = service.create_training_client_from_state_with_optimizer(state.path, base_model=MODEL)
    outputs = [client.forward([datum()], "cross_entropy").result(30) for client in (run, again)]
    assert outputs[0].metrics == outputs[1].metrics


def test_the_name_of_a_sampler_has_no_effect(run: tinker.TrainingClient, service: tinker.ServiceClient) -> None:
    """As with the SDK, which warns of it: loops give the same one again and again."""
    for _ in range(2):
        with pytest.warns(DeprecationWarning, match="name"):
            run.save_weights_and_get_sampling_client("current").result(30)

    listed = service.create_rest_client().list_checkpoints(run.model_id).result(30)
    assert listed.checkpoints == []


def test_a_client_that_is_being_made_may_be_used_as_the_client(service: tinker.ServiceClient) -> None:
    """As programs do that never call ``result()``."""
    client = service.create_lora_training_client(MODEL, rank=4)

    assert isinstance(client, tinker.TrainingClient)
    assert isinstance(client, tinker.APIFuture)
    assert client.get_info().model_data.model_name == MODEL
    assert client.model_id == client.result().model_id
    assert service.create_sampling_client(base_model=MODEL).get_base_model() == MODEL


def test_async_programs_do_not_block_their_loop(service: tinker.ServiceClient) -> None:
    """Everything that makes a client is awaited while other work goes on; twins return as those of the SDK do."""

    async def program() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        made = service.create_lora_training_client(MODEL, rank=4)
        assert not made.future().done()
        run = await made
        passed = await run.forward_backward_async([datum()], "cross_entropy")
        stepped = await run.optim_step_async(ADAM)
        assert (await passed).metrics["loss:sum"] > 0
        assert (await stepped.result_async(30)).metrics
        sampler = await run.save_weights_and_get_sampling_client_async()
        sampled = await asyncio.create_task(sampler.sample(PROMPT, 2, GREEDY).coroutine())
        assert sampled.sequences[0].tokens == (await sampler.sample_async(PROMPT, 1, GREEDY)).sequences[0].tokens
        assert (await service.get_server_capabilities_async()).supported_models
        rest = service.create_rest_client()
        assert (await rest.get_training_run_async(run.model_id)).training_run_id == run.model_id
        ticking.cancel()
        return ticks

    assert asyncio.run(program()) > 1


def test_a_pickled_sampler_samples_with_numbers_of_its_own(run: tinker.TrainingClient) -> None:
    """Without the key, which its process has."""
    sampler = run.save_weights_and_get_sampling_client().result(30)
    data = pickle.dumps(sampler)

    twin = pickle.loads(data)
    third = tinker.SamplingClient.from_sampler_handle(sampler.get_sampler_handle())

    assert DEV_KEY.encode() not in data
    samples = [client.sample(PROMPT, 1, GREEDY).result(30).sequences[0] for client in (sampler, twin, third)]
    assert len({tuple(sample.tokens) for sample in samples}) == 1
    assert len({sample.sequence_id for sample in samples}) == 3


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "success"), (ValueError("x"), "errored"), (KeyboardInterrupt(), "interrupted")],
)
def test_a_block_ends_its_session_and_says_how_it_went(
    service: tinker.ServiceClient, error: BaseException | None, status: str
) -> None:
    """As the cookbook's loops do."""
    with pytest.raises(type(error)) if error else nullcontext(), tinker.ServiceClient() as client:
        client.create_sampling_client(base_model=MODEL).result(30)
        session_id = client._service.session_id
        if error:
            raise error

    rest = service.create_rest_client()
    session = rest.get_session(session_id).result(30)
    assert session.model_extra["status"]["reason"]["type"] == status


def test_a_client_is_closed_whatever_the_service_says_of_its_session(
    server: DevServer, service: tinker.ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections and its watch end; closing it again changes nothing."""
    monkeypatch.setattr(run_watch, "POLL_S", 0.01)
    client = tinker.ServiceClient()
    client.create_lora_training_client(MODEL, rank=4).result(30)
    server.fault(faults.RouteFault(route="sessions", status=401))

    with pytest.raises(tinker.AuthenticationError):
        client.close("errored").result(30)

    with pytest.raises(tinker.AuthenticationError):
        client.close("success").result(30)
    with pytest.raises(tinker.BadRequestError, match="closed"):
        client.get_server_capabilities()


def test_a_program_copies_into_its_project_and_lists_it(run: tinker.TrainingClient) -> None:
    """As with the SDK, which has it from the environment too."""
    saved = run.save_state("a").result(30)
    client = tinker.ServiceClient(project_id="mine")

    copied = client.copy_weights(saved.path).result(30)

    listed = client.create_rest_client().list_training_runs(project_id="mine").result(30)
    assert [found.last_checkpoint.tinker_path for found in listed.training_runs] == [copied]
    client.close("success").result(30)


def test_errors_are_those_of_the_sdk(service: tinker.ServiceClient, run: tinker.TrainingClient) -> None:
    """At the call and from the future."""
    with pytest.raises(tinker.UnprocessableEntityError, match="nope"):
        run.forward_backward([datum()], "nope").result(30)
    with pytest.raises(tinker.NotFoundError):
        service.create_training_client_from_state("tinker://gone/weights/x").result(30)
    with pytest.raises(tinker.BadRequestError, match="name"):
        run.save_state("a/b")
    with pytest.raises(ValueError, match="user_metadata"):
        run.save_state("a", user_metadata={"a": "b"})
    run.save_state("taken").result(30)
    with pytest.raises(tinker.ConflictError):
        run.save_state("taken").result(30)
    with pytest.raises(TimeoutError):
        service.create_lora_training_client(MODEL).result(0)


@pytest.mark.parametrize("mode", [faults.CorruptionMode.FLAG, faults.CorruptionMode.NAN])
def test_a_corrupted_run_names_its_newest_checkpoint_and_step(
    server: DevServer, run: tinker.TrainingClient, mode: faults.CorruptionMode
) -> None:
    """And no later result of it is given out."""
    for step in range(3):
        run.forward_backward([datum()], "cross_entropy")
        run.optim_step(ADAM).result(30)
        if step == 1:
            saved = run.save_state("two").result(30)
    server.fault(faults.CorruptRun(model_id=run.model_id, mode=mode))

    with pytest.raises(tinker.RunCorruptedError) as caught:
        run.forward_backward([datum()], "cross_entropy").result(30)

    assert (caught.value.checkpoint, caught.value.step, caught.value.run_id) == (saved.path, 2, run.model_id)
    assert saved.path in str(caught.value)
    with pytest.raises(tinker.RunCorruptedError):
        run.save_state("later")


def test_the_mark_of_a_service_is_seen_without_an_error(
    server: DevServer, service: tinker.ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is still answered, from wrong weights."""
    monkeypatch.setattr(run_watch, "POLL_S", 0.02)
    run = service.create_lora_training_client(MODEL, rank=4).result(30)
    seen = threading.Event()
    monkeypatch.setattr(run._run.watch, "_mark", lambda reason, _: (mark(reason, None), seen.set()))
    mark = type(run._run.watch)._mark.__get__(run._run.watch)

    server.fault(faults.CorruptRun(model_id=run.model_id, mode=faults.CorruptionMode.SILENT))

    assert seen.wait(30)
    with pytest.raises(tinker.RunCorruptedError, match="the service marks it"):
        run.forward([datum()], "cross_entropy")
