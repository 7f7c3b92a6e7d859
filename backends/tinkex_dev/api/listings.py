"""Training runs and checkpoints: listing, deleting, publishing, keeping and fetching them."""

import hashlib
import hmac
import io
import json
import tarfile
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from backends.tinkex_dev.clock import iso
from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.exchange import answer, metadata_of, number_in_query, read
from backends.tinkex_dev.model import safetensors
from backends.tinkex_dev.records import CheckpointKind, CheckpointRecord, RunRecord
from backends.tinkex_dev.requests import SetTtl
from backends.tinkex_dev.service import Service, ttl_end

_ARCHIVE_LIFE = timedelta(hours=1)
_PIECE = 64 * 1024
_ONE = "/training_runs/{run_id}/checkpoints/{kind}/{name}"


class ListingRoutes:
    """What is there, whether or not its model still lives."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._secret = hashlib.sha256(f"archives:{service.options.state_dir}".encode()).digest()

    def routes(self) -> list[Route]:
        return [
            Route("/training_runs", self.runs),
            Route("/training_runs/{run_id}", self.run),
            Route("/training_runs/{run_id}/checkpoints", self.checkpoints_of_run),
            Route("/checkpoints", self.checkpoints),
            Route(_ONE, self.delete, methods=["DELETE"]),
            Route(f"{_ONE}/archive", self.archive),
            Route(f"{_ONE}/publish", self.publish, methods=["POST", "DELETE"]),
            Route(f"{_ONE}/ttl", self.set_ttl, methods=["PUT"]),
        ]

    def archive_route(self) -> Route:
        """Where an archive's address leads: outside of the API, without a key."""
        return Route("/archives/{run_id}/{kind}/{name}", self.download)

    async def runs(self, request: Request) -> Response:
        limit = number_in_query(request, "limit", 20)
        offset = number_in_query(request, "offset", 0)
        newest = sorted(self._service.runs.values(), key=lambda run: (run.created_at, run.id), reverse=True)
        return answer(
            {
                "training_runs": [self._wire_run(run) for run in newest[offset : offset + limit]],
                "cursor": {"offset": offset, "limit": limit, "total_count": len(newest)},
            }
        )

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
            "last_checkpoint": self._newest(saved, CheckpointKind.TRAINING),
            "last_sampler_checkpoint": self._newest(saved, CheckpointKind.SAMPLER),
            "user_metadata": metadata_of(run.user_metadata),
        }

    @staticmethod
    def _newest(saved: list[CheckpointRecord], kind: CheckpointKind) -> dict[str, object] | None:
        return next((_wire(record) for record in saved if record.kind is kind), None)

    async def checkpoints_of_run(self, request: Request) -> Response:
        saved = self._service.checkpoints.all(run_id=self._run(request).id)
        return answer({"checkpoints": [_wire(record) for record in saved]})

    async def checkpoints(self, request: Request) -> Response:
        limit = number_in_query(request, "limit", 100)
        offset = number_in_query(request, "offset", 0)
        saved = self._service.checkpoints.all()
        return answer(
            {
                "checkpoints": [_wire(record) for record in saved[offset : offset + limit]],
                "cursor": {"offset": offset, "limit": limit, "total_count": len(saved)},
            }
        )

    def _checkpoint(self, request: Request) -> CheckpointRecord:
        part = request.path_params
        return self._service.checkpoints.find(f"tinker://{part['run_id']}/{part['kind']}/{part['name']}")

    async def delete(self, request: Request) -> Response:
        self._service.checkpoints.delete(self._checkpoint(request))
        return Response(status_code=204)

    async def publish(self, request: Request) -> Response:
        self._service.checkpoints.change(self._checkpoint(request), public=request.method == "POST")
        return Response(status_code=204)

    async def set_ttl(self, request: Request) -> Response:
        saved = self._checkpoint(request)
        body = await read(request, SetTtl)
        end = ttl_end(self._service.clock.now(), body.ttl_seconds)
        return answer(_wire(self._service.checkpoints.change(saved, expires_at=end)))

    async def archive(self, request: Request) -> Response:
        saved = self._checkpoint(request)
        expires = self._service.clock.now() + _ARCHIVE_LIFE
        until = int(expires.timestamp())
        link = request.url_for("download", run_id=saved.run_id, kind=saved.kind.value, name=saved.name)
        location = f"{link}?until={until}&signature={self._signature(saved.path, until)}"
        return Response(
            status_code=302,
            headers={"Location": location, "Expires": format_datetime(expires, usegmt=True)},
        )

    async def download(self, request: Request) -> Response:
        part = request.path_params
        path = f"tinker://{part['run_id']}/{part['kind']}/{part['name']}"
        until = number_in_query(request, "until", 0)
        given = request.query_params.get("signature", "")
        if not hmac.compare_digest(given, self._signature(path, until)):
            raise Refused(403, "the signature of this address is not valid")
        if self._service.clock.seconds() > until:
            raise Refused(403, "this address has expired; ask for the archive again")
        saved = self._service.checkpoints.find(path)
        data = await self._service.compute(lambda: self._tar(saved))
        pieces: Iterator[bytes] = (data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
        return StreamingResponse(pieces, media_type="application/x-tar", headers={"Content-Length": str(len(data))})

    def _signature(self, path: str, until: int) -> str:
        return hmac.new(self._secret, f"{path}:{until}".encode(), hashlib.sha256).hexdigest()

    def _tar(self, saved: CheckpointRecord) -> bytes:
        """The adapter and its description; the same checkpoint gives the same bytes."""
        state = self._service.storage.read_checkpoint(saved)
        weights = {key.removeprefix("w."): value for key, value in state.items() if key.startswith("w.")}
        files = {
            "adapter_config.json": json.dumps(
                {
                    "peft_type": "LORA",
                    "base_model_name_or_path": saved.base_model,
                    "r": saved.lora.rank,
                    "lora_alpha": 32,
                }
            ).encode(),
            "adapter_model.safetensors": safetensors.pack(weights),
            "checkpoint_complete": b"",
        }
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name, data in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
        return out.getvalue()


def _wire(record: CheckpointRecord) -> dict[str, object]:
    """A checkpoint as listings have it."""
    return {
        "checkpoint_id": f"{record.kind.value}/{record.name}",
        "checkpoint_type": record.kind.wire_name,
        "time": iso(record.time),
        "tinker_path": record.path,
        "size_bytes": record.size_bytes,
        "public": record.public,
        "expires_at": iso(record.expires_at) if record.expires_at else None,
        "user_metadata": metadata_of(record.user_metadata),
    }
