"""Weights that depend only on a parameter's name: comparison without sharing a weight file.

The fixtures in this folder were computed with them on the public code (MAFT-Plus, commit fd12806,
CPU, float32).
"""

import math
import zlib

import torch


def named_tensor(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return the test value of the state-dict entry `name`, in `tensor`'s shape (float32)."""
    if not torch.is_floating_point(tensor) or name.endswith(("attn_mask", "empty_weight")):
        return tensor
    if name.endswith("logit_scale"):
        return torch.full_like(tensor, 0.0 if name.startswith("sem_seg_head") else 4.0)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
    if tensor.dim() <= 1:
        if name.endswith(("weight", "gamma")):
            return 1 + 0.05 * noise
        return 0.02 * noise
    return noise / math.sqrt(max(tensor[0].numel(), 1))


def fixture_tensor(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return the same, such that the masks of the queries differ and have pixels of both signs."""
    value = named_tensor(name, tensor)
    if name.endswith(("query_feat.weight", "query_embed.weight")):
        return 16 * value
    if "predictor.transformer_" in name and name.endswith("attn.out_proj.weight"):
        return value / 4
    if name.endswith("mask_features.weight"):
        return value - value.mean(1, keepdim=True)
    return value


_torch_rand = torch.rand


def fixed_rand(*size, **kwargs) -> torch.Tensor:
    """Stand-in for torch.rand whose values depend only on the requested shape."""
    shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
    shape = tuple(int(x) for x in shape)
    generator = torch.Generator().manual_seed(zlib.crc32(str(shape).encode()))
    return _torch_rand(*shape, generator=generator).to(kwargs.get("device", "cpu"))
