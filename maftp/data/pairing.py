"""Images and labels belong together by the stem of their file names, never by their order."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from maftp.errors import DataError


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
