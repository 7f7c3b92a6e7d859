"""The arguments of a sampling request: checked at the call, and encoded before it returns."""

from typing import Any, Final

from backends.tinkex.client.training.batch_checks import check_tokens
from backends.tinkex.errors import invalid
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInput
from backends.tinkex.types.sampling_params import SamplingParams
from backends.tinkex.types.tensor_data import TensorData
from crucible.errors import InvalidRequest

MAX_SEQ_ID: Final = 2**63 - 1
_RANK: Final = 2


def sample_body(
    prompt: ModelInput,
    num_samples: int,
    sampling_params: SamplingParams,
    *,
    include_prompt_logprobs: bool = False,
    topk_prompt_logprobs: int = 0,
    topk_sample_logprobs: int = 0,
    target_prompt_logprobs: TensorData | None = None,
    prompt_alt_tokens_k: int = 0,
    prompt_logprobs_last_n: int | None = None,
    record_stability_info: bool = False,
) -> dict[str, Any]:
    """Return the JSON body, without the session and the sequence number. Raises InvalidRequest.

    A field that asks for nothing is left out: older servers reject fields that they do not know.
    """
    if num_samples < 1:
        raise invalid("num_samples", num_samples, "at least 1")
    _check_prompt(prompt)
    body: dict[str, Any] = {
        "prompt": prompt.body(),
        "num_samples": num_samples,
        "sampling_params": sampling_params.body(),
        "type": "sample",
    }
    counts = {
        "topk_prompt_logprobs": topk_prompt_logprobs,
        "topk_sample_logprobs": topk_sample_logprobs,
        "prompt_alt_tokens_k": prompt_alt_tokens_k,
    }
    for name, count in counts.items():
        if count < 0:
            raise invalid(name, count, "0 or more")
        if count:
            body[name] = count
    if include_prompt_logprobs or topk_prompt_logprobs:
        body["prompt_logprobs"] = True
    if prompt_logprobs_last_n is not None:
        if prompt_logprobs_last_n < 1 or "prompt_logprobs" not in body:
            raise invalid(
                "prompt_logprobs_last_n", prompt_logprobs_last_n, "at least 1, with include_prompt_logprobs"
            )
        body["prompt_logprobs_last_n"] = prompt_logprobs_last_n
    if target_prompt_logprobs is not None:
        _check_targets(target_prompt_logprobs, prompt)
        body["target_prompt_logprobs"] = target_prompt_logprobs.body()
    if record_stability_info:
        body["record_stability_info"] = True
    return body


def check_seq_id(seq_id: int) -> int:
    """Return a sequence number. Raises InvalidRequest unless it is from 0 to 2^63 - 1."""
    if isinstance(seq_id, bool) or not isinstance(seq_id, int) or not 0 <= seq_id <= MAX_SEQ_ID:
        raise invalid("seq_id", seq_id, f"a whole number from 0 to {MAX_SEQ_ID}")
    return seq_id


def _check_prompt(prompt: ModelInput) -> None:
    if not isinstance(prompt, ModelInput):
        raise invalid("prompt", type(prompt).__name__, "give a ModelInput")
    if prompt.length == 0:
        raise InvalidRequest("prompt: it is empty; give at least one token", details={"field": "prompt"})
    for index, chunk in enumerate(prompt.chunks):
        if isinstance(chunk, EncodedTextChunk):
            check_tokens(chunk.tokens, f"prompt.chunks[{index}].tokens")


def _check_targets(targets: TensorData, prompt: ModelInput) -> None:
    shape = targets.shape or ()
    rows = None if prompt.length is None else prompt.length - 1
    if targets.dtype != "int64" or len(shape) != _RANK or (rows is not None and shape[0] != rows):
        raise invalid(
            "target_prompt_logprobs",
            f"{targets.dtype} of shape {tuple(shape)}",
            "int64 token ids of shape (tokens of the prompt - 1, K), with -1 for nothing",
        )
