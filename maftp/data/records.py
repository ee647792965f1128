"""Converted datasets as Detectron2 records and metadata; images and labels are paired by stem.

Sizes come from the table that the conversion wrote, so that nothing has to be opened to list
118,000 images.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from maftp.data.annotations import read_instance_json, read_panoptic_json
from maftp.data.catalog import Catalog, Dataset, Split
from maftp.data.index import list_stems, pair, read_index
from maftp.data.layout import index_path, manifest_path, read_note, vocabulary_path
from maftp.data.vocabulary import read_vocabulary
from maftp.errors import DataError

Record = dict[str, Any]
"""Detectron2's dataset dict. `trainable` is false where no pixel has a class, or where EXIF turns
the image away from its label."""


def register(catalog: Catalog, root: Path) -> None:
    """Make every dataset of `catalog` known to Detectron2; records are listed when asked for.

    Calling it again, also with another root, replaces what it registered before.
    """
    for name, dataset in catalog.datasets.items():
        for split, entry in dataset.splits.items():
            if entry.count:
                register_split(name, dataset, split, root=Path(root))


def register_split(name: str, dataset: Dataset, split_name: str, *, root: Path) -> None:
    """Register one split with Detectron2, in place of what had its name before."""
    split = dataset.splits[split_name]
    if split.name in DatasetCatalog.list():
        DatasetCatalog.remove(split.name)
    if split.name in MetadataCatalog.list():
        MetadataCatalog.remove(split.name)
    DatasetCatalog.register(split.name, partial(list_records, name, dataset, split_name, root=root))
    metadata = MetadataCatalog.get(split.name)
    metadata.set(evaluator_type=dataset.evaluator_type, ignore_label=dataset.ignore_label)
    metadata.set(image_root=str(root / split.images), **_folders(dataset, split, root))
    if vocabulary_path(root, dataset.vocabulary).exists():
        metadata.set(**_class_metadata(name, dataset, root))


def list_records(name: str, dataset: Dataset, split_name: str, *, root: Path) -> list[Record]:
    """List the records of a converted split, sorted by stem.

    Raises:
        DataError: it is not converted, or images and labels do not pair up by stem.
    """
    split = dataset.splits[split_name]
    sizes = _read_index(name, split_name, root)
    images, image_suffix = root / split.images, dataset.image_suffix
    _pair_with(sizes, images, image_suffix, images)
    records = {
        stem: {
            "file_name": str(images / f"{stem}{image_suffix}"),
            "image_id": stem,
            "height": height,
            "width": width,
            "trainable": trainable,
        }
        for stem, (width, height, trainable) in sizes.items()
    }
    if split.labels is not None:
        labels, suffix = root / split.labels, dataset.label_suffix
        _pair_with(sizes, labels, suffix, images)
        for stem, record in records.items():
            record["sem_seg_file_name"] = str(labels / f"{stem}{suffix}")
    if dataset.kind != "semantic":
        _add_annotations(records, dataset, split, root)
    return list(records.values())


def _folders(dataset: Dataset, split: Split, root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if split.labels is not None:
        found |= {"sem_seg_root": str(root / split.labels)}
    if dataset.kind == "panoptic":
        found |= {
            "panoptic_root": str(root / str(split.panoptic)),
            "panoptic_json": str(root / str(split.annotations)),
            "label_divisor": 1000,
        }
    if dataset.kind == "instance":
        found |= {"json_file": str(root / str(split.annotations))}
    return found


def _class_metadata(name: str, dataset: Dataset, root: Path) -> dict[str, Any]:
    """Return names and colours; contiguous ids count over the whole vocabulary, things and stuff.

    So both `thing_classes` and `stuff_classes` hold all classes: Detectron2's drawing functions
    index either with a contiguous id.
    """
    path = vocabulary_path(root, dataset.vocabulary)
    vocabulary = read_vocabulary(path, keep_row_zero=dataset.keep_row_zero)
    colors = [category.color for category in vocabulary.categories]
    found: dict[str, Any] = {
        "vocabulary": vocabulary.names,
        "stuff_classes": vocabulary.names,
        "stuff_colors": colors,
    }
    categories = _categories(name, dataset, root)
    if categories is not None:
        ranks = _contiguous(categories, dataset)
        things = {category["id"] for category in categories if category["isthing"]}
        found |= {
            "things": sorted(ranks[identity] for identity in things),
            "thing_classes": vocabulary.names,
            "thing_colors": colors,
            "thing_dataset_id_to_contiguous_id": _only(ranks, things),
            "stuff_dataset_id_to_contiguous_id": _only(ranks, ranks.keys() - things),
        }
    return found


def _categories(name: str, dataset: Dataset, root: Path) -> list[dict[str, Any]] | None:
    manifest = manifest_path(root, name)
    if dataset.kind == "semantic" or not manifest.exists():
        return None
    mend = f"run 'maftp convert {name}' again"
    return read_note(manifest, "categories", mend=mend)["categories"]


def _contiguous(categories: Iterable[dict[str, Any]], dataset: Dataset) -> dict[int, int]:
    """Return class index by category id: its rank, but for instances, which leave stuff out."""
    ids = sorted(category["id"] for category in categories)
    if dataset.kind == "instance":
        return {identity: identity for identity in ids}
    return {identity: rank for rank, identity in enumerate(ids)}


def _only(ranks: dict[int, int], ids: Iterable[int]) -> dict[int, int]:
    return {identity: ranks[identity] for identity in sorted(ids)}


def _read_index(name: str, split_name: str, root: Path) -> dict[str, tuple[int, int, bool]]:
    manifest, path = manifest_path(root, name), index_path(root, name, split_name)
    if not manifest.exists() or not path.exists():
        raise DataError(
            f"{manifest}: dataset {name} is not converted; run 'maftp convert {name}' first"
        )
    return {row.stem: (row.width, row.height, row.trainable) for row in read_index(path)}


def _pair_with(stems: Iterable[str], folder: Path, suffix: str, images: Path) -> None:
    pair(stems, list_stems(folder, suffix), images, folder)


def _add_annotations(
    records: dict[str, Record], dataset: Dataset, split: Split, root: Path
) -> None:
    path = root / str(split.annotations)
    if dataset.kind == "instance":
        _add_instances(records, dataset, path)
    else:
        _add_segments(records, dataset, path, root / str(split.panoptic), root / split.images)


def _add_instances(records: dict[str, Record], dataset: Dataset, path: Path) -> None:
    found = read_instance_json(path)
    ranks = _contiguous(found.categories, dataset)
    lacking = sorted(records.keys() - found.images.keys())
    if lacking:
        raise DataError(
            f"{path}: no image {lacking[0]!r}, which the data set has; convert it again"
        )
    for stem, record in records.items():
        record["image_id"] = found.images[stem]["id"]
        record["annotations"] = [
            annotation
            | {"category_id": ranks[annotation["category_id"]], "bbox_mode": BoxMode.XYWH_ABS}
            for annotation in found.annotations[stem]
        ]


def _add_segments(
    records: dict[str, Record], dataset: Dataset, path: Path, folder: Path, images: Path
) -> None:
    found = read_panoptic_json(path)
    ranks = _contiguous(found.categories, dataset)
    isthing = {category["id"]: bool(category["isthing"]) for category in found.categories}
    _pair_with(records, folder, ".png", images)
    pair(records, found.annotations, images, path)
    for stem, annotation in found.annotations.items():
        record = records[stem]
        record["image_id"] = annotation["image_id"]
        record["pan_seg_file_name"] = str(folder / annotation["file_name"])
        record["segments_info"] = [
            segment
            | {
                "category_id": ranks[segment["category_id"]],
                "isthing": isthing[segment["category_id"]],
            }
            for segment in annotation["segments_info"]
        ]
