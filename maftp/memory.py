"""The most memory that this process has held so far."""

from __future__ import annotations

import resource
import sys

import torch

HOST, GPU = "peak_host_memory_mb", "peak_gpu_memory_mb"
"""Keys of records: resident memory of the process, and what PyTorch allocated on its GPU, in MB of
10^6 bytes."""


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return `peak_host_memory_mb` and, where the device is a GPU, `peak_gpu_memory_mb`."""
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    found = {HOST: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}
    if device.type == "cuda":
        found[GPU] = torch.cuda.max_memory_allocated(device) / 1e6
    return {key: round(value, 1) for key, value in found.items()}
