"""The REST calls for weights outside a run: external files, copies; and for the account: billing usage."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.client.requests.origins import is_same_origin
from backends.tinkex.client.requests.runner import Runner
from backends.tinkex.client.rest.download import download_file
from backends.tinkex.errors import Resource, invalid, malformed, unsupported
from backends.tinkex.settings import PROJECT_ID_NAME
from backends.tinkex.types.billing_usage import BillingUsage
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.checkpoint_path import CheckpointKind, ParsedCheckpointTinkerPath
from backends.tinkex.types.requests import CopyWeightsRequest, RetrieveFuturesRequest, SamplingSessionTarget
from backends.tinkex.types.responses import CopyWeightsResponse, ExternalWeightsUrls, RetrieveFuturesResponse
from crucible.errors import Unsupported
from nsai_work.files.user_paths import expanded


class ExportMethods:
    """Exports, copies and billing: the base class of ``RestClient``, which provides the connection."""

    _connection: Connection
    _runner: Runner
    _project_id: str | None

    def get_external_weights_urls(self, tinker_path: str | CheckpointAddress) -> ApiFuture[ExternalWeightsUrls]:
        """Return the signed URL of each file of weights saved by ``save_weights_external``.

        From the future: NotFound.
        """
        return self._runner.start(self._external_urls(_external(tinker_path)))

    def download_external_weights(
        self, tinker_path: str | CheckpointAddress, folder: str | Path
    ) -> ApiFuture[Sequence[Path]]:
        """Download the files of external weights into ``folder``; each appears only once it is complete.

        From the future: NotFound; MalformedAnswer when a file's name leads outside the folder;
        BackendUnavailable when a download is interrupted; InvalidRequest when a file cannot be written.
        """
        return self._runner.start(self._download_external(_external(tinker_path), expanded(str(folder))))

    def copy_weights(
        self,
        path: str | CheckpointAddress,
        destination_project_id: str | None = None,
        *,
        ttl_seconds: int | None = None,
        weights_access_token: str | None = None,
    ) -> ApiFuture[str]:
        """Copy a checkpoint into a project, by default the client's own; the result is the path of the copy, which
        shares its source's storage.

        Raises (at once): InvalidRequest without a project.
        """
        project_id = destination_project_id or self._project_id
        if project_id is None:
            raise invalid("destination_project_id", None, f"give a project, or set {PROJECT_ID_NAME}")
        if ttl_seconds is not None and ttl_seconds < 1:
            raise invalid("ttl_seconds", ttl_seconds, "at least 1 second, or None for never")
        request = CopyWeightsRequest(
            source_path=CheckpointAddress.parse(path).text,
            destination_project_id=project_id,
            ttl_seconds=ttl_seconds,
        )
        return self._runner.start(self._copy(request.body(), weights_access_token))

    def get_billing_usage(
        self, starting_on: datetime | str, ending_before: datetime | str
    ) -> ApiFuture[BillingUsage]:
        """Return the account's usage between two full hours."""
        bounds = {"starting_on": starting_on, "ending_before": ending_before}
        params = {key: value if isinstance(value, str) else value.isoformat() for key, value in bounds.items()}
        return self._runner.start(self._billing_usage(params))

    def retrieve_futures(
        self,
        sampling_session_id: str,
        prev_cursor: int = 0,
        *,
        cloned_sampler_id: int = 0,
        timeout_s: float | None = None,
        retrieved_request_ids: Sequence[str] = (),
    ) -> ApiFuture[RetrieveFuturesResponse]:
        """Return the requests of a sampling session that have ended since ``prev_cursor``.

        ``timeout_s`` is how long the server may wait for one. ``retrieved_request_ids`` are those whose results
        the caller has: the server may forget them.
        """
        request = RetrieveFuturesRequest(
            target=SamplingSessionTarget(
                sampling_session_id=sampling_session_id, cloned_sampler_id=cloned_sampler_id
            ),
            prev_cursor=prev_cursor,
            timeout=timeout_s,
            retrieved_request_ids=list(retrieved_request_ids),
        )
        return self._runner.start(
            self._connection.post(
                "retrieve_futures", request.body(), RetrieveFuturesResponse, resource=Resource.CHECKPOINT
            )
        )

    async def _external_urls(self, weights: ParsedCheckpointTinkerPath) -> ExternalWeightsUrls:
        run, identifier = quote(weights.training_run_id, safe=""), quote(weights.checkpoint_id)
        path = f"training_runs/{run}/checkpoints/{identifier}/external_weights_urls"
        return await self._connection.get(path, ExternalWeightsUrls)

    async def _download_external(self, weights: ParsedCheckpointTinkerPath, folder: Path) -> Sequence[Path]:
        names = sorted((await self._external_urls(weights)).urls)
        if not names:
            raise malformed("the weights have no files", route="external_weights_urls")
        targets = [folder / _safe_name(name) for name in names]
        for name, target in zip(names, targets, strict=True):
            # Signed anew for each file: a large one may outlast the URLs of those behind it.
            url = (await self._external_urls(weights)).urls.get(name)
            if url is None or not url.startswith(("http://", "https://")):
                raise malformed(f"there is no URL of {name}", route="external_weights_urls")
            authenticated = is_same_origin(url, self._connection.server)
            await download_file(self._connection.transport, url, target, authenticated=authenticated)
        return targets

    async def _copy(self, body: dict[str, Any], token: str | None) -> str:
        headers = {} if token is None else {"X-Tinker-Weights-Access-Token": token}
        copied = await self._connection.post(
            "copy_weights", body, CopyWeightsResponse, resource=Resource.CHECKPOINT, headers=headers
        )
        return copied.tinker_path

    async def _billing_usage(self, params: dict[str, str]) -> BillingUsage:
        try:
            return await self._connection.get("billing/usage/events", BillingUsage, params=params)
        except Unsupported as error:
            raise unsupported("billing usage", server=self._connection.server) from error


def _external(tinker_path: str | CheckpointAddress) -> ParsedCheckpointTinkerPath:
    parts = CheckpointAddress.parse(tinker_path, field="tinker_path").required_parts("tinker_path")
    if parts.checkpoint_type is not CheckpointKind.EXTERNAL:
        raise invalid("tinker_path", parts.tinker_path, "a path of save_weights_external")
    return parts


def _safe_name(name: str) -> PurePosixPath:
    """Return a relative path. Raises MalformedAnswer when it leads outside its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts or not name.isprintable():
        raise malformed(f"the file {name!r} leads outside the folder", route="external_weights_urls")
    return path
