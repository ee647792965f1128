"""What ends a training, as a sentence: a loss that is not finite, lack of memory, Ray's errors."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from maftp.config import Params
from maftp.errors import Interrupted, TrainingError, describe_os_error
from maftp.files import atomic_path
from maftp.training.checkpoint import trained_tensors
from maftp.training.distributed import Batch

_AGAIN = "run it again to go on from the last checkpoint"


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
            and `file_name` per image; `canvas` in one of them is the size of the whole batch.
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


def _plain(item: Mapping[str, object]) -> dict[str, object]:
    """Return what an item holds, without the classes that torch.load refuses."""
    kept: dict[str, object] = {
        name: value for name, value in item.items() if isinstance(value, (Tensor, str, tuple))
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
    gpu = device.type == "cuda"
    kind = "GPU" if gpu else "machine"
    # A job of Slurm gets more of the machine's memory with every attempt, but no other GPU.
    return (TrainingError if gpu else Interrupted)(
        f"step {step + 1}: the {kind}'s memory does not suffice for {images} images of "
        f"{size[0]} x {size[1]} pixels at once; {memory_advice(params, images=images, gpu=gpu)}, "
        "then run it again to go on from the last checkpoint"
    )


def memory_advice(params: Params, *, images: int | None = None, gpu: bool = False) -> str:
    """Name what lowers the memory a training needs: first what changes no result.

    Args:
        params: of the training.
        images: computed at once in one worker; as the parameters say when not given.
        gpu: the GPU's memory did not suffice, not the machine's.
    """
    execution = params.execution
    if images is None:
        images = execution.micro_batch_size or params.train.batch_size // execution.workers
    advice = []
    if images > 1:
        advice.append(f"set execution.micro_batch_size to {_divisor_below(images)}")
    if not execution.gradient_checkpointing:
        advice.append("set execution.gradient_checkpointing to true")
    if not gpu:
        if execution.workers > 1:
            advice.append("lower execution.workers")
        if execution.loader_workers:
            advice.append("lower execution.loader_workers")
        advice.append("give the job more memory (resources.train.memory_mb)")
    if images == 1:
        cropped = params.input.train.mapper != "semantic"
        smaller = "crop_size" if cropped else "short_side and max_side"
        advice.append(f"begin anew with a lower input.train.{smaller} or train.num_points")
    return ", or ".join(advice)


def _divisor_below(number: int) -> int:
    return next(d for d in range(number // 2, 0, -1) if number % d == 0)


def describe_failure(error: BaseException, params: Params, *, folder: Path) -> TrainingError:
    """Return what `TorchTrainer.fit` has raised as an error for the user.

    Args:
        error: of any class; Ray Train's are not the only ones that `fit` raises.
        params: of the training; the advice names what can be changed in them.
        folder: where Ray Train stores what it knows of the run.
    """
    texts = [f"{type(part).__name__}: {part}" for part in _parts(error)]
    if any(re.search(r"No space left|quota exceeded", text, re.IGNORECASE) for text in texts):
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
        return TrainingError(
            f"{describe_os_error(full)}; training goes on from its last checkpoint"
        )
    if short := next((text for text in texts if _is_lack_of_memory(text)), None):
        used = re.search(r"was ([\d.]+ ?[KMGT]?B) used / ([\d.]+ ?[KMGT]?B) limit", short)
        amount = f" ({used[1]} of {used[2]} used)" if used else ""
        return Interrupted(
            f"the machine's memory does not suffice{amount}, so Ray ended a worker; "
            f"{memory_advice(params)}, then {_AGAIN}"
        )
    if any(re.search(r"Died|Actor|Worker(Crashed)?Error|process was killed", t) for t in texts):
        return Interrupted(
            f"a process of Ray was killed or has crashed; {_AGAIN} (where the system ended it for "
            f"lack of memory: {memory_advice(params)})"
        )
    last = texts[-1].strip().rpartition("\n")[2].strip()
    return Interrupted(f"a worker was lost ({last}); {_AGAIN}")


def _parts(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all those it carries, the innermost last."""
    if error is None:
        return
    yield error
    inner = [getattr(error, "controller_failure", None), getattr(error, "cause", None)]
    inner += dict(getattr(error, "worker_failures", None) or {}).values()
    for part in inner:
        if isinstance(part, BaseException):
            yield from _parts(part)


def _is_lack_of_memory(text: str) -> bool:
    """Tell Ray's own verdict from its lists of what might have been the cause."""
    return text.startswith("OutOfMemoryError") or "node running low on memory" in text
