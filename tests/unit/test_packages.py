"""The shape of the tree: arrows between packages, light imports, honest public names."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nsai_work.lifecycle import TRANSITIONS

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "crucible": {"crucible"},
    "nsai_work": {"nsai_work", "crucible"},
    "backends": {"backends", "crucible", "nsai_work"},
}
# of nsai_work, a backend may know the plain models and policies only
PLAIN = {
    "nsai_work",
    "nsai_work.clock",
    "nsai_work.errors",
    "nsai_work.asgi_server",
    "nsai_work.functions",
    "nsai_work.files.key_file",
    "nsai_work.files.home",
    "nsai_work.job",
    "nsai_work.payloads",
    "nsai_work.policies",
    "nsai_work.presentation.ticks",
    "nsai_work.files.user_paths",
}


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.split(".")[0] in ALLOWED}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_its_arrow_allows(package: str) -> None:
    """Also inside functions, where import-linter's picture and a reader's eye may miss it."""
    for path in (ROOT / package).rglob("*.py"):
        for name in imported_modules(path):
            where = f"{path.relative_to(ROOT)} imports {name}"
            assert name.split(".")[0] in ALLOWED[package], where
            if package == "backends" and name.startswith("nsai_work"):
                assert name in PLAIN, where


def test_only_one_file_names_stevedore() -> None:
    """Discovery is explicit: one place to look, one place to change."""
    naming = [
        path.relative_to(ROOT).as_posix()
        for package in ALLOWED
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^\s*(from|import) stevedore", path.read_text(), re.MULTILINE)
    ]

    assert naming == ["crucible/registry.py"]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("crucible", ["celery", "sqlalchemy", "httpx", "numpy", "stevedore"]),
        ("nsai_work", ["celery", "sqlalchemy", "httpx", "numpy", "stevedore"]),
        ("backends.tinkex", ["celery", "sqlalchemy", "httpx", "numpy"]),
        ("nsai_work.testing", ["celery", "sqlalchemy", "httpx", "numpy", "pytest", "freezegun"]),
        ("backends.python", ["celery", "sqlalchemy", "httpx", "numpy"]),
        ("nsai_work.cli", ["celery", "sqlalchemy", "httpx", "numpy"]),
    ],
)
def test_importing_is_light(module: str, heavy: list[str]) -> None:
    """Importing a package loads none of the heavy libraries; they come when they are used."""
    code = f"import sys, {module}; print(*(name for name in {heavy!r} if name in sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)

    assert loaded.stdout.split() == []


def test_everything_can_be_imported_under_a_frozen_clock() -> None:
    """Modules are imported on first use, which may be in a test that has frozen time."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in ALLOWED
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.name not in ("__main__.py", "env.py") and not path.name[0].isdigit()
    ]
    code = (
        "import datetime, importlib, sys\n"
        "from freezegun import freeze_time\n"
        "from pydantic import TypeAdapter\n"
        "TypeAdapter(datetime.datetime)\n"  # from then on, pydantic knows no other class of this name
        "with freeze_time('2030-01-01'):\n"
        "    for name in sys.argv[1:]:\n"
        "        try: importlib.import_module(name)\n"
        "        except ModuleNotFoundError as error:\n"
        "            if error.name.partition('.')[0] in ('backends', 'crucible', 'nsai_work'): raise\n"
    )

    subprocess.run([sys.executable, "-c", code, *names], cwd=ROOT, check=True, timeout=120)


def test_crucible_works_without_the_heavy_libraries() -> None:
    """The contract package imports where celery, sqlalchemy and httpx are not installed."""
    code = (
        "import sys\n"
        "for name in ('celery', 'sqlalchemy', 'httpx'): sys.modules[name] = None\n"
        "import crucible, crucible.backend, crucible.registry, crucible.training, crucible.recovery\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("package", ["crucible", "nsai_work", "nsai_work.testing", "backends.tinkex"])
def test_public_names_are_sorted_and_there(package: str) -> None:
    """``__all__`` is sorted, and each name in it can be had."""
    module = importlib.import_module(package)

    assert list(module.__all__) == sorted(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_the_picture_of_the_life_cycle_is_the_table() -> None:
    """docs/architecture.md draws every move of the table, and no other."""
    picture = (ROOT / "docs" / "architecture.md").read_text()
    drawn = set(re.findall(r"^  (\w+) --> (\w+)$", picture, re.MULTILINE))

    assert drawn == {(str(old), str(new)) for old, news in TRANSITIONS.items() for new in news}
