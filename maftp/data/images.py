"""Label maps and images as files: read without colour conversion, checked, written atomically."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from maftp.errors import DataError

logger = logging.getLogger(__name__)

FORMATS = (
    "JPEG", "PNG", "TIFF", "WEBP", "AVIF", "BMP", "DIB", "GIF", "JPEG2000", "PPM", "QOI",
    "TGA",
)  # fmt: skip
"""What is read, by contents whatever the name (MPO as JPEG). For EPS Pillow starts a program."""
_ORIENTATION = 0x0112  # of EXIF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets an image upright, by its EXIF orientation."""
_SIDEWAYS = (5, 6, 7, 8)
_NO_RGB = ("LAB",)
_GREY_BITS = (8, 10, 12, 14, 16, 24, 32)
_said: set[tuple[Path, str]] = set()
_OF_SYSTEM = {
    errno.EACCES, errno.EPERM, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
    errno.ENAMETOOLONG, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
}  # fmt: skip
"""Errors of the disk or the path; any other comes from the decoder."""
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


@dataclass(frozen=True, slots=True)
class Wording:
    """What an error tells the reader of a file to do."""

    missing: str
    unknown: str
    damaged: str


_FETCH_AGAIN = "delete it and obtain it again from its archive"
_NOT_KNOWN = "damaged or cut short (not recognised as an image)"
_LABEL = Wording(
    "no such label map; unpack its archive again", f"{_NOT_KNOWN}; {_FETCH_AGAIN}", _FETCH_AGAIN
)
_IMAGE = Wording(
    "no such image; obtain its archive or convert again",
    f"{_NOT_KNOWN}; {_FETCH_AGAIN}",
    _FETCH_AGAIN,
)
PICTURE = Wording(
    "no such image; mend the path",
    "not an image; give a JPEG, PNG or other picture",
    "give a sound copy of it",
)
"""For a user's own picture, which no archive brings back."""


@contextmanager
def opened(
    source: Path | io.BytesIO, wording: Wording, *, name: str | None = None, whole: bool = False
) -> Iterator[Image.Image]:
    """Open an image; whatever its decoder raises becomes one sentence.

    Args:
        source: path, or contents.
        wording: what the sentences advise.
        name: what they call the image; None takes the path.
        whole: read the file once, into `fp` of what is yielded; otherwise as its decoder asks.

    Raises:
        DataError: it is missing, damaged, no image, or holds more pixels than Pillow takes.
    """
    called = str(source) if name is None else name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata that is damaged, or of many pixels
            if whole and not isinstance(source, io.BytesIO):
                source = io.BytesIO(Path(source).read_bytes())
            with Image.open(source, formats=FORMATS) as image:
                if image.format == "PNG":
                    _check_chunks(source)
                yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{called}: {wording.missing}") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{called}: {_unidentified(source, wording)}") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(
            f"{called}: claims more than {limit / 1e6:.0f} million pixels; shrink it, or replace it"
            " if that is not true"
        ) from None
    except OSError as error:
        if error.errno not in _OF_SYSTEM:
            raise damaged(called, error, wording.damaged) from None
        raise DataError(f"{called}: cannot be read ({error.strerror}); mend that") from None
    except Exception as error:  # damaged bytes lead the decoders to any error
        raise damaged(called, error, wording.damaged) from None


def read_label(path: Path, *, modes: tuple[str, ...] = ("L", "P", "I;16")) -> np.ndarray:
    """Read the values of a label map, (H, W) u8 or u16, or (H, W, 3) u8 with mode RGB.

    A palette image gives its indices: turning it into grey or RGB would destroy the labels.

    Raises:
        DataError: the file is missing, damaged, or of another mode than `modes`.
    """
    with opened(path, _LABEL, whole=True) as image:
        if image.mode not in modes:
            raise DataError(
                f"{path}: label map of mode {image.mode}, expected {' or '.join(modes)}; replace"
                " the file"
            )
        if image.format == "PNG" and image.tile and image.tile[0][3] == "RGB":  # 8 bits
            # Checksums were compared, so the faster decoder cannot take a damaged file.
            data = np.frombuffer(image.fp.getbuffer(), np.uint8)
            found = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
            if found is not None:
                return found
        return np.asarray(image)


def read_comment(path: Path) -> str | None:
    """Return the comment of a PNG, None when it has none.

    Raises:
        DataError: the file is missing or damaged.
    """
    with opened(path, _LABEL) as image:
        comment = image.info.get("Comment")
        return comment if isinstance(comment, str) else None


def read_rgb(path: Path, *, oriented: bool) -> np.ndarray:
    """Decode an image of a data set to RGB, (H, W, 3) u8; transparency is dropped.

    Args:
        path: the file.
        oriented: apply its EXIF orientation.

    Raises:
        DataError: the file is missing or damaged.
    """
    with opened(path, _IMAGE) as image:
        return rgb_pixels(image, name=str(path), oriented=oriented)


