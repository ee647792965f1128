"""One worker among all, and what workers tell each other so that their shares make up one batch.

The batch's images are padded to one size and its masks counted, whichever worker holds them; and
all workers learn at the same step that a checkpoint is due or that training shall stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from maftp.losses.batch_share import BatchShare

Batch = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Worker:
    """One worker among `world_size`."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    host: torch.distributed.ProcessGroup | None = None
    """All workers, to exchange numbers of their hosts; None: the default group does."""

    def gather(self, values: Tensor) -> Tensor:
        """Return the host's values (N,) of every worker as (world_size, N), by rank."""
        if self.world_size == 1:
            return values.cpu()[None]
        values = values.cpu()
        everyone = [torch.empty_like(values) for _ in range(self.world_size)]
        torch.distributed.all_gather(everyone, values, group=self.host)
        return torch.stack(everyone)


def host_group() -> torch.distributed.ProcessGroup | None:
    """Return a group of all workers over gloo, if the default group is of GPUs; all call it.

    Numbers that a host has and another wants need no GPU, which would have to catch up first.
    """
    if torch.distributed.get_backend() == "gloo":
        return None
    return torch.distributed.new_group(backend="gloo")


class NextAction(IntEnum):
    """What the first worker wants of all before the next step; the greater one wins."""

    CONTINUE = 0
    SAVE = 1
    STOP = 2


@dataclass(frozen=True)
class WholeBatch:
    """The batch of one step over all workers."""

    masks: tuple[int, ...]
    """Ground-truth masks of every image."""
    size: tuple[int, int]
    """Height and width that all images fit into."""
    action: NextAction


def gather_batch(batch: Batch, *, action: NextAction, worker: Worker) -> WholeBatch:
    """Learn the whole batch of which `batch` is this worker's share.

    Args:
        batch: items with `image` (3, H, W) and `instances`.
        action: this worker's wish.
        worker: this worker among all; all must call this together.
    """
    masks = [len(item["instances"]) for item in batch]
    height = max(item["image"].shape[-2] for item in batch)
    width = max(item["image"].shape[-1] for item in batch)
    everyone = worker.gather(torch.tensor([action, height, width, *masks], dtype=torch.int64))
    action, height, width = everyone[:, :3].amax(0).tolist()
    return WholeBatch(
        masks=tuple(everyone[:, 3:].flatten().tolist()),
        size=(height, width),
        action=NextAction(action),
    )


def micro_batches(
    batch: Batch, whole: WholeBatch, *, images: int | None, worker: Worker
) -> Iterator[tuple[Batch, BatchShare]]:
    """Cut this worker's share into micro-batches, each to be padded to the size of the whole batch.

    Args:
        batch: this worker's share.
        whole: what `gather_batch` returned for it.
        images: images of a micro-batch, which divide the share; None takes all at once.
        worker: this worker among all.
    """
    images = images or len(batch)
    for start in range(0, len(batch), images):
        part = list(batch[start : start + images])
        part[0] = {**part[0], "canvas": whole.size}  # models pad the others to the largest
        first = worker.rank * len(batch) + start
        yield part, BatchShare(masks=whole.masks, first=first, images=images)
