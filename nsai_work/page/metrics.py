"""The metrics of the store at ``/metrics`` of the page: for a scraper, also while no worker is alive."""

import contextlib
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from nsai_work.errors import StoreUnavailable
from nsai_work.extras import missing_extra
from nsai_work.page.store_reader import StoreReader
from nsai_work.presentation.store_metrics import StoreFigures, read_figures, store_families

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PATH = "/metrics"


async def serve_metrics(reader: StoreReader, request: Request) -> Response:
    """The metrics in the text format of Prometheus; 501 without the extra."""
    del request
    if missing := missing_extra(PATH):
        return PlainTextResponse(f"{missing}\n", HTTPStatus.NOT_IMPLEMENTED)
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    figures: StoreFigures | None = None
    with contextlib.suppress(StoreUnavailable):
        figures = await reader.read(read_figures)
    registry = CollectorRegistry()
    registry.register(_Families([*store_families(figures)]))
    return Response(
        generate_latest(registry), media_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"}
    )


class _Families:
    """A collector of metrics that are there."""

    def __init__(self, families: "Iterable[Metric]") -> None:
        self._families = families

    def collect(self) -> "Iterable[Metric]":
        return self._families
