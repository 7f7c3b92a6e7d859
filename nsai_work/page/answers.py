"""The answers of the page: HTML, JSON twins, and errors as either."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from crucible.errors import CallerError, CrucibleError, NotFound
from nsai_work.errors import StoreUnavailable
from nsai_work.page.pages import PAGES, Page
from nsai_work.page.renderer import compact_json, render
from nsai_work.page.security import NONCE
from nsai_work.page.session import PageSessions
from nsai_work.page.store_reader import StoreReader
from nsai_work.page.views.view import View, parse_query

JSON: Final = "application/json"
_FRESH: Final = {"Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Answers:
    """Makes the answers of all pages from the store, for readers and for people who are signed in."""

    reader: StoreReader
    sessions: PageSessions

    async def html(self, page: Page, request: Request) -> Response:
        """The page as HTML."""
        query = parse_query(page.query, request.query_params)
        view = await self.reader.read(lambda tx: page.read(tx, query))
        return HTMLResponse(render("page.html", self.values(page, request, view)), headers=_FRESH)

    async def json(self, page: Page, request: Request) -> Response:
        """The page's JSON twin."""
        query = parse_query(page.query, request.query_params)
        view = await self.reader.read(lambda tx: page.read(tx, query))
        return Response(view.model_dump_json(), media_type=JSON, headers=_FRESH)

    def main(self, page: Page, request: Request, view: View) -> str:
        """The part of the page that changes while it is open."""
        return render(f"{page.name}.html", self.values(page, request, view))

    def values(self, page: Page | None, request: Request, view: View | None) -> dict[str, Any]:
        """The values of a template."""
        drawings = {} if page is None or view is None else page.draw(view)
        query = request.url.query
        return {
            "pages": PAGES,
            "page": page,
            "view": view,
            "nonce": request.scope[NONCE],
            "form_key": self.sessions.form_key(request),
            "may_sign_in": self.sessions.token is not None,
            "query": f"?{query}" if query else "",
            "notice": None,
            **drawings,
        }

    def error(self, request: Request, error: CrucibleError) -> Response:
        """An error, as JSON for a JSON twin, else as a page."""
        status = status_of(error)
        if request.url.path.endswith(".json"):
            failure = error.failure().model_dump(mode="json", include={"category", "code", "message"})
            return Response(compact_json({"error": failure}), status, media_type=JSON, headers=_FRESH)
        is_away = isinstance(error, StoreUnavailable)
        values = self.values(None, request, None) | {
            "status": HTTPStatus(status),
            "error": error,
            "is_away": is_away,
        }
        return HTMLResponse(render("error.html", values), status, headers=_FRESH)


def status_of(error: CrucibleError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, NotFound):
        return HTTPStatus.NOT_FOUND
    if isinstance(error, CallerError):
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.SERVICE_UNAVAILABLE if isinstance(error, StoreUnavailable) else HTTPStatus.BAD_GATEWAY
