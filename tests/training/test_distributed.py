"""A worker's share: what is learnt of the whole batch, and passes of one size."""

from __future__ import annotations

import torch

from maftp.losses.batch_share import BatchShare
from maftp.training.distributed import NextAction, WholeBatch, Worker, gather_batch, micro_batches


def item(height, width, masks):
    image = torch.full((3, height, width), 7, dtype=torch.uint8)
    return {"image": image, "instances": [0] * masks, "file_name": "x"}


def test_one_worker_is_the_whole_batch():
    batch = [item(4, 6, 2), item(5, 3, 0)]
    whole = gather_batch(batch, action=NextAction.SAVE, worker=Worker())
    assert whole == WholeBatch(masks=(2, 0), size=(5, 6), action=NextAction.SAVE)


def test_passes_have_the_size_of_the_whole_batch():
    batch = [item(4, 6, 2), item(5, 3, 0)]
    whole = WholeBatch(masks=(1, 1, 2, 0), size=(8, 6), action=NextAction.CONTINUE)
    worker = Worker(rank=1, world_size=2)
    parts = list(micro_batches(batch, whole, images=1, worker=worker))
    assert [share for _, share in parts] == [
        BatchShare(masks=whole.masks, first=2, images=1),
        BatchShare(masks=whole.masks, first=3, images=1),
    ]
    for (part,), original in zip((part for part, _ in parts), batch, strict=True):
        assert part == {**original, "canvas": (8, 6)}


def test_one_image_of_a_micro_batch_asks_for_the_size():
    batch = [item(8, 6, 1), item(4, 4, 1)]
    whole = gather_batch(batch, action=NextAction.CONTINUE, worker=Worker())
    ((part, share),) = micro_batches(batch, whole, images=None, worker=Worker())
    assert part[0]["image"] is batch[0]["image"] and part[0]["canvas"] == (8, 6)
    assert part[1] is batch[1]
    assert share == BatchShare(masks=(1, 1), first=0, images=2)
