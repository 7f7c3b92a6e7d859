"""The routes that save a model's weights. Each queues an operation and answers with a promise."""

import uuid
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev.api.ordered import read_ordered, refusal_skips
from backends.tinkex_dev.errors import InvalidField, Refused
from backends.tinkex_dev.service.promises import Plain, Promise
from backends.tinkex_dev.service.run import ServerRun
from backends.tinkex_dev.service.service import Service, digest_of_body, ttl_end
from backends.tinkex_dev.storage.age_encryption import CannotEncrypt, check_recipients, encrypted
from backends.tinkex_dev.storage.checkpoints import valid_name
from backends.tinkex_dev.storage.records import SamplerRecord, SaveKind, StoredCheckpoint, checkpoint_path
from backends.tinkex_dev.wire.exchange import answer
from backends.tinkex_dev.wire.requests import SaveWeights, SaveWeightsExternal, SaveWeightsForSampler
from backends.tiny_lm.adapter_files import adapter_files

_VERBS = {
    SaveKind.TRAINING: "save_weights",
    SaveKind.SAMPLER: "save_weights_for_sampler",
    SaveKind.EXTERNAL: "save_weights_external",
}


class SaveRoutes:
    """save_weights, save_weights_for_sampler and save_weights_external."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [
            Route("/save_weights", self.save_weights, methods=["POST"]),
            Route("/save_weights_for_sampler", self.save_for_sampler, methods=["POST"]),
            Route("/save_weights_external", self.save_external, methods=["POST"]),
        ]

    async def save_weights(self, request: Request) -> Response:
        body = await read_ordered(self._service, request, SaveWeights)
        run = self._service.live_run(body.model_id)
        return answer(self._submit_save(run, SaveKind.TRAINING, body, overwrite=body.overwrite).receipt())

    async def save_for_sampler(self, request: Request) -> Response:
        body = await read_ordered(self._service, request, SaveWeightsForSampler)
        run = self._service.live_run(body.model_id)
        with refusal_skips(run, body.seq_id):
            _check_kind(body)
        if body.path is None:
            return answer(self._submit_unnamed(run, body).receipt())
        return answer(self._submit_save(run, SaveKind.SAMPLER, body, overwrite=False).receipt())

    async def save_external(self, request: Request) -> Response:
        body = await read_ordered(self._service, request, SaveWeightsExternal)
        run = self._service.live_run(body.model_id)
        if body.age_encryption_recipients:
            with refusal_skips(run, body.seq_id):
                _check_recipients(body.age_encryption_recipients)
        return answer(self._submit_save(run, SaveKind.EXTERNAL, body, overwrite=False).receipt())

    def _submit_save(
        self,
        run: ServerRun,
        kind: SaveKind,
        body: SaveWeights | SaveWeightsForSampler | SaveWeightsExternal,
        *,
        overwrite: bool,
    ) -> Promise:
        service = self._service
        verb = _VERBS[kind]
        digest = digest_of_body(verb, body.model_dump(exclude={"model_id", "seq_id"}))
        name = _name(body.path, run, body.seq_id)

        def save() -> StoredCheckpoint:
            saved = service.checkpoints.save(
                run.record,
                run.adapter,
                kind,
                name,
                overwrite=overwrite,
                expires_at=ttl_end(service.clock.now(), body.ttl_seconds),
                user_metadata=None if isinstance(body, SaveWeightsExternal) else body.user_metadata,
                age_recipients=_recipients(body),
            )
            if kind is not SaveKind.EXTERNAL:
                return saved
            files = adapter_files(saved.base_model, saved.lora.shape, service.folder.read_checkpoint(saved))
            if saved.age_recipients:
                files = encrypted(files, saved.age_recipients)
                service.folder.write_encrypted(saved, files)
            return service.checkpoints.update(saved, external_bytes=sum(map(len, files.values())))

        async def work() -> Plain:
            await service.wait_for_turn()
            run.refuse_if_poisoned()
            saved = await service.compute(save)
            run.saving.discard((kind, name))
            service.update_run(run, save=True)
            service.record_effect(run, verb, body.seq_id, digest, path=saved.path)
            size = {"size_bytes": saved.external_bytes} if kind is SaveKind.EXTERNAL else {}
            return Plain({"type": verb, "path": service.checkpoints.public_path(saved), **size})

        def check() -> None:
            self._reserve(run, kind, name, overwrite=overwrite)

        with refusal_skips(run, body.seq_id):
            return service.submit(run, verb, body.seq_id, digest, work, check=check)

    def _submit_unnamed(self, run: ServerRun, body: SaveWeightsForSampler) -> Promise:
        """Save weights in memory until the session ends: for one sampling session, or inflight."""
        service = self._service
        verb = "save_weights_for_sampler"
        digest = digest_of_body(verb, body.model_dump(exclude={"model_id", "seq_id"}))
        inflight = body.kind == "inflight"

        async def work() -> Plain:
            await service.wait_for_turn()
            run.refuse_if_poisoned()
            number = body.sampling_session_seq_id
            sampler_id = f"{run.record.session_id}:sample:{uuid.uuid4().hex if number is None else number}"
            weights = await service.compute(run.adapter.copy)
            if inflight:
                service.inflight[run.record.id] = weights
            else:
                service.snapshots[sampler_id] = weights
            service.add_sampler(
                SamplerRecord(
                    id=sampler_id,
                    session_id=run.record.session_id,
                    base_model=run.record.base_model,
                    snapshot=not inflight,
                    inflight_of=run.record.id if inflight else None,
                    expires_at=ttl_end(service.clock.now(), body.ttl_seconds),
                )
            )
            service.record_effect(run, verb, body.seq_id, digest, sampler=sampler_id, save_kind=body.kind)
            return Plain({"type": verb, "sampling_session_id": sampler_id})

        return service.submit(run, verb, body.seq_id, digest, work)

    def _reserve(self, run: ServerRun, kind: SaveKind, name: str, *, overwrite: bool) -> None:
        taken = self._service.checkpoints.is_taken(run.record.id, kind, name) or (kind, name) in run.saving
        if taken and not overwrite:
            raise Refused(409, f"Checkpoint {checkpoint_path(run.record.id, kind, name)} already exists")
        run.saving.add((kind, name))


def _recipients(body: SaveWeights | SaveWeightsForSampler | SaveWeightsExternal) -> Sequence[str]:
    return (isinstance(body, SaveWeightsExternal) and body.age_encryption_recipients) or ()


def _check_recipients(recipients: Sequence[str]) -> None:
    try:
        check_recipients(recipients)
    except CannotEncrypt as problem:
        raise InvalidField.at(("age_encryption_recipients",), str(problem)) from None


def _check_kind(body: SaveWeightsForSampler) -> None:
    """Raise InvalidField for fields that say nothing about the kind of save that was asked for."""
    if body.path is not None and body.kind == "inflight":
        raise InvalidField.at(("path",), "inflight weights have no name: later saves move them")
    if body.path is not None and body.sampling_session_seq_id is not None:
        raise InvalidField.at(("sampling_session_seq_id",), "only for a save without a path")
    if body.kind == "inflight" and body.ttl_seconds is not None:
        raise InvalidField.at(("ttl_seconds",), "inflight weights last as long as their session")
    if body.path is None and body.user_metadata is not None:
        raise InvalidField.at(("user_metadata",), "only for a save with a path, which is listed as a checkpoint")


def _name(path: str | None, run: ServerRun, seq_id: int | None) -> str:
    """The requested checkpoint name, or one derived from the seq_id."""
    if path is None:
        return f"auto-{run.lane.next_seq if seq_id is None else seq_id:06d}"
    if valid_name(path):
        return path
    if seq_id is not None:
        run.lane.skip(seq_id)
    raise InvalidField.at(
        ("path",), f"{path!r} is not allowed; expected at most 200 letters, digits, '.', '_' and '-'"
    )
