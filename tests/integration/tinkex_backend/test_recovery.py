"""A poisoned run comes back from a checkpoint with exactly the losses it would have had."""

import asyncio

import pytest

from backends.tinkex import RecoveryExecutor, RecoveryMonitor
from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.faults import RouteFault
from backends.tinkex_dev.server import DevServer
from crucible.errors import AuthenticationFailed, NoCheckpoint, OutOfCredit, RecoveryExhausted, RunCorrupted
from crucible.recovery import RecoveryEvent, RecoveryPolicy, RecoveryRequest
from crucible.testing.loop import run_opened
from crucible.training import CheckpointRef, LiveRun, RunState, SaveResult

POLICY = RecoveryPolicy(enabled=True, max_attempts=3, backoff_ms=1, max_backoff_ms=1, poll_interval_ms=10)


def request_for(run: LiveRun, training, *saved: tuple[SaveResult, int], **policy: object) -> RecoveryRequest:
    """A request to recover the run from these saves, newest first."""
    refs = tuple(
        CheckpointRef(path=save.path, name=save.path.rpartition("/")[2], step=step) for save, step in saved
    )
    return RecoveryRequest(run.ref, training.spec, "test", POLICY.model_copy(update=policy), refs)


def names(events: list[RecoveryEvent]) -> list[str]:
    """The names without their prefix, which all must have."""
    assert all(event.name.startswith("tinkex.recovery.") for event in events)
    return [event.name.rpartition(".")[2] for event in events]


@pytest.mark.parametrize("mode", ["flag", "nan", "silent"])
def test_every_kind_of_poison_is_found_and_recovered(
    server: DevServer, training, backend: TinkexBackend, mode: str
) -> None:
    """By error, by value or by flag: the run is seen to be corrupted, and goes on from the checkpoint exactly."""

    async def body(opened: TinkexBackend) -> tuple[list[float], list[float], list[RecoveryEvent]]:
        expected = await training.steps(await opened.start(training.spec), 1, 6)
        run = await opened.start(training.spec)
        losses = await training.steps(run, 1, 3)
        saved = await training.save(run, "000003", 3)
        server.fault(kind="corrupt", model_id=run.ref.run_id, mode=mode)
        if mode == "silent":
            async with asyncio.timeout(20):
                assert isinstance(await run.watch(10), RunCorrupted)
        else:
            with pytest.raises(RunCorrupted):
                await training.steps(run, 4, 1)
        if mode != "nan":
            assert (await run.health()).state is RunState.CORRUPTED
        events: list[RecoveryEvent] = []
        recovered = await opened.recover(request_for(run, training, (saved, 3)), observe=events.append)
        assert recovered.checkpoint.step == 3
        return expected, losses + await training.steps(recovered.run, 4, 3), events

    expected, losses, events = run_opened(backend, body)

    assert losses == expected
    assert names(events) == ["started", "checkpoint_selected", "client_created", "completed"]


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_broken_checkpoint_is_passed_over(server: DevServer, training, backend: TinkexBackend, how: str) -> None:
    """Found by asking or by loading: it is rejected with an event, and the next older one is used."""

    async def body(opened: TinkexBackend) -> tuple[list[float], list[float], list[RecoveryEvent]]:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 2)
        old = await training.save(run, "000002", 2)
        rest = await training.steps(run, 3, 2)
        new = await training.save(run, "000004", 4)
        server.fault(kind="damage_checkpoint", path=new.path, how=how)
        events: list[RecoveryEvent] = []
        recovered = await opened.recover(request_for(run, training, (new, 4), (old, 2)), observe=events.append)
        assert recovered.checkpoint.path == old.path
        return rest, await training.steps(recovered.run, 3, 2), events

    rest, again, events = run_opened(backend, body)

    assert again == rest
    assert "checkpoint_rejected" in names(events)
    assert names(events)[-1] == "completed"


