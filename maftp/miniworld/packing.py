"""Archives and images as bytes that depend on their content only: fixed times, sorted names."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maftp.files import atomic_path

_ZIP_TIME = (2024, 1, 1, 0, 0, 0)
_TAR_TIME = 1704067200
JPEG_QUALITY = 95

Members = Mapping[str, bytes]
"""Name inside the archive to content."""


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Encode (H, W, 3) RGB."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def png(array: NDArray[np.uint8], *, palette: NDArray[np.uint8] | None = None) -> bytes:
    """Encode (H, W) or (H, W, 3); with a palette (256, 3) the values become its indices."""
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def zip_bytes(members: Members) -> bytes:
    """Return a zip of `members`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.external_attr = 0o644 << 16
            stored = name.endswith((".jpg", ".png", ".zip"))
            entry.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(entry, members[name])
    return buffer.getvalue()


def tar_bytes(members: Members) -> bytes:
    """Return a tar of `members`, with no owner."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(members):
            entry = tarfile.TarInfo(name)
            entry.size = len(members[name])
            entry.mtime = _TAR_TIME
            archive.addfile(entry, io.BytesIO(members[name]))
    return buffer.getvalue()


def tar_gz_bytes(members: Members) -> bytes:
    """Return a gzipped tar of `members`, with no time in its header."""
    return gzip.compress(tar_bytes(members), mtime=0)


def write(path: Path, data: bytes) -> None:
    """Write a file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
