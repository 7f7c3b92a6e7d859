"""The functions that a job may name: entry points, and functions that allowed modules define."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from backends.python import catalog
from backends.python.catalog import Catalog
from backends.python.settings import PythonSettings, read_settings
from crucible.errors import CommandMissing, InvalidRequest, PluginError
from tests import functions

ALLOWED = Catalog(PythonSettings(allow=("tests.functions",)))


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register entry points by name and value."""

    def register_points(*points: tuple[str, str]) -> None:
        found = tuple(EntryPoint(name, value, catalog.GROUP) for name, value in points)
        monkeypatch.setattr(catalog, "_entry_points", lambda _: found)

    return register_points


def test_an_entry_point_needs_no_permission(register: Any) -> None:
    """Whoever installed its package has given it."""
    register(("add", "tests.functions:add"))
    names = Catalog(PythonSettings())

    assert names.names() == ("add",)
    assert names.load("add").call is functions.add


def test_nothing_else_may_be_run_by_default() -> None:
    """The error names the variable that allows it."""
    with pytest.raises(CommandMissing, match=r"tests\.functions:add.*NSAI_WORK_PYTHON_ALLOW"):
        Catalog(PythonSettings()).load("tests.functions:add")


def test_a_misspelled_entry_point_has_a_suggestion(register: Any) -> None:
    """And the list of those that exist."""
    register(("add", "tests.functions:add"), ("count", "tests.functions:count"))
    with pytest.raises(CommandMissing, match=r"'ad': .*did you mean add\? known are add, count"):
        Catalog(PythonSettings()).load("ad")


def test_a_misspelled_function_of_an_allowed_module_is_refused() -> None:
    """At submit too, since the module is there."""
    with pytest.raises(InvalidRequest, match="did you mean count") as caught:
        ALLOWED.load("tests.functions:cuont")
    assert not isinstance(caught.value, CommandMissing)


def test_an_allowed_module_that_is_not_installed_may_be_elsewhere() -> None:
    """The reason is that of the import."""
    with pytest.raises(CommandMissing, match="No module named"):
        Catalog(PythonSettings(allow=("no_such_package",))).load("no_such_package.jobs:add")


def test_a_module_that_fails_to_import_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any exception."""
    (tmp_path / "broken_for_test.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CommandMissing, match="ZeroDivisionError"):
        Catalog(PythonSettings(allow=("broken_for_test",))).load("broken_for_test:add")


@pytest.mark.parametrize(
    "name",
    ["imported", "from_elsewhere", "time", "os", "Path", "Sum", "NOT_A_FUNCTION", "Context", "BackendUnavailable"],
)
def test_what_a_module_imports_is_not_its_own(name: str) -> None:
    """Allowing a module does not allow ``os.system`` because the module imports it."""
    with pytest.raises(InvalidRequest, match="must be a function that an allowed module defines"):
        ALLOWED.load(f"tests.functions:{name}")


@pytest.mark.parametrize(
    "name",
    [
        "tests.functions:_private",
        "tests.functions:__import__",
        "tests.functions:add.__globals__",
        "tests.functions:Path.unlink",
        "tests.functions:add()",
        "tests.functions: add",
        "tests.functions:add\n",
        "tests.functions::add",
        ":add",
        ".functions:add",
        "tests..functions:add",
        "tests/functions:add",
        "tests.functions:ädd",
        "../tests.functions:add",
    ],
)
def test_a_malformed_name_is_refused(name: str) -> None:
    """No attribute of an attribute, no private name, no expression."""
    with pytest.raises(InvalidRequest):
        ALLOWED.load(name)


segments = st.text("abz_09", min_size=1, max_size=4).filter(lambda text: not text[0].isdigit())
modules = st.lists(segments, min_size=1, max_size=3).map(".".join)


@given(allowed=st.lists(modules, max_size=3), module=modules)
@example(allowed=["my_pkg"], module="my_pkg_evil")
@example(allowed=["my_pkg"], module="my_pkg.sub")
@example(allowed=["my_pkg.sub"], module="my_pkg")
def test_only_allowed_modules_and_their_submodules_are_allowed(allowed: list[str], module: str) -> None:
    """A prefix ends at a dot."""
    parts = module.split(".")
    expected = any(parts[: len(name.split("."))] == name.split(".") for name in allowed)

    assert PythonSettings(allow=tuple(allowed)).allows(module) is expected


@given(name=st.text(max_size=40) | st.builds("{}:{}".format, modules | st.text(max_size=10), st.text(max_size=10)))
def test_no_name_imports_a_module_that_is_not_allowed(name: str) -> None:
    """Any text is refused before an import."""
    assume(not name.startswith("tests.functions:"))
    before = set(sys.modules)
    with pytest.raises((InvalidRequest, PluginError)):
        ALLOWED.load(name)

    assert set(sys.modules) == before


@pytest.mark.parametrize("value", ["a.b;c", "*", "my-pkg", "a..b", ".a", "a.", "1a", "a b"])
def test_a_wrong_permission_is_refused_with_its_variable(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never read as everything."""
    monkeypatch.setenv("NSAI_WORK_PYTHON_ALLOW", value)
    with pytest.raises(InvalidRequest, match="NSAI_WORK_PYTHON_ALLOW"):
        read_settings(None)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lists are separated by commas; empty entries allow nothing. Those given in code take precedence."""
    monkeypatch.setenv("NSAI_WORK_PYTHON_ALLOW", " my_pkg, other.jobs,, ")
    monkeypatch.setenv("NSAI_WORK_PYTHON_ENV", "HF_HOME")
    monkeypatch.setenv("NSAI_WORK_PYTHON_FILES", str(tmp_path))

    settings = read_settings({})
    assert settings == PythonSettings(allow=("my_pkg", "other.jobs"), environment=("HF_HOME",), files=tmp_path)
    assert read_settings({"allow": []}).allow == ()


@given(job_id=st.text(min_size=1, max_size=64))
@example("..")
@example("/etc")
@example("a/../../b")
def test_every_job_has_a_folder_in_the_folder(job_id: str) -> None:
    """Whatever its id, which its submitter may choose."""
    folder = PythonSettings(files=Path("/files")).folder_of(job_id)

    assert folder.parent == Path("/files")
    assert folder.name not in ("", ".", "..")


def test_a_name_that_two_packages_register_is_refused(register: Any) -> None:
    """The error names both."""
    register(("add", "tests.functions:add"), ("add", "other:add"))
    with pytest.raises(PluginError, match=r"other:add; tests\.functions:add"):
        Catalog(PythonSettings()).load("add")
