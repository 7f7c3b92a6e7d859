"""Own loops: a recovered run that is corrupted again, the best checkpoint, and scripts without an event loop."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.tinkex import BlockingRecovery, RecoveryExecutor, ServiceClient, TrainingClient
from backends.tinkex.errors import WrongLoop
from backends.tinkex.types import AdamParams, Datum
from backends.tinkex.types.model_input import ModelInput
from backends.tinkex_dev.server import DevServer
from crucible.errors import InvalidRequest, NoCheckpoint, RunCorrupted
from crucible.recovery import RecoveryEvent, RecoveryPolicy

POLICY = RecoveryPolicy(enabled=True, backoff_ms=1, max_backoff_ms=1, poll_interval_ms=10)


@pytest.fixture
def service(server: DevServer) -> Iterator[ServiceClient]:
    """A blocking client of the server."""
    client = ServiceClient(base_url=server.url, api_key="tml-dev")
    yield client
    client.close()


@pytest.fixture
def start(service: ServiceClient) -> Callable[[], TrainingClient]:
    """Starts runs that are equal to each other."""
    return lambda: service.create_lora_training_client(
        base_model="tiny-lm", rank=4, seed=0, user_metadata={"experiment": "7"}
    )


def train(client: TrainingClient, step: int) -> float:
    """One optimizer step of a batch that the step's number determines; its loss."""
    tokens = [(step * 7 + place) % 250 for place in range(9)]
    datum = Datum(
        model_input=ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], "weights": [1.0] * 8},
    )
    passed = client.forward_backward([datum], "cross_entropy")
    client.optim_step(AdamParams(learning_rate=0.02)).result(timeout=120)
    return passed.result(timeout=120).metrics["loss:sum"]


def recovered_twice(
    service: ServiceClient, server: DevServer, client: TrainingClient, executors: list[RecoveryExecutor]
) -> tuple[list[str], TrainingClient]:
    """Corrupt and recover a run, once by each executor, without a save in between."""
    paths = []
    for executor in executors:
        server.fault(kind="corrupt", model_id=client.model_id)
        found = service.runner.wait(executor.recover_run(client.model_id, client, "test"))
        client = found.client
        paths.append(found.checkpoint.path)
    return paths, client


@pytest.mark.parametrize("same_process", [True, False], ids=["one executor", "an executor each"])
@pytest.mark.parametrize("strategy", ["latest", "path"])
def test_a_run_corrupted_again_before_its_first_save_finds_the_checkpoints_of_the_runs_before(
    service: ServiceClient,
    server: DevServer,
    start: Callable[[], TrainingClient],
    strategy: str,
    same_process: bool,
) -> None:
    """Three times in a row; a process that did not make the earlier recoveries reads the line from the service."""
    client = start()
    losses = [train(client, step) for step in (1, 2)]
    saved = client.save_state("000002").result(timeout=120).path
    policy = POLICY if strategy == "latest" else POLICY.model_copy(update={"checkpoint_strategy": saved})
    one = RecoveryExecutor(service, policy)
    executors = [one] * 3 if same_process else [RecoveryExecutor(service, policy) for _ in range(3)]

    paths, newest = recovered_twice(service, server, client, executors)

    assert paths == [saved] * 3
    undisturbed = start()
    assert [train(undisturbed, step) for step in (1, 2)] == losses
    assert train(newest, 3) == train(undisturbed, 3)
    run = service.create_rest_client().get_training_run(newest.model_id).result(timeout=120)
    assert (run.user_metadata or {})["experiment"] == "7"


def test_the_newest_run_of_the_line_comes_first(
    service: ServiceClient, server: DevServer, start: Callable[[], TrainingClient]
) -> None:
    client = start()
    train(client, 1)
    client.save_state("000001").result(timeout=120)
    executor = RecoveryExecutor(service, POLICY)
    _, client = recovered_twice(service, server, client, [executor])
    train(client, 2)
    newest = client.save_state("000002").result(timeout=120).path

    paths, _ = recovered_twice(service, server, client, [executor])

    assert paths == [newest]


def test_best_loss_takes_the_metric_given_at_save(
    service: ServiceClient, server: DevServer, start: Callable[[], TrainingClient]
) -> None:
    """Also over the runs of a line."""
    policy = POLICY.model_copy(update={"checkpoint_strategy": "best_loss"})
    executor = RecoveryExecutor(service, policy)
    client = start()
    paths = []
    for step, metric in ((1, 0.9), (2, 0.1), (3, 0.5)):
        train(client, step)
        paths.append(client.save_state(f"{step:06d}", metric=metric).result(timeout=120).path)

    found, _ = recovered_twice(service, server, client, [executor, executor])

    assert found == [paths[1], paths[1]]


