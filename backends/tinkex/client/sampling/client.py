"""The client of one sampling session: samples and log-probabilities."""

import itertools
import threading
from collections.abc import AsyncIterator
from typing import Any, Final

from backends.tinkex.client.ready_client import ReadyClient
from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.requests.queue_reporter import QueueReporter
from backends.tinkex.client.requests.request_context import RequestContext
from backends.tinkex.client.requests.result_poll import PollTarget, ResultPoll
from backends.tinkex.client.requests.results import sample_decoding
from backends.tinkex.client.rest.client import RestClient
from backends.tinkex.client.sampling.sample_arguments import check_seq_id, sample_body
from backends.tinkex.client.sampling.sampler_clone import CLONE_BLOCK, new_clone_id
from backends.tinkex.client.sampling.session_poll import SessionPoll
from backends.tinkex.client.session import Session
from backends.tinkex.client.tokenizers import load_tokenizer
from backends.tinkex.errors import Resource, invalid, malformed, unsupported
from backends.tinkex.types.model_info import GetInfoResponse, ModelData
from backends.tinkex.types.model_input import ModelInput
from backends.tinkex.types.responses import AcceptedRequest, GetSamplerResponse
from backends.tinkex.types.sample_response import SampleResponse, TopkLogprobs
from backends.tinkex.types.sampling_params import SamplingParams
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.body import json_body
from crucible.errors import AnswerLost

_ATTEMPTS: Final = 3
_BACKPRESSURE: Final = {"X-Tinker-Sampling-Backpressure": "1"}
"""Asks the service to answer 429 instead of holding a request that it cannot start; it is then sent again."""


