"""Labels without scores: the best class of every pixel, a few rows of the image at a time.

Scores of K classes at every pixel are needed for nothing but their largest; at K = 847 they take
gigabytes. A block of rows is resized, multiplied with the class probabilities and reduced to labels
before the next one is begun, so that memory hardly grows with K or with the image.

The numbers are those of `semantic_inference` up to rounding: with a resize, whatever is fewer is
resized, the Q masks or the K scores, which is the same sum in another order. A pixel whose two best
classes differ by rounding only can therefore get the other one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maftp.modeling.postprocessing import Frame, MaskKind, mask_probabilities

BLOCK_BYTES = 16 * 2**20
"""Memory of a block's scores on a CPU: more is no faster, less costs calls."""
GPU_BLOCK_BYTES = 512 * 2**20
"""The same on a GPU, where calls are what costs."""


def label_map(
    scores: Tensor, masks: Tensor, frame: Frame, *, masks_first: bool, kind: MaskKind = "logits"
) -> Tensor:
    """Return the labels that `semantic_inference` and an argmax over the classes give.

    Args:
        scores: (Q, K + 1) log scores, void last.
        masks: (Q, h, w) as they come out of the decoder.
        frame: sizes of canvas, image and result.
        masks_first: resize the masks, not probabilities or scores, to the result's size.
        kind: what the masks hold.

    Returns:
        `frame.size`, int64 classes; the first of equal ones.
    """
    image_size, size = frame.image_size, frame.size
    probabilities = scores.softmax(-1)[:, :-1].T  # (K, Q)
    late = not masks_first and len(probabilities) < len(masks)  # resize scores, not masks
    labels = torch.empty(size, dtype=torch.int64, device=masks.device)
    widest = max(size[1], image_size[1])
    block_bytes = BLOCK_BYTES if masks.device.type == "cpu" else GPU_BLOCK_BYTES
    rows = max(1, block_bytes // (4 * max(len(probabilities), len(masks)) * widest))
    source_rows = _source_rows(image_size[0], size[0])
    on_device = [part.to(masks.device, non_blocking=True) for part in source_rows]
    for first in range(0, size[0], rows):
        last = min(first + rows, size[0])
        start, stop = int(source_rows[0][first]), int(source_rows[1][last - 1]) + 1
        above, below, share = (part[first:last] for part in on_device)
        block = _canvas_rows(masks, start, stop, frame.canvas)[..., : image_size[1]]  # (Q, n, w)
        if not masks_first:
            block = mask_probabilities(block, kind)
        if late:
            block = _combine(probabilities, block)
        if image_size != size:
            block = _resize(block, above - start, below - start, share, size[1])
        if masks_first:
            block = mask_probabilities(block, kind)
        if not late:
            block = _combine(probabilities, block)
        labels[first:last] = block.argmax(0)
    return labels


def _combine(probabilities: Tensor, masks: Tensor) -> Tensor:
    """Sum (K, Q) times (Q, n, w) over the queries."""
    return (probabilities @ masks.flatten(1)).unflatten(1, masks.shape[1:])


def _canvas_rows(masks: Tensor, start: int, stop: int, canvas: tuple[int, int]) -> Tensor:
    """Return rows `start` to `stop` of the masks resized to `canvas`, (Q, n, W).

    The canvas is a whole multiple of the masks' size, so a slab with a row more above and below
    gives the numbers of the whole.
    """
    height = masks.shape[1]
    factor, rest = divmod(canvas[0], height)
    if rest:
        whole = F.interpolate(masks[None], size=canvas, mode="bilinear", align_corners=False)
        return whole[0, :, start:stop]
    top, bottom = max(start // factor - 1, 0), min((stop - 1) // factor + 2, height)
    slab = F.interpolate(
        masks[None, :, top:bottom],
        size=((bottom - top) * factor, canvas[1]),
        mode="bilinear",
        align_corners=False,
    )
    return slab[0, :, start - top * factor : stop - top * factor]


def _source_rows(height: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each wanted row, the rows above and below in the source and the lower's share.

    The rule of PyTorch's bilinear resize with half-pixel centres.
    """
    rows = torch.arange(wanted, dtype=torch.float32)
    places = ((rows + 0.5) * (height / wanted) - 0.5).clamp(min=0)
    above = places.long().clamp(max=height - 1)
    share = (places - above).clamp(0, 1)
    return above, torch.where(share > 0, above + 1, above).clamp(max=height - 1), share


def _resize(maps: Tensor, above: Tensor, below: Tensor, share: Tensor, width: int) -> Tensor:
    """Resize maps (C, n, w) to the rows that are asked for and to `width` columns."""
    share = share[:, None]
    rows = maps[:, above] * (1 - share) + maps[:, below] * share
    if rows.shape[2] == width:
        return rows
    size = (rows.shape[1], width)
    return F.interpolate(rows[None], size=size, mode="bilinear", align_corners=False)[0]
