"""What is written in protobuf is read again as the same; what is broken is refused, never misread or worse."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from strategies import configs, datums, floats, integers, sparse, traced

from backends.tinkex.types import (
    Datum,
    EncodedTextChunk,
    ModelInput,
    PromptAltTokens,
    PromptProvenanceSpan,
    SampledProvenanceSpan,
    SampledSequence,
    SampleResponse,
    TensorData,
)
from backends.tinkex.wire.compression import compressed
from backends.tinkex.wire.protobuf.field_reader import ProtobufError
from backends.tinkex.wire.protobuf.pass_output_codec import read_pass_output, write_pass_output
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest, read_pass_request, write_pass_request
from backends.tinkex.wire.protobuf.sample_codec import read_sample_response, write_sample_response
from crucible.errors import InvalidRequest, Unsupported


def same_tensor(sent: TensorData, got: TensorData) -> bool:
    """Equal as dense arrays of the same type; a shape that was not given is that of the list."""
    left, right = sent.to_numpy(), got.to_numpy()
    return bool(sent.dtype == got.dtype and left.shape == right.shape and left.tobytes() == right.tobytes())


@given(
    st.lists(datums | traced, max_size=3), st.text(max_size=5), st.integers(0, 2**31 - 1), configs, st.booleans()
)
def test_a_request_survives(
    data: Sequence[Datum], loss_fn: str, seq_id: int, config: Mapping[str, float | str] | None, forward_only: bool
) -> None:
    """Any request is read as it was written, through zstd as well."""
    sent = PassRequest("run:train:0", seq_id, data, loss_fn, config, forward_only)

    body = write_pass_request(sent)
    got = read_pass_request(zstandard.decompress(compressed(body).joined(), max_output_size=body.size))

    assert body.joined() == b"".join(body.blocks())
    assert len(body.joined()) == body.size
    assert (got.model_id, got.seq_id, got.loss_fn, got.loss_fn_config, got.forward_only) == (
        "run:train:0", seq_id, loss_fn, config, forward_only,
    )  # fmt: skip
    for before, after in zip(data, got.data, strict=True):
        assert [chunk.body() for chunk in before.model_input.chunks] == [
            chunk.body() for chunk in after.model_input.chunks
        ]
        assert before.model_input_spans == after.model_input_spans
        assert before.loss_fn_input_spans == after.loss_fn_input_spans
        assert before.loss_fn_inputs.keys() == after.loss_fn_inputs.keys()
        assert all(
            same_tensor(tensor, after.loss_fn_inputs[name]) for name, tensor in before.loss_fn_inputs.items()
        )


@given(
    st.lists(st.fixed_dictionaries({"logprobs": floats, "ids": integers}), max_size=4), st.floats(allow_nan=False)
)
def test_an_output_survives(outputs: list[dict[str, TensorData]], loss: float) -> None:
    """Arrays of any lengths and trailing shapes come back datum by datum, in order."""
    got = read_pass_output(write_pass_output(outputs, {"loss:sum": loss}).joined())

    assert got.metrics == {"loss:sum": loss}
    assert got.loss_fn_output_type == "ArrayRecord"
    for before, after in zip(outputs, got.loss_fn_outputs, strict=True):
        # How many rows of width 0 there were is not on the wire.
        assert all(
            same_tensor(tensor, after[name]) or tensor.size == after[name].size == 0
            for name, tensor in before.items()
        )


LOGPROB = st.floats(-100, 0, width=32)


def shaped(tensor: TensorData) -> bool:
    """Whether the tensor has a shape, as those of answers have."""
    return tensor.shape is not None and tensor.size > 0


filled = (floats | sparse()).filter(shaped)


@st.composite
def responses(draw: st.DrawFn) -> SampleResponse:
    """Sampled sequences with and without log-probabilities."""
    sequences = []
    for _ in range(draw(st.integers(0, 3))):
        tokens = draw(st.lists(st.integers(0, 2**31 - 1), max_size=4))
        logprobs = draw(st.none() | st.lists(LOGPROB, min_size=len(tokens), max_size=len(tokens)))
        reason = draw(st.sampled_from(["stop", "length"]))
        sequences.append(SampledSequence(stop_reason=reason, tokens=tokens, logprobs=logprobs))
    pairs = st.lists(st.tuples(st.integers(0, 2**31 - 1), LOGPROB), min_size=2, max_size=2)
    return SampleResponse(
        sequences=sequences,
        prompt_logprobs=draw(st.none() | st.lists(st.none() | LOGPROB, max_size=4)),
        topk_prompt_logprobs=draw(
            st.none() | st.lists(pairs, min_size=1, max_size=3).map(lambda rows: [None, *rows])
        ),
        prompt_cache_hit_tokens=draw(st.integers(0, 1000)),
        target_prompt_logprobs=draw(st.none() | filled),
        prompt_alt_tokens=draw(
            st.none() | st.builds(PromptAltTokens, tokens=integers.filter(shaped), logprobs=filled)
        ),
    )


@given(responses())
def test_samples_survive(response: SampleResponse) -> None:
    """Undefined log-probabilities come back as None, through NaN and the mask of the tables."""
    got = read_sample_response(write_sample_response(response).joined())

    tensors = {"target_prompt_logprobs", "prompt_alt_tokens"}
    assert got.model_dump(exclude=tensors) == response.model_dump(exclude=tensors)
    assert (got.target_prompt_logprobs is None) == (response.target_prompt_logprobs is None)
    if response.target_prompt_logprobs is not None:
        assert same_tensor(response.target_prompt_logprobs, got.target_prompt_logprobs)
        assert got.target_prompt_logprobs.is_sparse == response.target_prompt_logprobs.is_sparse
    assert (got.prompt_alt_tokens is None) == (response.prompt_alt_tokens is None)
    if response.prompt_alt_tokens is not None:
        assert same_tensor(response.prompt_alt_tokens.tokens, got.prompt_alt_tokens.tokens)
        assert same_tensor(response.prompt_alt_tokens.logprobs, got.prompt_alt_tokens.logprobs)


READERS: list[Any] = [read_pass_request, read_pass_output, read_sample_response]


@given(st.sampled_from(READERS), st.binary(max_size=80))
def test_random_bytes_are_read_or_refused(read: Any, content: bytes) -> None:
    """No bytes make a reader fail in any other way than ProtobufError."""
    with contextlib.suppress(ProtobufError):
        read(content)


@given(datums | traced, st.data())
def test_a_cut_request_is_refused_or_shorter(datum: Datum, data: st.DataObject) -> None:
    """Cutting bytes off never invents a datum."""
    whole = write_pass_request(PassRequest("m", 1, [datum, datum], "ppo", None)).joined()
    at = data.draw(st.integers(0, len(whole)))
    with contextlib.suppress(ProtobufError):
        assert len(read_pass_request(whole[:at]).data) <= 2


def test_arrays_are_not_copied() -> None:
    """The pieces of a body are the arrays' own memory, and what is read are views into the bytes."""
    ids, weights = np.arange(1000, dtype=np.int32), np.ones(1000, dtype=np.float32)
    datum = Datum(model_input=ModelInput.from_ints(ids), loss_fn_inputs={"weights": weights})

    body = write_pass_request(PassRequest("m", 1, [datum], "cross_entropy"))

    views = [np.frombuffer(piece, np.uint8) for piece in body.pieces if isinstance(piece, memoryview)]
    assert any(np.shares_memory(view, ids) for view in views)
    assert any(np.shares_memory(view, weights) for view in views)
    content = body.joined()
    got = read_pass_request(content).data[0].loss_fn_inputs["weights"].data
    assert np.shares_memory(got, np.frombuffer(content, np.uint8))


