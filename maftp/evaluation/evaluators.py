"""Detectron2 evaluators: from a model's output for an image to scores, and to pictures.

`reset`, `process` and `evaluate` are Detectron2's; with several processes each sees its share of
the images and `evaluate` adds the parts up in the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray

from maftp.data.images import read_label, read_rgb
from maftp.data.preview import stack
from maftp.evaluation.instance import InstanceTruth
from maftp.evaluation.panoptic import VOID, PanopticQuality, PanopticTruth, Segment
from maftp.evaluation.semantic import ConfusionMatrix, percent
from maftp.evaluation.statistics import (
    CONFUSION,
    CONFUSION_COLUMNS,
    IMAGES,
    PANOPTIC_COLUMNS,
    SEMANTIC_COLUMNS,
    Rows,
    confusion_rows,
    panoptic_rows,
    semantic_rows,
    write_csv,
)
from maftp.report.figures import NOTHING, Colour, Layer, draw_panel

_SHOWN_SCORE = 0.5
"""Of the hundred instances of an image most are nothing; those below it are not painted."""
Item = Mapping[str, Any]
"""One image of Detectron2's batched inputs."""


class SemanticEvaluator(DatasetEvaluator):
    """Scores `labels`, or `sem_seg`, against the label files of `sem_seg_file_name`.

    Args:
        names: class names.
        ignore_label: ground-truth value that is not scored.
        seen: for each class whether training knew one of its names.
    """

    def __init__(self, *, names: Sequence[str], ignore_label: int, seen: Sequence[bool]) -> None:
        self._names = list(names)
        self._ignore_label = ignore_label
        self._seen = list(seen)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.matrix = ConfusionMatrix(num_classes=len(self._names), ignore_label=self._ignore_label)
        self._rows: Rows = []

    def process(self, inputs: Sequence[Item], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Add images; raises DataError for a label file that does not fit."""
        for item, output in zip(inputs, outputs, strict=True):
            source = Path(item["sem_seg_file_name"])
            counts = self.matrix.update(label_map(output), read_label(source), source=str(source))
            self._rows += semantic_rows(source.stem, counts)

    def evaluate(self) -> dict[str, Any] | None:
        """Return `scores` and `per_class` records, in percent; None on all ranks except 0."""
        parts = comm.gather(self.matrix)
        if not comm.is_main_process():
            return None
        scores = reduce(add, parts).scores(self._seen)
        per_class = [
            {"id": index, "name": name, "seen": bool(self._seen[index])}
            | {"IoU": percent(scores.iou[index]), "Acc": percent(scores.accuracy[index])}
            for index, name in enumerate(self._names)
        ]
        return {"scores": scores.as_dict(), "per_class": per_class}

    def write_statistics(self, folder: Path) -> None:
        """Write `images.csv` and `confusion.csv` of this process's images."""
        write_csv(folder / IMAGES, SEMANTIC_COLUMNS, self._rows)
        write_csv(folder / CONFUSION, CONFUSION_COLUMNS, confusion_rows(self.matrix.counts))


class PanopticEvaluator(DatasetEvaluator):
    """Scores `panoptic_seg` against a panoptic JSON and its PNGs.

    Args:
        truth: the ground truth.
        seen: for each class whether training knew one of its names.
        image_ids: the images to score; each needs a prediction.
    """

    def __init__(
        self,
        *,
        truth: PanopticTruth,
        seen: Sequence[bool],
        image_ids: Sequence[str],
    ) -> None:
        self._truth = truth
        self._category_ids = truth.category_ids
        self._seen = dict(zip(self._category_ids, map(bool, seen), strict=True))
        self._image_ids = list(image_ids)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.quality = PanopticQuality(categories=self._truth.categories)
        self._rows: Rows = []

    def process(self, inputs: Sequence[Item], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Add images; raises DataError where prediction and ground truth do not fit."""
        for item, output in zip(inputs, outputs, strict=True):
            image_id = str(item["image_id"])
            ids, segments = panoptic_map(output)
            records = [
                {"id": segment["id"], "category_id": self._category_ids[segment["category_id"]]}
                for segment in segments
            ]
            wanted = self._truth.segments(image_id)
            one = PanopticQuality(categories=self._truth.categories)
            one.update(ids, records, self._truth.ids(image_id), wanted, image_id=image_id)
            self.quality += one
            self._rows += panoptic_rows(image_id, one.counts)

    def evaluate(self) -> dict[str, Any] | None:
        """Return `scores` and `per_class` records, in percent; None on all ranks except 0."""
        parts = comm.gather(self.quality)
        if not comm.is_main_process():
            return None
        scores = reduce(add, parts).scores(self._image_ids)
        per_class = [
            record | {"seen": self._seen.get(record["id"])} for record in scores.per_class()
        ]
        return {"scores": scores.as_dict(), "per_class": per_class}

    def write_statistics(self, folder: Path) -> None:
        """Write `images.csv` of this process's images."""
        write_csv(folder / IMAGES, PANOPTIC_COLUMNS, self._rows)


class OverlayDrawer(DatasetEvaluator):
    """Draws image, ground truth and prediction of the first images side by side; scores nothing.

    Args:
        folder: where the PNGs go, named after the images.
        count: pictures to draw.
        names: class names.
        colours: RGB 0..255 per class.
        ignore_label: ground-truth value that is not painted (semantic).
        truth: ground truth of segments or instances; None draws semantic label maps.
    """

    def __init__(
        self,
        *,
        folder: Path,
        count: int,
        names: Sequence[str],
        colours: Sequence[Colour],
        ignore_label: int,
        truth: PanopticTruth | InstanceTruth | None = None,
    ) -> None:
        self._folder = folder
        self._count = count
        self._names = names
        self._colours = colours
        self._ignore_label = ignore_label
        self._truth = truth
        self.reset()

    def reset(self) -> None:
        """Start again with the first picture."""
        self._drawn = 0

    def process(self, inputs: Sequence[Item], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Draw images until there are enough."""
        for item, output in zip(inputs, outputs, strict=True):
            if self._drawn >= self._count:
                return
            path = Path(item["file_name"])
            draw_panel(
                self._folder / f"{path.stem}.png",
                read_rgb(path, oriented=True),
                self._layers(item, output),
                names=self._names,
                colours=self._colours,
            )
            self._drawn += 1

    def evaluate(self) -> None:
        """Return nothing: pictures are not scores."""

    def _layers(self, item: Item, output: Mapping[str, Any]) -> list[Layer]:
        if isinstance(self._truth, PanopticTruth):
            return _panoptic_layers(self._truth, item, output)
        if isinstance(self._truth, InstanceTruth):
            return _instance_layers(self._truth, item, output)
        truth = read_label(Path(item["sem_seg_file_name"])).astype(np.int64)
        truth[truth == self._ignore_label] = NOTHING
        return [Layer("ground truth", truth), Layer("prediction", label_map(output))]


def _panoptic_layers(truth: PanopticTruth, item: Item, output: Mapping[str, Any]) -> list[Layer]:
    image_id = str(item["image_id"])
    class_of = {category: index for index, category in enumerate(truth.category_ids)}
    true_ids = truth.ids(image_id)
    true_classes = {
        segment["id"]: class_of[segment["category_id"]] for segment in truth.segments(image_id)
    }
    ids, segments = panoptic_map(output)
    classes = {segment["id"]: segment["category_id"] for segment in segments}
    return [
        Layer("ground truth", _paint(true_ids, true_classes), true_ids),
        Layer("prediction", _paint(ids, classes), ids),
    ]


def _instance_layers(truth: InstanceTruth, item: Item, output: Mapping[str, Any]) -> list[Layer]:
    """Paint the true instances, small ones on top, and those predicted with a score of a half."""
    true = sorted(truth.coco.imgToAnns[item["image_id"]], key=lambda one: -one["area"])
    masks = [(one["category_id"], truth.coco.annToMask(one).astype(bool)) for one in true]
    found = output["instances"].to("cpu")
    order = [n for n in found.scores.argsort().tolist() if found.scores[n] >= _SHOWN_SCORE]
    predicted = [(int(found.pred_classes[n]), found.pred_masks[n].bool().numpy()) for n in order]
    size = tuple(found.pred_masks.shape[1:])
    return [
        Layer("ground truth", *stack(masks, size)),
        Layer("prediction", *stack(predicted, size)),
    ]


def label_map(output: Mapping[str, Any]) -> NDArray[np.int32]:
    """Return the best class of every pixel, (H, W), from `labels` or `sem_seg` (K, H, W)."""
    labels = output["labels"] if "labels" in output else output["sem_seg"].argmax(dim=0)
    return labels.to(torch.int32).cpu().numpy()  # half of what would leave a GPU


def panoptic_map(output: Mapping[str, Any]) -> tuple[NDArray[np.integer], list[Segment]]:
    """Return segment ids (H, W) and the records of `panoptic_seg`."""
    ids, segments = output["panoptic_seg"]
    return ids.cpu().numpy(), segments


def _paint(ids: NDArray[np.integer], classes: Mapping[int, int]) -> NDArray[np.int64]:
    """Replace segment ids by their class; VOID becomes `NOTHING`."""
    values, inverse = np.unique(ids, return_inverse=True)
    painted = [NOTHING if value == VOID else classes[value] for value in values.tolist()]
    return np.array(painted)[inverse].reshape(ids.shape)
