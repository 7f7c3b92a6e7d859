"""Batches, prompts and arrays of every kind that the wire knows. A plain module: tests load it by its path."""

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backends.tinkex.types import (
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ImageChunk,
    ModelInput,
    PromptProvenanceSpan,
    SampledProvenanceSpan,
    SamplingParams,
    TensorData,
)

TOKEN = st.integers(0, 2**31 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)


def _arrays(dtype: Any, elements: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5), elements=elements)


tokens = st.one_of(
    st.lists(TOKEN, max_size=6),
    st.lists(TOKEN, max_size=6).map(tuple),
    st.lists(TOKEN, max_size=6).map(lambda ids: np.asarray(ids, dtype=np.int32)),
    st.lists(TOKEN, max_size=6).map(lambda ids: np.asarray(ids, dtype=np.int64)),
    st.lists(TOKEN, max_size=6).map(lambda ids: np.asarray([*ids, *ids], dtype=np.int64)[:: 2 if ids else 1]),
)
texts = tokens.map(lambda ids: EncodedTextChunk(tokens=ids))
images = st.builds(
    ImageChunk,
    data=st.binary(max_size=30),
    format=st.sampled_from(["png", "jpeg"]),
    expected_tokens=st.none() | st.integers(-(2**31), 2**31 - 1),
)
audio = st.builds(DmelChunk, dmel=st.binary(max_size=30))
inputs = st.lists(st.one_of(texts, images, audio), max_size=3).map(lambda chunks: ModelInput(chunks=chunks))

floats = st.one_of(
    st.lists(FLOAT32, max_size=6).map(lambda values: TensorData(data=values, dtype="float32")),
    _arrays(np.float32, FLOAT32).map(TensorData.from_numpy),
    _arrays(np.float64, FLOAT32).map(TensorData.from_numpy),
)
integers = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6).map(
        lambda values: TensorData(data=values, dtype="int64")
    ),
    _arrays(np.int64, st.integers(-(2**63), 2**63 - 1)).map(TensorData.from_numpy),
    _arrays(np.int32, st.integers(-(2**31), 2**31 - 1)).map(TensorData.from_numpy),
)


@st.composite
def sparse(draw: st.DrawFn) -> TensorData:
    """A matrix by rows, of which only some entries are listed."""
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    listed = [sorted(draw(st.sets(st.integers(0, columns - 1)))) for _ in range(rows)]
    flat = [column for row in listed for column in row]
    values = draw(st.lists(FLOAT32, min_size=len(flat), max_size=len(flat)))
    pointers = [sum(len(row) for row in listed[:index]) for index in range(rows + 1)]
    return TensorData(
        data=values,
        dtype="float32",
        shape=(rows, columns),
        sparse_crow_indices=pointers,
        sparse_col_indices=flat,
    )


tensors = st.one_of(floats, integers, sparse())
names = st.sampled_from(["target_tokens", "weights", "logprobs", "advantages", "clip_low_threshold", "größe"])
datums = st.builds(Datum, model_input=inputs, loss_fn_inputs=st.dictionaries(names, tensors, max_size=3))


@st.composite
def runs(draw: st.DrawFn, length: int) -> list[PromptProvenanceSpan | SampledProvenanceSpan]:
    """Consecutive spans, at least one, that cover ``length`` positions."""
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=2)))
    bounds = [0, *cuts, length]
    return [
        draw(st.sampled_from([PromptProvenanceSpan, SampledProvenanceSpan]))(
            sequence_id=draw(st.text(min_size=1, max_size=5)),
            offset=draw(st.integers(0, 2**62)),
            length=end - begin,
        )
        for begin, end in itertools.pairwise(bounds)
    ]


@st.composite
def _traced(draw: st.DrawFn) -> Datum:
    """A datum whose tokens and rows come from sampled sequences."""
    ids = draw(st.lists(TOKEN, min_size=1, max_size=6))
    datum = Datum(model_input=ModelInput.from_ints(ids), loss_fn_inputs={"target_tokens": ids})
    return datum.with_provenance(draw(runs(len(ids))), draw(runs(len(ids))))


traced = _traced()
configs = st.none() | st.dictionaries(
    st.text(max_size=5), st.floats(allow_nan=False) | st.text(max_size=5), min_size=1, max_size=3
)
sampling_params = st.builds(
    SamplingParams,
    max_tokens=st.none() | st.integers(1, 2**31 - 1),
    seed=st.none() | st.integers(0, 2**31 - 1),
    stop=st.none()
    | st.lists(st.text(min_size=1), min_size=1, max_size=3)
    | st.lists(TOKEN, min_size=1, max_size=3),
    temperature=st.floats(0, 10),
    top_k=st.integers(-1, 1000),
    top_p=st.floats(0, 1),
)