def test_an_expired_checkpoint_is_unusable(server: DevServer, training, backend: TinkexBackend) -> None:
    """After its time, by the server's clock."""

    async def body(opened: TinkexBackend) -> None:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 1)
        saved = await training.save(run, "short", 1, ttl_s=60)
        assert (await opened.check_checkpoint(saved.path, training.spec)).usable
        server.fault(kind="advance_clock", seconds=61)
        assert not (await opened.check_checkpoint(saved.path, training.spec)).usable
        with pytest.raises(NoCheckpoint):
            await opened.recover(request_for(run, training, (saved, 1)), observe=lambda event: None)

    run_opened(backend, body)


def test_a_checkpoint_does_not_expire_by_the_clock_of_this_machine(
    server: DevServer, training, backend: TinkexBackend
) -> None:
    """Which may be hours ahead of the service's."""

    async def body(opened: TinkexBackend) -> None:
        server.clock.ahead_s = -7200
        run = await opened.start(training.spec)
        await training.steps(run, 1, 1)
        saved = await training.save(run, "short", 1, ttl_s=60)
        checked = await opened.check_checkpoint(saved.path, training.spec)
        assert (checked.usable, checked.size_bytes is not None) == (True, True)

    run_opened(backend, body)


def test_the_service_is_asked_when_the_caller_knows_no_checkpoint(training, backend: TinkexBackend) -> None:
    """Its own list, newest first, sampling weights left out."""

    async def body(opened: TinkexBackend) -> None:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 1)
        await training.save(run, "000001", 1)
        await training.steps(run, 2, 1)
        newest = await training.save(run, "000002", 2)
        await training.save_sampler(run, "000003", 2)
        recovered = await opened.recover(request_for(run, training), observe=lambda event: None)
        assert (recovered.checkpoint.path, recovered.checkpoint.step) == (newest.path, 2)

    run_opened(backend, body)


def test_strategies(training, backend: TinkexBackend) -> None:
    """Best loss, a specific path, and a path that nobody knows."""

    async def body(opened: TinkexBackend) -> None:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 1)
        one = await training.save(run, "one", 1)
        await training.steps(run, 2, 1)
        two = await training.save(run, "two", 2)
        refs = (
            CheckpointRef(path=two.path, name="two", step=2, metric=0.9),
            CheckpointRef(path=one.path, name="one", step=1, metric=0.1),
        )
        for strategy, path in (("latest", two.path), ("best_loss", one.path), (one.path, one.path)):
            policy = POLICY.model_copy(update={"checkpoint_strategy": strategy})
            request = RecoveryRequest(run.ref, training.spec, "test", policy, refs)
            recovered = await opened.recover(request, observe=lambda event: None)
            assert recovered.checkpoint.path == path, strategy
        unknown = POLICY.model_copy(update={"checkpoint_strategy": "tinker://nobody/weights/none"})
        with pytest.raises(NoCheckpoint, match="tinker://nobody"):
            await opened.recover(
                RecoveryRequest(run.ref, training.spec, "test", unknown, refs), observe=lambda event: None
            )

    run_opened(backend, body)


def test_attempts_back_off_and_end(server: DevServer, training, backend: TinkexBackend) -> None:
    """min(backoff * 2^attempt, max) between attempts; when all fail, the run is given up and that is said."""
    waits: list[float] = []
    failures: list[tuple[str, object]] = []
    events: list[RecoveryEvent] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def body(opened: TinkexBackend) -> None:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 1)
        saved = await training.save(run, "a", 1)
        executor = RecoveryExecutor(opened.service, sleep=sleep, observe=events.append)
        server.fault(kind="route", route="create_session", status=503, count=999)
        request = request_for(
            run,
            training,
            (saved, 1),
            max_attempts=4,
            backoff_ms=1000,
            max_backoff_ms=3000,
            on_failure=lambda run_id, reason: failures.append((run_id, reason)),
        )
        with pytest.raises(RecoveryExhausted, match="4 attempts"):
            await executor.recover(request)
        assert failures == [(run.ref.run_id, "max_attempts_exceeded")]

    run_opened(backend, body)

    assert waits == [1.0, 2.0, 3.0]
    assert names(events).count("started") == 4
    assert names(events)[-1] == "exhausted"


