"""The protobuf forms: a forward_backward request read, its output and a sample's answer written."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInputChunk
from backends.tinkex.types.sample_response import SampledSequence, SampleResponse
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.pass_output_codec import write_pass_output
from backends.tinkex.wire.pass_request_codec import PassRequest, read_pass_request
from backends.tinkex.wire.protobuf_read import ProtobufError
from backends.tinkex.wire.sample_codec import write_sample_response
from backends.tinkex_dev.encoding import OUTPUT_TYPE
from backends.tinkex_dev.errors import InvalidField
from backends.tinkex_dev.promises import LossOutputs, Samples
from backends.tinkex_dev.runs import Batch, Example
from backends.tinkex_dev.tensors import (
    Place,
    checked,
    checked_tokens,
    dense_of_csr,
    finite_settings,
    image_tokens,
    unsupported_chunk,
)


def read_request(data: bytes) -> PassRequest:
    """The message in a body.

    Raises:
        InvalidField: it is no such message.
    """
    try:
        return read_pass_request(data)
    except ProtobufError as error:
        raise InvalidField(
            422, [{"type": "protobuf_invalid", "loc": ["body"], "msg": f"the body is not protobuf: {error}"}]
        ) from None


def batch_of_request(request: PassRequest, place: Place) -> Batch:
    """The batch of a message.

    Raises:
        InvalidField: something in it is wrong; the error says where, in the words of the JSON form.
    """
    if not request.data:
        raise InvalidField.at((*place, "data"), "at least one datum is needed")
    examples = []
    for index, datum in enumerate(request.data):
        where = (*place, "data", index)
        chunks = datum.model_input.chunks
        parts = [_chunk(chunk, (*where, "model_input", "chunks", n)) for n, chunk in enumerate(chunks)]
        tokens = checked_tokens(
            np.concatenate(parts) if parts else np.zeros(0, np.int64), (*where, "model_input", "chunks")
        )
        inputs = {
            name: _tensor(tensor, (*where, "loss_fn_inputs", name)) for name, tensor in datum.loss_fn_inputs.items()
        }
        examples.append(Example(tokens, inputs))
    config = finite_settings(request.loss_fn_config, place)
    return checked(Batch(examples, request.loss_fn, config, request.forward_only), place)


def _chunk(chunk: ModelInputChunk, place: Place) -> NDArray[np.int64]:
    if isinstance(chunk, EncodedTextChunk):
        return np.asarray(chunk.tokens, dtype=np.int64)
    if isinstance(chunk, ImageChunk):
        return image_tokens(chunk.expected_tokens, place)
    raise unsupported_chunk(chunk.type, place)


def _tensor(tensor: TensorData, place: Place) -> NDArray[Any]:
    values = np.asarray(tensor.data)
    if tensor.sparse_crow_indices is None:
        return values
    crow, columns = (
        np.asarray(part, dtype=np.int64) for part in (tensor.sparse_crow_indices, tensor.sparse_col_indices)
    )
    return dense_of_csr(values, crow, columns, tensor.shape, place)


def loss_outputs_bytes(result: LossOutputs) -> bytes:
    """A forward_backward's answer."""
    outputs = [
        {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in output.items()}
        for output in result.outputs
    ]
    return write_pass_output(outputs, result.metrics, output_type=OUTPUT_TYPE).joined()


def samples_bytes(result: Samples) -> bytes:
    """An asample's answer."""
    response = SampleResponse.model_construct(
        sequences=[
            SampledSequence.model_construct(
                stop_reason="stop" if drawn.stopped else "length",
                tokens=list(drawn.tokens),
                logprobs=list(drawn.logprobs),
                topk_logprobs=[list(top) for top in drawn.top] if drawn.top else None,
            )
            for drawn in result.sequences
        ],
        prompt_logprobs=None if result.prompt is None else list(result.prompt.logprobs),
        topk_prompt_logprobs=(
            None
            if result.prompt is None or not result.prompt.top
            else [None if top is None else list(top) for top in result.prompt.top]
        ),
        prompt_cache_hit_tokens=0,
    )
    return write_sample_response(response).joined()
