"""The API reference has every public name, and only public names."""

import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
API = REPOSITORY / "docs" / "reference" / "api"
PAGES = {
    "nsai_work": "nsai_work.md",
    "nsai_work.testing": "nsai_work_testing.md",
    "crucible": "crucible.md",
    "crucible.environments": "crucible_environments.md",
    "crucible.testing": "crucible_testing.md",
    "backends.tinkex": "tinkex.md",
    "backends.tinkex.types": "tinkex_types.md",
    "backends.tinkex.compat": "tinkex_compat.md",
}
HAVE_PAGES_OF_THEIR_OWN = {"backends.tinkex": {"types"}, "backends.tinkex.compat": {"types"}}


def test_every_page_belongs_to_a_package() -> None:
    """No page of the reference is left out of these tests."""
    assert sorted(page.name for page in API.glob("*.md")) == sorted(PAGES.values())


@pytest.mark.parametrize("package", PAGES)
def test_the_reference_has_every_public_name_once(package: str) -> None:
    """A name added to ``__all__`` fails here until its page has a line ``::: package.Name``."""
    public = set(importlib.import_module(package).__all__) - HAVE_PAGES_OF_THEIR_OWN.get(package, set())

    listed = re.findall(r"^::: (\S+)$", (API / PAGES[package]).read_text(), re.MULTILINE)

    assert sorted(listed) == sorted(f"{package}.{name}" for name in public)


def test_every_page_is_in_the_navigation() -> None:
    """A page that the navigation lacks fails the strict build of the site; this fails sooner."""
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    docs = REPOSITORY / "docs"
    pages = [path.relative_to(docs).as_posix() for path in sorted(docs.rglob("*.md"))]

    assert [page for page in pages if page not in navigation] == []


def test_every_page_is_in_a_list_of_pages() -> None:
    """docs/README.md lists them all but the decisions, which have a list of their own."""
    docs = REPOSITORY / "docs"
    missing = []
    for page in sorted(docs.rglob("*.md")):
        folder = docs / "adr" if page.parent.name == "adr" and page.name != "README.md" else docs
        path = page.relative_to(folder).as_posix()
        if path != "README.md" and f"({path})" not in (folder / "README.md").read_text():
            missing.append(path)

    assert missing == []
