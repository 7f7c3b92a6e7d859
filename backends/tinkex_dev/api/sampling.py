"""The routes that create sampling sessions, and sample from a base model, a checkpoint or a snapshot."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backends.tinkex_dev.errors import InvalidField, Refused
from backends.tinkex_dev.service.lane import result_of
from backends.tinkex_dev.service.promises import Failed, Samples
from backends.tinkex_dev.service.service import Service, digest_of_body
from backends.tinkex_dev.storage.records import SamplerRecord, SaveKind
from backends.tinkex_dev.wire.chosen_tokens import ChosenTokens
from backends.tinkex_dev.wire.exchange import answer, read
from backends.tinkex_dev.wire.requests import CreateSamplingSession, JoinSamplingSession, Sample, SamplingFields
from backends.tinkex_dev.wire.tensors import tokens_of_chunks
from backends.tiny_lm.adapter import Adapter
from backends.tiny_lm.network import CONTEXT_LENGTH, Network
from backends.tiny_lm.sampler import PromptScores, SamplingSettings, draw, draw_alternatives, score_prompt
from crucible.rendering.tokenizer import ByteTokenizer

_DEFAULT_MAX_TOKENS: Final = 512
_MAX_RECORDED: Final = 50_000
_MAX_LOADED: Final = 64


@dataclass(frozen=True, slots=True)
class _Source:
    """The model to sample from."""

    network: Network
    adapter: Adapter | None


class SamplingRoutes:
    """create_sampling_session, join_sampling_session and asample."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._requests: OrderedDict[tuple[str, int], tuple[str, str]] = OrderedDict()
        self._loaded: OrderedDict[str, tuple[str, Adapter]] = OrderedDict()

    def routes(self) -> list[Route]:
        return [
            Route("/create_sampling_session", self.create, methods=["POST"]),
            Route("/join_sampling_session", self.join, methods=["POST"]),
            Route("/asample", self.sample, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        body = await read(request, CreateSamplingSession)
        self._service.touch_session(body.session_id)
        if body.base_model is None and body.model_path is None:
            raise InvalidField.at(("base_model",), "one of base_model and model_path is required")
        base_model = self._check_source(body.base_model, body.model_path)
        sampler = SamplerRecord(
            id=f"{body.session_id}:sample:{body.sampling_session_seq_id}",
            session_id=body.session_id,
            base_model=base_model,
            model_path=body.model_path,
        )
        earlier = self._service.samplers.get(sampler.id)
        if earlier is not None and earlier != sampler:
            raise Refused(409, f"sampling session {sampler.id} exists and samples from another model")
        if earlier is None:
            self._service.add_sampler(sampler)
        return answer({"type": "create_sampling_session", "sampling_session_id": sampler.id}, 201)

    async def join(self, request: Request) -> Response:
        body = await read(request, JoinSamplingSession)
        sampler = self._session(body.sampling_session_id)
        counter = self._service.completions.join(sampler.id)
        return answer({"type": "join_sampling_session", "client_counter": counter})

    def _check_source(self, base_model: str | None, model_path: str | None) -> str:
        if model_path is None:
            return self._service.network(str(base_model)).name
        saved = self._service.checkpoints.find(model_path)
        if saved.kind is not SaveKind.SAMPLER:
            raise Refused(400, f"{model_path} is not for sampling; to sample, save one by save_weights_for_sampler")
        if base_model not in (None, saved.base_model):
            raise Refused(400, f"{model_path} was made from {saved.base_model}, not {base_model}")
        return saved.base_model

    async def sample(self, request: Request) -> Response:
        body = await read(request, Sample)
        sampler = self._sampler_of(body)
        prompt = tokens_of_chunks(body.prompt.chunks, ("prompt", "chunks"))
        targets = _check_prompt_scores(body, len(prompt))
        settings = _settings(body.sampling_params, len(prompt))
        digest = digest_of_body("sample", body.model_dump())
        key = (sampler.id, body.seq_id) if body.seq_id is not None and body.sampling_session_id else None
        if key is not None and key in self._requests and self._service.replay:
            earlier, request_id = self._requests[key]
            if earlier != digest:
                raise Refused(409, f"seq_id {body.seq_id} of {sampler.id} was used for another request")
            receipt = self._service.promises.get(request_id).receipt()
            self._journal(sampler, body, digest, len(prompt), 0, replayed=True)
            return answer(receipt)
        promise = self._service.promises.create("sample")
        sequence_ids = [f"{promise.id}:{n}" for n in range(body.num_samples)]
        promise.extra = {"sample_sequence_ids": sequence_ids}
        if key is not None:
            self._requests[key] = (digest, promise.id)
            _drop_oldest(self._requests, _MAX_RECORDED)
        seed = body.sampling_params.seed
        if seed is None:
            seed = self._derived_seed(sampler.id, body)

        async def work() -> Samples:
            await self._service.wait_for_turn()
            tokens = prompt.tolist()
            result = await self._service.compute(lambda: self._draw(sampler, tokens, settings, seed, body, targets))
            sampled = sum(len(sequence.tokens) for sequence in result.sequences)
            self._journal(sampler, body, digest, len(prompt), sampled, replayed=False)
            if body.record_stability_info:
                for sequence_id, sequence in zip(sequence_ids, result.sequences, strict=True):
                    self._service.sequences.record(sampler.session_id, sequence_id, tuple(tokens), sequence.tokens)
            return result

        async def resolve() -> None:
            result = await result_of(work)
            self._service.promises.resolve(promise, result)
            if key is not None:
                failed = isinstance(result, Failed)
                self._service.completions.add(*key, promise.id, failed=failed)

        self._service.start_task(resolve())
        return answer(promise.receipt())

    def _journal(
        self, sampler: SamplerRecord, body: Sample, digest: str, prompt_tokens: int, sampled: int, *, replayed: bool
    ) -> None:
        """Log a request for samples; one that was answered from the record of requests as ``replayed``."""
        self._service.effect_log.write(
            model_id=sampler.inflight_of,
            seq_id=body.seq_id,
            kind="sample",
            sampler=sampler.id,
            session=sampler.session_id,
            base_model=sampler.base_model,
            digest=digest,
            prompt_tokens=prompt_tokens,
            sampled_tokens=sampled,
            num_samples=body.num_samples,
            stability_info=bool(body.record_stability_info),
            replayed=replayed,
        )

    def _session(self, sampler_id: str) -> SamplerRecord:
        sampler = self._service.samplers.get(sampler_id)
        if sampler is None:
            raise Refused(404, f"Sampling session {sampler_id!r} not found")
        self._service.touch_session(sampler.session_id)
        return sampler

    def _sampler_of(self, body: Sample) -> SamplerRecord:
        if body.sampling_session_id is not None:
            sampler = self._session(body.sampling_session_id)
            for field in ("base_model", "model_path"):
                if getattr(body, field) not in (None, getattr(sampler, field)):
                    raise InvalidField.at((field,), f"sampling session {sampler.id} samples from another model")
            if sampler.snapshot or sampler.inflight_of is not None:
                self._service.weights_of(sampler)
            return sampler
        if body.record_stability_info:
            raise InvalidField.at(("record_stability_info",), "only in a sampling session, to which it belongs")
        if body.base_model is None and body.model_path is None:
            raise InvalidField.at(
                ("sampling_session_id",), "one of sampling_session_id, base_model and model_path is required"
            )
        base_model = self._check_source(body.base_model, body.model_path)
        return SamplerRecord(id="", session_id="", base_model=base_model, model_path=body.model_path)

    def _derived_seed(self, sampler_id: str, body: Sample) -> int:
        """A seed for a request without one: distinct per request, equal on servers of equal seed.

        The random ids of sessions and runs do not enter it.
        """
        request = digest_of_body("seed", body.model_dump(exclude={"sampling_session_id", "model_path"}))
        number = sampler_id.rpartition(":")[2]
        digest = hashlib.sha256(f"{self._service.options.seed}:{number}:{request}".encode()).digest()
        return int.from_bytes(digest[:6], "big")

    def _draw(
        self,
        sampler: SamplerRecord,
        prompt: list[int],
        settings: SamplingSettings,
        seed: int,
        body: Sample,
        targets: ChosenTokens | None,
    ) -> Samples:
        source = self._source(sampler)
        adapters = source.adapter.low_rank if source.adapter is not None else {}
        scores = alternatives = None
        with np.errstate(all="ignore"):
            sequences = [
                draw(
                    source.network,
                    adapters,
                    prompt,
                    settings,
                    np.random.default_rng([seed, index]),
                    top=body.topk_sample_logprobs,
                )
                for index in range(body.num_samples)
            ]
            if body.prompt_logprobs or body.topk_prompt_logprobs:
                scores = score_prompt(
                    source.network,
                    adapters,
                    prompt,
                    top=body.topk_prompt_logprobs,
                    last=body.prompt_logprobs_last_n,
                )
                if self._service.options.short_prompt_logprobs:
                    scores = PromptScores(scores.logprobs[1:], scores.top[1:])
            scored = None if targets is None else targets.scored(source.network, adapters, prompt)
            if body.prompt_alt_tokens_k:
                generator = np.random.default_rng([seed, 0, 1])
                temperature, count = settings.temperature, body.prompt_alt_tokens_k
                alternatives = draw_alternatives(source.network, adapters, prompt, temperature, count, generator)
        return Samples(sequences, scores, scored, alternatives)

    def _source(self, sampler: SamplerRecord) -> _Source:
        network = self._service.network(sampler.base_model)
        if sampler.snapshot or sampler.inflight_of is not None:
            return _Source(network, self._service.weights_of(sampler))
        if sampler.model_path is None:
            return _Source(network, None)
        saved = self._service.checkpoints.find(sampler.model_path)
        loaded = self._loaded.get(saved.path)
        if loaded is None or loaded[0] != saved.sha256:
            loaded = (saved.sha256, self._service.checkpoints.load(saved, optimizer=False))
            self._loaded[saved.path] = loaded
            _drop_oldest(self._loaded, _MAX_LOADED)
        return _Source(network, loaded[1])


def _drop_oldest(table: OrderedDict[Any, Any], max_size: int) -> None:
    while len(table) > max_size:
        table.popitem(last=False)


def _check_prompt_scores(body: Sample, length: int) -> ChosenTokens | None:
    """The chosen tokens to score. Raises InvalidField for scores that the prompt cannot have."""
    last = body.prompt_logprobs_last_n
    if last is not None and (not body.prompt_logprobs or last > length - 1):
        expected = f"with prompt_logprobs, 1 to {length - 1} tokens"
        raise InvalidField.at(("prompt_logprobs_last_n",), f"{last} is not allowed; expected {expected}")
    for field in ("prompt_alt_tokens_k", "target_prompt_logprobs"):
        if getattr(body, field) and length < 2:
            raise InvalidField.at((field,), "nothing precedes the only token of the prompt")
    if body.target_prompt_logprobs is None:
        return None
    return ChosenTokens.of_json(body.target_prompt_logprobs, length - 1)


def _settings(params: SamplingFields, prompt_length: int) -> SamplingSettings:
    room = CONTEXT_LENGTH - prompt_length
    max_tokens = params.max_tokens if params.max_tokens is not None else min(_DEFAULT_MAX_TOKENS, room)
    if max_tokens > room:
        raise InvalidField.at(
            ("sampling_params", "max_tokens"),
            f"{max_tokens} tokens after a prompt of {prompt_length} exceed the context of {CONTEXT_LENGTH}",
        )
    tokens, texts = _stops(params.stop)
    return SamplingSettings(max_tokens, params.temperature, params.top_k, params.top_p, tokens, texts)


def _stops(stop: str | list[str] | list[int] | None) -> tuple[frozenset[int], tuple[bytes, ...]]:
    """Stop tokens and texts: by default the end of turn, none for an empty list, otherwise both."""
    if stop == []:
        return frozenset(), ()
    listed = [stop] if isinstance(stop, str) else stop or []
    tokens = {value for value in listed if isinstance(value, int)} | {ByteTokenizer.END}
    return frozenset(tokens), tuple(value.encode() for value in listed if isinstance(value, str) and value)
