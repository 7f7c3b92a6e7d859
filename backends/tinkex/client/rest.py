"""Runs, checkpoints and sessions: what a server keeps."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from pydantic import BaseModel

from backends.tinkex.client.api_future import ApiFuture
from backends.tinkex.client.connection import Connection
from backends.tinkex.client.runner import Runner
from backends.tinkex.errors import Sought, error_of, invalid, malformed, unsupported
from backends.tinkex.types.checkpoint_path import ParsedCheckpointTinkerPath
from backends.tinkex.types.checkpoints_list import CheckpointsList
from backends.tinkex.types.responses import CheckpointArchiveUrl, GetSamplerResponse, HealthResponse
from backends.tinkex.types.server_capabilities import ServerCapabilities
from backends.tinkex.types.session import GetSessionResponse, ListSessionsResponse
from backends.tinkex.types.training_run import TrainingRun, TrainingRunsResponse
from backends.tinkex.types.weights_info import WeightsInfo
from backends.tinkex.wire.body import json_body
from backends.tinkex.wire.transport import Call
from crucible.errors import Unsupported

R = TypeVar("R", bound=BaseModel)


class RestClient:
    """Every call returns a future. What the server does not offer is Unsupported, naming it."""

    def __init__(self, connection: Connection, runner: Runner) -> None:
        self._connection = connection
        self._runner = runner

    def health(self) -> ApiFuture[HealthResponse]:
        """Whether the server is up."""
        return self._get("healthz", HealthResponse, sought=Sought.SERVICE)

    def get_server_capabilities(self) -> ApiFuture[ServerCapabilities]:
        """The models that the server offers."""
        return self._get("get_server_capabilities", ServerCapabilities, sought=Sought.SERVICE)

    def get_training_run(self, training_run_id: str) -> ApiFuture[TrainingRun]:
        """One run. From the future: NotFound."""
        return self._runner.start(self._run(f"training_runs/{_part(training_run_id, 'training_run_id')}"))

    def get_training_run_by_tinker_path(self, tinker_path: str) -> ApiFuture[TrainingRun]:
        """The run that a checkpoint belongs to."""
        return self.get_training_run(_parsed(tinker_path).training_run_id)

    def list_training_runs(self, limit: int = 20, offset: int = 0) -> ApiFuture[TrainingRunsResponse]:
        """One page of the caller's runs."""
        return self._get("training_runs", TrainingRunsResponse, params=_page(limit, offset))

    def list_checkpoints(self, training_run_id: str) -> ApiFuture[CheckpointsList]:
        """The checkpoints of one run."""
        path = f"training_runs/{_part(training_run_id, 'training_run_id')}/checkpoints"
        return self._runner.start(self._checkpoints(path))

    def list_user_checkpoints(self, limit: int = 100, offset: int = 0) -> ApiFuture[CheckpointsList]:
        """One page of the caller's checkpoints, of all runs."""
        return self._get("checkpoints", CheckpointsList, params=_page(limit, offset))

    def get_weights_info_by_tinker_path(self, tinker_path: str) -> ApiFuture[WeightsInfo]:
        """What a checkpoint was trained from. From the future: NotFound."""
        return self._runner.start(self._weights_info(_parsed(tinker_path)))

    def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> ApiFuture[None]:
        """Delete ``weights/NAME`` or ``sampler_weights/NAME`` of a run. From the future: NotFound."""
        return self.delete_checkpoint_from_tinker_path(f"tinker://{training_run_id}/{checkpoint_id}")

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> ApiFuture[None]:
        """Delete a checkpoint. From the future: NotFound."""
        return self._change("DELETE", _parsed(tinker_path), "")

    def publish_checkpoint_from_tinker_path(self, tinker_path: str) -> ApiFuture[None]:
        """Let everybody read a checkpoint."""
        return self._change("POST", _parsed(tinker_path), "/publish")

    def unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> ApiFuture[None]:
        """Let only its owner read a checkpoint."""
        return self._change("DELETE", _parsed(tinker_path), "/publish")

    def set_checkpoint_ttl_from_tinker_path(self, tinker_path: str, ttl_seconds: int | None) -> ApiFuture[None]:
        """Let a checkpoint expire ``ttl_seconds`` from now; None: never."""
        if ttl_seconds is not None and ttl_seconds < 1:
            raise invalid("ttl_seconds", ttl_seconds, "at least 1 second, or None for never")
        return self._change("PUT", _parsed(tinker_path), "/ttl", {"ttl_seconds": ttl_seconds})

    def get_checkpoint_archive_url(
        self, training_run_id: str, checkpoint_id: str
    ) -> ApiFuture[CheckpointArchiveUrl]:
        """Where an archive of ``weights/NAME`` or ``sampler_weights/NAME`` can be fetched."""
        return self.get_checkpoint_archive_url_from_tinker_path(f"tinker://{training_run_id}/{checkpoint_id}")

    def get_checkpoint_archive_url_from_tinker_path(self, tinker_path: str) -> ApiFuture[CheckpointArchiveUrl]:
        """Where an archive of a checkpoint can be fetched. Waits while the server makes it."""
        return self._runner.start(self._archive_url(_parsed(tinker_path)))

    def download_checkpoint_archive(self, tinker_path: str, target: str | Path) -> ApiFuture[Path]:
        """Stream an archive into the file ``target``, which appears only when it is whole. Nothing is unpacked.

        Raises (from the future): NotFound, BackendUnavailable when the download breaks off.
        """
        return self._runner.start(self._download(_parsed(tinker_path), Path(target)))

    def get_session(self, session_id: str) -> ApiFuture[GetSessionResponse]:
        """What was made in a session. From the future: NotFound."""
        return self._get(f"sessions/{_part(session_id, 'session_id')}", GetSessionResponse)

    def list_sessions(self, limit: int = 20, offset: int = 0) -> ApiFuture[ListSessionsResponse]:
        """One page of the caller's sessions."""
        return self._get("sessions", ListSessionsResponse, params=_page(limit, offset))

    def get_sampler(self, sampler_id: str) -> ApiFuture[GetSamplerResponse]:
        """What a sampling session samples from. From the future: NotFound."""
        return self._get(f"samplers/{_part(sampler_id, 'sampler_id')}", GetSamplerResponse)

    def _get(
        self, path: str, kind: type[R], *, sought: Sought = Sought.RECORD, params: dict[str, Any] | None = None
    ) -> ApiFuture[R]:
        return self._runner.start(self._got(path, kind, sought, params))

    async def _run(self, path: str) -> TrainingRun:
        run = await self._got(path, TrainingRun, Sought.RECORD, None)
        if run.corrupted and not self._connection.features.corrupted_flag:
            self._connection.memory.learn(corrupted_flag=True)
        elif "corrupted" not in run.model_fields_set and self._connection.features.corrupted_flag is None:
            self._connection.memory.learn(corrupted_flag=False)
        return run

    async def _checkpoints(self, path: str) -> CheckpointsList:
        found = await self._got(path, CheckpointsList, Sought.RECORD, None)
        if found.checkpoints and not self._connection.features.durable_checkpoints:
            self._connection.memory.learn(durable_checkpoints=True)
        return found

    async def _got(self, path: str, kind: type[R], sought: Sought, params: dict[str, Any] | None) -> R:
        with self._named(path):
            return await self._connection.get(path, kind, sought=sought, params=params)

    def _change(
        self,
        method: Literal["POST", "PUT", "DELETE"],
        checkpoint: ParsedCheckpointTinkerPath,
        suffix: str,
        body: dict[str, Any] | None = None,
    ) -> ApiFuture[None]:
        return self._runner.start(self._changed(method, checkpoint, suffix, body))

    async def _changed(
        self, method: str, checkpoint: ParsedCheckpointTinkerPath, suffix: str, body: dict[str, Any] | None
    ) -> None:
        path = _path_of(checkpoint) + suffix
        call = Call(method, path, None if body is None else json_body(body))
        with self._named(f"{method} {call.route}"):
            await self._connection.ask(call, sought=Sought.RECORD)

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        except Unsupported as error:
            raise unsupported(what, server=self._connection.server) from error

    async def _weights_info(self, checkpoint: ParsedCheckpointTinkerPath) -> WeightsInfo:
        body = {"tinker_path": checkpoint.tinker_path}
        with self._named("weights_info"):
            return await self._connection.post("weights_info", body, WeightsInfo, sought=Sought.CHECKPOINT)

    async def _archive_url(self, checkpoint: ParsedCheckpointTinkerPath) -> CheckpointArchiveUrl:
        call = Call("GET", f"{_path_of(checkpoint)}/archive")
        answer = await self._connection.transport.send(call)
        if answer.status in (301, 302, 303, 307, 308):
            location = answer.headers.get("location")
            if not location:
                raise malformed("a redirect without Location", route=call.route)
            url = urljoin(self._connection.transport.url(call.path), location)
            return CheckpointArchiveUrl(url=url, expires=answer.headers.get("expires"))
        if answer.ok:
            return self._connection.read(answer, CheckpointArchiveUrl, call.route)
        error = error_of(self._connection.refusal(answer, call.route, Sought.RECORD))
        if isinstance(error, Unsupported):
            raise unsupported("archives of checkpoints", server=self._connection.server)
        raise error

    async def _download(self, checkpoint: ParsedCheckpointTinkerPath, target: Path) -> Path:
        from backends.tinkex.client.download import download_file

        archive = await self._archive_url(checkpoint)
        if urlsplit(archive.url).scheme not in ("http", "https"):
            raise unsupported("archives over HTTP", server=self._connection.server)
        ours = _origin(archive.url) == _origin(self._connection.server)
        await download_file(self._connection.transport, archive.url, target, authenticated=ours)
        return target


def _parsed(tinker_path: str) -> ParsedCheckpointTinkerPath:
    return ParsedCheckpointTinkerPath.from_tinker_path(tinker_path, field="tinker_path")


def _path_of(checkpoint: ParsedCheckpointTinkerPath) -> str:
    """In the form of the tinker path: a server that names a save without its kind looks it up without it too."""
    run = checkpoint.training_run_id
    identity = checkpoint.tinker_path.removeprefix(f"tinker://{run}/")
    return f"/api/v1/training_runs/{quote(run, safe='')}/checkpoints/{quote(identity)}"


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


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc
