"""The ASGI application."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp

from backends.tinkex_dev.api.admin import AdminRoutes
from backends.tinkex_dev.api.billing import BillingRoutes
from backends.tinkex_dev.api.custom_losses import CustomLossRoutes
from backends.tinkex_dev.api.exports import ExportRoutes
from backends.tinkex_dev.api.futures import FutureRoutes
from backends.tinkex_dev.api.listings import ListingRoutes
from backends.tinkex_dev.api.models import ModelRoutes
from backends.tinkex_dev.api.sampling import SamplingRoutes
from backends.tinkex_dev.api.saves import SaveRoutes
from backends.tinkex_dev.api.sessions import SessionRoutes
from backends.tinkex_dev.api.training import TrainingRoutes
from backends.tinkex_dev.errors import OperationFailed, Refused
from backends.tinkex_dev.http.gate import Gate
from backends.tinkex_dev.service.service import Service
from backends.tinkex_dev.wire.exchange import answer, on_failed, on_refused


def application(service: Service) -> ASGIApp:
    """All routes of a service, behind the gate."""
    models = ModelRoutes(service)
    exports = ExportRoutes(service)
    api: list[BaseRoute] = [
        *SessionRoutes(service).routes(),
        *models.routes(),
        *TrainingRoutes(service, models).routes(),
        *SaveRoutes(service).routes(),
        *FutureRoutes(service).routes(),
        *SamplingRoutes(service).routes(),
        *ListingRoutes(service).routes(),
        *exports.routes(),
        *CustomLossRoutes(service).routes(),
        *BillingRoutes(service).routes(),
    ]
    app = Starlette(
        routes=[
            Mount("/api/v1", routes=api),
            Mount("/dev", routes=AdminRoutes(service).routes()),
            *exports.download_routes(),
        ],
        exception_handlers={
            Refused: on_refused,
            OperationFailed: on_failed,
            404: _not_found,
            405: _not_allowed,
        },
    )
    return Gate(app, service)


async def _not_found(_request: Request, _error: Exception) -> Response:
    return answer({"detail": "Not Found"}, 404)


async def _not_allowed(_request: Request, _error: Exception) -> Response:
    return answer({"detail": "Method Not Allowed"}, 405)
