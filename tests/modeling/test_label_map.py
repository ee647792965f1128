"""Labels in blocks of rows against scores of the whole image."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from maftp.modeling import label_map as module
from maftp.modeling.label_map import label_map
from maftp.modeling.postprocessing import Frame, semantic_inference


def whole(scores, masks, frame, *, masks_first):
    upsampled = frame.upsample(masks)
    if masks_first:
        return semantic_inference(scores, frame.fit(upsampled))
    return frame.fit(semantic_inference(scores, upsampled))


def inputs(seed, classes, queries, canvas):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, queries, 3, 3, generator=generator) * 8
    size = (canvas[0] // 4, canvas[1] // 4)
    masks = F.interpolate(coarse, size=size, mode="bicubic")[0] - 2
    scores = torch.randn(queries, classes + 1, generator=generator) * 4
    return scores.log_softmax(-1), masks


@given(
    seed=st.integers(0, 2**31),
    classes=st.sampled_from([1, 5, 40]),
    queries=st.sampled_from([1, 12]),
    canvas=st.sampled_from([(32, 64), (96, 64)]),
    crop=st.tuples(st.integers(0, 31), st.integers(0, 31)),
    size=st.one_of(st.none(), st.tuples(st.integers(1, 130), st.integers(1, 130))),
    masks_first=st.booleans(),
    block=st.sampled_from([1, 3000, 50_000]),
)
@settings(deadline=None, max_examples=60)
def test_equals_the_argmax_of_whole_scores(
    seed, classes, queries, canvas, crop, size, masks_first, block
):
    scores, masks = inputs(seed, classes, queries, canvas)
    image_size = (canvas[0] - crop[0], canvas[1] - crop[1])
    frame = Frame(canvas=canvas, image_size=image_size, size=size or image_size)
    expected = whole(scores, masks, frame, masks_first=masks_first)  # (K, h, w)
    before, module.BLOCK_BYTES = module.BLOCK_BYTES, block
    try:
        labels = label_map(scores, masks, frame, masks_first=masks_first)
    finally:
        module.BLOCK_BYTES = before
    assert labels.shape == frame.size and labels.dtype == torch.int64
    # equal, or so near a tie that the order of a sum decides
    chosen = expected.gather(0, labels[None])[0]
    torch.testing.assert_close(chosen, expected.max(0).values, rtol=1e-5, atol=1e-6)
    assert (labels != expected.argmax(0)).float().mean() <= 0.01


@pytest.mark.parametrize("rows", [(0, 7), (7, 41), (41, 96), (95, 96)])
def test_slabs_are_the_rows_of_the_whole(rows):
    _, masks = inputs(0, 3, 5, (96, 64))
    whole_masks = F.interpolate(masks[None], size=(96, 64), mode="bilinear", align_corners=False)[0]
    found = module._canvas_rows(masks, *rows, (96, 64))
    expected = whole_masks[:, rows[0] : rows[1]]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # rounding


def test_canvas_that_is_no_multiple():
    _, masks = inputs(0, 3, 5, (96, 64))
    whole_masks = F.interpolate(masks[None], size=(90, 64), mode="bilinear", align_corners=False)[0]
    assert torch.equal(module._canvas_rows(masks, 10, 33, (90, 64)), whole_masks[:, 10:33])


def test_memory_does_not_grow_with_the_image(monkeypatch):
    # 500 classes at 640 x 640: scores of the whole take 819 MB, a block 16 MiB.
    largest = 0
    combine = module._combine

    def watched(*arguments):
        nonlocal largest
        block = combine(*arguments)
        largest = max(largest, block.numel() * 4)
        return block

    monkeypatch.setattr(module, "_combine", watched)
    scores, masks = inputs(0, 500, 4, (640, 640))
    frame = Frame(canvas=(640, 640), image_size=(640, 640), size=(640, 640))
    label_map(scores, masks, frame, masks_first=False)
    assert largest <= module.BLOCK_BYTES
