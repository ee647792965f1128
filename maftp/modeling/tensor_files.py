"""Files of tensors: equal tensors make equal bytes, and what goes wrong with a disk is an OSError.

safetensors 0.8 writes several metadata entries in random order, so a file gets one entry, of JSON
with sorted keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], *, key: str, noted: Any) -> None:
    """Write a .safetensors file.

    Args:
        path: the file.
        tensors: by name, on any device.
        key: of the only metadata entry.
        noted: its value; must fit into JSON.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps(noted, sort_keys=True)
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with _errors_of_the_system(path):
        save_file(held, path, metadata={key: text})


def save_pickled(path: Path, value: Any) -> None:
    """Write a value with torch.save; what is wrong with the disk raises an OSError."""
    with _errors_of_the_system(path), open(path, "wb") as file:
        torch.save(value, file)


@contextmanager
def _errors_of_the_system(path: Path) -> Iterator[None]:
    """Raise the OSError that safetensors words and torch hides behind its own."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    except SafetensorError as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None:
            raise
        code = int(found[1])
        raise OSError(code, os.strerror(code), str(path)) from error
    except RuntimeError as error:
        cause = error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def read_noted(path: Path, key: str) -> Any:
    """Return the JSON under a metadata entry of a .safetensors file; None when it has no such.

    Raises:
        OSError, SafetensorError, ValueError: the file is missing or damaged.
    """
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(key)
    return None if text is None else json.loads(text)


def content_digest(path: Path) -> str:
    """Return the SHA-256 of what a .safetensors file holds, however it is laid out.

    Raises:
        OSError, SafetensorError: the file is missing or damaged.
    """
    digest = hashlib.sha256()
    with safe_open(path, framework="pt") as file:
        digest.update(json.dumps(file.metadata() or {}, sort_keys=True).encode())
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            facts = [name, str(tensor.dtype), list(tensor.shape)]
            digest.update(json.dumps(facts).encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity."""
    return [name for name, tensor in tensors.items() if not _is_finite(tensor)]


@torch.no_grad()
def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # One pass without a mask as large as the tensor; NaN makes both ends NaN.
    low, high = torch.aminmax(tensor.float() if tensor.dtype.itemsize == 1 else tensor)
    return bool(torch.isfinite(low) & torch.isfinite(high))