@pytest.mark.parametrize(
    ("tokens", "inputs"),
    [
        pytest.param([2**31], {}, id="token beyond 32 bits"),
        pytest.param(np.asarray([2**31]), {}, id="token beyond 32 bits, array"),
        pytest.param([1.5], {}, id="fractional token"),
        pytest.param([1], {"target_tokens": [1.5]}, id="fractional target"),
        pytest.param([1], {"target_tokens": [2**63]}, id="target beyond 64 bits"),
        pytest.param([1], {"weights": ["x"]}, id="text"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(tokens: Any, inputs: dict[str, Any]) -> None:
    """The error names the datum; nothing is cut to size in silence."""
    datum = Datum(model_input=ModelInput(chunks=[EncodedTextChunk(tokens=tokens)]), loss_fn_inputs=inputs)
    fine = Datum(model_input=ModelInput.from_ints([1]), loss_fn_inputs={})

    with pytest.raises(InvalidRequest) as caught:
        write_pass_request(PassRequest("m", 1, [fine, datum], "ppo"))

    assert caught.value.details["field"] == "data[1]"


def test_a_pointer_to_an_image_has_no_protobuf_form() -> None:
    """The error says what to send instead."""
    chunk = {"type": "image_asset_pointer", "format": "png", "location": "x"}
    datum = Datum(model_input=ModelInput.model_validate({"chunks": [chunk]}), loss_fn_inputs={})

    with pytest.raises(Unsupported, match="send the image's data"):
        write_pass_request(PassRequest("m", 1, [datum], "ppo"))


def test_spans_come_in_pairs_and_cover_their_rows() -> None:
    """A wrong sum of lengths, or one list alone, is refused where it is given."""
    datum = Datum(model_input=ModelInput.from_ints([1, 2, 3]), loss_fn_inputs={"target_tokens": [2, 3, 4]})
    whole = SampledProvenanceSpan(sequence_id="s", length=3)
    part = PromptProvenanceSpan(sequence_id="s", offset=4, length=2)

    assert datum.with_provenance([whole], [part, SampledProvenanceSpan(sequence_id="t", length=1)]).body()[
        "loss_fn_input_spans"
    ] == [
        {"type": "prompt_tokens", "sequence_id": "s", "offset": 4, "length": 2},
        {"type": "sampled_tokens", "sequence_id": "t", "offset": 0, "length": 1},
    ]
    for model_input, rows in ([part], [whole]), ([whole], [part]), ([whole, part], [whole]):
        with pytest.raises(ValueError, match="cover"):
            datum.with_provenance(model_input, rows)
    with pytest.raises(ValueError, match="belong together"):
        Datum(model_input=datum.model_input, loss_fn_inputs={}, model_input_spans=(whole,))
