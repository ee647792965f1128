"""Checkpoints that the authors of the methods released, verified whole and kept as .safetensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from maftp.errors import CheckpointError
from maftp.files import atomic_path, sha256
from maftp.modeling.build import build_model
from maftp.modeling.checkpoint import DERIVED, fit_state
from maftp.modeling.checkpoint_file import METADATA, read_state
from maftp.modeling.tensor_files import save_tensors

if TYPE_CHECKING:
    from maftp.config import Params

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the file that is written."""
_STUDENT = "backbone."


def convert_released(
    params: Params, released: Path, out: Path, *, name: str, num_training_classes: int
) -> None:
    """Check every entry and shape of a released checkpoint and write what evaluation needs.

    The file holds the trained model and, of some methods, its teacher, a whole frozen CLIP; the
    teacher is checked and left out. Detectron2's wrapping under `model` and a bare state dict are
    both read.

    Args:
        params: parameters of the variant that it belongs to.
        released: the checkpoint (.pth).
        out: .safetensors file to write, atomically.
        name: its name in the catalog, noted in the file.
        num_training_classes: K of its training set; the criterion's buffer has K + 1 weights.

    Raises:
        CheckpointError: the file is damaged, holds more than tensors, or is of another model.
    """
    state = read_state(released)
    model = build_model(
        params, num_training_classes=num_training_classes, load_clip=None, teacher=False
    )
    own = {key: value for key, value in model.state_dict().items() if not key.endswith(DERIVED)}
    prefix = model.teacher_prefix
    taught = any(key.startswith(prefix) for key in state)
    teacher = {
        prefix + key.removeprefix(_STUDENT): value
        for key, value in own.items()
        if taught and key.startswith(_STUDENT)
    }
    if model.released_surplus:
        state = _without_surplus(state, own | teacher, released)
    fitted = fit_state(state, own | teacher, source=released, model=f"released {name} weights")
    _check_training_classes(state, num_training_classes, released)
    noted = model.architecture | {
        "format": FORMAT,
        "released": name,
        "training_classes": num_training_classes,
        "source_sha256": sha256(released),
    }
    tensors = {key: fitted[key].float() for key in own}
    with atomic_path(out) as temporary:
        save_tensors(temporary, tensors, key=METADATA, noted=noted)


def _without_surplus(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], released: Path
) -> dict[str, Tensor]:
    """Leave out, and name, the entries of parts that the authors removed from their code."""
    surplus = [key for key in state if key not in wanted and not key.endswith(DERIVED)]
    if surplus:
        logger.warning("%s: left out entries of unknown parts: %s", released, ", ".join(surplus))
    return {key: value for key, value in state.items() if key not in set(surplus)}


def _check_training_classes(state: Mapping[str, Tensor], classes: int, released: Path) -> None:
    """Tell a semantic from a panoptic checkpoint: only the criterion's buffer differs in shape."""
    weight = state.get("criterion.empty_weight")
    if weight is not None and len(weight) != classes + 1:
        raise CheckpointError(
            f"{released}: was trained with {len(weight) - 1} classes, the experiment's training set"
            f" has {classes}; choose the experiment it belongs to"
        )
