"""Deformable attention through the package `deformops` (TMLR 2026): Triton kernels for GPUs.

Its kernels are compiled while the program runs. That takes no CUDA toolkit, but a C compiler and
Python's headers for the launcher. It has a `torch.library` operator and gradients of its own.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def why_not(dtype: torch.dtype) -> str | None:
    """Return a sentence why the package cannot be used, or None when it can."""
    if find_spec("deformops") is None:
        return "the package deformops is not installed; it needs Python 3.12 or newer"
    if dtype not in _TYPES:
        return f"deformops has no kernels for {dtype}"
    return _no_compiler()


def _no_compiler() -> str | None:
    """Return what Triton would miss when it compiles the launcher of a kernel."""
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    if not any(map(shutil.which, compilers)):
        missing = f"there is no C compiler ({' or '.join(compilers)})"
    elif not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing = f"Python's headers are not in {sysconfig.get_path('include')}"
    else:
        return None
    return f"deformops compiles while it runs, and {missing}; install gcc and python3-dev, say"


def ms_deform_attn(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Call the package; arguments and result as `maftp.ops.ms_deform_attn`."""
    from deformops.registry import msda

    device_type = value.device.type
    if torch.is_autocast_enabled(device_type):
        value, locations, weights = value.float(), locations.float(), weights.float()
    with torch.autocast(device_type, enabled=False):
        # The weights share the values' type; locations may and should be finer.
        return msda(
            value.contiguous(),
            *_level_table(tuple(shapes), value.device),
            locations.float().contiguous(),
            weights.to(value.dtype).flatten(-2).contiguous(),
        )


@lru_cache(maxsize=64)
def _level_table(
    shapes: tuple[tuple[int, int], ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return (h, w) of each level, and where it begins among the tokens."""
    with torch.inference_mode(False):
        sizes = torch.tensor(shapes, dtype=torch.int64)  # (L, 2)
        areas = sizes.prod(1)
        return sizes.to(device), (areas.cumsum(0) - areas).to(device)
