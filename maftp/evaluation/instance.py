"""Mask average precision by COCO's rules, over predicted masks alone.

IoU 0.50 to 0.95 in steps of 0.05, 101 recall points, at most 100 detections per image, averaged
over the categories that have ground truth; small, medium and large by the area of the mask. Boxes
are not predicted, so there is no box AP.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maftp.data.annotations import read_instance_json
from maftp.errors import DataError

_SCORES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class InstanceTruth:
    """Ground truth of a data set; category ids are class indices, of the things alone."""

    coco: COCO

    @classmethod
    def read(cls, path: Path) -> InstanceTruth:
        """Read a COCO instance JSON.

        Raises:
            DataError: it is missing, no such JSON, or a field of it is wrong.
        """
        found = read_instance_json(path)
        coco = COCO()
        coco.dataset = found.content
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
                coco.createIndex()
                for annotation in found.content["annotations"]:
                    coco.annToMask(annotation)
        except (ValueError, TypeError, IndexError) as error:
            raise DataError(f"{path}: a mask is damaged ({error}); convert again") from None
        return cls(coco)

    @property
    def category_ids(self) -> list[int]:
        """Return the classes that have instances."""
        return sorted(self.coco.getCatIds())


class InstanceEvaluator(DatasetEvaluator):
    """Scores `instances` (`pred_masks`, `scores`, `pred_classes`) against a COCO JSON.

    Args:
        truth: the ground truth.
        seen: by class index, whether training knew one of its names.
        image_ids: the images to score.
    """

    def __init__(
        self, *, truth: InstanceTruth, seen: Mapping[int, bool], image_ids: Sequence[str | int]
    ) -> None:
        self._truth = truth.coco
        self._seen = dict(seen)
        self._image_ids = list(image_ids)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._detections: list[dict[str, Any]] = []

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Add the detections of images; raises DataError for masks of another size."""
        for item, output in zip(inputs, outputs, strict=True):
            found = output["instances"].to("cpu")
            self._check_size(item["image_id"], tuple(found.pred_masks.shape[1:]))
            masks = np.asfortranarray(found.pred_masks.bool().permute(1, 2, 0).numpy(), np.uint8)
            for code, label, score in zip(
                coco_mask.encode(masks),
                found.pred_classes.tolist(),
                found.scores.tolist(),
                strict=True,
            ):
                self._detections.append(
                    {
                        "image_id": item["image_id"],
                        "category_id": label,
                        "segmentation": code,
                        "score": score,
                    }
                )

    def _check_size(self, image_id: str | int, size: tuple[int, ...]) -> None:
        """Masks of different sizes have no common pixels, and AP would be 0 without a word."""
        image = self._truth.imgs.get(image_id)
        if image is None:
            raise DataError(
                f"image {image_id}: not in the instance JSON; convert the data set again"
            )
        if size != (image["height"], image["width"]):
            raise DataError(
                f"image {image_id}: predicted masks have {size[1]} x {size[0]} pixels, those of the"
                f" ground truth {image['width']} x {image['height']}; an image that EXIF turns away"
                " from its masks cannot be scored, remove its orientation"
            )

    def evaluate(self) -> dict[str, Any] | None:
        """Return `scores` and `per_class` records, in percent; None on all ranks except 0.

        A score without ground truth is None.
        """
        parts = comm.gather(self._detections)
        if not comm.is_main_process():
            return None
        detections = [detection for part in parts for detection in part]
        found = self._compare(detections)
        scores: dict[str, Any] = dict(zip(_SCORES, map(_percent, found.stats[:6]), strict=True))
        # IoU x recall x category x area x number of detections; of all areas, with most detections
        precision = found.eval["precision"][:, :, :, 0, -1]
        per_class = [
            {"id": int(key), "name": self._truth.cats[key]["name"], "seen": bool(self._seen[key])}
            | {"AP": _percent(precision[:, :, place].mean())}
            for place, key in enumerate(found.params.catIds)
        ]
        return {"scores": scores | {"images": len(self._image_ids)}, "per_class": per_class}

    def _compare(self, detections: list[dict[str, Any]]) -> COCOeval:
        with contextlib.redirect_stdout(io.StringIO()):
            found = self._truth.loadRes(detections) if detections else _without_annotations()
            evaluation = COCOeval(self._truth, found, "segm")
            evaluation.params.imgIds = self._image_ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation


def _percent(precision: float) -> float | None:
    """Return a precision in percent; COCO's -1, without ground truth, is None."""
    return None if precision < 0 else 100 * float(precision)


def _without_annotations() -> COCO:
    """Return empty results, which `loadRes` cannot make."""
    empty = COCO()
    empty.dataset = {"images": [], "annotations": [], "categories": []}
    empty.createIndex()
    return empty
