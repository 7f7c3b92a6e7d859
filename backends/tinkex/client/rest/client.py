"""The client of a server's REST routes: runs, checkpoints and sessions."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from pydantic import BaseModel

from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.client.requests.origins import is_same_origin
from backends.tinkex.client.requests.runner import Runner
from backends.tinkex.client.rest.rest_exports import ExportMethods
from backends.tinkex.errors import Resource, error_from_response, invalid, malformed, unsupported
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.checkpoint_path import ParsedCheckpointTinkerPath
from backends.tinkex.types.checkpoints_list import CheckpointsList
from backends.tinkex.types.responses import CheckpointArchiveUrl, GetSamplerResponse, HealthResponse
from backends.tinkex.types.server_capabilities import ServerCapabilities
from backends.tinkex.types.session import GetSessionResponse, ListSessionsResponse
from backends.tinkex.types.training_run import TrainingRun, TrainingRunsResponse
from backends.tinkex.types.weights_info import WeightsInfo
from backends.tinkex.wire.body import json_body
from backends.tinkex.wire.transport import HttpRequest
from crucible.errors import InvalidRequest, NotFound, Unsupported
from nsai_work.files.user_paths import expanded

if TYPE_CHECKING:
    from backends.tinkex.client.rest.download import DownloadLimit

R = TypeVar("R", bound=BaseModel)
_NOT_UNDERSTOOD: Final = frozenset({400, 404, 405, 422})
AnyPath = str | CheckpointAddress
"""A checkpoint's path as the official client has it, or an address that is already parsed."""


