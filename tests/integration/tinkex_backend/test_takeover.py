"""A run outlives the process that drove it: another takes it over, and no step is lost or made twice."""

import pytest

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible.errors import RunCorrupted, RunGone
from crucible.testing.loop import run_opened
from crucible.training import Intent, LiveRun, RunRef, RunState


def another(server: DevServer) -> TinkexBackend:
    """A backend as another process would make it: it shares nothing with the first."""
    return TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})


def test_a_takeover_repeats_the_open_intent_and_goes_on(server: DevServer, training) -> None:
    """The first driver dies after sending a step and before reading its result. The second repeats the step under
    its number with the same digest, gets its loss, and goes on. The server made every step once."""

    async def undisturbed(backend: TinkexBackend) -> tuple[list[float], str]:
        run = await backend.start(training.spec)
        return await training.steps(run, 1, 6), server.weights_digest(run.ref.run_id)

    async def first(backend: TinkexBackend) -> tuple[list[float], Intent, str]:
        run = await backend.start(training.spec)
        losses = await training.steps(run, 1, 2)
        prepared = run.prepare_step(training.request(3))
        await run.send(prepared)
        return losses, prepared.intent, run.ref.model_dump_json()

    async def second(backend: TinkexBackend) -> tuple[list[float], str]:
        run = await backend.attach(RunRef.model_validate_json(ref), next_seq_id=intent.first_seq_id)
        assert run.features.replays
        prepared = run.prepare_step(training.request(3))
        assert prepared.intent == intent
        losses = [(await (await run.send(prepared)).result()).loss]
        losses += await training.steps(run, 4, 3)
        return losses, server.weights_digest(run.ref.run_id)

    expected, digest = run_opened(another(server), undisturbed)
    before, intent, ref = run_opened(another(server), first)
    after, digest_after = run_opened(another(server), second)

    assert before + after == expected
    assert digest_after == digest
    made = [entry for entry in server.log(model_id=intent.run_id) if entry["kind"] == "optim_step"]
    assert len(made) == 6


def test_an_intent_that_never_arrived_is_sent_by_the_successor(server: DevServer, training) -> None:
    """Journaled and not sent: the successor sends it first, as if nothing had happened."""

    async def first(backend: TinkexBackend) -> tuple[Intent, str]:
        run = await backend.start(training.spec)
        await training.steps(run, 1, 1)
        return run.prepare_step(training.request(2)).intent, run.ref.model_dump_json()

    async def second(backend: TinkexBackend) -> float:
        run = await backend.attach(RunRef.model_validate_json(ref), next_seq_id=intent.first_seq_id)
        return (await training.steps(run, 2, 1))[0]

    intent, ref = run_opened(another(server), first)

    assert run_opened(another(server), second) > 0


def test_a_half_sent_step_is_completed(server: DevServer, training) -> None:
    """The pass arrived and the optimizer's part did not: the repeat completes the step, and it counts once."""

    async def first(backend: TinkexBackend) -> tuple[list[float], Intent, str]:
        run = await backend.start(training.spec)
        losses = await training.steps(run, 1, 1)
        prepared = run.prepare_step(training.request(2))
        server.fault(kind="route", route="optim_step", status=403, count=1)
        with pytest.raises(Exception, match="403"):
            await run.send(prepared)
        return losses, prepared.intent, run.ref.model_dump_json()

    async def second(backend: TinkexBackend) -> list[float]:
        run = await backend.attach(RunRef.model_validate_json(ref), next_seq_id=intent.first_seq_id)
        return await training.steps(run, 2, 2)

    async def undisturbed(backend: TinkexBackend) -> list[float]:
        return await training.steps(await backend.start(training.spec), 1, 3)

    before, intent, ref = run_opened(another(server), first)
    after = run_opened(another(server), second)

    assert before + after == run_opened(another(server), undisturbed)


@pytest.mark.parametrize("how", ["lose_model", "expire_session"])
def test_what_is_gone_cannot_be_taken_over(server: DevServer, training, how: str) -> None:
    """RunGone, for the driver to restore from a checkpoint."""

    async def first(backend: TinkexBackend) -> RunRef:
        run = await backend.start(training.spec)
        await training.steps(run, 1, 1)
        return run.ref

    async def second(backend: TinkexBackend) -> LiveRun:
        return await backend.attach(ref, next_seq_id=10)

    ref = run_opened(another(server), first)
    if how == "lose_model":
        server.fault(kind=how, model_id=ref.run_id)
    else:
        server.fault(kind=how, session_id=ref.session_id)

    with pytest.raises(RunGone):
        run_opened(another(server), second)


def test_what_is_corrupted_cannot_be_taken_over(server: DevServer, training) -> None:
    """RunCorrupted, for the driver to recover."""

    async def first(backend: TinkexBackend) -> RunRef:
        run = await backend.start(training.spec)
        await training.steps(run, 1, 1)
        return run.ref

    async def second(backend: TinkexBackend) -> LiveRun:
        return await backend.attach(ref, next_seq_id=10)

    ref = run_opened(another(server), first)
    server.fault(kind="corrupt", model_id=ref.run_id, mode="silent")

    with pytest.raises(RunCorrupted):
        run_opened(another(server), second)


def test_a_run_that_is_lost_while_it_is_driven_says_so(server: DevServer, training, backend: TinkexBackend) -> None:
    """In its health and by the error of the next step."""

    async def body(opened: TinkexBackend) -> None:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 1)
        server.fault(kind="lose_model", model_id=run.ref.run_id)
        assert (await run.health()).state is RunState.GONE
        with pytest.raises(RunGone):
            await training.steps(run, 2, 1)

    run_opened(backend, body)


def test_the_ref_holds_no_credential(server: DevServer, training, backend: TinkexBackend) -> None:
    """It is stored and shown; the key is in neither its JSON nor any repr."""

    async def body(opened: TinkexBackend) -> str:
        run = await opened.start(training.spec)
        return run.ref.model_dump_json() + repr(run.ref) + repr(opened.service) + repr(opened.__dict__)

    assert "tml-dev" not in run_opened(backend, body)
