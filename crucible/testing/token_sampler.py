"""The contract tests of token samplers, and of the loss functions of sampled tokens."""

import math
from collections.abc import Sequence

import pytest

from crucible.backend import TrainingBackend
from crucible.errors import Unsupported
from crucible.losses import ADVANTAGES, LOGPROBS, MASK, POLICY_LOSSES, TARGETS
from crucible.testing.loop import run_opened
from crucible.testing.training_base import TrainingContract
from crucible.token_sampler import SamplingSpec, TokenSample, TokenSampler
from crucible.training import Datum, IntentKind, LiveRun, OptimizerSpec, SequenceSpan, StepRequest

_PROMPT = [{"role": "user", "content": "What grows on the apple tree?"}]
_SETTINGS = SamplingSpec(max_tokens=6)
_SEED, _KEY = 2**53 - 3, 2**53 - 1
_UNEQUAL = 1e-3
"""A sample and a training pass may compute a log-probability in another order."""


class SamplerContract(TrainingContract):
    """The suite. ``TrainingBackendContract`` includes it. A backend without ``policy_losses`` must refuse
    samplers."""

    learning_rate = 1e-2

    def test_its_policy_losses_are_known(self, backend: TrainingBackend) -> None:
        """Each is in the table of ``crucible.losses``."""
        assert set(backend.policy_losses) <= set(POLICY_LOSSES)

    def test_samplers_are_repeatable(self, backend: TrainingBackend) -> None:
        """A sampler of a run's weights repeats a request under its key bit for bit, also when it is opened again by
        its reference; other seeds give other tokens, and a temperature of 0 the same for all seeds."""

        async def body(opened: TrainingBackend) -> None:
            run = await opened.start(self.spec)
            if not opened.policy_losses:
                with pytest.raises(Unsupported):
                    await run.sampler("path")
                with pytest.raises(Unsupported):
                    await opened.sampler(self.spec.base_model)
                return
            prompt = await self._prompt(opened)
            path = await self._saved(run, "contract-sampler")
            sampler = await run.sampler(path)
            first = await sampler.sample(prompt, 2, _SETTINGS, seed=_SEED, key=_KEY)
            ref = type(sampler.ref).model_validate_json(sampler.ref.model_dump_json())
            again = await run.sampler(path, ref=ref)
            assert list(await again.sample(prompt, 2, _SETTINGS, seed=_SEED, key=_KEY)) == list(first)
            assert all(len(each.tokens) == len(each.logprobs) <= _SETTINGS.max_tokens for each in first)
            assert all(each.stopped or len(each.tokens) == _SETTINGS.max_tokens for each in first)
            assert first[0].tokens != first[1].tokens
            many = [(await again.sample(prompt, 1, _SETTINGS, seed=seed, key=seed))[0].tokens for seed in range(4)]
            assert len(set(many)) > 1
            greedy = _SETTINGS.model_copy(update={"temperature": 0.0})
            best = [(await again.sample(prompt, 1, greedy, seed=seed, key=9 + seed))[0].tokens for seed in range(2)]
            assert best[0] == best[1]
            stop = _SETTINGS.model_copy(update={"stop_tokens": (first[0].tokens[0],)})
            [cut] = await again.sample(prompt, 1, stop, seed=_SEED, key=99)
            assert (cut.tokens, cut.stopped) == (first[0].tokens[:1], True)
            await sampler.close()
            await run.close(unload=True)

        run_opened(backend, body)

    def test_given_tokens_are_scored(self, backend: TrainingBackend) -> None:
        """The scores of sampled tokens are the log-probabilities with which they were sampled; a new run has those
        of its base model."""

        async def body(opened: TrainingBackend) -> None:
            if not opened.policy_losses:
                return
            run, prompt = await opened.start(self.spec), await self._prompt(opened)
            path = await self._saved(run, "contract-scores")
            sampler, base = await run.sampler(path), await opened.sampler(self.spec.base_model)
            for known in (base, await opened.sampler(path)):
                assert known.base_model in (None, self.spec.base_model)
            [sample] = await sampler.sample(prompt, 1, _SETTINGS, seed=1, key=1)
            for scored in (sampler, base):
                scores = await scored.score([*prompt, *sample.tokens])
                assert len(scores) == len(prompt) + len(sample.tokens) - 1
                assert list(scores[len(prompt) - 1 :]) == pytest.approx(sample.logprobs, rel=_UNEQUAL, abs=_UNEQUAL)
            await run.close(unload=True)

        run_opened(backend, body)

    def test_soft_targets_are_learned(self, backend: TrainingBackend) -> None:
        """A step towards the most likely tokens of the base model has its cross entropy as its loss; without
        ``supports_soft_targets`` samplers do not say which tokens these are."""

        async def body(opened: TrainingBackend) -> None:
            if not opened.policy_losses:
                return
            prompt, base = await self._prompt(opened), await opened.sampler(self.spec.base_model)
            if not (await opened.capabilities()).supports_soft_targets:
                with pytest.raises(Unsupported):
                    await base.top_tokens(prompt, 2)
                return
            top = await base.top_tokens(prompt, 2)
            assert [len(each) for each in top] == [2] * (len(prompt) - 1)
            assert all(first >= second for (_, first), (_, second) in top)
            scores = await base.score(prompt)
            for best, token, logprob in zip(top, prompt[1:], scores, strict=True):
                assert best[0][1] >= logprob - _UNEQUAL
                assert dict(best).get(token, logprob) == pytest.approx(logprob, rel=_UNEQUAL, abs=_UNEQUAL)
            targets = [token for each in top for token, _ in each]
            weights = [math.exp(logprob) for each in top for _, logprob in each]
            datum = Datum(prompt[:-1], {TARGETS: targets, "weights": weights})
            run = await opened.start(self.spec)
            request = StepRequest(1, [datum], OptimizerSpec(learning_rate=self.learning_rate))
            result = await (await run.send(run.prepare_step(request))).result()
            entropy = -sum(math.exp(logprob) * logprob for each in top for _, logprob in each)
            assert result.loss == pytest.approx(entropy / sum(weights), rel=_UNEQUAL)
            assert result.logprobs is not None
            assert len(result.logprobs[0]) == len(targets)
            await run.close(unload=True)

        run_opened(backend, body)

    def test_an_advantage_makes_its_tokens_likelier(self, backend: TrainingBackend) -> None:
        """With every loss function that the backend lists; the loss and the log-probabilities are reported."""

        async def body(opened: TrainingBackend) -> None:
            for name in opened.policy_losses:
                run, prompt = await opened.start(self.spec), await self._prompt(opened)
                sampler = await run.sampler(
                    await self._saved(run, f"contract-{name}"),
                    record_sequences=POLICY_LOSSES[name].binds_sequences,
                )
                [sample] = await sampler.sample(prompt, 1, _SETTINGS, seed=1, key=1)
                datum = policy_datum(prompt, sample, name)
                request = StepRequest(1, [datum], OptimizerSpec(learning_rate=self.learning_rate), loss_fn=name)
                result = await (await run.send(run.prepare_step(request))).result()
                assert math.isfinite(result.loss), name
                if name == "importance_sampling":
                    assert result.loss == pytest.approx(-1.0, rel=_UNEQUAL)
                assert result.logprobs is not None
                trained = list(result.logprobs[0])[len(prompt) - 1 :]
                assert trained == pytest.approx(sample.logprobs, rel=_UNEQUAL, abs=_UNEQUAL), name
                after = await self._score(run, f"contract-{name}-after", [*prompt, *sample.tokens])
                assert sum(after[len(prompt) - 1 :]) > sum(sample.logprobs), name
                await run.close(unload=True)

        run_opened(backend, body)

    async def _prompt(self, backend: TrainingBackend) -> list[int]:
        return (await backend.tokenizer(self.spec.base_model)).render_prompt(_PROMPT)

    async def _saved(self, run: LiveRun, name: str) -> str:
        prepared = run.prepare_save(name, step=0, kind=IntentKind.SAVE_SAMPLER)
        return (await (await run.send(prepared)).result()).path

    async def _score(self, run: LiveRun, name: str, tokens: Sequence[int]) -> Sequence[float]:
        sampler: TokenSampler = await run.sampler(await self._saved(run, name))
        return await sampler.score(tokens)


def policy_datum(prompt: Sequence[int], sample: TokenSample, loss_fn: str, advantage: float = 1.0) -> Datum:
    """Return the datum of a sample: zero advantages over the prompt, ``advantage`` over the sampled tokens."""
    given, drawn = len(prompt) - 1, len(sample.tokens)
    inputs: dict[str, Sequence[int] | Sequence[float]] = {
        TARGETS: [*prompt[1:], *sample.tokens],
        LOGPROBS: [0.0] * given + list(sample.logprobs),
        ADVANTAGES: [0.0] * given + [advantage] * drawn,
    }
    if MASK in POLICY_LOSSES[loss_fn].inputs:
        inputs[MASK] = [0.0] * given + [1.0] * drawn
    tokens = [*prompt, *sample.tokens[:-1]]
    if sample.sequence_id is None or not POLICY_LOSSES[loss_fn].binds_sequences:
        return Datum(tokens, inputs)
    name = sample.sequence_id
    return Datum(
        tokens,
        inputs,
        (SequenceSpan(name, 0, len(prompt), of_prompt=True), SequenceSpan(name, 0, drawn - 1)),
        (SequenceSpan(name, 1, given, of_prompt=True), SequenceSpan(name, 0, drawn)),
    )
