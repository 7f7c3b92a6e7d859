"""Direct preference optimization: its loss, its reference, and that a death changes no bit of either."""

import asyncio
import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.fake import FakeBackend
from backends.tinkex import ServiceClient
from backends.tinkex.backend import TinkexBackend
from backends.tinkex.types import AdamParams, ModelInput
from backends.tinkex.types import Datum as WireDatum
from backends.tinkex_dev.server import DevServer
from crucible.errors import NoCheckpoint
from crucible.training import Datum, IntentKind
from nsai_work.data.dataset import load_data
from nsai_work.data.rendering.datums import Datums
from nsai_work.errors import InvalidJob, UnreadableJournal
from nsai_work.payloads import JobKind, PreferenceStep, TrainingData, parse_payload
from nsai_work.training.sources import preference
from nsai_work.training.sources.data_source import rendering_of
from nsai_work.training.sources.preference import REFERENCE, dpo
from tests.integration.training.harness import STEPS, Reaper, Scene, payload_of
from tests.integration.training.service import Service
from tests.integration.training.test_survival import SERVICES

pytestmark = pytest.mark.anyio


def write_pairs(folder: Path, pairs: int = 10) -> Path:
    """Pairs that differ from line to line, in both forms."""
    path = folder / "pairs.jsonl"
    rows: list[dict[str, Any]] = []
    for number in range(1, pairs + 1):
        question, good, bad = f"What is {number} plus 1?", f"It is {number + 1}.", "No idea" + "!" * number
        if number % 2:
            rows.append({"prompt": question, "chosen": good, "rejected": bad})
        else:
            asked = {"role": "user", "content": question}
            answers = [[asked, {"role": "assistant", "content": answer}] for answer in (good, bad)]
            rows.append({"chosen": answers[0], "rejected": answers[1]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs_payload(folder: Path, **fields: Any) -> Any:
    """A small job on pairs, with an evaluation."""
    base = payload_of(folder).model_dump(mode="json", exclude_unset=True)
    settings = {
        "method": "dpo",
        "data": {"path": str(write_pairs(folder))},
        "batch_size": 3,
        "beta": 0.2,
        "eval": {"every": 3, "split": 0.3},
    }
    return parse_payload(JobKind.TRAINING_STEP, base | settings | fields)


def values(scene: Scene) -> list[Any]:
    """What a run comes to: its losses with their metrics, and its evaluations."""
    steps = [(step.loss, step.metrics) for step in scene.journal.steps]
    return [*steps, *((record.step, record.metrics) for record in scene.journal.evaluations)]


def test_the_gradient_is_that_of_the_loss() -> None:
    """By finite differences; and the value by the formula, also far from zero, where exponentials overflow."""
    data = [Datum([1, 2], {"weights": [0.0, 1.0], REFERENCE: [-1.0, -2.0 - place]}) for place in range(4)]
    logprobs = [[math.nan, -1.5], [math.nan, -2.5], [math.nan, -0.25], [math.nan, -3.0]]
    loss, gradients, metrics = dpo(data, logprobs, beta=0.5)
    rewards = [0.5 * (logprobs[place][1] - (-2.0 - place)) for place in range(4)]
    margins = [rewards[0] - rewards[1], rewards[2] - rewards[3]]
    assert loss == pytest.approx(sum(math.log(1 + math.exp(-margin)) for margin in margins) / 2, rel=1e-12)
    assert metrics["margin"] == pytest.approx(sum(margins) / 2)
    assert metrics["accuracy"] == sum(margin > 0 for margin in margins) / 2
    for place in range(4):
        moved = [list(each) for each in logprobs]
        moved[place][1] += 1e-6
        assert gradients[place][1] == pytest.approx((dpo(data, moved, beta=0.5)[0] - loss) / 1e-6, abs=1e-5)
        assert gradients[place][0] == 0.0
    far = dpo(data[:2], [[0.0, -9000.0], [0.0, 0.0]], beta=1.0)
    assert math.isfinite(far[0])
    assert all(math.isfinite(value) for each in far[1] for value in each)


@pytest.mark.parametrize("service", [{}, {"replays": False}], ids=str)
async def test_killed_at_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: dict[str, Any]
) -> None:
    """While the reference is computed too: each of its passes is kept once."""
    monkeypatch.setattr(preference, "ROWS_PER_PASS", 4)
    alone = Scene(pairs_payload(tmp_path), Service(**service))
    counted = Reaper()
    await alone.drive(reaper=counted)
    assert len(alone.journal.references) == 3
    for kill_at in [*range(1, 20, 2), *range(20, counted.contacts + 1, 9)]:
        scene = Scene(pairs_payload(tmp_path), Service(**service))
        await scene.survive([kill_at])
        assert [step.step for step in scene.journal.steps] == list(range(1, STEPS + 1))
        assert values(scene) == values(alone)
        assert scene.journal.references == alone.journal.references


@settings(max_examples=8, derandomize=True)
@given(
    kills=st.lists(st.integers(1, 80), max_size=6),
    depth=st.integers(1, 4),
    kind=st.sampled_from(["replays", "repeats", "orders"]),
)
async def test_killed_again_and_again(
    tmp_path_factory: pytest.TempPathFactory, kills: list[int], depth: int, kind: str
) -> None:
    """Any number of deaths at any points, at any depth."""
    folder = tmp_path_factory.mktemp("pairs")
    alone = Scene(pairs_payload(folder))
    await alone.drive()
    scene = Scene(pairs_payload(folder, pipeline_depth=depth), Service(**SERVICES[kind]))
    await scene.survive(kills)
    assert values(scene) == values(alone)


async def test_the_reference_never_reaches_the_service(tmp_path: Path) -> None:
    """A step has targets and weights, as any other; the first loss is log 2, where the model is its reference."""
    scene = Scene(pairs_payload(tmp_path))
    sent: list[Any] = []
    effect = scene.service.hook
    scene.service.hook = lambda event, details: sent.append(details.get("intent")) or effect(event, details)
    result = await scene.drive()
    assert scene.losses[0] == pytest.approx(math.log(2), rel=1e-12)
    assert scene.journal.evaluations[0].metrics["eval.loss"] == pytest.approx(math.log(2), rel=1e-12)
    assert {"eval.accuracy", "eval.margin"} < {*scene.journal.evaluations[0].metrics}
    assert {"accuracy", "margin", "chosen_reward", "rejected_reward"} < {*scene.journal.steps[0].metrics}
    assert result["steps"] == STEPS
    assert IntentKind.FORWARD in {intent.kind for intent in sent if intent is not None}


@pytest.mark.parametrize("data", [b"rubbish", zlib.compress(b"12345678" * 3), zlib.compress(b"123")])
async def test_a_damaged_reference_is_named(tmp_path: Path, data: bytes) -> None:
    """It is not trained on."""
    scene = Scene(pairs_payload(tmp_path))
    scene.journal.references[0] = data
    with pytest.raises(UnreadableJournal, match="nsai_references"):
        await scene.drive()
    assert not scene.service.runs


@pytest.mark.parametrize("field", ["data", "eval.data"])
def test_what_would_train_more_than_the_answers_is_refused(tmp_path: Path, field: str) -> None:
    """At submit, by its field."""
    data = {"path": str(write_pairs(tmp_path)), "train_on": "all_messages"}
    changes = {"data": data} if field == "data" else {"eval": {"data": data}}
    with pytest.raises(InvalidJob, match=rf"payload: {field}\.train_on: dpo trains on the answers"):
        pairs_payload(tmp_path, **changes)


async def test_killed_on_the_fake_backend(tmp_path: Path) -> None:
    """Another backend, nothing else changed."""
    fields = {"base_model": "tiny-lm", "lora": {"rank": 4, "seed": 0}}
    alone, counted = Scene(pairs_payload(tmp_path, **fields), new_backend=FakeBackend), Reaper()
    await alone.drive(reaper=counted)
    for kill_at in range(3, counted.contacts + 1, 41):
        scene = Scene(pairs_payload(tmp_path, **fields), new_backend=FakeBackend)
        await scene.survive([kill_at, 25])
        assert values(scene) == values(alone)


def test_the_first_20_losses_are_those_of_an_independent_loop(tmp_path: Path) -> None:
    """On the dev server: a loop of plain Python over the client, by the formula of the paper."""
    beta, rate, steps = 0.2, 0.001, 20
    (tmp_path / "few").mkdir()
    few = write_pairs(tmp_path / "few", 4)
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})

        fields: dict[str, Any] = {"base_model": "tiny-lm", "lora": {"rank": 4, "seed": 0}, "eval": None}
        fields |= {"batch_size": 4, "max_steps": steps, "optimizer": {"learning_rate": rate}}
        scene = Scene(pairs_payload(tmp_path, **fields, data={"path": str(few)}), new_backend=new_backend)
        asyncio.run(scene.drive())
        killed = Scene(scene.payload, new_backend=new_backend)
        asyncio.run(killed.survive([9, 40]))

        batch = asyncio.run(_datums(scene.payload, new_backend()))
        client = ServiceClient(base_url=server.url, api_key="tml-dev").create_lora_training_client(
            base_model="tiny-lm", rank=4, seed=0
        )
        losses = []
        reference: list[float] = []
        for _ in range(steps):
            sums = _sums(client, batch)
            reference = reference or sums
            rewards = [beta * (sums[place] - reference[place]) for place in range(len(batch))]
            margins = [rewards[place] - rewards[place + 1] for place in range(0, len(batch), 2)]
            losses.append(sum(-math.log(1 / (1 + math.exp(-margin))) for margin in margins) / len(margins))
            signed = [beta / (1 + math.exp(margin)) / len(margins) * sign for margin in margins for sign in (1, -1)]
            data = [_wire(datum, factor) for datum, factor in zip(batch, signed, strict=True)]
            client.forward_backward(data, "cross_entropy").result()
            client.optim_step(AdamParams(learning_rate=rate)).result()

    assert scene.losses == pytest.approx(losses, rel=1e-6, abs=1e-9)
    assert scene.losses[-1] < scene.losses[0]
    assert values(killed) == values(scene)


