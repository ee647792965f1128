"""Fetch one source: resumed, retried, from its mirrors in turn, verified before it gets its name.

What is there of a file is kept as `.part`; the finished one is compared with its published digests,
or, when there are none, with the digest recorded at the first download (`{file}.sha256`). What came
from the network is noted (`{file}.downloaded.json`): nothing else is ever removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from maftp.data.catalog import Obtainable, Source
from maftp.data.transfer import FullDiskError, Meter, RetryPolicy, tag_path, take_local, transfer
from maftp.errors import DownloadError
from maftp.files import atomic_path
from maftp.lock import locked

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_OFFICIAL = ["params.yaml", "workflow/experiments/maftp_base.yaml"]


def fetch(
    source: Obtainable,
    archives: Path,
    *,
    local: Path | None = None,
    retries: RetryPolicy | None = None,
    params: Sequence[Path] = (),
) -> Path:
    """Return the verified file of `source` in folder `archives`, fetched when it is not there.

    A second process that fetches the same file waits for the first one.

    Args:
        source: entry of the catalog.
        archives: folder for downloads.
        local: the file when the user has it already; linked or copied.
        retries: how often to try again.
        params: parameter files that an advised command names.

    Raises:
        DownloadError: the source needs registration, no address works, the disk is too small, or a
            digest differs.
    """
    target = archives / source.file
    with locked(archives / f".{source.file}.lock"):
        if target.exists() and (local is None or local.exists() and target.samefile(local)):
            verify(source, target)
            return target
        part = archives / f"{source.file}.part"
        if local is not None:
            take_local(local, part)
            _accept(source, part, target)
            downloaded_path(target).unlink(missing_ok=True)
            return target
        if not source.urls:
            raise DownloadError(registration_message(source, archives, params))
        failures = []
        for url in source.urls:
            try:
                transfer(url, part, source, retries or RetryPolicy())
                _accept(source, part, target)
                _note_download(target, url)
                return target
            except FullDiskError:
                raise
            except DownloadError as error:
                failures.append(str(error))
                logger.warning("%s", error)
        raise DownloadError(
            f"{source.file}: {'; '.join(failures)}; try again later, or put the file at {target}"
        )


def registration_message(source: Obtainable, archives: Path, params: Sequence[Path] = ()) -> str:
    """Say what to ask for, where, where to put it, and the command that takes it.

    Args:
        source: entry of the catalog.
        archives: folder for downloads.
        params: parameter files in use; none stands for the official data.
    """
    target = (archives / source.file).resolve()
    root = target.parent.parent
    if source.own:
        return f"{source.title}: not all there below {root}; add it again with 'maftp data add'"
    unpacked = isinstance(source, Source) and source.unpack is not None
    where = f" (or unpack it so that {root / source.makes[0]} exists)" if unpacked else ""
    files = [os.path.relpath(file) for file in params] or _OFFICIAL
    words = ["maftp", "download", source.name, "--from", str(target), "--params", *files]
    return (
        f"{source.title} is not downloaded by a program: ask at {source.registration}, save it"
        f" as {target}{where} and run this again, or"
        f" `DETECTRON2_DATASETS={shlex.quote(str(root))} {shlex.join(words)}`, naming after --from"
        " where you have it"
    )


def is_downloaded(path: Path) -> bool:
    """Tell whether a file is the one that was downloaded, not one that the user has put there."""
    note = downloaded_path(path)
    return note.exists() and path.exists() and note.read_text() == _identity(path)


def downloaded_path(path: Path) -> Path:
    """Return the note of a download."""
    return path.with_name(f"{path.name}.downloaded.json")


def _note_download(path: Path, url: str) -> None:
    """Note that a file came from the network; one of this machine's disks is its owner's."""
    note = downloaded_path(path)
    if url.startswith("file:"):
        note.unlink(missing_ok=True)
    else:
        with atomic_path(note) as temporary:
            temporary.write_text(_identity(path))


def _identity(path: Path) -> str:
    """Return what changes when another file takes the name."""
    found = path.stat()
    return json.dumps({"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}) + "\n"


def verify(source: Obtainable, path: Path, *, record: Path | None = None) -> str:
    """Check size and digests of a file of `source` and return its SHA-256.

    Args:
        source: entry of the catalog.
        path: the file.
        record: where the digest of its first download is kept; None looks beside it.

    Raises:
        DownloadError: they are not the published ones, or not those of the first download.
    """
    size = path.stat().st_size
    if source.bytes not in (None, size):
        raise DownloadError(
            f"{path}: {size} bytes, expected {source.bytes}; delete it and download it again"
        )
    expected = dict(source.digests)
    recorded = record or record_path(path)
    first = None
    if not expected and recorded.exists() and not _served_from_disk(source):
        first = _read_record(recorded)
    found = _digests(path, {"sha256", *expected})
    if first not in (None, found["sha256"]):
        raise DownloadError(
            f"{path}: sha256 is {found['sha256']}, but {first} at its first download, and no digest"
            f" of it is published: damaged, tampered with or a new version; if a new version is"
            f" expected, delete {recorded} and download it again"
        )
    for name, digest in expected.items():
        if found[name] != digest:
            raise DownloadError(
                f"{path}: {name} is {found[name]}, expected {digest}: damaged, cut short or another"
                " version; delete it and download it again"
            )
    return found["sha256"]


def _served_from_disk(source: Obtainable) -> bool:
    return (source.url or "").startswith("file:")  # its owner may change it


def _read_record(path: Path) -> str:
    words = path.read_text(errors="replace").split()
    if not words or not re.fullmatch("[0-9a-f]{64}", words[0]):
        raise DownloadError(f"{path}: no record of a digest; delete it and download its file again")
    return words[0]


def record_path(path: Path) -> Path:
    """Return where the digest of a download is kept."""
    return path.with_name(f"{path.name}.sha256")


def _accept(source: Obtainable, part: Path, target: Path) -> None:
    """Verify `part`, record its digest and give it its name; a wrong one is deleted.

    Where no digest is published, the first download is trusted, and no other file after it. Much
    of it comes over plain http, where anyone on the way can change it.
    """
    record = record_path(target)
    known = source.digests or record.exists() or _served_from_disk(source)
    try:
        digest = verify(source, part, record=record)
    except DownloadError:
        part.unlink()
        tag_path(part).unlink(missing_ok=True)
        raise
    with atomic_path(record) as temporary:
        temporary.write_text(f"{digest}  {target.name}\n")
    if not known:
        logger.info(
            "%s: no digest of it is published; sha256 %s recorded in %s, another file will be"
            " refused", target.name, digest, record,
        )  # fmt: skip
    os.replace(part, target)
    tag_path(part).unlink(missing_ok=True)


def _digests(path: Path, names: set[str]) -> dict[str, str]:
    states = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    size = path.stat().st_size
    with open(path, "rb") as file, Meter(f"verify {path.name}", total=size) as meter:
        while chunk := file.read(_CHUNK):
            for state in states.values():
                state.update(chunk)
            meter.add(len(chunk))
    return {name: state.hexdigest() for name, state in states.items()}
