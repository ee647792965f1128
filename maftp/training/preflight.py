"""What can be known to go wrong before any worker starts."""

from __future__ import annotations

import os

import torch

from maftp.config import Params
from maftp.errors import ParamsError, TrainingError
from maftp.losses.representation_compensation import check_width
from maftp.training.allocation import Allocation


def check_params(params: Params, allocation: Allocation | None = None) -> None:
    """Refuse parameters that this machine, or the nodes of this job, cannot train with.

    Args:
        params: one variant of an experiment.
        allocation: the job this process is part of.

    Raises:
        ParamsError: no GPU for mixed precision or for the workers, fewer nodes than wanted, or
            inputs too narrow for representation compensation.
    """
    _check_nodes(params, allocation)
    _check_gpus(params)
    if params.model.name == "maftp" and params.train.rc_weight > 0:
        _check_input_width(params)


def _check_nodes(params: Params, allocation: Allocation | None) -> None:
    wanted = params.resources.nodes
    found = 1 if allocation is None else len(allocation.nodes)
    if wanted > found and not os.environ.get("RAY_ADDRESS"):
        here = "this is one machine" if allocation is None else f"job {allocation.job} has {found}"
        raise ParamsError(
            f"resources.nodes: {wanted} nodes wanted, {here}; lower it, run the workflow with the "
            "slurm profile, or name a cluster in $RAY_ADDRESS"
        )


def _check_gpus(params: Params) -> None:
    recipe, execution = params.train, params.execution
    if recipe.amp and not execution.gpus_per_worker:
        raise ParamsError(
            f"train.amp: {recipe.amp_dtype} needs a GPU; set execution.gpus_per_worker to 1 or "
            "train.amp to false"
        )
    here = execution.workers // params.resources.nodes
    wanted, found = execution.gpus_per_worker * here, torch.cuda.device_count()
    if wanted > found and not os.environ.get("RAY_ADDRESS"):
        raise ParamsError(
            f"execution.gpus_per_worker: {here} workers want {wanted} GPUs, found {found}; "
            "lower execution.workers or gpus_per_worker, or name a cluster in $RAY_ADDRESS"
        )


def _check_input_width(params: Params) -> None:
    image = params.input.train
    side = image.short_side if image.mapper == "semantic" else image.crop_size
    padded = -(-side // 32)
    try:
        check_width(padded, scales=params.train.rc_scales)
    except TrainingError as error:
        raise ParamsError(str(error)) from None
