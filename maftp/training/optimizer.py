"""AdamW with explicit parameter rules, the schedules, and gradient clipping.

Rules of the recipe, decided by a parameter's group and the module that owns it, never by its name:
the CLIP trunk learns at a fraction of the rate; parameters of normalisation layers and embedding
tables do not decay, everything else does (other biases, layer scales and raw parameters too).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

if TYPE_CHECKING:
    from maftp.config import Params

NOT_DECAYED = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, _NormBase, nn.Embedding)
"""Layers whose own parameters are exempt from weight decay; _NormBase: batch and instance norms."""

ParameterGroups = Mapping[str, Sequence[tuple[str, nn.Parameter]]]
"""Trained parameters with their names, under "backbone" (the CLIP trunk) and "head" (all else)."""


def build_optimizer(model: nn.Module, groups: ParameterGroups, *, params: Params) -> AdamW:
    """Return fused AdamW over `groups` with the rates and the decay of `params.train`.

    Parameters under one rule share an optimizer group: AdamW treats every element alone, so this
    gives the numbers of one group per tensor at a fraction of the kernel launches. Fused, it reads
    and writes every element once, on a CPU too, and needs no word from the host whether loss
    scaling leaves the step out.

    Args:
        model: owner of the parameters; its module types decide about decay.
        groups: what to train.
        params: learning rate, its factor for the group "backbone", weight decay.

    Raises:
        ValueError: a group has another name, or a parameter is frozen, foreign or given twice.
    """
    train = params.train
    rates = {
        "backbone": train.learning_rate * train.backbone_multiplier,
        "head": train.learning_rate,
    }
    return AdamW(
        _optimizer_groups(model, groups, rates=rates, weight_decay=train.weight_decay),
        lr=train.learning_rate,
        fused=True,
    )


def _optimizer_groups(
    model: nn.Module, groups: ParameterGroups, *, rates: Mapping[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    _check_groups(model, groups, known=rates)
    exempt = _parameters_without_decay(model)
    chosen: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for group, members in groups.items():
        for _, parameter in members:
            chosen.setdefault((group, id(parameter) not in exempt), []).append(parameter)
    return [
        {
            "params": members,
            "lr": rates[group],
            "weight_decay": weight_decay if decayed else 0.0,
            "name": f"{group}, {'decayed' if decayed else 'not decayed'}",
        }
        for (group, decayed), members in chosen.items()
    ]


def _check_groups(model: nn.Module, groups: ParameterGroups, *, known: Iterable[str]) -> None:
    unknown = set(groups) - set(known)
    if unknown:
        raise ValueError(f"parameter groups {sorted(unknown)} are not known; use {list(known)}")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen: set[int] = set()
    for name, parameter in (member for members in groups.values() for member in members):
        if id(parameter) not in names:
            raise ValueError(f"{name}: not a parameter of the model")
        if not parameter.requires_grad:
            raise ValueError(f"{name}: in a parameter group but frozen")
        if id(parameter) in seen:
            raise ValueError(f"{name}: in two parameter groups")
        seen.add(id(parameter))
    left_out = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in seen]
    if left_out:
        raise ValueError(f"{', '.join(left_out)}: neither frozen nor in a parameter group")


def _parameters_without_decay(model: nn.Module) -> set[int]:
    owners = (module for module in model.modules() if isinstance(module, NOT_DECAYED))
    exempt = {id(parameter) for owner in owners for parameter in owner.parameters(recurse=False)}
    tables = getattr(model, "not_decayed", list)()  # of a model that has any
    return exempt | {id(parameter) for parameter in tables}


def build_scheduler(optimizer: AdamW, *, params: Params) -> LambdaLR:
    """Return the schedule of `params.train`; none of them warms up."""
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, params=params))


def learning_rate_factor(step: int, *, params: Params) -> float:
    """Return the share of the first learning rate at the 0-based `step` of T.

    "poly" is (1 - t / T)^power; "cosine" half a wave from 1 to e = `final_rate`,
    e + (1 - e) (1 + cos(pi t / T)) / 2; "steps" is 0.1 to the number of milestones that are passed.
    """
    train = params.train
    part = min(step / train.iterations, 1.0)
    if train.schedule == "cosine":
        return train.final_rate + (1 - train.final_rate) * (1 + math.cos(math.pi * part)) / 2
    if train.schedule == "steps":
        return 0.1 ** sum(step >= milestone for milestone in train.milestones)
    return (1 - part) ** train.power


def clip_gradients(optimizer: AdamW, *, max_norm: float) -> Tensor:
    """Scale all gradients together to a global L2 norm of at most `max_norm`; return the norm."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)
