"""Untrained weights in the forms and at the sizes of the published ones."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from maftp.config import Params
from maftp.modeling.build import build_model
from maftp.modeling.checkpoint import DERIVED, TEACHER

STUDENT = "backbone."
CLIP = "backbone.clip_model."


def write_weights(
    params: Params, *, classes: int, released: Path, clip: Path | None = None
) -> None:
    """Write a released checkpoint (.pth) of random weights and the CLIP within it (.safetensors).

    Args:
        params: of the variant.
        classes: of the training set.
        released: student and teacher under `model`, as Detectron2's checkpointer writes them. Their
            tensors share their storage, so that the file has half the published one's size.
        clip: CLIP under open_clip's names, as the hub has it; None for none.
    """
    torch.manual_seed(0)
    model = build_model(params, num_training_classes=classes, load_clip=None, teacher=False)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith(DERIVED)}
    teacher = {
        TEACHER + key.removeprefix(STUDENT): value
        for key, value in state.items()
        if key.startswith(STUDENT)
    }
    weight = {"criterion.empty_weight": torch.ones(classes + 1)}
    torch.save({"model": state | teacher | weight, "iteration": 59999}, released)
    if clip is not None:
        tower = {k.removeprefix(CLIP): v for k, v in state.items() if k.startswith(CLIP)}
        save_file({key: value.contiguous() for key, value in tower.items()}, clip)
