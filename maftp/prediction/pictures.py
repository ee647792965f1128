"""Pictures to segment: files, folders, patterns, and the frames of videos, one after another."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from maftp.errors import DataError

IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}


@dataclass(frozen=True)
class Source:
    """A file to read pictures from."""

    path: Path
    name: str
    """What its results are called; every source has another."""
    chosen: bool
    """Named by itself; False for what was found in a folder."""

    @property
    def is_video(self) -> bool:
        """Whether it holds frames."""
        return self.path.suffix.lower() in VIDEOS


@dataclass(frozen=True)
class Picture:
    """One image, upright, (H, W, 3) uint8 RGB."""

    name: str
    path: Path
    pixels: NDArray[np.uint8]
    frame: int | None = None
    """Number of the frame in a video, from 0."""


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """Return the files that `inputs` name: files, folders (all pictures below) and patterns.

    Raises:
        DataError: a file is missing, or a folder or pattern has no picture.
    """
    found: dict[Path, bool] = {}
    for text in inputs:
        for path in _expand(text):
            found[path] = found.get(path, False) or Path(text) == path
    sources: dict[str, Source] = {}
    for path, chosen in found.items():
        name, count = path.stem, 1
        while name in sources:
            count += 1
            name = f"{path.stem}_{count}"
        sources[name] = Source(path, name, chosen)
    return list(sources.values())


def _expand(text: str) -> list[Path]:
    path = Path(text)
    if path.is_file():
        return [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if _is_picture(p))
        if not files:
            raise DataError(f"{path}: no picture and no video in this folder")
        return files
    files = sorted(p for p in map(Path, glob.glob(text, recursive=True)) if _is_picture(p))
    if not files:
        raise DataError(f"{text}: no such picture, folder or pattern; mend the path")
    return files


def _is_picture(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGES | VIDEOS


def count_pictures(sources: Sequence[Source], *, every: int) -> int:
    """Return how many pictures `read_pictures` will give, as far as the videos' headers tell."""
    total = 0
    for source in sources:
        if source.is_video:
            capture = cv2.VideoCapture(str(source.path))
            frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            capture.release()
            total += -(-frames // every)
        else:
            total += 1
    return total


def read_pictures(source: Source, *, every: int) -> Iterator[Picture]:
    """Yield the image of a file, or every `every`-th frame of a video.

    Raises:
        DataError: the file is no image or video that can be read.
    """
    if source.is_video:
        yield from _frames(source, every)
    else:
        yield Picture(source.name, source.path, read_picture(source.path))


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Decode an image file; see `decode_picture`."""
    return decode_picture(path, name=str(path))


def decode_picture(source: Path | BinaryIO, *, name: str) -> NDArray[np.uint8]:
    """Decode an image upright to RGB, (H, W, 3) uint8; transparency is laid over white.

    Args:
        source: path, or open file.
        name: what errors call it.

    Raises:
        DataError: it is missing, damaged, no image, or holds more than 178 million pixels.
    """
    try:
        with warnings.catch_warnings(), Image.open(source) as file:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return np.array(_as_rgb(ImageOps.exif_transpose(file)))
    except FileNotFoundError:
        raise DataError(f"{name}: no such image; mend the path") from None
    except Image.UnidentifiedImageError:
        raise DataError(f"{name}: not an image; give a JPEG, PNG or other picture") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise DataError(f"{name}: more than {limit / 1e6:.0f} million pixels; shrink it") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(f"{name}: damaged image ({' '.join(str(error).split())})") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey
        grey = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _frames(source: Source, every: int) -> Iterator[Picture]:
    capture = cv2.VideoCapture(str(source.path))
    try:
        number = 0
        while capture.grab():
            if number % every == 0:
                read, frame = capture.retrieve()
                if not read:
                    break
                rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                yield Picture(f"{source.name}/{number:06d}", source.path, rgb, number)
            number += 1
    finally:
        capture.release()
    if number == 0:
        raise DataError(f"{source.path}: not a video that can be read; convert it to MP4")
