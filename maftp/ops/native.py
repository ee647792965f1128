"""The compiled backends: where their libraries lie, and calls into them.

A library belongs to one version of its sources, of PyTorch and of the machine's architecture; its
folder is named after them, so that nothing stale is ever loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCES = Path(__file__).resolve().parent / "csrc"
KINDS = ("cpu", "cuda")
CACHE_VARIABLE = "MAFTP_OPS_CACHE"


def library_path(kind: str) -> Path:
    """Return where the library of backend `kind` lies once it is built."""
    version = re.sub(r"[^A-Za-z0-9.]+", "-", torch.__version__)
    folder = f"torch-{version}-{platform.system().lower()}-{platform.machine()}-{_digest()}"
    return _cache() / folder / f"maftp_{kind}.so"


def why_not(kind: str) -> str | None:
    """Return a sentence why a compiled backend cannot be used, or None when it can."""
    if not library_path(kind).is_file():
        return "it is not built; run `maftp ops build`"
    return _load(kind)


def forward(
    kind: str, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Call the library; `shapes` is flat, other arguments as `maftp.ops.ms_deform_attn`."""
    _load(kind)
    return getattr(torch.ops, f"maftp_{kind}").forward(value, shapes, locations, weights)


def backward(
    kind: str,
    grad: Tensor,
    value: Tensor,
    shapes: Sequence[int],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of value, locations and weights."""
    _load(kind)
    return getattr(torch.ops, f"maftp_{kind}").backward(grad, value, shapes, locations, weights)


@cache
def _load(kind: str) -> str | None:
    """Load a built library once; return a sentence when that fails."""
    try:
        torch.ops.load_library(str(library_path(kind)))
    except OSError as error:
        return f"{library_path(kind)} cannot be loaded ({error}); run `maftp ops build --again`"
    return None


def _cache() -> Path:
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "maftp" / "ops"


@cache
def _digest() -> str:
    """Return 12 hexadecimal digits over the sources."""
    digest = hashlib.sha256()
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]
