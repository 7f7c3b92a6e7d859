"""Tokens whose log-probabilities at the positions of a prompt a request asks for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from backends.tinkex_dev.errors import InvalidField
from backends.tinkex_dev.service.promises import PromptTargets
from backends.tinkex_dev.wire.tensors import tensor_of_json
from backends.tiny_lm.network import VOCAB, Adapters, Network
from backends.tiny_lm.sampler import score_targets

_PATH: Final = ("target_prompt_logprobs",)
_NOTHING: Final = -1


@dataclass(frozen=True, slots=True)
class ChosenTokens:
    """Ids ``[prompt length - 1, K]``, -1 where nothing is asked; ``sparse`` has the row pointers and columns."""

    ids: NDArray[np.int64]
    sparse: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    @classmethod
    def of_json(cls, value: dict[str, Any], rows: int) -> Self:
        """Decode a tensor, dense or sparse. Raises InvalidField."""
        found = tensor_of_json(value, _PATH)
        sparse = None
        if found.dtype.kind != "i" or found.ndim != 2 or len(found) != rows:
            problem = f"{list(found.shape)} of {found.dtype}; expected int64 of {rows} rows, the prompt's less one"
            raise InvalidField.at((*_PATH, "shape"), problem)
        if value.get("sparse_crow_indices") is not None:
            crow, columns = (
                np.asarray(value[f"sparse_{name}_indices"], dtype=np.int64) for name in ("crow", "col")
            )
            # in a sparse tensor the cells that are not listed ask for nothing, and 0 is a token
            listed = np.zeros(found.shape, dtype=bool)
            listed[np.repeat(np.arange(len(found)), np.diff(crow)), columns] = True
            found = np.where(listed, found, _NOTHING)
            sparse = (crow, columns)
        ids = np.asarray(found)
        if ids.size and (ids.min() < _NOTHING or ids.max() >= VOCAB):
            raise InvalidField.at((*_PATH, "data"), f"ids are 0 to {VOCAB - 1}, or -1 for nothing")
        return cls(ids.astype(np.int64), sparse)

    def scored(self, network: Network, adapters: Adapters, prompt: Sequence[int]) -> PromptTargets:
        """The log-probabilities of the tokens, in the layout of the ids."""
        logprobs = score_targets(network, adapters, prompt, self.ids)
        shape = (self.ids.shape[0], self.ids.shape[1])
        if self.sparse is None:
            return PromptTargets(logprobs, shape=shape)
        crow, columns = self.sparse
        listed = logprobs[np.repeat(np.arange(len(self.ids)), np.diff(crow)), columns]
        return PromptTargets(listed, crow, columns, shape)
