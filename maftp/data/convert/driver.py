"""One image at a time, over all cores: make what is missing, check what is there, count pixels."""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from maftp.data.catalog import Dataset, Split
from maftp.data.images import encode_png, encode_tiff, image_size, read_label, write_bytes
from maftp.data.index import list_stems, pair
from maftp.data.vocabulary import Vocabulary
from maftp.errors import DataError
from maftp.process_pool import process_pool
from maftp.progress import track

_TASKS_WORTH_A_PROCESS = 128  # starting one takes about a second
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES = 2**30

Given = TypeVar("Given")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Conversion:
    """One split of a dataset and where its files lie."""

    name: str
    split_name: str
    dataset: Dataset
    vocabulary: Vocabulary
    root: Path
    workers: int

    @property
    def split(self) -> Split:
        """The split's entry in the catalog."""
        return self.dataset.splits[self.split_name]

    @property
    def images(self) -> Path:
        """Folder of the images."""
        return self.root / self.split.images

    @property
    def labels(self) -> Path:
        """Folder of the label maps that are made."""
        return self._folder("labels", self.split.labels)

    def image(self, stem: str) -> Path:
        """Return the file of an image."""
        return self.images / f"{stem}{self.dataset.image_suffix}"

    def label(self, stem: str) -> Path:
        """Return the file of a label map that is made."""
        return self.labels / f"{stem}{self.dataset.label_suffix}"

    @property
    def panoptic(self) -> Path:
        """Folder of the panoptic PNGs."""
        return self._folder("panoptic", self.split.panoptic)

    @property
    def annotations(self) -> Path:
        """JSON file of the panoptic or instance ground truth."""
        return self._folder("annotations", self.split.annotations)

    def raw(self, role: str) -> Path:
        """Return the file or folder that the catalog gives as raw `role`."""
        return self._folder(f"raw.{role}", self.split.raw.get(role))

    def _folder(self, key: str, value: str | None) -> Path:
        if value is None:
            raise DataError(f"catalog, dataset {self.name}: key {key!r} is missing; add it")
        return self.root / value


@dataclass(frozen=True, slots=True)
class Task:
    """One image: what is made for it and out of what."""

    stem: str
    image: Path
    label: Path
    raw: Path | None = None
    records: Any = None


@dataclass(frozen=True, slots=True)
class Result:
    """What is known of one image after its conversion."""

    stem: str
    width: int
    height: int
    fits: bool
    """False where the label fits the stored image and the EXIF orientation turns that sideways."""
    pixels: dict[int, int]
    """Label value to number of pixels."""
    digest: str
    odd: int = 0
    """What deserves a remark: raw pixels that were ignored though their value should not occur, or
    segments of which later ones cover a part."""
    segments: list[dict[str, Any]] | None = None
    remade: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """A converted split."""

    results: list[Result]
    categories: list[dict[str, Any]] | None = None
    details: dict[str, Any] = field(default_factory=dict)


Made = tuple[np.ndarray, int]
"""A label map, and the number of raw pixels ignored though their value should not occur."""


@dataclass(frozen=True, slots=True)
class SemanticStep:
    """Makes, or checks, the label map of one image."""

    make: Callable[[Task], Made]
    classes: int
    ignore_label: int

    def __call__(self, task: Task) -> Result:
        """Make the label map of `task` unless a sound one is there.

        Raises:
            DataError: raw data are damaged or hold values that are not described.
        """
        if task.label.exists() and task.image.exists():
            try:
                result = self._result(task, read_label(task.label))
                return replace(result, digest=sha256_of(task.label), remade=False)
            except DataError:
                if task.raw is None:
                    raise
        if task.raw is None:
            raise DataError(f"{task.label}: missing or damaged; delete it and convert again")
        label, odd = self.make(task)
        result = self._result(task, label)
        data = encode_tiff(label) if self.ignore_label > 255 else encode_png(label)
        return replace(result, digest=write_bytes(task.label, data), odd=odd)

    def _result(self, task: Task, label: np.ndarray) -> Result:
        width, height, fits = fit(label, task.image, task.label)
        return Result(task.stem, width, height, fits, self._count(label, task.label), "")

    def _count(self, label: np.ndarray, path: Path) -> dict[int, int]:
        expected = np.uint16 if self.ignore_label > 255 else np.uint8
        if label.dtype != expected or label.ndim != 2:
            raise DataError(
                f"{path}: {label.dtype} with {label.ndim} axes, expected {expected.__name__}"
                " with 2; delete it and convert again"
            )
        counts = count_values(label)
        values = np.flatnonzero(counts > 0).tolist()
        for value in values:
            if value >= self.classes and value != self.ignore_label:
                raise DataError(
                    f"{path}: value {value}, expected 0..{self.classes - 1} or {self.ignore_label};"
                    " the vocabulary and the labels do not belong together, or the file is damaged"
                )
        return {value: int(counts[value]) for value in values}


def fit(label: np.ndarray, image: Path, path: Path) -> tuple[int, int, bool]:
    """Return the upright size (width, height) of `image` and whether `label` fits it upright.

    Raises:
        DataError: the label has another size than the image, upright or as stored.
    """
    return fit_size((label.shape[1], label.shape[0]), image, path)


