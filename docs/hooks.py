"""MkDocs hooks: publish pages from the repository's root, and fail the build if a page needs the network."""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ON_SITE = {
    "README.md": "project/readme.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "docker-compose.yml": "project/docker-compose.yml",
    **{
        path.relative_to(ROOT).as_posix(): f"project/{path.relative_to(ROOT).as_posix()}"
        for path in sorted((ROOT / "deploy").rglob("*.*"))
    },
    "deploy/Dockerfile": "project/deploy/Dockerfile",
}
"""Files outside docs/, by the address under which the site has them."""

LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//|<link\b[^>]*\bhref=["'](?:https?:)?//"""
)


def on_files(files: Files, config: Any) -> Files:
    """Add the files from the repository's root."""
    for name, address in ON_SITE.items():
        files.append(File.generated(config, address, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point relative links, which are written for a reader of the repository, at the site's addresses."""
    on_disk = {address: name for name, address in ON_SITE.items()}
    here = page.file.src_uri
    source = on_disk.get(here, f"docs/{here}")

    def on_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1]))
        address = ON_SITE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        return os.path.relpath(address, posixpath.dirname(here) or ".") if address else link[1]

    return LINK.sub(on_site, markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load something from another host."""
    found = FETCHED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} loads from the network: {found[0]}")
    return output
