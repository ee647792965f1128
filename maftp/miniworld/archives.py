"""The miniature world as a mirror of the official sources: raw archives and their catalog.

From here on, downloading, converting, training and scoring are the code of the official data; only
addresses, digests and counts differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import yaml

from maftp.data.catalog import Dataset, load_catalog
from maftp.miniworld.ade20k import challenge_archives, full_archive, id_table_source
from maftp.miniworld.coco import coco_archives
from maftp.miniworld.label_spaces import (
    LabelSpace,
    ade20k_150,
    ade20k_847,
    coco,
    pascal_ctx_59,
    pascal_ctx_459,
    pascal_voc_21,
    vocabulary_text,
)
from maftp.miniworld.packing import write
from maftp.miniworld.pascal import context_archives, voc2012_archive
from maftp.progress import track

_LICENCE = "Apache-2.0, generated"
_BENCHMARK_TRAIN_IMAGES = 4
"""Training pictures of the data sets that only serve as benchmarks."""


def write_world(out: Path, *, seed: int, train_images: int, val_images: int) -> None:
    """Write every archive, vocabulary and id table, and `sources.yaml`, the overlay catalog.

    Args:
        out: folder to write to; the catalog is written last.
        seed: of the scenes; the same arguments give the same bytes.
        train_images: pictures of COCO's training split.
        val_images: pictures of every benchmark; COCO's validation split has half as many.
    """
    few = _BENCHMARK_TRAIN_IMAGES
    coco_val = max(val_images // 2, 1)
    groups: tuple[Callable[[], dict[str, bytes]], ...] = (
        lambda: coco_archives(seed=seed, train_images=train_images, val_images=coco_val),
        lambda: challenge_archives(seed=seed, train_images=few, val_images=val_images),
        lambda: full_archive(seed=seed, train_images=few, val_images=val_images),
        lambda: voc2012_archive(seed=seed, train_images=few, val_images=val_images),
        lambda: context_archives(seed=seed, train_images=few, val_images=val_images),
        _texts,
    )
    described: dict[str, dict[str, Any]] = {}
    for group in track(groups, "Drawing the miniature world"):
        for name, data in group().items():
            write(out / name, data)
            described[name] = _describe(name, data)
    counts = {"train": train_images, "coco_val": coco_val, "few": few, "val": val_images}
    overlay = {"sources": _sources(described), "datasets": _datasets(counts, described)}
    head = "# The miniature world; laid over maftp/data/sources.yaml.\n"
    text = head + yaml.safe_dump(overlay, sort_keys=False, width=100)
    write(out / "sources.yaml", text.encode())


def _texts() -> dict[str, bytes]:
    """Return the vocabulary files and the id table, by file name."""
    texts = {
        f"{stem}_with_prompt_eng.txt": vocabulary_text(space, by_rank=by_rank).encode()
        for stem, (space, by_rank) in _vocabularies().items()
    }
    return texts | {"prepare_ade20k_full_sem_seg.py.txt": id_table_source()}


def _vocabularies() -> dict[str, tuple[LabelSpace, bool]]:
    """Return stem to classes, and whether the rows of the file are numbered by rank."""
    return {
        "coco_stuff": (coco(), False),
        "coco_panoptic": (coco(), False),
        "ade20k_150": (ade20k_150(), False),
        "ade20k_847": (ade20k_847(), True),
        "pascal_ctx_59": (pascal_ctx_59(), True),
        "pascal_ctx_459": (pascal_ctx_459(), False),
        "pascal_voc_21": (pascal_voc_21(), False),
    }


def _describe(name: str, data: bytes) -> dict[str, Any]:
    return {
        "url": f"file://{{here}}/{name}",
        "megabytes": -(-len(data) // 1_000_000),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "licence": _LICENCE,
        "registration": None,
    }


def _sources(described: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the overlay of the sources of what is drawn, found by their official file names."""
    catalog = load_catalog()
    needed = {name for dataset in _drawn(described).values() for name in dataset.sources}
    return {
        name: dict(described[source.file])
        for name, source in catalog.sources.items()
        if name in needed
    }


def _drawn(files: Collection[str]) -> dict[str, Dataset]:
    """Return the data sets of the official catalog whose archives are among `files`."""
    catalog = load_catalog()
    return {
        name: dataset
        for name, dataset in catalog.datasets.items()
        if all(catalog.sources[source].file in files for source in dataset.sources)
    }


def _datasets(counts: dict[str, int], files: Collection[str]) -> dict[str, Any]:
    """Return the overlay of the data sets: numbers of classes and of pictures."""
    datasets: dict[str, Any] = {}
    for name, dataset in _drawn(files).items():
        classes = len(_vocabularies()[dataset.vocabulary][0])
        is_coco = name.startswith("coco")
        numbers = {
            "train": counts["train" if is_coco else "few"],
            "val": counts["coco_val" if is_coco else "val"],
        }
        # Without its background row VOC has one class less.
        without_background = dataset.vocabulary == "pascal_voc_21" and not dataset.keep_row_zero
        datasets[name] = {
            "classes": classes - without_background,
            "splits": {split: {"count": numbers[split]} for split in dataset.splits},
        }
    return datasets
