"""The loss functions of reinforcement learning by name: what each reads, and its settings.

All are sums over tokens. A token has the ratio ``exp(logprob - sampling logprob)`` between the trained and the
sampling weights. A backend offers those of ``TrainingBackend.policy_losses``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from crucible.training import Datum

TARGETS: Final = "target_tokens"
LOGPROBS: Final = "logprobs"
ADVANTAGES: Final = "advantages"
MASK: Final = "sequence_ratio_mask"


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """A loss function of sampled tokens. ``inputs`` are the loss inputs that each datum needs, ``optional`` those
    that it may have, ``settings`` the names in ``loss_config``. With ``binds_sequences`` every datum needs the
    spans of its sampled sequences, which are bound to the session that sampled them."""

    inputs: tuple[str, ...]
    optional: tuple[str, ...] = ()
    settings: frozenset[str] = frozenset()
    binds_sequences: bool = False


_COMMON: Final = (TARGETS, LOGPROBS, ADVANTAGES)
_CLIPS: Final = ("clip_low_threshold", "clip_high_threshold")

POLICY_LOSSES: Final[Mapping[str, PolicyLoss]] = {
    "importance_sampling": PolicyLoss(_COMMON),
    "ppo": PolicyLoss(_COMMON, _CLIPS, frozenset(_CLIPS)),
    "cispo": PolicyLoss(_COMMON, _CLIPS, frozenset(_CLIPS)),
    "dro": PolicyLoss(_COMMON, settings=frozenset({"beta"})),
    "gspo": PolicyLoss((*_COMMON, MASK), _CLIPS, frozenset(_CLIPS)),
    "stable_reinforce": PolicyLoss(_COMMON, settings=frozenset({"kl_coeff"}), binds_sequences=True),
}
"""The loss functions of reinforcement learning."""


def targets_per_token(datum: Datum) -> int:
    """Return the number of targets of each token of a datum: 1, or more with soft targets."""
    return max(1, len(datum.loss_inputs.get(TARGETS, ())) // max(1, len(datum.tokens)))


def trained_tokens(batch: Sequence[Datum]) -> float:
    """Return the number of tokens that a batch trains, over which the reported loss of a step is the mean: the sum
    of the ``weights``; without these, the tokens with an advantage other than 0."""
    total = 0.0
    for datum in batch:
        if (weights := datum.loss_inputs.get("weights")) is not None:
            total += sum(float(weight) for weight in weights)
        elif (advantages := datum.loss_inputs.get(ADVANTAGES)) is not None:
            total += sum(1 for advantage in advantages if advantage)
        else:
            total += len(datum.tokens)
    return total
