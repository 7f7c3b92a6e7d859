"""The contract test suite of training backends: steps, saves, exact resumption, refusals."""

import math
from collections.abc import Sequence

import pytest

from crucible.backend import Backend, TrainingBackend
from crucible.errors import CrucibleError, InvalidRequest, NoCheckpoint, NotFound, Unsupported
from crucible.recovery import RecoveryEvent, RecoveryPolicy, RecoveryRequest
from crucible.rendering.tokenizer import Tokenizer
from crucible.testing.download import DownloadContract
from crucible.testing.images import ImageContract
from crucible.testing.loop import run_opened
from crucible.testing.token_sampler import SamplerContract
from crucible.training import (
    CheckpointRef,
    Datum,
    IntentKind,
    LiveRun,
    LoraSpec,
    OptimizerSpec,
    RunRef,
    RunSpec,
    RunState,
    SaveResult,
    StepRequest,
    StepResult,
)

_EXPECTED_EVENTS = ("started", "checkpoint_selected", "client_created", "completed")
_CONVERSATIONS = (
    ("What grows on the apple tree?", "Apples grow on it."),
    ("What grows on the pear tree?", "Pears grow on it."),
)


class TrainingBackendContract(SamplerContract, DownloadContract, ImageContract):
    """The suite, which includes ``BackendContract`` and those of samplers, downloads and images. Subclass it with a
    ``backend`` fixture."""

    base_model = "tiny-lm"
    rank = 8
    learning_rate = 1e-2
    tolerance = 0.0
    """The relative difference up to which two losses are equal; 0.0 for a deterministic service."""

    @property
    def spec(self) -> RunSpec:
        """The specification of the suite's runs."""
        return RunSpec(base_model=self.base_model, lora=LoraSpec(rank=self.rank, seed=0))

    def test_it_claims_to_train(self, backend: Backend) -> None:
        """The capabilities of a training backend include training."""
        assert self.claimed(backend).supports_training

    def test_its_losses_are_claimed(self, backend: TrainingBackend) -> None:
        """The class and the capabilities list the same losses; the suite's loss is among them."""
        assert self.claimed(backend).losses == backend.losses
        assert not backend.losses or "cross_entropy" in backend.losses

    def test_an_unknown_base_model_is_refused(self, backend: TrainingBackend) -> None:
        """The error names the field; no run is created."""
        spec = RunSpec(base_model="no-such-model-anywhere")
        with pytest.raises(InvalidRequest, match="base_model"):
            run_opened(backend, lambda opened: opened.check_spec(spec))

    def test_a_tokenizer_renders_examples(self, backend: TrainingBackend) -> None:
        """Its ids are within its vocabulary, and only the assistant's turns are trained."""
        tokenizer = run_opened(backend, lambda opened: opened.tokenizer(self.base_model))
        example = tokenizer.render_example(_messages(0))

        assert all(0 <= token < tokenizer.vocab_size for token in example.tokens)
        assert len(example.tokens) == len(example.weights)
        assert 0 < sum(example.weights) < len(example.weights)
        assert tokenizer.decode(tokenizer.encode("Grüß Gott")) == "Grüß Gott"

    def test_preparing_sends_nothing_and_repeats(self, backend: TrainingBackend) -> None:
        """Sequence numbers are reserved in order, and equal requests have equal digests in every run."""

        async def body(opened: TrainingBackend) -> None:
            batch = await self._batch(opened)
            run, other = await opened.start(self.spec), await opened.start(self.spec)
            first, again = run.prepare_step(self._step(1, batch)), other.prepare_step(self._step(1, batch))
            second = run.prepare_step(self._step(2, batch))
            assert first.intent.digest == again.intent.digest != second.intent.digest
            assert second.intent.first_seq_id == first.intent.last_seq_id + 1
            assert run.next_seq_id == second.intent.last_seq_id + 1
            assert (first.intent.kind, first.intent.step) == (IntentKind.STEP, 1)
            await run.close(unload=True)
            await other.close(unload=True)

        run_opened(backend, body)

    def test_it_learns(self, backend: TrainingBackend) -> None:
        """Training on a batch lowers its loss, also when steps are sent before earlier results arrive."""

        async def body(opened: TrainingBackend) -> list[float]:
            run = await opened.start(self.spec)
            losses = await self._train(run, await self._batch(opened), 1, 8)
            await run.close(unload=True)
            return losses

        losses = run_opened(backend, body)

        assert losses[-1] < 0.98 * losses[0]

    def test_every_step_has_the_listed_metrics(self, backend: TrainingBackend) -> None:
        """A job may choose its best checkpoint by any of them."""

        async def body(opened: TrainingBackend) -> set[str]:
            run = await opened.start(self.spec)
            pending = await run.send(run.prepare_step(self._step(1, await self._batch(opened))))
            result = await pending.result()
            await run.close(unload=True)
            return {name for name, value in result.metrics.items() if math.isfinite(value)}

        assert set(backend.metrics) <= run_opened(backend, body)

    def test_a_run_is_repeatable(self, backend: TrainingBackend) -> None:
        """Equal specs, seeds and data give equal losses."""

        async def body(opened: TrainingBackend) -> list[list[float]]:
            batch = await self._batch(opened)
            return [await self._train(await opened.start(self.spec), batch, 1, 3) for _ in range(2)]

        first, second = run_opened(backend, body)

        assert first == pytest.approx(second, rel=self.tolerance, abs=0)

    def test_a_repeated_intent_counts_once(self, backend: TrainingBackend) -> None:
        """A repeated step has no further effect on a service that replays."""

        async def body(opened: TrainingBackend) -> None:
            batch = await self._batch(opened)
            run, alone = await opened.start(self.spec), await opened.start(self.spec)
            if not run.features.replays:
                return
            prepared = run.prepare_step(self._step(1, batch))
            first = await (await run.send(prepared)).result()
            second = await (await run.send(prepared)).result()
            assert first.loss == second.loss
            assert await self._train(run, batch, 2, 2) == await self._after(alone, batch)

        run_opened(backend, body)

    def test_a_forward_pass_changes_nothing(self, backend: TrainingBackend) -> None:
        """Claimed, it is numbered, gives the log-probabilities behind the next step's loss, and leaves the run as
        it was; a repeat has the same answer where the service replays. Not claimed, it is refused."""

        async def body(opened: TrainingBackend) -> None:
            batch = await self._batch(opened)
            run, alone = await opened.start(self.spec), await opened.start(self.spec)
            first = await self._train(run, batch, 1, 1)
            if not (await opened.capabilities()).supports_forward:
                with pytest.raises(Unsupported):
                    run.prepare_forward(batch, step=1, name="contract")
                return
            before = run.next_seq_id
            prepared = run.prepare_forward(batch, step=1, name="contract")
            other = run.prepare_forward(batch[:1], step=1, name="contract")
            intent = prepared.intent
            assert (intent.kind, intent.step, intent.name) == (IntentKind.FORWARD, 1, "contract")
            assert intent.digest != other.intent.digest
            assert (intent.first_seq_id, other.intent.first_seq_id) == (before, intent.last_seq_id + 1)
            pending, second = await run.send(prepared), await run.send(other)
            result = await pending.result()
            assert [len(array) for array in result.logprobs] == [len(datum.tokens) for datum in batch]
            assert list((await second.result()).logprobs[0]) == pytest.approx(list(result.logprobs[0]), rel=1e-3)
            if run.features.replays:
                assert (await (await run.send(prepared)).result()).logprobs == result.logprobs
            rest = await self._train(run, batch, 2, 2)
            assert _loss(batch, result.logprobs) == pytest.approx(rest[0], rel=max(self.tolerance, 1e-4))
            assert first + rest == pytest.approx(await self._train(alone, batch, 1, 3), rel=self.tolerance, abs=0)
            await run.close(unload=True)
            await alone.close(unload=True)

        run_opened(backend, body)

    def test_another_process_may_take_over(self, backend: TrainingBackend) -> None:
        """A live run can be attached to by its ref, with continued sequence numbers, or attaching is refused."""

        async def body(opened: TrainingBackend) -> None:
            batch = await self._batch(opened)
            run, alone = await opened.start(self.spec), await opened.start(self.spec)
            first = await self._train(run, batch, 1, 1)
            ref = type(run.ref).model_validate_json(run.ref.model_dump_json())
            await run.close()
            try:
                taken = await opened.attach(ref, next_seq_id=run.next_seq_id)
            except CrucibleError as exc:
                assert exc.code in ("unsupported", "run_gone")  # noqa: PT017 - either answer is within the contract
                return
            assert (await taken.health()).state is RunState.ALIVE
            rest = await self._train(taken, batch, 2, 2)
            assert first + rest == await self._train(alone, batch, 1, 3)

        run_opened(backend, body)

    def test_a_checkpoint_resumes_exactly(self, backend: TrainingBackend) -> None:
        """A run recovered with its optimizer continues with the losses of the original."""

        async def body(opened: TrainingBackend) -> tuple[list[float], list[float], list[RecoveryEvent]]:
            batch = await self._batch(opened)
            run = await opened.start(self.spec)
            await self._train(run, batch, 1, 3)
            saved = await self._save(run, "contract-a", 3)
            continued = await self._train(run, batch, 4, 3)
            events: list[RecoveryEvent] = []
            ref = CheckpointRef(path=saved.path, name="contract-a", step=3)
            recovered = await opened.recover(self._request(run, ref), observe=events.append)
            assert recovered.checkpoint.path == saved.path
            assert recovered.run.ref.run_id != run.ref.run_id
            assert recovered.optimizer_requested
            return continued, await self._train(recovered.run, batch, 4, 3), events

        continued, resumed, events = run_opened(backend, body)

        assert resumed == pytest.approx(continued, rel=self.tolerance, abs=0)
        names = [event.name.rpartition(".")[2] for event in events]
        assert [name for name in names if name in _EXPECTED_EVENTS] == list(_EXPECTED_EVENTS)

    def test_the_weights_of_a_checkpoint_start_another_run(self, backend: TrainingBackend) -> None:
        """A run of which the backend knows nothing begins with the weights alone, without the optimizer's state."""

        async def body(opened: TrainingBackend) -> tuple[list[float], list[float]]:
            batch = await self._batch(opened)
            run = await opened.start(self.spec)
            await self._train(run, batch, 1, 3)
            saved = await self._save(run, "contract-w", 3)
            continued = await self._train(run, batch, 4, 2)
            request = RecoveryRequest(
                RunRef(backend=opened.name, run_id="init_from"),
                self.spec,
                "contract test",
                RecoveryPolicy(enabled=True, max_attempts=1, restore_optimizer=False),
                (CheckpointRef(path=saved.path, name="init_from", step=0),),
            )
            started = await opened.recover(request, observe=lambda event: None)
            assert not started.optimizer_requested
            return continued, await self._train(started.run, batch, 1, 2)

        continued, started = run_opened(backend, body)

        assert started[0] == pytest.approx(continued[0], rel=self.tolerance, abs=0)
        assert started[1] != continued[1]

    def test_a_repeated_save_is_adopted(self, backend: TrainingBackend) -> None:
        """A save that is repeated under our name adopts the earlier save."""

        async def body(opened: TrainingBackend) -> None:
            run = await opened.start(self.spec)
            await self._train(run, await self._batch(opened), 1, 1)
            first, second = await self._save(run, "contract-b", 1), await self._save(run, "contract-b", 1)
            assert (first.path, first.adopted) == (second.path, False)
            assert second.adopted

        run_opened(backend, body)

    def test_a_bad_checkpoint_is_passed_over(self, backend: TrainingBackend) -> None:
        """A deleted checkpoint is rejected with an event, and the next older one is restored."""

        async def body(opened: TrainingBackend) -> None:
            batch = await self._batch(opened)
            run = await opened.start(self.spec)
            await self._train(run, batch, 1, 1)
            old = await self._save(run, "contract-old", 1)
            await self._train(run, batch, 2, 1)
            new = await self._save(run, "contract-new", 2)
            await opened.delete_checkpoint(new.path)
            await opened.delete_checkpoint(new.path)
            assert not (await opened.check_checkpoint(new.path, self.spec)).usable
            assert (await opened.check_checkpoint(old.path, self.spec)).usable
            events: list[str] = []
            request = self._request(
                run,
                CheckpointRef(path=new.path, name="contract-new", step=2),
                CheckpointRef(path=old.path, name="contract-old", step=1),
            )
            recovered = await opened.recover(request, observe=lambda event: events.append(event.name))
            assert recovered.checkpoint.path == old.path
            assert any(name.endswith(".checkpoint_rejected") for name in events)

        run_opened(backend, body)

    def test_a_checkpoint_is_kept_on_request(self, backend: TrainingBackend) -> None:
        """Keeping a checkpoint twice is harmless. Keeping a deleted one raises NotFound, unless checkpoints of this
        backend never expire."""

        async def body(opened: TrainingBackend) -> None:
            run = await opened.start(self.spec)
            await self._train(run, await self._batch(opened), 1, 1)
            saved = await self._save(run, "contract-d", 1, ttl_s=3600)
            await opened.keep_checkpoint(saved.path)
            await opened.keep_checkpoint(saved.path)
            assert (await opened.check_checkpoint(saved.path, self.spec)).usable
            await opened.delete_checkpoint(saved.path)
            if type(opened).keep_checkpoint is not TrainingBackend.keep_checkpoint:
                with pytest.raises(NotFound):
                    await opened.keep_checkpoint(saved.path)

        run_opened(backend, body)

    def test_a_checkpoint_of_another_shape_is_unusable(self, backend: TrainingBackend) -> None:
        """A checkpoint of another rank is unusable."""

        async def body(opened: TrainingBackend) -> None:
            run = await opened.start(self.spec)
            await self._train(run, await self._batch(opened), 1, 1)
            saved = await self._save(run, "contract-c", 1)
            other = RunSpec(base_model=self.base_model, lora=LoraSpec(rank=self.rank * 2, seed=0))
            check = await opened.check_checkpoint(saved.path, other)
            assert not check.usable
            assert check.reason
            assert "rank" in check.reason

        run_opened(backend, body)

    def test_without_a_checkpoint_there_is_no_recovery(self, backend: TrainingBackend) -> None:
        """``NoCheckpoint`` is raised."""

        async def body(opened: TrainingBackend) -> None:
            run = await opened.start(self.spec)
            with pytest.raises(NoCheckpoint):
                await opened.recover(self._request(run), observe=lambda event: None)

        run_opened(backend, body)

    def test_a_trained_checkpoint_answers(self, backend: TrainingBackend) -> None:
        """A path of sampling weights is a valid model."""

        async def body(opened: TrainingBackend) -> str:
            run = await opened.start(self.spec)
            await self._train(run, await self._batch(opened), 1, 2)
            prepared = run.prepare_save("contract-s", step=2, kind=IntentKind.SAVE_SAMPLER)
            saved = await (await run.send(prepared)).result()
            completion = await opened.complete(self.prompt(_CONVERSATIONS[0][0], model=saved.path))
            return completion.model or ""

        assert run_opened(backend, body)

    async def _batch(self, backend: TrainingBackend) -> Sequence[Datum]:
        tokenizer = await backend.tokenizer(self.base_model)
        return [_datum(tokenizer, index) for index in range(len(_CONVERSATIONS))]

    def _step(self, step: int, batch: Sequence[Datum]) -> StepRequest:
        return StepRequest(step, batch, OptimizerSpec(learning_rate=self.learning_rate))

    async def _train(self, run: LiveRun, batch: Sequence[Datum], first: int, count: int) -> list[float]:
        """The losses of ``count`` steps, all sent before the first result is awaited."""
        steps = range(first, first + count)
        pending = [await run.send(run.prepare_step(self._step(step, batch))) for step in steps]
        results: list[StepResult] = [await operation.result() for operation in pending]
        return [result.loss for result in results]

    async def _after(self, run: LiveRun, batch: Sequence[Datum]) -> list[float]:
        return (await self._train(run, batch, 1, 3))[1:]

    async def _save(self, run: LiveRun, name: str, step: int, ttl_s: int | None = None) -> SaveResult:
        prepared = run.prepare_save(name, step=step, kind=IntentKind.SAVE_STATE, ttl_s=ttl_s)
        return await (await run.send(prepared)).result()

    def _request(self, run: LiveRun, *candidates: CheckpointRef) -> RecoveryRequest:
        policy = RecoveryPolicy(enabled=True, max_attempts=2, backoff_ms=10)
        return RecoveryRequest(run.ref, self.spec, "contract test", policy, candidates)


def _messages(index: int) -> list[dict[str, str]]:
    question, answer = _CONVERSATIONS[index]
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _loss(batch: Sequence[Datum], logprobs: Sequence[Sequence[float]]) -> float:
    """The weighted mean of a batch, in nats per token."""
    weights = [weight for datum in batch for weight in datum.loss_inputs["weights"]]
    flat = [value for array in logprobs for value in array]
    return -math.fsum(w * p for w, p in zip(weights, flat, strict=True) if w) / math.fsum(weights)


def _datum(tokenizer: Tokenizer, index: int) -> Datum:
    example = tokenizer.render_example(_messages(index))
    inputs = {"target_tokens": example.tokens[1:], "weights": example.weights[1:]}
    return Datum(example.tokens[:-1], inputs)
