"""Results as their JSON."""

from backends.tinkex_dev.model.network import Array
from backends.tinkex_dev.promises import LossOutputs, Samples

OUTPUT_TYPE = "ArrayRecord"


def loss_outputs_json(result: LossOutputs) -> dict[str, object]:
    """A forward_backward's answer."""
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
    """An asample's answer."""
    body: dict[str, object] = {
        "type": "sample",
        "sequences": [
            {
                "stop_reason": "stop" if drawn.stopped else "length",
                "tokens": list(drawn.tokens),
                "logprobs": list(drawn.logprobs),
                **({"topk_logprobs": [list(top) for top in drawn.top]} if drawn.top else {}),
            }
            for drawn in result.sequences
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
    return body
