"""The pages say what is so: their Python runs, and their tables are held against the code."""

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

import crucible.errors
import nsai_work.errors
from crucible.errors import CrucibleError
from nsai_work.job import Constraints, Job, Resources
from nsai_work.payloads import METHODS, PAYLOADS, DataFile, DataSource, TrainingData
from nsai_work.policies import CheckpointPolicy, RetryPolicy
from nsai_work.settings import Settings
from tests.acceptance.conftest import TIMEOUT_S, Cli
from tests.zygote import run_script

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def python_of(page: Path) -> str:
    """All Python blocks of a page, in order, as one script."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))


def first_column(page: Path) -> set[str]:
    """The names in backquotes in the first column of the page's tables."""
    rows = [line.split("|")[1] for line in page.read_text().splitlines() if line.startswith("| `")]
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def test_the_readme_runs(cli: Cli, tmp_path: Path) -> None:
    """Its Python, as it stands, trains on a dev server through a worker and asks the trained model."""
    script = tmp_path / "readme.py"
    script.write_text(python_of(ROOT / "README.md"))

    with cli.dev_server(), cli.running("worker"):
        done = run_script(script, cwd=ROOT, env={**cli.environment, "PYTHONPATH": str(ROOT)}, timeout=TIMEOUT_S)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.match(r"^[0-9a-f-]{36} \w+$", lines[0])
    assert [int(line.split()[0]) for line in lines[1:41]] == list(range(1, 41))
    assert lines[41].strip(), "the model's answer"


def test_the_page_on_faults_runs(tmp_path: Path) -> None:
    """Its Python does what it says: two refusals, one step applied."""
    script = tmp_path / "faults.py"
    script.write_text(python_of(DOCS / "howto" / "faults.md") + "\nassert len(applied) == 1, applied\n")

    done = run_script(script, cwd=tmp_path, env=os.environ, timeout=TIMEOUT_S)

    assert done.returncode == 0, done.stderr


def test_the_page_on_own_loops_runs(tmp_path: Path) -> None:
    """Its Python recovers a run that was corrupted after step 7 from the checkpoint of step 5, and ends."""
    script = tmp_path / "loop.py"
    verdict = "\nassert (step, recovered.checkpoint.step, sorted(losses)) == (12, 5, list(range(1, 13)))\n"
    script.write_text(python_of(DOCS / "howto" / "recover-own-loop.md") + verdict)

    done = run_script(script, cwd=tmp_path, env=os.environ, timeout=TIMEOUT_S)

    assert done.returncode == 0, done.stderr
    assert "tinkex.recovery.completed" in done.stdout


def test_every_error_code_is_on_its_page() -> None:
    """docs/reference/errors.md has each code of the family once."""
    codes = {
        kind.code
        for module in (crucible.errors, nsai_work.errors)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, CrucibleError)
    }

    listed = re.findall(r"^\| `(\w+)` \|", (DOCS / "reference" / "errors.md").read_text(), re.MULTILINE)

    assert sorted(listed) == sorted(codes)


def test_every_setting_is_on_its_page() -> None:
    """docs/reference/settings.md has each variable, and none that is not read."""
    read = {f"NSAI_WORK_{name.upper()}" for name in Settings.model_fields} | {"NSAI_WORK_DEBUG"}

    assert first_column(DOCS / "reference" / "settings.md") == read


def test_every_fault_is_on_its_page() -> None:
    """docs/howto/faults.md has each kind of fault."""
    from backends.tinkex_dev import faults

    union: Any = get_args(faults.Fault)[0]
    kinds = {get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(union)}

    assert first_column(DOCS / "howto" / "faults.md") == kinds


def anchors(page: Path) -> set[str]:
    """The fragments by which a page's headings are reached."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page is a file, and its fragment a heading there."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target, _, fragment = link.partition("#")
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name}: {link}"
        assert not fragment or fragment in anchors(file), f"{page.name}: {link}"


def test_every_field_of_a_job_is_on_its_page() -> None:
    """docs/reference/job-file.md names each field that a user may set, payloads included."""
    fields = list(Job.model_fields)
    kinds = (
        Resources,
        Constraints,
        RetryPolicy,
        CheckpointPolicy,
        DataSource,
        DataFile,
        TrainingData,
        *PAYLOADS.values(),
        *METHODS.values(),
    )
    settable = {*fields[: fields.index("status")], *(name for kind in kinds for name in kind.model_fields)}

    page = (DOCS / "reference" / "job-file.md").read_text()
    named = {name for path in re.findall(r"`([\w.]+)`", page) for name in path.split(".")}

    assert settable - named == set()


def console_commands_of(page: Path, mark: str = "run") -> list[str]:
    """The ``nsai-work`` commands of a page's blocks after ``<!-- run -->``, or another mark."""
    blocks = re.findall(rf"^<!-- {mark} -->\n```console\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^\$ nsai-work (.+)$", "\n".join(blocks), re.MULTILINE)


def test_the_page_on_functions_runs(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example of a kind runs by its command, with its function's result; so does its Python."""
    page = DOCS / "howto" / "run-functions.md"
    monkeypatch.chdir(ROOT)
    for name, value in {"PYTHONPATH": f"examples{os.pathsep}{ROOT}", "NSAI_WORK_PYTHON_ALLOW": "functions"}.items():
        cli.variables[name] = value
    results = {
        job["kind"]: job["result"] for job in (cli.json(*line.split()) for line in console_commands_of(page))
    }
    script = tmp_path / "functions_page.py"
    script.write_text(python_of(page))
    with cli.running("worker"):
        done = run_script(script, env=cli.environment, timeout=TIMEOUT_S)

    assert results["tool_call"] == {"millilitres": 14.79}
    assert results["experiment_step"]["best"] == "0.4"
    assert Path(results["experiment_step"]["losses"]).read_text().count("\n") == 150
    assert results["workflow_step"] == {"lowest": 0.25, "mean": 0.5}
    assert results["backend_command"] == {"deleted": 0}
    assert done.stdout.splitlines() == ["0.4", "{'lowest': 0.25, 'mean': 0.375}"], done.stderr


def test_the_page_on_models_runs(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, in order, on a job that its first command makes; its Python on the server of its command."""
    page = DOCS / "howto" / "use-your-model.md"
    monkeypatch.chdir(tmp_path)
    train, *commands = [shlex.split(line) for line in console_commands_of(page)]
    [serve] = [shlex.split(line) for line in console_commands_of(page, mark="serve")]
    example = tmp_path / "train.yaml"
    shutil.copy(ROOT / "examples" / "conversations.jsonl", tmp_path)
    example.write_text((ROOT / train[1]).read_text().replace("backend: tinkex", "backend: fake"))
    job_id = cli.json("run", example)["id"]
    for command in commands:
        done = cli.run(*(job_id if word == "ID" else word for word in command))
        assert done.returncode == 0, done.stderr
    arguments = [job_id if word == "ID" else "0" if word == "8765" else word for word in serve]
    with cli.running(*arguments, "--json") as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        script = tmp_path / "served.py"
        script.write_text(python_of(page).replace("http://127.0.0.1:8765/v1", url))
        done = run_script(script, cwd=tmp_path, env=os.environ, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_page_on_testing_runs(tmp_path: Path) -> None:
    """Its files are a test suite of a user, and pass."""
    page = (DOCS / "howto" / "test-your-jobs.md").read_text()
    for name, code in re.findall(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        with (tmp_path / name).open("a") as file:
            file.write(code + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert "3 passed" in done.stdout, done.stdout + done.stderr
