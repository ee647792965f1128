"""Unpack archives safely and wholly: beside their target first, then moved into it.

Absolute paths, `..`, links and devices are refused, whatever an archive says: no archive of the
catalog holds a link.
"""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from maftp.data.catalog import Catalog, Source
from maftp.data.download import record_path, registration_message, verify
from maftp.data.layout import archives_dir, read_note, stamp_path
from maftp.data.transfer import FullDiskError, check_space, full_disk_named
from maftp.errors import DataError, DownloadError
from maftp.files import atomic_path, link_or_copy, write_json
from maftp.lock import locked
from maftp.progress import track

_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    RuntimeError,  # zipfile: encrypted, or packed by an unknown method
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,  # these: what damaged headers lead tarfile and zipfile to
)
_IMPOSSIBLE_NAMES = {
    errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL,
    errno.ELOOP,
}  # fmt: skip
"""What the system says of a name; anything else is the disk's trouble, not the archive's."""
_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")
"""Of its first member, or of an empty one. The end says less: a tar may end with a zip."""
_CHUNK = 1 << 20


def unpack_source(name: str, catalog: Catalog, root: Path, *, params: Sequence[Path] = ()) -> Path:
    """Put a downloaded source in its place below `root` and return the stamp that says so.

    When there is no archive and the user has put its contents in place, only the stamp is written.

    Args:
        name: name in the catalog.
        catalog: knows the source.
        root: datasets root.
        params: parameter files that an advised command names.

    Raises:
        DownloadError: the archive is missing, damaged or not the one of the catalog.
        DataError: the archive holds something else than the catalog says, or unsafe members.
    """
    source = catalog.source(name)
    archive = archives_dir(root) / source.file
    stamp = stamp_path(root, name)
    with locked(archives_dir(root) / f".{name}.lock"):
        if not archive.exists() and in_place(source, root):
            write_json(stamp, {"source": name, "sha256": None, "makes": list(source.makes)})
            return stamp
        if not archive.exists():
            hint = f"download it first (maftp download {name})"
            if not source.urls:
                hint = registration_message(source, archive.parent, params)
            raise DownloadError(f"{archive}: no such file; {hint}")
        digest = verify(source, archive)
        _remove_other_version(name, source, root, digest)
        if source.place is not None:
            link_or_copy(archive, root / source.place)
        else:
            with _set_aside_on_error(source, archive, digest):
                unpack(archive, root / str(source.unpack), nested=source.nested)
                lacking = [path for path in source.makes if not (root / path).exists()]
                if lacking:
                    raise DataError(f"{archive}: no {lacking[0]} came out of it; download it again")
        write_json(stamp, {"source": name, "sha256": digest, "makes": list(source.makes)})
    return stamp


@contextmanager
def _set_aside_on_error(source: Source, archive: Path, digest: str) -> Iterator[None]:
    """Rename an archive that cannot be used, so that the next download brings another one.

    It may be the user's own, so it is not removed. One that has its published digest keeps its
    name, as another download would bring the same; so does one that only its owner can replace.
    """
    try:
        yield
    except FullDiskError:
        raise
    except DataError as error:
        if source.digests or not source.urls:
            raise
        aside = archive.with_name(f"{archive.name}.unusable-{digest[:8]}")
        archive.rename(aside)
        record_path(archive).unlink(missing_ok=True)
        raise type(error)(
            f"{error} (it is called {aside.name} now; running this again downloads another)"
        ) from None


def in_place(source: Source, root: Path) -> bool:
    """Tell whether everything that a source makes is there."""
    return all((root / path).exists() for path in source.makes)


def was_unpacked(name: str, root: Path) -> bool:
    """Tell whether contents came out of an archive: the stamp of others has no digest.

    Raises:
        DataError: the stamp is damaged.
    """
    stamp = stamp_path(root, name)
    mend = f"delete it and run 'maftp unpack {name}' again"
    return stamp.exists() and read_note(stamp, "sha256", mend=mend)["sha256"] is not None


