"""The glossary defines the nouns of class names: a new one is defined there, or replaced by one that is."""

import ast
import builtins
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("crucible", "nsai_work")
"""A plug-in uses the words of its service, so backends are left out."""

PROGRAMMING_WORDS: Final = frozenset(
    """
    action address announcer app blueprint body call candidate category channel chat check choice clock code
    command composite connection constraint consumer context control database dataset decision decoder delta
    encoding entry error example executor fact field file filter format function handler health image
    inference input json list listing loop message mode model monitor name observer option output part path
    policy pool process progress record ref report request resource result role row schedule selection
    sender sequence settings source spec state status strategy stream target text thinking thread time
    tokenizer tool trace transport type update usage use view watch write
    """.split()  # noqa: SIM905 - a word list reads better as text
)
"""Words of programming and of machine learning in general, which need no definition."""


def _noun(class_name: str) -> str:
    """The last word of a class name, in the singular."""
    word = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*", class_name)[-1].lower()
    return _singular(word)


def _singular(word: str) -> str:
    return word if word.endswith(("ss", "us", "settings")) else word.removesuffix("s")


def _class_nodes() -> Iterator[tuple[str, ast.ClassDef]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    yield str(path.relative_to(ROOT)), node


def _nouns() -> dict[str, list[str]]:
    """The noun of every public class, with the classes that have it.

    Errors are left out: they are named after what happened (OutOfCredit, RunGone).
    """
    nodes = list(_class_nodes())
    errors = {
        name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    while more := {node.name for _, node in nodes if _bases(node) & errors} - errors:
        errors |= more
    nouns: dict[str, list[str]] = defaultdict(list)
    for path, node in nodes:
        if node.name not in errors and not node.name.startswith("_"):
            nouns[_noun(node.name)].append(f"{path}: {node.name}")
    return nouns


def _bases(node: ast.ClassDef) -> set[str]:
    return {ast.unparse(base).split(".")[-1] for base in node.bases}


def _terms() -> list[str]:
    """The terms of the glossary, as they stand there: several of a row are separated by commas."""
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "docs" / "glossary.md").read_text(), flags=re.MULTILINE)
    return [term.strip() for row in rows for term in row.split(",")]


def _defined() -> set[str]:
    return {_singular(word) for word in re.findall(r"[a-z]+", " ".join(_terms()).lower())}


def test_each_word_means_one_thing() -> None:
    """A second meaning needs a second word, such as "token span" beside the "span" of a trace."""
    counts = Counter(_terms())

    assert [term for term, count in counts.items() if count > 1] == []


def test_the_glossary_defines_the_nouns_of_class_names() -> None:
    """A class is named by a word of the glossary, or by one of programming in general."""
    known = _defined() | PROGRAMMING_WORDS

    undefined = {noun: classes for noun, classes in _nouns().items() if noun not in known}

    assert undefined == {}, "define the word in docs/glossary.md, or use one that is there"
