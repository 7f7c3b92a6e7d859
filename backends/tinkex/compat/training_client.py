"""The SDK's training client."""

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from backends.tinkex import types as ours
from backends.tinkex.client.custom_losses.loss_handle import LossHandle
from backends.tinkex.client.requests.runner import Runner
from backends.tinkex.client.sampling import client as sampling
from backends.tinkex.client.training import client as training
from backends.tinkex.client.training.checkpoint_operations import SamplerKind
from backends.tinkex.compat.client_future import ClientFuture
from backends.tinkex.compat.datum import Datum, to_tinkex
from backends.tinkex.compat.errors import InvalidArgumentError, translated
from backends.tinkex.compat.futures import APIFuture, ConvertedResult, pending, same
from backends.tinkex.compat.results import ForwardBackwardOutput
from backends.tinkex.compat.run_watch import RunWatch
from backends.tinkex.compat.sampling_client import SamplingClient, SamplingClientFuture, check_retries
from crucible.errors import CrucibleError

S = TypeVar("S")
T = TypeVar("T")
LossConfig = Mapping[str, float | str]
CustomLoss = Callable[[list[Datum], list[Any]], tuple[Any, dict[str, float]]]


@dataclass(frozen=True, slots=True)
class Run:
    """A run of this client, with what a training client of the SDK needs beside it."""

    client: training.TrainingClient
    runner: Runner
    base_url: str
    watch: RunWatch


