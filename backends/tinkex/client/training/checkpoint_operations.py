"""The operations that save and load a run's state."""

import math
from collections.abc import Sequence
from typing import Literal

from backends.tinkex.client.training.channel.run_channel import RunChannel
from backends.tinkex.client.training.channel.run_operation import RunOperation
from backends.tinkex.client.training.state_route import optimizer_fields
from backends.tinkex.errors import Resource, invalid
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.requests import (
    LoadWeightsRequest,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)
from backends.tinkex.types.responses import (
    LoadWeightsResponse,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)

SamplerKind = Literal["snapshot", "inflight"]
"""The kind of a sampler: with fixed weights (``snapshot``), or moved by later saves (``inflight``)."""


def save_state_operation(
    channel: RunChannel, name: str, *, ttl_seconds: int | None, overwrite: bool, seq_id: int | None
) -> RunOperation[SaveWeightsResponse]:
    """Return a save of weights and optimizer state. Raises InvalidRequest."""
    _check_save(name, ttl_seconds)

    def body(seq: int) -> SaveWeightsRequest:
        return SaveWeightsRequest(
            model_id=channel.model_id,
            path=name,
            seq_id=seq,
            overwrite=True if overwrite else None,
            ttl_seconds=ttl_seconds,
        )

    return channel.record_operation(
        "save_weights",
        "SaveWeights",
        SaveWeightsResponse,
        body,
        seq_id,
        resource=Resource.SAVE,
        server_fields=optimizer_fields,
    )


def remember_metric(channel: RunChannel, name: str, metric: float | None) -> None:
    """Remember the metric of a save for a recovery. Raises InvalidRequest for NaN and infinities."""
    if metric is None:
        channel.connection.checkpoint_metrics.pop((channel.model_id, name), None)
    elif not math.isfinite(metric):
        raise invalid("metric", metric, "a finite number, or None")
    else:
        channel.connection.checkpoint_metrics[channel.model_id, name] = float(metric)


def save_sampler_operation(
    channel: RunChannel,
    name: str | None,
    *,
    ttl_seconds: int | None = None,
    seq_id: int | None = None,
    sampling_session_seq_id: int | None = None,
    kind: SamplerKind = "snapshot",
) -> RunOperation[SaveWeightsForSamplerResponse]:
    """Return a save of sampling weights, under ``name`` or into a new sampling session.

    Raises InvalidRequest.
    """
    _check_save(name, ttl_seconds)
    if kind not in ("snapshot", "inflight"):
        raise invalid("kind", kind, "allowed are snapshot and inflight")
    if kind == "inflight" and (name is not None or ttl_seconds is not None):
        raise invalid("kind", kind, "an inflight sampler has neither a name nor ttl_seconds")

    def body(seq: int) -> SaveWeightsForSamplerRequest:
        return SaveWeightsForSamplerRequest(
            model_id=channel.model_id,
            seq_id=seq,
            path=name,
            sampling_session_seq_id=sampling_session_seq_id,
            ttl_seconds=ttl_seconds,
            kind="inflight" if kind == "inflight" else None,
        )

    return channel.record_operation(
        "save_weights_for_sampler",
        "SaveWeightsForSampler",
        SaveWeightsForSamplerResponse,
        body,
        seq_id,
        resource=Resource.SAVE,
    )


def save_external_operation(
    channel: RunChannel,
    name: str,
    *,
    ttl_seconds: int | None,
    age_encryption_recipients: Sequence[str] | None,
    seq_id: int | None,
) -> RunOperation[SaveWeightsExternalResponse]:
    """Return an export of the weights as files. Raises InvalidRequest."""
    _check_save(name, ttl_seconds)
    recipients = None if age_encryption_recipients is None else list(age_encryption_recipients)

    def body(seq: int) -> SaveWeightsExternalRequest:
        return SaveWeightsExternalRequest(
            model_id=channel.model_id,
            path=name,
            seq_id=seq,
            ttl_seconds=ttl_seconds,
            age_encryption_recipients=recipients,
        )

    return channel.record_operation(
        "save_weights_external",
        "SaveWeightsExternal",
        SaveWeightsExternalResponse,
        body,
        seq_id,
        resource=Resource.SAVE,
    )


def load_operation(
    channel: RunChannel, checkpoint: CheckpointAddress, *, optimizer: bool, seq_id: int | None
) -> RunOperation[LoadWeightsResponse]:
    """Return a load of a checkpoint, with or without its optimizer state."""

    def body(seq: int) -> LoadWeightsRequest:
        return LoadWeightsRequest(model_id=channel.model_id, seq_id=seq, path=checkpoint.text, optimizer=optimizer)

    return channel.record_operation(
        "load_weights", "LoadWeights", LoadWeightsResponse, body, seq_id, resource=Resource.CHECKPOINT
    )


def _check_save(name: str | None, ttl_seconds: int | None) -> None:
    if name is not None and (not name or "/" in name or name in (".", "..")):
        raise invalid("name", name, "a name without slashes")
    if ttl_seconds is not None and ttl_seconds < 1:
        raise invalid("ttl_seconds", ttl_seconds, "at least 1 second")
