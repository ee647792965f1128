"""Convert a dataset of the catalog and write the manifest of what came out."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2

from maftp.data.catalog import Catalog, Dataset
from maftp.data.convert import (
    ade20k,
    ade20k_full,
    ade20k_segments,
    cityscapes,
    cityscapes_panoptic,
    coco,
    coco_instances,
    label_maps,
    pascal_context,
    pascal_voc,
)
from maftp.data.convert.driver import Conversion, Outcome, Result
from maftp.data.index import ImageRow, list_stems, pair, write_index
from maftp.data.inventory import is_broken, note_repair
from maftp.data.layout import index_path, manifest_path, read_note, stamp_path, vocabulary_path
from maftp.data.transfer import full_disk_named
from maftp.data.vocabulary import Vocabulary, read_vocabulary
from maftp.errors import DataError
from maftp.files import atomic_path, sha256, write_json
from maftp.lock import locked

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Converter:
    """How the labels of a dataset are made."""

    run: Callable[[Conversion], Outcome]
    outputs: tuple[str, ...] = ("labels",)
    """Which paths of a split it makes."""
    version: int = 1
    """Raised when its outputs change: older ones are made anew."""


CONVERTERS: dict[str, Converter] = {
    "coco_stuff": Converter(coco.convert_stuff),
    "coco_panoptic": Converter(coco.convert_panoptic),
    "ade20k_150": Converter(ade20k.convert_150),
    "ade20k_panoptic": Converter(ade20k_segments.convert_panoptic, ("panoptic", "annotations")),
    "ade20k_instance": Converter(ade20k_segments.convert_instance, ("annotations",)),
    "ade20k_847": Converter(ade20k_full.convert_847, ("images", "labels")),
    "pascal_ctx_59": Converter(pascal_context.convert_59),
    "pascal_ctx_59_from_459": Converter(pascal_context.convert_59_from_459),
    "pascal_ctx_459": Converter(pascal_context.convert_459),
    "pascal_voc_20": Converter(partial(pascal_voc.convert_voc, background=False)),
    "pascal_voc_21": Converter(partial(pascal_voc.convert_voc, background=True)),
    "cityscapes": Converter(cityscapes.convert_cityscapes),
    "cityscapes_panoptic": Converter(
        cityscapes_panoptic.convert_cityscapes_panoptic, ("panoptic", "annotations")
    ),
    "label_maps": Converter(label_maps.convert_label_maps),
    "coco_instance": Converter(coco_instances.convert_instances, ("labels", "annotations")),
}
"""Converters by the name that the catalog uses."""


def convert(name: str, catalog: Catalog, root: Path, *, workers: int) -> Path:
    """Convert dataset `name` below `root` and return its manifest, which is written last.

    What is there and sound stays; only missing or damaged outputs are made. The result does not
    depend on `workers`, nor on how often the conversion was interrupted.

    Raises:
        DataError: sources are missing or damaged, or counts or classes are not the catalog's.
    """
    dataset = catalog.dataset(name)
    if dataset.converter not in CONVERTERS:
        raise DataError(
            f"catalog, dataset {name}: converter {dataset.converter!r} is not known; known:"
            f" {', '.join(CONVERTERS)}"
        )
    manifest = manifest_path(root, name)
    with locked(manifest.with_name(f".{name}.lock")), full_disk_named(f"dataset {name} in {root}"):
        broken = is_broken(name, dataset, root)
        vocabulary = read_dataset_vocabulary(name, dataset, root)
        _remove_other_version(name, dataset, root)
        splits = {}
        for split, entry in dataset.splits.items():
            if entry.count:
                conversion = Conversion(name, split, dataset, vocabulary, root, workers)
                splits[split] = _convert_split(conversion)
        categories = [split.pop("categories") for split in splits.values()]
        write_json(
            manifest,
            {
                "dataset": name,
                "converter": dataset.converter,
                "classes": len(vocabulary),
                "vocabulary": {"stem": dataset.vocabulary, "sha256": vocabulary.digest},
                "ignore_label": dataset.ignore_label,
                "versions": {package: version(package) for package in ("pillow", "numpy")}
                | {"opencv": cv2.__version__},
                "splits": splits,
                "categories": categories[0] if categories else None,
            },
        )
        if broken:
            note_repair(name, root)
    return manifest


def _remove_other_version(name: str, dataset: Dataset, root: Path) -> None:
    """Remove outputs that were made from another version of a source, or by an older converter.

    What made them is noted before anything is made. Sources that the user has put in place have no
    digest, and nothing is known of outputs without a note: these stay.
    """
    converter = CONVERTERS[dataset.converter]
    note = manifest_path(root, name).with_name(f".{name}.sources.json")
    now: dict[str, Any] = {"": converter.version}
    for source in dataset.sources:
        stamp = stamp_path(root, source)
        mend = f"delete it and run 'maftp unpack {source}' again"
        known = read_note(stamp, "sha256", mend=mend) if stamp.exists() else {"sha256": None}
        now[source] = known["sha256"]
    before = read_note(note, mend="delete it and convert again") if note.exists() else {}
    changed = [key for key, value in now.items() if value and before.get(key, value) != value]
    if changed:
        logger.info(
            "%s: another version of %s; converting anew", name, changed[0] or "the converter"
        )
        for split in dataset.splits.values():
            for output in converter.outputs:
                place = root / getattr(split, output)
                if place.is_dir():
                    shutil.rmtree(place)
                else:
                    place.unlink(missing_ok=True)
    write_json(note, before | {key: value for key, value in now.items() if value})


def read_dataset_vocabulary(name: str, dataset: Dataset, root: Path) -> Vocabulary:
    """Read the vocabulary of a dataset.

    Raises:
        DataError: it is missing, wrong, or has another number of classes than the catalog says.
    """
    path = vocabulary_path(root, dataset.vocabulary)
    vocabulary = read_vocabulary(path, keep_row_zero=dataset.keep_row_zero)
    if len(vocabulary) != dataset.classes:
        raise DataError(
            f"{path}: {len(vocabulary)} classes, but the catalog gives dataset {name}"
            f" {dataset.classes}; obtain the vocabulary again or mend the catalog"
        )
    return vocabulary


def _convert_split(conversion: Conversion) -> dict[str, Any]:
    outcome = CONVERTERS[conversion.dataset.converter].run(conversion)
    results = outcome.results
    split = conversion.split
    if len(results) != split.count:
        raise DataError(
            f"{conversion.name}, {conversion.split_name}: {len(results)} images, the catalog"
            f" expects {split.count}; complete {conversion.images} or mend the catalog"
        )
    _check_folders(conversion, [result.stem for result in results])
    ignore = conversion.dataset.ignore_label
    pixels = [0] * len(conversion.vocabulary)
    ignored = 0
    for result in results:
        for value, count in result.pixels.items():
            if value == ignore:
                ignored += count
            else:
                pixels[value] += count
    _check_presence(conversion, pixels)
    digests = "".join(f"{result.stem} {result.digest}\n" for result in results)
    unfitting = [result.stem for result in results if not result.fits]
    if unfitting:
        logger.warning(
            "%s: EXIF turns %d images away from their labels, not used in training: %s",
            conversion.name, len(unfitting), ", ".join(unfitting[:5]),
        )  # fmt: skip
    return {
        "name": split.name,
        "images": len(results),
        "pixels": pixels,
        "ignored_pixels": ignored,
        "unlabelled": [result.stem for result in results if not is_labelled(result, ignore)],
        "turned_by_exif": unfitting,
        "outputs_sha256": hashlib.sha256(digests.encode()).hexdigest(),
        "index_sha256": _write_index(conversion, results),
        **outcome.details,
        "categories": outcome.categories,
    }


def _check_folders(conversion: Conversion, stems: list[str]) -> None:
    """Check that the folders hold the images and labels of `stems` and no others."""
    split, suffix = conversion.split, conversion.dataset.label_suffix
    images, manifest = conversion.images, manifest_path(conversion.root, conversion.name)
    pair(list_stems(images, conversion.dataset.image_suffix), stems, images, manifest)
    if split.labels is not None:
        pair(stems, list_stems(conversion.labels, suffix), images, conversion.labels)
    if split.panoptic is not None:
        pair(stems, list_stems(conversion.panoptic, ".png"), images, conversion.panoptic)


def is_labelled(result: Result, ignore_label: int) -> bool:
    """Tell whether any pixel has a class."""
    return any(value != ignore_label for value in result.pixels)


def _check_presence(conversion: Conversion, pixels: list[int]) -> None:
    expected = conversion.split.absent
    absent = [index for index, count in enumerate(pixels) if count == 0]
    if expected is not None and absent != sorted(expected):
        odd = sorted(set(absent) ^ set(expected))
        names = conversion.vocabulary.names
        raise DataError(
            f"{conversion.name}, {conversion.split_name}: {len(absent)} classes have no pixel,"
            f" {len(expected)} are expected (first difference: class {odd[0]}, {names[odd[0]]!r});"
            " obtain the labels again or mend 'absent' in the catalog"
        )


def _write_index(conversion: Conversion, results: list[Result]) -> str:
    """Write the table of images, described in `layout.index_path`; return its SHA-256."""
    path = index_path(conversion.root, conversion.name, conversion.split_name)
    ignore = conversion.dataset.ignore_label
    rows = (
        ImageRow(
            result.stem,
            result.width,
            result.height,
            result.fits and is_labelled(result, ignore),
            result.digest,
        )
        for result in results
    )
    with atomic_path(path) as temporary:
        write_index(temporary, rows)
        return sha256(temporary)