class TrainingClient:
    """A client of one run. Requests take effect in call order, and each call returns its future at once.

    A corrupted run raises RunCorruptedError, which names the newest checkpoint and its step.
    """

    def __init__(self, run: Run) -> None:
        self._own_run = run

    @property
    def _run(self) -> Run:
        return self._own_run

    @property
    def model_id(self) -> str:
        """The id of the run."""
        return self._run.client.model_id

    # --- passes and steps -----------------------------------------------------------------------------------

    def forward(
        self, data: list[Datum], loss_fn: str, loss_fn_config: LossConfig | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """Compute losses and log-probabilities without gradients."""
        examples = to_tinkex(data)
        return self._pending(
            lambda client: client.forward(examples, loss_fn, loss_fn_config), ForwardBackwardOutput.from_tinkex
        )

    def forward_backward(
        self, data: list[Datum], loss_fn: str, loss_fn_config: LossConfig | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """Compute gradients and add them to those since the last optimizer step."""
        examples = to_tinkex(data)
        return self._pending(
            lambda client: client.forward_backward(examples, loss_fn, loss_fn_config),
            ForwardBackwardOutput.from_tinkex,
        )

    def forward_backward_custom(
        self, data: list[Datum], loss_fn: CustomLoss | LossHandle, *, loss_type_input: str | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """Compute gradients of ``loss_fn(data, logprobs)``, which receives torch tensors and returns a loss and
        metrics, or of a loss that ``ServiceClient.create_custom_loss`` made."""
        if loss_type_input not in (None, "logprobs"):
            raise InvalidArgumentError(f"loss_type_input: {loss_type_input!r} is not allowed; allowed is logprobs")
        # the loss runs later: with the arrays as they are now
        examples, given = to_tinkex(data), copy.deepcopy(list(data))
        if isinstance(loss_fn, LossHandle):
            return self._pending(
                lambda client: client.forward_backward_custom(examples, loss_fn), ForwardBackwardOutput.from_tinkex
            )
        return self._pending(
            lambda client: client.forward_backward_custom(
                examples, lambda _, logprobs: loss_fn(given, list(logprobs)), arrays="torch"
            ),
            ForwardBackwardOutput.from_tinkex,
        )

    def optim_step(
        self,
        optim_params: ours.AdamParams | ours.OptimParamsBase | None = None,
        *,
        adam_params: ours.AdamParams | None = None,
    ) -> APIFuture[ours.OptimStepResponse]:
        """Apply the accumulated gradients."""
        params = optim_params if optim_params is not None else adam_params
        if params is None:
            raise InvalidArgumentError("optim_params: give AdamParams or those of another optimizer")
        stepped = self._pending(lambda client: client.optim_step(params), same)
        self._run.watch.step()
        return stepped

    # --- checkpoints ----------------------------------------------------------------------------------------

    def save_state(
        self,
        name: str,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: dict[str, str] | None = None,
    ) -> APIFuture[ours.SaveWeightsResponse]:
        """Save weights and optimizer state under ``name``."""
        _refuse(user_metadata=user_metadata)
        watch = self._run.watch
        step = watch.steps

        def noted(saved: ours.SaveWeightsResponse) -> ours.SaveWeightsResponse:
            watch.saved(saved.path, step)
            return saved

        return self._pending(
            lambda client: client.save_state(name, ttl_seconds=ttl_seconds, overwrite=overwrite), noted
        )

    def save_weights_for_sampler(
        self, name: str, ttl_seconds: int | None = None, user_metadata: dict[str, str] | None = None
    ) -> APIFuture[ours.SaveWeightsForSamplerResponse]:
        """Save sampling weights under ``name``."""
        _refuse(user_metadata=user_metadata)
        return self._pending(lambda client: client.save_weights_for_sampler(name, ttl_seconds=ttl_seconds), same)

    def save_weights_external(
        self, name: str, ttl_seconds: int | None = None, age_encryption_recipients: list[str] | None = None
    ) -> APIFuture[ours.SaveWeightsExternalResponse]:
        """Save the weights as files for use outside the service."""
        return self._pending(
            lambda client: client.save_weights_external(
                name, ttl_seconds=ttl_seconds, age_encryption_recipients=age_encryption_recipients
            ),
            same,
        )

    def load_state(self, path: str, weights_access_token: str | None = None) -> APIFuture[ours.LoadWeightsResponse]:
        """Load the weights of a checkpoint and reset the optimizer."""
        _refuse(weights_access_token=weights_access_token)
        return self._pending(lambda client: client.load_state(path), same)

    def load_state_with_optimizer(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[ours.LoadWeightsResponse]:
        """Load the weights and optimizer state of a checkpoint."""
        _refuse(weights_access_token=weights_access_token)
        return self._pending(lambda client: client.load_state_with_optimizer(path), same)

    # --- sampling and the model -----------------------------------------------------------------------------

    def create_sampling_client(
        self, model_path: str, retry_config: Any = None, record_stability_info: bool = False
    ) -> SamplingClientFuture:
        """Return a client for saved weights, in the run's session."""
        check_retries(retry_config)
        return self._sampler(
            lambda client: client.create_sampling_client_async(
                model_path, record_stability_info=record_stability_info
            )
        )

    def save_weights_and_get_sampling_client(
        self,
        name: str | None = None,
        retry_config: Any = None,
        record_stability_info: bool = False,
        kind: SamplerKind = "snapshot",
    ) -> SamplingClientFuture:
        """Return a client that samples from the weights as they are now. ``name`` has no effect."""
        check_retries(retry_config)
        if name is not None:
            what = "the name of save_weights_and_get_sampling_client has no effect: such weights are not kept"
            warnings.warn(f"{what}; use save_weights_for_sampler", DeprecationWarning, stacklevel=2)
        return self._sampler(
            lambda client: client.save_weights_and_get_sampling_client_async(
                record_stability_info=record_stability_info, kind=kind
            )
        )

    def get_info(self) -> ours.GetInfoResponse:
        """Return the server's description of the model. Blocks."""
        return self._info().result()

    def get_tokenizer(self) -> Any:
        """Return the model's tokenizer. Blocks."""
        return self._pending(lambda client: client.get_tokenizer_async(), same).result()

    def get_telemetry(self) -> None:
        """Return None: this client sends no telemetry."""

    # --- twins: they send the request when they are awaited, and return its future ---------------------------

    async def forward_async(self, *args: Any, **options: Any) -> APIFuture[ForwardBackwardOutput]:
        """As ``forward``."""
        return self.forward(*args, **options)

    async def forward_backward_async(self, *args: Any, **options: Any) -> APIFuture[ForwardBackwardOutput]:
        """As ``forward_backward``."""
        return self.forward_backward(*args, **options)

    async def forward_backward_custom_async(self, *args: Any, **options: Any) -> APIFuture[ForwardBackwardOutput]:
        """As ``forward_backward_custom``."""
        return self.forward_backward_custom(*args, **options)

    async def optim_step_async(self, *args: Any, **options: Any) -> APIFuture[ours.OptimStepResponse]:
        """As ``optim_step``."""
        return self.optim_step(*args, **options)

    async def save_state_async(self, *args: Any, **options: Any) -> APIFuture[ours.SaveWeightsResponse]:
        """As ``save_state``."""
        return self.save_state(*args, **options)

    async def save_weights_for_sampler_async(
        self, *args: Any, **options: Any
    ) -> APIFuture[ours.SaveWeightsForSamplerResponse]:
        """As ``save_weights_for_sampler``."""
        return self.save_weights_for_sampler(*args, **options)

    async def save_weights_external_async(
        self, *args: Any, **options: Any
    ) -> APIFuture[ours.SaveWeightsExternalResponse]:
        """As ``save_weights_external``."""
        return self.save_weights_external(*args, **options)

    async def load_state_async(self, *args: Any, **options: Any) -> APIFuture[ours.LoadWeightsResponse]:
        """As ``load_state``."""
        return self.load_state(*args, **options)

    async def load_state_with_optimizer_async(
        self, *args: Any, **options: Any
    ) -> APIFuture[ours.LoadWeightsResponse]:
        """As ``load_state_with_optimizer``."""
        return self.load_state_with_optimizer(*args, **options)

    async def create_sampling_client_async(self, *args: Any, **options: Any) -> SamplingClient:
        """As ``create_sampling_client``; returns the client."""
        return await self.create_sampling_client(*args, **options)

    async def save_weights_and_get_sampling_client_async(self, *args: Any, **options: Any) -> SamplingClient:
        """As ``save_weights_and_get_sampling_client``; returns the client."""
        return await self.save_weights_and_get_sampling_client(*args, **options)

    async def get_info_async(self) -> ours.GetInfoResponse:
        """As ``get_info``."""
        return await self._info()

    # --- private --------------------------------------------------------------------------------------------

    def _pending(
        self, call: Callable[[training.TrainingClient], Any], convert: Callable[[Any], T]
    ) -> ConvertedResult[T]:
        """Make a call now, and return the future of its converted result."""
        run = self._run
        run.watch.check()

        def checked(result: Any) -> T:
            converted = convert(result)
            run.watch.check()
            return converted

        try:
            work = call(run.client)
        except CrucibleError as error:
            raise translated(error) from error
        return pending(run.runner, work, checked, run.watch.translated)

    def _info(self) -> ConvertedResult[ours.GetInfoResponse]:
        return self._pending(lambda client: client.get_info(), same)

    def _sampler(self, call: Callable[[training.TrainingClient], Any]) -> SamplingClientFuture:
        run = self._run

        def wrapped(client: sampling.SamplingClient) -> SamplingClient:
            return SamplingClient(client, run.runner, run.base_url)

        return SamplingClientFuture(self._pending(call, wrapped).future())


class TrainingClientFuture(ClientFuture[TrainingClient], TrainingClient):
    """A training client that is being made: await it, take its ``result()``, or use it, which waits."""

    @property
    def _run(self) -> Run:
        return self.result()._own_run


def _refuse(**options: object) -> None:
    """Raise for an option that this client cannot send."""
    for name, value in options.items():
        if value is not None:
            raise InvalidArgumentError(f"{name}: this client cannot send it; leave it out")
