"""``nsai-work download`` and ``export``: the model of a job as files in a new folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Cli

Job = dict[str, Any]
Write = Callable[[Any], Path]


def listed(folder: Path) -> list[str]:
    """The names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_download_is_an_adapter_in_a_new_folder(
    cli: Cli, job: Job, job_file: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the final state, or of the checkpoint that is named; by default named after the job and the step."""
    job_id = cli.json("run", job_file(job))["id"]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    final = cli.json("download", job_id[-8:])
    fourth = cli.json("download", job_id, tmp_path / "deep" / "model", "--checkpoint", "4")

    assert (final["job"], final["step"], final["base_model"]) == (job_id, 6, "tiny-lm")
    assert Path(final["folder"]) == tmp_path / "here" / f"{job_id[-8:]}-step6"
    assert listed(tmp_path / "here") == [f"{job_id[-8:]}-step6"]
    assert listed(tmp_path / "deep") == ["model"]
    for downloaded in (final, fourth):
        folder = Path(downloaded["folder"])
        assert {name: (folder / name).stat().st_size for name in listed(folder)} == downloaded["files"]
        config = json.loads((folder / "adapter_config.json").read_text())
        assert (config["peft_type"], config["r"]) == ("LORA", 4)
    assert (Path(final["folder"]) / "adapter_model.safetensors").read_bytes() != (
        tmp_path / "deep" / "model" / "adapter_model.safetensors"
    ).read_bytes()


def test_what_exists_is_not_touched(cli: Cli, job: Job, job_file: Write, tmp_path: Path) -> None:
    """A folder, empty or not, a file, and a link that leads nowhere."""
    job_id = cli.json("run", job_file(job))["id"]
    place = tmp_path / "place"
    place.mkdir()
    (place / "empty").mkdir()
    (place / "full").mkdir()
    (place / "full" / "mine").write_text("mine")
    (place / "file").write_text("mine")
    (place / "link").symlink_to(place / "nowhere")
    before = listed(place)

    for name in before:
        done = cli.run("download", job_id, place / name)
        assert (done.returncode, done.stdout) == (2, "")
        assert "it exists; name a new folder" in done.stderr
    done = cli.run("download", job_id, place / "file" / "model")
    assert done.returncode == 2
    assert "cannot make it: File exists" in done.stderr

    assert listed(place) == before
    assert (place / "full" / "mine").read_text() == (place / "file").read_text() == "mine"
    assert listed(place / "empty") == []


def test_a_download_that_fails_leaves_nothing(cli: Cli, job: Job, job_file: Write, tmp_path: Path) -> None:
    """A checkpoint that the service has lost; one that is no adapter; one that is larger than allowed."""
    job_id = cli.json("run", job_file(job))["id"]
    place = tmp_path / "place"
    place.mkdir()
    [row] = [row for row in cli.json("checkpoints", job_id) if row["step"] == 6]
    [weights] = (cli.home / "fake").glob(f"{row['sampler_path'].removeprefix('fake://')}/state.safetensors")

    assert cli.run("download", job_id, place / "a", "--checkpoint", "5").returncode == 3
    done = cli.run("download", job_id, place / "b", "--max-gib", 0)
    assert (done.returncode, "--max-gib" in done.stderr) == (2, True)
    weights.unlink()
    done = cli.run("download", job_id, place / "c", "--json")
    assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (3, "not_found")

    assert listed(place) == []


def test_export_says_what_it_needs(cli: Cli, job: Job, job_file: Write) -> None:
    """Without --merge, the command for the adapter."""
    job_id = cli.json("run", job_file(job))["id"]

    done = cli.run("export", job_id)

    assert done.returncode == 2
    assert f"nsai-work download {job_id}" in done.stderr
