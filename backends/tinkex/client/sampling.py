"""Samples and log-probabilities from a base model or from saved weights."""

import itertools
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any, Final, Self

from backends.tinkex.client.api_future import ApiFuture
from backends.tinkex.client.batch_checks import check_tokens
from backends.tinkex.client.queue_reporter import QueueReporter
from backends.tinkex.client.result_poll import Awaited, ResultPoll
from backends.tinkex.client.results import sample_decoding
from backends.tinkex.client.session import Session
from backends.tinkex.client.tokenizers import load_tokenizer
from backends.tinkex.errors import Sought, invalid, unsupported
from backends.tinkex.types.model_info import GetInfoResponse, ModelData
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInput
from backends.tinkex.types.responses import GetSamplerResponse
from backends.tinkex.types.sample_response import SampleResponse, TopkLogprobs
from backends.tinkex.types.sampling_params import SamplingParams
from backends.tinkex.wire.body import json_body
from crucible.errors import AnswerLost, InvalidRequest

if TYPE_CHECKING:
    from backends.tinkex.client.service import ServiceClient

_LOST_TRIES: Final = 3


class SamplingClient:
    """Samples within one sampling session. The weights are those of the moment it was made."""

    def __init__(
        self,
        service: "ServiceClient",
        sampling_session_id: str,
        *,
        session: Session,
        base_model: str | None = None,
        model_path: str | None = None,
    ) -> None:
        self._service = service
        self._connection = service.connection
        self._session = session
        self._numbers = itertools.count()
        self._reporter = QueueReporter(service.observer, service.connection.transport.clock, sampling_session_id)
        self.sampling_session_id = sampling_session_id
        self.base_model = base_model
        self.model_path = model_path

    def __repr__(self) -> str:
        return f"SamplingClient({self.sampling_session_id!r})"

    def result(self, timeout: float | None = None) -> Self:
        """This client: it is ready. For code written for clients that are created by a future."""
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
        """Draw sequences. ``topk_sample_logprobs``: how many likely tokens to tell at each place of them.

        Raises (at once): InvalidRequest for a wrong prompt or number. An answer that the server lost is asked
        for again, since a sample changes nothing.
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
            # Older servers refuse a field that they do not know.
            body["topk_sample_logprobs"] = topk_sample_logprobs
        return self._service.runner.start(self._sample(body))

    def compute_logprobs(self, prompt: ModelInput) -> ApiFuture[list[float | None]]:
        """The log-probability of each prompt token given those before it; None where it is not defined.

        From the future: Unsupported when the server gives none.
        """
        _check_prompt(prompt)
        return self._service.runner.start(self._logprobs(prompt))

    def compute_topk_logprobs(self, prompt: ModelInput, k: int) -> ApiFuture[TopkLogprobs]:
        """The ``k`` most likely tokens at each position of the prompt; None where nothing is defined.

        From the future: Unsupported when the server gives none.
        """
        if k < 1:
            raise invalid("k", k, "at least 1")
        _check_prompt(prompt)
        return self._service.runner.start(self._topk(prompt, k))

    def sample_stream(self, prompt: ModelInput, sampling_params: SamplingParams) -> AsyncIterator[SampleResponse]:
        """Sequences as they grow, where the server offers it.

        Raises:
            Unsupported: this server offers no streaming; nothing was sent.
        """
        del prompt, sampling_params
        raise unsupported("streaming of samples", server=self._connection.server)

    def get_sampler(self) -> ApiFuture[GetSamplerResponse]:
        """What the server says of this sampling session."""
        return self._service.runner.start(self._get_sampler())

    def get_tokenizer(self) -> Any:
        """The tokenizer. Blocks for the session's info; in an event loop use the twin."""
        return self._service.runner.wait(self.get_tokenizer_async())

    async def get_tokenizer_async(self) -> Any:
        """As ``get_tokenizer``. The server's list of models may name it; else the model's own name is its name."""
        name = self.base_model or (await self.get_sampler()).base_model
        offered = await self._service.get_server_capabilities()
        known = next((model.tokenizer_id for model in offered.supported_models if model.model_name == name), None)
        return load_tokenizer(GetInfoResponse(model_data=ModelData(model_name=name, tokenizer_id=known)))

    async def _sample(self, body: dict[str, Any]) -> SampleResponse:
        self._session.keep_alive()
        for attempt in itertools.count(1):
            try:
                return await self._sample_once({**body, "seq_id": next(self._numbers)})
            except AnswerLost:
                if attempt == _LOST_TRIES:
                    raise
        raise AssertionError("unreachable")

    async def _sample_once(self, body: dict[str, Any]) -> SampleResponse:
        accepted = await self._connection.submit("asample", json_body(body), sought=Sought.CHECKPOINT)
        awaited = Awaited(
            accepted.request_id,
            "asample",
            "Sample",
            sample_decoding(),
            self._reporter,
            no_progress_s=self._service.no_progress_s,
        )
        return await ResultPoll(self._connection, awaited).result()

    async def _logprobs(self, prompt: ModelInput) -> list[float | None]:
        answer = await self.sample(prompt, 1, SamplingParams(max_tokens=1), include_prompt_logprobs=True)
        if answer.prompt_logprobs is None:
            raise unsupported("log-probabilities of a prompt", server=self._connection.server)
        return answer.prompt_logprobs

    async def _topk(self, prompt: ModelInput, k: int) -> TopkLogprobs:
        answer = await self.sample(prompt, 1, SamplingParams(max_tokens=1), topk_prompt_logprobs=k)
        if answer.topk_prompt_logprobs is None:
            raise unsupported("top-k log-probabilities of a prompt", server=self._connection.server)
        return answer.topk_prompt_logprobs

    async def _get_sampler(self) -> GetSamplerResponse:
        return await self._connection.get(
            f"samplers/{self.sampling_session_id}", GetSamplerResponse, sought=Sought.RECORD
        )


def _check_prompt(prompt: ModelInput) -> None:
    if not isinstance(prompt, ModelInput):
        raise invalid("prompt", type(prompt).__name__, "give a ModelInput")
    if prompt.length == 0:
        raise InvalidRequest("prompt: it is empty; give at least one token", details={"field": "prompt"})
    for index, chunk in enumerate(prompt.chunks):
        if isinstance(chunk, EncodedTextChunk):
            check_tokens(chunk.tokens, f"prompt.chunks[{index}].tokens")
