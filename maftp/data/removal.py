"""Remove archives whose data sets are converted; what the user brought stays."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from maftp.data.catalog import Catalog, Source
from maftp.data.download import downloaded_path, is_downloaded
from maftp.data.inventory import count_missing
from maftp.data.layout import archives_dir, manifest_path, stamp_path
from maftp.data.unpack import in_place
from maftp.lock import locked


def remove_archives(datasets: Collection[str], catalog: Catalog, root: Path) -> dict[str, int]:
    """Remove the downloaded archives of data sets; return the freed bytes by file name.

    An archive stays while one of `datasets` that is made of it is not converted wholly, and where a
    link keeps its content, as removing it would free nothing. What was unpacked, and the notes that
    say so, stay: nothing is done again for want of an archive.
    """
    done = {name for name in datasets if _is_converted(name, catalog, root)}
    removed = {}
    for name, source in catalog.sources.items():
        users = {user for user in datasets if name in catalog.dataset(user).sources}
        if users and users <= done:
            size = _remove(name, source, root)
            if size is not None:
                removed[source.file] = size
    return removed


def _is_converted(name: str, catalog: Catalog, root: Path) -> bool:
    made = manifest_path(root, name).exists()
    return made and count_missing(catalog.dataset(name), root) == 0


def _remove(name: str, source: Source, root: Path) -> int | None:
    """Remove the archive of a source if it may go; return its size."""
    archives = archives_dir(root)
    archive = archives / source.file
    # the locks of unpacking and of downloading
    with locked(archives / f".{name}.lock"), locked(archives / f".{source.file}.lock"):
        unpacked = stamp_path(root, name).exists() and in_place(source, root)
        if not unpacked or not is_downloaded(archive) or archive.stat().st_nlink > 1:
            return None
        size = archive.stat().st_size
        archive.unlink()
        downloaded_path(archive).unlink()
    return size
