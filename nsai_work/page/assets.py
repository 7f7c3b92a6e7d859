"""The scripts and styles of the page: read once, compressed, served under the digest of their content."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
PAGE_SCRIPT: Final = "page.js"
CURVE_SCRIPTS: Final = ("vendor/uPlot.iife.min.js", "curve.js")
"""The scripts of pages with a curve."""

LIVE_SCRIPT: Final = "htmx.js"
"""The script that connects a page to its stream, so the last one: what listens to the stream is there before it.

It is htmx and its extensions in one file. htmx begins in a timer; from files of their own, extensions that are slow
to arrive would miss that, and the page would never be live.
"""

_PARTS: Final = {LIVE_SCRIPT: ("vendor/htmx.min.js", "vendor/hx-sse.min.js", "vendor/hx-csp.min.js")}
STYLES: Final = ("vendor/uPlot.min.css", "page.css")
ICON: Final = "icon.svg"
ASSETS: Final = (PAGE_SCRIPT, *CURVE_SCRIPTS, LIVE_SCRIPT, *STYLES, ICON)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is served. ``digest`` is the begin of the SHA-256 of its content, in hex."""

    content: bytes
    compressed: bytes
    digest: str
    media_type: str


@cache
def asset(name: str) -> Asset:
    """Read a file of the folder ``static``, or join its parts. Raises KeyError if it is none of the page's."""
    if name not in ASSETS:
        raise KeyError(name)
    static = files("nsai_work.page").joinpath("static")
    content = b"\n".join(static.joinpath(*part.split("/")).read_bytes() for part in _PARTS.get(name, (name,)))
    media_type = _TYPES[name[name.rindex(".") :]]
    return Asset(content, gzip.compress(content, 9, mtime=0), hashlib.sha256(content).hexdigest()[:16], media_type)


def asset_url(name: str) -> str:
    """The path of a file, which changes with its content."""
    return f"/static/{asset(name).digest}/{name}"


async def serve_asset(request: Request) -> Response:
    """Answer with a file. Browsers keep it for good, since another content has another path."""
    try:
        found = asset(request.path_params["name"])
    except KeyError:
        return PlainTextResponse("not found\n", 404)
    headers = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(
            found.compressed, media_type=found.media_type, headers=headers | {"Content-Encoding": "gzip"}
        )
    return Response(found.content, media_type=found.media_type, headers=headers)