class SamplingClient(ReadyClient):
    """A client that samples in one sampling session, from the weights at the time it was created.

    Each request has a sequence number. A server with a record answers a repeated number from it, so that a request
    whose answer was lost can be repeated without sampling anew: ``sample(seq_id=...)``, also from another process
    (``ServiceClient.attach_sampling_client``). Clients that share a session must not share numbers: ``clone``.
    """

    def __init__(
        self,
        context: RequestContext,
        sampling_session_id: str,
        *,
        session: Session,
        base_model: str | None = None,
        model_path: str | None = None,
        first_seq_id: int = 0,
        record_stability_info: bool = False,
    ) -> None:
        self._context = context
        self._connection = context.connection
        self._session = session
        self._lock = threading.Lock()
        self._next_seq_id = check_seq_id(first_seq_id)
        self._ends = SessionPoll(context.connection, sampling_session_id, first_seq_id // CLONE_BLOCK)
        self._reporter = QueueReporter(context.observer, context.connection.transport.clock, sampling_session_id)
        self.sampling_session_id = sampling_session_id
        self.base_model = base_model
        self.model_path = model_path
        self.record_stability_info = record_stability_info

    def __repr__(self) -> str:
        return f"SamplingClient({self.sampling_session_id!r}, next_seq_id={self._next_seq_id})"

    @property
    def session_id(self) -> str | None:
        """The id of the session that keeps the sampling session alive."""
        return self._session.session_id

    @property
    def next_seq_id(self) -> int:
        """The sequence number of the next request that is given none."""
        return self._next_seq_id

    def reserve_seq_ids(self, count: int) -> int:
        """Reserve ``count`` sequence numbers for later use as ``seq_id``; return the first."""
        if count < 1:
            raise invalid("count", count, "at least 1")
        with self._lock:
            first = self._next_seq_id
            self._next_seq_id = check_seq_id(first + count)
        return first

    def sample(
        self,
        prompt: ModelInput,
        num_samples: int,
        sampling_params: SamplingParams,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: TensorData | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
        *,
        seq_id: int | None = None,
    ) -> ApiFuture[SampleResponse]:
        """Sample ``num_samples`` sequences.

        ``topk_prompt_logprobs`` and ``topk_sample_logprobs`` are the numbers of most likely tokens to return per
        position of the prompt and of the sequences. ``target_prompt_logprobs`` are token ids, int64 of shape
        (tokens of the prompt - 1, K), whose log-probabilities are returned; -1 stands for none.
        ``prompt_alt_tokens_k`` tokens are drawn at each position of the prompt after the first.
        ``prompt_logprobs_last_n`` limits the log-probabilities of the prompt to its last tokens.

        With ``seq_id``, the request has this number and no other: repeated with the same arguments, a server with
        a record returns the same answer. The response has its ``seq_id`` and ``request_id``, and each sequence its
        ``sequence_id`` where the server gives one.

        A request whose result the server lost is sent again under its number first. If that result is lost too, it
        is sent under a new number, unless the caller chose the number: then AnswerLost is raised.

        Raises (at once): InvalidRequest for an invalid argument.
        From the future: Unsupported when the server returns no ``target_prompt_logprobs`` or no drawn tokens, or
        ignores ``prompt_logprobs_last_n``.
        """
        body = sample_body(
            prompt,
            num_samples,
            sampling_params,
            include_prompt_logprobs=include_prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
            topk_sample_logprobs=topk_sample_logprobs,
            target_prompt_logprobs=target_prompt_logprobs,
            prompt_alt_tokens_k=prompt_alt_tokens_k,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
            record_stability_info=self.record_stability_info,
        )
        fresh = True
        if seq_id is None:
            first, chosen = self.reserve_seq_ids(1), False
        else:
            first, chosen = check_seq_id(seq_id), True
            with self._lock:
                fresh = first >= self._next_seq_id
                if first // CLONE_BLOCK == self._next_seq_id // CLONE_BLOCK:
                    self._next_seq_id = max(self._next_seq_id, first + 1)
        request = _SampleRequest({**body, "sampling_session_id": self.sampling_session_id}, prompt.length)
        return self._context.runner.start(
            self._sample(request, first, chosen=chosen, fresh=fresh), request_ids=lambda: request.request_ids
        )

    def compute_logprobs(
        self, prompt: ModelInput, prompt_logprobs_last_n: int | None = None
    ) -> ApiFuture[list[float | None]]:
        """Return the log-probability of each prompt token given the tokens before it, with None for the first.

        ``prompt_logprobs_last_n``: only of that many tokens at the end, with None for all before them.

        From the future: Unsupported when the server returns none.
        """
        params = SamplingParams(max_tokens=1)
        response = self.sample(prompt, 1, params, True, prompt_logprobs_last_n=prompt_logprobs_last_n)
        return self._context.runner.start(self._logprobs(response))

    def compute_topk_logprobs(self, prompt: ModelInput, k: int) -> ApiFuture[TopkLogprobs]:
        """Return the ``k`` most likely tokens at each position of the prompt; None where undefined.

        From the future: Unsupported when the server returns none.
        """
        if k < 1:
            raise invalid("k", k, "at least 1")
        response = self.sample(prompt, 1, SamplingParams(max_tokens=1), topk_prompt_logprobs=k)
        return self._context.runner.start(self._topk(response))

    def sample_stream(self, prompt: ModelInput, sampling_params: SamplingParams) -> AsyncIterator[SampleResponse]:
        """Stream sequences as they grow, where the server supports it.

        Raises:
            Unsupported: the server does not support streaming; nothing was sent.
        """
        del prompt, sampling_params
        raise unsupported("streaming of samples", server=self._connection.server)

    def get_sampler(self) -> ApiFuture[GetSamplerResponse]:
        """Return the server's description of this sampling session."""
        return self._context.runner.start(self._get_sampler())

    def clone(self) -> "SamplingClient":
        """Return a client of the same sampling session with sequence numbers of its own, for use beside this one.

        Blocks; in an event loop use the twin.
        """
        return self._context.runner.wait(self.clone_async())

    async def clone_async(self) -> "SamplingClient":
        """As ``clone``."""
        clone_id = await self._context.runner.start(new_clone_id(self._connection, self.sampling_session_id))
        return SamplingClient(
            self._context,
            self.sampling_session_id,
            session=self._session,
            base_model=self.base_model,
            model_path=self.model_path,
            first_seq_id=CLONE_BLOCK * clone_id,
            record_stability_info=self.record_stability_info,
        )

    def get_tokenizer(self) -> Any:
        """Return the model's tokenizer. Blocks for the session's info; in an event loop use the twin."""
        return self._context.runner.wait(self.get_tokenizer_async())

    async def get_tokenizer_async(self) -> Any:
        """As ``get_tokenizer``. The tokenizer is that of the server's model list, else of the model's own name."""
        name = self.base_model or (await self.get_sampler()).base_model
        rest = RestClient(self._connection, self._context.runner)
        models = (await rest.get_server_capabilities()).supported_models
        tokenizer_id = next((model.tokenizer_id for model in models if model.model_name == name), None)
        return load_tokenizer(GetInfoResponse(model_data=ModelData(model_name=name, tokenizer_id=tokenizer_id)))

    async def _sample(self, request: "_SampleRequest", seq_id: int, *, chosen: bool, fresh: bool) -> SampleResponse:
        self._session.keep_alive()
        for attempt in itertools.count(1):
            try:
                return await self._sample_once(request, seq_id, fresh=fresh)
            except AnswerLost:
                # Asked again under its number, a sample that the server still has costs nothing.
                if attempt == _ATTEMPTS or (chosen and attempt > 1):
                    raise
                fresh = attempt > 1
                if fresh:
                    seq_id = self.reserve_seq_ids(1)
        raise AssertionError("unreachable")

    async def _sample_once(self, request: "_SampleRequest", seq_id: int, *, fresh: bool) -> SampleResponse:
        accepted = await self._connection.submit(
            "asample",
            json_body({**request.body, "seq_id": seq_id}),
            resource=Resource.CHECKPOINT,
            headers=_BACKPRESSURE,
        )
        request.request_ids.append(accepted.request_id)
        if fresh:
            # the end of a repeated request may have been named before, to another client
            await self._ends.wait_for(accepted.request_id, seq_id)
        target = PollTarget(
            accepted.request_id,
            "asample",
            "Sample",
            sample_decoding(),
            self._reporter,
            no_progress_s=self._context.no_progress_s,
        )
        response = await ResultPoll(self._connection, target).result()
        for field, answer in (
            ("target_prompt_logprobs", response.target_prompt_logprobs),
            ("prompt_alt_tokens_k", response.prompt_alt_tokens),
        ):
            if field in request.body and answer is None:
                raise unsupported(field, server=self._connection.server)
        if _scores_before(response, request.body.get("prompt_logprobs_last_n")):
            raise unsupported("prompt_logprobs_last_n", server=self._connection.server)
        if request.prompt_length is not None:
            response = response.for_prompt_of(request.prompt_length)
        return _identified(response, accepted, seq_id)

    async def _logprobs(self, pending: ApiFuture[SampleResponse]) -> list[float | None]:
        response = await pending
        if response.prompt_logprobs is None:
            raise unsupported("log-probabilities of a prompt", server=self._connection.server)
        return response.prompt_logprobs

    async def _topk(self, pending: ApiFuture[SampleResponse]) -> TopkLogprobs:
        response = await pending
        if response.topk_prompt_logprobs is None:
            raise unsupported("top-k log-probabilities of a prompt", server=self._connection.server)
        return response.topk_prompt_logprobs

    async def _get_sampler(self) -> GetSamplerResponse:
        return await self._connection.get(f"samplers/{self.sampling_session_id}", GetSamplerResponse)


class _SampleRequest:
    """A request's body without its number, and the ids under which the server accepted it."""

    def __init__(self, body: dict[str, Any], prompt_length: int | None) -> None:
        self.body = body
        self.prompt_length = prompt_length
        self.request_ids: list[str] = []


def _scores_before(response: SampleResponse, last: int | None) -> bool:
    """Return whether a server has scored tokens before the last ones, and so has ignored their number."""
    return last is not None and any(value is not None for value in (response.prompt_logprobs or [])[:-last])


def _identified(response: SampleResponse, accepted: AcceptedRequest, seq_id: int) -> SampleResponse:
    """Return the response with its ids, of which a server tells those of the sequences at acceptance."""
    ids = accepted.sample_sequence_ids
    update: dict[str, Any] = {"request_id": accepted.request_id, "seq_id": seq_id}
    if ids is not None:
        if len(ids) != len(response.sequences):
            raise malformed(
                f"{len(ids)} sequence ids for {len(response.sequences)} sequences",
                route="asample",
                request_id=accepted.request_id,
            )
        update["sequences"] = [
            sequence.model_copy(update={"sequence_id": sequence_id})
            for sequence, sequence_id in zip(response.sequences, ids, strict=True)
        ]
    return response.model_copy(update=update)
