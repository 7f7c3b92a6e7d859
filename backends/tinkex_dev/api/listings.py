"""The routes that list training runs, and list, copy, delete, publish and expire checkpoints."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev.clock import iso
from backends.tinkex_dev.errors import InvalidField, Refused
from backends.tinkex_dev.service.service import Service, ttl_end
from backends.tinkex_dev.storage.records import RunRecord, SaveKind, StoredCheckpoint
from backends.tinkex_dev.wire.exchange import answer, metadata_strings, query_number, read
from backends.tinkex_dev.wire.requests import CopyWeights, SetTtl

CHECKPOINT = "/training_runs/{run_id}/checkpoints/{kind}/{name}"


class ListingRoutes:
    """Training runs and checkpoints, whether or not their models are loaded."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [
            Route("/training_runs", self.runs),
            Route("/training_runs/{run_id}", self.run),
            Route("/training_runs/{run_id}/checkpoints", self.checkpoints_of_run),
            Route("/checkpoints", self.checkpoints),
            Route("/copy_weights", self.copy, methods=["POST"]),
            Route(CHECKPOINT, self.delete, methods=["DELETE"]),
            Route(f"{CHECKPOINT}/publish", self.publish, methods=["POST", "DELETE"]),
            Route(f"{CHECKPOINT}/ttl", self.set_ttl, methods=["PUT"]),
        ]

    async def runs(self, request: Request) -> Response:
        limit = query_number(request, "limit", 20)
        offset = query_number(request, "offset", 0)
        project = request.query_params.get("project_id")
        listed = [run for run in self._service.runs.values() if project in (None, self._project_of(run))]
        newest = sorted(listed, key=lambda run: (run.created_at, run.id), reverse=True)
        return answer(
            {
                "training_runs": [self._wire_run(run) for run in newest[offset : offset + limit]],
                "cursor": {"offset": offset, "limit": limit, "total_count": len(newest)},
            }
        )

    def _project_of(self, run: RunRecord) -> str | None:
        session = self._service.sessions.records.get(run.session_id)
        return None if session is None else session.project_id

    async def run(self, request: Request) -> Response:
        return answer(self._wire_run(self._run(request)))

    def _run(self, request: Request) -> RunRecord:
        run_id = request.path_params["run_id"]
        run = self._service.runs.get(run_id)
        if run is None:
            raise Refused(404, f"Training run {run_id!r} not found")
        return run

    def _wire_run(self, run: RunRecord) -> dict[str, object]:
        saved = self._service.checkpoints.all(run_id=run.id)
        return {
            "training_run_id": run.id,
            "base_model": run.base_model,
            "model_owner": "dev",
            "is_lora": True,
            "corrupted": run.corrupted,
            "lora_rank": run.lora.rank,
            "last_request_time": iso(run.last_request_time),
            "last_checkpoint": self._newest(saved, SaveKind.TRAINING),
            "last_sampler_checkpoint": self._newest(saved, SaveKind.SAMPLER),
            "user_metadata": metadata_strings(run.user_metadata),
        }

    @staticmethod
    def _newest(saved: list[StoredCheckpoint], kind: SaveKind) -> dict[str, object] | None:
        return next((_wire(record) for record in saved if record.kind is kind), None)

    async def checkpoints_of_run(self, request: Request) -> Response:
        saved = self._service.checkpoints.all(run_id=self._run(request).id)
        return answer({"checkpoints": [_wire(record) for record in saved]})

    async def checkpoints(self, request: Request) -> Response:
        limit = query_number(request, "limit", 100)
        offset = query_number(request, "offset", 0)
        saved = self._service.checkpoints.all()
        return answer(
            {
                "checkpoints": [_wire(record) for record in saved[offset : offset + limit]],
                "cursor": {"offset": offset, "limit": limit, "total_count": len(saved)},
            }
        )

    def _checkpoint(self, request: Request) -> StoredCheckpoint:
        return self._service.checkpoints.find(path_in(request))

    async def delete(self, request: Request) -> Response:
        self._service.checkpoints.delete(self._checkpoint(request))
        return Response(status_code=204)

    async def copy(self, request: Request) -> Response:
        """Copy a checkpoint into a new run of a session, or of a new session in a project: listed, but not live."""
        body = await read(request, CopyWeights)
        service = self._service
        session_id, number, project_id = body.session_id, body.model_seq_id, body.destination_project_id
        if (session_id is None) != (number is None) or (session_id is None) == (project_id is None):
            raise InvalidField.at(("destination_project_id",), "give it, or else both session_id and model_seq_id")
        if session_id is not None:
            service.touch_session(session_id)
        saved = service.checkpoints.find(body.source_path)
        end = ttl_end(service.clock.now(), body.ttl_seconds)
        if session_id is None:
            session_id = service.sessions.open(project_id=project_id).id
        run = service.list_run(session_id, number or 0, saved)
        copied = await service.compute(lambda: service.checkpoints.copy(saved, run.id, expires_at=end))
        return answer({"tinker_path": service.checkpoints.public_path(copied)})

    async def publish(self, request: Request) -> Response:
        self._service.checkpoints.update(self._checkpoint(request), public=request.method == "POST")
        return Response(status_code=204)

    async def set_ttl(self, request: Request) -> Response:
        saved = self._checkpoint(request)
        body = await read(request, SetTtl)
        end = ttl_end(self._service.clock.now(), body.ttl_seconds)
        return answer(_wire(self._service.checkpoints.update(saved, expires_at=end)))


def path_in(request: Request) -> str:
    """The ``tinker://`` path named by a route's parameters; not validated."""
    parts = request.path_params
    return f"tinker://{parts['run_id']}/{parts['kind']}/{parts['name']}"


def _wire(record: StoredCheckpoint) -> dict[str, object]:
    """A checkpoint's entry in listings."""
    return {
        "checkpoint_id": f"{record.kind.value}/{record.name}",
        "checkpoint_type": record.kind.wire_name,
        "time": iso(record.time),
        "tinker_path": record.path,
        "size_bytes": record.size_bytes if record.external_bytes is None else record.external_bytes,
        "public": record.public,
        "expires_at": iso(record.expires_at) if record.expires_at else None,
        "user_metadata": metadata_strings(record.user_metadata),
    }
