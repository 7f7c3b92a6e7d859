"""The fake backend follows its script and counts its effects."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backends.fake import FakeBackend
from backends.fake.checkpoints import FakeCheckpoints
from backends.fake.engine import FakeEngine
from backends.local.checkpoints import CheckpointPath
from backends.local.run import LocalRun
from crucible import (
    AnswerLost,
    CapacityError,
    CheckpointRef,
    Command,
    CrucibleError,
    InvalidRequest,
    NoCheckpoint,
    NotFound,
    Options,
    Prompt,
    RecoveryPolicy,
    RecoveryRequest,
    RequestTimeout,
    RunCorrupted,
    RunGone,
)
from crucible.testing.loop import run_opened
from crucible.training import Datum, LiveRun, LoraSpec, OptimizerSpec, Prepared, RunSpec, RunState, StepRequest

SPEC = RunSpec(base_model="tiny-lm", lora=LoraSpec(rank=4, seed=0))
BATCH = [Datum([1, 2, 3], {"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 1.0]})]


def prompt(**options: Any) -> Prompt:
    """A short prompt."""
    return Prompt(messages=[{"role": "user", "content": "Hi"}], options=Options(**options))


async def step(run: LiveRun, number: int, batch: list[Datum] = BATCH) -> float:
    """One optimizer step."""
    prepared = run.prepare_step(StepRequest(number, batch, OptimizerSpec(learning_rate=1e-2)))
    return (await (await run.send(prepared)).result()).loss


def test_scripted_failures_come_first_and_then_the_answers() -> None:
    """In order, each as often as scripted."""
    script = {
        "fail": [{"code": "timeout", "times": 2}, {"code": "capacity", "retry_after_ms": 50}],
        "answers": ["One.", "Two."],
    }

    async def body(backend: FakeBackend) -> list[str]:
        seen = []
        for _ in range(6):
            try:
                seen.append((await backend.complete(prompt())).text)
            except CrucibleError as exc:
                seen.append(f"{type(exc).__name__} {exc.retry_after_ms}")
        return seen

    seen = run_opened(FakeBackend({"script": script}), body)

    assert seen == [
        f"{RequestTimeout.__name__} None",
        f"{RequestTimeout.__name__} None",
        f"{CapacityError.__name__} 50",
        "One.",
        "Two.",
        "One.",
    ]


def test_a_kept_checkpoint_outlives_its_ttl(tmp_path: Path) -> None:
    """The expiry is stored beside the weights and removed there, so that other processes see it."""
    now = [1_000.0]
    store = FakeCheckpoints("fake", tmp_path, lambda: now[0])
    kept, left = (CheckpointPath.parse(f"fake://run/weights/{name}", "fake") for name in ("kept", "left"))
    for path in (kept, left):
        store.save(path, FakeEngine(SPEC), step=1, ttl_s=60)

    store.keep(kept)
    now[0] += 61

    assert FakeCheckpoints("fake", tmp_path, lambda: now[0]).load(kept, optimizer=True)[1].expires_at is None
    with pytest.raises(NotFound, match="has expired"):
        store.keep(left)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("mode", ["flag", "nan"])
def test_a_scripted_corruption_strikes_the_first_run_alone(mode: str) -> None:
    """The mode ``flag`` shows in the run's health, ``nan`` only in the loss."""

    async def body(backend: FakeBackend) -> None:
        run = await backend.start(SPEC)
        await step(run, 1)
        with pytest.raises(RunCorrupted):
            await step(run, 2)
        with pytest.raises(RunCorrupted):
            await step(run, 3)
        state = (await run.health()).state
        assert state is (RunState.CORRUPTED if mode == "flag" else RunState.ALIVE)
        if mode == "flag":
            assert isinstance(await run.watch(10), RunCorrupted)
        other = await backend.start(SPEC)
        for number in (1, 2, 3):
            await step(other, number)

    run_opened(FakeBackend({"script": {"corrupt": {"after_steps": 2, "mode": mode}}}), body)


def test_a_closed_run_is_gone() -> None:
    """Sending and attaching fail."""

    async def body(backend: FakeBackend) -> None:
        run = await backend.start(SPEC)
        await run.close(unload=True)
        with pytest.raises(RunGone):
            await step(run, 1)
        with pytest.raises(RunGone):
            await backend.attach(run.ref, next_seq_id=1)
        assert (await run.health()).state is RunState.GONE

    run_opened(FakeBackend(), body)


@pytest.mark.parametrize(
    ("batch", "named"),
    [
        ([], "batch"),
        ([Datum([], {"target_tokens": [], "weights": []})], "batch[0].target_tokens"),
        ([Datum([1, 2], {"target_tokens": [1], "weights": [1.0, 1.0]})], "batch[0].target_tokens"),
        ([Datum([1], {"target_tokens": [1], "weights": [float("nan")]})], "batch[0].weights"),
        ([Datum([320], {"target_tokens": [1], "weights": [1.0]})], "batch[0].tokens: 320"),
        ([Datum([1], {"target_tokens": [1], "weights": [0.0]})], "weights are all 0"),
    ],
    ids=["empty", "no tokens", "lengths", "nan", "vocabulary", "no weight"],
)
def test_a_bad_batch_is_refused_before_it_is_sent(batch: list[Datum], named: str) -> None:
    """The error names the example and the field; the run stays usable."""

    async def body(backend: FakeBackend) -> None:
        run = await backend.start(SPEC)
        with pytest.raises(InvalidRequest) as caught:
            await step(run, 1, batch)
        assert named in str(caught.value)
        assert await step(run, 1) > 0

    run_opened(FakeBackend(), body)