async def _datums(payload: PreferenceStep, backend: TinkexBackend) -> Sequence[Datum]:
    async with backend:
        return Datums(load_data(payload.data), await rendering_of(payload, backend)).batch(range(4))


def _wire(datum: Datum, factor: float) -> WireDatum:
    weights = [factor * weight for weight in datum.loss_inputs["weights"]]
    inputs = {"target_tokens": list(datum.loss_inputs["target_tokens"]), "weights": weights}
    return WireDatum(model_input=ModelInput.from_ints(list(datum.tokens)), loss_fn_inputs=inputs)


def _sums(client: Any, batch: Sequence[Datum]) -> list[float]:
    output = client.forward([_wire(datum, 1.0) for datum in batch], "cross_entropy").result()
    found = []
    for datum, each in zip(batch, output.loss_fn_outputs, strict=True):
        logprobs = list(each["logprobs"].data)
        found.append(sum(w * p for w, p in zip(datum.loss_inputs["weights"], logprobs, strict=True)))
    return found


@pytest.mark.parametrize("split", [True, False])
async def test_a_mixture_of_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool) -> None:
    """Its reference has the pairs that are drawn; killed anywhere, it ends as one left alone."""
    monkeypatch.setattr(preference, "ROWS_PER_PASS", 4)
    (tmp_path / "more").mkdir()
    sources = [
        {"path": str(write_pairs(tmp_path)), "weight": 3.0},
        {"path": str(write_pairs(tmp_path / "more", 4))},
    ]
    held_out = {"every": 3, **({"split": 0.3} if split else {"data": {"path": str(write_pairs(tmp_path))}})}
    fields = {"data": {"sources": sources}, "eval": held_out}
    alone, counted = Scene(pairs_payload(tmp_path, **fields)), Reaper()
    await alone.drive(reaper=counted)
    assert {file.format for file in alone.payload.data.sources} == {"preference"}
    assert [step.step for step in alone.journal.steps] == list(range(1, STEPS + 1))
    for kill_at in range(3, counted.contacts, counted.contacts // 5):
        scene = Scene(pairs_payload(tmp_path, **fields))
        await scene.survive([kill_at])
        assert values(scene) == values(alone)


BAD_ROWS = {
    "no answer": ({"prompt": "a", "chosen": "b"}, "rejected"),
    "equal answers": ({"prompt": "a", "chosen": "b", "rejected": "b"}, "equals"),
    "an unknown field": ({"prompt": "a", "chosen": "b", "rejected": "c", "score": 1}, "score is an unknown field"),
    "texts without a prompt": ({"chosen": "b", "rejected": "c"}, "chosen has no prompt"),
    "a conversation": ({"messages": [{"role": "user", "content": "a"}]}, "messages is an unknown field"),
    "an answer by the user": (
        {"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"},
        "does not end with an assistant message",
    ),
}


@pytest.mark.parametrize(("row", "named"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_pairs_are_refused(tmp_path: Path, row: dict[str, Any], named: str) -> None:
    """With their line and field."""
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' + json.dumps(row) + "\n")
    with pytest.raises(InvalidJob, match=f"line 2.*{named}"):
        load_data(TrainingData(path=str(path), format="preference"))


def test_fields_that_dpo_cannot_have_are_refused(tmp_path: Path) -> None:
    """Also a method that there is not."""
    with pytest.raises(InvalidJob, match=r"payload.method: 'dpp'.*dpo"):
        pairs_payload(tmp_path, method="dpp")
    with pytest.raises(InvalidJob, match="loss of its own"):
        pairs_payload(tmp_path, loss_fn="ppo")
    reduced = {"path": str(write_pairs(tmp_path)), "reduction": "mean"}
    for fields in ({"data": reduced}, {"eval": {"every": 3, "data": reduced}}):
        with pytest.raises(InvalidJob, match=r"data.reduction: dpo"):
            pairs_payload(tmp_path, **fields)
    with pytest.raises(InvalidJob, match=r"payload.beta"):
        parse_payload(JobKind.TRAINING_STEP, payload_of(tmp_path).model_dump(mode="json") | {"beta": 0.2})


def test_a_checkpoint_as_reference(tmp_path: Path) -> None:
    """On the dev server: the reference is a state of an earlier job; one that is missing fails the job."""
    with DevServer(tmp_path / "server", seed=0, hold_s=2.0) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})

        fields: dict[str, Any] = {"base_model": "tiny-lm", "lora": {"rank": 4, "seed": 0}, "max_steps": 2}
        before = Scene(payload_of(tmp_path, **fields), new_backend=new_backend)
        saved = asyncio.run(before.drive())["checkpoint"]
        scene = Scene(pairs_payload(tmp_path, **fields, reference=saved), new_backend=new_backend)
        asyncio.run(scene.drive())
        missing = Scene(pairs_payload(tmp_path, **fields, reference=f"{saved}-x"), new_backend=new_backend)
        with pytest.raises(NoCheckpoint, match=r"payload.reference"):
            asyncio.run(missing.drive())

    assert scene.losses[0] != pytest.approx(math.log(2), rel=1e-3)
    [event] = scene.journal.events_named("training.reference")
    assert event["reference"] == saved
