"""Images and ground truth that were found sound, in whichever form they came."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from maftp.data.images import PICTURE, opened, rgb_pixels
from maftp.data.own.names import Names
from maftp.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
_MOST_FAULTS = 10


@dataclass(frozen=True)
class Checked:
    """One split of a set, found sound."""

    kind: str
    """semantic, panoptic or instance."""
    converter: str
    """What makes training labels of it, by its name in the catalog."""
    names: Names
    images: dict[str, Path]
    """By stem."""
    files: dict[str, Path | Callable[[], bytes]]
    """What else belongs to it, by its path below the split's folder."""
    places: dict[str, Any]
    """Keys of the split's catalog entry; paths below the split's folder."""
    labels_of: Callable[[str], NDArray]
    """Class indices of an image, (H, W) int32, negative where there is none."""
    pixels: list[int]
    """Of every class."""
    ignored_pixels: int
    ignored_values: tuple[int, ...] = ()


def list_files(folder: Path, suffixes: Iterable[str], what: str) -> dict[str, Path]:
    """Return the files of a folder by stem; hidden ones and sub-folders do not count.

    Raises:
        DataError: there is no such folder, it holds none, or two of them have one stem.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of {what}; mend the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and path.name[0] != "." and path.is_file():
            if path.stem in found:
                raise DataError(
                    f"{path}: {found[path.stem].name} has the same name but for its ending; keep "
                    "one of them"
                )
            found[path.stem] = path
    if not found:
        endings = ", ".join(suffixes)
        raise DataError(f"{folder}: no {what} in it ({endings}; sub-folders are not searched)")
    return found


def check_image(path: Path) -> None:
    """Decode an image wholly.

    Raises:
        DataError: it is damaged or no image.
    """
    with opened(path, PICTURE) as image:
        rgb_pixels(image, name=str(path), oriented=True)


def refuse(faults: Iterable[str]) -> None:
    """Raise what is wrong, a sentence a line, when anything is.

    Raises:
        DataError: there is a fault.
    """
    found = list(faults)
    if found:
        more = [f"... and {len(found) - _MOST_FAULTS} more"] * (len(found) > _MOST_FAULTS)
        raise DataError("\n".join([*found[:_MOST_FAULTS], *more]))


def unpaired(images: Iterable[str], labels: Iterable[str], folder: Path, other: Path) -> list[str]:
    """Return a sentence for every stem that only one side has."""
    images, labels = set(images), set(labels)
    return [
        f"{other if stem in images else folder}: nothing for {stem!r}, which "
        f"{folder if stem in images else other} has; add it, or remove the other file"
        for stem in sorted(images ^ labels)
    ]