def test_a_failing_command_counts_across_instances() -> None:
    """The count continues in another process or instance; then the command succeeds."""
    command = Command(name="fail", arguments={"code": "timeout", "times": 2, "key": "k"})

    def once() -> object:
        try:
            return run_opened(FakeBackend(), lambda backend: backend.execute(command))
        except RequestTimeout:
            return "failed"

    assert [once() for _ in range(4)] == ["failed", "failed", {"failures": 2}, {"failures": 2}]


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [("noop", {}, {}), ("echo", {"value": [1, None]}, {"value": [1, None]}), ("sleep", {"ms": 1}, {"slept_ms": 1})],
)
def test_commands_do_what_they_are_called(name: str, arguments: dict[str, Any], result: object) -> None:
    """Each returns its documented result."""
    command = Command(name=name, arguments=arguments)

    assert run_opened(FakeBackend(), lambda backend: backend.execute(command)) == result


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (Command(name="fly"), "allowed are echo, fail, noop, sleep"),
        (Command(name="sleep"), "ms"),
        (Command(name="sleep", arguments={"ms": -1}), "ms"),
        (Command(name="noop", arguments={"x": 1}), "x"),
    ],
    ids=["unknown", "missing", "negative", "surplus"],
)
def test_a_wrong_command_is_refused(command: Command, named: str) -> None:
    """The error names the field and the allowed values, before anything runs."""
    with pytest.raises(InvalidRequest, match=named):
        run_opened(FakeBackend(), lambda backend: backend.check_command(command))


def test_a_checkpoint_expires(tmp_path: Path) -> None:
    """After its time to live it is not found."""
    from backends.fake.checkpoints import FakeCheckpoints
    from backends.fake.engine import FakeEngine
    from backends.local.checkpoints import CheckpointPath
    from crucible import NotFound

    now = 1000.0
    folder = FakeCheckpoints("fake", tmp_path, lambda: now)
    path = CheckpointPath.parse("fake://run/weights/a", "fake")
    folder.save(path, FakeEngine(SPEC), step=3, ttl_s=60)

    assert folder.info(path).step == 3
    now = 1061.0
    with pytest.raises(NotFound, match="expired"):
        folder.info(path)


def test_a_torn_checkpoint_is_unusable(tmp_path: Path) -> None:
    """A truncated file is reported as unreadable and never loaded."""

    async def body(backend: FakeBackend) -> None:
        from crucible import IntentKind

        run = await backend.start(SPEC)
        saved = await (await run.send(run.prepare_save("a", step=0, kind=IntentKind.SAVE_STATE))).result()
        file = tmp_path / saved.path.removeprefix("fake://") / "state.safetensors"
        file.write_bytes(file.read_bytes()[:100])
        policy = RecoveryPolicy(enabled=True, backoff_ms=0)
        request = RecoveryRequest(
            run.ref, SPEC, "test", policy, (CheckpointRef(path=saved.path, name="a", step=0),)
        )
        with pytest.raises(NoCheckpoint, match="cannot be read"):
            await backend.recover(request, observe=lambda event: None)

    run_opened(FakeBackend({"home": str(tmp_path)}), body)


def test_hundreds_of_runs_share_a_loop() -> None:
    """Each has its own weights, and equal runs train equally."""

    async def body(backend: FakeBackend) -> set[float]:
        runs = [await backend.start(SPEC) for _ in range(100)]
        return set(await asyncio.gather(*(step(run, 1) for run in runs)))

    assert len(run_opened(FakeBackend(), body)) == 1


def test_a_long_run_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations that no driver can have open leave the record: none of them is run again, and none stays."""
    monkeypatch.setattr("backends.local.run.REMEMBERED_STEPS", 4)

    async def body(backend: FakeBackend) -> None:
        run = await backend.start(SPEC)
        assert isinstance(run, LocalRun)
        requests = [StepRequest(number, BATCH, OptimizerSpec(learning_rate=1e-2)) for number in range(1, 11)]
        every: list[Prepared[Any]] = [
            prepared
            for request in requests
            for prepared in (run.prepare_forward(BATCH, step=request.step), run.prepare_step(request))
        ]
        outcomes = [(prepared, await (await run.send(prepared)).result()) for prepared in every]
        digest = run.weights_digest()
        for prepared, result in outcomes[11:]:
            assert await (await run.send(prepared)).result() is result
        for prepared, _ in outcomes[:11]:
            with pytest.raises(AnswerLost, match="no longer on record"):
                await run.send(prepared)
        assert run.weights_digest() == digest

    run_opened(FakeBackend({}), body)