class RestClient(ExportMethods):
    """A client of the REST routes. Every call returns a future; a missing route is Unsupported, naming it."""

    def __init__(self, connection: Connection, runner: Runner, project_id: str | None = None) -> None:
        self._connection = connection
        self._runner = runner
        self._project_id = project_id

    def health(self) -> ApiFuture[HealthResponse]:
        """Return the server's health."""
        return self._get("healthz", HealthResponse, resource=Resource.SERVICE)

    def get_server_capabilities(self) -> ApiFuture[ServerCapabilities]:
        """Return the models that the server offers."""
        return self._get("get_server_capabilities", ServerCapabilities, resource=Resource.SERVICE)

    def get_training_run(self, training_run_id: str) -> ApiFuture[TrainingRun]:
        """Return a run. From the future: NotFound."""
        return self._runner.start(self._training_run(f"training_runs/{_part(training_run_id, 'training_run_id')}"))

    def get_training_run_by_tinker_path(self, tinker_path: AnyPath) -> ApiFuture[TrainingRun]:
        """Return the run that saved a checkpoint."""
        return self.get_training_run(_parts(tinker_path).training_run_id)

    def list_training_runs(
        self, limit: int = 20, offset: int = 0, *, project_id: str | None = None
    ) -> ApiFuture[TrainingRunsResponse]:
        """Return one page of the caller's runs, or of those in a project."""
        params = {**_page(limit, offset), "project_id": project_id}
        return self._get("training_runs", TrainingRunsResponse, params=params)

    def list_checkpoints(self, training_run_id: str) -> ApiFuture[CheckpointsList]:
        """Return the checkpoints of a run."""
        path = f"training_runs/{_part(training_run_id, 'training_run_id')}/checkpoints"
        return self._runner.start(self._checkpoints(path))

    def list_user_checkpoints(self, limit: int = 100, offset: int = 0) -> ApiFuture[CheckpointsList]:
        """Return one page of the caller's checkpoints, of all runs."""
        return self._get("checkpoints", CheckpointsList, params=_page(limit, offset))

    def get_weights_info_by_tinker_path(self, tinker_path: AnyPath) -> ApiFuture[WeightsInfo]:
        """Return the base model and adapter of a checkpoint. From the future: NotFound."""
        return self._runner.start(self._weights_info(CheckpointAddress.parse(tinker_path, field="tinker_path")))

    def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> ApiFuture[None]:
        """Delete ``weights/NAME`` or ``sampler_weights/NAME`` of a run. From the future: NotFound."""
        return self.delete_checkpoint_from_tinker_path(f"tinker://{training_run_id}/{checkpoint_id}")

    def delete_checkpoint_from_tinker_path(self, tinker_path: AnyPath) -> ApiFuture[None]:
        """Delete a checkpoint. From the future: NotFound."""
        return self._change("DELETE", _parts(tinker_path), "")

    def publish_checkpoint_from_tinker_path(self, tinker_path: AnyPath) -> ApiFuture[None]:
        """Make a checkpoint readable by everyone."""
        return self._change("POST", _parts(tinker_path), "/publish")

    def unpublish_checkpoint_from_tinker_path(self, tinker_path: AnyPath) -> ApiFuture[None]:
        """Make a checkpoint readable by its owner only."""
        return self._change("DELETE", _parts(tinker_path), "/publish")

    def set_checkpoint_ttl_from_tinker_path(self, tinker_path: AnyPath, ttl_seconds: int | None) -> ApiFuture[None]:
        """Set a checkpoint to expire ``ttl_seconds`` from now, or never (None)."""
        if ttl_seconds is not None and ttl_seconds < 1:
            raise invalid("ttl_seconds", ttl_seconds, "at least 1 second, or None for never")
        return self._change("PUT", _parts(tinker_path), "/ttl", {"ttl_seconds": ttl_seconds})

    def get_checkpoint_archive_url(
        self, training_run_id: str, checkpoint_id: str
    ) -> ApiFuture[CheckpointArchiveUrl]:
        """Return the URL of an archive of ``weights/NAME`` or ``sampler_weights/NAME``."""
        return self.get_checkpoint_archive_url_from_tinker_path(f"tinker://{training_run_id}/{checkpoint_id}")

    def get_checkpoint_archive_url_from_tinker_path(self, tinker_path: AnyPath) -> ApiFuture[CheckpointArchiveUrl]:
        """Return the URL of a checkpoint's archive. Waits while the server creates it."""
        return self._runner.start(self._archive_url(_parts(tinker_path)))

    def download_checkpoint_archive(
        self, tinker_path: AnyPath, target: str | Path, *, limit: "DownloadLimit | None" = None
    ) -> ApiFuture[Path]:
        """Download a checkpoint's archive to ``target``, which appears only once it is complete.

        Raises (from the future): NotFound; BackendUnavailable when the download is interrupted; InvalidRequest
        when ``target`` is something else than a file, or cannot be written, or the archive is beyond the limit.
        """
        return self._runner.start(self._download(_parts(tinker_path), expanded(str(target)), limit))

    def get_session(self, session_id: str) -> ApiFuture[GetSessionResponse]:
        """Return the runs and samplers of a session. From the future: NotFound."""
        return self._get(f"sessions/{_part(session_id, 'session_id')}", GetSessionResponse)

    def list_sessions(self, limit: int = 20, offset: int = 0) -> ApiFuture[ListSessionsResponse]:
        """Return one page of the caller's sessions."""
        return self._get("sessions", ListSessionsResponse, params=_page(limit, offset))

    def get_sampler(self, sampler_id: str) -> ApiFuture[GetSamplerResponse]:
        """Return the weights that a sampling session samples from. From the future: NotFound."""
        return self._get(f"samplers/{_part(sampler_id, 'sampler_id')}", GetSamplerResponse)

    def _get(
        self,
        path: str,
        kind: type[R],
        *,
        resource: Resource = Resource.RECORD,
        params: dict[str, Any] | None = None,
    ) -> ApiFuture[R]:
        return self._runner.start(self._fetch(path, kind, resource, params))

    async def _training_run(self, path: str) -> TrainingRun:
        run = await self._fetch(path, TrainingRun)
        if run.corrupted and not self._connection.features.corrupted_flag:
            self._connection.memory.learn(corrupted_flag=True)
        elif "corrupted" not in run.model_fields_set and self._connection.features.corrupted_flag is None:
            self._connection.memory.learn(corrupted_flag=False)
        return run

    async def _checkpoints(self, path: str) -> CheckpointsList:
        found = await self._fetch(path, CheckpointsList)
        if found.checkpoints and not self._connection.features.durable_checkpoints:
            self._connection.memory.learn(durable_checkpoints=True)
        return found

    async def _fetch(
        self,
        path: str,
        kind: type[R],
        resource: Resource = Resource.RECORD,
        params: dict[str, Any] | None = None,
    ) -> R:
        with self._naming(path):
            return await self._connection.get(path, kind, resource=resource, params=params)

    def _change(
        self,
        method: Literal["POST", "PUT", "DELETE"],
        checkpoint: ParsedCheckpointTinkerPath,
        suffix: str,
        body: dict[str, Any] | None = None,
    ) -> ApiFuture[None]:
        encoded = None if body is None else json_body(body)
        requests = [HttpRequest(method, path + suffix, encoded) for path in _paths_of(checkpoint)]
        return self._runner.start(self._send(requests))

    async def _send(self, requests: list[HttpRequest]) -> None:
        """Send the first request that the server understands."""
        for request in requests[:-1]:
            try:
                await self._connection.send(request, resource=Resource.RECORD)
            except (InvalidRequest, NotFound, Unsupported):
                continue
            return
        with self._naming(f"{requests[-1].method} {requests[-1].route}"):
            await self._connection.send(requests[-1], resource=Resource.RECORD)

    @contextlib.contextmanager
    def _naming(self, capability: str) -> Iterator[None]:
        """Name the missing capability and the server in an Unsupported error."""
        try:
            yield
        except Unsupported as error:
            raise unsupported(capability, server=self._connection.server) from error

    async def _weights_info(self, checkpoint: CheckpointAddress) -> WeightsInfo:
        body = {"tinker_path": checkpoint.text}
        with self._naming("weights_info"):
            return await self._connection.post("weights_info", body, WeightsInfo, resource=Resource.CHECKPOINT)

    async def _archive_url(self, checkpoint: ParsedCheckpointTinkerPath) -> CheckpointArchiveUrl:
        for path in _paths_of(checkpoint):
            request = HttpRequest("GET", f"{path}/archive")
            response = await self._connection.transport.send(request)
            if response.status not in _NOT_UNDERSTOOD:
                break
        if response.status in (301, 302, 303, 307, 308):
            location = response.headers.get("location")
            if not location:
                raise malformed("a redirect without Location", route=request.route)
            url = urljoin(self._connection.transport.url(request.path), location)
            return CheckpointArchiveUrl(url=url, expires=response.headers.get("expires"))
        if response.ok:
            return self._connection.read(response, CheckpointArchiveUrl, request.route)
        error = error_from_response(self._connection.error_response(response, request.route, Resource.RECORD))
        if isinstance(error, Unsupported):
            raise unsupported("archives of checkpoints", server=self._connection.server)
        raise error

    async def _download(
        self, checkpoint: ParsedCheckpointTinkerPath, target: Path, limit: "DownloadLimit | None"
    ) -> Path:
        from backends.tinkex.client.rest.download import download_file

        archive = await self._archive_url(checkpoint)
        if urlsplit(archive.url).scheme not in ("http", "https"):
            raise unsupported("archives over HTTP", server=self._connection.server)
        same_origin = is_same_origin(archive.url, self._connection.server)
        transport = self._connection.transport
        await download_file(transport, archive.url, target, authenticated=same_origin, limit=limit)
        return target


def _parts(tinker_path: AnyPath) -> ParsedCheckpointTinkerPath:
    return CheckpointAddress.parse(tinker_path, field="tinker_path").required_parts("tinker_path")


def _paths_of(checkpoint: ParsedCheckpointTinkerPath) -> list[str]:
    """Return the URL paths of a checkpoint: in the form of its tinker path first.

    Of the servers that name a save without its kind, some look it up without the kind too, and some with it.
    """
    run = checkpoint.training_run_id
    as_given = checkpoint.tinker_path.partition("://")[2].removeprefix(f"{run}/")
    folder = f"/api/v1/training_runs/{quote(run, safe='')}/checkpoints"
    return [f"{folder}/{quote(part)}" for part in dict.fromkeys((as_given, checkpoint.checkpoint_id))]


def _part(value: str, field: str) -> str:
    if not value or value in (".", "..") or any(char in value for char in "/\\?#"):
        raise invalid(field, value, "an id without slashes")
    return quote(value, safe=":")


def _page(limit: int, offset: int) -> dict[str, Any]:
    if limit < 1:
        raise invalid("limit", limit, "at least 1")
    if offset < 0:
        raise invalid("offset", offset, "0 or more")
    return {"limit": limit, "offset": offset}
