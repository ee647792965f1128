"""Fetch one source: resumed, retried, from its mirrors in turn, verified before it gets its name.

What is there of a file is kept as `.part`; the finished one is compared with its published digests,
or, when there are none, with the digest recorded at the first download (`{file}.sha256`).
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from maftp.data.catalog import Source
from maftp.data.images import link_or_copy
from maftp.data.meter import Meter
from maftp.errors import DownloadError
from maftp.files import atomic_path
from maftp.lock import locked

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_NETWORK_CHUNK = 1 << 16  # what is lost when a connection breaks
_SPARE_BYTES = 64 << 20
_TIMEOUT = (15, 60)
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


class _TryAgainError(Exception):
    """The connection broke, or the server is busy."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often an address is tried again."""

    attempts: int = 6
    """Attempts in a row without one new byte."""
    longest_wait: float = 60.0
    """Seconds; the wait doubles from one."""


def fetch(
    source: Source, archives: Path, *, local: Path | None = None, patience: Patience | None = None
) -> Path:
    """Return the verified file of `source` in folder `archives`, fetched when it is not there.

    A second process that fetches the same file waits for the first one.

    Args:
        source: entry of the catalog.
        archives: folder for downloads.
        local: the file when the user has it already; linked or copied.
        patience: how often to try again.

    Raises:
        DownloadError: the source needs registration, no address works, the disk is too small, or a
            digest differs.
    """
    target = archives / source.file
    with locked(archives / f".{source.file}.lock"):
        if target.exists() and local is None:
            verify(source, target)
            return target
        part = archives / f"{source.file}.part"
        if local is not None:
            _take_local(local, part)
            _accept(source, part, target)
            return target
        if not source.urls:
            raise DownloadError(registration_message(source, target))
        failures = []
        for url in source.urls:
            try:
                _transfer(url, part, source, patience or Patience())
                _accept(source, part, target)
                return target
            except DownloadError as error:
                failures.append(str(error))
                logger.warning("%s", error)
        raise DownloadError(
            f"{source.file}: {'; '.join(failures)}; try again later, or put the file at {target}"
        )


def registration_message(source: Source, target: Path) -> str:
    """Say what to ask for, where, and where to put it."""
    where = f" (or unpack it so that {source.makes[0]} exists)" if source.unpack else ""
    return (
        f"{source.title} is given out on registration only: ask at {source.registration}, then put"
        f" {source.file} at {target}{where} and run this again"
    )


def verify(source: Source, path: Path) -> str:
    """Check size and digests of a file of `source` and return its SHA-256.

    Raises:
        DownloadError: they are not the published ones, or not those of the first download.
    """
    size = path.stat().st_size
    if source.bytes not in (None, size):
        raise DownloadError(
            f"{path}: {size} bytes, expected {source.bytes}; delete it and download it again"
        )
    expected = dict(source.digests)
    recorded = _record_of(path)
    served_from_disk = (source.url or "").startswith("file:")  # its owner may change it
    if not expected and recorded.exists() and not served_from_disk:
        expected = {"sha256": recorded.read_text().split()[0]}
    found = _digests(path, {"sha256", *expected})
    for name, digest in expected.items():
        if found[name] != digest:
            raise DownloadError(
                f"{path}: {name} is {found[name]}, expected {digest}: damaged, cut short or another"
                " version; delete it and download it again"
            )
    return found["sha256"]


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check that `needed` bytes and a little more are free where `folder` lies.

    Raises:
        DownloadError: they are not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise DownloadError(
            f"{what}: needs {needed / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free; make"
            " room, or choose another folder with $DETECTRON2_DATASETS or data.root"
        )


def _accept(source: Source, part: Path, target: Path) -> None:
    """Verify `part`, record its digest and give it its name; a wrong one is deleted."""
    if not source.digests and _record_of(target).exists():
        shutil.copyfile(_record_of(target), _record_of(part))
    try:
        digest = verify(source, part)
    except DownloadError:
        part.unlink()
        _tag_of(part).unlink(missing_ok=True)
        raise
    finally:
        _record_of(part).unlink(missing_ok=True)
    with atomic_path(_record_of(target)) as temporary:
        temporary.write_text(f"{digest}  {target.name}\n")
    os.replace(part, target)
    _tag_of(part).unlink(missing_ok=True)


