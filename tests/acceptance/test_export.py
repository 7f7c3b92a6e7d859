"""``nsai-work export --merge``, and the adapters of ``download``, read by PEFT itself."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from backends.peft.bases import Bases
from backends.peft.settings import PeftSettings
from backends.tiny_lm.adapter import ALPHA
from backends.tiny_lm.network import SITES
from nsai_work.cli import main
from tests.acceptance.conftest import Cli

# what torch and its friends warn of on import or use is theirs
pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(300)]

Job = dict[str, Any]
Write = Callable[[Any], Path]
TOKENS = [[72, 105, 33, 10]]


def logits(model: Any) -> Any:
    """What a model says of a few tokens."""
    import torch

    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor(TOKENS)).logits


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Any]]:
    """Run a command in this process, which imports torch once, and return its JSON; of a refusal, its error."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: object) -> Any:
        monkeypatch.setattr(sys, "argv", ["nsai-work", *map(str, arguments), "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        shown = capsys.readouterr()
        if exited.value.code == 0:
            return json.loads(shown.out)
        return json.loads(shown.err.splitlines()[-1])["error"]

    yield run
    logging.root.handlers[:], logging.root.level = handlers, level


def test_full_weights_are_the_adapters(call: Callable[..., Any], job: Job, job_file: Write, tmp_path: Path) -> None:
    """The merged model says what PEFT says of the downloaded adapter on its base, and not what the base says."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    Bases(PeftSettings(device="cpu")).model("tiny-lm").save_pretrained(str(base))
    job_id = call("run", job_file({**job, "backend": "peft"}))["id"]

    adapter = call("download", job_id, tmp_path / "adapter", "--checkpoint", "4")
    assert "--base" in call("export", job_id, tmp_path / "merged", "--merge")["message"]
    options = ("--checkpoint", "4", "--max-gib", 1, "--dtype", "float32")
    merged = call("export", job_id, tmp_path / "merged", "--merge", "--base", base, *options)
    half = call("export", job_id, tmp_path / "half", "--merge", "--base", base, "--dtype", "bfloat16")

    plain = AutoModelForCausalLM.from_pretrained(base)
    of_base = logits(plain)
    adapted = logits(PeftModel.from_pretrained(plain, adapter["folder"]))
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(merged["folder"])), adapted, atol=1e-5)
    assert not torch.allclose(of_base, adapted, atol=1e-3)
    assert (merged["base"], merged["step"], half["step"]) == (str(base), 4, 6)
    assert AutoModelForCausalLM.from_pretrained(half["folder"], dtype="auto").dtype == torch.bfloat16
    for arguments in (("--base", tmp_path / "none"), ("--base", base, "--dtype", "int3")):
        assert call("export", job_id, tmp_path / "other", "--merge", *arguments)["code"] == "invalid_request"
    assert not list(tmp_path.glob("*other*"))


def tiny_model() -> Any:
    """The matrices of the tiny model that an adapter changes, by their names."""
    import torch

    return torch.nn.ModuleDict({site: torch.nn.Linear(*shape, bias=False) for site, shape in SITES.items()})


@pytest.mark.parametrize("backend", ["fake", "tinkex"])
def test_an_adapter_of_the_tiny_model_is_loaded_as_it_is(
    cli: Cli, job: Job, job_file: Write, tmp_path: Path, backend: str
) -> None:
    """PEFT finds each matrix, and merges what the service adds: up times down, scaled."""
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file

    with cli.dev_server():
        job_id = cli.json("run", job_file({**job, "backend": backend}))["id"]
        folder = Path(cli.json("download", job_id, tmp_path / "adapter")["folder"])
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload().state_dict()

    adapter = load_file(folder / "adapter_model.safetensors")
    for site in SITES:
        up, down = (adapter[f"base_model.model.{site}.lora_{part}.weight"] for part in "BA")
        added = merged[f"{site}.weight"] - before[f"{site}.weight"]
        assert torch.allclose(added, (up @ down) * (ALPHA / 4), atol=1e-5)
        assert float(added.abs().max()) > 0
