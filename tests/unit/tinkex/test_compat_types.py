"""The SDK's records and errors on this client: what programs do with them."""

import copy
import dataclasses
import inspect
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import backends.tinkex.compat as tinker
from backends.tinkex.compat.errors import translated
from backends.tinkex.compat.results import PromptAltTokens
from crucible import errors

TENSOR = tinker.TensorData(data=[1.5, 2.5], dtype="float32", shape=[2])
SPAN = tinker.SampledProvenanceSpan(sequence_id="s", offset=1, length=2)
DATUM = tinker.Datum(tinker.ModelInput.from_ints([1, 2]), {"target_tokens": [2, 3], "weights": [0.5, 1.0]})
SEQUENCE = tinker.SampledSequence(stop_reason="stop", sequence_id="s", tokens=[1], logprobs=[-0.5])
DATACLASSES: list[Any] = [
    TENSOR,
    SPAN,
    tinker.PromptProvenanceSpan(sequence_id="s", length=2),
    DATUM,
    SEQUENCE,
    tinker.SampleResponse(sequences=[SEQUENCE], prompt_logprobs=[None, -1.0]),
    tinker.ForwardBackwardOutput("ArrayRecord", [{"logprobs": TENSOR}], {"loss:sum": 1.0}),
    PromptAltTokens(TENSOR, TENSOR),
]
RECORDS: list[Any] = [
    tinker.ModelInput.from_ints([1, 2]),
    tinker.EncodedTextChunk(tokens=[1]),
    tinker.SamplingParams(max_tokens=3, stop=["a"]),
    tinker.AdamParams(learning_rate=0.1),
    tinker.ParsedCheckpointTinkerPath.from_tinker_path("tinker://run/weights/a"),
]
TAKEN_BY_THE_COOKBOOK = [
    "APIConnectionError",
    "APIError",
    "APIFuture",
    "APITimeoutError",
    "AdamParams",
    "AuthenticationError",
    "BadRequestError",
    "Datum",
    "EncodedTextChunk",
    "ForwardBackwardOutput",
    "ModelInput",
    "ModelInputChunk",
    "OptimStepResponse",
    "ParsedCheckpointTinkerPath",
    "PromptProvenanceSpan",
    "RateLimitError",
    "RestClient",
    "SampledProvenanceSpan",
    "SampledSequence",
    "SamplingClient",
    "SamplingParams",
    "ServiceClient",
    "StopReason",
    "TensorData",
    "TinkerError",
    "TrainingClient",
    "types.ExternalWeightsUrlsResponse",
    "types.ImageAssetPointerChunk",
    "types.ImageChunk",
    "types.LossFnType",
    "types.SampleResponse",
    "types.SamplingParams",
    "types.TensorData",
]


def state(value: Any) -> Any:
    """A value as plain data, for comparison."""
    if isinstance(value, tinker.TensorData):
        return (value.tolist(), value.dtype, value.shape, value.sparse_crow_indices, value.sparse_col_indices)
    if dataclasses.is_dataclass(value):
        return {field.name: state(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: state(item) for key, item in value.items()}
    return [state(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", TAKEN_BY_THE_COOKBOOK)
def test_every_name_that_the_cookbook_takes_is_there(name: str) -> None:
    """As an attribute of the module, or of its ``types``."""
    module: Any = tinker
    for part in name.split("."):
        module = getattr(module, part)


@pytest.mark.parametrize("record", [*DATACLASSES, *RECORDS], ids=lambda record: type(record).__name__)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))])
def test_records_are_copied_and_pickled(record: Any, copied: Any) -> None:
    """With everything that they hold."""
    assert state(copied(record)) == state(record)


@pytest.mark.parametrize("record", DATACLASSES, ids=lambda record: type(record).__name__)
def test_dataclasses_are_replaced_field_by_field(record: Any) -> None:
    """Each field is replaced by its own value; the rest stays."""
    for field in dataclasses.fields(record):
        assert state(dataclasses.replace(record, **{field.name: getattr(record, field.name)})) == state(record)


@pytest.mark.parametrize(
    "make",
    [
        lambda tokens: tinker.EncodedTextChunk(tokens=tokens),
        tinker.ModelInput.from_ints,
        lambda tokens: tinker.ModelInput.empty().append(tinker.EncodedTextChunk(tokens=tokens)),
        lambda tokens: tinker.ModelInput.from_ints([9]).append_int(8).extend_ints(tokens),
        lambda tokens: tinker.Datum(tinker.ModelInput.empty(), {"target_tokens": tokens}),
        lambda tokens: tinker.TensorData(tokens, "int64"),
        lambda tokens: tinker.SamplingParams(stop=tokens),
    ],
)
def test_lists_that_are_used_again_change_nothing(make: Any) -> None:
    """The cookbook clears the list that it made a chunk from."""
    tokens = [1, 2, 3]
    record, expected = make(tokens), state(make([1, 2, 3]))

    tokens.clear()

    assert state(record) == expected
    chunks = getattr(record, "chunks", [])
    assert all(isinstance(chunk, tinker.EncodedTextChunk) for chunk in chunks)


def test_a_span_is_shortened() -> None:
    """As the cookbook does to shift targets."""
    assert dataclasses.replace(SPAN, offset=2, length=1) == tinker.SampledProvenanceSpan(
        sequence_id="s", offset=2, length=1
    )


