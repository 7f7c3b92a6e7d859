"""The scripts and styles: those of others unchanged, with their licences, and all of them small."""

import gzip
import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from starlette.testclient import TestClient

from nsai_work.page.assets import ASSETS, LIVE_SCRIPT, asset_url

STATIC = Path(__file__).parents[2] / "nsai_work" / "page" / "static"
MAX_COMPRESSED = 60_000


class VendoredFile(BaseModel):
    """A file of another project's package."""

    model_config = ConfigDict(extra="forbid")

    file: str
    package: str
    version: str
    licence: str
    licence_file: str
    path: str
    sha256: str


def test_vendored_files_are_those_of_their_packages() -> None:
    """Each has its digest, and its licence beside it; no other file lies there."""
    folder = STATIC / "vendor"
    listed = [VendoredFile.model_validate(each) for each in json.loads((folder / "vendored.json").read_text())]

    for each in listed:
        assert hashlib.sha256((folder / each.file).read_bytes()).hexdigest() == each.sha256, each.file
        assert each.licence in ("0BSD", "MIT")
    known = {"vendored.json", *(each.file for each in listed), *(each.licence_file for each in listed)}
    assert {path.name for path in folder.iterdir()} == known


def test_all_of_it_is_small() -> None:
    """Compressed, all scripts and styles are below 60 kB together."""
    sizes = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in STATIC.rglob("*.[jc]s*")}

    assert {"htmx.min.js", "hx-sse.min.js", "hx-csp.min.js", "uPlot.iife.min.js", "page.css"} <= sizes.keys()
    assert sum(sizes.values()) < MAX_COMPRESSED


def test_every_asset_is_served_compressed_and_for_good(page: TestClient) -> None:
    """Under an address with its digest; what is no asset is not served."""
    for name in ASSETS:
        answer = page.get(asset_url(name))
        assert answer.status_code == 200
        if name != LIVE_SCRIPT:
            assert answer.content == (STATIC / name).read_bytes()
        assert answer.headers["content-encoding"] == "gzip"
        assert "immutable" in answer.headers["cache-control"]
    for part in ("htmx.min.js", "hx-sse.min.js", "hx-csp.min.js"):
        assert (STATIC / "vendor" / part).read_bytes() in page.get(asset_url(LIVE_SCRIPT)).content
    for path in ("/static/x/vendor/vendored.json", "/static/x/../server.py", "/static/x/%2e%2e/server.py"):
        assert page.get(path).status_code == 404
