"""Code of users type-checks strictly: README and the pages, without a plug-in and without our configuration."""

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from enum import StrEnum
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from crucible.prompt import Message, Prompt, Role, RoleName, ToolChoice, ToolChoiceName
from nsai_work.job import Job, Priority, PriorityName
from nsai_work.payloads import JobKind, JobKindName
from nsai_work.policies import (
    BackoffName,
    BackoffType,
    CheckpointPolicy,
    CheckpointStrategy,
    RetryPolicy,
    StrategyName,
)

# mypy's first run, without a cache, is slow on a busy machine
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/howto/faults.md", "docs/howto/run-functions.md")
STORED = {"id", *list(Job.model_fields)[list(Job.model_fields).index("metadata") + 1 :]}
"""The fields of a job that the store sets."""


def python_of(page: str) -> str:
    """All Python blocks of a page, in order."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL))


MISTAKES = [
    ('kind="training_step"', 'kind="training"', "kind"),
    ('strategy="steps"', 'strategy="step"', "strategy"),
    ('backoff_type="exponential"', 'backoff_typ="exponential"', "backoff_typ"),
]
WITH_MISTAKES = "README.md with mistakes"


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The errors in each page's code, checked as a user does, with mypy --strict, in a single run."""
    codes = {page: python_of(page) for page in PAGES}
    codes[WITH_MISTAKES] = codes["README.md"]
    for right, mistake, _ in MISTAKES:
        assert right in codes[WITH_MISTAKES]
        codes[WITH_MISTAKES] = codes[WITH_MISTAKES].replace(right, mistake)
    folder = tmp_path_factory.mktemp("mine")
    files = {folder / f"mine_{number}.py": page for number, page in enumerate(codes)}
    for file, page in files.items():
        file.write_text(codes[page])
    # a cache, since the first run takes half a minute; no configuration
    cache = ROOT / ".mypy_cache" / "users"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(cache)]
    done = subprocess.run([*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    found = {page: [line for line in errors if f"{file.name}:" in line] for file, page in files.items()}
    assert sum(map(len, found.values())) == len(errors), errors
    return found


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_type_checks(page: str, complaints: dict[str, list[str]]) -> None:
    """Literals in the places of enumerations, records in payloads, mappings in the places of records."""
    assert complaints[page] == []


def test_misspelled_names_and_literals_are_found(complaints: dict[str, list[str]]) -> None:
    """Accepting literals does not mean accepting everything."""
    found = complaints[WITH_MISTAKES]

    assert [name for _, _, name in MISTAKES if not any(f'"{name}"' in line for line in found)] == []


@pytest.mark.parametrize("record", [Job, RetryPolicy, CheckpointPolicy, Prompt, Message])
def test_the_signature_for_type_checkers_has_every_field(record: type[BaseModel]) -> None:
    """It is written by hand, so that a new field must be added to it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(record))).body[0]
    (signature,) = (
        node.args for node in ast.walk(body) if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    aliases = {"backoff", "base_delay_ms"} if record is RetryPolicy else set()
    stored = STORED if record is Job else set()

    assert {argument.arg for argument in signature.kwonlyargs} - aliases == set(record.model_fields) - stored


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (JobKindName, JobKind),
        (PriorityName, Priority),
        (BackoffName, BackoffType),
        (StrategyName, CheckpointStrategy),
        (RoleName, Role),
        (ToolChoiceName, ToolChoice),
    ],
)
def test_the_literals_are_the_values_of_the_enumeration(names: object, kind: type[StrEnum]) -> None:
    """Each of them, in the same order."""
    assert list(get_args(names)) == [member.value for member in kind]
