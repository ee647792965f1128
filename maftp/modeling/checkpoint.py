"""Checkpoints: strict loading of released and own weights, every misfit named."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from maftp.errors import CheckpointError
from maftp.modeling.checkpoint_file import read_metadata, read_state
from maftp.modeling.tensor_files import not_finite

if TYPE_CHECKING:
    from maftp.modeling.segmenter import Segmenter

logger = logging.getLogger(__name__)

TEACHER = "backbone_t."
STUDENT_CLIP = "backbone.clip_model."
DERIVED = ("criterion.empty_weight", "attn_mask")
"""Entries that follow from the training vocabulary and from the text length; never loaded."""
_SHOWN = 3


def load_weights(model: Segmenter, path: Path) -> dict[str, Any]:
    """Load a released checkpoint (.pth, bare or under "model") or an own .safetensors, strictly.

    The teacher's entries are dropped by name when the model has no teacher, and the model's own are
    kept when the file has none; so are the entries in `DERIVED`.

    Args:
        model: the model to fill in place.
        path: the checkpoint.

    Returns:
        What training noted in an own checkpoint; empty for released ones.

    Raises:
        CheckpointError: the file is damaged, or an entry is missing, left over or of another shape.
    """
    state, metadata = read_state(path), read_metadata(path)
    _check_architecture(metadata, model.architecture, path)
    own = model.state_dict()
    kept = {name: tensor for name, tensor in own.items() if name.endswith(DERIVED)}
    teacher = model.teacher_prefix
    if not any(name.startswith(teacher) for name in state):
        kept |= {name: tensor for name, tensor in own.items() if name.startswith(teacher)}
    unused = [name for name in state if name.startswith(teacher) and name not in own]
    if unused:
        logger.info("%s: left out %d entries %s*, not needed here", path, len(unused), teacher)
        state = {name: tensor for name, tensor in state.items() if name not in set(unused)}
    wanted = {name: tensor for name, tensor in own.items() if name not in kept}
    fitted = fit_state(state, wanted, source=path, model=f"a {model.architecture['model']} model")
    model.load_state_dict(fitted | kept)
    return metadata


def load_teacher(teacher: torch.nn.Module, path: Path) -> bool:
    """Fill a teacher from the teacher's entries of a checkpoint; False when it has none."""
    state = read_state(path)
    own = teacher.state_dict()
    found = {name: state[TEACHER + name] for name in own if TEACHER + name in state}
    if found:
        teacher.load_state_dict(fit_state(found, own, source=path, model="the teacher"))
    return bool(found)


def clip_entries(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the CLIP in a whole model's state under its own names; any other state as it is."""
    found = {
        name.removeprefix(STUDENT_CLIP): tensor
        for name, tensor in state.items()
        if name.startswith(STUDENT_CLIP)
    }
    return found or state


def fit_state(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: Path, model: str
) -> dict[str, Tensor]:
    """Return the entries of `state` that `wanted` asks for, derived ones left out.

    Raises:
        CheckpointError: entries are missing, unexpected, of another shape, or not finite; names
            some.
    """
    state = {name: tensor for name, tensor in state.items() if not name.endswith(DERIVED)}
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    misshapen = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems = [
        f"{len(names)} {kind}: {_shown(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source}: the entries do not fit {model} ({'; '.join(problems)}); "
            f"the file looks like {describe(state)}, so choose the experiment it belongs to"
        )
    check_finite({name: state[name] for name in wanted}, source)
    return state


def check_finite(tensors: Mapping[str, Tensor], source: Path) -> None:
    """Refuse tensors with NaN or infinity, which would make every score NaN.

    Raises:
        CheckpointError: names some of them.
    """
    if wrong := not_finite(tensors):
        raise CheckpointError(
            f"{source}: {len(wrong)} entries are not finite: {_shown(wrong)}; training had broken "
            "down or the file is damaged, so take an earlier checkpoint or fetch it again"
        )


def describe(state: Mapping[str, Tensor]) -> str:
    """Say which model a state dict seems to be of, from its names and shapes."""
    stem = next((n for n in state if n.endswith("visual.trunk.stem.0.weight")), None)
    width = None if stem is None else state[stem].shape[0]
    size = {128: "ConvNeXt-Base", 192: "ConvNeXt-Large"}.get(width, f"a {width}-wide ConvNeXt")
    if not any(name.startswith("sem_seg_head.") for name in state):
        return "no segmentation model" if width is None else f"CLIP weights alone ({size})"
    kinds = {"visual_encoder.": "maskclippp", "mask_adapter.": "mask_adapter", "cdt.": "maftp"}
    found = (kind for prefix, kind in kinds.items() if any(n.startswith(prefix) for n in state))
    kind = next(found, "fcclip")
    return f"{kind} without CLIP" if width is None else f"{kind} with {size}"


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _check_architecture(
    metadata: Mapping[str, Any], architecture: Mapping[str, Any], path: Path
) -> None:
    """Refuse own weights of equal shapes that were trained with another formula."""
    for key, value in architecture.items():
        if key in metadata and metadata[key] != value:
            raise CheckpointError(
                f"{path}: was trained with {key} {metadata[key]!r}, the parameters say {value!r}; "
                "choose the experiment it belongs to"
            )