def _transfer(url: str, part: Path, source: Source, patience: Patience) -> None:
    scheme = urlsplit(url).scheme
    if scheme == "file":
        _take_local(Path(unquote(urlsplit(url).path)), part)
    elif scheme in ("http", "https"):
        _from_web(url, part, source, patience)
    else:
        raise DownloadError(f"{url}: cannot be fetched, use http, https or file")


def _take_local(path: Path, part: Path) -> None:
    if not path.is_file():
        raise DownloadError(f"{path}: no such file")
    with _full_disk_named(part):
        check_space(part.parent, 0, part.name)
        part.unlink(missing_ok=True)
        link_or_copy(path, part)


def _from_web(url: str, part: Path, source: Source, patience: Patience) -> None:
    retrying = Retrying(
        retry=retry_if_exception_type(_TryAgainError),
        stop=_without_progress(part, patience.attempts),
        wait=wait_random_exponential(multiplier=1, max=patience.longest_wait),
        before_sleep=_say_again,
        reraise=True,
    )
    try:
        retrying(_stream, url, part, source)
    except _TryAgainError as error:
        raise DownloadError(f"{url}: {error}") from None


def _without_progress(part: Path, attempts: int) -> Callable[[RetryCallState], bool]:
    """Stop after so many attempts in a row that added nothing to `part`."""
    idle = 0
    largest = _size(part)

    def stop(state: RetryCallState) -> bool:
        nonlocal idle, largest
        size = _size(part)
        idle = idle + 1 if size <= largest else 0
        largest = max(size, largest)
        return idle >= attempts

    return stop


def _say_again(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    seconds = state.next_action.sleep if state.next_action else 0.0
    logger.warning("%s; trying again in %.0f s", error, seconds)


def _stream(url: str, part: Path, source: Source) -> None:
    """Append what is missing of `part`; begin anew when the server's file is another one."""
    have = _size(part)
    headers = {"Accept-Encoding": "identity"}
    tag = _tag_of(part)
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text()
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            status = response.status_code
            if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                if response.headers.get("Content-Range") == f"bytes */{have}":
                    return  # all of it was there already
                part.unlink()
                raise _TryAgainError(f"{url}: what was there of {part.name} does not belong to it")
            if status in _TRANSIENT:
                raise _TryAgainError(f"answers {status} {response.reason}")
            if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
                raise DownloadError(f"{url}: answers {status} {response.reason}")
            if status == HTTPStatus.OK:
                have = 0
            _append(response, part, have, source)
    except requests.RequestException as error:
        raise _TryAgainError(f"connection failed ({type(error).__name__})") from None


def _append(response: requests.Response, part: Path, have: int, source: Source) -> None:
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else source.bytes
    with _full_disk_named(part):
        check_space(part.parent, (total or 0) - have, source.file)
        entity = response.headers.get("ETag", "")
        if entity and not entity.startswith("W/"):  # a weak tag cannot vouch for a range
            _tag_of(part).write_text(entity)
        else:
            _tag_of(part).unlink(missing_ok=True)
        with (
            open(part, "ab" if have else "wb") as file,
            Meter(source.file, total=total, done=have) as meter,
        ):
            for chunk in response.iter_content(_NETWORK_CHUNK):
                file.write(chunk)
                meter.add(len(chunk))
    if total is not None and _size(part) < total:
        raise _TryAgainError(f"connection closed after {_size(part)} of {total} bytes")


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    """Turn a full disk into a sentence that names the file."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DownloadError(
            f"{path}: the disk is full; make room and run this again, it goes on where it stopped"
        ) from None


def _digests(path: Path, names: set[str]) -> dict[str, str]:
    states = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    size = path.stat().st_size
    with open(path, "rb") as file, Meter(f"verify {path.name}", total=size) as meter:
        while chunk := file.read(_CHUNK):
            for state in states.values():
                state.update(chunk)
            meter.add(len(chunk))
    return {name: state.hexdigest() for name, state in states.items()}


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _tag_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
