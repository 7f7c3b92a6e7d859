"""Results of training and sampling as JSON."""

from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex_dev.service.promises import LossOutputs, PromptTargets, Samples
from backends.tiny_lm.network import Array

OUTPUT_TYPE = "ArrayRecord"


def loss_outputs_json(result: LossOutputs) -> dict[str, object]:
    """The answer to a forward_backward."""
    return {
        "type": "forward_backward",
        "loss_fn_output_type": OUTPUT_TYPE,
        "loss_fn_outputs": [
            {name: _tensor(value) for name, value in outputs.items()} for outputs in result.outputs
        ],
        "metrics": dict(result.metrics),
    }


def _tensor(value: Array) -> dict[str, object]:
    return {"data": value.reshape(-1).tolist(), "dtype": "float32", "shape": list(value.shape)}


def samples_json(result: Samples) -> dict[str, object]:
    """The answer to an asample."""
    body: dict[str, object] = {
        "type": "sample",
        "sequences": [
            {
                "stop_reason": "stop" if sample.stopped else "length",
                "tokens": list(sample.tokens),
                "logprobs": list(sample.logprobs),
                **({"topk_logprobs": [list(top) for top in sample.top]} if sample.top else {}),
            }
            for sample in result.sequences
        ],
        "prompt_logprobs": None,
        "topk_prompt_logprobs": None,
    }
    if result.prompt is not None:
        body["prompt_logprobs"] = list(result.prompt.logprobs)
        if result.prompt.top:
            body["topk_prompt_logprobs"] = [
                None if top is None else [list(pair) for pair in top] for top in result.prompt.top
            ]
    if result.targets is not None:
        body["target_prompt_logprobs"] = target_tensor(result.targets).body()
    if result.alternatives is not None:
        tokens, logprobs = result.alternatives
        body["prompt_alt_tokens"] = {
            "tokens": TensorData.from_numpy(tokens).body(),
            "logprobs": TensorData.from_numpy(logprobs).body(),
        }
    return body


def target_tensor(targets: PromptTargets) -> TensorData:
    """Log-probabilities of chosen tokens, in the layout in which they were asked for."""
    if targets.crow is None:
        return TensorData.from_numpy(targets.logprobs)
    return TensorData(
        data=targets.logprobs,
        dtype="float32",
        shape=targets.shape,
        sparse_crow_indices=targets.crow,
        sparse_col_indices=targets.columns,
    )
