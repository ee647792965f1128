"""Whole files or none: write beside the target, then rename. Files by name, digests, JSON."""

from __future__ import annotations

import errno
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

from maftp.errors import MaftpError, OutputError, describe_os_error

PROJECT_ROOT = Path(__file__).resolve().parents[1]
"""Folder that holds the package, params.yaml and the files they name."""


def find_file(name: str) -> Path | None:
    """Find a file named in the parameters: from the working directory, else beside the package."""
    for path in (Path(name), PROJECT_ROOT / name):
        if path.is_file():
            return path
    return None


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it on success, remove it on error.

    The name is the same. Missing folders are made; a directory may be written as well. Whoever
    wrote the files, they get the permissions that the umask grants new files.

    Args:
        path: what to write.
        durable: be sure that the disk has it all before it takes its name, so that not even a loss
            of power leaves half of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    temporary = folder / path.name
    try:
        yield temporary
        _grant_usual_permissions(temporary, probe=folder / ".new")
        if durable:
            _flush(temporary)
        if temporary.is_dir() and path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
        if durable:
            _flush_one(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Put `source` at `target` as a hard link, or as a copy where the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)  # replacing a link by one to the same file does nothing


def _grant_usual_permissions(written: Path, *, probe: Path) -> None:
    """Give files the mode of new ones: safetensors writes 0600, and a shared cache cannot read it.

    The umask is read off a new file, as asking the system for it would change it for all threads.
    """
    probe.touch()
    mode = probe.stat().st_mode
    for file in _files(written):
        if file.stat().st_mode != mode:
            file.chmod(mode)


def _flush(written: Path) -> None:
    for file in _files(written):
        _flush_one(file)
    if written.is_dir():
        _flush_one(written)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush folders
            raise
    finally:
        os.close(descriptor)


def _files(written: Path) -> list[Path]:
    found = written.rglob("*") if written.is_dir() else [written]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def check_output(path: Path, *, folder: bool = False) -> None:
    """Refuse a place that could not be written to, before the work whose result it would hold.

    Nothing is made or left behind, not even missing folders.

    Args:
        path: the file to be written.
        folder: it is a folder in which files will be written.

    Raises:
        OutputError: says what is in the way.
    """
    path = Path(path)
    try:
        if not folder and path.is_dir():
            raise OutputError(f"{path}: is a folder; give the name of a file to write")
        nearest = path if folder else path.parent
        while not nearest.is_symlink() and not nearest.exists():
            nearest = nearest.parent
        if not nearest.is_dir():
            raise OutputError(
                f"{path}: {nearest} is not a folder; choose another place to write to"
            )
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(f"{path}: {describe_os_error(error, named=False)}") from None


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
        # a name of a file that is not UTF-8 becomes an escape, which JSON readers take
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
