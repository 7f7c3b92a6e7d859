"""A sink that writes behind, whose worker is killed before it wrote: the next worker writes what was lost."""

import json
import sys
from pathlib import Path

import pytest

from backends.tinkex_dev.server import DEV_KEY
from nsai_work import Job, submit
from tests.behind_sink import install
from tests.forked_server import ForkedServer
from tests.integration.training.harness import payload_of
from tests.rig import Rig, until


def test_what_a_killed_worker_did_not_keep_is_written_again(
    embedded: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is there with its loss; those that were kept may be there twice, with equal losses."""
    folder = tmp_path / "sink"
    embedded.variables |= install(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    fields = {"base_model": "tiny-lm", "max_steps": 120, "checkpoint_policy": {"strategy": "last"}}
    payload = payload_of(tmp_path, **fields).model_dump(mode="json")
    payload["sinks"] = [{"sink": "behind", "settings": {"folder": str(folder)}}]

    def rows(name: str) -> list[object]:
        return [json.loads(line) for line in (folder / name).read_text().splitlines()]

    def has_lost() -> bool:
        asked, kept = folder / "asked.jsonl", folder / "kept.jsonl"
        return asked.exists() and kept.exists() and len(rows("asked.jsonl")) > len(rows("kept.jsonl")) > 0

    with ForkedServer(tmp_path / "server", "--work-ms", "25") as server:
        embedded.variables |= {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY}
        worker = embedded.start_worker()
        handle = submit(Job(kind="training_step", backend="tinkex", payload=payload), embedded.settings())
        until(has_lost, "points that are not kept yet", worker.text)
        worker.kill()
        embedded.start_worker()
        result = handle.result(timeout=120)

    kept = [(step, loss) for step, loss in rows("kept.jsonl")]
    assert set(kept) == {(step.step, step.loss) for step in handle.steps()}
    assert len(rows("asked.jsonl")) > len(handle.steps())
    assert result["sinks"]["behind"] == {"step": 120, "segments": 1, "error": None}
