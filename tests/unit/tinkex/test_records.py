"""Prompts, examples, arrays, images and parameters."""

import base64
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from pydantic import ValidationError
from strategies import inputs, sampling_params, tensors

from backends.tinkex.types import (
    AdamParams,
    Datum,
    ForwardBackwardOutput,
    ImageChunk,
    LoadWeightsRequest,
    LoraConfig,
    ModelInput,
    RequestErrorCategory,
    RequestFailedResponse,
    SampleResponse,
    SamplingParams,
    SaveWeightsRequest,
    TensorData,
    TryAgainResponse,
)
from crucible.errors import Unsupported


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG file."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )


def jpeg(width: int, height: int) -> bytes:
    """The beginning of a JPEG file, with an application segment before the frame."""
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 8, 8, height, width, 3)
    return b"\xff\xd8\xff\xe0" + struct.pack(">H", 6) + b"JFIF" + b"\xff" + frame


@pytest.mark.parametrize(("kind", "data"), [("png", png(640, 480)), ("jpeg", jpeg(640, 480))])
def test_an_images_size_is_read_from_its_header(kind: Any, data: bytes) -> None:
    """Height and width are there without being given."""
    image = ImageChunk(data=data, format=kind, expected_tokens=12)

    assert (image.width, image.height, image.length) == (640, 480, 12)


def test_an_images_full_map_has_every_field() -> None:
    """The map that is kept has all fields; what is sent has what servers accept."""
    image = ImageChunk(data=png(3, 2), format="png", tokens=7)

    full = image.to_map()

    assert full == {
        "data": base64.b64encode(png(3, 2)).decode(),
        "format": "png",
        "height": 2,
        "width": 3,
        "tokens": 7,
        "expected_tokens": None,
        "type": "image",
    }
    assert ImageChunk.from_map(full) == image
    assert image.body().keys() == {"type", "data", "format"}


@pytest.mark.parametrize("cut", [0, 10, 23])
@pytest.mark.parametrize(("kind", "data"), [("png", png(640, 480)), ("jpeg", jpeg(640, 480)[:18])])
def test_an_unreadable_header_gives_no_size(kind: Any, data: bytes, cut: int) -> None:
    """A size that was given stays."""
    assert ImageChunk(data=data[:cut], format=kind).height is None
    assert ImageChunk(data=data[:cut], format=kind, height=1, width=2).height == 1


@pytest.mark.parametrize("change", [{"format": "gif"}, {"data": "no base64!"}, {"height": -1}, {"hight": 3}])
def test_a_wrong_image_is_refused(change: dict[str, Any]) -> None:
    """The error names the field."""
    with pytest.raises(ValidationError, match=next(iter(change))):
        ImageChunk.model_validate({"data": b"x", "format": "png", **change})


@given(inputs)
def test_a_prompt_survives_json(prompt: ModelInput) -> None:
    """What is sent as JSON reads as the same prompt."""
    assert ModelInput.model_validate(prompt.body()).body() == prompt.body()


def test_a_prompt_is_built_from_parts() -> None:
    """Appending makes a new prompt; images have a length only where it is known."""
    prompt = ModelInput.from_ints([1, 2]).append_int(3).extend_ints([4, 5])

    assert prompt.to_ints() == [1, 2, 3, 4, 5]
    assert prompt.length == 5
    with_image = prompt.append(ImageChunk(data=b"x", format="png"))
    assert with_image.length is None
    with pytest.raises(Unsupported, match="image"):
        with_image.to_ints()


@given(tensors)
def test_a_tensor_survives_json(tensor: TensorData) -> None:
    """Dense and sparse tensors read as they were written."""
    again = TensorData.model_validate(tensor.body())

    assert again.dtype == tensor.dtype
    assert np.array_equal(again.to_numpy(), tensor.to_numpy())
    assert again.tolist() == tensor.tolist()


