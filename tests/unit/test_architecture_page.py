"""docs/architecture.md shows the tree as it is: every folder with modules, and files that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGES = ("nsai_work", "crucible", "backends")


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


def test_every_file_that_the_page_names_exists() -> None:
    """In the section on a job's way, paths are relative to nsai_work."""
    named = set(re.findall(r"`([\w/]+/[\w.]*)`", PAGE)) - {"nsai_work/"}

    missing = {path for path in named if not (ROOT / path).exists() and not (ROOT / "nsai_work" / path).exists()}

    assert missing == set()
