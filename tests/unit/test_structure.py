"""The structure of the source tree: layers, import cycles, class and module names, file and folder sizes.

Each ``KNOWN_*`` set lists violations that are accepted for now. A violation that is gone must leave its set.
"""

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("backends", "crucible", "nsai_work")
MAX_LINES: Final = 400
MAX_STORE_MODULES: Final = 12

KNOWN_CYCLES: Final[Set[str]] = set()
"""Packages that contain all modules of a cycle."""

ALLOWED_DUPLICATES: Final[Mapping[str, str]] = {
    "Datum": "backends.tinkex.types has the names of the official SDK; crucible.training.Datum is the contract's",
    **dict.fromkeys(
        (
            *("ForwardBackwardOutput", "PromptAltTokens", "PromptProvenanceSpan", "SampledProvenanceSpan"),
            *("EncodedTextChunk", "ModelInput", "SampleResponse", "SampledSequence", "TensorData"),
            *("RestClient", "SamplingClient", "ServiceClient", "TrainingClient"),
        ),
        "backends.tinkex.compat has the names of the official SDK for programs that are written for it",
    ),
}
"""Class names that may be defined twice, with the reason."""

KNOWN_DUPLICATES: Final[Set[str]] = set()

OLD_MODULE_NAMES: Final[Set[str]] = {
    *(
        "agenda",
        "arrivals",
        "claiming",
        "claims",
        "courier",
        "dependents",
        "desk",
        "direct",
        "dispatching",
        "ending",
    ),
    *("finite", "grouping", "guard", "intake", "lag", "ledger", "line", "live", "notices", "numbering"),
    *("narration", "opening", "ownership", "perform", "placing", "reading", "releasing", "spoken", "steer"),
    *("steering", "stepping", "submission"),
    *("submitting", "sweeper", "takeover", "taking", "thread", "waiting", "writer", "writes"),
}
"""Former module names: gerunds and words that are not of the field."""

VAGUE_MODULE_NAMES: Final[Set[str]] = {
    "base",
    "common",
    "core",
    "helper",
    "helpers",
    "misc",
    "shared",
    "util",
    "utils",
}

NOUNS_IN_ING: Final[Set[str]] = {"accounting", "billing", "sampling", "training"}
"""Module names in -ing that are nouns of the field. Any other is a gerund: a module is a thing or an actor."""

ALLOWED_MODULE_NAMES: Final[Mapping[str, str]] = {}
"""Modules that may have a name of the two sets above, with the reason."""

KNOWN_MODULE_NAMES: Final[Set[str]] = set()

ALLOWED_LONG_FILES: Final[Mapping[str, str]] = {}
"""Files that may be longer than ``MAX_LINES``, with the reason."""

KNOWN_LONG_FILES: Final[Set[str]] = set()


@dataclass(frozen=True)
class Definitions:
    """The classes that a file defines, and the names that it imports, in functions and under TYPE_CHECKING too."""

    classes: tuple[str, ...]
    imports: tuple[str, ...]


@cache
def definitions_of(path: Path) -> Definitions:
    """Parse a file."""
    classes: list[str] = []
    imports: list[str] = []
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        match node:
            case ast.Import():
                imports += [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(module)):
                imports += [f"{module}.{alias.name}" for alias in node.names]
            case ast.ClassDef():
                classes.append(node.name)
        # an expression has no statements in it
        pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]
    return Definitions(tuple(classes), tuple(imports))


@cache
def modules_of(package: str) -> Mapping[str, list[Path]]:
    """The files of each module of a package, by the module's name: the source, and a stub if there is one."""
    modules: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(chain.from_iterable((ROOT / package).rglob(pattern) for pattern in ("*.py", "*.pyi"))):
        parts = path.relative_to(ROOT).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)].append(path)
    return modules


def imports_of(paths: Iterable[Path], modules: Mapping[str, object]) -> set[str]:
    """The modules that files import, in functions and under TYPE_CHECKING too."""
    found: set[str] = set()
    for name in chain.from_iterable(definitions_of(path).imports for path in paths):
        # ``from module import name``: the name may be a module itself
        candidates = (name, name.rpartition(".")[0])
        found |= {next((candidate for candidate in candidates if candidate in modules), name)} & set(modules)
    return found


def cycles_of(graph: Mapping[str, Set[str]]) -> list[set[str]]:
    """The sets of nodes that reach each other, as long as they have more than one node."""
    reachable: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        pending = [*graph[start]]
        while pending:
            node = pending.pop()
            if node not in seen:
                seen.add(node)
                pending += graph[node]
        reachable[start] = seen
    cycles: list[set[str]] = []
    for node in graph:
        cycle = {other for other in reachable[node] if node in reachable[other]}
        if len(cycle) > 1 and cycle not in cycles:
            cycles.append(cycle)
    return cycles


def classes() -> Iterator[tuple[str, str]]:
    """The name and the module of every class."""
    for package in PACKAGES:
        for module, paths in modules_of(package).items():
            for path in paths:
                for name in definitions_of(path).classes:
                    yield name, module


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def assert_only_known(found: Set[str], known: Set[str], allowed: Iterable[str], what: str) -> None:
    """Fail on a violation that is not listed, and on a listed one that is gone."""
    listed = known | set(allowed)
    assert not found - listed, f"{what}: {sorted(found - listed)}"
    assert not listed - found, f"no longer a violation, so remove it from the lists of this file: {listed - found}"


