"""Whole files or none: write beside the target, then rename. Digests and JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from maftp.errors import MaftpError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it on success, remove it on error.

    The name is the same. Missing folders are made; a directory may be written as well.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = folder / path.name
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_output(path: Path, *, folder: bool = False) -> None:
    """Check that `path` can be written, before the work whose result goes there.

    Args:
        path: file, or folder, to write; it need not exist.
        folder: whether it is a folder.

    Raises:
        MaftpError: something else has its name, or its folder cannot be made or written to.
    """
    path = Path(path)
    if path.is_dir() != folder and path.exists():
        found, wanted = ("a folder", "a file") if path.is_dir() else ("a file", "a folder")
        raise MaftpError(f"{path}: is {found}, but {wanted} is to be written; choose another path")
    place = path if folder else path.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise MaftpError(f"{path}: {place} is a file, no folder; choose another path")
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:32]}.", dir=place):
            pass
    except OSError as error:  # what rights promise, a read-only disk may refuse
        raise MaftpError(
            f"{path}: {place} cannot be written to ({error.strerror}); choose another path"
        ) from None


def check_replaceable(folder: Path, names: Collection[str]) -> None:
    """Check that a folder that is about to be replaced holds nothing but files of `names`.

    Raises:
        MaftpError: it holds something else, which would be lost.
    """
    if not folder.is_dir():
        return
    foreign = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.name not in names and entry.name != ".snakemake_timestamp"
    )
    if foreign:
        raise MaftpError(
            f"{folder}: holds {foreign[0]}, which was not written here and would be lost; choose"
            " another folder"
        )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically.

    Raises:
        MaftpError: it holds a number that JSON does not have: not finite.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        where = _not_finite(value)
        raise MaftpError(
            f"{path}: {where or 'a value'} is not a finite number, so nothing was written; check"
            " the weights and the input that led to it"
        ) from None
    with atomic_path(path) as temporary:
        # a name of a file that is no UTF-8 becomes an escape, which JSON readers take
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _not_finite(value: Any, where: str = "") -> str | None:
    """Return the keys that lead to the first number that is not finite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else where
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inside = value.items()
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    for key, entry in inside:
        if found := _not_finite(entry, f"{where}.{key}".removeprefix(".")):
            return found
    return None
