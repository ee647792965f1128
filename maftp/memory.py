"""Memory of this process: the most it has held so far, and what it keeps for the next step."""

from __future__ import annotations

import ctypes
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


def keep_freed_memory() -> None:
    """Let the C library keep what it gets back, instead of handing it to the system at once.

    Tensors on a CPU are large blocks. Handed back and asked for again, every page of them is made
    and cleared anew, in every layer of every step: a tenth of a step's time. The peak is the same.
    It holds for the whole process, so a program calls it, and no function that others may call.
    Only glibc has these settings; elsewhere nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 2**30)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of these settings in malloc.h."""
