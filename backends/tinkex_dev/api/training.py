"""The routes that train, save and load a model. Each queues an operation and answers with a promise."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev.api.models import ModelRoutes
from backends.tinkex_dev.errors import InvalidField, OperationFailed, Refused
from backends.tinkex_dev.service.promises import LossOutputs, Plain, Promise
from backends.tinkex_dev.service.run import Batch, ServerRun
from backends.tinkex_dev.service.service import Service, digest_of_body, ttl_end
from backends.tinkex_dev.storage.checkpoints import valid_name
from backends.tinkex_dev.storage.records import SamplerRecord, SaveKind, StoredCheckpoint, checkpoint_path
from backends.tinkex_dev.wire.exchange import answer, parse, read_body, sends_protobuf
from backends.tinkex_dev.wire.requests import (
    Forward,
    ForwardBackward,
    LoadWeights,
    OptimStep,
    RequestBody,
    SaveWeights,
    SaveWeightsForSampler,
)
from backends.tinkex_dev.wire.tensors import batch_of_json
from backends.tiny_lm.adapter import AdamStep

_THREAD_FROM_BYTES: Final = 64 * 1024
"""Bigger bodies are decoded in a thread, so that they do not block the event loop."""
B = TypeVar("B", bound=RequestBody)
T = TypeVar("T")


class TrainingRoutes:
    """forward_backward, forward, optim_step, save_weights, save_weights_for_sampler and load_weights."""

    def __init__(self, service: Service, models: ModelRoutes) -> None:
        self._service = service
        self._models = models

    def routes(self) -> list[Route]:
        return [
            Route("/forward_backward", self.forward_backward, methods=["POST"]),
            Route("/forward", self.forward, methods=["POST"]),
            Route("/optim_step", self.optim_step, methods=["POST"]),
            Route("/save_weights", self.save_weights, methods=["POST"]),
            Route("/save_weights_for_sampler", self.save_for_sampler, methods=["POST"]),
            Route("/load_weights", self.load_weights, methods=["POST"]),
        ]

    async def forward_backward(self, request: Request) -> Response:
        data = await read_body(request)
        if sends_protobuf(request):
            return await self._forward_backward_protobuf(data)
        body = await self._parse(data, ForwardBackward)
        run = self._service.live_run(body.model_id)
        path = ("forward_backward_input",)
        with _refusal_skips(run, body.seq_id):
            batch = await _decode(
                len(data),
                lambda: batch_of_json(body.forward_backward_input, path, forward_only=body.forward_only),
            )
        return answer(self._submit_batch(run, body.seq_id, batch).receipt())

    async def _forward_backward_protobuf(self, data: bytes) -> Response:
        if not self._service.options.protobuf:
            raise Refused(self._service.options.protobuf_refusal, "this server reads JSON only")
        from backends.tinkex_dev.wire.protobuf import batch_of_request, read_request

        message = await _decode(len(data), lambda: read_request(data))
        if not 0 < message.seq_id < 2**31:
            raise InvalidField.at(("seq_id",), f"{message.seq_id} is not allowed; expected 1 to {2**31 - 1}")
        run = self._service.live_run(message.model_id)
        with _refusal_skips(run, message.seq_id):
            batch = await _decode(len(data), lambda: batch_of_request(message, ("forward_backward_input",)))
        return answer(self._submit_batch(run, message.seq_id, batch).receipt())

    async def forward(self, request: Request) -> Response:
        data = await read_body(request)
        body = await self._parse(data, Forward)
        run = self._service.live_run(body.model_id)
        with _refusal_skips(run, body.seq_id):
            batch = await _decode(
                len(data), lambda: batch_of_json(body.forward_input, ("forward_input",), forward_only=True)
            )
        return answer(self._submit_batch(run, body.seq_id, batch).receipt())

    def _submit_batch(self, run: ServerRun, seq_id: int | None, batch: Batch) -> Promise:
        service = self._service
        kind = "forward" if batch.forward_only else "forward_backward"
        digest = _digest_of_batch(kind, batch)

        async def work() -> LossOutputs:
            await service.wait_for_turn()
            await service.poison_if_due(run)
            result = await service.compute(lambda: run.forward_backward(batch))
            service.record_effect(run, kind, seq_id, digest, loss=result.metrics["loss:sum"])
            return result

        return service.submit(run, kind, seq_id, digest, work)

    async def optim_step(self, request: Request) -> Response:
        body = await self._parse(await read_body(request), OptimStep)
        service, run = self._service, self._service.live_run(body.model_id)
        digest = digest_of_body("optim_step", body.adam_params.model_dump())
        parameters = AdamStep(**body.adam_params.model_dump())

        async def work() -> Plain:
            await service.wait_for_turn()
            metrics = await service.compute(lambda: run.optim_step(parameters))
            service.record_effect(run, "optim_step", body.seq_id, digest)
            await service.poison_if_due(run)
            return Plain({"metrics": metrics})

        return answer(service.submit(run, "optim_step", body.seq_id, digest, work).receipt())

    async def save_weights(self, request: Request) -> Response:
        body = await self._parse(await read_body(request), SaveWeights)
        run = self._service.live_run(body.model_id)
        return answer(self._submit_save(run, SaveKind.TRAINING, body, overwrite=body.overwrite).receipt())

    async def save_for_sampler(self, request: Request) -> Response:
        body = await self._parse(await read_body(request), SaveWeightsForSampler)
        run = self._service.live_run(body.model_id)
        if body.path is None:
            return answer(self._submit_snapshot(run, body).receipt())
        return answer(self._submit_save(run, SaveKind.SAMPLER, body, overwrite=False).receipt())

    def _submit_save(
        self,
        run: ServerRun,
        kind: SaveKind,
        body: SaveWeights | SaveWeightsForSampler,
        *,
        overwrite: bool,
    ) -> Promise:
        service = self._service
        verb = "save_weights" if kind is SaveKind.TRAINING else "save_weights_for_sampler"
        digest = digest_of_body(verb, body.model_dump(exclude={"model_id", "seq_id"}))
        name = _name(body.path, run, body.seq_id)

        def save() -> StoredCheckpoint:
            return service.checkpoints.save(
                run.record,
                run.adapter,
                kind,
                name,
                overwrite=overwrite,
                expires_at=ttl_end(service.clock.now(), body.ttl_seconds),
                user_metadata=body.user_metadata,
            )

        async def work() -> Plain:
            await service.wait_for_turn()
            run.refuse_if_poisoned()
            saved = await service.compute(save)
            run.saving.discard((kind, name))
            service.update_run(run, save=True)
            service.record_effect(run, verb, body.seq_id, digest, path=saved.path)
            return Plain({"type": verb, "path": service.checkpoints.public_path(saved)})

        def check() -> None:
            self._reserve(run, kind, name, overwrite=overwrite)

        with _refusal_skips(run, body.seq_id):
            return service.submit(run, verb, body.seq_id, digest, work, check=check)

    def _submit_snapshot(self, run: ServerRun, body: SaveWeightsForSampler) -> Promise:
        """Save weights for one sampling session, in memory, until the session ends."""
        service = self._service
        verb = "save_weights_for_sampler"
        digest = digest_of_body(verb, body.model_dump(exclude={"model_id", "seq_id"}))

        async def work() -> Plain:
            await service.wait_for_turn()
            run.refuse_if_poisoned()
            number = body.sampling_session_seq_id
            sampler_id = f"{run.record.session_id}:sample:{uuid.uuid4().hex if number is None else number}"
            service.snapshots[sampler_id] = await service.compute(run.adapter.copy)
            service.add_sampler(
                SamplerRecord(
                    id=sampler_id, session_id=run.record.session_id, base_model=run.record.base_model, snapshot=True
                )
            )
            service.record_effect(run, verb, body.seq_id, digest, sampler=sampler_id)
            return Plain({"type": verb, "sampling_session_id": sampler_id})

        return service.submit(run, verb, body.seq_id, digest, work)

    async def load_weights(self, request: Request) -> Response:
        body = await self._parse(await read_body(request), LoadWeights)
        if body.model_id is None:
            return answer((await self._models.load_into_new(body)).receipt())
        service, run = self._service, self._service.live_run(body.model_id)
        digest = digest_of_body("load_weights", body.model_dump(exclude={"model_id", "seq_id"}))
        with _refusal_skips(run, body.seq_id):
            saved = service.checkpoints.find(body.path)

            def check() -> None:
                if service.options.strict_load and run.has_trained:
                    raise Refused(
                        400,
                        f"load_weights must be the first training request of model {run.record.id}; "
                        "create a new model and load into it",
                    )

            async def work() -> Plain:
                await service.wait_for_turn()
                return await service.load(run, saved, seq_id=body.seq_id, digest=digest, optimizer=body.optimizer)

            promise = service.submit(run, "load_weights", body.seq_id, digest, work, check=check)
        return answer(promise.receipt())

    async def _parse(self, data: bytes, kind: type[B]) -> B:
        """Validate a body. A refused one does not block the later requests of its model."""
        try:
            return await _decode(len(data), lambda: parse(data, kind))
        except InvalidField:
            self._skip_if_named(data)
            raise

    def _skip_if_named(self, data: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(data)
            if isinstance(body, dict):
                model_id, seq_id = body.get("model_id"), body.get("seq_id")
                run = self._service.live.get(model_id) if isinstance(model_id, str) else None
                if run is not None and isinstance(seq_id, int):
                    run.lane.skip(seq_id)

    def _reserve(self, run: ServerRun, kind: SaveKind, name: str, *, overwrite: bool) -> None:
        taken = self._service.checkpoints.is_taken(run.record.id, kind, name) or (kind, name) in run.saving
        if taken and not overwrite:
            raise Refused(409, f"Checkpoint {checkpoint_path(run.record.id, kind, name)} already exists")
        run.saving.add((kind, name))


@contextlib.contextmanager
def _refusal_skips(run: ServerRun, seq_id: int | None) -> Iterator[None]:
    """Release the seq_id of a request that is refused within, so that it does not block later ones."""
    try:
        yield
    except (Refused, OperationFailed):
        if seq_id is not None:
            run.lane.skip(seq_id)
        raise


async def _decode(size: int, work: Callable[[], T]) -> T:
    return work() if size < _THREAD_FROM_BYTES else await asyncio.to_thread(work)


def _digest_of_batch(kind: str, batch: Batch) -> str:
    def arrays() -> Iterator[bytes]:
        for example in batch.examples:
            yield example.tokens.tobytes()
            for name in sorted(example.loss_inputs):
                value = example.loss_inputs[name]
                yield f"{name}:{value.dtype.str}:{value.shape}".encode()
                yield value.tobytes()

    return digest_of_body(kind, {"loss_fn": batch.loss_fn, "config": sorted(batch.config.items())}, *arrays())


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