def rgb_pixels(
    image: Image.Image, *, name: str, oriented: bool, background: str | None = None
) -> np.ndarray:
    """Decode an opened image to RGB, (H, W, 3) u8. Call it inside `opened`.

    Grey of more than 8 bits is scaled to 8 by its range, and a warning says so: for whole numbers
    by the smallest usual bit depth that holds the largest value, for fractions from 0 to 1.

    Args:
        image: the image.
        name: what messages call it.
        oriented: apply its EXIF orientation.
        background: colour behind transparency; None drops transparency.

    Raises:
        DataError: its values are not brightness values: negative, or not finite.
    """
    image.load()  # the orientation of some formats is known, or applied, only afterwards
    turn = _UPRIGHT.get(_orientation(image)) if oriented else None
    upright = image if turn is None else image.transpose(turn)
    if upright.mode.startswith(("I", "F")):
        grey = _scaled_grey(np.asarray(upright), name)
        return np.repeat(grey[..., None], 3, axis=2)
    if background and ("A" in upright.getbands() or "transparency" in upright.info):
        behind = Image.new("RGBA", upright.size, background)
        upright = Image.alpha_composite(behind, upright.convert("RGBA"))
    if upright.mode in _NO_RGB:
        raise DataError(f"{name}: colours of mode {upright.mode} are not read; save it as RGB")
    return np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))


def image_size(path: Path) -> tuple[int, int, bool]:
    """Return (width, height) as stored, and whether the EXIF orientation swaps them.

    Raises:
        DataError: the file is missing or damaged.
    """
    with opened(path, _IMAGE) as image:
        width, height = image.size
        return width, height, _orientation(image) in _SIDEWAYS


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 where there is none; nothing else of EXIF is looked at."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
        return int(found) if isinstance(found, int | float) else 1
    except Exception:  # damaged metadata lead Pillow to any error; the pixels may be sound
        return 1


def _scaled_grey(values: np.ndarray, name: str) -> np.ndarray:
    """Return grey values of any type as (H, W) u8."""
    lowest, highest = (values.min(), values.max()) if values.size else (0, 0)
    if not (np.isfinite(lowest) and np.isfinite(highest) and lowest >= 0):
        raise DataError(
            f"{name}: grey values from {lowest} to {highest} are not brightness values; save it as"
            " 8-bit grey, or as RGB"
        )
    fraction = values.dtype.kind == "f" and highest <= 1
    bits = next((b for b in _GREY_BITS if highest < 2**b), None)
    if bits is None:
        raise DataError(f"{name}: grey values up to {highest}, at most 32 bits are read; shrink it")
    if fraction:
        _say_scaled(Path(name).parent, name, "fractions from 0 to 1")
        return np.rint(values * 255).astype(np.uint8)
    kind = "fractions" if values.dtype.kind == "f" else "values"
    _say_scaled(Path(name).parent, name, f"{kind} of {bits} bits")
    if values.dtype.kind == "f":
        return np.rint(values / (2**bits - 1) * 255).astype(np.uint8)
    return (values.astype(np.int64) >> (bits - 8)).astype(np.uint8)


def _say_scaled(folder: Path, name: str, what: str) -> None:
    """Say it for the first image of a folder; a data set would repeat it for every image."""
    if (folder, what) not in _said:
        _said.add((folder, what))
        logger.warning("%s: grey of %s, scaled to 8 bits (so are others like it)", name, what)


def _check_chunks(source: Path | io.BytesIO) -> None:
    """Compare the checksums of a PNG, which Pillow does not do when it decodes.

    Damaged pixels near the end would be taken, as decoding stops before the checksum of all.
    """
    copy = io.BytesIO(source.getvalue()) if isinstance(source, io.BytesIO) else source
    with Image.open(copy, formats=("PNG",)) as image:
        image.verify()


def _unidentified(source: Path | io.BytesIO, wording: Wording) -> str:
    """Tell a picture that cannot be read here from what is none."""
    if isinstance(source, io.BytesIO):
        start = source.getvalue()[:12]
    else:
        with open(source, "rb") as file:
            start = file.read(12)
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return "HEIC pictures cannot be read here; save it as JPEG"
    return wording.unknown


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
    return _tiff_start(*label.shape) + label.astype("<u2", copy=False).tobytes()


@lru_cache(maxsize=1024)
def _tiff_start(height: int, width: int) -> bytes:
    """Return what Pillow writes before the pixels, in a fifth of an image's time of conversion."""
    buffer = io.BytesIO()
    Image.new("I;16", (width, height)).save(buffer, format="TIFF")
    return buffer.getvalue()[: -2 * height * width]


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


def damaged(name: Path | str, error: BaseException, advice: str = _FETCH_AGAIN) -> DataError:
    """Return the error for a file that does not decode."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{name}: damaged or cut short ({reason}); {advice}")
