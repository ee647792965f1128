"""Which part of a training step's batch is computed here, so that the parts add up to the whole.

A batch may be spread over workers, and a worker may take its share in several micro-batches. Two
things would then depend on how it is cut: what losses are divided by (masks, weights of classes),
and which random points a mask gets. Both are taken from the whole batch instead: a part divides by
the whole's count over the number of parts, so that the mean over parts is the whole's loss; and
every part draws the points of the whole batch and keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Rows of a tensor over the whole batch: those before this part, its own, those after."""

    before: int
    own: int
    after: int

    def rand(self, *size: int, device: torch.device) -> Tensor:
        """Return this part's rows (own, *size) of uniform numbers drawn for the whole batch."""
        drawn = torch.rand(self.before + self.own + self.after, *size, device=device)
        return drawn[self.before : self.before + self.own]


@dataclass(frozen=True)
class BatchShare:
    """A run of images within the batch of one step."""

    masks: tuple[int, ...]
    """Ground-truth masks of every image of the whole batch."""
    first: int
    """Index of the first image of this part."""
    images: int
    """Number of its images; all parts have the same."""

    @property
    def parts(self) -> float:
        """Number of parts the batch is cut into."""
        return len(self.masks) / self.images

    def rows(self, per_image: Sequence[int]) -> Rows:
        """Return the rows of this part where image i of the whole batch has `per_image[i]`."""
        end = self.first + self.images
        return Rows(
            before=sum(per_image[: self.first]),
            own=sum(per_image[self.first : end]),
            after=sum(per_image[end:]),
        )

    def rand_per_image(self, *size: int, device: torch.device) -> list[Tensor]:
        """Return a tensor (1, *size) of uniform numbers per image, drawn for the whole batch."""
        drawn = [torch.rand(1, *size, device=device) for _ in self.masks]
        return drawn[self.first : self.first + self.images]

    def pair_rows(self, num_queries: int) -> Rows:
        """Return one row per matched pair of a query and a mask."""
        return self.rows([min(num_queries, masks) for masks in self.masks])


_CURRENT: ContextVar[BatchShare | None] = ContextVar("batch_share", default=None)


@contextmanager
def computing(share: BatchShare) -> Iterator[None]:
    """Let the losses know which part of the batch the model is called with."""
    token = _CURRENT.set(share)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_share(targets: Sequence[Mapping[str, Tensor]]) -> BatchShare:
    """Return the part that `targets` belong to; without `computing` they are the whole batch.

    Raises:
        ValueError: the part has another number of masks than was said.
    """
    masks = tuple(len(target["labels"]) for target in targets)
    share = _CURRENT.get()
    if share is None:
        return BatchShare(masks=masks, first=0, images=len(masks))
    if share.masks[share.first : share.first + share.images] != masks:
        raise ValueError(f"images with {masks} masks are not part {share}")
    return share