def fit_size(found: tuple[int, int], image: Path, path: Path) -> tuple[int, int, bool]:
    """Do what `fit` does for a label of `found` (width, height) pixels."""
    width, height, sideways = image_size(image)
    upright = (height, width) if sideways else (width, height)
    if found not in (upright, (width, height)):
        raise DataError(
            f"{path}: label of {found[0]} x {found[1]} pixels, but its image {image} has"
            f" {width} x {height}; obtain both again, a label is never resized"
        )
    return upright[0], upright[1], found == upright


def map_values(raw: np.ndarray, table: np.ndarray, path: Path, *, refused: int) -> np.ndarray:
    """Return `table[raw]`; every raw value must have an entry other than `refused`.

    Args:
        raw: u8 or u16 label map.
        table: (N,) u8 or u16 entry per raw value.
        path: file of `raw`, for the error.
        refused: entry of values that must not occur.

    Raises:
        DataError: names the file and the value.
    """
    every = np.full(np.iinfo(raw.dtype).max + 1, refused, table.dtype)
    every[: len(table)] = table
    label = cv2.LUT(raw, every)  # np.take widens the values to indices, in three times the time
    wrong = label == refused
    if wrong.any():
        raise DataError(
            f"{path}: value {raw[wrong].min()} is not a class of the vocabulary; use the labels and"
            " the vocabulary of one release"
        )
    return label


def count_values(values: np.ndarray) -> np.ndarray:
    """Return how often each value occurs, as `np.bincount` does.

    Labels are regions: adding up runs of equal values takes a third of the time of counting pixels.
    """
    flat = values.ravel()
    starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
    lengths = np.diff(starts, append=flat.size)
    return np.bincount(flat[starts], weights=lengths).astype(np.int64)


def run_tasks(
    step: Callable[[Given], Found], tasks: Sequence[Given], *, workers: int, description: str
) -> list[Found]:
    """Apply `step` to every task, in up to `workers` processes; results keep the order.

    Raises:
        DataError: of the first task that fails; what is finished stays and is not made again.
    """
    workers = min(workers, math.ceil(len(tasks) / _TASKS_WORTH_A_PROCESS))
    if workers <= 1:
        return [step(task) for task in track(tasks, description)]
    with process_pool(workers, prepare_process) as pool:
        try:
            results = pool.map(step, tasks, chunksize=16)
            return list(track(results, description, len(tasks)))
        except BrokenProcessPool:
            raise DataError(
                f"{description}: a process was killed, perhaps for want of memory; run it again"
                " with fewer workers, it goes on where it stopped"
            ) from None


def image_tasks(conversion: Conversion) -> list[Task]:
    """Return a task per image, whose raw label map is a PNG of the same stem.

    Raises:
        DataError: images and raw label maps do not pair up by stem and not all outputs are there.
    """
    raw = conversion.raw("labels")
    stems = list_stems(conversion.images, conversion.dataset.image_suffix)
    made = list_stems(conversion.labels, conversion.dataset.label_suffix, missing_ok=True)
    if made != stems:
        pair(stems, list_stems(raw, ".png"), conversion.images, raw)
    return make_tasks(conversion, {stem: raw / f"{stem}.png" for stem in stems})


def make_tasks(
    conversion: Conversion, raw: Mapping[str, Path], records: Mapping[str, Any] | None = None
) -> list[Task]:
    """Return a task per stem of `raw`, in the order of the stems, and prepare their folder.

    Args:
        conversion: the split.
        raw: raw label map by stem.
        records: what else is known by stem.
    """
    prepare_folder(conversion.labels)
    return [
        Task(
            stem,
            conversion.image(stem),
            conversion.label(stem),
            raw[stem],
            None if records is None else records[stem],
        )
        for stem in sorted(raw)
    ]


def finished_tasks(conversion: Conversion) -> list[Task] | None:
    """Return a task per image when all images and label maps are there, else None."""
    stems = list_stems(conversion.images, conversion.dataset.image_suffix, missing_ok=True)
    made = list_stems(conversion.labels, conversion.dataset.label_suffix, missing_ok=True)
    if stems != made or len(stems) != conversion.split.count:
        return None
    return [Task(stem, conversion.image(stem), conversion.label(stem)) for stem in stems]


def semantic_outcome(
    conversion: Conversion, tasks: list[Task], make: Callable[[Task], Made], ignore_label: int
) -> Outcome:
    """Make, or check, the label map of every task."""
    step = SemanticStep(make, len(conversion.vocabulary), ignore_label)
    return Outcome(run_tasks(step, tasks, workers=conversion.workers, description=conversion.name))


def prepare_folder(folder: Path) -> None:
    """Make `folder` and remove what an interrupted run left half-written in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.part"):
        leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def prepare_process() -> None:
    """Keep to one thread, and to memory once taken: for a process that does nothing but convert.

    glibc gives large blocks back to the system, and taking them again for every image costs a fifth
    of the time of ADE20K's.
    """
    cv2.setNumThreads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
