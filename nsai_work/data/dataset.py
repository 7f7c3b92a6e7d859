"""Data sets: the examples of a data file, read and validated row by row, shared by all runs of a process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from nsai_work.data.containers import RawRow, decoded, raw_rows, unread_rows
from nsai_work.data.example import Example
from nsai_work.data.forms.detection import LABELS, example_of, form_of, named_fields
from nsai_work.data.forms.messages import MessagesRow, plain_example
from nsai_work.data.images import found, pinned_images
from nsai_work.data.problems import FileProblem, RowProblem, RowProblems, RowTooLong
from nsai_work.data.row_counts import RowCounts
from nsai_work.data.source import DataBytes, open_data
from nsai_work.files.user_paths import expanded
from nsai_work.payloads import DataFile, DataSource, TrainingData

Progress = Callable[[int, int], None]
"""Called with the bytes read and the bytes of the file."""

_ROWS_PER_REPORT: Final = 256


def field_of(data: TrainingData, index: int) -> str:
    """Return the job's field that names a file of the data."""
    return "payload.data.path" if data.path is not None else f"payload.data.sources[{index}].path"


def pin_data(data: TrainingData, *, base: Path | None = None) -> TrainingData:
    """Pin the files of data: absolute paths (relative to ``base``), content digests. Does not decode the rows.

    Raises:
        FileUnusable: a file cannot be opened or read.
        DataChanged: the content does not match the digest that is given.
        InvalidJob: it changed while it was read, is empty or broken, or has a row that is too long and may not be
            skipped; that one without a read of the rest.
    """
    pinned = []
    for index, file in enumerate(data.files()):
        if file.job is not None:
            # these are pinned when they are there
            pinned.append(file)
            continue
        path = ((base or Path.cwd()) / expanded(file.path)).absolute()
        placed = file.model_copy(update={"path": str(path)})
        field = field_of(data, index)
        with open_data(field, placed) as opened:
            images = _first_look(opened, field, placed, skip=data.on_bad_row == "skip")
            opened.exhaust()
        pinned.append(placed.model_copy(update={"sha256": opened.sha256, "images": images}))
    return data.with_files(pinned)


def _first_look(opened: DataBytes, field: str, file: DataFile, *, skip: bool) -> dict[str, DataSource]:
    """Return the images beside a data file that its rows name. Raises InvalidJob at a row that is too long and may
    not be skipped, with the rest of the file unread."""
    images: dict[str, DataSource] = {}
    try:
        for raw in unread_rows(opened, is_text=file.format == "text"):
            if isinstance(raw.content, RowTooLong) and not skip:
                raise RowProblems(field, file, skip=False).error(str(raw.content), raw.line)
            with suppress(RowProblem):
                if not isinstance(raw.content, bytes) or b'"image' in raw.content:
                    images.update(pinned_images(decoded(raw), file))
    except FileProblem as problem:
        raise RowProblems(field, file, skip=False).error(str(problem), problem.line) from None
    return images


def read_examples(
    data: TrainingData, index: int, tally: RowCounts, *, on_progress: Progress | None = None
) -> Iterator[Example]:
    """Yield the examples of a file of the data, and count them. Blocking.

    Bad rows are counted in ``tally.bad``; the caller raises for them, once the file is read.

    Raises:
        InvalidJob: the file cannot be read further, or holds no row.
        DataChanged: the content does not match the source's digest.
    """
    file, field = data.files()[index], field_of(data, index)
    ignore = frozenset(data.ignore)
    with open_data(field, file) as opened:
        try:
            for raw in raw_rows(opened, is_text=file.format == "text"):
                tally.rows += 1
                if on_progress is not None and tally.rows % _ROWS_PER_REPORT == 0:
                    on_progress(opened.position, opened.size)
                try:
                    yield _example(raw, data, file, ignore, tally)
                except RowProblem as problem:
                    tally.bad.add(raw.line, problem)
        except FileProblem as problem:
            raise tally.bad.error(str(problem), problem.line) from None
        tally.bad.raise_if_any(tally.rows)
        if not tally.rows:
            raise tally.bad.error("holds no example; at least one is required")


def _example(raw: RawRow, data: TrainingData, file: DataFile, ignore: frozenset[str], tally: RowCounts) -> Example:
    plain = None
    is_plain = file.format in ("auto", "messages") and not ignore & MessagesRow.model_fields.keys()
    if is_plain and not isinstance(raw.content, str | RowProblem):
        plain = plain_example(raw.content, data.train_on)
    if plain is not None:
        tally.formats["messages"] += 1
        example = plain
    else:
        fields = named_fields(decoded(raw), ignore)
        labels = [label for label in LABELS if fields.pop(label, None) is not None]
        form = form_of(fields) if file.format == "auto" else file.format
        example = example_of(fields, form, data.train_on, pairs=file.format == "preference")
        tally.formats[form] += 1
        tally.unused.update([*labels, *example.unused])
    example = _with_images(example, file)
    if example.rejected is not None:
        example = replace(example, rejected=_with_images(example.rejected, file))
    return replace(example, line=raw.line)


def _with_images(example: Example, file: DataFile) -> Example:
    if not example.images:
        return example
    return replace(example, images=tuple(found(image, file) for image in example.images))


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Dataset:
    """All examples of a file, in file order. ``tally`` counts what was read, without what was rendered."""

    key: str
    examples: tuple[Example, ...]
    tally: RowCounts


# runs of a process that train on the same content share a copy, which is dropped with the last of them
_shared: WeakValueDictionary[str, Dataset] = WeakValueDictionary()
_reading = threading.Lock()


def load_data(data: TrainingData, index: int = 0) -> Dataset:
    """Load a file of the data; blocking. Pinned content that another run of this process uses is not read again.

    Raises:
        InvalidJob, FileUnusable: the file is missing, empty or malformed; the error names the lines and the fields.
        DataChanged: the content does not match the source's digest.
    """
    file = data.files()[index]
    with _reading:
        key = _key(data, file)
        cached = None if file.sha256 is None else _shared.get(key)
        if cached is not None:
            return cached
        tally = new_counts(data, index)
        examples = tuple(read_examples(data, index, tally))
        dataset = Dataset(key, examples, tally)
        return dataset if file.sha256 is None else _shared.setdefault(key, dataset)


def new_counts(data: TrainingData, index: int) -> RowCounts:
    """Return the tally of a file that is about to be read."""
    return RowCounts(RowProblems(field_of(data, index), data.files()[index], skip=data.on_bad_row == "skip"))


def _key(data: TrainingData, file: DataFile) -> str:
    """The inputs that determine the examples of a file."""
    settings = data.model_dump_json(include={"train_on", "on_bad_row", "ignore"})
    images = "".join(f" {name} {image.path} {image.sha256}" for name, image in sorted(file.images.items()))
    return f"{file.sha256} {file.format} {settings}{images}"
