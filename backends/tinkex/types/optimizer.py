"""Families of optimizers, and their hyperparameters."""

from typing import Final, Literal

from pydantic import ConfigDict, Field, SerializeAsAny

from backends.tinkex.types.wire_record import SentRecord

ADAMW: Final = "adamw"


class OptimizerConfigBase(SentRecord):
    """An optimizer family by its name, for the life of a model. Families beyond ours keep their fields."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    type: str


class AdamOptimizerConfig(OptimizerConfigBase):
    """AdamW, the default."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    type: Literal["adamw"] = "adamw"


class DimuonOptimizerConfig(OptimizerConfigBase):
    """Dimuon, an optimizer of the service whose update rule is not published."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    type: Literal["dimuon"] = "dimuon"
    version: Literal[1] = 1


OptimizerConfig = SerializeAsAny[OptimizerConfigBase]
"""An optimizer family: ``AdamOptimizerConfig``, ``DimuonOptimizerConfig`` or one by its ``type``."""


class OptimParamsBase(SentRecord):
    """Hyperparameters of one step of an optimizer other than Adam. Families beyond ours keep their fields."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    type: str


class DimuonParams(OptimParamsBase):
    """Hyperparameters of one step of Dimuon. ``grad_clip_norm`` 0.0 disables clipping."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    type: Literal["dimuon"] = "dimuon"
    learning_rate: float = Field(ge=0, allow_inf_nan=False)
    grad_clip_norm: float = Field(default=0.0, allow_inf_nan=False)
    beta1: float = Field(default=0.9, ge=0, lt=1)
