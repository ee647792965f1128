"""A flat folder of exactly the images of a split, linked from where their archive has them."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from pathlib import Path

from maftp.errors import DataError
from maftp.files import atomic_path, link_or_copy
from maftp.lock import locked


def link_images(images: Mapping[str, Path], target: Path) -> None:
    """Put `images` into `target`, as hard links where the file system has them.

    A note in `target` lists them, so that those of another list are removed; other files stay.

    Args:
        images: file by the stem it gets in `target`; its suffix stays.
        target: the folder.

    Raises:
        DataError: an image is missing.
    """
    names = {f"{stem}{image.suffix}": image for stem, image in images.items()}
    with locked(target / ".lock"):
        note = target / ".linked.txt"
        before = note.read_text().split() if note.exists() else []
        for name in set(before) - names.keys():
            (target / name).unlink(missing_ok=True)
        with atomic_path(note) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in names))
        for name, image in names.items():
            linked = target / name
            if not image.exists() and not linked.exists():
                raise DataError(f"{image}: no such image; unpack its archive again")
            if image.exists() and not _same(image, linked):
                link_or_copy(image, linked)


def _same(image: Path, linked: Path) -> bool:
    return linked.exists() and (linked.samefile(image) or filecmp.cmp(image, linked, shallow=False))
