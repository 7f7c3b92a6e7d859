"""The routes that train and load a model. Each queues an operation and answers with a promise."""

from collections.abc import Iterator
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev.api.models import ModelRoutes
from backends.tinkex_dev.api.ordered import decode, parse_ordered, read_ordered, refusal_skips
from backends.tinkex_dev.errors import InvalidField, OperationFailed, Refused
from backends.tinkex_dev.service.promises import LossOutputs, Plain, Promise
from backends.tinkex_dev.service.run import Batch, ServerRun
from backends.tinkex_dev.service.service import Service, digest_of_body
from backends.tinkex_dev.wire.batches import batch_of_json
from backends.tinkex_dev.wire.exchange import answer, read_body, sends_protobuf
from backends.tinkex_dev.wire.requests import Forward, ForwardBackward, LoadWeights, OptimStep
from backends.tiny_lm.adapter import AdamStep, DimuonStep
from backends.tiny_lm.traced_loss import GraphError


class TrainingRoutes:
    """forward_backward, forward, optim_step and load_weights."""

    def __init__(self, service: Service, models: ModelRoutes) -> None:
        self._service = service
        self._models = models

    def routes(self) -> list[Route]:
        return [
            Route("/forward_backward", self.forward_backward, methods=["POST"]),
            Route("/forward", self.forward, methods=["POST"]),
            Route("/optim_step", self.optim_step, methods=["POST"]),
            Route("/load_weights", self.load_weights, methods=["POST"]),
        ]

    async def forward_backward(self, request: Request) -> Response:
        data = await read_body(request)
        if sends_protobuf(request):
            return await self._forward_backward_protobuf(data)
        body = await parse_ordered(self._service, data, ForwardBackward)
        run = self._service.live_run(body.model_id)
        path = ("forward_backward_input",)
        with refusal_skips(run, body.seq_id):
            batch = await decode(
                len(data),
                lambda: batch_of_json(body.forward_backward_input, path, forward_only=body.forward_only),
            )
        return answer(self._submit_batch(run, body.seq_id, batch).receipt())

    async def _forward_backward_protobuf(self, data: bytes) -> Response:
        if not self._service.options.protobuf:
            raise Refused(self._service.options.protobuf_refusal, "this server reads JSON only")
        from backends.tinkex_dev.wire.protobuf import batch_of_request, read_request

        message = await decode(len(data), lambda: read_request(data))
        if not 0 < message.seq_id < 2**31:
            raise InvalidField.at(("seq_id",), f"{message.seq_id} is not allowed; expected 1 to {2**31 - 1}")
        run = self._service.live_run(message.model_id)
        with refusal_skips(run, message.seq_id):
            batch = await decode(len(data), lambda: batch_of_request(message, ("forward_backward_input",)))
        return answer(self._submit_batch(run, message.seq_id, batch).receipt())

    async def forward(self, request: Request) -> Response:
        data = await read_body(request)
        body = await parse_ordered(self._service, data, Forward)
        run = self._service.live_run(body.model_id)
        with refusal_skips(run, body.seq_id):
            batch = await decode(
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
            custom = service.custom_losses.of_batch(run.record.session_id, batch)
            try:
                result = await service.compute(lambda: run.forward_backward(batch, custom))
            except GraphError as error:
                raise OperationFailed(f"the custom loss failed: {error}", "user") from None
            tokens = sum(len(example.tokens) for example in batch.examples)
            service.record_effect(run, kind, seq_id, digest, loss=result.metrics["loss:sum"], tokens=tokens)
            return result

        def check() -> None:
            service.custom_losses.of_batch(run.record.session_id, batch)
            service.sequences.use(run.record.session_id, batch)

        with refusal_skips(run, seq_id):
            return service.submit(run, kind, seq_id, digest, work, check=check)

    async def optim_step(self, request: Request) -> Response:
        body = await read_ordered(self._service, request, OptimStep)
        service, run = self._service, self._service.live_run(body.model_id)
        with refusal_skips(run, body.seq_id):
            parameters = _step_of(body, run)
        digest = digest_of_body("optim_step", {"family": type(parameters).__name__, **asdict(parameters)})

        async def work() -> Plain:
            await service.wait_for_turn()
            metrics = await service.compute(lambda: run.optim_step(parameters))
            service.record_effect(run, "optim_step", body.seq_id, digest)
            await service.poison_if_due(run)
            return Plain({"metrics": metrics})

        return answer(service.submit(run, "optim_step", body.seq_id, digest, work).receipt())

    async def load_weights(self, request: Request) -> Response:
        body = await read_ordered(self._service, request, LoadWeights)
        if body.model_id is None:
            return answer((await self._models.load_into_new(body)).receipt())
        service, run = self._service, self._service.live_run(body.model_id)
        digest = digest_of_body("load_weights", body.model_dump(exclude={"model_id", "seq_id"}))
        with refusal_skips(run, body.seq_id):
            for field in ("session_id", "model_seq_id", "base_model", "user_metadata", "optimizer_config"):
                if getattr(body, field) is not None:
                    raise InvalidField.at((field,), "only for a model that is created by loading, without model_id")
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


def _step_of(body: OptimStep, run: ServerRun) -> AdamStep | DimuonStep:
    """The step's parameters. Raises InvalidField unless they are those of the run's optimizer."""
    if (body.adam_params is None) == (body.optimizer_params is None):
        raise InvalidField.at(("adam_params",), "one of adam_params and optimizer_params is required")
    family = run.record.optimizer.type
    field, given = ("adam_params", "adamw") if body.adam_params is not None else ("optimizer_params", "dimuon")
    if given != family:
        raise InvalidField.at((field,), f"parameters of {given}; model {run.record.id} trains with {family}")
    if body.adam_params is not None:
        return AdamStep(**body.adam_params.model_dump())
    assert body.optimizer_params is not None
    return DimuonStep(**body.optimizer_params.model_dump(exclude={"type"}))


def _digest_of_batch(kind: str, batch: Batch) -> str:
    def arrays() -> Iterator[bytes]:
        for example in batch.examples:
            yield example.tokens.tobytes()
            for name in sorted(example.loss_inputs):
                value = example.loss_inputs[name]
                yield f"{name}:{value.dtype.str}:{value.shape}".encode()
                yield value.tobytes()
            if example.provenance is not None:
                yield repr([*example.provenance.model_input, "rows", *example.provenance.rows]).encode()

    return digest_of_body(kind, {"loss_fn": batch.loss_fn, "config": sorted(batch.config.items())}, *arrays())
