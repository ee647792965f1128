"""Steps that cannot be computed: a loss that is not finite, and memory that does not suffice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from maftp.config import Params
from maftp.errors import TrainingError
from maftp.files import atomic_path
from maftp.training.checkpoint import trained_tensors
from maftp.training.whole_batch import Batch


def not_finite(
    model: nn.Module, batch: Batch, terms: Mapping[str, float], *, step: int, seed: int, file: Path
) -> TrainingError:
    """Keep what repeats a step whose loss is not finite; return the error that names it.

    Args:
        model: as it was before the step.
        batch: what it was called with.
        terms: weighted losses.
        step: 0-based.
        seed: of torch's generator before the call.
        file: written with torch.save, loadable with weights_only=True: `step`, `seed`, `losses`,
            `model` (trained tensors by name), and `batch` with `image`, `gt_classes`, `gt_masks`
            and `file_name` per image.
    """
    kept = {
        "step": step + 1,
        "seed": seed,
        "losses": dict(terms),
        "model": {name: tensor.cpu() for name, tensor in trained_tensors(model).items()},
        "batch": [_plain(item) for item in batch],
    }
    with atomic_path(file) as temporary:
        torch.save(kept, temporary)
    wrong = ", ".join(
        f"{name} = {value}" for name, value in terms.items() if not math.isfinite(value)
    )
    files = ", ".join(str(item.get("file_name", "an image without file name")) for item in batch)
    return TrainingError(
        f"step {step + 1}: the loss is not finite ({wrong}) on {files}; look at these images and "
        f"their labels, or lower train.learning_rate; {file} holds model and images of the step"
    )


def _plain(item: Mapping[str, object]) -> dict[str, Tensor | str]:
    """Return an item's tensors without the classes that torch.load refuses."""
    kept: dict[str, Tensor | str] = {
        name: value for name, value in item.items() if isinstance(value, (Tensor, str))
    }
    instances = item.get("instances")
    for name in ("gt_classes", "gt_masks"):
        if hasattr(instances, name):
            value = getattr(instances, name)
            kept[name] = getattr(value, "tensor", value)
    return kept


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether torch could not get memory, of the GPU or of the machine."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def out_of_memory(
    params: Params, *, step: int, images: int, size: tuple[int, int], device: torch.device
) -> TrainingError:
    """Return the error that names the setting to lower.

    Args:
        params: of the training.
        step: 0-based.
        images: computed at once.
        size: height and width they were padded to.
        device: whose memory it was.
    """
    smaller = "input.train.short_side and max_side"
    if params.input.train.mapper == "panoptic":
        smaller = "input.train.crop_size"
    if images > 1:
        advice = f"set execution.micro_batch_size to {_divisor_below(images)}"
    else:
        advice = f"lower {smaller}, or train.num_points"
    if device.type != "cuda":
        advice += ", or give the job more memory (resources.train.memory_mb)"
    kind = "GPU" if device.type == "cuda" else "machine"
    return TrainingError(
        f"step {step + 1}: the {kind}'s memory does not suffice for {images} images of "
        f"{size[0]} x {size[1]} pixels at once; {advice}"
    )


def _divisor_below(number: int) -> int:
    return next(d for d in range(number // 2, 0, -1) if number % d == 0)
