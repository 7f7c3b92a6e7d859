"""Training and sampling on an image, by the names that the official SDK and our client share.

``image_round.py MODULE URL TASK``: MODULE is ``tinker`` or ``backends.tinkex``; TASK (JSON) has the example in
tokens, the optimizer and the image. Prints what was found as JSON.
"""

import base64
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(module: str, url: str, task: dict[str, Any]) -> dict[str, Any]:
    """Two steps on one example, then an answer of the trained model to its prompt."""
    tinker = importlib.import_module(module)
    types = importlib.import_module(f"{module}.types")
    image = task["image"]

    def chunks(tokens: list[int]) -> list[Any]:
        end = image["place"] + image["length"]
        shown = types.ImageChunk(
            data=base64.b64decode(image["data"]), format=image["format"], expected_tokens=image["length"]
        )
        text = [
            types.EncodedTextChunk(tokens=tokens[: image["place"]]),
            types.EncodedTextChunk(tokens=tokens[end:]),
        ]
        return [text[0], shown, text[1]]

    inputs = {
        "target_tokens": np.asarray(task["targets"], dtype=np.int64),
        "weights": np.asarray(task["weights"], dtype=np.float32),
    }
    datum = types.Datum(
        model_input=types.ModelInput(chunks=chunks(task["tokens"])),
        loss_fn_inputs={name: types.TensorData.from_numpy(values) for name, values in inputs.items()},
    )
    service = tinker.ServiceClient(base_url=url, api_key="tml-peers")
    client = service.create_lora_training_client(base_model=task["model"], rank=4, seed=0)
    losses, logprobs = [], []
    for _ in range(2):
        passed = client.forward_backward([datum], "cross_entropy")
        client.optim_step(types.AdamParams(**task["optimizer"])).result()
        losses.append(passed.result().metrics["loss:sum"])
        logprobs.append([float(value) for value in passed.result().loss_fn_outputs[0]["logprobs"].tolist()])
    sampler = client.save_weights_and_get_sampling_client()
    prompt = types.ModelInput(chunks=chunks(task["prompt"]))
    params = types.SamplingParams(max_tokens=8, seed=5, temperature=1.0)
    sampled = sampler.sample(prompt=prompt, num_samples=2, sampling_params=params).result()
    scored = sampler.compute_logprobs(prompt).result()
    return {
        "losses": losses,
        "logprobs": logprobs,
        "samples": [[list(one.tokens), list(one.logprobs)] for one in sampled.sequences],
        "scored": list(scored),
    }


print(json.dumps(main(sys.argv[1], sys.argv[2], json.loads(Path(sys.argv[3]).read_text()))))  # noqa: T201
