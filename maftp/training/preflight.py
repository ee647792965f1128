"""What can be known to go wrong before any worker starts."""

from __future__ import annotations

import os

import torch

from maftp.config import Params
from maftp.errors import ParamsError, TrainingError
from maftp.losses.representation_compensation import check_width


def check_params(params: Params) -> None:
    """Refuse parameters that this machine cannot train with.

    Raises:
        ParamsError: no GPU for mixed precision or for the workers, or inputs too narrow for
            representation compensation.
    """
    _check_gpus(params)
    if params.model.name == "maftp" and params.train.rc_weight > 0:
        _check_input_width(params)


def _check_gpus(params: Params) -> None:
    recipe = params.train
    if recipe.amp and not recipe.gpus_per_worker:
        raise ParamsError(
            "train.amp: float16 needs a GPU; set train.gpus_per_worker to 1 or train.amp to false"
        )
    wanted, found = recipe.gpus_per_worker * recipe.workers, torch.cuda.device_count()
    if wanted > found and not os.environ.get("RAY_ADDRESS"):
        raise ParamsError(
            f"train.gpus_per_worker: {recipe.workers} workers want {wanted} GPUs, found {found}; "
            "lower train.workers or train.gpus_per_worker, or name a cluster in $RAY_ADDRESS"
        )


def _check_input_width(params: Params) -> None:
    image = params.input.train
    side = image.short_side if image.mapper == "semantic" else image.crop_size
    padded = -(-side // 32)
    try:
        check_width(padded, scales=params.train.rc_scales)
    except TrainingError as error:
        raise ParamsError(str(error)) from None