def test_a_tensor_holds_what_it_was_given() -> None:
    """No copy is made of an array or a list."""
    array, numbers = np.ones((2, 3), np.float32), [1.0, 2.0]

    assert TensorData.from_numpy(array).data is array
    assert TensorData.from_numpy(array).to_numpy().base is array
    assert TensorData(data=numbers, dtype="float32").data is numbers


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"data": [1.0], "shape": (2,)}, id="shape"),
        pytest.param({"data": [1.0], "sparse_crow_indices": [0, 1]}, id="half sparse"),
        pytest.param(
            {"data": [1.0], "sparse_crow_indices": [0, 1], "sparse_col_indices": [0]}, id="no dense shape"
        ),
        pytest.param({"data": "text"}, id="text"),
        pytest.param({"data": [1.0], "dtype": "float64"}, id="dtype"),
        pytest.param({"data": np.asarray(["x"])}, id="array of text"),
    ],
)
def test_a_wrong_tensor_is_refused(fields: dict[str, Any]) -> None:
    """Before anything is sent."""
    with pytest.raises(ValidationError):
        TensorData.model_validate(fields)


def test_a_datum_takes_lists_and_arrays() -> None:
    """By their names: targets are whole numbers, the rest are not."""
    datum = Datum(
        model_input=ModelInput.from_ints([1, 2]),
        loss_fn_inputs={"target_tokens": [2, 3], "weights": np.ones(2), "advantages": [[1, 2], [3, 4]]},
    )

    assert {name: tensor.dtype for name, tensor in datum.loss_fn_inputs.items()} == {
        "target_tokens": "int64",
        "weights": "float32",
        "advantages": "float32",
    }
    assert datum.loss_fn_inputs["advantages"].shape == (2, 2)
    assert Datum.model_validate(datum.body()).body() == datum.body()


@given(sampling_params)
def test_sampling_parameters_survive_json(params: SamplingParams) -> None:
    """What was not said is not sent."""
    body = params.body()

    assert None not in body.values()
    assert SamplingParams.model_validate(body) == params


def test_a_single_stop_text_is_sent_as_a_list() -> None:
    """Not every server takes a bare text."""
    assert SamplingParams(stop="\n").body()["stop"] == ["\n"]


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (AdamParams, {"learning_rate": -1}),
        (AdamParams, {"beta1": 1.0}),
        (AdamParams, {"learning_rate": float("nan")}),
        (AdamParams, {"lr": 0.1}),
        (LoraConfig, {"rank": 0}),
        (SamplingParams, {"max_tokens": 0}),
        (SamplingParams, {"temperature": -0.1}),
        (SamplingParams, {"top_p": 1.1}),
        (SaveWeightsRequest, {"model_id": "m", "path": "a", "seq_id": 1, "ttl_seconds": 0}),
    ],
)
def test_what_is_sent_is_strict(record: Any, fields: dict[str, Any]) -> None:
    """A wrong number or an unknown field never goes out."""
    with pytest.raises(ValidationError):
        record(**fields)


def test_optional_fields_go_out_only_when_set() -> None:
    """Strict servers refuse a field that they do not know."""
    plain = SaveWeightsRequest(model_id="m", path="a", seq_id=1)

    assert plain.body().keys() == {"model_id", "path", "seq_id", "type"}
    assert LoadWeightsRequest(model_id="m", seq_id=1, path="p", optimizer=False).body()["optimizer"] is False


def test_answers_are_lenient() -> None:
    """Unknown fields, unknown queue states, categories in capitals, NaN for what is not defined."""
    assert TryAgainResponse.model_validate({"queue_state": "of_tomorrow", "x": 1}).queue_state == "unknown"
    failed = RequestFailedResponse.model_validate({"error": "e", "category": "User"})
    assert failed.category is RequestErrorCategory.USER
    assert SampleResponse.model_validate({"prompt_logprobs": [float("nan"), -1.0]}).prompt_logprobs == [None, -1.0]
    output = ForwardBackwardOutput.model_validate(
        {"loss_fn_outputs": [{"logprobs": {"data": [1]}}], "metrics": None}
    )
    assert output.loss_fn_outputs[0]["logprobs"].tolist() == [1]
    assert output.metrics == {}
