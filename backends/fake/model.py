"""A language model that is small, real and exact: logits from the two bytes before, with a low-rank adapter.

    logits = bias + (first[b1] + second[b2]) @ up

``bias`` is frozen and follows from the base model's name; ``first``, ``second`` and ``up`` are the adapter. All of
it is float64, and sums run datum by datum in the order given, so the same requests give the same bits.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.local.generation import Array, log_softmax
from crucible.tokenizer import ByteTokenizer
from crucible.training import LoraSpec, OptimizerSpec

BASE_MODELS: Final = ("tiny-lm", "llama-3.2-1b", "llama-3.2-3b", "qwen/qwen2.5-7b")
"""``tiny-lm`` and the names of well-known models, for which this one stands in under other frozen weights."""

MAX_RANK: Final = 256
CONTEXT_LENGTH: Final = 32_768
VOCAB_SIZE: Final = ByteTokenizer().vocab_size
_ADAPTER: Final = ("first", "second", "up")


def _seed(*words: object) -> int:
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "little")


@dataclass(slots=True)
class Model:
    """Frozen weights, the adapter, its gradients, and Adam's state."""

    base_model: str
    lora: LoraSpec
    bias: Array = field(repr=False)
    adapter: dict[str, Array] = field(repr=False)
    gradients: dict[str, Array] = field(repr=False)
    momentum: dict[str, Array] = field(repr=False)
    variance: dict[str, Array] = field(repr=False)
    updates: int = 0

    @classmethod
    def new(cls, base_model: str, lora: LoraSpec) -> "Model":
        """A fresh adapter: it changes nothing before the first step, because ``up`` starts at zero."""
        frozen = np.random.default_rng(_seed("fake-base", base_model))
        made = np.random.default_rng(_seed("fake-adapter", base_model, lora.seed or 0, lora.rank))
        adapter = {
            "first": made.normal(0.0, 0.3, (VOCAB_SIZE, lora.rank)),
            "second": made.normal(0.0, 0.3, (VOCAB_SIZE, lora.rank)),
            "up": np.zeros((lora.rank, VOCAB_SIZE)),
        }
        return cls(
            base_model=base_model,
            lora=lora,
            bias=frozen.normal(0.0, 0.5, VOCAB_SIZE),
            adapter=adapter,
            gradients={name: np.zeros_like(value) for name, value in adapter.items()},
            momentum={name: np.zeros_like(value) for name, value in adapter.items()},
            variance={name: np.zeros_like(value) for name, value in adapter.items()},
        )

    def logits(self, tokens: Sequence[int]) -> Array:
        """What follows each of ``tokens``: one row each."""
        _, hidden = self._hidden(tokens)
        result: Array = self.bias + hidden @ self.adapter["up"]
        return result

    def backward(
        self,
        tokens: Sequence[int],
        targets: Sequence[int] | Sequence[float],
        weights: Sequence[float] | Sequence[int],
    ) -> Array:
        """Add the gradient of the weighted negative log likelihood; returns the log probability of each target."""
        (now, before), hidden = self._hidden(tokens)
        rows = log_softmax(self.bias + hidden @ self.adapter["up"])
        goal = np.asarray(targets, dtype=np.int64)
        places = np.arange(len(goal))
        slope = np.exp(rows)
        slope[places, goal] -= 1.0
        slope *= np.asarray(weights, dtype=np.float64)[:, None]
        self.gradients["up"] += hidden.T @ slope
        down = slope @ self.adapter["up"].T
        np.add.at(self.gradients["first"], now, down)
        np.add.at(self.gradients["second"], before, down)
        result: Array = rows[places, goal]
        return result

    def step(self, optimizer: OptimizerSpec) -> float:
        """One step of Adam over the gathered gradients, which are then forgotten; returns their norm."""
        norm = float(np.sqrt(sum(float(np.sum(g * g)) for g in self.gradients.values())))
        clip = optimizer.grad_clip_norm
        scale = clip / norm if 0.0 < clip < norm else 1.0
        self.updates += 1
        for name in _ADAPTER:
            gradient = self.gradients[name] * scale
            m, v = self.momentum[name], self.variance[name]
            m += (1.0 - optimizer.beta1) * (gradient - m)
            v += (1.0 - optimizer.beta2) * (gradient * gradient - v)
            ahead = m / (1.0 - optimizer.beta1**self.updates)
            spread = np.sqrt(v / (1.0 - optimizer.beta2**self.updates)) + optimizer.eps
            weights = self.adapter[name]
            weights *= 1.0 - optimizer.learning_rate * optimizer.weight_decay
            weights -= optimizer.learning_rate * ahead / spread
            self.gradients[name][:] = 0.0
        return norm

    def state(self, *, optimizer: bool) -> dict[str, Array]:
        """All that training has made, as arrays by name."""
        arrays = {f"adapter.{name}": value.copy() for name, value in self.adapter.items()}
        if optimizer:
            arrays |= {f"momentum.{name}": value.copy() for name, value in self.momentum.items()}
            arrays |= {f"variance.{name}": value.copy() for name, value in self.variance.items()}
            arrays["updates"] = np.asarray(self.updates, dtype=np.float64)
        return arrays

    def load(self, arrays: Mapping[str, Array], *, optimizer: bool) -> None:
        """Take over what ``state`` gave. Raises KeyError when an array is missing."""
        for name in _ADAPTER:
            self.adapter[name][:] = arrays[f"adapter.{name}"]
            if optimizer:
                self.momentum[name][:] = arrays[f"momentum.{name}"]
                self.variance[name][:] = arrays[f"variance.{name}"]
        if optimizer:
            self.updates = int(arrays["updates"])

    def digest(self) -> str:
        """A hash of the adapter's bits: equal digests mean equal weights."""
        made = hashlib.sha256()
        for name in _ADAPTER:
            made.update(self.adapter[name].tobytes())
        return made.hexdigest()

    def _hidden(self, tokens: Sequence[int]) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], Array]:
        now = np.asarray(tokens, dtype=np.int64)
        before = np.concatenate(([ByteTokenizer.PAD], now[:-1]))
        hidden: Array = self.adapter["first"][now] + self.adapter["second"][before]
        return (now, before), hidden
