"""The ASGI application of the page: its routes, and what becomes of errors."""

from collections.abc import Collection
from functools import partial
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from crucible.errors import CrucibleError, NotFound
from nsai_work.page.actions import Actions
from nsai_work.page.answers import Answers
from nsai_work.page.assets import serve_asset
from nsai_work.page.live_stream import Streams
from nsai_work.page.metrics import PATH, serve_metrics
from nsai_work.page.pages import PAGES
from nsai_work.page.security import Guard
from nsai_work.page.session import PageSessions
from nsai_work.page.store_reader import StoreReader
from nsai_work.page.views.job import JobQuery, read_job_curve
from nsai_work.page.views.view import parse_query
from nsai_work.settings import Settings
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

CURVE_PATH: Final = "/job/curve.json"


class PageApp:
    """The application over the store of the settings. Without a ``token`` it is read-only. ``names`` are the host
    names under which it may be reached, beside localhost and IP addresses."""

    def __init__(self, settings: Settings, *, token: str | None = None, names: Collection[str] = ()) -> None:
        self._reader = StoreReader(settings)
        answers = Answers(self._reader, PageSessions(token))
        self._streams = Streams(answers)
        self.app = Starlette(
            routes=[
                *_page_routes(answers, self._streams),
                *_action_routes(Actions(answers, settings)),
                Route("/static/{digest}/{name:path}", serve_asset),
                Route(PATH, partial(serve_metrics, self._reader)),
            ],
            middleware=[Middleware(Guard, names=names)],
            exception_handlers={
                CrucibleError: partial(_known_error, answers),
                404: partial(_unknown_path, answers),
                Exception: _unexpected_error,
            },
        )

    async def end_streams(self) -> None:
        """End what open pages follow."""
        await self._streams.end()

    def close(self) -> None:
        """Close the connections to the store."""
        self._reader.close()


def _page_routes(answers: Answers, streams: Streams) -> list[Route]:
    routes = []
    for page in PAGES:
        routes += [
            Route(page.path, partial(answers.html, page)),
            Route(page.twin, partial(answers.json, page)),
            Route(page.live, partial(streams.serve, page)),
        ]
    return [*routes, Route(CURVE_PATH, partial(_curve, answers))]


def _action_routes(actions: Actions) -> list[Route]:
    return [
        Route("/job/cancel", actions.cancel, methods=["POST"]),
        Route("/job/retry", actions.retry, methods=["POST"]),
        Route("/job/promote", actions.promote, methods=["POST"]),
        Route("/sign-in", actions.sign_in, methods=["GET", "POST"]),
        Route("/sign-out", actions.sign_out, methods=["POST"]),
    ]


async def _curve(answers: Answers, request: Request) -> Response:
    """The curve of a job alone, for the drawing in the browser."""
    query = parse_query(JobQuery, request.query_params)
    view = await answers.reader.read(lambda tx: read_job_curve(tx, query))
    return Response(view.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"})


async def _known_error(answers: Answers, request: Request, error: Exception) -> Response:
    assert isinstance(error, CrucibleError)
    return answers.error(request, error)


async def _unknown_path(answers: Answers, request: Request, error: Exception) -> Response:
    del error
    known = ", ".join(page.path for page in PAGES)
    return answers.error(request, NotFound(f"there is no page {request.url.path:.200}; pages are {known}"))


async def _unexpected_error(request: Request, error: Exception) -> Response:
    log.error("page.failed", path=request.url.path, exc_info=error)
    return PlainTextResponse("internal error; the log of the page has the reason\n", 500)
