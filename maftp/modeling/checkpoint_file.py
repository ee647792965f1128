"""Files of weights: what kind one is, told from its content, and the tensors in it.

Nothing in a file is run. Whatever a PyTorch file holds beside tensors and plain values (parsed
arguments, NumPy scalars, configurations) becomes an inert stand-in.
"""

from __future__ import annotations

import logging
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from maftp.errors import CheckpointError, describe_os_error
from maftp.modeling.tensor_files import read_noted

logger = logging.getLogger(__name__)

METADATA = "maftp"
"""Entry in the header of own weights: JSON of the architecture and the training vocabulary."""

_WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
"""Detectron2's, Lightning's and open_clip's, PyTorch tutorials', DeepSpeed's."""
_AVERAGED = ("ema", "model_ema", "ema_state_dict", "state_dict_ema")
_PREFIXES = ("module.", "model.", "_orig_mod.")
"""Left by data-parallel wrappers, by Lightning, and by torch.compile."""
_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
"""Of what torch.save wrote before 1.6: the first of several pickles holds this number."""
_FOREIGN = (
    (rb"version https://git-lfs", "is a pointer of Git LFS, not the weights; run `git lfs pull` in "
     "the repository it is from"),
    (rb"\s*<(!doctype|html|\?xml|head)", "is a web page, not weights; the download needed a log-in "
     "or a confirmation, so download it again in a browser"),
    (rb"\s*[\[{]\s*[\"\]}]", "is a JSON text, not weights; give the file of tensors it belongs to"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|.{257}ustar", "is a packed archive; unpack it and "
     "give the checkpoint in it"),
    (rb"\x89HDF|\x93NUMPY", "is of another framework (HDF5 or NumPy); give a PyTorch checkpoint or "
     "a .safetensors file"),
)  # fmt: skip


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a checkpoint or of a CLIP weight file onto the CPU.

    Its entries may lie under "model" or "state_dict", and their names may have the prefixes of
    data-parallel and compiled modules. The suffix of the file does not matter.

    Raises:
        CheckpointError: no such file, damaged, or not a state dict of tensors; says what it is.
    """
    path = Path(path)
    start = _start_of(path)
    values = _read_safetensors(path) if _is_safetensors(path, start) else _read_torch(path, start)
    return _without_prefixes(_state_in(values, path))


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what training noted in an own checkpoint; empty for any other file.

    Raises:
        CheckpointError: no such file, or a damaged one.
    """
    path = Path(path)
    if not _is_safetensors(path, _start_of(path)):
        return {}
    try:
        noted = read_noted(path, METADATA)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    return noted if isinstance(noted, dict) else {}


def _start_of(path: Path) -> bytes:
    """Return the first bytes of a file."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; give the checkpoint file in it")
    if not path.exists():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointError(describe_os_error(error)) from None
    if not start:
        raise CheckpointError(f"{path}: is empty; fetch it again")
    return start


def _is_safetensors(path: Path, start: bytes) -> bool:
    """Tell by the name, or by the header's length and first byte."""
    if path.suffix == ".safetensors" and not _is_torch(start):
        return True
    header = struct.unpack("<Q", start[:8])[0] if len(start) > 8 else 0
    return 0 < header < 2**27 and start[8:9] == b"{"


def _is_torch(start: bytes) -> bool:
    return start.startswith((b"PK\3\4", b"\x80\2"))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _refuse_foreign(path, _start_of(path))
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _damaged(path, error) from None


def _refuse_foreign(path: Path, start: bytes) -> None:
    for pattern, sentence in _FOREIGN:
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            raise CheckpointError(f"{path}: {sentence}")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())
    return CheckpointError(f"{path}: damaged or cut short ({reason}); fetch it again")


