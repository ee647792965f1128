"""The table of a converted split's images, so that nothing has to be opened to list them."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from maftp.errors import DataError


@dataclass(frozen=True, slots=True)
class ImageRow:
    """One image of a converted split."""

    stem: str
    width: int
    """Of the upright image."""
    height: int
    trainable: bool
    """False where no pixel has a class, or where EXIF turns the image away from its label."""
    sha256: str
    """Of its label map; empty where the ground truth is one JSON file."""


def write_index(path: Path, rows: Iterable[ImageRow]) -> None:
    """Write the table as CSV with Unix line ends."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(ImageRow.__dataclass_fields__)
        for row in rows:
            writer.writerow((row.stem, row.width, row.height, int(row.trainable), row.sha256))


def read_index(path: Path) -> list[ImageRow]:
    """Read the table.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [_row(row) for row in csv.DictReader(file)]
        if len({row.stem for row in rows}) != len(rows):
            raise ValueError("an image occurs twice")
        return rows
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise DataError(
            f"{path}: not a table of images ({error}); convert its dataset again"
        ) from None


def _row(row: dict[str, str]) -> ImageRow:
    width, height = int(row["width"]), int(row["height"])
    if min(width, height) < 1 or row["trainable"] not in ("0", "1") or not row["stem"]:
        raise ValueError(f"{row['stem']!r}: size or mark is none")
    return ImageRow(row["stem"], width, height, row["trainable"] == "1", row.get("sha256") or "")


def list_stems(folder: Path, suffix: str, *, missing_ok: bool = False) -> list[str]:
    """Return the sorted stems of the files with `suffix` in `folder`; hidden files do not count.

    Raises:
        DataError: there is no such folder and `missing_ok` is false.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        if missing_ok:
            return []
        raise DataError(f"{folder}: no such folder; obtain and unpack its archive first") from None
    return sorted(
        name[: -len(suffix)] for name in names if name.endswith(suffix) and name[0] != "."
    )


def pair(images: Iterable[str], labels: Iterable[str], image_dir: Path, label_dir: Path) -> None:
    """Check that images and labels have the same stems.

    Raises:
        DataError: names the first stem that only one of the folders has.
    """
    images, labels = set(images), set(labels)
    alone = sorted(images ^ labels)
    if alone:
        stem = alone[0]
        has, lacks = (image_dir, label_dir) if stem in images else (label_dir, image_dir)
        raise DataError(
            f"{lacks}: nothing for {stem!r}, which {has} has ({len(alone)} such differences in"
            f" {len(images)} images and {len(labels)} labels); complete the folder, or remove the"
            " rest"
        )
