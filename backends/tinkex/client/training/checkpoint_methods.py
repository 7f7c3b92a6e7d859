"""The methods of a training client that save and load a run's state."""

from collections.abc import Sequence

from backends.tinkex.client.requests.api_future import ApiFuture
from backends.tinkex.client.training.channel.run_channel import RunChannel, Submission
from backends.tinkex.client.training.channel.run_operation import RunOperation
from backends.tinkex.client.training.checkpoint_operations import (
    load_operation,
    remember_metric,
    save_external_operation,
    save_sampler_operation,
    save_state_operation,
)
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.responses import (
    LoadWeightsResponse,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)


class CheckpointMethods:
    """Saving and loading: the base class of ``TrainingClient``, which provides the channel."""

    _channel: RunChannel

    def save_state(
        self,
        name: str,
        *,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        seq_id: int | None = None,
        metric: float | None = None,
    ) -> ApiFuture[SaveWeightsResponse]:
        """Save weights and optimizer state under ``name``.

        ``metric``, lower is better, is remembered in this process: a recovery with ``best_loss`` chooses by it.

        Raises (at once): InvalidRequest when ``metric`` is not a finite number.
        From the future: NameTaken when the name exists and ``overwrite`` is not set; Unsupported when the server
        does not support ``ttl_seconds`` or ``overwrite``.
        """
        remember_metric(self._channel, name, metric)
        return self._channel.start(
            save_state_operation(self._channel, name, ttl_seconds=ttl_seconds, overwrite=overwrite, seq_id=seq_id)
        )

    def submit_save_state(
        self,
        name: str,
        *,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        seq_id: int | None = None,
        metric: float | None = None,
    ) -> Submission[SaveWeightsResponse]:
        """As ``save_state``; returns once the server has accepted it."""
        remember_metric(self._channel, name, metric)
        return self._channel.submit(
            save_state_operation(self._channel, name, ttl_seconds=ttl_seconds, overwrite=overwrite, seq_id=seq_id)
        )

    def save_weights_for_sampler(
        self, name: str, *, ttl_seconds: int | None = None, seq_id: int | None = None
    ) -> ApiFuture[SaveWeightsForSamplerResponse]:
        """Save sampling weights under ``name``."""
        return self._channel.start(
            save_sampler_operation(self._channel, name, ttl_seconds=ttl_seconds, seq_id=seq_id)
        )

    def submit_save_weights_for_sampler(
        self, name: str, *, ttl_seconds: int | None = None, seq_id: int | None = None
    ) -> Submission[SaveWeightsForSamplerResponse]:
        """As ``save_weights_for_sampler``; returns once the server has accepted it."""
        return self._channel.submit(
            save_sampler_operation(self._channel, name, ttl_seconds=ttl_seconds, seq_id=seq_id)
        )

    def save_weights_external(
        self,
        name: str,
        *,
        ttl_seconds: int | None = None,
        age_encryption_recipients: Sequence[str] | None = None,
        seq_id: int | None = None,
    ) -> ApiFuture[SaveWeightsExternalResponse]:
        """Save the weights as files for use outside the service; ``RestClient.download_external_weights`` fetches
        them.

        ``age_encryption_recipients``: public keys of age, to which every file is encrypted.
        """
        return self._channel.start(
            save_external_operation(
                self._channel,
                name,
                ttl_seconds=ttl_seconds,
                age_encryption_recipients=age_encryption_recipients,
                seq_id=seq_id,
            )
        )

    def load_state(
        self, path: str | CheckpointAddress, *, seq_id: int | None = None
    ) -> ApiFuture[LoadWeightsResponse]:
        """Load the weights of a checkpoint and reset the optimizer.

        Some servers accept a load only as a run's first request.

        Raises (at once): InvalidRequest when ``path`` cannot be a checkpoint's address.
        """
        return self._channel.start(self._load(path, optimizer=False, seq_id=seq_id))

    def load_state_with_optimizer(
        self, path: str | CheckpointAddress, *, seq_id: int | None = None
    ) -> ApiFuture[LoadWeightsResponse]:
        """Load the weights and optimizer state of a checkpoint.

        The server claims that the optimizer came back; only repeated steps prove it. Raises as ``load_state``.
        """
        return self._channel.start(self._load(path, optimizer=True, seq_id=seq_id))

    load_weights_with_optimizer = load_state_with_optimizer

    def submit_load_state(
        self, path: str | CheckpointAddress, *, optimizer: bool, seq_id: int | None = None
    ) -> Submission[LoadWeightsResponse]:
        """As ``load_state`` or ``load_state_with_optimizer``; returns once the server has accepted it."""
        return self._channel.submit(self._load(path, optimizer=optimizer, seq_id=seq_id))

    def _load(
        self, path: str | CheckpointAddress, *, optimizer: bool, seq_id: int | None
    ) -> RunOperation[LoadWeightsResponse]:
        address = CheckpointAddress.parse(path)
        return load_operation(self._channel, address, optimizer=optimizer, seq_id=seq_id)
