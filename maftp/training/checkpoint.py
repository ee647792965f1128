"""Checkpoints: the state an interrupted run goes on from, and the final weights.

A checkpoint is a folder `step-00000100` that appears whole or not at all:

    model.safetensors   trained parameters and buffers (what is frozen comes from CLIP's file again)
    optimizer.pt        optimizer, schedule and loss scaler
    state.json          step, and everything else that is numbers and names
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maftp.errors import CheckpointError
from maftp.files import atomic_path

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.json"
TEACHER = "backbone_t."
"""Prefix of the frozen copy of CLIP, which only training needs."""
METADATA = "maftp"
"""Metadata entry of own weight files; `maftp.modeling.checkpoint` reads it."""


class Stateful(Protocol):
    """Optimizer, schedule, or loss scaler."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to go on."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Take over what `state_dict` returned."""


@dataclass(frozen=True)
class TrainingState:
    """The parts of a running training that a checkpoint holds."""

    model: nn.Module
    parts: Mapping[str, Stateful]
    """Optimizer, schedule, loss scaler, by name."""


def step_folder(folder: Path, step: int) -> Path:
    """Return where the checkpoint after `step` steps lies below `folder`."""
    return folder / f"step-{step:08d}"


def save_checkpoint(path: Path, state: TrainingState, numbers: Mapping[str, Any]) -> None:
    """Write a checkpoint folder in one go.

    Args:
        path: the folder to make.
        state: model and optimizer.
        numbers: what `load_checkpoint` returns again; must fit into JSON.
    """
    with atomic_path(path) as temporary:
        temporary.mkdir()
        tensors = trained_tensors(state.model)
        save_file({name: t.cpu().contiguous() for name, t in tensors.items()}, temporary / MODEL)
        parts = {name: part.state_dict() for name, part in state.parts.items()}
        torch.save(parts, temporary / OPTIMIZER)
        (temporary / STATE).write_text(json.dumps(numbers))


def load_checkpoint(path: Path, state: TrainingState) -> dict[str, Any]:
    """Put a checkpoint's tensors into `state` and return its numbers.

    Raises:
        CheckpointError: the folder is damaged or belongs to another model; nothing else is said
            to be loaded then.
    """
    try:
        numbers = json.loads((path / STATE).read_text())
        tensors = load_file(path / MODEL)
        parts = torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error}); remove the folder") from None
    _load_tensors(state.model, tensors, path)
    for name, part in state.parts.items():
        part.load_state_dict(parts[name])
    return numbers


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of the most steps below `folder`, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def prune_checkpoints(folder: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints below `folder`."""
    for path in _checkpoints(folder)[:-keep]:
        shutil.rmtree(path)


def read_numbers(path: Path) -> dict[str, Any]:
    """Return the numbers of a checkpoint without loading its tensors.

    Raises:
        CheckpointError: they cannot be read.
    """
    try:
        return json.loads((path / STATE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint ({error}); remove the folder") from None


def save_weights(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write the whole model but the teacher as one safetensors file.

    Args:
        path: the file.
        model: offers `architecture` and `training_names`, which are noted in the file too.
        facts: noted as well; must fit into JSON.
    """
    names = model.training_names
    noted = {**facts, **model.architecture, "training_vocabulary": names and list(names)}
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(TEACHER)
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt", METADATA: json.dumps(noted)})


def weights_facts(path: Path) -> dict[str, Any]:
    """Return what `save_weights` noted; nothing when the file is missing or not its own."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get(METADATA, "{}"))
    except (OSError, SafetensorError):
        return {}


def _checkpoints(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8,}", path.name))


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return trained parameters and saved buffers by their state-dict names."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name not in frozen and not name.startswith(TEACHER)
    }


def _load_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    expected = trained_tensors(model)
    missing, unexpected = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    shapes = [n for n in expected.keys() & tensors.keys() if expected[n].shape != tensors[n].shape]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{path}: checkpoint of another model (missing: {_some(missing)}; unexpected: "
            f"{_some(unexpected)}; other shape: {_some(shapes)}); remove the folder to start anew"
        )
    # Copied, not loaded: loading makes a model forget its text embeddings. The text tower is the
    # same, and embeddings that were computed anew could differ from the cached in the last bit.
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)


def _some(names: Any) -> str:
    names = sorted(names)
    return (
        ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"
    )
