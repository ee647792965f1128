"""Masks that share no pixel, as the label map they come from: one plane instead of one a mask."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class DisjointMasks:
    """Masks of an image like Detectron2's `BitMasks`; planes are made where they are wanted.

    A label map of 800 x 1216 is a megabyte, and so is every mask of it: loader processes hand over
    the map, and the device of the model makes masks of it.
    """

    def __init__(self, labels: Tensor, values: Tensor) -> None:
        """Take a label map (H, W) and the G values whose pixels are a mask each."""
        self.labels = labels
        self.values = values.to(labels.dtype)

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self.values)

    @property
    def tensor(self) -> Tensor:
        """The masks, (G, H, W) bool."""
        return self.labels[None] == self.values[:, None, None]

    def to(self, *args: Any, **kwargs: Any) -> DisjointMasks:
        """Move it, as `Tensor.to` does."""
        return DisjointMasks(self.labels.to(*args, **kwargs), self.values.to(*args, **kwargs))

    def pin_memory(self) -> DisjointMasks:
        """Copy it to memory from which a GPU takes it while the host goes on."""
        return DisjointMasks(self.labels.pin_memory(), self.values.pin_memory())
