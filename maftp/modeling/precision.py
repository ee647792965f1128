"""How exactly a GPU multiplies numbers of single precision."""

from __future__ import annotations

import torch


def allow_tf32(allowed: bool) -> None:
    """Let matrix products and convolutions round their factors to TF32, or keep both from it.

    PyTorch's own defaults are of two minds: products do not, convolutions do.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
