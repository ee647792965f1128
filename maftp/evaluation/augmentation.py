"""Test-time augmentation: semantic scores averaged over sizes and flips of the test image.

As in the public code of MAFT+ (ECCV 2024): the image, already resized for the test, is resized once
more to each size; sizes one after another, plain before flipped, one version at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from maftp.data.mapper import test_input

if TYPE_CHECKING:
    from maftp.config import Params

Batch = Sequence[Mapping[str, Any]]


class Augmented:
    """Calls a model on every version of an image; panoptic and instance output are dropped."""

    def __init__(
        self,
        model: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
        *,
        short_sides: Sequence[int],
        max_side: int,
        flip: bool,
    ) -> None:
        """Set the versions.

        Args:
            model: gives `sem_seg` (K, height, width) for `image`, `height` and `width`.
            short_sides: shorter sides, in pixels.
            max_side: largest longer side, in pixels.
            flip: also flip each version horizontally.
        """
        self._model = model
        self._short_sides = list(short_sides)
        self._max_side = max_side
        self._flip = flip

    @classmethod
    def from_params(cls, params: Params, model: Callable[..., Any]) -> Augmented:
        """Wrap a model as `params.evaluate.augmentation` says, which must not be None."""
        chosen = params.evaluate.augmentation
        assert chosen is not None
        return cls(
            model, short_sides=chosen.short_sides, max_side=chosen.max_side, flip=chosen.flip
        )

    def __call__(self, batched_inputs: Batch) -> list[dict[str, Tensor]]:
        """Return the mean `sem_seg` of each image over its versions."""
        return [{"sem_seg": self._mean(item)} for item in batched_inputs]

    def _mean(self, item: Mapping[str, Any]) -> Tensor:
        image = item["image"]
        size = {
            "height": item.get("height", image.shape[-2]),
            "width": item.get("width", image.shape[-1]),
        }
        total, count = None, 0
        for version, flipped in self._versions(image):
            scores = self._model([{"image": version, **size}])[0]["sem_seg"]
            scores = scores.flip(-1) if flipped else scores
            total = scores if total is None else total + scores
            count += 1
        if total is None:
            raise ValueError("no sizes to average over")
        return total / count

    def _versions(self, image: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """Yield resized (3, h, w) uint8 images, and whether they are flipped."""
        pixels = image.permute(1, 2, 0).byte().cpu().numpy()
        for side in self._short_sides:
            version = test_input(pixels, short_side=side, max_side=self._max_side)["image"]
            yield version, False
            if self._flip:
                yield version.flip(-1), True
