"""The ``/dev/`` routes: fault injection, the effect log and digests. They answer this machine only."""

import asyncio
import json
from typing import Final

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev import faults
from backends.tinkex_dev.errors import InvalidField, Refused
from backends.tinkex_dev.service.run import ServerRun
from backends.tinkex_dev.service.service import Service
from backends.tinkex_dev.wire.exchange import answer, validation_details

_FAULT: TypeAdapter[faults.Fault] = TypeAdapter(faults.Fault)
_LOOPBACK: Final = ("127.0.0.1", "::1")


class AdminRoutes:
    """Faults, the effect log, live runs, and digests of weights."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [
            Route("/faults", self.add_fault, methods=["POST"]),
            Route("/faults", self.list_faults),
            Route("/faults", self.clear_faults, methods=["DELETE"]),
            Route("/log", self.log),
            Route("/runs", self.live_runs),
            Route("/runs/{run_id}/weights_digest", self.run_digest),
            Route("/checkpoints/digest", self.checkpoint_digest),
        ]

    async def add_fault(self, request: Request) -> Response:
        _require_loopback(request)
        try:
            fault = _FAULT.validate_python(json.loads(await request.body()))
        except ValidationError as error:
            raise InvalidField(422, validation_details(error)) from None
        except ValueError as error:
            raise Refused(422, f"the body is not JSON: {error}") from None
        await self._apply(fault)
        return answer({"status": "ok", "fault": fault.model_dump(mode="json")})

    async def _apply(self, fault: faults.Fault) -> None:
        service = self._service
        match fault:
            case faults.CorruptRun(model_id=str(run_id), after_optim_steps=None):
                await service.poison(self._live(run_id), fault.mode)
            case faults.CorruptRun() | faults.RouteFault() | faults.FailOperation():
                service.faults.add(fault)
            case faults.LoseModel():
                self._live(fault.model_id)
                service.unload(fault.model_id, "lost on command")
            case faults.ExpireSession():
                for session_id in [fault.session_id] if fault.session_id else service.sessions.open_ids():
                    service.end_session(session_id)
            case faults.DropFutures():
                service.promises.drop_resolved(fault.model_id)
            case faults.ColdOptimizer():
                service.faults.cold_loads = fault.count
            case faults.DamageCheckpoint():
                service.checkpoints.damage(service.checkpoints.find(fault.path), missing=fault.how == "missing")
            case faults.ExhaustCredit():
                service.faults.out_of_credit = fault.on
            case faults.PauseQueue():
                service.pause(fault)
            case faults.NoReplay():
                service.replay = not fault.on
            case faults.Latency():
                if fault.latency_ms is not None:
                    service.latency_ms = fault.latency_ms
                if fault.work_ms is not None:
                    service.work_ms = fault.work_ms
            case faults.AdvanceClock():
                service.clock.ahead_s += fault.seconds
                service.end_stale_sessions()

    async def list_faults(self, request: Request) -> Response:
        _require_loopback(request)
        return answer({"faults": self._service.faults.scheduled()})

    async def clear_faults(self, request: Request) -> Response:
        _require_loopback(request)
        self._service.faults.clear()
        return Response(status_code=204)

    async def log(self, request: Request) -> Response:
        _require_loopback(request)
        query = request.query_params
        entries = await asyncio.to_thread(
            self._service.effect_log.entries, model_id=query.get("model_id"), kind=query.get("kind")
        )
        return answer({"entries": entries})

    async def live_runs(self, request: Request) -> Response:
        _require_loopback(request)
        return answer(
            {
                "runs": [
                    {"model_id": run.record.id, "steps": run.adapter.steps, "next_seq_id": run.lane.next_seq}
                    for run in self._service.live.values()
                ]
            }
        )

    async def run_digest(self, request: Request) -> Response:
        _require_loopback(request)
        run = self._live(request.path_params["run_id"])
        digest = await self._service.compute(lambda: run.adapter.digest())
        return answer({"digest": digest, "steps": run.adapter.steps})

    async def checkpoint_digest(self, request: Request) -> Response:
        _require_loopback(request)
        saved = self._service.checkpoints.find(request.query_params.get("path", ""))
        return answer({"digest": saved.state_digest, "steps": saved.step, "sha256": saved.sha256})

    def _live(self, run_id: str) -> ServerRun:
        run = self._service.live.get(run_id)
        if run is None:
            raise Refused(404, f"Model {run_id} is not loaded")
        return run


def _require_loopback(request: Request) -> None:
    if request.client is None or request.client.host not in _LOOPBACK:
        raise Refused(403, "the admin routes answer only this machine")
