"""Protobuf encoding: reads forward_backward requests, writes their outputs and the answers to samples."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInputChunk
from backends.tinkex.types.sample_response import PromptAltTokens, SampledSequence, SampleResponse
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.protobuf.field_reader import ProtobufError
from backends.tinkex.wire.protobuf.pass_output_codec import write_pass_output
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest, read_pass_request
from backends.tinkex.wire.protobuf.sample_codec import write_sample_response
from backends.tinkex_dev.errors import InvalidField
from backends.tinkex_dev.service.promises import LossOutputs, Samples
from backends.tinkex_dev.service.run import Batch, BatchExample
from backends.tinkex_dev.wire.batches import checked_batch, provenance_of
from backends.tinkex_dev.wire.result_json import OUTPUT_TYPE, target_tensor
from backends.tinkex_dev.wire.tensors import (
    FieldPath,
    checked_tokens,
    dense_of_csr,
    image_tokens,
    unsupported_chunk,
)


def read_request(data: bytes) -> PassRequest:
    """Decode the message in a body.

    Raises:
        InvalidField: the body is malformed.
    """
    try:
        return read_pass_request(data)
    except ProtobufError as error:
        raise InvalidField(
            422, [{"type": "protobuf_invalid", "loc": ["body"], "msg": f"the body is not protobuf: {error}"}]
        ) from None


def batch_of_request(request: PassRequest, path: FieldPath) -> Batch:
    """The validated batch of a message.

    Raises:
        InvalidField: a field is invalid; the error has its path in the JSON encoding.
    """
    if not request.data:
        raise InvalidField.at((*path, "data"), "at least one datum is needed")
    examples = []
    for index, datum in enumerate(request.data):
        datum_path = (*path, "data", index)
        chunks = datum.model_input.chunks
        parts = [_chunk(chunk, (*datum_path, "model_input", "chunks", n)) for n, chunk in enumerate(chunks)]
        tokens = checked_tokens(
            np.concatenate(parts) if parts else np.zeros(0, np.int64), (*datum_path, "model_input", "chunks")
        )
        inputs = {
            name: _tensor(tensor, (*datum_path, "loss_fn_inputs", name))
            for name, tensor in datum.loss_fn_inputs.items()
        }
        provenance = provenance_of(datum.model_input_spans, datum.loss_fn_input_spans, datum_path)
        examples.append(BatchExample(tokens, inputs, provenance))
    return checked_batch(Batch(examples, request.loss_fn, request.loss_fn_config or {}, request.forward_only), path)


def _chunk(chunk: ModelInputChunk, path: FieldPath) -> NDArray[np.int64]:
    if isinstance(chunk, EncodedTextChunk):
        return np.asarray(chunk.tokens, dtype=np.int64)
    if isinstance(chunk, ImageChunk):
        return image_tokens(chunk.data, chunk.format, chunk.expected_tokens, path)
    raise unsupported_chunk(chunk.type, path)


def _tensor(tensor: TensorData, path: FieldPath) -> NDArray[Any]:
    values = np.asarray(tensor.data)
    if tensor.sparse_crow_indices is None:
        return values
    crow, columns = (
        np.asarray(part, dtype=np.int64) for part in (tensor.sparse_crow_indices, tensor.sparse_col_indices)
    )
    return dense_of_csr(values, crow, columns, tensor.shape, path)


def loss_outputs_bytes(result: LossOutputs) -> bytes:
    """The answer to a forward_backward."""
    outputs = [
        {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in output.items()}
        for output in result.outputs
    ]
    return write_pass_output(outputs, result.metrics, output_type=OUTPUT_TYPE).joined()


def samples_bytes(result: Samples) -> bytes:
    """The answer to an asample."""
    response = SampleResponse.model_construct(
        sequences=[
            SampledSequence.model_construct(
                stop_reason="stop" if sample.stopped else "length",
                tokens=list(sample.tokens),
                logprobs=list(sample.logprobs),
                topk_logprobs=[list(top) for top in sample.top] if sample.top else None,
            )
            for sample in result.sequences
        ],
        prompt_logprobs=None if result.prompt is None else list(result.prompt.logprobs),
        topk_prompt_logprobs=(
            None
            if result.prompt is None or not result.prompt.top
            else [None if top is None else list(top) for top in result.prompt.top]
        ),
        prompt_cache_hit_tokens=0,
        target_prompt_logprobs=None if result.targets is None else target_tensor(result.targets),
        prompt_alt_tokens=(
            None
            if result.alternatives is None
            else PromptAltTokens.model_construct(
                tokens=TensorData.from_numpy(result.alternatives[0]),
                logprobs=TensorData.from_numpy(result.alternatives[1]),
            )
        ),
    )
    return write_sample_response(response).joined()
