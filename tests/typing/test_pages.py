"""Code of users type-checks strictly, with mypy and pyright: README and the pages, without our configuration.

basedpyright is pyright with its node as a wheel: nothing is fetched at its first start.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# mypy's first run, without a cache, is slow on a busy machine
pytestmark = [pytest.mark.typing, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/howto/faults.md", "docs/howto/run-functions.md")
MISTAKES = [
    ('kind="training_step"', 'kind="training"', "kind"),
    ('strategy="steps"', 'strategy="step"', "strategy"),
    ('backoff_type="exponential"', 'backoff_typ="exponential"', "backoff_typ"),
]
WITH_MISTAKES = "README.md with mistakes"


def python_of(page: str) -> str:
    """All Python blocks of a page, in order."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL))


def mypy(folder: Path) -> list[tuple[str, str]]:
    """The errors in the files of a folder, by file."""
    # a cache, since the first run takes half a minute; no configuration
    cache = ROOT / ".mypy_cache" / "users"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(cache), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    return [(Path(line.partition(":")[0]).name, line) for line in errors]


def pyright(folder: Path) -> list[tuple[str, str]]:
    """As ``mypy``."""
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "include": ["."]}))
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(
        [*command, "--project", str(folder)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["summary"]["filesAnalyzed"] == len(PAGES) + 1
    return [(Path(found["file"]).name, str(found)) for found in answer["generalDiagnostics"]]


@pytest.fixture(scope="module", params=[mypy, pyright], ids=lambda check: check.__name__)
def complaints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The errors in each page's code, as a user's type checker finds them in a single run."""
    codes = {page: python_of(page) for page in PAGES}
    codes[WITH_MISTAKES] = codes["README.md"]
    for right, mistake, _ in MISTAKES:
        assert right in codes[WITH_MISTAKES]
        codes[WITH_MISTAKES] = codes[WITH_MISTAKES].replace(right, mistake)
    folder = tmp_path_factory.mktemp("mine")
    names = {f"mine_{number}.py": page for number, page in enumerate(codes)}
    for name, page in names.items():
        (folder / name).write_text(codes[page])
    check: Callable[[Path], list[tuple[str, str]]] = request.param
    found: dict[str, list[str]] = {page: [] for page in codes}
    for name, error in check(folder):
        found[names[name]].append(error)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_type_checks(page: str, complaints: dict[str, list[str]]) -> None:
    """Literals in the places of enumerations, records in payloads, mappings in the places of records."""
    assert complaints[page] == []


def test_misspelled_names_and_literals_are_found(complaints: dict[str, list[str]]) -> None:
    """Accepting literals does not mean accepting everything."""
    found = complaints[WITH_MISTAKES]

    assert [name for _, _, name in MISTAKES if not any(f'"{name}"' in line for line in found)] == []
