"""PASCAL VOC 2012: palette label maps to 20 classes without background, or to 21 with it."""

from __future__ import annotations

import filecmp
from functools import partial
from pathlib import Path

import numpy as np

from maftp.data.convert.driver import (
    Conversion,
    Made,
    Outcome,
    SemanticStep,
    Task,
    finished_tasks,
    map_values,
    prepare_folder,
    run_tasks,
)
from maftp.data.images import link_or_copy, read_label
from maftp.errors import DataError
from maftp.files import atomic_path
from maftp.lock import locked

IGNORE = 255
_REFUSED = 254


def voc_table(classes: int, *, background: bool) -> np.ndarray:
    """Return the class of every raw value, (256,) u8.

    Args:
        classes: number of classes that come out, background included when it is one.
        background: raw 0 is class 0 (VOC-21); otherwise it is ignored and k becomes k - 1 (PAS-20).

    255, the border, is ignored. Any other value has entry 254, which no class has.
    """
    table = np.full(256, _REFUSED, np.uint8)
    table[255] = IGNORE
    if background:
        table[:classes] = np.arange(classes)
    else:
        table[0] = IGNORE
        table[1 : classes + 1] = np.arange(classes)
    return table


def convert_voc(conversion: Conversion, *, background: bool) -> Outcome:
    """Write the label maps of the listed images, and link these images into a folder of their own.

    Raises:
        DataError: an image or label map is missing, damaged, or holds an unknown value.
    """
    classes = len(conversion.vocabulary)
    table = voc_table(classes, background=background)
    tasks = finished_tasks(conversion) or _tasks(conversion)
    step = SemanticStep(partial(_make, table=table), classes, IGNORE)
    results = run_tasks(step, tasks, workers=conversion.workers, description=conversion.name)
    return Outcome(results)


def listed_stems(path: Path) -> list[str]:
    """Return the sorted stems of a VOC image list.

    Raises:
        DataError: the list is missing or holds a stem twice.
    """
    try:
        stems = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error}); unpack its archive first") from None
    if len(stems) != len(set(stems)):
        raise DataError(f"{path}: an image is listed twice; unpack its archive again")
    return sorted(stems)


def link_images(stems: list[str], source: Path, target: Path) -> None:
    """Put the images `stems` of `source` into `target`, as links where the file system has them.

    A note in `target` lists them, so that those of another list are removed; other files stay.

    Raises:
        DataError: an image is missing.
    """
    with locked(target / ".lock"):
        note = target / ".linked.txt"
        before = note.read_text().split() if note.exists() else []
        for stem in set(before) - set(stems):
            (target / f"{stem}.jpg").unlink(missing_ok=True)
        with atomic_path(note) as temporary:
            temporary.write_text("".join(f"{stem}\n" for stem in stems))
        for stem in stems:
            linked, image = target / f"{stem}.jpg", source / f"{stem}.jpg"
            if not image.exists() and not linked.exists():
                raise DataError(f"{image}: no such image; unpack its archive again")
            if image.exists() and not _same(image, linked):
                link_or_copy(image, linked)


def _tasks(conversion: Conversion) -> list[Task]:
    stems = listed_stems(conversion.raw("list"))
    link_images(stems, conversion.raw("images"), conversion.images)
    prepare_folder(conversion.labels)
    images, labels, raw = conversion.images, conversion.labels, conversion.raw("labels")
    return [
        Task(stem, images / f"{stem}.jpg", labels / f"{stem}.png", raw / f"{stem}.png")
        for stem in stems
    ]


def _make(task: Task, *, table: np.ndarray) -> Made:
    if task.raw is None:
        raise DataError(f"{task.label}: damaged; delete it and convert again")
    raw = read_label(task.raw, modes=("P", "L"))
    return map_values(raw, table, task.raw, refused=_REFUSED), 0


def _same(image: Path, linked: Path) -> bool:
    return linked.exists() and (linked.samefile(image) or filecmp.cmp(image, linked, shallow=False))
