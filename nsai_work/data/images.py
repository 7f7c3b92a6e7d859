"""Images of rows: PNG and JPEG files, in the row itself or beside the data file.

Nothing is fetched: an address of the network is refused, and a path stays within the folder of its data file.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from crucible.rendering.image_header import image_size
from crucible.rendering.media import image_media_type
from nsai_work.data.problems import RowProblem
from nsai_work.errors import DataChanged
from nsai_work.files.user_paths import NotRegular, open_regular
from nsai_work.payloads import DataFile, DataSource

ImageFormat: TypeAlias = Literal["png", "jpeg"]

MAX_IMAGE_BYTES: Final = 8 * 1024 * 1024
"""The largest image of a row."""

_FORMATS: Final[Mapping[str, ImageFormat]] = {"image/png": "png", "image/jpeg": "jpeg"}
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_PARTS: Final = ("image", "image_url")
_SOURCES: Final = ("image_url", "url", "path", "image")
_TOO_LARGE: Final = f"is larger than {MAX_IMAGE_BYTES // 1024 // 1024} MiB"


@dataclass(frozen=True, slots=True)
class ExampleImage:
    """An image of an example. ``name`` is the path in the row, of one beside the data file, and ``path`` where that
    file is; else ``data`` is the image itself. ``sha256`` is that of its bytes."""

    place: str
    name: str | None = None
    data: bytes | None = field(default=None, repr=False)
    path: Path | None = None
    sha256: str = ""
    format: ImageFormat = "png"
    width: int = 0
    height: int = 0

    def read(self) -> bytes:
        """Return the bytes; blocking. Raises RowProblem, DataChanged: the file is missing, or not the same."""
        if self.data is not None:
            return self.data
        assert self.path is not None
        content = _content(self.path, self.place)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise DataChanged(
                f"the image {self.path} has changed since the job was submitted; restore it, or submit a new job",
                details={"field": self.place, "path": str(self.path)},
            )
        return content


def is_address(url: str) -> bool:
    """Return whether a text is a URL, not a path."""
    return _SCHEME.match(url) is not None


def measured(image: ExampleImage, content: bytes) -> ExampleImage:
    """Return an image with what its bytes say. Raises RowProblem: they are no image that can be trained on."""
    kind = image_media_type(content) or "no image"
    if len(content) > MAX_IMAGE_BYTES:
        raise RowProblem(f"{image.place} {_TOO_LARGE}", "make it smaller", image.place)
    if kind not in _FORMATS:
        raise RowProblem(f"{image.place} is {kind}", "training takes PNG and JPEG", image.place)
    size = image_size(content, _FORMATS[kind])
    if size is None or 0 in size:
        raise RowProblem(f"{image.place} has no size in its header", "save the image again", image.place)
    digest = hashlib.sha256(content).hexdigest()
    return replace(image, sha256=digest, format=_FORMATS[kind], width=size[0], height=size[1])


def found(image: ExampleImage, file: DataFile) -> ExampleImage:
    """Return an image with the file that it names, of those beside a data file. Raises RowProblem."""
    if image.name is None:
        return image
    pinned = file.images.get(image.name)
    path = _beside(image.name, file, image.place) if pinned is None else Path(pinned.path)
    content = _content(path, image.place)
    if pinned is None and file.sha256 is not None:
        raise RowProblem(
            f"{image.place}: {image.name} is not among the files of the job",
            "images of a Parquet file are in its rows (data: URLs)",
            image.place,
        )
    measures = measured(image, content)
    if pinned is not None and pinned.sha256 != measures.sha256:
        raise DataChanged(
            f"the image {path} has changed since the job was submitted; restore it, or submit a new job",
            details={"field": image.place, "path": str(path)},
        )
    return replace(measures, path=path)


def pinned_images(row: Mapping[str, Any], file: DataFile) -> Iterator[tuple[str, DataSource]]:
    """Yield the images beside a data file that a row names, with their digests. What is wrong with one is reported
    when the row is read."""
    for name in _names(row):
        try:
            path = _beside(name, file, name)
            digest = hashlib.sha256(_content(path, name)).hexdigest()
        except RowProblem:
            continue
        yield name, DataSource(path=str(path), sha256=digest, ship=file.ship)


def _names(value: object) -> Iterator[str]:
    """The paths of images in JSON."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _names(item)
    elif isinstance(value, Mapping):
        if value.get("type") in _PARTS:
            for key in _SOURCES:
                source = value.get(key)
                source = source.get("url") if isinstance(source, Mapping) else source
                if isinstance(source, str) and source and not is_address(source):
                    yield source
        else:
            for item in value.values():
                yield from _names(item)


def _beside(name: str, file: DataFile, place: str) -> Path:
    """The file of a relative path, within the folder of the data file. Raises RowProblem."""
    if not file.path:
        raise RowProblem(f"{place} is a path", "rows of a job have their images as data: URLs", place)
    folder = Path(file.path).parent
    try:
        path = (folder / name).resolve()
        inside = not Path(name).is_absolute() and path.is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        inside = False
    if not inside:
        raise RowProblem(f"{place}: {name} is not in the folder of the data file", "move the image there", place)
    return path


def _content(path: Path, place: str) -> bytes:
    try:
        with open_regular(path) as opened:
            content = opened.read(MAX_IMAGE_BYTES + 1)
    except NotRegular as error:
        raise RowProblem(f"{place}: {path} {error}", "name an image beside the data file", place) from None
    except OSError as error:
        raise RowProblem(f"{place}: {path} cannot be read ({error.strerror})", "make it readable", place) from None
    if len(content) > MAX_IMAGE_BYTES:
        raise RowProblem(f"{place}: {path} {_TOO_LARGE}", "make it smaller", place)
    return content
