"""What a model would score if its masks, its classes or its void were right.

Three repairs, alone and together. They act on what a method hands to `Segmenter.results`, so all
methods, metrics and rules of merging are the same as in an evaluation:

masks    the true regions take the place of the proposals. The method looks at each of them as it
         looks at a proposal; the head's logits are those of the proposal that overlaps it most.
classes  every proposal has the class of the region that it overlaps most.
void     of the proposals the one that overlaps a region most is an object, all others are void.
"""  # fmt: skip

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from numpy.typing import NDArray
from torch import Tensor, nn

from maftp.data.images import read_label
from maftp.evaluation.panoptic import VOID, PanopticTruth
from maftp.evaluation.scored_split import ScoredSplit
from maftp.modeling.mask_classification import SCORE_FLOOR
from maftp.modeling.postprocessing import Frame, MaskKind
from maftp.modeling.segmenter import BatchedInputs, Segmenter

ORACLES = ("masks", "classes", "void")
REPAIRS: tuple[tuple[str, ...], ...] = tuple(
    chain.from_iterable(combinations(ORACLES, size) for size in range(len(ORACLES) + 1))
)
"""All sets of oracles, from none to all."""

_CERTAIN = 100.0
"""Logit of a pixel that belongs to a mask; its sigmoid is one."""
_CHUNK = 16
"""Proposals compared with the regions at once, for memory."""


@dataclass(frozen=True)
class TrueRegions:
    """The regions of an image's ground truth."""

    classes: NDArray[np.int64]
    """(R,)."""
    masks: Tensor
    """(R, H, W) bool."""
    scored: Tensor
    """(H, W) bool; other pixels count nowhere."""

    @property
    def shares(self) -> NDArray[np.float64]:
        """Return which part of the scored image each region is, (R,)."""
        areas = self.masks.flatten(1).sum(1).double().cpu().numpy()
        return areas / max(float(self.scored.sum()), 1.0)


def true_regions(
    record: Mapping[str, Any], split: ScoredSplit, device: torch.device
) -> TrueRegions:
    """Read the regions of an image: its classes, or in a panoptic benchmark its segments.

    Crowd regions are none, and a segment that others cover wholly is none.
    """
    if isinstance(split.truth, PanopticTruth):
        image_id = str(record["image_id"])
        labels = split.truth.ids(image_id).astype(np.int64)
        position = {key: index for index, key in enumerate(split.truth.category_ids)}
        values = {
            segment["id"]: position[segment["category_id"]]
            for segment in split.truth.segments(image_id)
            if not segment.get("iscrowd", 0)
        }
        values = {value: values[value] for value in np.unique(labels).tolist() if value in values}
        assert VOID not in values
    else:
        labels = read_label(Path(record["sem_seg_file_name"])).astype(np.int64)
        present = np.unique(labels).tolist()
        values = {value: value for value in present if value != split.ignore_label}
    grid = torch.from_numpy(labels).to(device)
    masks = torch.zeros(len(values), *grid.shape, dtype=torch.bool, device=device)
    for index, value in enumerate(values):
        masks[index] = grid == value
    return TrueRegions(np.array(list(values.values()), dtype=np.int64), masks, masks.any(0))


@dataclass(frozen=True)
class Candidates:
    """Masks with their scores, as `Segmenter.results` takes them, of one image."""

    items: BatchedInputs
    images: ImageList
    scores: Tensor
    """(1, N, K + 1) log scores, void last."""
    masks: Tensor
    """(1, N, h, w)."""

    @property
    def frame(self) -> Frame:
        """Return where the image lies, and its size in the file."""
        size = tuple(self.images.image_sizes[0])
        item = self.items[0]
        wanted = (item.get("height", size[0]), item.get("width", size[1]))
        return Frame(tuple(self.images.tensor.shape[-2:]), size, wanted)

    @property
    def probabilities(self) -> tuple[Tensor, Tensor]:
        """Return those of the classes of an object, (N, K), and that of an object, (N,)."""
        found = self.scores[0].softmax(-1)
        some = found[:, :-1].sum(-1)
        return found[:, :-1] / some.clamp(min=SCORE_FLOOR)[:, None], some


