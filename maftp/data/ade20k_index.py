"""The pickled index of the full ADE20K, read without trusting it.

The index is not needed: the file tree is walked. It serves to check that the tree is whole.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from maftp.errors import DataError

_BUILTINS = ("set", "frozenset", "complex", "bytearray")
_ADMITTED = {
    *(("builtins", name) for name in _BUILTINS),
    *(("__builtin__", name) for name in _BUILTINS),  # their home in Python 2
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),  # how Python 2's protocol writes bytes
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
}
"""Besides what pickle builds itself: numbers, text, lists, tuples and dictionaries."""


class PlainUnpickler(pickle.Unpickler):
    """Admits plain containers and numpy arrays; anything else in the file is refused, not run."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle names, when it is on the list.

        Raises:
            pickle.UnpicklingError: it is not.
        """
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not data")
        return super().find_class(module, name)


def read_index_files(path: Path) -> list[str]:
    """Return the image file names of `index_ade20k.pkl`.

    Raises:
        DataError: the file is missing or damaged, holds more than data, or lists no files.
    """
    try:
        content = PlainUnpickler(io.BytesIO(path.read_bytes())).load()
        names = [str(name) for name in content["filename"]]
    except FileNotFoundError:
        raise DataError(f"{path}: no such index; unpack its archive first") from None
    except Exception as error:  # damaged bytes can lead a pickle to any error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: not read as an index of images ({reason}); unpack its archive again"
        ) from None
    if not names:
        raise DataError(f"{path}: lists no image; unpack its archive again")
    return names
