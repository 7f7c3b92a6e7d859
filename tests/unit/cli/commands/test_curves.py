"""Variants of a job, and their curves beside each other: ``submit --set``, ``plot`` and ``compare``."""

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from crucible.errors import InvalidRequest
from nsai_work.cli.app import app
from nsai_work.client.variants import VariedField, variants
from nsai_work.errors import InvalidJob
from nsai_work.presentation.terminal_plot import braille_rows
from nsai_work.testing import isolated_store, run_jobs

JOB = """
kind: training_step
backend: fake
name: measures
payload:
  base_model: tiny-lm
  data: {path: talks.jsonl}
  batch_size: 2
  max_steps: 4
  seed: 0
"""


def invoke(*arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(app, [*arguments])


@pytest.fixture(scope="module")
def run_variants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str], str]]:
    """A home with the ids of four jobs that have run, over two fields with two values each, and their tag."""
    folder = tmp_path_factory.mktemp("sweep")
    talk = [{"role": "user", "content": "2 and 2?"}, {"role": "assistant", "content": "4"}]
    (folder / "talks.jsonl").write_text((json.dumps({"messages": talk}) + "\n") * 4)
    (folder / "job.yaml").write_text(JOB)
    with isolated_store() as store:
        sets = (
            "--set",
            "optimizer.learning_rate=1e-4,3e-4",
            "--set",
            "lora.rank=4,8",
            "--set",
            "priority=interactive",
        )
        done = invoke("submit", str(folder / "job.yaml"), *sets, "--json")
        assert done.exit_code == 0, done.output
        run_jobs()
        tag = done.stderr.split()[-1]
        yield store.settings.home, [record["id"] for record in json.loads(done.stdout)], tag


@pytest.fixture
def variants_run(
    run_variants: tuple[Path, list[str], str], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], str]:
    """The ids and the tag; commands use that home."""
    home, ids, tag = run_variants
    monkeypatch.setenv("NSAI_WORK_HOME", str(home))
    return ids, tag


def test_there_is_a_job_for_each_combination(variants_run: tuple[list[str], str]) -> None:
    """Named by what varies, with a common tag; a single value is set in all."""
    ids, tag = variants_run
    shown = [json.loads(invoke("show", each, "--json").stdout) for each in ids]

    varied = [(job["payload"]["optimizer"]["learning_rate"], job["payload"]["lora"]["rank"]) for job in shown]
    assert varied == [(1e-4, 4), (1e-4, 8), (3e-4, 4), (3e-4, 8)]
    assert [job["name"] for job in shown][:2] == [
        "measures learning_rate=0.0001 rank=4",
        "measures learning_rate=0.0001 rank=8",
    ]
    assert {(job["priority"], *job["tags"]) for job in shown} == {("interactive", tag)}


def test_compare_names_what_differs(variants_run: tuple[list[str], str]) -> None:
    """By tag or by short ids, as a table and as JSON."""
    ids, tag = variants_run
    table = invoke("compare", "--tag", tag).stdout
    whole = json.loads(invoke("compare", *[each[-8:] for each in ids[:2]], "--json").stdout)

    assert [line.split()[0] for line in table.splitlines() if line.startswith(("lora", "optimizer"))] == [
        "lora.rank",
        "optimizer.learning_rate",
    ]
    assert [job["line"]["id"] for job in whole["jobs"]] == ids[:2]
    assert [row["field"] for row in whole["differences"]] == ["lora.rank"]
    for refused in ([], ["--tag", "none"]):
        assert invoke("compare", *refused).exit_code != 0


def test_plot_draws_curves(variants_run: tuple[list[str], str], tmp_path: Path) -> None:
    """In the terminal, as an SVG file that is not overwritten, and as data."""
    ids, tag = variants_run
    drawn = invoke("plot", ids[0]).stdout
    assert any("\u2801" <= letter <= "\u28ff" for letter in drawn)
    assert "at step 4" in drawn
    file = tmp_path / "curves.svg"
    assert invoke("plot", "--tag", tag, "--output", str(file)).exit_code == 0
    root = ET.fromstring(file.read_text())
    labels = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sum("learning_rate=" in label for label in labels) == 4
    assert invoke("plot", ids[0], "--output", str(file)).exit_code != 0
    both = invoke("plot", ids[0], "--output", str(tmp_path / "other.svg"), "--json")
    assert "leave one of them out" in str(both.exception)
    [curve] = json.loads(invoke("plot", ids[0], "--json").stdout)
    assert curve["curve"]["steps"] == [1, 2, 3, 4]


@pytest.mark.parametrize("text", ["", "rank", "=1", "lora.=1", "lora..rank=1", "lora.rank="])
def test_a_setting_without_field_or_value_is_refused(text: str) -> None:
    """With the form that is expected."""
    with pytest.raises(InvalidRequest, match="FIELD=VALUE"):
        VariedField.parse(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1e-4,3", (1e-4, 3)),
        ("a=last,best", ("last", "best")),
        ('a="x,y",z', ('"x', 'y"', "z")),
        ('a="x,y","z"', ("x,y", "z")),
        ("a=[1,2],[3]", ([1, 2], [3])),
        ("a=null,true", (None, True)),
        ("a=b=c", ("b=c",)),
    ],
)
def test_values_are_json_or_text(text: str, values: tuple[object, ...]) -> None:
    """A list of several values is one of JSON if it can be."""
    assert VariedField.parse(text).values == values


@pytest.mark.parametrize("unique", ["id", "ref", "idempotency_key"])
def test_what_jobs_cannot_share_is_refused(unique: str) -> None:
    """If there are several; one of them keeps it."""
    with pytest.raises(InvalidJob, match=f"{unique}: --set makes 2 jobs"):
        variants({unique: "x"}, [VariedField.parse("a=1,2")], "t")
    assert variants({unique: "x"}, [VariedField.parse("a=1")], "t") == [{unique: "x", "payload": {"a": 1}}]


def test_too_many_combinations_are_refused(tmp_path: Path) -> None:
    """And a field that is named twice."""
    (tmp_path / "job.yaml").write_text(JOB)
    many = ",".join(map(str, range(40)))
    for sets, complaint in ((("a=" + many, "b=" + many), "1000 combinations"), (("a=1", "payload.a=2"), "twice")):
        with isolated_store():
            done = invoke(
                "submit", str(tmp_path / "job.yaml"), *(word for text in sets for word in ("--set", text))
            )
        assert isinstance(done.exception, InvalidRequest)
        assert complaint in str(done.exception)


@given(
    st.lists(st.lists(st.tuples(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300)), max_size=5), max_size=3),
    st.integers(1, 20),
    st.integers(1, 6),
)
def test_any_curve_fits_its_plot(curves: list[list[tuple[float, float]]], width: int, height: int) -> None:
    """Points outside of the ranges are at the edges."""
    rows = braille_rows(curves, width=width, height=height, x_range=(0, 10), y_range=(-1, 1))

    assert [len(row) for row in rows] == [width] * height
    shown = {cell.curve for row in rows for cell in row} - {None}
    assert shown <= {number for number, points in enumerate(curves) if points}
    assert bool(shown) == any(curves)
