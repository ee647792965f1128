"""Label maps and images as files: read without colour conversion, checked, written atomically."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from maftp.errors import DataError
from maftp.files import atomic_path

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)


def read_label(path: Path, *, modes: tuple[str, ...] = ("L", "P", "I;16")) -> np.ndarray:
    """Read the values of a label map, (H, W) u8 or u16, or (H, W, 3) u8 with mode RGB.

    A palette image gives its indices: turning it into grey or RGB would destroy the labels.

    Raises:
        DataError: the file is missing, damaged, or of another mode than `modes`.
    """
    try:
        with Image.open(path) as image:
            mode = image.mode
            array = np.asarray(image) if mode in modes else None
    except FileNotFoundError:
        raise DataError(f"{path}: no such label map; unpack its archive again") from None
    except _DAMAGED as error:
        raise damaged(path, error) from None
    if array is None:
        raise DataError(
            f"{path}: label map of mode {mode}, expected {' or '.join(modes)}; replace the file"
        )
    return array


def read_comment(path: Path) -> str | None:
    """Return the comment of a PNG, None when it has none.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return image.info.get("Comment")
    except _DAMAGED as error:
        raise damaged(path, error) from None


def read_rgb(path: Path, *, oriented: bool) -> np.ndarray:
    """Decode an image to RGB, (H, W, 3) u8; `oriented` applies its EXIF orientation.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image) if oriented else image
            return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such image; obtain its archive or convert again") from None
    except _DAMAGED as error:
        raise damaged(path, error) from None


def image_size(path: Path) -> tuple[int, int, bool]:
    """Return (width, height) as stored, and whether the EXIF orientation swaps them.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            return width, height, image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
    except FileNotFoundError:
        raise DataError(f"{path}: no such image; unpack its archive again") from None
    except _DAMAGED as error:
        raise damaged(path, error) from None


def segment_ids(rgb: np.ndarray) -> np.ndarray:
    """Return the segment ids R + 256 G + 65536 B of a panoptic PNG, (H, W) int32."""
    red, green, blue = (rgb[..., channel].astype(np.int32) for channel in range(3))
    return red | green << 8 | blue << 16


def segment_colors(ids: np.ndarray) -> np.ndarray:
    """Return the RGB (H, W, 3) u8 form of segment ids, the inverse of `segment_ids`."""
    return np.stack((ids & 255, ids >> 8 & 255, ids >> 16), axis=-1).astype(np.uint8)


def encode_png(label: np.ndarray, *, comment: str | None = None) -> bytes:
    """Encode a u8 label map (H, W), or RGB segment colours (H, W, 3), as PNG.

    Plain label maps go through OpenCV, whose run-length coding takes a sixth of Pillow's time.
    """
    if label.ndim == 2 and comment is None:
        return cv2.imencode(".png", label)[1].tobytes()
    buffer = io.BytesIO()
    info = PngInfo()
    if comment is not None:
        info.add_text("Comment", comment)
    Image.fromarray(label).save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def encode_tiff(label: np.ndarray) -> bytes:
    """Encode a u16 label map (H, W) as a single-page uncompressed 16-bit TIFF."""
    buffer = io.BytesIO()
    Image.fromarray(label).save(buffer, format="TIFF")
    return buffer.getvalue()


def write_bytes(path: Path, data: bytes) -> str:
    """Write `data` beside `path`, rename it, and return its SHA-256."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return hashlib.sha256(data).hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Put `source` at `target` as a hard link, or as a copy where the file system has no links."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def damaged(path: Path, error: BaseException) -> DataError:
    """Return the error for a file that does not decode."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(
        f"{path}: damaged or cut short ({reason}); delete it and obtain it again from its archive"
    )
