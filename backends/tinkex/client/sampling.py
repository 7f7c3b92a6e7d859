"""The client of one sampling session: samples and log-probabilities."""

import itertools
from collections.abc import AsyncIterator, Generator
from typing import Any, Final, Self

from backends.tinkex.client.api_future import ApiFuture
from backends.tinkex.client.batch_checks import check_tokens
from backends.tinkex.client.queue_reporter import QueueReporter
from backends.tinkex.client.request_context import RequestContext
from backends.tinkex.client.rest import RestClient
from backends.tinkex.client.result_poll import PollTarget, ResultPoll
from backends.tinkex.client.results import sample_decoding
from backends.tinkex.client.session import Session
from backends.tinkex.client.tokenizers import load_tokenizer
from backends.tinkex.errors import Resource, invalid, unsupported
from backends.tinkex.types.model_info import GetInfoResponse, ModelData
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInput
from backends.tinkex.types.responses import GetSamplerResponse
from backends.tinkex.types.sample_response import SampleResponse, TopkLogprobs
from backends.tinkex.types.sampling_params import SamplingParams
from backends.tinkex.wire.body import json_body
from crucible.errors import AnswerLost, InvalidRequest

_MAX_ATTEMPTS: Final = 3


class SamplingClient:
    """A client that samples in one sampling session, from the weights at the time it was created."""

    def __init__(
        self,
        context: RequestContext,
        sampling_session_id: str,
        *,
        session: Session,
        base_model: str | None = None,
        model_path: str | None = None,
    ) -> None:
        self._context = context
        self._connection = context.connection
        self._session = session
        self._seq_ids = itertools.count()
        self._reporter = QueueReporter(context.observer, context.connection.transport.clock, sampling_session_id)
        self.sampling_session_id = sampling_session_id
        self.base_model = base_model
        self.model_path = model_path

    def __repr__(self) -> str:
        return f"SamplingClient({self.sampling_session_id!r})"

    def result(self, timeout: float | None = None) -> Self:
        """Return this client, which is ready: for callers that treat it as the future of a client."""
        return self

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    def sample(
        self,
        prompt: ModelInput,
        num_samples: int,
        sampling_params: SamplingParams,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
    ) -> ApiFuture[SampleResponse]:
        """Sample ``num_samples`` sequences.

        ``topk_prompt_logprobs`` and ``topk_sample_logprobs`` are the numbers of most likely tokens to return per
        position of the prompt and of the sequences. Sampling has no side effects, so a request whose result the
        server lost is sent again.

        Raises (at once): InvalidRequest for an invalid prompt or number.
        """
        if num_samples < 1:
            raise invalid("num_samples", num_samples, "at least 1")
        if topk_prompt_logprobs < 0:
            raise invalid("topk_prompt_logprobs", topk_prompt_logprobs, "0 or more")
        if topk_sample_logprobs < 0:
            raise invalid("topk_sample_logprobs", topk_sample_logprobs, "0 or more")
        _check_prompt(prompt)
        body: dict[str, Any] = {
            "prompt": prompt.body(),
            "num_samples": num_samples,
            "sampling_params": sampling_params.body(),
            "sampling_session_id": self.sampling_session_id,
            "type": "sample",
        }
        if include_prompt_logprobs or topk_prompt_logprobs:
            body["prompt_logprobs"] = True
        if topk_prompt_logprobs:
            body["topk_prompt_logprobs"] = topk_prompt_logprobs
        if topk_sample_logprobs:
            # Older servers reject unknown fields.
            body["topk_sample_logprobs"] = topk_sample_logprobs
        return self._context.runner.start(self._sample(body, prompt.length))

    def compute_logprobs(self, prompt: ModelInput) -> ApiFuture[list[float | None]]:
        """Return the log-probability of each prompt token given the tokens before it, with None for the first.

        From the future: Unsupported when the server returns none.
        """
        response = self.sample(prompt, 1, SamplingParams(max_tokens=1), include_prompt_logprobs=True)
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

    async def _sample(self, body: dict[str, Any], prompt_length: int | None) -> SampleResponse:
        self._session.keep_alive()
        for attempt in itertools.count(1):
            try:
                response = await self._sample_once({**body, "seq_id": next(self._seq_ids)})
                return response if prompt_length is None else response.for_prompt_of(prompt_length)
            except AnswerLost:
                if attempt == _MAX_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _sample_once(self, body: dict[str, Any]) -> SampleResponse:
        accepted = await self._connection.submit("asample", json_body(body), resource=Resource.CHECKPOINT)
        target = PollTarget(
            accepted.request_id,
            "asample",
            "Sample",
            sample_decoding(),
            self._reporter,
            no_progress_s=self._context.no_progress_s,
        )
        return await ResultPoll(self._connection, target).result()

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


def _check_prompt(prompt: ModelInput) -> None:
    if not isinstance(prompt, ModelInput):
        raise invalid("prompt", type(prompt).__name__, "give a ModelInput")
    if prompt.length == 0:
        raise InvalidRequest("prompt: it is empty; give at least one token", details={"field": "prompt"})
    for index, chunk in enumerate(prompt.chunks):
        if isinstance(chunk, EncodedTextChunk):
            check_tokens(chunk.tokens, f"prompt.chunks[{index}].tokens")
