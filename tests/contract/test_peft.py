"""The peft backend keeps the contract with a real, tiny Llama on the CPU; its checkpoints are files others read."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from backends.peft import PeftBackend
from crucible.errors import InvalidRequest
from crucible.recovery import RecoveryPolicy, RecoveryRequest
from crucible.testing import TrainingBackendContract
from crucible.testing.loop import run_opened
from crucible.training import CheckpointRef, Datum, IntentKind, LoraSpec, OptimizerSpec, RunSpec, StepRequest

# What torch and its friends warn of on import or use is theirs.
pytestmark = pytest.mark.filterwarnings("default")

SPEC = RunSpec(base_model="tiny-lm", lora=LoraSpec(rank=4, seed=0))
BATCH = [Datum([1, 2, 3], {"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 1.0]})]


class TestPeft(TrainingBackendContract):
    """Every promise of the contract, bit for bit."""

    learning_rate = 3e-3

    @pytest.fixture
    def backend(self, tmp_path: Path) -> PeftBackend:
        return PeftBackend({"home": str(tmp_path), "device": "cpu", "threads": 1})


@pytest.fixture
def backend(tmp_path: Path) -> PeftBackend:
    """A backend that keeps its files in the test's folder."""
    return PeftBackend({"home": str(tmp_path), "device": "cpu", "threads": 1})


def test_a_checkpoint_is_safetensors_that_peft_itself_loads(tmp_path: Path, backend: PeftBackend) -> None:
    """The adapter in PEFT's own form; optimizer and random state beside it."""

    async def body(opened: PeftBackend) -> Path:
        run = await opened.start(SPEC)
        step = run.prepare_step(StepRequest(1, BATCH, OptimizerSpec(learning_rate=1e-2)))
        await (await run.send(step)).result()
        save = run.prepare_save("a", step=1, kind=IntentKind.SAVE_STATE)
        path = (await (await run.send(save)).result()).path
        return tmp_path / path.removeprefix("peft://")

    folder = run_opened(backend, body)
    from peft import PeftModel
    from safetensors.torch import load_file

    assert "random_state" in load_file(folder / "optimizer.safetensors")
    loaded = PeftModel.from_pretrained(backend._bases.model("tiny-lm"), str(folder))
    assert loaded.peft_config["default"].r == 4


def test_a_torn_adapter_is_passed_over(tmp_path: Path, backend: PeftBackend) -> None:
    """Half a file is never trained on."""

    async def body(opened: PeftBackend) -> None:
        run = await opened.start(SPEC)
        refs = []
        for number in (1, 2):
            step = run.prepare_step(StepRequest(number, BATCH, OptimizerSpec(learning_rate=1e-2)))
            await (await run.send(step)).result()
            save = run.prepare_save(f"s{number}", step=number, kind=IntentKind.SAVE_STATE)
            path = (await (await run.send(save)).result()).path
            refs.insert(0, CheckpointRef(path=path, name=f"s{number}", step=number))
        file = tmp_path / refs[0].path.removeprefix("peft://") / "optimizer.safetensors"
        file.write_bytes(file.read_bytes()[:200])
        request = RecoveryRequest(run.ref, SPEC, "test", RecoveryPolicy(enabled=True), tuple(refs))
        recovered = await opened.recover(request, observe=lambda event: None)
        assert recovered.checkpoint.step == 1

    run_opened(backend, body)


def test_a_place_that_holds_no_model_is_refused(backend: PeftBackend) -> None:
    """With what is allowed."""
    with pytest.raises(InvalidRequest, match="tiny-lm"):
        run_opened(backend, lambda opened: opened.check_spec(RunSpec(base_model="/nowhere")))
