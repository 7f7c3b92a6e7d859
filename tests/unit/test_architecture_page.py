"""Pages on the code show it as it is: the tree has every folder with modules, and every named file exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = ("nsai_work", "crucible", "backends")
PAGES = [
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/explanation/celery.md",
    *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs" / "adr").glob("*.md")),
]
NOT_IN_THE_TREE = {"dist/", "nsai_work/store/migrations/versions/NNNN_what_changes.py"}


def drawn_folders() -> list[str]:
    """The paths of the tree; two spaces of indentation are a level."""
    tree = re.search(r"^## The tree\n\n```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert tree is not None
    paths: list[str] = []
    parents: list[str] = []
    for line in tree[1].splitlines():
        row = re.fullmatch(r"( *)(\w+)/ +\S.*", line)
        assert row is not None, f"a folder without a description: {line!r}"
        del parents[len(row[1]) // 2 :]
        parents.append(row[2])
        paths.append("/".join(parents))
    return paths


def test_the_tree_is_the_tree() -> None:
    """A folder that is added, moved or removed fails here until the page follows."""
    modules = (file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
    folders = {file.parent.relative_to(ROOT).as_posix() for file in modules}

    drawn = drawn_folders()

    assert sorted(drawn) == sorted(folders)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    """Paths are relative to the repository, to nsai_work, or to its store."""
    named = set(re.findall(r"`([\w./]+/[\w.]*)`", (ROOT / page).read_text())) - NOT_IN_THE_TREE
    roots = (ROOT, ROOT / "nsai_work", ROOT / "nsai_work" / "store")

    missing = {path for path in named if not any((root / path).exists() for root in roots)}

    assert missing == set()
