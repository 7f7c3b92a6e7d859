"""The input files that a payload names: training data, data of evaluations, prompts."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nsai_work.payloads import DataFile, DataSource, Inference, Payload, TrainingData, TrainingStep


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of a payload, and the job's field that names it."""

    field: str
    source: DataFile | DataSource


def input_files(payload: Payload) -> list[InputFile]:
    """Return the files of a payload."""
    return list(_files(payload))


def with_paths(payload: Payload, path_of: Callable[[DataFile | DataSource], str]) -> Payload:
    """Return the payload with other paths."""

    def moved(data: TrainingData) -> TrainingData:
        return data.with_files([file if file.job else _moved(file, path_of) for file in data.files()])

    if isinstance(payload, TrainingStep):
        changes: dict[str, object] = {"data": moved(payload.data)}
        if payload.eval is not None and payload.eval.data is not None:
            changes["eval"] = payload.eval.model_copy(update={"data": moved(payload.eval.data)})
        return payload.model_copy(update=changes)
    if isinstance(payload, Inference) and payload.input is not None:
        source = payload.input
        return payload.model_copy(update={"input": source.model_copy(update={"path": path_of(source)})})
    return payload


def _moved(file: DataFile, path_of: Callable[[DataFile | DataSource], str]) -> DataFile:
    images = {name: image.model_copy(update={"path": path_of(image)}) for name, image in file.images.items()}
    return file.model_copy(update={"path": path_of(file), "images": images})


def _files(payload: Payload) -> Iterator[InputFile]:
    if isinstance(payload, TrainingStep):
        yield from _data_files("payload.data", payload.data)
        if payload.eval is not None and payload.eval.data is not None:
            yield from _data_files("payload.eval.data", payload.eval.data)
    elif isinstance(payload, Inference) and payload.input is not None:
        yield InputFile("payload.input.path", payload.input)


def _data_files(field: str, data: TrainingData) -> Iterator[InputFile]:
    for index, file in enumerate(data.files()):
        if file.job is not None:
            continue
        named = f"{field}.path" if data.path is not None else f"{field}.sources[{index}].path"
        yield InputFile(named, file)
        for image in file.images.values():
            yield InputFile(named, image)
