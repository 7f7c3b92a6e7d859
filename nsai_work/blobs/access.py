"""Access to the blobs of a database: which place the settings name, and whether it is the recorded one."""

from nsai_work.blobs.folder import FolderPlace
from nsai_work.blobs.place import Place
from nsai_work.blobs.shelf import BlobRows, Shelf
from nsai_work.blobs.table import TablePlace
from nsai_work.blobs.url import VARIABLE, UrlPlace
from nsai_work.errors import BlobsElsewhere
from nsai_work.settings import Settings, sqlite_file


def open_shelf(settings: Settings, rows: BlobRows) -> Shelf:
    """Return the shelf that the settings name. The first use records its place in the database.

    Raises:
        BlobsElsewhere: the database's blobs are in another place.
        InvalidRequest: fsspec, or its adapter for the URL, is not installed.
    """
    place = _place(settings, rows)
    _require_same(rows.take_place(place.name), place.name)
    limit = settings.blobs_max_mib * 1024 * 1024 if isinstance(place, TablePlace) else None
    return Shelf(rows, place, limit)


def require_place(settings: Settings, rows: BlobRows) -> None:
    """Raise BlobsElsewhere if the database's blobs are in another place than the settings name. Records nothing."""
    recorded = rows.place()
    if recorded is not None:
        _require_same(recorded, _place(settings, rows).name)


def _place(settings: Settings, rows: BlobRows) -> Place:
    if settings.blobs_url:
        return UrlPlace(settings.blobs_url)
    file = sqlite_file(settings.database_url)
    return TablePlace(rows) if file is None else FolderPlace(file.absolute().with_name(f"{file.name}-blobs"))


def _require_same(recorded: str, named: str) -> None:
    if recorded != named:
        advice = f"set it to {recorded}" if "://" in recorded else "unset it"
        raise BlobsElsewhere(
            f"{VARIABLE}: the files of this database's jobs are in {recorded}, and this process would use {named}; "
            f"{advice}",
            details={"field": VARIABLE, "recorded": recorded, "named": named},
        )
