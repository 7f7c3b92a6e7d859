"""The newest calls of the official SDK, in its own environment: argument and output are a URL and JSON."""

import dataclasses
import json
import pickle
import sys
import urllib.request
from typing import Any

import numpy as np
import tinker
from tinker import types

PROMPT = [258, 72, 105, 256, 259]


def graph() -> types.CustomLossGraph:
    """``-(logprobs * advantages).sum()`` as torch.fx records it; this environment has no torch to trace with."""
    product = [{"ref": "logprobs"}, {"ref": "advantages"}]
    gain = {"custom/gain:sum": {"ref": "sum_1"}}
    nodes = [
        {"op": "placeholder", "name": "logprobs", "target": "logprobs"},
        {"op": "placeholder", "name": "advantages", "target": "advantages"},
        {"op": "call_function", "name": "mul", "target": "operator.mul", "args": product},
        {"op": "call_method", "name": "sum_1", "target": "sum", "args": [{"ref": "mul"}]},
        {"op": "call_function", "name": "neg", "target": "operator.neg", "args": [{"ref": "sum_1"}]},
        {
            "op": "output",
            "name": "output",
            "target": "output",
            "args": [{"tuple": [{"ref": "neg"}, {"dict": gain}]}],
        },
    ]
    return types.CustomLossGraph(nodes=[types.CustomLossNode(**node) for node in nodes])


def datum_of(sequence: Any) -> types.Datum:
    """A rollout as the cookbook makes it, with its provenance."""
    tokens, rows, count = list(sequence.tokens), len(PROMPT) - 1, len(sequence.tokens)
    whole = [*PROMPT, *tokens]
    inputs = {
        "target_tokens": whole[1:],
        "logprobs": [0.0] * rows + list(sequence.logprobs),
        "advantages": [0.0] * rows + [1.0] * count,
    }
    datum = types.Datum(model_input=types.ModelInput.from_ints(whole[:-1]), loss_fn_inputs=inputs)

    def prompt(offset: int, length: int) -> types.PromptProvenanceSpan:
        return types.PromptProvenanceSpan(sequence_id=sequence.sequence_id, offset=offset, length=length)

    def sampled(length: int) -> types.SampledProvenanceSpan:
        return types.SampledProvenanceSpan(sequence_id=sequence.sequence_id, offset=0, length=length)

    return datum.with_provenance(
        model_input=[prompt(0, len(PROMPT)), sampled(count - 1)], loss_fn_inputs=[prompt(1, rows), sampled(count)]
    )


def main(url: str) -> dict[str, Any]:
    """Train on a rollout by each of the newest losses, and call what came with them."""
    service = tinker.ServiceClient(base_url=url, api_key="tml-peers")
    client = service.create_lora_training_client(base_model="tiny-lm", rank=4, seed=0)
    sampler = client.save_weights_and_get_sampling_client(record_stability_info=True)
    if hasattr(sampler, "result"):
        sampler = sampler.result()
    prompt, params = types.ModelInput.from_ints(PROMPT), types.SamplingParams(max_tokens=6, seed=3)
    rows = len(PROMPT) - 1
    chosen = types.TensorData.from_numpy(np.full((rows, 2), 72, dtype=np.int64))
    first = sampler.sample(
        prompt=prompt, num_samples=2, sampling_params=params, target_prompt_logprobs=chosen, prompt_alt_tokens_k=3
    ).result()
    joined = pickle.loads(pickle.dumps(sampler))
    again = joined.sample(prompt=prompt, num_samples=1, sampling_params=params).result()
    sequence = first.sequences[0]
    datum = datum_of(sequence)
    mask = np.asarray([0.0] * rows + [1.0] * len(sequence.tokens), dtype=np.float32)
    masked = dataclasses.replace(
        datum,
        loss_fn_inputs={**datum.loss_fn_inputs, "sequence_ratio_mask": types.TensorData.from_numpy(mask)},
    )
    plain = {key: datum.loss_fn_inputs[key] for key in ("target_tokens", "advantages")}
    losses = {
        "stable_reinforce": client.forward_backward([datum], "stable_reinforce", {"kl_coeff": 0.1})
        .result()
        .metrics,
        "importance_sampling": client.forward_backward([datum], "importance_sampling").result().metrics,
        "gspo": client.forward_backward([masked], "gspo").result().metrics,
    }
    loss_id = store_loss(url, client)
    untraced = dataclasses.replace(datum, loss_fn_inputs=plain)
    losses["custom"] = client.forward_backward([untraced], "custom", {"loss_id": loss_id}).result().metrics
    client.optim_step(types.AdamParams(learning_rate=1e-2)).result()
    saved = client.save_weights_external("export").result()
    urls = tinker.RestClient(base_url=url, api_key="tml-peers").get_external_weights_urls(saved.path).result()
    text = client.get_tokenizer().decode(sequence.tokens)
    service.close("success").result()
    return {
        "losses": losses,
        "logprobs": list(sequence.logprobs),
        "repeated": list(again.sequences[0].tokens) == list(sequence.tokens),
        "ids": len({one.sequence_id for one in (*first.sequences, *again.sequences)}),
        "targets": list(first.target_prompt_logprobs.shape),
        "alternatives": list(first.prompt_alt_tokens.tokens.shape),
        "files": sorted(urls.urls),
        "text": text,
    }


def store_loss(url: str, client: Any) -> str:
    """Store the graph by the SDK's own request, in the session of the client."""
    session_id = client.get_info().model_id.partition(":")[0]
    inputs = [types.CustomLossInput(name=name, rank=1) for name in ("logprobs", "advantages")]
    request = types.CreateCustomLossRequest(
        session_id=session_id, custom_loss_seq_id=0, name="gain", inputs=inputs, graph=graph()
    )
    receipt = post(url, "create_custom_loss", request.model_dump_json())
    found = post(url, "retrieve_future", json.dumps({"request_id": receipt["request_id"]}))
    return str(types.CreateCustomLossResponse(**found).loss_id)


def post(url: str, route: str, body: str) -> dict[str, Any]:
    """POST a body."""
    headers = {"X-API-Key": "tml-peers", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/api/v1/{route}", data=body.encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


sys.stdout.write(json.dumps(main(sys.argv[1])))
