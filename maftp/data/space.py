"""Room on the disk: checked before something large is written, and named when it runs out."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from maftp.errors import DownloadError

_SPARE_BYTES = 64 << 20


class FullDiskError(DownloadError):
    """There is no room, or it ran out."""


def check_space(folder: Path, needed: int, what: str) -> None:
    """Check that `needed` bytes and a little more are free where `folder` lies.

    Raises:
        FullDiskError: they are not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE_BYTES:
        raise FullDiskError(
            f"{what}: needs {needed / 1e9:.2f} GB in {folder}, {free / 1e9:.2f} GB are free; make"
            " room, or choose another folder with $DETECTRON2_DATASETS or data.root"
        )


@contextmanager
def full_disk_named(what: Path | str) -> Iterator[None]:
    """Turn a full disk, or a used-up quota, into a sentence about `what`.

    Raises:
        FullDiskError: the disk became full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FullDiskError(
            f"{what}: the disk is full; make room and run this again, it goes on where it stopped"
        ) from None
