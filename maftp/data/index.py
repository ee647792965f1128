"""The table of a converted split's images, so that nothing has to be opened to list them."""

from __future__ import annotations

import csv
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