def unpack(archive: Path, target: Path, *, nested: Sequence[str] = ()) -> int:
    """Unpack a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz into `target`; return the number of files.

    Args:
        archive: the archive; its kind is told from its contents.
        target: made when missing; files of the same name are replaced, others stay.
        nested: archives inside the archive, by their path in it, unpacked into `target` as well.

    Raises:
        DownloadError: the archive is missing, damaged or cut short.
        DataError: a member is unsafe.
    """
    target.mkdir(parents=True, exist_ok=True)
    scratch = target / f".{archive.name}.unpack"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with full_disk_named(archive):
            scratch.mkdir()
            count = _extract(archive, scratch)
            for inner in nested:
                path = scratch / inner
                if not path.is_file():
                    raise DataError(f"{archive}: no {inner} in it; download it again")
                count += _extract(path, scratch) - 1
                path.unlink()
            _move_into(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return count


def _extract(archive: Path, scratch: Path) -> int:
    try:
        with open(archive, "rb") as file:
            zipped = file.read(4) in _ZIP_STARTS
        return _extract_zip(archive, scratch) if zipped else _extract_tar(archive, scratch)
    except FileNotFoundError:
        raise DownloadError(f"{archive}: no such file; download it first") from None
    except _DAMAGED as error:
        raise _damaged(archive, error) from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # the disk's, not that of a damaged stream
            raise
        raise _damaged(archive, error) from None


def _extract_zip(archive: Path, scratch: Path) -> int:
    with zipfile.ZipFile(archive) as file:
        _check_count(file)
        members = [member for member in file.infolist() if not member.is_dir()]
        for member in members:
            _check_name(archive, member.filename)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _unsafe(archive, member.filename, "is a link or a device")
        check_space(scratch, sum(member.file_size for member in members), archive.name)
        for member in track(members, f"unpack {archive.name}"):
            place = _place(archive, member.filename, scratch)
            with file.open(member) as content:
                _write(archive, member.filename, content, place)
    return len(members)


def _check_count(file: zipfile.ZipFile) -> None:
    """Compare the number of members with what the archive's end says; zipfile does not."""
    end = zipfile._EndRecData(file.fp)  # type: ignore[attr-defined]
    stated, found = end[zipfile._ECD_ENTRIES_TOTAL], len(file.infolist())  # type: ignore[attr-defined]
    if (stated - found) % 2**16:  # some programs write the lower 16 bits of it
        raise zipfile.BadZipFile(f"{found} members in its directory, {stated} at its end")


def _extract_tar(archive: Path, scratch: Path) -> int:
    with tarfile.open(archive) as file:
        check_space(scratch, archive.stat().st_size, archive.name)
        count = 0
        for member in track(file, f"unpack {archive.name}"):
            _check_name(archive, member.name)
            if member.issym() or member.islnk():
                raise _unsafe(archive, member.name, f"is a link to {member.linkname!r}")
            if not (member.isfile() or member.isdir()):
                raise _unsafe(archive, member.name, "is a device or a pipe")
            if member.isdir():
                _place(archive, f"{member.name}/x", scratch)
                continue
            check_space(scratch, member.size, archive.name)
            place = _place(archive, member.name, scratch)
            with file.extractfile(member) as content:
                _write(archive, member.name, content, place)
            count += 1
        _check_end(file)
    return count


def _check_end(file: tarfile.TarFile) -> None:
    """Check that a tar's end is marked: where a header is damaged, tarfile stops without a word."""
    assert file.fileobj is not None
    file.fileobj.seek(file.offset)
    if file.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"no member and no end of the archive at byte {file.offset}")
    while file.fileobj.read(_CHUNK):  # the checksum of a compressed stream stands at its end
        pass


def _check_name(archive: Path, name: str) -> None:
    if name.startswith(("/", "\\")) or "\\" in name or name[1:2] == ":":
        raise _unsafe(archive, name, "has an absolute path")
    if ".." in PurePosixPath(name).parts:
        raise _unsafe(archive, name, "would be written outside the target")
    if "\0" in name or not PurePosixPath(name).parts and name not in ("", ".", "./"):
        raise _unsafe(archive, name, "has a name that no file can have")


def _place(archive: Path, name: str, scratch: Path) -> Path:
    """Return where a member goes and make its folder.

    The folder is looked up as the system sees it, whatever the names promise: Python's own check
    gave up on paths longer than the system allows (CVE-2025-4517).
    """
    place = scratch / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        parent = Path(os.path.realpath(place.parent, strict=True))
    except OSError as error:
        raise _unwritable(archive, name, error) from None
    if not parent.is_relative_to(os.path.realpath(scratch, strict=True)):
        raise _unsafe(archive, name, "would be written outside the target")
    return parent / place.name


def _write(archive: Path, name: str, content: IO[bytes], place: Path) -> None:
    try:
        file = open(place, "wb", opener=_open_no_link)
    except OSError as error:
        raise _unwritable(archive, name, error) from None
    with file:
        shutil.copyfileobj(content, file, _CHUNK)


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _unwritable(archive: Path, name: str, error: OSError) -> Exception:
    """Return the error for a member that cannot be made: the archive's fault, or the disk's."""
    if error.errno in _IMPOSSIBLE_NAMES:
        return _unsafe(archive, name, f"cannot have this name ({os.strerror(error.errno)})")
    return error


def _damaged(archive: Path, error: Exception) -> DownloadError:
    reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
    return DownloadError(
        f"{archive}: damaged or cut short ({reason}); delete it and download it again"
    )


def _unsafe(archive: Path, member: str, what: str) -> DataError:
    return DataError(f"{archive}: member {member!r} {what}; do not use this archive")


def _move_into(scratch: Path, target: Path) -> None:
    """Move everything in `scratch` into `target`; folders that both have are merged."""
    for entry in sorted(scratch.iterdir()):
        place = target / entry.name
        try:
            os.replace(entry, place)
        except OSError:  # a folder with something in it, perhaps made by another archive just now
            if not (entry.is_dir() and place.is_dir()):
                raise
            _move_into(entry, place)


def _remove_other_version(name: str, source: Source, root: Path, digest: str) -> None:
    """Remove what another version of the archive was unpacked to, so that none of it stays."""
    state = archives_dir(root) / f".{name}.sha256"
    if state.exists() and state.read_text() != digest:
        for path in source.makes:
            place = root / path
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)
    with atomic_path(state) as temporary:  # not written over: it may be a link into DVC's cache
        temporary.write_text(digest)
