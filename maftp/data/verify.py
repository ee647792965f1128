"""Check again what was downloaded and converted: digests, counts, and that every image decodes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maftp.data.catalog import Catalog, Dataset, Split
from maftp.data.convert.driver import run_tasks
from maftp.data.download import verify
from maftp.data.images import read_rgb
from maftp.data.index import list_stems, pair, read_index
from maftp.data.layout import archives_dir, index_path, manifest_path, read_note
from maftp.errors import DataError
from maftp.files import sha256


def verify_archives(name: str, catalog: Catalog, root: Path) -> list[str]:
    """Compare the downloaded archives of a dataset with their digests; return what is wrong."""
    problems = []
    for source in (catalog.source(source) for source in catalog.dataset(name).sources):
        archive = archives_dir(root) / source.file
        if archive.exists():
            problems += _problem(verify, source, archive)
    return problems


def verify_dataset(name: str, catalog: Catalog, root: Path, *, workers: int) -> list[str]:
    """Check every file of a converted dataset; return what is wrong, a sentence each.

    Label maps and annotation files must be those that the conversion wrote, byte by byte; images
    must decode to the size that was noted.

    Raises:
        DataError: the dataset is not converted.
    """
    dataset = catalog.dataset(name)
    manifest = manifest_path(root, name)
    if not manifest.exists():
        raise DataError(f"{manifest}: dataset {name} is not converted; run 'maftp convert {name}'")
    mend = f"run 'maftp convert {name}' again"
    noted = read_note(manifest, "splits", mend=mend)["splits"]
    problems = []
    for split_name, split in dataset.splits.items():
        if split_name in noted:
            checks = _Split(name, split_name, dataset, split, root, noted[split_name])
            problems += checks.run(workers)
    return problems


@dataclass(frozen=True, slots=True)
class _Check:
    image: Path
    size: tuple[int, int]
    label: Path | None
    digest: str


@dataclass(frozen=True, slots=True)
class _Split:
    name: str
    split_name: str
    dataset: Dataset
    split: Split
    root: Path
    noted: dict[str, Any]

    def run(self, workers: int) -> list[str]:
        index = index_path(self.root, self.name, self.split_name)
        problems = _problem(self._check_index, index)
        if problems:
            return problems
        rows = read_index(index)
        images, suffix = self.root / self.split.images, self.dataset.image_suffix
        labels, label_suffix = self._labels()
        stems = [row.stem for row in rows]
        for folder, ending in ((images, suffix), (labels, label_suffix)):
            if folder is not None:
                problems += _problem(_check_names, stems, folder, ending, index)
        checks = [
            _Check(
                images / f"{row.stem}{suffix}",
                (row.width, row.height),
                labels and labels / f"{row.stem}{label_suffix}",
                row.sha256,
            )
            for row in rows
        ]
        found = run_tasks(_check, checks, workers=workers, description=f"verify {self.name}")
        problems += [problem for some in found for problem in some]
        problems += _problem(self._check_annotations)
        return problems + _problem(self._check_tree)

    def _labels(self) -> tuple[Path | None, str]:
        if self.split.labels is not None:
            return self.root / self.split.labels, self.dataset.label_suffix
        return (self.root / self.split.panoptic if self.split.panoptic else None), ".png"

    def _check_index(self, index: Path) -> None:
        if not index.exists() or sha256(index) != self.noted["index_sha256"]:
            raise DataError(f"{index}: not the table of the conversion; convert {self.name} again")

    def _check_annotations(self) -> None:
        digest = self.noted.get("annotations_sha256")
        if digest is not None:
            path = self.root / str(self.split.annotations)
            if not path.exists() or sha256(path) != digest:
                raise DataError(
                    f"{path}: not the file of the conversion; delete it and convert {self.name}"
                    " again"
                )

    def _check_tree(self) -> None:
        """Compare the raw files with the index that the archive brings, when both are there."""
        index, tree = (self.split.raw.get(role) for role in ("index", "tree"))
        if index is None or tree is None or not (self.root / index).exists():
            return
        listed = {Path(name).stem for name in read_index_files(self.root / index)}
        found = {path.stem for path in (self.root / tree).rglob("ADE_*.jpg")}
        if found and listed != found:
            odd = sorted(listed ^ found)
            raise DataError(
                f"{self.root / tree}: {len(found)} images, the index of the archive lists"
                f" {len(listed)} ({len(odd)} differ, first {odd[0]}); unpack the archive again"
            )


def _check_names(stems: list[str], folder: Path, suffix: str, index: Path) -> None:
    pair(stems, list_stems(folder, suffix), index, folder)


def _check(check: _Check) -> list[str]:
    return [*_check_image(check), *_check_label(check)]


def _check_image(check: _Check) -> Iterator[str]:
    if check.image.exists():  # a missing one is named by the comparison of names
        try:
            height, width = read_rgb(check.image, oriented=True).shape[:2]
        except DataError as error:
            yield str(error)
            return
        if (width, height) != check.size:
            yield (
                f"{check.image}: {width} x {height} pixels, {check.size[0]} x {check.size[1]} were"
                " noted; obtain it again"
            )


def _check_label(check: _Check) -> Iterator[str]:
    if check.label is not None and check.digest and check.label.exists():
        if sha256(check.label) != check.digest:
            yield (
                f"{check.label}: not the file that the conversion wrote; delete it and convert"
                " again"
            )


def _problem(check: Any, *arguments: Any) -> list[str]:
    """Return the error of a check as a list of one sentence, or of none."""
    try:
        check(*arguments)
    except DataError as error:
        return [str(error)]
    return []


_BUILTINS = ("set", "frozenset", "complex", "bytearray")
_ADMITTED = {
    *(("builtins", name) for name in _BUILTINS),
    *(("__builtin__", name) for name in _BUILTINS),  # their home in Python 2
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),  # how Python 2's protocol writes bytes
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
}
"""Besides what pickle builds itself: numbers, text, lists, tuples and dictionaries."""


class PlainUnpickler(pickle.Unpickler):
    """Admits plain containers and numpy arrays; anything else in the file is refused, not run."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names, when it is on the list.

        Raises:
            pickle.UnpicklingError: it is not.
        """
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not data")
        return super().find_class(module, name)


def read_index_files(path: Path) -> list[str]:
    """Return the image file names of `index_ade20k.pkl`.

    Raises:
        DataError: the file is missing or damaged, holds more than data, or lists no files.
    """
    try:
        content = PlainUnpickler(io.BytesIO(path.read_bytes())).load()
        names = [str(name) for name in content["filename"]]
    except FileNotFoundError:
        raise DataError(f"{path}: no such index; unpack its archive first") from None
    except Exception as error:  # damaged bytes can lead a pickle to any error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: not read as an index of images ({reason}); unpack its archive again"
        ) from None
    if not names:
        raise DataError(f"{path}: lists no image; unpack its archive again")
    return names