def overlaps(candidates: Candidates, regions: TrueRegions, kind: MaskKind) -> Tensor:
    """Return the IoU of every proposal with every region, (N, R), over the scored pixels."""
    scored = regions.scored.flatten()
    truth = regions.masks.flatten(1)[:, scored].float()  # (R, P)
    cut = 0.0 if kind == "logits" else 0.5
    rows = []
    for masks in candidates.masks[0].split(_CHUNK):
        large = candidates.frame.fit(candidates.frame.upsample(masks))
        found = (large > cut).flatten(1)[:, scored].float()  # (n, P)
        common = found @ truth.T
        union = found.sum(1)[:, None] + truth.sum(1) - common
        rows.append(common / union.clamp(min=1))
    return torch.cat(rows)


class OracleHead(nn.Module):
    """In place of a segmentation head: proposes given masks, with the head's logits for them."""

    def __init__(self, head: nn.Module, masks: Tensor, queries: Tensor) -> None:
        """Set what is proposed.

        Args:
            head: of the model.
            masks: (1, R, h, w) logits on the canvas of the proposals.
            queries: (R,) int64, those of the head whose logits each mask gets.
        """
        super().__init__()
        self.head = head
        self.masks = masks
        self.queries = queries

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Return the masks; see `SegmentationHead.forward`."""
        found = self.head(*arguments, **options)
        return replace(
            found,
            logits=found.logits[:, -1:, self.queries],
            masks=self.masks[:, None].to(found.masks.dtype),
            embeddings=found.embeddings[:, -1:, self.queries],
        )


@contextmanager
def proposing(model: Segmenter, masks: Tensor, queries: Tensor) -> Iterator[None]:
    """Let a model take the masks of an `OracleHead` for its own."""
    head = model.sem_seg_head
    model.sem_seg_head = OracleHead(head, masks, queries)
    try:
        yield
    finally:
        model.sem_seg_head = head


def as_proposals(regions: TrueRegions, frame: Frame) -> Tensor:
    """Return the regions as a perfect head would propose them, (1, R, H/4, W/4) logits.

    Their sigmoid is the part of each square of 4 x 4 pixels that a region covers.
    """
    height, width = frame.image_size
    small = F.interpolate(regions.masks[None].float(), size=(height, width), mode="area")
    padded = F.pad(small, (0, frame.canvas[1] - width, 0, frame.canvas[0] - height))
    return torch.logit(F.avg_pool2d(padded, 4), eps=1e-4)


def at_full_size(candidates: Candidates, regions: TrueRegions, kind: MaskKind) -> Candidates:
    """Give the scores of regions their exact masks, at the size of the result."""
    height, width = regions.scored.shape
    canvas = torch.empty(1, 1, height, width)
    exact = regions.masks.float()
    masks = (2 * exact - 1) * _CERTAIN if kind == "logits" else exact
    items = [{**candidates.items[0], "height": height, "width": width}]
    return Candidates(items, ImageList(canvas, [(height, width)]), candidates.scores, masks[None])


def repaired(
    candidates: Candidates,
    oracles: Collection[str],
    *,
    classes: Tensor,
    objects: Tensor,
) -> Tensor:
    """Return log scores (1, N, K + 1) with the classes or the void of an oracle.

    Args:
        candidates: proposals, or the true regions.
        oracles: of `ORACLES`; the masks are not changed here.
        classes: (N,) int64, the true class of each, -1 where it lies on no region.
        objects: (N,) bool, whether each is one.
    """
    if not {"classes", "void"} & set(oracles):
        return candidates.scores
    inner, some = candidates.probabilities
    if "classes" in oracles:
        known = classes >= 0
        right = F.one_hot(classes.clamp(min=0), inner.shape[-1]).to(inner.dtype)
        inner = torch.where(known[:, None], right, inner)
    if "void" in oracles:
        some = objects.to(inner.dtype)
    parts = [inner * some[:, None], 1 - some[:, None]]
    return torch.log(torch.cat(parts, dim=-1) + SCORE_FLOOR)[None]
