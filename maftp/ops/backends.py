"""Which backend computes an operator: the best one that is there, or the one the user names.

A backend that has to be compiled is used once `maftp ops build` has built it, never as a side
effect of something else: numbers of two backends differ by rounding, and a training run does not
change from one machine to the next because a compiler was found.
"""

from __future__ import annotations

import os

import torch

from maftp.errors import OperatorError
from maftp.ops import deformops_backend, native

VARIABLE = "MAFTP_OPS_BACKEND"
PREFERENCE = {"cpu": ("cpu", "torch"), "cuda": ("cuda", "deformops", "torch")}
"""Backends by device, first choice first. On an H200 our own kernels, once built, are no slower
than `deformops`, and faster with few images (docs/performance.md)."""
BACKENDS = ("torch", "cpu", "cuda", "deformops")


def choose(device_type: str, dtype: torch.dtype) -> str:
    """Return the backend for values of a device and type.

    Raises:
        OperatorError: $MAFTP_OPS_BACKEND names a backend that cannot be used.
    """
    named = os.environ.get(VARIABLE, "")
    if named:
        reason = _why_not(named, device_type, dtype)
        if reason is not None:
            raise OperatorError(f"{VARIABLE}={named}: {reason}")
        return named
    candidates = PREFERENCE.get(device_type, ("torch",))
    return next(name for name in candidates if _why_not(name, device_type, dtype) is None)


# What `torch.compiler.assume_constant_result` sets, without its import of the whole compiler.
choose._dynamo_marked_constant = True


def describe(device_type: str) -> str:
    """Return the backend that float32 values on a device get, for a run's record."""
    return choose(device_type, torch.float32)


def status() -> dict[str, str | None]:
    """Return for each backend why it cannot be used here, or None when it can."""
    devices = {"torch": "cpu", "cpu": "cpu", "cuda": "cuda", "deformops": "cuda"}
    found = {}
    for name in BACKENDS:
        reason = _why_not(name, devices[name], torch.float32)
        if reason is None and devices[name] == "cuda" and not torch.cuda.is_available():
            reason = "it is in place, but there is no GPU"
        found[name] = reason
    return found


def _why_not(name: str, device_type: str, dtype: torch.dtype) -> str | None:
    """Return a sentence why a backend cannot compute such values, or None when it can."""
    if name not in BACKENDS:
        return f"no such backend; choose one of {', '.join(BACKENDS)}, or unset the variable"
    if name == "torch":
        return None
    wanted = "cpu" if name == "cpu" else "cuda"
    if device_type != wanted:
        return f"it computes on {wanted} only, not on {device_type}; unset the variable"
    if name == "deformops":
        return deformops_backend.why_not(dtype)
    return native.why_not(name)
