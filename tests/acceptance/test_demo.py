"""The demo, in its short form: what it claims is checked again from its own output folder."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.acceptance.conftest import Cli


def test_the_demo_recovers_and_proves_it(cli: Cli, tmp_path: Path) -> None:
    """Exit status 0, twice in a row, and the store shows two runs with the same losses, one of them recovered."""
    output = tmp_path / "demo-output"
    for _ in range(2):
        done = cli.run("demo", "--output", output, "--steps", 18)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout
    assert "the run is corrupted" in done.stdout
    assert "bit for bit" in done.stdout

    inside = Cli(output / "home")
    undisturbed, corrupted = inside.json("list", "--limit", 10)
    one, other = (inside.json("steps", job["id"]) for job in (undisturbed, corrupted))
    assert [step["loss"] for step in one] == [step["loss"] for step in other]
    assert (undisturbed["result"]["recoveries"], corrupted["result"]["recoveries"]) == (0, 1)
    assert corrupted["result"]["resume"] == "exact"
    assert ET.parse(output / "loss.svg").getroot().tag.endswith("svg")


def test_the_demo_deletes_nothing_of_others(cli: Cli, tmp_path: Path) -> None:
    """A folder that no demo made is refused and stays as it was."""
    (tmp_path / "precious.txt").write_text("mine")

    done = cli.run("demo", "--output", tmp_path)

    assert done.returncode == 2
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_the_demo_records_a_picture(cli: Cli, tmp_path: Path) -> None:
    """``--record`` writes what was shown as SVG; a real service's settings are never used meanwhile."""
    away = Cli(cli.home, {"TINKER_BASE_URL": "http://127.0.0.1:1", "TINKER_API_KEY": "tml-real"})
    picture = tmp_path / "demo.svg"

    done = away.run("demo", "--output", tmp_path / "out", "--steps", 12, "--record", picture)

    assert done.returncode == 0, done.stdout + done.stderr
    assert ET.parse(picture).getroot().tag.endswith("svg")
    assert "tml-real" not in json.dumps(done.stdout) + picture.read_text()