def test_best_loss_without_any_metric_is_refused(
    service: ServiceClient, server: DevServer, start: Callable[[], TrainingClient]
) -> None:
    policy = POLICY.model_copy(update={"checkpoint_strategy": "best_loss"})
    client = start()
    train(client, 1)
    client.save_state("000001").result(timeout=120)
    with pytest.raises(NoCheckpoint, match=r"save_state\(name, metric=loss\)"):
        recovered_twice(service, server, client, [RecoveryExecutor(service, policy)])


@pytest.mark.parametrize("metric", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_is_refused_at_save(start: Callable[[], TrainingClient], metric: float) -> None:
    with pytest.raises(InvalidRequest, match="metric"):
        start().save_state("000001", metric=metric)


def run_script(
    service: ServiceClient, client: TrainingClient, recovery: BlockingRecovery, steps: int, save_every: int
) -> tuple[dict[int, float], TrainingClient, int]:
    """The loop of docs/howto/recover-own-loop.md."""
    losses: dict[int, float] = {}
    recoveries, step = 0, 0
    while step < steps:
        try:
            recovery.check(client)
            losses[step + 1] = train(client, step + 1)
            step += 1
            if step % save_every == 0:
                client.save_state(f"{step:06d}", metric=losses[step]).result(timeout=120)
        except RunCorrupted as error:
            recovered = recovery.recover(client, str(error))
            client, step = recovered.client, recovered.checkpoint.step
            recoveries += 1
    return losses, client, recoveries


@pytest.mark.parametrize("mode", ["flag", "nan"])
def test_a_blocking_script_recovers_and_ends_as_an_undisturbed_one(
    service: ServiceClient, server: DevServer, start: Callable[[], TrainingClient], mode: str
) -> None:
    with BlockingRecovery(service, POLICY) as recovery:
        expected, _, _ = run_script(service, start(), recovery, 8, 3)
        client = start()
        recovery.monitor_run(client)
        server.fault(kind="corrupt", model_id=client.model_id, after_optim_steps=5, mode=mode)

        losses, newest, recoveries = run_script(service, client, recovery, 8, 3)

        assert losses == expected
        assert recoveries == 1
        assert recovery.stop_monitoring(newest), "the new run is polled in place of the old one"
        assert not recovery.stop_monitoring(client)


def check_until_it_raises(recovery: BlockingRecovery, client: TrainingClient) -> None:
    """The event comes a moment before the handler has the run."""
    while True:
        recovery.check(client)


def test_a_run_that_is_only_flagged_is_seen_by_the_monitor(
    service: ServiceClient, server: DevServer, start: Callable[[], TrainingClient]
) -> None:
    """It goes on answering, from scrambled weights; the script learns of it at its next check."""
    detected = threading.Event()
    names: list[str] = []

    def observe(event: RecoveryEvent) -> None:
        names.append(event.name.rpartition(".")[2])
        if names[-1] == "detected":
            detected.set()

    with BlockingRecovery(service, POLICY, observe=observe) as recovery:
        client = start()
        recovery.monitor_run(client)
        train(client, 1)
        client.save_state("000001").result(timeout=120)
        recovery.check(client)
        server.fault(kind="corrupt", model_id=client.model_id, mode="silent")
        assert detected.wait(30)
        with pytest.raises(RunCorrupted, match=client.model_id):
            check_until_it_raises(recovery, client)
        first = recovery.recover(client)
        assert recovery.recover(client) is first, "one recovery of a run, however often it is asked for"
        recovery.check(first.client)
    assert names == ["detected", "started", "checkpoint_selected", "client_created", "completed"]


def test_a_callback_that_blocks_is_an_event_and_no_deadlock(
    service: ServiceClient, server: DevServer, start: Callable[[], TrainingClient]
) -> None:
    """Callbacks run on the thread that computes results."""
    events: list[RecoveryEvent] = []

    def blocks(old: TrainingClient, new: TrainingClient, checkpoint: object) -> None:
        new.get_info().result(timeout=120)

    policy = POLICY.model_copy(update={"on_recovery": blocks})
    client = start()
    train(client, 1)
    client.save_state("000001").result(timeout=120)
    with BlockingRecovery(service, policy, observe=events.append) as recovery:
        recovery.recover(client)
    assert events[-1].name == "tinkex.recovery.callback_failed"
    assert WrongLoop.__name__ in str(events[-1].details["reason"])


def test_a_recovery_that_is_not_possible_raises_in_the_script(
    service: ServiceClient, server: DevServer, start: Callable[[], TrainingClient], tmp_path: Path
) -> None:
    failures: list[tuple[str, object]] = []
    policy = POLICY.model_copy(update={"on_failure": lambda *arguments: failures.append(arguments)})
    client = start()
    with BlockingRecovery(service, policy) as recovery, pytest.raises(NoCheckpoint):
        recovery.recover(client)
    assert failures == [(client.model_id, "no_checkpoint")]