def test_values_are_plain_numbers_of_the_declared_type() -> None:
    """Python's sum over ``data`` then has Python's precision."""
    values = tinker.TensorData.from_numpy(np.asarray([[0.1, 0.2]])).data

    assert [type(value) for value in values] == [float, float]
    assert values == [float(np.float32(0.1)), float(np.float32(0.2))]


def test_memory_that_cannot_be_written_is_copied() -> None:
    """Torch warns of such memory."""
    tensor = tinker.TensorData(np.frombuffer(np.zeros(2, np.float32).tobytes(), np.float32), "float32", [2])

    assert tensor.to_numpy().flags.writeable


@pytest.mark.parametrize("pad", [0, 7])
def test_sparse_tensors_have_their_dense_values(pad: int) -> None:
    """Whatever fills them."""
    dense = np.full((3, 9), pad)
    dense[0, 4] = dense[2, 8] = 5
    rows = [0, 1, 1, 2]

    tensor = tinker.TensorData([5, 5], "int64", [3, 9], rows, [4, 8])

    assert tensor.tolist(pad) == dense.tolist()
    assert tensor.to_tinkex().is_sparse
    assert tinker.TensorData.from_tinkex(tensor.to_tinkex()).tolist(pad) == dense.tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda: tinker.SampledProvenanceSpan(sequence_id="", length=1),
        lambda: tinker.PromptProvenanceSpan(sequence_id="s", length=-1),
        lambda: tinker.Datum(tinker.ModelInput.empty(), {}, model_input_spans=[SPAN]),
        lambda: DATUM.with_provenance([SPAN], [dataclasses.replace(SPAN, length=1)]),
    ],
)
def test_spans_are_checked(make: Any) -> None:
    """Where they are made, not at the server."""
    with pytest.raises(ValueError, match=r"."):
        make()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.AuthenticationFailed("x", details={"status": 403}), tinker.PermissionDeniedError),
        (errors.AuthenticationFailed("x", details={"status": 401}), tinker.AuthenticationError),
        (errors.OutOfCredit("x"), tinker.BillingError),
        (errors.CapacityError("x", details={"status": 429}), tinker.RateLimitError),
        (errors.RequestTimeout("x"), tinker.APITimeoutError),
        (errors.BackendUnavailable("x"), tinker.APIConnectionError),
        (errors.BackendUnavailable("x", details={"status": 503}), tinker.InternalServerError),
        (errors.InvalidRequest("x", details={"status": 422}), tinker.UnprocessableEntityError),
        (errors.InvalidRequest("x"), ValueError),
        (errors.InvalidRequest("x"), tinker.BadRequestError),
        (errors.InvalidRequest("x", details={"on_record": True, "category": "user"}), tinker.RequestFailedError),
        (errors.NameTaken("x", details={"status": 409}), tinker.ConflictError),
        (errors.NotFound("x", details={"status": 404}), tinker.NotFoundError),
        (errors.MalformedAnswer("x"), tinker.APIResponseValidationError),
        (errors.RunCorrupted("x"), tinker.RunCorruptedError),
        (errors.Canceled("x"), tinker.APIError),
        (errors.RunGone("x", details={"status": 410}), tinker.APIStatusError),
        (errors.InvalidRequest("x", details={"status": 413}), tinker.APIStatusError),
    ],
)
def test_every_error_is_one_of_the_sdk(error: errors.CrucibleError, expected: type[Exception]) -> None:
    """And survives pickling."""
    found = translated(error)

    assert isinstance(found, expected)
    assert isinstance(found, tinker.TinkerError)
    back = pickle.loads(pickle.dumps(found))
    assert (type(back), str(back), vars(back)) == (type(found), str(found), vars(found))


@pytest.mark.parametrize(("kind", "status"), [(errors.RunGone, 410), (errors.InvalidRequest, 413)])
def test_a_status_without_an_error_of_its_own_is_kept(kind: type[errors.CrucibleError], status: int) -> None:
    """It is no other status: neither "not found", nor an argument that was refused before anything was sent."""
    found = translated(kind("x", details={"status": status}))

    assert (type(found), getattr(found, "status_code", None)) == (tinker.APIStatusError, status)


@pytest.mark.parametrize("name", ["Unknown", "Server", "User"])
def test_categories_have_the_names_of_the_sdk(name: str) -> None:
    """By which programs ask whose fault a failure was."""
    assert getattr(tinker.types.RequestErrorCategory, name) == name.lower()


def test_what_a_server_leaves_out_has_a_value() -> None:
    """As in the SDK."""
    assert tinker.types.GetSessionResponse(training_run_ids=[], sampler_ids=[]).display_name is None


@pytest.mark.parametrize("handle", ["", "[]", '{"base_url": "http://127.0.0.1:9"}'])
def test_a_text_that_is_no_handle_is_refused(handle: str) -> None:
    """With an error of the SDK, before anything is sent."""
    with pytest.raises(tinker.BadRequestError, match="handle"):
        tinker.SamplingClient.from_sampler_handle(handle, api_key="tml-x")


def test_every_error_of_the_family_is_translated() -> None:
    """Also those that a Tinker client never raises."""
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.CrucibleError):
            with warnings.catch_warnings():
                assert isinstance(translated(kind("x")), tinker.TinkerError)
