"""What the parts of the check share: device, sizes, models, batches and whole training steps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any
from unittest import mock

import subject
import torch
from torch import Tensor

from maftp.api import experiment_params
from maftp.config import Params
from maftp.losses import mask_aware
from maftp.losses.batch_share import BatchShare, Rows
from maftp.modeling.build import build_model
from maftp.modeling.pixel_decoder import pixel_centres, sample_scale
from maftp.modeling.position_encoding import sine_encoding
from maftp.modeling.precision import allow_tf32
from maftp.modeling.segmenter import Segmenter
from maftp.training.distributed import Batch, NextAction, Worker, gather_batch
from maftp.training.trainer import Trainer

CLASSES = 171
PRECISIONS: dict[str, tuple[str | None, bool]] = {
    "float16": ("float16", False),
    "float16 and tf32": ("float16", True),
    "bfloat16 and tf32": ("bfloat16", True),
    "tf32": (None, True),
    "float32": (None, False),
}
"""Type of autocast, and whether TF32 is allowed."""


@dataclass(frozen=True)
class Setting:
    """Where the check runs, and whether at full size or as a rehearsal."""

    device: torch.device
    tiny: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image of the paper's size."""
        return (64, 128) if self.tiny else (800, 1216)

    @property
    def precisions(self) -> list[str]:
        """Those that the device has; the first is the paper's."""
        if self.device.type == "cpu":
            return ["bfloat16 and tf32", "float32"]
        return list(PRECISIONS)

    def repeats(self, full: int) -> int:
        """Return how often something is repeated."""
        return 1 if self.tiny else full

    def params(self, experiment: str, **train: Any) -> Params:
        """Return an experiment's parameters with other ones in the recipe; tiny: the miniature's.

        Hardly anything is learnt, so that all variants are timed with the same weights.
        """
        params = experiment_params("miniature" if self.tiny else experiment)
        recipe = {"amp": False, "validation": None, "learning_rate": 1e-9, **train}
        return params.model_copy(update={"train": params.train.model_copy(update=recipe)})

    def model(self, params: Params, *, training: bool) -> Segmenter:
        """Build a model with random weights and text on the device."""
        torch.manual_seed(0)
        model = build_model(params, num_training_classes=CLASSES, load_clip=None, teacher=training)
        model.set_training_vocabulary(*subject.vocabulary(CLASSES, model.backbone.embed_dim))
        return model.to(self.device).train(training)

    def batch(self, images: int, *, masks: int = 9) -> Batch:
        """Draw a batch of images with rectangles for ground truth."""
        return [
            subject.training_item(*self.size, num_masks=masks, num_classes=CLASSES, seed=index)
            for index in range(images)
        ]


class Steps:
    """Training steps with the project's own trainer; a call does one, update included."""

    def __init__(
        self,
        model: Segmenter,
        params: Params,
        batches: Batch | Iterator[Batch],
        device: torch.device,
        *,
        seed: int = 0,
    ) -> None:
        """Prepare for steps with one and the same batch, or with the next one each."""
        self._worker = Worker(device=device)
        folder = Path(tempfile.gettempdir())
        self._trainer = Trainer(model, params=params, seed=seed, folder=folder, worker=self._worker)
        self._batches = batches if isinstance(batches, Iterator) else repeat(batches)
        self._step = 0
        self.losses: dict[str, float] = {}
        self.waited = 0.0
        """Seconds of all steps that batches were waited for."""

    def __call__(self) -> float:
        """Do a step and return its loss."""
        asked = time.monotonic()
        batch = next(self._batches)
        self.waited += time.monotonic() - asked
        whole = gather_batch(batch, action=NextAction.CONTINUE, worker=self._worker)
        self.losses, _ = self._trainer.step(batch, whole, step=self._step)
        self._step += 1
        return sum(self.losses.values())


def recipe_of(precision: str) -> dict[str, Any]:
    """Set the precision of float32 products; return what autocast the recipe has."""
    amp, tf32 = PRECISIONS[precision]
    allow_tf32(tf32)
    return {"amp": amp is not None, "amp_dtype": amp or "float16", "tf32": tf32}


@torch.no_grad()
def off_the_kinks(model: Segmenter) -> Segmenter:
    """Move the places where an untrained pixel decoder samples off the centres of its cells.

    There the slope of the interpolation jumps, and rounding decides on which side a place lies.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("sampling_offsets.bias"):
            parameter.add_(1 / 16)
    return model


@contextmanager
def drawn_on_the_cpu() -> Iterator[None]:
    """Let both devices, and float64, have the same random points."""

    def rows(self: Rows, *size: int, device: torch.device) -> Tensor:
        drawn = torch.rand(self.before + self.own + self.after, *size, dtype=torch.float32)
        return _moved(drawn[self.before : self.before + self.own], device)

    def per_image(self: BatchShare, *size: int, device: torch.device) -> list[Tensor]:
        drawn = [torch.rand(1, *size, dtype=torch.float32) for _ in self.masks]
        return [_moved(part, device) for part in drawn[self.first : self.first + self.images]]

    with (
        mock.patch.object(Rows, "rand", rows),
        mock.patch.object(BatchShare, "rand_per_image", per_image),
    ):
        yield


def _moved(drawn: Tensor, device: torch.device) -> Tensor:
    return drawn.to(device, torch.get_default_dtype())


@contextmanager
def in_double() -> Iterator[None]:
    """Let the model compute in float64 what it computes in float32 otherwise.

    Optimizers are left alone: a GPU's fused AdamW counts its steps in float32 whatever it updates.
    """
    arange = torch.arange

    def in_default_type(*given: Any, dtype: torch.dtype | None = None, **options: Any) -> Tensor:
        dtype = torch.float64 if dtype == torch.float32 else dtype
        return arange(*given, dtype=dtype, **options)

    _forget_constants()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(torch, "arange", in_default_type),
            mock.patch.object(Tensor, "float", Tensor.double),
        ):
            yield
    finally:
        torch.set_default_dtype(torch.float32)
        _forget_constants()


def _forget_constants() -> None:
    """Drop what the model has made of sizes; it has the precision of its time."""
    for function in (pixel_centres, sample_scale, sine_encoding, mask_aware._resize_matrix):
        function.forget()
