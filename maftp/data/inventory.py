"""What is there of a dataset: counted, not opened, so that asking costs next to nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maftp.data.catalog import Catalog, Dataset, Split
from maftp.data.layout import (
    archives_dir,
    index_path,
    manifest_path,
    stamp_path,
    vocabulary_path,
)
from maftp.data.vocabulary import read_vocabulary
from maftp.errors import DataError
from maftp.files import atomic_path

_OF_VOCABULARIES = "vocabularies/"


@dataclass(frozen=True, slots=True)
class FileCount:
    """One folder, or one file, of a split."""

    path: Path
    expected: int
    found: int

    @property
    def missing(self) -> int:
        """Number of files that are not there."""
        return max(self.expected - self.found, 0)


def file_counts(dataset: Dataset, root: Path) -> list[FileCount]:
    """Count what every split of a dataset consists of: images, labels, annotations."""
    return [
        FileCount(path, expected, _count(path, suffix))
        for split in dataset.splits.values()
        if split.count
        for path, suffix, expected in _parts(dataset, split, root)
    ]


def count_missing(dataset: Dataset, root: Path) -> int:
    """Return how many files are missing of a converted dataset."""
    return sum(count.missing for count in file_counts(dataset, root))


def is_broken(name: str, dataset: Dataset, root: Path) -> bool:
    """Tell whether a dataset was converted wholly and lacks files now."""
    indexes = [
        index_path(root, name, split) for split, entry in dataset.splits.items() if entry.count
    ]
    return all(path.exists() for path in indexes) and count_missing(dataset, root) > 0


def repairs(name: str, dataset: Dataset, root: Path) -> int:
    """Return how often the dataset was completed after files had been lost, pending ones counted.

    The number moves when a file is lost and stays when the file is made again: what depends on it
    notices the loss, and is content afterwards.
    """
    return _repairs_done(root, name) + is_broken(name, dataset, root)


def note_repair(name: str, root: Path) -> None:
    """Count one more completion of a dataset that had lost files."""
    done = _repairs_done(root, name)
    with atomic_path(_repairs_path(root, name)) as temporary:
        temporary.write_text(f"{done + 1}\n")


def is_needless(source: str, catalog: Catalog, users: list[str], root: Path) -> bool:
    """Tell whether a source need not be obtained, as all that is made from it is there already.

    So a folder that was prepared elsewhere serves without archives and raw labels. Lists of class
    names are always needed.

    Args:
        source: name in the catalog.
        catalog: knows the source and the datasets.
        users: the datasets that are wanted.
        root: datasets root.
    """
    entry = catalog.source(source)
    if (entry.place or "").startswith(_OF_VOCABULARIES):
        return False
    traces = (stamp_path(root, source), archives_dir(root) / entry.file)
    if any(path.exists() for path in traces) or all((root / p).exists() for p in entry.makes):
        return False
    made = [catalog.datasets[name] for name in users if source in catalog.datasets[name].sources]
    return all(count_missing(dataset, root) == 0 for dataset in made)


def benchmark_words(catalog: Catalog, root: Path) -> dict[str, list[str]]:
    """Return the class names of every benchmark whose list is there; equal lists once."""
    lists: dict[str, list[str]] = {}
    for name, benchmark in catalog.benchmarks.items():
        dataset = catalog.dataset(benchmark.dataset)
        path = vocabulary_path(root, dataset.vocabulary)
        if path.exists():
            names = read_vocabulary(path, keep_row_zero=dataset.keep_row_zero).names
            if names not in lists.values():
                lists[name] = names
    return lists


def _parts(dataset: Dataset, split: Split, root: Path) -> Iterator[tuple[Path, str, int]]:
    yield root / split.images, dataset.image_suffix, split.count
    if split.labels is not None:
        yield root / split.labels, dataset.label_suffix, split.count
    if split.panoptic is not None:
        yield root / split.panoptic, ".png", split.count
    if split.annotations is not None:
        yield root / split.annotations, "", 1


def _count(path: Path, suffix: str) -> int:
    if not suffix:
        return int(path.is_file())
    try:
        with os.scandir(path) as entries:
            return sum(entry.name.endswith(suffix) and entry.name[0] != "." for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _repairs_path(root: Path, name: str) -> Path:
    return manifest_path(root, name).with_name(f".{name}.repairs")


def _repairs_done(root: Path, name: str) -> int:
    note = _repairs_path(root, name)
    try:
        return int(note.read_text()) if note.exists() else 0
    except (OSError, ValueError) as error:
        raise DataError(f"{note}: holds no number ({error}); delete it") from None