def layer_contracts() -> list[dict[str, Any]]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts: list[dict[str, Any]] = configuration["tool"]["importlinter"]["contracts"]
    return [contract for contract in contracts if contract["type"] == "layers"]


@pytest.mark.parametrize("container", ["nsai_work", "nsai_work.store"])
def test_every_module_has_a_layer(container: str) -> None:
    """import-linter checks the arrows between layers; a module in no layer would escape it."""
    [contract] = [contract for contract in layer_contracts() if contract["containers"] == [container]]
    layered = {name.strip("() ") for layer in contract["layers"] for name in layer.replace(":", "|").split("|")}
    prefix = f"{container}."
    names = {name.removeprefix(prefix).split(".")[0] for name in modules_of("nsai_work") if name.startswith(prefix)}
    # a folder without __init__.py (Alembic's scripts) is no package
    packages = {name for name in names if (ROOT / container.replace(".", "/") / name / "__init__.py").exists()}
    modules = {name for name in names if (ROOT / container.replace(".", "/") / f"{name}.py").exists()}

    assert contract["exhaustive"]
    assert not layered ^ (packages | modules), "modules without a layer, or layers without a module"


def test_the_store_and_the_training_driver_are_siblings() -> None:
    """Neither imports the other; both know the journal."""
    [contract] = [contract for contract in layer_contracts() if contract["containers"] == ["nsai_work"]]
    [siblings] = [layer.split(" | ") for layer in contract["layers"] if "store" in layer.split(" | ")]

    assert "training" in siblings


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    """Imports in functions, in stubs and under TYPE_CHECKING count as well."""
    modules = modules_of(package)
    graph = {name: imports_of(paths, modules) - {name} for name, paths in modules.items()}
    known = {name for name in KNOWN_CYCLES if name.split(".")[0] == package}

    cycles = cycles_of(graph)

    listed = {
        name: [cycle for cycle in cycles if all(item.startswith(f"{name}.") for item in cycle)] for name in known
    }
    new = [sorted(cycle) for cycle in cycles if cycle not in chain.from_iterable(listed.values())]
    assert not new, f"modules that import each other: {new}"
    assert all(listed.values()), f"no cycle any more, so remove it from KNOWN_CYCLES: {listed}"


def test_no_class_name_is_defined_twice() -> None:
    """A name means one thing in all three packages."""
    modules: dict[str, list[str]] = defaultdict(list)
    for name, module in classes():
        modules[name].append(module)
    twice = {name for name, definitions in modules.items() if len(definitions) > 1}
    new = {name: modules[name] for name in twice - KNOWN_DUPLICATES - set(ALLOWED_DUPLICATES)}

    assert_only_known(twice, KNOWN_DUPLICATES, ALLOWED_DUPLICATES, f"class names that are defined twice ({new})")


def test_no_former_or_vague_module_name_comes_back() -> None:
    """A module or folder is named for an actor or a thing of the field."""
    banned = OLD_MODULE_NAMES | VAGUE_MODULE_NAMES
    names = chain.from_iterable(modules_of(package) for package in PACKAGES)
    found = {name for name in names if name.rpartition(".")[2].lstrip("_") in banned}

    assert_only_known(found, KNOWN_MODULE_NAMES, ALLOWED_MODULE_NAMES, "modules whose names are not to be used")


def test_no_module_is_named_by_a_gerund() -> None:
    """A folder may have the name of what it is about; a module is an actor or a thing."""
    names = {path.stem for path in python_files(*PACKAGES)}
    gerunds = {name for name in names if name.endswith("ing")}

    assert_only_known(gerunds, set(), NOUNS_IN_ING, "modules named by a gerund")


def test_no_docstring_begins_with_a_question() -> None:
    """Its first sentence says what a module, class or field is, what a function does, or what is true of a bool."""
    question = re.compile(
        r'^ *"""(How|One|What|When|Where|Whether|Which|Who|Whose|Why|(True|False) if)\s.*', re.MULTILINE
    )
    found = {
        f"{path.relative_to(ROOT).as_posix()}: {match[0].strip()}"
        for path in python_files(*PACKAGES)
        for match in question.finditer(path.read_text())
    }

    assert found == set()


def test_no_file_is_too_long() -> None:
    """Sources, tests, benchmarks and examples alike."""
    files = python_files(*PACKAGES, "tests", "benchmarks", "examples")
    long = {path.relative_to(ROOT).as_posix() for path in files if len(path.read_text().splitlines()) > MAX_LINES}

    assert_only_known(long, KNOWN_LONG_FILES, ALLOWED_LONG_FILES, f"files of more than {MAX_LINES} lines")


def test_no_folder_of_the_store_has_too_many_modules() -> None:
    """A folder holds one idea. The folder of the migrations grows with time, so it does not count."""
    sizes: dict[str, int] = defaultdict(int)
    for path in python_files("nsai_work/store"):
        if path.parent.name != "versions":
            sizes[path.parent.relative_to(ROOT).as_posix()] += path.name != "__init__.py"

    assert {folder: size for folder, size in sizes.items() if size > MAX_STORE_MODULES} == {}
