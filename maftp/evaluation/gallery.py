"""A gallery: image, ground truth, baseline, method and difference of some images of a benchmark.

The best, median and worst images are those of the method's mIoU on the single image.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maftp.config import Params
from maftp.data.catalog import Catalog
from maftp.data.images import read_label, read_rgb
from maftp.data.mapper import TestMapper
from maftp.evaluation.evaluators import label_map
from maftp.evaluation.runner import set_classes
from maftp.evaluation.scored_split import ScoredSplit, class_names, load_split
from maftp.files import atomic_path, check_output, check_replaceable
from maftp.modeling.build import load_model
from maftp.report.figures import NOTHING, Colour, Layer, draw_panel
from maftp.results import read_counts

VERDICTS = ("only {method} right", "only {baseline} right", "both wrong")
_VERDICT_COLOURS: tuple[Colour, ...] = ((0, 114, 178), (230, 159, 0), (60, 60, 60))


@dataclass(frozen=True)
class GalleryModel:
    """A model of the gallery."""

    title: str
    params: Params
    weights: Path


def image_scores(statistics: Path) -> dict[str, float]:
    """Return the mIoU (0..1) of every single image over the classes of its ground truth.

    Raises:
        DataError: the statistics are missing or of a panoptic benchmark.
    """
    table = read_counts(statistics, "semantic").query("truth > 0")
    ious = table.correct / (table.truth + table.predicted - table.correct)
    return ious.groupby(table.image).mean().to_dict()


def choose(scores: Mapping[str, float], *, each: int) -> dict[str, str]:
    """Return `each` best, median and worst images, and which of these each one is."""
    ranked = sorted(scores, key=lambda image: (-scores[image], image))
    middle = max(0, (len(ranked) - each) // 2)
    chosen: dict[str, str] = {}
    for kind, images in (
        ("best", ranked[:each]),
        ("worst", ranked[-each:]),
        ("median", ranked[middle : middle + each]),
    ):
        for image in images:
            chosen.setdefault(image, kind)
    return chosen


def difference(
    truth: NDArray[np.integer], method: NDArray[np.integer], baseline: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Return 0 where only the method is right, 1 where only the baseline is, 2 where neither is.

    Pixels where both are right, and those of the truth's `NOTHING`, are `NOTHING`.
    """
    right, other = method == truth, baseline == truth
    verdict = np.full(truth.shape, NOTHING, dtype=np.int64)
    verdict[right & ~other] = 0
    verdict[~right & other] = 1
    verdict[~right & ~other] = 2
    verdict[truth == NOTHING] = NOTHING
    return verdict


def draw_gallery(
    models: tuple[GalleryModel, GalleryModel],
    *,
    benchmark: str,
    statistics: Path,
    catalog: Catalog,
    root: Path,
    out: Path,
    each: int = 2,
    device: str | None = None,
) -> None:
    """Write a PNG per chosen image below `best`, `median` or `worst`, and `gallery.csv`.

    Args:
        models: the method, then the baseline.
        benchmark: semantic, by its name in the catalog.
        statistics: of the method on the benchmark.
        catalog: describes the benchmark.
        root: datasets root.
        out: folder to write.
        each: best, median and worst images to show.
        device: torch device; None takes a GPU when there is one.

    Raises:
        DataError: statistics or data are missing or damaged.
        CheckpointError: weights are missing, damaged or of another model.
    """
    check_output(out, folder=True)
    check_replaceable(out, {"best", "median", "worst", "gallery.csv"})
    method = models[0]
    training = class_names(catalog.dataset(method.params.data.train), root).names
    split = load_split(
        benchmark, params=method.params, catalog=catalog, root=root, training=training
    )
    scores = image_scores(statistics)
    chosen = choose(scores, each=each)
    records = {Path(r["sem_seg_file_name"]).stem: r for r in split.records}
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    labels = [
        _predict(chosen_model, split, training, [records[image] for image in chosen], place)
        for chosen_model in models
    ]
    titles = (models[0].title, models[1].title)
    with atomic_path(out) as folder:
        folder.mkdir()
        for index, (image, kind) in enumerate(chosen.items()):
            pair = (labels[0][index], labels[1][index])
            _draw(folder / kind / f"{image}.png", records[image], split, titles, pair)
        with open(folder / "gallery.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["image", "kind", f"mIoU of {titles[0]} on the image"])
            writer.writerows([i, kind, f"{100 * scores[i]:.2f}"] for i, kind in chosen.items())


@torch.inference_mode()
def _predict(
    chosen_model: GalleryModel,
    split: ScoredSplit,
    training: Sequence[str],
    records: Sequence[dict[str, Any]],
    device: str,
) -> list[NDArray[np.int64]]:
    model = load_model(chosen_model.params, chosen_model.weights, device)
    model.set_training_vocabulary(training)
    set_classes(model, split, None, shuffle=False)
    mapper = TestMapper.from_params(chosen_model.params)
    return [label_map(model([mapper(record)])[0]) for record in records]


def _draw(
    path: Path,
    record: Mapping[str, Any],
    split: ScoredSplit,
    titles: tuple[str, str],
    labels: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> None:
    truth = read_label(Path(record["sem_seg_file_name"])).astype(np.int64)
    truth[truth == split.ignore_label] = NOTHING
    verdict = difference(truth, *labels)
    shifted = np.where(verdict == NOTHING, NOTHING, verdict + len(split.names))
    words = {"method": titles[0], "baseline": titles[1]}
    draw_panel(
        path,
        read_rgb(Path(record["file_name"]), oriented=True),
        [
            Layer("ground truth", truth),
            Layer(titles[1], labels[1]),
            Layer(titles[0], labels[0]),
            Layer("difference", shifted),
        ],
        names=[*split.names, *(text.format(**words) for text in VERDICTS)],
        colours=[*split.colours, *_VERDICT_COLOURS],
    )
