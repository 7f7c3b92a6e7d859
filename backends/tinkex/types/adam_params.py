"""Hyperparameters of the optimizer."""

from pydantic import Field

from backends.tinkex.types.wire_record import SentRecord


class AdamParams(SentRecord):
    """Adam's hyperparameters, with the defaults of the Tinker API. ``grad_clip_norm`` 0.0 disables clipping."""

    learning_rate: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-12, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    grad_clip_norm: float = Field(default=0.0, ge=0, allow_inf_nan=False)
