"""The methods of a training client that sample from its run."""

from collections.abc import Coroutine
from typing import Any

from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.sampling.client import SamplingClient
from backends.tinkex.client.training.channel.run_channel import RunChannel
from backends.tinkex.client.training.checkpoint_operations import SamplerKind, save_sampler_operation
from backends.tinkex.client.training.training_service import TrainingService
from backends.tinkex.errors import malformed
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.responses import SaveWeightsForSamplerResponse


class RunSamplingMethods:
    """Samplers in the run's own session: a base class of ``TrainingClient``, which provides the channel.

    Sequences that a service records for training belong to a session, so that a run trains on those of its own.
    """

    _channel: RunChannel
    _service: TrainingService

    def create_sampling_client(
        self, model_path: str | CheckpointAddress, *, record_stability_info: bool = False
    ) -> SamplingClient:
        """Return a client for saved weights in the run's session. Blocks; in an event loop use the twin."""
        return self._service.runner.wait(
            self.create_sampling_client_async(model_path, record_stability_info=record_stability_info)
        )

    async def create_sampling_client_async(
        self, model_path: str | CheckpointAddress, *, record_stability_info: bool = False
    ) -> SamplingClient:
        """As ``create_sampling_client``.

        Raises:
            InvalidRequest: the path is invalid.
            NotFound: there are no such weights.
        """
        weights = CheckpointAddress.parse(model_path, field="model_path")
        return await self._service.runner.start(
            self._service.new_sampling_client(
                self._channel.session, weights, record_stability_info=record_stability_info
            )
        )

    def attach_sampling_client(
        self, sampling_session_id: str, *, record_stability_info: bool = False
    ) -> SamplingClient:
        """Return a client of a sampling session that another process created in the run's session. No I/O."""
        return SamplingClient(
            self._service,
            sampling_session_id,
            session=self._channel.session,
            record_stability_info=record_stability_info,
        )

    def save_weights_and_get_sampling_client(
        self, name: str | None = None, *, record_stability_info: bool = False, kind: SamplerKind = "snapshot"
    ) -> SamplingClient:
        """Save the weights and return a client that samples from them. Blocks; in an event loop use the twin."""
        return self._service.runner.wait(
            self.save_weights_and_get_sampling_client_async(
                name, record_stability_info=record_stability_info, kind=kind
            )
        )

    def save_weights_and_get_sampling_client_async(
        self, name: str | None = None, *, record_stability_info: bool = False, kind: SamplerKind = "snapshot"
    ) -> Coroutine[Any, Any, SamplingClient]:
        """As ``save_weights_and_get_sampling_client``. Without a name the save is not kept. The save takes its
        place among the run's requests at the call.

        ``kind="inflight"``: later saves of that kind move this client's weights too, so that its samples cannot be
        repeated; a service that has no such samplers refuses.

        Raises:
            InvalidRequest: an inflight sampler is given a name.
            MalformedAnswer: the result names neither weights nor a sampling session.
        """
        operation = save_sampler_operation(
            self._channel,
            name,
            sampling_session_seq_id=self._channel.session.next_sampler_seq_id() if name is None else None,
            kind=kind,
        )
        return self._sampler_of(self._channel.start(operation), name, record_stability_info=record_stability_info)

    async def _sampler_of(
        self, pending: ApiFuture[SaveWeightsForSamplerResponse], name: str | None, *, record_stability_info: bool
    ) -> SamplingClient:
        saved = await pending
        if name is None and saved.sampling_session_id is not None:
            return SamplingClient(
                self._service,
                saved.sampling_session_id,
                session=self._channel.session,
                record_stability_info=record_stability_info,
            )
        if saved.path is None:
            raise malformed(
                "the result has neither a path nor a sampling session", route="save_weights_for_sampler"
            )
        return await self.create_sampling_client_async(saved.path, record_stability_info=record_stability_info)
