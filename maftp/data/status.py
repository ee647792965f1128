"""What is there of every dataset: archives, images, labels, and what is still to be done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maftp.data.catalog import Catalog, Obtainable
from maftp.data.inventory import file_counts
from maftp.data.layout import archives_dir, manifest_path
from maftp.data.unpack import in_place, was_unpacked
from maftp.errors import DataError

_THERE = ("unpacked", "archive removed", "put in place")


@dataclass(frozen=True, slots=True)
class FileStatus:
    """One source, or released weights."""

    name: str
    state: str
    """missing, missing (registration), partly downloaded, not verified (an archive put there by
    hand), verified (a download whose digest was checked), unpacked (after the same check), archive
    removed (since then), or put in place (contents without an archive)."""
    bytes: int
    """Of the archive on this disk."""
    note: str = ""
    """Where to ask for it."""

    @property
    def there(self) -> bool:
        """Tell whether its contents are in place."""
        return self.state in _THERE


@dataclass(frozen=True, slots=True)
class DatasetStatus:
    """One dataset."""

    name: str
    state: str
    """converted, lacking files, ready (converted elsewhere), to be converted, or not there."""
    sources: tuple[FileStatus, ...]
    found: int
    """Files that are there, images and ground truth."""
    expected: int
    bytes: int
    """Of these files; a file that several datasets share counts for each."""


def dataset_status(name: str, catalog: Catalog, root: Path) -> DatasetStatus:
    """Look up what is there of a dataset; nothing is opened.

    Raises:
        DataError: the catalog does not have it.
    """
    dataset = catalog.dataset(name)
    sources = tuple(source_status(source, catalog, root) for source in dataset.sources)
    held = file_counts(dataset, root)
    missing = sum(count.missing for count in held)
    expected = sum(count.expected for count in held)
    if manifest_path(root, name).exists():
        state = "lacking files" if missing else "converted"
    elif not missing:
        state = "ready"
    else:
        state = "to be converted" if all(source.there for source in sources) else "not there"
    size = sum(_size(count.path) for count in held)
    return DatasetStatus(name, state, sources, expected - missing, expected, size)


def source_status(name: str, catalog: Catalog, root: Path) -> FileStatus:
    """Look up what is there of a source."""
    source = catalog.source(name)
    archive = archives_dir(root) / source.file
    size = archive.stat().st_size if archive.exists() else 0
    if in_place(source, root):
        if not was_unpacked(name, root):
            return FileStatus(name, "put in place", size)
        return FileStatus(name, "unpacked" if size else "archive removed", size)
    return file_status(name, source, root)


def file_status(name: str, source: Obtainable, root: Path) -> FileStatus:
    """Look up what is there of a download."""
    archive = archives_dir(root) / source.file
    part = archive.with_name(f"{archive.name}.part")
    if archive.exists():
        checked = archive.with_name(f"{archive.name}.sha256").exists()
        size = archive.stat().st_size
        return FileStatus(name, "verified" if checked else "not verified", size)
    if part.exists():
        return FileStatus(name, "partly downloaded", part.stat().st_size)
    if source.own:
        return FileStatus(name, "missing", 0, "add it again with 'maftp data add'")
    if source.registration:
        return FileStatus(name, "missing (registration)", 0, f"ask at {source.registration}")
    return FileStatus(name, "missing", 0)


def weights_status(catalog: Catalog, root: Path) -> Sequence[FileStatus]:
    """Look up which released weights are downloaded."""
    return [file_status(name, entry, root) for name, entry in catalog.weights.items()]


def _size(path: Path) -> int:
    """Return the bytes of a file, or of the files directly in a folder."""
    if path.is_file():
        return path.stat().st_size
    if not path.is_dir():
        return 0
    with os.scandir(path) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.is_file())


LINKS = {
    "ade20k": "ade",
    "pascal/VOCdevkit": "../VOCdevkit",
    "coco/coco17": ".",
    "coco/panoptic": ".",
    "coco/annotations/panoptic_train2017": "../panoptic_train2017",
    "coco/annotations/panoptic_val2017": "../panoptic_val2017",
    "VOCdevkit/VOC2010/val/image": "../images",
    "VOCdevkit/VOC2012/annotations_detectron2_ovs": "annotations_ovs",
    "ade/ADEChallengeData2016/panoptic": ".",
}
"""Target by link, as the link holds it: relative to the link's folder."""


def make_links(root: Path) -> list[Path]:
    """Make the links whose target is there; return those that are new.

    Raises:
        DataError: something else has the name of a link.
    """
    made = []
    for name, target in LINKS.items():
        link = root / name
        if link.is_symlink() and str(link.readlink()) == target:
            continue
        if link.is_symlink() or link.exists():
            raise DataError(f"{link}: exists and is not a link to {target}; move it away")
        if (link.parent / target).resolve().is_dir():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)
            made.append(link)
    return made
