"""The demo in its short form: its claims are checked against its output folder."""

import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from backends.tinkex_dev.demo.folder import prepare_folder
from tests.acceptance.conftest import Cli
from tests.rig import command, sqlite_template

pytestmark = pytest.mark.timeout(600)


def earlier(output: Path) -> None:
    """The folder of a demo that was killed: its marker, a store with a job, and the state of its server."""
    folder = prepare_folder(output)
    home = Cli(folder.home)
    shutil.copy(sqlite_template(), folder.home / "nsai-work.db")
    with home.store() as store:
        store.submit([command()])
    folder.server_state.mkdir()
    (folder.server_state / "stale").touch()


@pytest.mark.slow
def test_the_demo_recovers_and_proves_it(cli: Cli, tmp_path: Path) -> None:
    """It replaces the folder of an earlier demo, even if the environment points to another service.

    The store has two runs with equal losses, one of them recovered; ``--record`` writes an image of the output.
    """
    output, picture = tmp_path / "demo-output", tmp_path / "demo.svg"
    earlier(output)
    real = Cli(cli.home, {"TINKER_BASE_URL": "http://127.0.0.1:1", "TINKER_API_KEY": "tml-real"})

    done = real.run("demo", "--output", output, "--steps", 12, "--record", picture)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert "the run is corrupted" in done.stdout
    assert "bit for bit" in done.stdout
    (shown,) = (line.split()[-1] for line in done.stdout.splitlines() if "the command  " in line)
    assert Path(shown).absolute() == Path(sys.executable).parent / "nsai-work"
    assert not (output / "server" / "stale").exists()
    undisturbed, corrupted = Cli(output / "home").stored()
    assert undisturbed.result is not None
    assert corrupted.result is not None
    with Cli(output / "home").store() as store:
        undisturbed_steps, corrupted_steps = (store.steps(job.id) for job in (undisturbed, corrupted))
    assert [step.loss for step in undisturbed_steps] == [step.loss for step in corrupted_steps]
    assert (undisturbed.result["recoveries"], corrupted.result["recoveries"]) == (0, 1)
    assert corrupted.result["resume"] == "exact"
    for drawn in (output / "loss.svg", picture):
        assert ET.parse(drawn).getroot().tag.endswith("svg")
    assert "tml-real" not in done.stdout + done.stderr + picture.read_text()


def test_the_demo_does_not_delete_other_folders(cli: Cli, tmp_path: Path) -> None:
    """A folder that was not created by a demo is rejected and stays unchanged."""
    (tmp_path / "precious.txt").write_text("mine")

    done = cli.run("demo", "--output", tmp_path)

    assert done.returncode == 2
    assert (tmp_path / "precious.txt").read_text() == "mine"
