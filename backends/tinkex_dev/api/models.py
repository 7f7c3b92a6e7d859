"""The routes that create, describe and unload models."""

import hashlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev.errors import InvalidField, Refused
from backends.tinkex_dev.service.promises import Plain, Promise
from backends.tinkex_dev.service.run import ServerRun
from backends.tinkex_dev.service.service import Service, digest_of_body
from backends.tinkex_dev.storage.records import LoraRecord, RunRecord
from backends.tinkex_dev.wire.exchange import answer, read
from backends.tinkex_dev.wire.requests import ADAM, CreateModel, LoadWeights, ModelBody, PathBody


class ModelRoutes:
    """create_model, get_info, unload_model and weights_info; and the creation of a model from a checkpoint."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        return [
            Route("/create_model", self.create, methods=["POST"]),
            Route("/get_info", self.info, methods=["POST"]),
            Route("/unload_model", self.unload, methods=["POST"]),
            Route("/weights_info", self.weights_info, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        body = await read(request, CreateModel)
        self._service.touch_session(body.session_id)
        self._service.network(body.base_model)
        digest = digest_of_body("create_model", body.model_dump())
        run_id = f"{body.session_id}:train:{body.model_seq_id}"
        earlier = self._earlier_creation(run_id, digest)
        if earlier is not None:
            return answer(earlier.receipt())
        seed = body.lora_config.seed
        lora = LoraRecord(
            rank=body.lora_config.rank,
            seed=self._derived_seed(run_id) if seed is None else seed,
            train_unembed=body.lora_config.train_unembed,
            train_mlp=body.lora_config.train_mlp,
            train_attn=body.lora_config.train_attn,
        )
        _require_trainable(lora)
        run = self._service.create_run(
            body.session_id,
            body.model_seq_id,
            base_model=body.base_model,
            lora=lora,
            user_metadata=body.user_metadata,
            optimizer=body.optimizer_config,
        )
        return answer(self._submit_creation(run, digest).receipt())

    def _submit_creation(self, run: ServerRun, digest: str) -> Promise:
        async def work() -> Plain:
            await self._service.wait_for_turn()
            self._service.record_effect(run, "create_model", 0, digest)
            return Plain({"type": "create_model", "model_id": run.record.id})

        promise = self._service.promises.create("create_model", run.record.id)
        run.record_creation(digest, promise)
        run.lane.submit(None, promise, work)
        return promise

    def _derived_seed(self, run_id: str) -> int:
        number = run_id.rpartition(":")[2]
        digest = hashlib.sha256(f"{self._service.options.seed}:adapter:{number}".encode()).digest()
        return int.from_bytes(digest[:6], "big")

    def _earlier_creation(self, run_id: str, digest: str) -> Promise | None:
        run = self._service.live.get(run_id)
        return run.creation_promise(digest) if run is not None and self._service.replay else None

    async def load_into_new(self, body: LoadWeights) -> Promise:
        """Create a model from a checkpoint."""
        if body.session_id is None or body.model_seq_id is None:
            message = "required unless session_id and model_seq_id are present"
            raise Refused(422, [{"type": "missing", "loc": ["body", "model_id"], "msg": message}])
        service = self._service
        service.touch_session(body.session_id)
        digest = digest_of_body("load_weights", body.model_dump())
        run_id = f"{body.session_id}:train:{body.model_seq_id}"
        earlier = self._earlier_creation(run_id, digest)
        if earlier is not None:
            return earlier
        if body.seq_id is not None:
            raise InvalidField.at(("seq_id",), "a model that is created by loading has no requests before it")
        saved = service.checkpoints.find(body.path)
        if body.base_model is not None and body.base_model != saved.base_model:
            raise Refused(400, f"checkpoint {body.path} was made from {saved.base_model}, not {body.base_model}")
        if body.optimizer and body.optimizer_config not in (None, saved.optimizer):
            raise InvalidField.at(
                ("optimizer_config",), f"{body.path} restores the state of {saved.optimizer.type}; omit the field"
            )
        run = service.create_run(
            body.session_id,
            body.model_seq_id,
            base_model=saved.base_model,
            lora=saved.lora,
            user_metadata=body.user_metadata,
            optimizer=saved.optimizer if body.optimizer else body.optimizer_config or ADAM,
        )

        async def work() -> Plain:
            await service.wait_for_turn()
            return await service.load(run, saved, seq_id=0, digest=digest, optimizer=body.optimizer)

        promise = service.promises.create("load_weights", run.record.id)
        run.record_creation(digest, promise)
        run.lane.submit(None, promise, work)
        return promise

    async def info(self, request: Request) -> Response:
        run = self._service.live_run((await read(request, ModelBody)).model_id)
        return answer(_info(run.record, self._service.tokenizer))

    async def unload(self, request: Request) -> Response:
        run = self._service.live_run((await read(request, ModelBody)).model_id)
        promise = self._service.promises.create("unload_model", run.record.id)

        async def work() -> Plain:
            self._service.live.pop(run.record.id, None)
            self._service.record_effect(run, "unload_model", None, "")
            return Plain({"type": "unload_model", "model_id": run.record.id})

        run.lane.submit(None, promise, work)
        return answer(promise.receipt())

    async def weights_info(self, request: Request) -> Response:
        body = await read(request, PathBody)
        saved = self._service.checkpoints.find(body.tinker_path)
        return answer(
            {
                "base_model": saved.base_model,
                "optimizer_config": saved.optimizer.model_dump(),
                "is_lora": True,
                "lora_rank": saved.lora.rank,
                "train_unembed": saved.lora.train_unembed,
                "train_mlp": saved.lora.train_mlp,
                "train_attn": saved.lora.train_attn,
            }
        )


def _info(record: RunRecord, tokenizer: str) -> dict[str, object]:
    return {
        "type": "get_info",
        "model_id": record.id,
        "model_name": record.base_model,
        "is_lora": True,
        "lora_rank": record.lora.rank,
        "optimizer_config": record.optimizer.model_dump(),
        "model_data": {
            "arch": "tiny-lm",
            "model_name": record.base_model,
            "tokenizer_id": tokenizer,
        },
    }


def _require_trainable(lora: LoraRecord) -> None:
    if not lora.shape.sites:
        raise InvalidField.at(
            ("lora_config", "train_mlp"), "one of train_mlp, train_attn and train_unembed must be true"
        )
