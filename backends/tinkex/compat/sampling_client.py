"""The SDK's sampling client."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from backends.tinkex import types as ours
from backends.tinkex.client import service
from backends.tinkex.client.requests.runner import Runner
from backends.tinkex.client.sampling import client as sampling
from backends.tinkex.client.sampling.sampler_clone import CLONE_BLOCK, new_clone_id
from backends.tinkex.compat.client_future import ClientFuture
from backends.tinkex.compat.errors import InvalidArgumentError, translated
from backends.tinkex.compat.futures import APIFuture, ConvertedResult, pending, same
from backends.tinkex.compat.results import SampleResponse
from backends.tinkex.compat.tensor_data import TensorData
from crucible.errors import CrucibleError
from crucible.values.record import Record

T = TypeVar("T")


class SamplingClient:
    """A client that samples from fixed weights. It may be pickled: the copy has sequence numbers of its own."""

    def __init__(self, client: sampling.SamplingClient, runner: Runner, base_url: str) -> None:
        self._parts = (client, runner, base_url)

    @property
    def _sampler(self) -> tuple[sampling.SamplingClient, Runner, str]:
        return self._parts

    def sample(
        self,
        prompt: ours.ModelInput,
        num_samples: int,
        sampling_params: ours.SamplingParams,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: TensorData | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
    ) -> APIFuture[SampleResponse]:
        """Sample ``num_samples`` sequences."""
        return self._pending(
            lambda client: client.sample(
                prompt,
                num_samples,
                sampling_params,
                include_prompt_logprobs,
                topk_prompt_logprobs,
                topk_sample_logprobs,
                None if target_prompt_logprobs is None else target_prompt_logprobs.to_tinkex(),
                prompt_alt_tokens_k,
                prompt_logprobs_last_n,
            ),
            SampleResponse.from_tinkex,
        )

    async def sample_async(self, *args: Any, **options: Any) -> SampleResponse:
        """As ``sample``; returns its result."""
        return await self.sample(*args, **options)

    def compute_logprobs(
        self, prompt: ours.ModelInput, prompt_logprobs_last_n: int | None = None
    ) -> APIFuture[list[float | None]]:
        """Return the log-probability of each token of the prompt, with None for the first."""
        return self._pending(lambda client: client.compute_logprobs(prompt, prompt_logprobs_last_n), same)

    async def compute_logprobs_async(self, *args: Any, **options: Any) -> list[float | None]:
        """As ``compute_logprobs``; returns its result."""
        return await self.compute_logprobs(*args, **options)

    def get_tokenizer(self) -> Any:
        """Return the model's tokenizer. Blocks."""
        return self._pending(lambda client: client.get_tokenizer_async(), same).result()

    def get_base_model(self) -> str:
        """Return the name of the base model. Blocks."""
        return self._sampler[0].base_model or self._described().result()

    async def get_base_model_async(self) -> str:
        """As ``get_base_model``."""
        return self._sampler[0].base_model or await self._described()

    def get_telemetry(self) -> None:
        """Return None: this client sends no telemetry."""

    def get_sampler_handle(self) -> str:
        """Return a text from which another process makes a client of the same sampling session."""
        return self._state().model_dump_json()

    @staticmethod
    def from_sampler_handle(handle: str, *, api_key: str | None = None) -> "SamplingClient":
        """Return a client for a handle. Its sequence numbers are its own. Blocks."""
        try:
            state = _SamplerState.model_validate_json(handle)
        except ValidationError as error:
            raise InvalidArgumentError(f"handle: give the text of get_sampler_handle ({error})") from None
        return _attached(state, api_key)

    def __reduce__(self) -> tuple[Callable[..., "SamplingClient"], tuple["_SamplerState"]]:
        return (_attached, (self._state(),))

    def _described(self) -> ConvertedResult[str]:
        return self._pending(lambda client: client.get_sampler(), lambda found: found.base_model)

    def _pending(
        self, call: Callable[[sampling.SamplingClient], Any], convert: Callable[[Any], T]
    ) -> ConvertedResult[T]:
        client, runner, _ = self._sampler
        try:
            work = call(client)
        except CrucibleError as error:
            raise translated(error) from error
        return pending(runner, work, convert)

    def _state(self) -> "_SamplerState":
        client, _, base_url = self._sampler
        return _SamplerState(
            base_url=base_url,
            sampling_session_id=client.sampling_session_id,
            session_id=client.session_id,
            base_model=client.base_model,
            record_stability_info=client.record_stability_info,
        )


class SamplingClientFuture(ClientFuture[SamplingClient], SamplingClient):
    """A sampling client that is being made: await it, take its ``result()``, or use it, which waits."""

    @property
    def _sampler(self) -> tuple[sampling.SamplingClient, Runner, str]:
        return self.result()._parts


def check_retries(retry_config: Any) -> None:
    """Warn of the SDK's retry settings, which this client does not have."""
    if retry_config is not None:
        warnings.warn("retry_config is ignored: this client has retries of its own", stacklevel=3)


class _SamplerState(Record):
    """A sampling client as another process makes it anew, without the key, which that has in its environment."""

    base_url: str
    sampling_session_id: str
    session_id: str | None
    base_model: str | None
    record_stability_info: bool


def _attached(state: _SamplerState, api_key: str | None = None) -> SamplingClient:
    try:
        client = service.ServiceClient(api_key, state.base_url)
        number = client.runner.wait(new_clone_id(client.connection, state.sampling_session_id))
        sampler = client.attach_sampling_client(
            state.sampling_session_id,
            CLONE_BLOCK * number,
            session_id=state.session_id,
            base_model=state.base_model,
            record_stability_info=state.record_stability_info,
        )
    except CrucibleError as error:
        raise translated(error) from error
    return SamplingClient(sampler, client.runner, state.base_url)
