"""The cache holds what is in use, checks what it gives, and stays within its size."""

import hashlib
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from nsai_work.blobs.cache import BlobCache


def _write(content: bytes, counts: list[bytes], file: BinaryIO) -> None:
    counts.append(content)
    file.write(content)


def _hold(cache: BlobCache, content: bytes, counts: list[bytes], name: str = "data.jsonl"):  # type: ignore[no-untyped-def]
    return cache.held(hashlib.sha256(content).hexdigest(), name, partial(_write, content, counts))


def test_a_content_is_read_once_for_each_name(tmp_path: Path) -> None:
    """The name of a file tells its form."""
    cache, read = BlobCache(tmp_path, 1000), list[bytes]()
    for name in ("a.jsonl", "a.jsonl", "a.txt"):
        with _hold(cache, b"x", read, name) as path:
            assert (path.name, path.read_bytes()) == (name, b"x")

    assert len(read) == 2


@pytest.mark.parametrize("damage", [b"", b"y", b"xx"])
def test_a_damaged_copy_is_read_again(damage: bytes, tmp_path: Path) -> None:
    """Its content is compared with the digest at each use."""
    cache, read = BlobCache(tmp_path, 1000), list[bytes]()
    with _hold(cache, b"x", read) as path:
        path.write_bytes(damage)
    with _hold(cache, b"x", read) as path:
        assert path.read_bytes() == b"x"

    assert len(read) == 2


def test_the_least_recently_used_files_are_deleted_but_none_that_is_held(tmp_path: Path) -> None:
    """Also the largest, if nothing else can go."""
    cache, read = BlobCache(tmp_path, 250), list[bytes]()
    first, second, third, large = b"1" * 100, b"2" * 100, b"3" * 100, b"4" * 1000
    with _hold(cache, first, read) as held:
        for content in (second, third):
            with _hold(cache, content, read):
                pass
        with _hold(cache, large, read) as path:
            assert path.exists()
        assert held.read_bytes() == first
        assert len(list(tmp_path.glob("*/*"))) == 2
    with _hold(cache, second, read):
        assert [path.read_bytes() for path in tmp_path.glob("*/*") if path.stat().st_size == 1000] == []


def test_a_use_does_not_change_the_file_for_those_who_read_it(tmp_path: Path) -> None:
    """A reader of a data file refuses one whose size or time of change differs at the end."""
    cache, read = BlobCache(tmp_path, 1000), list[bytes]()
    with _hold(cache, b"x", read) as path:
        before = path.stat()
        with _hold(cache, b"x", read):
            after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert after.st_atime_ns > before.st_atime_ns


def test_what_a_failed_read_has_written_is_not_there(tmp_path: Path) -> None:
    """The next use reads it from the beginning."""
    cache = BlobCache(tmp_path, 1000)

    def fail(file: BinaryIO) -> None:
        file.write(b"par")
        raise OSError

    with pytest.raises(OSError), cache.held("0" * 64, "a", fail):
        pass

    assert list(tmp_path.glob("*/*")) == []
