"""Checkpoints: the state an interrupted run goes on from, and the final weights.

A checkpoint is a folder `step-00000100` that appears whole or not at all:

    model.safetensors   trained parameters and buffers (what is frozen comes from CLIP's file again)
    optimizer.pt        optimizer, schedule and loss scaler
    state.json          step, and everything else that is numbers and names
    best.safetensors    the weights that scored best so far, where training is validated
    sha256.json         digests of the others: what a disk has damaged is never gone on from
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
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from maftp.errors import CheckpointError
from maftp.files import atomic_path, link_or_copy, sha256, write_json
from maftp.modeling.checkpoint_file import METADATA
from maftp.modeling.tensor_files import read_noted, save_pickled, save_tensors

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.json"
BEST, DIGESTS = "best.safetensors", "sha256.json"
TEACHER = "backbone_t."
"""Prefix of the frozen copy of CLIP, which only training needs."""


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


def save_checkpoint(
    path: Path, state: TrainingState, numbers: Mapping[str, Any], *, best: Path | None = None
) -> None:
    """Write a checkpoint folder in one go.

    Args:
        path: the folder to make.
        state: model and optimizer.
        numbers: what `load_checkpoint` returns again; must fit into JSON.
        best: the weights that scored best so far.

    Raises:
        OSError: it cannot be written.
    """
    with atomic_path(path, durable=True) as temporary:
        temporary.mkdir()
        save_tensors(temporary / MODEL, trained_tensors(state.model), key=METADATA, noted={})
        parts = {name: part.state_dict() for name, part in state.parts.items()}
        save_pickled(temporary / OPTIMIZER, parts)
        (temporary / STATE).write_text(json.dumps(numbers))
        if best is not None:
            link_or_copy(best, temporary / BEST)
        write_json(temporary / DIGESTS, {file.name: sha256(file) for file in temporary.iterdir()})


def load_checkpoint(path: Path, state: TrainingState) -> dict[str, Any]:
    """Put a checkpoint's tensors into `state` and return its numbers.

    Raises:
        CheckpointError: the folder is damaged or belongs to another model; nothing else is said
            to be loaded then.
    """
    check_checkpoint(path)
    try:
        tensors = load_file(path / MODEL)
        parts = torch.load(path / OPTIMIZER, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError) as error:
        raise _damaged(path, str(error)) from None
    _load_tensors(state.model, tensors, path)
    for name, part in state.parts.items():
        part.load_state_dict(parts[name])
    return read_numbers(path)


def check_checkpoint(path: Path) -> None:
    """Compare the files of a checkpoint with their digests.

    Raises:
        CheckpointError: one is missing or damaged.
    """
    for name in _digests(path):
        _check_file(path, name)


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint of the most steps below `folder` that is not damaged, or None."""
    return next((path for path in reversed(all_checkpoints(folder)) if is_sound(path)), None)


def is_sound(path: Path) -> bool:
    """Tell whether a checkpoint is whole and as it was written."""
    try:
        check_checkpoint(path)
    except CheckpointError:
        return False
    return True


def prune_checkpoints(folder: Path, *, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints below `folder`, once the newest is sound."""
    found = all_checkpoints(folder)
    if len(found) > keep and is_sound(found[-1]):
        for path in found[:-keep]:
            shutil.rmtree(path)


def read_numbers(path: Path) -> dict[str, Any]:
    """Return the numbers of a checkpoint without loading its tensors.

    Raises:
        CheckpointError: they are damaged.
    """
    _check_file(path, STATE)
    return json.loads((path / STATE).read_text())


def _digests(path: Path) -> dict[str, str]:
    try:
        found = json.loads((path / DIGESTS).read_text())
    except (OSError, ValueError) as error:
        raise _damaged(path, f"{DIGESTS}: {error}") from None
    if not isinstance(found, dict) or not {MODEL, OPTIMIZER, STATE} <= found.keys():
        raise _damaged(path, f"{DIGESTS} is not whole")
    return found


def _check_file(path: Path, name: str) -> None:
    expected = _digests(path)[name]
    try:
        sound = sha256(path / name) == expected
    except OSError as error:
        raise _damaged(path, f"{name}: {error.strerror}") from None
    if not sound:
        raise _damaged(path, f"{name} differs from its digest")


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: damaged checkpoint ({reason}); remove the folder")


def save_weights(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Write the whole model but the teacher as one safetensors file.

    Args:
        path: the file.
        model: offers `architecture` and `training_names`, which are noted in the file too.
        facts: noted as well; must fit into JSON.
    """
    names = model.training_names
    noted = {**facts, **model.architecture, "training_vocabulary": names and list(names)}
    if proposing := getattr(model, "proposal_names", None):
        noted["proposal_vocabulary"] = list(proposing)
    state = model.state_dict()
    tensors = {name: state[name] for name in state if not name.startswith(TEACHER)}
    with atomic_path(path, durable=True) as temporary:
        save_tensors(temporary, tensors, key=METADATA, noted=noted)


def weights_facts(path: Path) -> dict[str, Any]:
    """Return what `save_weights` noted; nothing when the file is missing or not its own."""
    try:
        noted = read_noted(path, METADATA)
    except (OSError, SafetensorError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def all_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints below `folder`, damaged ones too, by their steps."""
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
