"""Which files are results of earlier predictions: those may be replaced, and are no input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from maftp.errors import DataError
from maftp.files import check_output

if TYPE_CHECKING:
    from maftp.prediction.pictures import Source

PICTURES = (".overlay.png", ".labels.png", ".segments.png")
_RECORD = ".json"
_KEYS = {"image", "frame", "weights", "vocabulary", "segments"}
_SOFTWARE = "maftp predict"


def png_note() -> PngInfo:
    """Return the note by which a PNG is known as a result."""
    note = PngInfo()
    note.add_text("Software", _SOFTWARE)
    return note


def is_result(path: Path) -> bool:
    """Tell whether a file was written by a prediction."""
    if path.name.endswith(_RECORD):
        return _is_record(path)
    for ending in PICTURES:
        if path.name.endswith(ending):
            beside = path.with_name(path.name.removesuffix(ending) + _RECORD)
            return _has_note(path) or _is_record(beside)  # earlier versions left no note
    return False


def check_results(sources: Sequence[Source], out: Path) -> None:
    """Check, before any work, that results can be written and replace nothing but results.

    Raises:
        MaftpError: `out` is no folder that can be written to.
        DataError: a file that is no result has the name of one.
    """
    check_output(out, folder=True)
    for source in sources:
        if source.is_video:
            check_output(out / source.name, folder=True)
        else:
            check_own(out / source.name)


def check_own(stem: Path) -> None:
    """Check that files that are there under the names of a picture's results are results.

    Raises:
        DataError: one is not.
    """
    for ending in (*PICTURES, _RECORD):
        path = stem.with_name(stem.name + ending)
        if path.exists() and not is_result(path):
            raise DataError(
                f"{path}: is no result of an earlier prediction and would be lost; choose another"
                " folder with --out"
            )


def _is_record(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and _KEYS <= content.keys()


def _has_note(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _SOFTWARE
    except Exception:  # damaged: no note can be read, so it is not known as a result
        return False
