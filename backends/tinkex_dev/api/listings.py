"""The routes that list training runs, and list, delete, publish, expire and download checkpoints."""

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
from backends.tinkex_dev.service.service import Service, ttl_end
from backends.tinkex_dev.storage.records import RunRecord, SaveKind, StoredCheckpoint
from backends.tinkex_dev.wire.exchange import answer, metadata_strings, query_number, read
from backends.tinkex_dev.wire.requests import SetTtl
from backends.tiny_lm import safetensors

_ARCHIVE_TTL = timedelta(hours=1)
_CHUNK_BYTES = 64 * 1024
_CHECKPOINT = "/training_runs/{run_id}/checkpoints/{kind}/{name}"


class ListingRoutes:
    """Training runs and checkpoints, whether or not their models are loaded."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._secret = hashlib.sha256(f"archives:{service.options.state_dir}".encode()).digest()

    def routes(self) -> list[Route]:
        return [
            Route("/training_runs", self.runs),
            Route("/training_runs/{run_id}", self.run),
            Route("/training_runs/{run_id}/checkpoints", self.checkpoints_of_run),
            Route("/checkpoints", self.checkpoints),
            Route(_CHECKPOINT, self.delete, methods=["DELETE"]),
            Route(f"{_CHECKPOINT}/archive", self.archive),
            Route(f"{_CHECKPOINT}/publish", self.publish, methods=["POST", "DELETE"]),
            Route(f"{_CHECKPOINT}/ttl", self.set_ttl, methods=["PUT"]),
        ]

    def archive_route(self) -> Route:
        """The signed download of an archive, outside the API and without a key."""
        return Route("/archives/{run_id}/{kind}/{name}", self.download)

    async def runs(self, request: Request) -> Response:
        limit = query_number(request, "limit", 20)
        offset = query_number(request, "offset", 0)
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
        return self._service.checkpoints.find(_path_in(request))

    async def delete(self, request: Request) -> Response:
        self._service.checkpoints.delete(self._checkpoint(request))
        return Response(status_code=204)

    async def publish(self, request: Request) -> Response:
        self._service.checkpoints.update(self._checkpoint(request), public=request.method == "POST")
        return Response(status_code=204)

    async def set_ttl(self, request: Request) -> Response:
        saved = self._checkpoint(request)
        body = await read(request, SetTtl)
        end = ttl_end(self._service.clock.now(), body.ttl_seconds)
        return answer(_wire(self._service.checkpoints.update(saved, expires_at=end)))

    async def archive(self, request: Request) -> Response:
        saved = self._checkpoint(request)
        expires = self._service.clock.now() + _ARCHIVE_TTL
        until = int(expires.timestamp())
        link = request.url_for("download", run_id=saved.run_id, kind=saved.kind.value, name=saved.name)
        location = f"{link}?until={until}&signature={self._signature(saved.path, until)}"
        return Response(
            status_code=302,
            headers={"Location": location, "Expires": format_datetime(expires, usegmt=True)},
        )

    async def download(self, request: Request) -> Response:
        path = _path_in(request)
        until = query_number(request, "until", 0)
        signature = request.query_params.get("signature", "")
        if not hmac.compare_digest(signature, self._signature(path, until)):
            raise Refused(403, "the signature of this URL is invalid")
        if self._service.clock.seconds() > until:
            raise Refused(403, "this URL has expired; request the archive again")
        saved = self._service.checkpoints.find(path)
        data = await self._service.compute(lambda: self._tar(saved))
        chunks: Iterator[bytes] = (
            data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES)
        )
        return StreamingResponse(chunks, media_type="application/x-tar", headers={"Content-Length": str(len(data))})

    def _signature(self, path: str, until: int) -> str:
        return hmac.new(self._secret, f"{path}:{until}".encode(), hashlib.sha256).hexdigest()

    def _tar(self, saved: StoredCheckpoint) -> bytes:
        """A tar file of the adapter and its configuration; equal checkpoints give equal bytes."""
        state = self._service.folder.read_checkpoint(saved)
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


def _path_in(request: Request) -> str:
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
        "size_bytes": record.size_bytes,
        "public": record.public,
        "expires_at": iso(record.expires_at) if record.expires_at else None,
        "user_metadata": metadata_strings(record.user_metadata),
    }
