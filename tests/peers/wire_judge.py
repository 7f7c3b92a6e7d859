"""Compares messages with the official SDK's own, in the SDK's environment: JSON lines in, verdicts out.

Each line describes a request and gives our bytes for it. The SDK builds its message from the description; the
verdict says whether our bytes decode to an equal message, and if not, how both look.
"""

import base64
import json
import sys
from typing import Any

import numpy as np
from tinker import types
from tinker.proto import tinker_public_pb2 as schema
from tinker.proto.request_conv import forward_backward_request_to_proto
from tinker.types.forward_backward_request import ForwardBackwardRequest


def chunk(said: dict[str, Any]) -> Any:
    """A chunk of a prompt."""
    if said["kind"] == "text":
        return types.EncodedTextChunk(tokens=said["tokens"])
    data = base64.b64decode(said["data"])
    if said["kind"] == "image":
        return types.ImageChunk(data=data, format=said["format"], expected_tokens=said["expected_tokens"])
    return types.DmelChunk(dmel=data)


def tensor(said: dict[str, Any]) -> Any:
    """A tensor, or the plain list that a user hands over."""
    if said["held"] == "list":
        return said["values"]
    values = np.asarray(said["values"], dtype=said["dtype"])
    if said["held"] == "array":
        return values.reshape(said["shape"])
    csr = {name: said[name] for name in ("sparse_crow_indices", "sparse_col_indices") if name in said}
    return types.TensorData(data=values, dtype=said["dtype"], shape=said["shape"], **csr)


def prompt(said: list[dict[str, Any]]) -> Any:
    """A whole input."""
    return types.ModelInput(chunks=[chunk(one) for one in said])


def same_request(said: dict[str, Any], ours: bytes) -> tuple[bool, str]:
    """Whether our forward_backward request is the SDK's."""
    data = [
        types.Datum(
            model_input=prompt(one["chunks"]),
            loss_fn_inputs={name: tensor(value) for name, value in one["tensors"].items()},
        )
        for one in said["data"]
    ]
    given = types.ForwardBackwardInput(data=data, loss_fn=said["loss_fn"], loss_fn_config=said["config"])
    request = ForwardBackwardRequest(forward_backward_input=given, model_id="run:train:0", seq_id=said["seq_id"])
    theirs = forward_backward_request_to_proto(request)
    theirs.forward_only = said["forward_only"]
    got = schema.ForwardBackwardRequest.FromString(ours)
    return got == theirs, f"ours:\n{got}\ntheirs:\n{theirs}"


def same_sample(said: dict[str, Any], ours: bytes) -> tuple[bool, str]:
    """Whether our prompt and sampling parameters, in JSON, read as the SDK's."""
    got = json.loads(ours)
    left = (
        types.ModelInput.model_validate(got["prompt"]),
        types.SamplingParams.model_validate(got["sampling_params"]),
    )
    right = prompt(said["chunks"]), types.SamplingParams(**said["params"])
    return left == right, f"ours:\n{left}\ntheirs:\n{right}"


JUDGES = {"request": same_request, "sample": same_sample}

for line in sys.stdin:
    asked = json.loads(line)
    equal, how = JUDGES[asked["kind"]](asked["said"], base64.b64decode(asked["ours"]))
    sys.stdout.write(json.dumps({"equal": equal, "how": "" if equal else how[:4000]}) + "\n")
    sys.stdout.flush()
