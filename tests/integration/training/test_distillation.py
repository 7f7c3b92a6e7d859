"""Distillation: targets of a teacher, kept once, the same after any death."""

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from backends.fake import FakeBackend
from backends.tinkex import ServiceClient
from backends.tinkex.backend import TinkexBackend
from backends.tinkex.types import AdamParams, ModelInput, TensorData
from backends.tinkex.types import Datum as WireDatum
from backends.tinkex_dev.server import DEV_KEY, DevServer
from crucible import ByteTokenizer, Tokenizer
from crucible.backend import TrainingBackend
from crucible.errors import RunGone
from crucible.losses import TARGETS
from crucible.token_sampler import SamplerRef, TokenSampler
from nsai_work.client.validation.teacher_check import check_penalty, check_teachers
from nsai_work.errors import InvalidJob, UnreadableJournal
from nsai_work.payloads import DistillationStep, JobKind, TrainingStep, parse_payload
from nsai_work.training.sources.data_source import open_batches
from nsai_work.training.sources.teacher import SoftTargets, TeacherModels
from tests.integration.training.harness import STEPS, Killed, Reaper, Scene, payload_of, write_data
from tests.integration.training.test_reinforcement import rl_payload

pytestmark = pytest.mark.anyio

STUDENT, TEACHER, OTHER = "llama-3.2-1b", "llama-3.2-3b", "tiny-lm"


def distillation(folder: Path, **fields: Any) -> Any:
    """A small job with one teacher, and an evaluation."""
    base = payload_of(folder).model_dump(mode="json", exclude_unset=True)
    settings = {"method": "distill", "base_model": STUDENT, "teacher": TEACHER, "top_k": 3}
    settings |= {"lora": {"rank": 4}, "optimizer": {"learning_rate": 0.003}}
    return parse_payload(JobKind.TRAINING_STEP, base | settings | fields)


def mixture(folder: Path) -> dict[str, Any]:
    """Two files, each with a teacher of its own."""
    (folder / "more").mkdir(exist_ok=True)
    sources = [
        {"path": str(write_data(folder)), "weight": 2.0, "teacher": TEACHER},
        {"path": str(write_data(folder / "more", examples=5)), "teacher": OTHER},
    ]
    return {"data": {"sources": sources}, "teacher": None}


def values(scene: Scene) -> list[Any]:
    """What a run comes to."""
    evaluations = [(record.step, record.metrics) for record in scene.journal.evaluations]
    return [*((step.loss, step.metrics) for step in scene.journal.steps), *evaluations]