def test_a_recovery_that_fails_at_its_end_leaves_no_run(
    server: DevServer, training, backend: TinkexBackend
) -> None:
    """Kept alive by its heartbeats, it would hold a place at the service for as long as the worker lives."""

    async def scenario() -> None:
        async with backend:
            run = await backend.start(training.spec)
            saved = await training.save(run, "000000", 0)
            server.fault(RouteFault(route="get_info", status=401))
            with pytest.raises(AuthenticationFailed):
                await backend.recover(request_for(run, training, (saved, 0)), observe=lambda event: None)
            assert [live["model_id"] for live in server.live_runs()] == [run.ref.run_id]

    asyncio.run(scenario())


def test_without_credit_no_attempt_is_wasted(server: DevServer, training, backend: TinkexBackend) -> None:
    """The job is to be paused, not given up: the error comes at once."""

    async def body(opened: TinkexBackend) -> None:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 1)
        saved = await training.save(run, "a", 1)
        server.fault(kind="out_of_credit")
        events: list[RecoveryEvent] = []
        with pytest.raises(OutOfCredit):
            await opened.recover(request_for(run, training, (saved, 1)), observe=events.append)
        assert names(events).count("started") == 1

    run_opened(backend, body)


def test_without_the_optimizer_when_the_policy_says_so(training, backend: TinkexBackend) -> None:
    """The weights come back, and Adam starts anew: the first repeated loss is equal, a later one is not."""

    async def body(opened: TinkexBackend) -> tuple[list[float], list[float]]:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 4)
        saved = await training.save(run, "a", 4)
        rest = await training.steps(run, 5, 3)
        request = request_for(run, training, (saved, 4), restore_optimizer=False)
        recovered = await opened.recover(request, observe=lambda event: None)
        assert not recovered.optimizer_requested
        return rest, await training.steps(recovered.run, 5, 3)

    rest, again = run_opened(backend, body)

    assert again[0] == rest[0]
    assert again[2] != rest[2]


def test_monitor_and_executor_recover_a_run_by_themselves(
    server: DevServer, training, backend: TinkexBackend
) -> None:
    """Watched, seen corrupted, handed over once, recovered: the callback gets the old client, the new one and the
    checkpoint."""
    events: list[RecoveryEvent] = []

    async def body(opened: TinkexBackend) -> None:
        run = await opened.start(training.spec)
        await training.steps(run, 1, 2)
        saved = await training.save(run, "000002", 2)
        rest = opened.service.create_rest_client()
        done: asyncio.Future[tuple[object, object, CheckpointRef]] = asyncio.get_running_loop().create_future()
        policy = POLICY.model_copy(update={"on_recovery": lambda *found: done.set_result(found)})
        executor = RecoveryExecutor(opened.service, policy, observe=events.append)

        async def is_corrupted(run_id: str) -> bool:
            return (await rest.get_training_run(run_id)).corrupted

        monitor = RecoveryMonitor(is_corrupted, executor, policy=policy, observe=events.append)
        monitor.monitor_run(run.ref.run_id, run.client)
        async with monitor, asyncio.timeout(30):
            server.fault(kind="corrupt", model_id=run.ref.run_id)
            old, new, checkpoint = await done
            await executor.wait()
        assert old is run.client
        assert new.model_id != run.ref.run_id
        assert checkpoint.path == saved.path
        assert monitor.watched == frozenset()

    run_opened(backend, body)

    assert names(events)[0] == "detected"
    assert names(events).count("detected") == 1
    assert names(events)[-1] == "completed"
