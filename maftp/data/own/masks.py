"""Label maps paired with images by stem: 8 or 16 bits, with a palette, or painted in colours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maftp.data.convert.driver import count_values, fit_size, run_tasks
from maftp.data.images import Wording, encode_png, opened, segment_ids
from maftp.data.own.checked import (
    IMAGE_SUFFIXES,
    Checked,
    check_image,
    list_files,
    refuse,
    unpaired,
)
from maftp.data.own.names import LARGEST, Names, read_palette
from maftp.errors import DataError

_MASK = Wording(
    "no such mask; mend the path",
    "not an image; save the mask as PNG",
    "save the mask as PNG again",
)
_LINKED = ("L", "P", "I;16")
"""What the conversion reads as it is; other masks are written anew."""
_GREY = (*_LINKED, "1", "LA")


@dataclass(frozen=True)
class _Pair:
    stem: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class _Found:
    stem: str
    fault: str | None = None
    counts: dict[int, int] | None = None
    linked: bool = True


def check_label_maps(
    images: Path,
    masks: Path,
    names: Names,
    *,
    palette: Path | None,
    ignore: tuple[int, ...],
    workers: int,
) -> Checked:
    """Check every image and its mask: that both decode, fit, and hold known values only.

    Args:
        images: folder of the images.
        masks: folder of the PNGs, with the stems of the images.
        names: the classes by their value in the masks.
        palette: file that says which colour is which class, for masks in colours.
        ignore: values that are no class; by default the largest value, 255 or 65535.
        workers: processes.

    Raises:
        DataError: says of every fault where it is and what to do.
    """
    pairs = _pairs(images, masks)
    rows = names.rows
    void = 255 if max(rows) < 255 else 65535
    ignored = names.ignored | set(ignore) | ({255, 65535} - set(rows))
    if beyond := [value for value in ignore if not 0 <= value <= LARGEST]:
        raise DataError(f"--ignore {beyond[0]}: masks hold values from 0 to {LARGEST} only")
    if clash := sorted(set(ignore) & set(rows)):
        raise DataError(
            f"{names.where}: value {clash[0]} is a class; remove its line, or do not --ignore it"
        )
    colours = None if palette is None else read_palette(palette, names, void=void)
    step = partial(
        _check, rows=frozenset(rows), ignored=ignored, colours=colours,
        names=names.where, palette=palette,
    )  # fmt: skip
    results = run_tasks(step, pairs, workers=workers, description=f"check {masks.name}")
    refuse(result.fault for result in results if result.fault)
    counts: dict[int, int] = {}
    for result in results:
        for value, count in (result.counts or {}).items():
            counts[value] = counts.get(value, 0) + count
    found = {pair.stem: pair for pair in pairs}
    linked = {result.stem for result in results if result.linked}
    return Checked(
        kind="semantic",
        converter="label_maps",
        names=names,
        images={pair.stem: pair.image for pair in pairs},
        files={
            f"masks/{stem}.png": pair.mask
            if stem in linked
            else partial(_encoded, pair.mask, colours)
            for stem, pair in found.items()
        },
        places={"labels": "labels", "raw": {"labels": "masks"}},
        labels_of=lambda stem: _classes(read_values(found[stem].mask, colours), rows),
        pixels=[counts.get(row, 0) for row in rows],
        ignored_pixels=sum(count for value, count in counts.items() if value not in set(rows)),
        ignored_values=tuple(sorted(ignored)),
    )


def read_values(path: Path, colours: dict[int, int] | None) -> NDArray:
    """Return the values of a mask, (H, W) u8 or u16; of one in colours, those of its palette.

    Raises:
        DataError: it is damaged, no PNG, in colours without a palette, or a colour is unknown.
    """
    return _read(path, colours)[0]


def _read(path: Path, colours: dict[int, int] | None) -> tuple[NDArray, bool]:
    """Return the values of a mask, and whether it can stay as it is."""
    with opened(path, _MASK, whole=True) as image:
        if image.format != "PNG":
            raise DataError(f"{path}: a {image.format} file, no PNG; save masks as lossless PNGs")
        if colours is not None:
            return _by_colour(np.asarray(image.convert("RGB")), colours, path), False
        values, mode = np.asarray(image), image.mode
    if mode not in _GREY:
        if (values[..., :3] != values[..., :1]).any():
            raise DataError(
                f"{path}: a mask in colours; name the file that says which colour is which class "
                "with --palette"
            )
        return values[..., 0], False
    values = values[..., 0] if mode == "LA" else values
    return values.astype(np.uint8) if mode == "1" else values, mode in _LINKED


def _by_colour(rgb: NDArray, colours: dict[int, int], path: Path) -> NDArray:
    codes = segment_ids(rgb)
    known = np.array(sorted(colours), codes.dtype)
    position = np.searchsorted(known, codes).clip(max=len(known) - 1)
    wrong = known[position] != codes
    if wrong.any():
        code = int(codes[wrong][0])
        colour = " ".join(str(code >> shift & 255) for shift in (0, 8, 16))
        raise DataError(
            f"{path}: colour {colour} is not in the palette; add a line for it, with the name "
            "'ignore' if it is no class"
        )
    values = np.array([colours[int(code)] for code in known])
    return values.astype(np.uint8 if values.max() < 256 else np.uint16)[position]


def _check(
    pair: _Pair,
    *,
    rows: frozenset[int],
    ignored: frozenset[int],
    colours: dict[int, int] | None,
    names: str,
    palette: Path | None,
) -> _Found:
    """Check one pair; its fault is told, not raised, so that all are found."""
    try:
        check_image(pair.image)
        values, linked = _read(pair.mask, colours)
        fit_size((values.shape[1], values.shape[0]), pair.image, pair.mask)
    except DataError as error:
        return _Found(pair.stem, str(error))
    counts = {int(v): int(n) for v, n in enumerate(count_values(values)) if n}
    unknown = sorted(counts.keys() - rows - ignored)
    if unknown:
        more = f" and {len(unknown) - 1} more are" if len(unknown) > 1 else " is"
        return _Found(
            pair.stem,
            f"{pair.mask}: value {unknown[0]}{more} not in {names}, which has {min(rows)} to "
            f"{max(rows)}; add a line '{unknown[0]}:NAME', or --ignore {unknown[0]}",
        )
    return _Found(pair.stem, None, counts, linked)


def _pairs(images: Path, masks: Path) -> list[_Pair]:
    suffixes = [s for s in IMAGE_SUFFIXES if s != ".png" or not _same(images, masks)]
    pictures = list_files(images, suffixes, "images")
    maps = list_files(masks, (".png",), "masks")
    refuse(unpaired(pictures, maps, images, masks))
    return [_Pair(stem, image, maps[stem]) for stem, image in pictures.items()]


def _same(first: Path, second: Path) -> bool:
    return first.is_dir() and second.is_dir() and first.samefile(second)


def _encoded(mask: Path, colours: dict[int, int] | None) -> bytes:
    return encode_png(np.ascontiguousarray(read_values(mask, colours)))


def _classes(values: NDArray, rows: list[int]) -> NDArray:
    table = np.full(65536, -1, np.int32)
    table[rows] = np.arange(len(rows))
    return table[values]
