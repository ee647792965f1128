"""From scores to regions: labels at the picture's size in strips, and a record of each region.

A score map of K classes at a large picture's size does not fit into memory. Scores stay at the
network's size and are enlarged strip by strip, which gives the same labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor

NOTHING = -1
"""Class of pixels that belong to no segment."""
_STRIP_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Region:
    """One class's pixels, or one segment."""

    id: int
    name: str
    """First of the class's synonyms."""
    class_index: int
    score: float
    """Mean share of the class among the scores of all classes at its pixels, 0..1."""
    area: int
    """Pixels."""
    box: tuple[int, int, int, int]
    """x, y, width, height in pixels."""
    rle: Mapping[str, Any]
    """COCO's compressed run-length encoding: `size` (height, width) and `counts`."""

    def as_dict(self) -> dict[str, Any]:
        """Return what goes into a JSON file; the name stands under `class`."""
        record = asdict(self)
        return {"id": record.pop("id"), "class": record.pop("name"), **record}


def enlarge(
    scores: Tensor, size: tuple[int, int], classes: NDArray[np.integer] | None = None
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Resize scores bilinearly to `size` and take the best class of every pixel.

    Args:
        scores: (K, h, w), not negative.
        size: height and width of the result.
        classes: (height, width) classes to look up instead of the best; `NOTHING` is allowed.

    Returns:
        (height, width) classes, and the share of that class among all scores of the pixel.
    """
    height, width = size
    labels = np.empty(size, dtype=np.int32)
    shares = np.empty(size, dtype=np.float32)
    rows = max(1, _STRIP_BYTES // (4 * scores.shape[0] * width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = _strip(scores, size, top, bottom)  # (K, rows, W)
        if classes is None:
            best, chosen = strip.max(0)
        else:
            chosen = torch.from_numpy(classes[top:bottom].astype(np.int64)).to(strip.device)
            best = strip.gather(0, chosen.clamp(min=0)[None])[0]
        labels[top:bottom] = chosen.cpu().numpy()
        shares[top:bottom] = (best / strip.sum(0).clamp(min=1e-12)).cpu().numpy()
    return labels, shares


def _strip(scores: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """Return rows `top` to `bottom` of `scores` resized to `size`, as F.interpolate does it."""
    step = scores.shape[1] / size[0]
    centres = (torch.arange(top, bottom, device=scores.device) + 0.5) * step - 0.5
    centres = centres.clamp(min=0)
    first = centres.floor().long().clamp(max=scores.shape[1] - 1)
    second = (first + 1).clamp(max=scores.shape[1] - 1)
    part = (centres - first).view(1, -1, 1)
    rows = scores[:, first] * (1 - part) + scores[:, second] * part  # (K, rows, w)
    shape = (bottom - top, size[1])
    return F.interpolate(rows[None], size=shape, mode="bilinear", align_corners=False)[0]


def class_regions(
    labels: NDArray[np.integer], shares: NDArray[np.floating], names: Sequence[str]
) -> list[Region]:
    """Return a region per class that occurs in (H, W) labels, largest first."""
    present = [int(label) for label in np.unique(labels) if label != NOTHING]
    return segment_regions(labels + 1, shares, {label + 1: label for label in present}, names)


def segment_regions(
    ids: NDArray[np.integer],
    shares: NDArray[np.floating],
    classes: Mapping[int, int],
    names: Sequence[str],
) -> list[Region]:
    """Return a region per segment, largest first.

    Args:
        ids: (H, W) segment ids; those not in `classes` are left out.
        shares: (H, W), see `enlarge`.
        classes: class index of every id.
        names: class names, commas between synonyms.
    """
    regions = []
    for key, label in classes.items():
        mask = ids == key
        area = int(mask.sum())
        if not area:
            continue
        code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        x, y, width, height = (int(value) for value in coco_mask.toBbox(code))
        regions.append(
            Region(
                id=int(key),
                name=names[label].split(",")[0].strip(),
                class_index=int(label),
                score=round(float(shares[mask].mean()), 4),
                area=area,
                box=(x, y, width, height),
                rle={"size": list(code["size"]), "counts": code["counts"].decode()},
            )
        )
    return sorted(regions, key=lambda region: (-region.area, region.id))
