"""Checkpoints that the authors of the methods released, verified whole and kept as .safetensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from maftp.errors import CheckpointError, ParamsError
from maftp.files import atomic_path, sha256
from maftp.modeling.build import build_model
from maftp.modeling.checkpoint import DERIVED, fit_state
from maftp.modeling.checkpoint_file import METADATA, read_state
from maftp.modeling.proposals import load_proposals
from maftp.modeling.tensor_files import save_tensors

if TYPE_CHECKING:
    from maftp.config import Params
    from maftp.modeling.segmenter import Segmenter

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the file that is written."""
_STUDENT = "backbone."


def convert_released(
    params: Params,
    released: Path,
    out: Path,
    *,
    name: str,
    num_training_classes: int,
    clip: Path | None = None,
    proposals: Path | None = None,
) -> None:
    """Check every entry and shape of a released checkpoint and write what evaluation needs.

    The file holds the trained model and, of some methods, its teacher, a whole frozen CLIP; the
    teacher is checked and left out. Of MaskCLIP++ it holds what was trained alone; the rest comes
    from `clip` and `proposals`, so that one file is the whole model again. Detectron2's wrapping
    under `model` and a bare state dict are both read.

    Args:
        params: parameters of the variant that it belongs to.
        released: the checkpoint (.pth).
        out: .safetensors file to write, atomically.
        name: its name in the catalog, noted in the file.
        num_training_classes: K of its training set; the criterion's buffer has K + 1 weights.
        clip: weights of the pretrained CLIP, where the file lacks them.
        proposals: weights of the frozen model that proposes masks, where the file lacks them.

    Raises:
        CheckpointError: the file is damaged, holds more than tensors, or is of another model.
        ParamsError: `clip` or `proposals` is needed and not given.
    """
    state = read_state(released)
    model = build_model(
        params, num_training_classes=num_training_classes, load_clip=clip, teacher=False
    )
    if model.released_parts:
        if clip is None or proposals is None:
            raise ParamsError(
                f"{name}: the file holds the trained part alone; name the pretrained CLIP and the "
                "checkpoint that proposes masks (clip.pretrained, train.proposals)"
            )
        load_proposals(model, proposals)
    whole = {key: value for key, value in model.state_dict().items() if not key.endswith(DERIVED)}
    own = {key: value for key, value in whole.items() if key.startswith(model.released_parts or "")}
    teacher = _teacher(model, own, state)
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
    if proposals is not None:
        noted["proposals_sha256"] = sha256(proposals)
    tensors = {key: fitted.get(key, value).float() for key, value in whole.items()}
    with atomic_path(out) as temporary:
        save_tensors(temporary, tensors, key=METADATA, noted=noted)


def _teacher(
    model: Segmenter, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the entries of the frozen CLIP that a released file holds, where it holds one."""
    prefix = model.teacher_prefix
    if not any(key.startswith(prefix) for key in state):
        return {}
    return {
        prefix + key.removeprefix(_STUDENT): value
        for key, value in own.items()
        if key.startswith(_STUDENT)
    }


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
