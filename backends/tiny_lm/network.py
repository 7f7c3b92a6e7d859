"""The tiny byte-level language model: log-probabilities, and gradients for low-rank adapters.

Each position reads the concatenated embeddings of the last ``WINDOW`` tokens (the MLP's input) and four decaying
averages over the last ``SPAN`` tokens (in place of attention). Base weights are frozen and derive from
the model's name and a seed; only the adapters train.

Everything is computed one sequence at a time in a fixed order of operations, so the results of a sequence do not
depend on the rest of its batch.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.tiny_lm.prior import bigram_log_odds
from crucible.rendering.tokenizer import ByteTokenizer

Array = NDArray[np.floating]

BASE_MODELS: Final = ("tiny-lm", "llama-3.2-1b", "llama-3.2-3b", "qwen/qwen2.5-7b")
"""``tiny-lm``, and stand-ins for real models: the same architecture with different random base weights."""

CONTEXT_LENGTH: Final = 32_768
"""Limit that backends set for a prompt and its completion; the network has none."""

WINDOW: Final = 16
SPAN: Final = 64
EMBED: Final = 16
HIDDEN: Final = 128
_DECAYS: Final = (0.5, 0.8, 0.93, 0.98)
_TOKENIZER: Final = ByteTokenizer()
VOCAB: Final = _TOKENIZER.vocab_size

SITES: Final[Mapping[str, tuple[int, int]]] = {
    "mlp_in": (WINDOW * EMBED, HIDDEN),
    "attn": (len(_DECAYS) * EMBED, HIDDEN),
    "mlp_out": (HIDDEN, HIDDEN),
    "unembed": (HIDDEN, VOCAB),
}
"""The frozen matrices that an adapter can modify, with their input and output widths."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """A low-rank adapter of one site, whose matrix becomes ``W + scale * down @ up``."""

    down: Array
    up: Array
    scale: float

    def of(self, inputs: Array) -> tuple[Array, Array]:
        """``inputs @ down``, which the backward pass needs, and the adapter's share of the site's output."""
        narrow = inputs @ self.down
        return narrow, (narrow @ self.up) * self.scale


Adapters = Mapping[str, LowRank]


@dataclass(frozen=True, slots=True)
class Trace:
    """Activations of the forward pass of one sequence, for its backward pass."""

    inputs: dict[str, Array]
    narrow: dict[str, Array]
    first: Array
    second: Array
    logprobs: Array
    """Log-probabilities, ``[position, vocabulary]``."""


def _sliding(embedded: Array, length: int) -> Array:
    """A view of each ``length`` successive rows of a contiguous array, ``[row, column, place]``: NumPy's
    ``sliding_window_view`` without its checks, which take nearly as long as the model does for one token."""
    rows, columns = embedded.shape
    down, right = embedded.strides
    shape = (rows - length + 1, columns, length)
    return np.ndarray(shape, embedded.dtype, embedded, strides=(down, right, down))


class Network:
    """The frozen base model of a name."""

    def __init__(self, name: str, seed: int, *, dtype: type[np.floating] = np.float32) -> None:
        self.name = name
        self._dtype = dtype
        digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        self._entropy = int.from_bytes(digest[:8], "big")

    @cached_property
    def _weights(self) -> dict[str, Array]:
        rng = np.random.default_rng(self._entropy)
        drawn: dict[str, Array] = {"embed": rng.standard_normal((VOCAB, EMBED))}
        for site, (wide, out) in SITES.items():
            drawn[site] = rng.standard_normal((wide, out)) / np.sqrt(wide)
        drawn["mlp_out"] *= 0.7
        drawn["unembed"] *= 0.3
        drawn["prior"] = bigram_log_odds(VOCAB, end=ByteTokenizer.END, assistant=259)
        return {key: np.ascontiguousarray(value, dtype=self._dtype) for key, value in drawn.items()}

    @cached_property
    def _kernels(self) -> Array:
        age = np.arange(SPAN)[::-1]
        columns = [decay**age * np.sqrt(1 - decay * decay) for decay in _DECAYS]
        return np.ascontiguousarray(np.stack(columns, axis=1), dtype=self._dtype)

    def _features(self, tokens: NDArray[np.int64], rows: int) -> tuple[Array, Array]:
        """The window and the averages of the last ``rows`` positions."""
        context = tokens[-(rows + SPAN - 1) :]
        missing = rows + SPAN - 1 - len(context)
        if missing > 0:
            context = np.concatenate([np.full(missing, ByteTokenizer.PAD), context])
        embedded = self._weights["embed"][context]
        windows = np.ascontiguousarray(_sliding(embedded[SPAN - WINDOW :], WINDOW))
        spans = np.ascontiguousarray(_sliding(embedded, SPAN))
        averages = spans.reshape(rows * EMBED, SPAN) @ self._kernels
        return windows.reshape(rows, -1), averages.reshape(rows, -1)

    def forward(self, tokens: NDArray[np.int64], adapters: Adapters, *, rows: int | None = None) -> Trace:
        """Compute the log-probabilities after each position, or after each of the last ``rows`` positions."""
        rows = len(tokens) if rows is None else rows
        window, averages = self._features(tokens, rows)
        inputs: dict[str, Array] = {"mlp_in": window, "attn": averages}
        narrow: dict[str, Array] = {}

        def site(name: str) -> Array:
            output = inputs[name] @ self._weights[name]
            adapter = adapters.get(name)
            if adapter is None:
                return output
            narrow[name], share = adapter.of(inputs[name])
            output += share
            return output

        first = np.tanh(site("mlp_in") + site("attn"))
        inputs["mlp_out"] = first
        second = np.tanh(site("mlp_out"))
        inputs["unembed"] = first + second
        logits = site("unembed")
        logits += self._weights["prior"][tokens[len(tokens) - rows :]]
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return Trace(inputs, narrow, first, second, logits)

    def backward(self, trace: Trace, slope: Array, adapters: Adapters, into: Mapping[str, Array]) -> None:
        """Add the gradient of a loss to ``into`` (keys ``site.down``, ``site.up``).

        ``slope`` is the derivative of the loss by the logits, ``[position, vocabulary]``.
        """
        wide = self._back_through("unembed", slope, trace, adapters, into)
        hidden = wide * (1 - trace.second * trace.second)
        wide = wide + self._back_through("mlp_out", hidden, trace, adapters, into)
        wide *= 1 - trace.first * trace.first
        for site in ("mlp_in", "attn"):
            if site in adapters:
                self._adapter_gradient(site, wide, trace, adapters[site], into)

    def _back_through(
        self, site: str, slope: Array, trace: Trace, adapters: Adapters, into: Mapping[str, Array]
    ) -> Array:
        through: Array = slope @ self._weights[site].T
        if site in adapters:
            adapter = adapters[site]
            through += self._adapter_gradient(site, slope, trace, adapter, into) @ adapter.down.T
        return through

    @staticmethod
    def _adapter_gradient(
        site: str, slope: Array, trace: Trace, adapter: LowRank, into: Mapping[str, Array]
    ) -> Array:
        back: Array = (slope @ adapter.up.T) * adapter.scale
        into[f"{site}.up"][...] += (trace.narrow[site].T @ slope) * adapter.scale
        into[f"{site}.down"][...] += trace.inputs[site].T @ back
        return back
