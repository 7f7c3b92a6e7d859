"""The trainable part of a model: low-rank matrices, their gradients and Adam's state."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from backends.tiny_lm.network import SITES, Array, LowRank

ALPHA: Final = 32
_FLAG_OF_SITE: Final = {
    "mlp_in": "train_mlp",
    "mlp_out": "train_mlp",
    "attn": "train_attn",
    "unembed": "train_unembed",
}


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """The rank of an adapter, and which matrices it trains."""

    rank: int
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(site for site in SITES if getattr(self, _FLAG_OF_SITE[site]))


@dataclass(frozen=True, slots=True)
class AdamStep:
    """Parameters of one optimizer step."""

    learning_rate: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    grad_clip_norm: float


@dataclass(frozen=True, slots=True)
class DimuonStep:
    """Parameters of one step of the stand-in for Dimuon (``losses.STAND_INS``)."""

    learning_rate: float
    beta1: float
    grad_clip_norm: float


class Adapter:
    """A run's weights, the gradient accumulated since the last step, and Adam's two moments."""

    def __init__(self, shape: AdapterShape, seed: int, *, dtype: type[np.floating] = np.float32) -> None:
        self.shape = shape
        rng = np.random.default_rng([seed, shape.rank])
        self.weights: dict[str, Array] = {}
        for site, (wide, out) in SITES.items():
            drawn = rng.standard_normal((wide, shape.rank)) / np.sqrt(wide)
            if site in shape.sites:
                self.weights[f"{site}.down"] = drawn.astype(dtype)
                self.weights[f"{site}.up"] = np.zeros((shape.rank, out), dtype)
        self._reset()

    def _reset(self) -> None:
        self.gradient: dict[str, Array] | None = None
        self.first: dict[str, Array] | None = None
        self.second: dict[str, Array] | None = None
        self.steps = 0

    @property
    def low_rank(self) -> dict[str, LowRank]:
        """The matrices by site, in the network's form."""
        scale = ALPHA / self.shape.rank
        return {
            site: LowRank(self.weights[f"{site}.down"], self.weights[f"{site}.up"], scale)
            for site in self.shape.sites
        }

    def gradients(self) -> dict[str, Array]:
        """The gradient accumulators; zero after each step."""
        if self.gradient is None:
            self.gradient = _zeros(self.weights)
        return self.gradient

    def step(self, parameters: AdamStep | DimuonStep) -> float:
        """Make one optimizer step, Adam's with decoupled weight decay; returns the gradient's norm before clipping.

        A step without accumulated gradients still counts, and decays the moments. Overflow and NaN pass silently.
        """
        with np.errstate(all="ignore"):
            gradient = self.gradients()
            norm = float(np.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradient.values())))
            shrink = parameters.grad_clip_norm / norm if 0 < parameters.grad_clip_norm < norm else 1.0
            self.steps += 1
            if isinstance(parameters, AdamStep):
                self._move(parameters, gradient, shrink)
            else:
                self._turn(parameters, gradient, shrink)
        self.gradient = None
        return norm

    def _turn(self, parameters: DimuonStep, gradient: Mapping[str, Array], shrink: float) -> None:
        if self.first is None:
            self.first = _zeros(self.weights)
        for key, weight in self.weights.items():
            first = self.first[key]
            first *= parameters.beta1
            first += (1 - parameters.beta1) * shrink * gradient[key]
            weight -= parameters.learning_rate * _orthogonal(first)

    def _move(self, parameters: AdamStep, gradient: Mapping[str, Array], shrink: float) -> None:
        if self.first is None or self.second is None:
            self.first, self.second = _zeros(self.weights), _zeros(self.weights)
        first_scale = 1 - parameters.beta1**self.steps
        second_scale = 1 - parameters.beta2**self.steps
        for key, weight in self.weights.items():
            slope = gradient[key] * shrink
            first, second = self.first[key], self.second[key]
            first *= parameters.beta1
            first += (1 - parameters.beta1) * slope
            second *= parameters.beta2
            second += (1 - parameters.beta2) * slope * slope
            move = (first / first_scale) / (np.sqrt(second / second_scale) + parameters.eps)
            weight -= parameters.learning_rate * (move + parameters.weight_decay * weight)

    def scramble(self, seed: int) -> None:
        """Overwrite the weights with noise."""
        rng = np.random.default_rng(seed)
        for key, weight in self.weights.items():
            self.weights[key] = rng.standard_normal(weight.shape).astype(weight.dtype)

    def poison(self) -> None:
        """Overwrite the weights with NaN."""
        for weight in self.weights.values():
            weight.fill(np.nan)

    def state(self, *, optimizer: bool) -> dict[str, NDArray[np.generic]]:
        """Copies of the arrays that a checkpoint stores, by name; gradients are not among them."""
        arrays: dict[str, NDArray[np.generic]] = {f"w.{key}": value.copy() for key, value in self.weights.items()}
        if optimizer:
            arrays["steps"] = np.asarray(self.steps, dtype=np.int64)
            for prefix, moments in (("m", self.first), ("v", self.second)):
                arrays |= {f"{prefix}.{key}": value.copy() for key, value in (moments or {}).items()}
        return arrays

    @classmethod
    def of_state(cls, shape: AdapterShape, state: Mapping[str, NDArray[np.generic]], *, optimizer: bool) -> Self:
        """Build an adapter from :meth:`state`; without ``optimizer`` its Adam state is new.

        Raises:
            KeyError: an array is missing.
        """
        adapter = cls.__new__(cls)
        adapter.shape = shape
        adapter.weights = _named(state, "w.", shape)
        adapter._reset()
        if optimizer and "steps" in state:
            adapter.steps = int(state["steps"])
            if adapter.steps:
                adapter.first = _named(state, "m.", shape)
                has_second = any(key.startswith("v.") for key in state)
                adapter.second = _named(state, "v.", shape) if has_second else None
        return adapter

    def copy(self) -> Self:
        """A copy of the weights without optimizer state, for a sampler."""
        return self.of_state(self.shape, self.state(optimizer=False), optimizer=False)

    def digest(self) -> str:
        """SHA-256 over the weights and the optimizer state: equal digests mean equal training from here on."""
        return digest_of(self.state(optimizer=True))


def digest_of(state: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 over named arrays, independent of their order."""
    sha = hashlib.sha256()
    for key in sorted(state):
        value = np.ascontiguousarray(state[key])
        sha.update(f"{key}:{value.dtype.str}:{value.shape};".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()


def _orthogonal(matrix: Array) -> Array:
    """The nearest matrix with orthonormal rows or columns; zero for zero, NaN where it is not finite."""
    if not np.all(np.isfinite(matrix)):
        return np.full_like(matrix, np.nan)
    left, sizes, right = np.linalg.svd(matrix, full_matrices=False)
    turned: Array = (left * (sizes > sizes[0] * 1e-6)) @ right
    return turned


def _zeros(like: Mapping[str, Array]) -> dict[str, Array]:
    return {key: np.zeros_like(value) for key, value in like.items()}


def _named(state: Mapping[str, NDArray[np.generic]], prefix: str, shape: AdapterShape) -> dict[str, Array]:
    """The arrays with a prefix, in the order of a new adapter, so that sums over them have the same bits."""
    keys = [f"{site}.{part}" for site in shape.sites for part in ("down", "up")]
    return {key: np.array(state[f"{prefix}{key}"]) for key in keys}
