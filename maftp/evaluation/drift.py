"""How far fine-tuning moves CLIP: naming of true regions, before and after.

What the method is about (MAFT+, ECCV 2024): fine-tuned on few classes CLIP can lose the others, and
representation compensation is to prevent it. Regions come from the ground truth, so that only
CLIP is measured: dense features are averaged under each true mask and compared with the class
names, by the original CLIP and by the fine-tuned one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from maftp.config import Params
from maftp.data.catalog import Catalog
from maftp.data.images import read_label
from maftp.data.mapper import TestMapper
from maftp.errors import DataError
from maftp.evaluation.runner import set_classes
from maftp.evaluation.scored_split import class_names, load_split
from maftp.files import check_output, sha256, write_json
from maftp.modeling.build import load_model
from maftp.modeling.clip_backbone import ClipBackbone
from maftp.modeling.mask_classification import classify, has_area, mask_pool
from maftp.modeling.segmenter import Segmenter
from maftp.progress import track


@dataclass(frozen=True)
class RegionNames:
    """The regions of some images, and what each CLIP calls them."""

    truth: NDArray[np.int64]
    """(R,) true classes."""
    before: NDArray[np.int64]
    """(R,) classes by the original CLIP."""
    after: NDArray[np.int64]
    """(R,) classes by the fine-tuned CLIP."""
    cosine: NDArray[np.float64]
    """(R,) cosine between the two embeddings of the region."""


@torch.inference_mode()
def measure_drift(
    params: Params,
    *,
    variant: str,
    seed: int,
    benchmark: str,
    weights: Path,
    clip: Path,
    catalog: Catalog,
    root: Path,
    out: Path,
    embeddings: Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Compare a checkpoint's CLIP with the original on a semantic benchmark; write a JSON file.

    Args:
        params: parameters of the variant.
        variant: its name, for the record.
        seed: of the training, for the record.
        benchmark: name in the catalog.
        weights: the checkpoint.
        clip: weights of the original CLIP.
        catalog: describes the benchmark.
        root: datasets root.
        out: JSON file to write.
        embeddings: cached text embeddings; None computes them.
        device: torch device; None takes a GPU when there is one.

    Raises:
        DataError: the benchmark is not semantic, or its files are missing or damaged.
        CheckpointError: weights are missing, damaged or of another model.
    """
    check_output(out)
    training = class_names(catalog.dataset(params.data.train), root).names
    split = load_split(benchmark, params=params, catalog=catalog, root=root, training=training)
    if split.metric != "semantic":
        raise DataError(f"{benchmark}: drift needs a semantic benchmark; choose another")
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(params, weights, place)
    model.set_training_vocabulary(training)
    set_classes(model, split, embeddings, shuffle=False)
    original = ClipBackbone.from_params(params, weights=clip).to(place)
    found = _join(
        list(_regions(model, original, record, mapper, split.ignore_label))
        for mapper in [TestMapper.from_params(params)]
        for record in track(split.records, f"drift on {benchmark}")
    )
    result = {
        "experiment": params.experiment,
        "variant": variant,
        "seed": seed,
        "benchmark": benchmark,
        "weights_sha256": sha256(weights),
        "clip_sha256": sha256(clip),
        **summarise(found, np.array(split.seen)),
    }
    write_json(out, result)
    return result


def summarise(found: RegionNames, seen: NDArray[np.bool_]) -> dict[str, Any]:
    """Return accuracies in percent of all regions, of seen and of unseen classes, and cosines."""
    parts = {"all": np.ones(len(found.truth), bool), "seen": seen[found.truth]}
    parts["unseen"] = ~parts["seen"]
    return {
        name: {
            "regions": int(chosen.sum()),
            "accuracy_before": _percent(found.before == found.truth, chosen),
            "accuracy_after": _percent(found.after == found.truth, chosen),
            "same_name": _percent(found.before == found.after, chosen),
            "cosine": float(found.cosine[chosen].mean()) if chosen.any() else None,
        }
        for name, chosen in parts.items()
    }


def _percent(correct: NDArray[np.bool_], chosen: NDArray[np.bool_]) -> float | None:
    return 100 * float(correct[chosen].mean()) if chosen.any() else None


def _regions(
    model: Segmenter,
    original: ClipBackbone,
    record: dict[str, Any],
    mapper: TestMapper,
    ignore_label: int,
) -> Iterator[tuple[int, int, int, float]]:
    """Yield truth, name before, name after and cosine of every region of an image."""
    labels = read_label(Path(record["sem_seg_file_name"]))
    if (labels == ignore_label).all():
        return
    item = mapper(record)
    images = model.preprocess([item])
    classes, masks = region_masks(
        labels,
        ignore_label=ignore_label,
        size=tuple(images.image_sizes[0]),
        canvas=tuple(images.tensor.shape[-2:]),
    )
    masks = masks.to(model.device)
    text, rows = model.classifier(model.test_names)
    names, embedded = [], []
    for backbone in (original, model.naming_clip):
        dense = backbone(images.tensor)["res5"]
        vectors = backbone.visual_head(mask_pool(dense, masks))  # (1, R, D)
        logits = classify(vectors, text, original.logit_scale, rows)  # no scale changes a name
        names.append(logits[0, :, :-1].argmax(-1))
        embedded.append(vectors[0])
    kept = has_area(masks, dense.shape[-2:])[0].tolist()
    cosine = F.cosine_similarity(*embedded, dim=-1).tolist()
    before, after = (part.tolist() for part in names)
    for row in zip(classes, before, after, cosine, kept, strict=True):
        if row[-1]:
            yield row[:-1]


def region_masks(
    labels: NDArray[np.integer],
    *,
    ignore_label: int,
    size: tuple[int, int],
    canvas: tuple[int, int],
) -> tuple[list[int], Tensor]:
    """Return the classes of a label map and a mask logit, +0.5 or -0.5, for each.

    Args:
        labels: (H, W).
        ignore_label: left out.
        size: height and width of the network's image.
        canvas: height and width of the padded image.

    Returns:
        R classes, and (1, R, *canvas).
    """
    classes = [int(value) for value in np.unique(labels) if value != ignore_label]
    grid = torch.from_numpy(labels.astype(np.int64))
    masks = torch.stack([(grid == value).float() for value in classes]) if classes else None
    if masks is None:
        return [], torch.zeros(1, 0, *canvas)
    resized = F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False) - 0.5
    padding = (0, canvas[1] - size[1], 0, canvas[0] - size[0])
    return classes, F.pad(resized, padding, value=-0.5)


def _join(parts: Iterator[list[tuple[int, int, int, float]]]) -> RegionNames:
    rows = [row for part in parts for row in part]
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    truth, before, after = (np.array(column, dtype=np.int64) for column in columns[:3])
    return RegionNames(truth, before, after, np.array(columns[3], dtype=np.float64))