@pytest.mark.parametrize("fields", [{}, {"eval": {"every": 3, "split": 0.3}}, "mixture"], ids=str)
async def test_killed_in_between(tmp_path: Path, fields: Any) -> None:
    """Losses and evaluations are those of a run left alone, and what a teacher said of a step is asked once."""
    fields = mixture(tmp_path) if fields == "mixture" else fields
    alone, counted = Scene(distillation(tmp_path, **fields), new_backend=FakeBackend), Reaper()
    await alone.drive(reaper=counted)
    assert [step.step for step in alone.journal.steps] == list(range(1, STEPS + 1))
    assert set(alone.journal.references) == set(range(1, STEPS + 1))
    assert alone.losses[-1] < alone.losses[0]
    for kill_at in range(9, counted.contacts, counted.contacts // 4):
        scene = Scene(distillation(tmp_path, **fields), new_backend=FakeBackend)
        try:
            await scene.drive(kill_at=kill_at)
        except Killed:
            before = dict(scene.journal.references)
            await scene.drive()
            assert before.items() <= scene.journal.references.items()
        assert values(scene) == values(alone)
        assert scene.journal.references == alone.journal.references


def test_the_first_20_losses_are_those_of_an_independent_loop(tmp_path: Path) -> None:
    """On the dev server, with two teachers: a loop of plain Python over the client, which asks the teachers and
    trains towards their renormalized tokens."""
    rate, steps, k = 0.001, 20, 3
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": DEV_KEY})

        fields: dict[str, Any] = {"base_model": STUDENT, "lora": {"rank": 4, "seed": 0}, "max_steps": steps}
        fields |= mixture(tmp_path) | {"optimizer": {"learning_rate": rate}, "batch_size": 2}
        scene = Scene(distillation(tmp_path, **fields), new_backend=new_backend)
        asyncio.run(scene.drive())
        killed = Scene(scene.payload, new_backend=new_backend)
        asyncio.run(killed.survive([31, 40]))

        batches = asyncio.run(_batches(scene.payload, new_backend()))
        service = ServiceClient(base_url=server.url, api_key=DEV_KEY)
        teachers = [service.create_sampling_client(base_model=name) for name in (TEACHER, OTHER)]
        client = service.create_lora_training_client(base_model=STUDENT, rank=4, seed=0)
        losses = []
        for batch in batches:
            data, total = [], 0.0
            for datum, origin in batch:
                soft = _soft(teachers[origin], datum, k)
                total += float(soft.loss_fn_inputs["weights"].to_numpy().sum())
                data.append(soft)
            output = client.forward_backward(data, "cross_entropy").result()
            client.optim_step(AdamParams(learning_rate=rate)).result()
            losses.append(output.metrics["loss:sum"] / total)
        service.close()

    assert scene.losses == pytest.approx(losses, rel=1e-6)
    assert values(killed) == values(scene)


async def _batches(payload: TrainingStep, backend: TrainingBackend) -> list[list[tuple[Any, int]]]:
    async def wait(work: Any) -> Any:
        return await work

    async with backend:
        plan, source, _, _ = await open_batches(payload, backend, wait)  # type: ignore[arg-type]
        batches = [await source.batch(step) for step in range(1, plan.total_steps + 1)]
        return [list(zip(batch.datums, batch.origins, strict=True)) for batch in batches]


def _soft(teacher: Any, datum: Any, k: int) -> WireDatum:
    import numpy as np

    given = ModelInput.from_ints([*datum.tokens, datum.loss_inputs[TARGETS][-1]])
    rows = teacher.compute_topk_logprobs(given, k).result()[1:]
    tokens = np.array([[token for token, _ in row] for row in rows])
    shares = np.array([[math.exp(logprob) for _, logprob in row] for row in rows])
    shares *= (np.asarray(datum.loss_inputs["weights"]) > 0)[:, None] / shares.sum(axis=1, keepdims=True)
    return WireDatum(
        model_input=ModelInput.from_ints(list(datum.tokens)),
        loss_fn_inputs={
            "target_tokens": TensorData.from_numpy(tokens),
            "weights": TensorData.from_numpy(shares.astype("f")),
        },
    )


REFUSED = {
    "no teacher": ({"teacher": None}, r"teacher: name a base model"),
    "a loss": ({"loss_fn": "ppo"}, "loss of its own"),
    "a teacher of sft": ({"method": "sft", "teacher": TEACHER}, r"payload\.teacher"),
    "no tokens": ({"top_k": 0}, r"payload\.top_k"),
}


@pytest.mark.parametrize(("fields", "named"), REFUSED.values(), ids=REFUSED)
def test_fields_that_distillation_cannot_have_are_refused(tmp_path: Path, fields: Any, named: str) -> None:
    """With the field."""
    with pytest.raises(InvalidJob, match=named):
        distillation(tmp_path, **fields)


def test_teachers_of_sources_are_refused_elsewhere_and_where_they_lack(tmp_path: Path) -> None:
    """The error names the source."""
    two = mixture(tmp_path)
    with pytest.raises(InvalidJob, match="only methods distill and rl have a teacher"):
        parse_payload(JobKind.TRAINING_STEP, {"base_model": STUDENT, "max_steps": 2, "data": two["data"]})
    del two["data"]["sources"][1]["teacher"]
    with pytest.raises(InvalidJob, match=r"data\.sources\[1\]\.teacher"):
        distillation(tmp_path, **two)


async def test_a_teacher_that_there_is_not_is_refused_at_submit(tmp_path: Path) -> None:
    """By its field: a name, and a path."""
    for name in ("nobody", "fake://run/weights/nothing"):
        payload = distillation(tmp_path, teacher=name)
        assert isinstance(payload, DistillationStep)
        async with FakeBackend() as backend:
            with pytest.raises(InvalidJob, match=r"payload\.teacher"):
                await check_teachers(backend, payload)


class OtherTokens(FakeBackend):
    """A backend one of whose base models has tokens of its own."""

    async def tokenizer(self, base_model: str) -> Tokenizer:
        return Shifted() if base_model == OTHER else await super().tokenizer(base_model)


class Shifted(ByteTokenizer):
    """A tokenizer whose tokens are others than those of the bytes."""

    def encode(self, text: str) -> list[int]:
        return [token + 1 for token in super().encode(text)]


async def test_a_model_with_other_tokens_is_refused(tmp_path: Path) -> None:
    """At submit by name, by path and as the reference of a penalty; when it is opened, wherever it comes from."""
    made = Scene(payload_of(tmp_path, base_model=OTHER, max_steps=1), new_backend=FakeBackend)
    path = str((await made.drive())["model"])
    async with OtherTokens() as backend:
        for named in (OTHER, path):
            refused = rf"{named}' is not allowed; its tokens are .*not those of '{STUDENT}'"
            with pytest.raises(InvalidJob, match=rf"payload\.teacher: '{refused}"):
                await check_teachers(backend, distillation(tmp_path, teacher=named))
            with pytest.raises(InvalidJob, match=rf"payload\.kl\.reference: '{refused}"):
                await check_penalty(backend, rl_payload(base_model=STUDENT, kl={"coef": 1.0, "reference": named}))
            with pytest.raises(InvalidJob, match=rf"payload\.teacher: '{refused}"):
                await TeacherModels(backend, STUDENT, field="payload.teacher").top_tokens(named, [72, 105], 2)
        await check_teachers(backend, distillation(tmp_path, teacher=path, base_model=OTHER))
        with pytest.raises(InvalidJob, match=r"payload\.kl\.reference: 'nobody'"):
            await check_penalty(backend, rl_payload(kl={"coef": 1.0, "reference": "nobody"}))


class Forgetful(FakeBackend):
    """A backend whose first sampler has lost its session."""

    opened = 0

    async def sampler(self, model: str) -> TokenSampler:
        self.opened += 1
        return Gone() if self.opened == 1 else await super().sampler(model)


class Gone(TokenSampler):
    """A sampler whose session has ended."""

    @property
    def ref(self) -> SamplerRef:
        return SamplerRef(backend="fake", model=TEACHER)

    async def sample(self, *args: Any, **kwargs: Any) -> Any:
        raise RunGone("its session has ended")

    async def top_tokens(self, tokens: Sequence[int], k: int) -> Any:
        raise RunGone("its session has ended")


async def test_a_teacher_whose_session_has_ended_is_opened_anew() -> None:
    """Once, by whoever notices first."""
    async with Forgetful() as backend:
        models = TeacherModels(backend, STUDENT, field="payload.teacher")
        both = await asyncio.gather(*(models.top_tokens(TEACHER, [72, 105, 33], 2) for _ in range(2)))
        await models.close()
    assert both[0] == both[1]
    assert [len(each) for each in both[0]] == [2, 2]
    assert backend.opened == 2


def test_kept_targets_that_do_not_fit_are_refused() -> None:
    """They are named by table and row."""
    for data in (b"nonsense", SoftTargets.packed(SoftTargets(*_two()))):
        with pytest.raises(UnreadableJournal, match=r"nsai_references, row of number 7"):
            SoftTargets.unpacked(data, 3, 7)


def _two() -> tuple[Any, Any]:
    from array import array

    return array("i", [1, 2]), array("f", [0.5, 0.5])
