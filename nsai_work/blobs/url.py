"""A place behind a URL, by fsspec: object storage, a shared folder, and whatever else it has an adapter for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from crucible.errors import CrucibleError, InvalidRequest
from nsai_work.blobs.place import PieceMissing
from nsai_work.errors import BlobsUnavailable

VARIABLE = "NSAI_WORK_BLOBS_URL"


class UrlPlace:
    """Pieces as objects, ``URL/key/number``.

    Raises:
        InvalidRequest: fsspec, or its adapter for the URL, is not installed.
    """

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        scheme = urlsplit(url).scheme
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise InvalidRequest.of(
                VARIABLE, scheme, 'fsspec is not installed here: pip install "nsai-work[blobs]"'
            ) from None
        try:
            self._files, self._root = url_to_fs(self.name)
        except ImportError as error:
            raise InvalidRequest.of(VARIABLE, scheme, f"its adapter is not installed here: {error}") from None
        except ValueError as error:
            raise InvalidRequest.of(VARIABLE, scheme, f"fsspec knows no such scheme ({error})") from None

    def write(self, key: str, number: int, piece: bytes) -> None:
        with self._translated():
            self._files.makedirs(f"{self._root}/{key}", exist_ok=True)
            self._files.pipe_file(f"{self._root}/{key}/{number}", piece)

    def read(self, key: str, number: int) -> bytes:
        with self._translated():
            try:
                content: Any = self._files.cat_file(f"{self._root}/{key}/{number}")
            except FileNotFoundError:
                raise PieceMissing from None
            return bytes(content)

    def is_empty(self) -> bool:
        with self._translated():
            try:
                return not self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return True

    def delete(self, key: str) -> None:
        with self._translated():
            try:
                self._files.rm(f"{self._root}/{key}", recursive=True)
            except FileNotFoundError:
                return

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (CrucibleError, PieceMissing):
            raise
        except Exception as error:
            # each adapter raises errors of its own library. Their texts may quote requests, and those a credential
            raise BlobsUnavailable(
                f"the blobs at {self.name} cannot be used: {type(error).__name__}; check the URL and the "
                "credentials of its adapter",
                details={"place": self.name},
            ) from error