def _read_torch(path: Path, start: bytes) -> object:
    """Load what torch.save wrote; nothing in it is run."""
    _refuse_foreign(path, start)
    if start.startswith(b"\x80") and _MAGIC not in start[:20]:
        raise CheckpointError(
            f"{path}: is a plain pickle, such as Detectron2's model zoo has (.pkl), which is not "
            "read, as a pickle can run code; where you trust it, save its tensors with torch.save"
        )
    try:
        zipped = zipfile.is_zipfile(path)  # the form since PyTorch 1.6
        if zipped:
            _check_archive(path)
        with open(path, "rb") as file, warnings.catch_warnings(action="ignore"):
            foreign = get_unsafe_globals_in_checkpoint(file) if zipped else []
            file.seek(0)
            # By its name what is unused is not read, but torch takes another reader by a suffix.
            source = path if zipped and path.suffix != ".safetensors" else file
            with safe_globals([(_stand_in(name), name) for name in foreign]):
                return torch.load(
                    source, map_location="cpu", weights_only=True, mmap=source is path
                )
    except CheckpointError:
        raise
    except Exception as error:  # bytes of any kind make the readers raise any error
        logger.debug("torch.load of %s failed", path, exc_info=True)
        raise CheckpointError(f"{path}: {_why_unreadable(str(error), start)}") from None


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        raise CheckpointError(
            f"{path}: is a TorchScript program; give a checkpoint with the state dict of the model"
        )
    if "data.pkl" not in names:
        raise CheckpointError(
            f"{path}: is a ZIP archive without a PyTorch checkpoint; unpack it and give the "
            "checkpoint in it"
        )


def _stand_in(name: str) -> type:
    """Return a class that takes the place of a foreign one, or of a function, and does nothing."""

    def keep_nothing(self: object, *_: object, **__: object) -> None:
        return None

    methods = {"__init__": keep_nothing, "__setstate__": keep_nothing}
    return type(name.rpartition(".")[2], (_StandIn,), {**methods, "name": name})


class _StandIn:
    """In the place of an object of a foreign class."""

    name = ""

    def __new__(cls, *_: object, **__: object) -> _StandIn:
        return super().__new__(cls)


def _why_unreadable(error: str, start: bytes) -> str:
    found = re.search(r"GLOBAL (\S+)|module (\S+) is blocked", error)
    if found:
        return (
            f"holds more than tensors and plain values ({found[1] or found[2]}), which could run "
            "code and is not read; save the model's state dict alone with torch.save"
        )
    if start.startswith(b"PK"):
        return "damaged or cut short; fetch it again"
    return "not a readable checkpoint: damaged or no PyTorch file; fetch it again"


def _state_in(values: object, path: Path) -> dict[str, Tensor]:
    """Return the state dict in a checkpoint, unwrapped."""
    for wrapper in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
    if not _is_state(values):
        for wrapper in _AVERAGED:
            if isinstance(values, Mapping) and _is_state(values.get(wrapper)):
                logger.info("%s: holds averaged weights alone (%s); taking them", path, wrapper)
                values = values[wrapper]
                break
    if _is_state(values):
        return dict(values)
    raise CheckpointError(
        f"{path}: holds no state dict of tensors{_what_instead(values)}; give a model checkpoint"
    )


def _is_state(values: object) -> bool:
    return (
        isinstance(values, Mapping)
        and len(values) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in values.items())
    )


def _what_instead(values: object) -> str:
    if isinstance(values, _StandIn):
        return f" but {values.name}, which could run code and is not read"
    if not isinstance(values, Mapping):
        return f" but a {type(values).__name__}"
    foreign = next((v for v in values.values() if isinstance(v, _StandIn)), None)
    if foreign is not None:
        return f" but {foreign.name}, which could run code and is not read"
    names = ", ".join(map(str, list(values)[:4]))
    return f" but {names}" if names else ""


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop what wrappers put before every name, and what torch.compile puts into names."""
    state = {name.replace("._orig_mod.", "."): tensor for name, tensor in state.items()}
    while True:
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in state)), None)
        if prefix is None:
            return state
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
