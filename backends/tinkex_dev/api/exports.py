"""Downloads of checkpoints by signed URLs: as one archive, or file by file."""

import hashlib
import hmac
import io
import tarfile
from collections.abc import Iterator
from datetime import timedelta
from email.utils import format_datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from backends.tinkex_dev.api.listings import CHECKPOINT, path_in
from backends.tinkex_dev.clock import iso
from backends.tinkex_dev.errors import Refused
from backends.tinkex_dev.service.service import Service
from backends.tinkex_dev.storage.records import StoredCheckpoint
from backends.tinkex_dev.wire.exchange import answer, query_number
from backends.tiny_lm.adapter_files import adapter_files
from crucible.adapter_files import CONFIG, WEIGHTS

_TTL: Final = timedelta(hours=1)
_CHUNK_BYTES: Final = 64 * 1024
_ARCHIVE: Final = "archive"


class ExportRoutes:
    """Signed URLs of a checkpoint's archive and files, and the downloads themselves."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._secret = hashlib.sha256(f"archives:{service.options.state_dir}".encode()).digest()

    def routes(self) -> list[Route]:
        return [
            Route(f"{CHECKPOINT}/archive", self.archive),
            Route(f"{CHECKPOINT}/external_weights_urls", self.urls),
        ]

    def download_routes(self) -> list[Route]:
        """The signed downloads, outside the API and without a key."""
        return [
            Route("/archives/{run_id}/{kind}/{name}", self.download),
            Route("/files/{run_id}/{kind}/{name}/{file}", self.download_file),
        ]

    async def archive(self, request: Request) -> Response:
        saved = self._service.checkpoints.find(path_in(request))
        expires = self._service.clock.now() + _TTL
        location = self._link(request, "download", saved, _ARCHIVE, int(expires.timestamp()))
        headers = {"Location": location, "Expires": format_datetime(expires, usegmt=True)}
        return Response(status_code=302, headers=headers)

    async def urls(self, request: Request) -> Response:
        """The files of external weights, or of any other checkpoint, exported as they are read."""
        saved = self._service.checkpoints.find(path_in(request))
        expires = self._service.clock.now() + _TTL
        until = int(expires.timestamp())
        links = {
            file: self._link(request, "download_file", saved, file, until)
            for file in saved.encrypted_files or (CONFIG, WEIGHTS)
        }
        return answer({"urls": links, "expires": iso(expires)})

    def _link(self, request: Request, route: str, saved: StoredCheckpoint, file: str, until: int) -> str:
        place = {"run_id": saved.run_id, "kind": saved.kind.value, "name": saved.name}
        if file != _ARCHIVE:
            place["file"] = file
        link = request.url_for(route, **place)
        return f"{link}?until={until}&signature={self._signature(saved.path, file, until)}"

    async def download(self, request: Request) -> Response:
        saved = self._signed(request, _ARCHIVE)
        return _streamed(await self._service.compute(lambda: _tar(self._files(saved))), "application/x-tar")

    async def download_file(self, request: Request) -> Response:
        file = request.path_params["file"]
        saved = self._signed(request, file)
        files = await self._service.compute(lambda: self._files(saved))
        return _streamed(files[file], "application/octet-stream")

    def _signed(self, request: Request, file: str) -> StoredCheckpoint:
        """The checkpoint of a signed URL.

        Raises:
            Refused: 403 for a wrong signature or an expired URL, 404 if the checkpoint is gone.
        """
        path = path_in(request)
        until = query_number(request, "until", 0)
        signature = request.query_params.get("signature", "")
        if not hmac.compare_digest(signature.encode(), self._signature(path, file, until).encode()):
            raise Refused(403, "the signature of this URL is invalid")
        if self._service.clock.seconds() > until:
            raise Refused(403, "this URL has expired; request it again")
        return self._service.checkpoints.find_own(path)

    def _signature(self, path: str, file: str, until: int) -> str:
        return hmac.new(self._secret, f"{path}:{file}:{until}".encode(), hashlib.sha256).hexdigest()

    def _files(self, saved: StoredCheckpoint) -> dict[str, bytes]:
        folder = self._service.folder
        if saved.encrypted_files:
            return folder.read_encrypted(saved)
        return adapter_files(saved.base_model, saved.lora.shape, folder.read_checkpoint(saved))


def _streamed(data: bytes, media_type: str) -> Response:
    chunks: Iterator[bytes] = (data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES))
    return StreamingResponse(chunks, media_type=media_type, headers={"Content-Length": str(len(data))})


def _tar(files: dict[str, bytes]) -> bytes:
    """A tar file of an adapter; equal checkpoints give equal bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in {**files, "checkpoint_complete": b""}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()
