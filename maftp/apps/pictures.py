"""Pictures to segment: files, folders, patterns, and the frames of videos, one after another."""

from __future__ import annotations

import glob
import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from maftp.data.images import PICTURE, opened, rgb_pixels
from maftp.errors import DataError
from maftp.files import check_output

logger = logging.getLogger(__name__)

IMAGES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".webp", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".tga", ".qoi",
    ".mpo",
}  # fmt: skip
UNREADABLE = {".heic", ".heif", ".hif", ".jxl", ".svg", ".cr2", ".cr3", ".nef", ".arw", ".dng"}
"""Pictures that are named when they are left out, as nothing here can read them."""
_MISCOUNTED = {".mkv": 1, ".webm": 1}
"""Frames by which a count may be wrong that comes from duration and rate."""
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"}


class CutShortError(DataError):
    """A video ended before its last frame; what came before was read."""


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
    try:
        kind = "file" if path.is_file() else "folder" if path.is_dir() else ""
    except (OSError, ValueError) as error:  # longer than a name can be, without rights to look
        raise DataError(f"{text[:200]}: cannot be looked up ({error}); mend the path") from None
    if kind == "file":
        return [path]
    if kind == "folder":
        files = _without_results(sorted(p for p in path.rglob("*") if _is_picture(p)), text)
        if not files:
            raise DataError(f"{path}: no picture and no video in this folder")
        return files
    found = sorted(p for p in map(Path, glob.glob(text, recursive=True)) if _is_picture(p))
    files = _without_results(found, text)
    if not files:
        raise DataError(f"{text}: no such picture, folder or pattern; mend the path")
    return files


def _without_results(files: Sequence[Path], text: str) -> list[Path]:
    """Leave out what earlier predictions wrote, and say so; named by itself it is taken."""
    pictures = [path for path in files if not is_result(path)]
    if len(pictures) < len(files):
        logger.info(
            "%s: %d pictures left out, they are results of earlier predictions",
            text, len(files) - len(pictures),
        )  # fmt: skip
    return pictures


def _is_picture(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGES | VIDEOS | UNREADABLE


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
        DataError: the file is not a readable image or video; `CutShortError` after the last
            frame of a video that should have more.
    """
    if source.is_video:
        yield from _frames(source, every)
    else:
        yield Picture(source.name, source.path, read_picture(source.path))


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Decode an image file; see `decode_picture`."""
    if path.suffix.lower() in UNREADABLE:
        kind = path.suffix.lower().removeprefix(".").upper()
        raise DataError(f"{path}: {kind} pictures cannot be read here; save it as JPEG or PNG")
    return decode_picture(path, name=str(path))


def decode_picture(
    source: Path | io.BytesIO, *, name: str, max_pixels: int | None = None
) -> NDArray[np.uint8]:
    """Decode an image upright to RGB, (H, W, 3) uint8; transparency is laid over white.

    Of an animation, or a file of several pages, the first image is taken, and a message says so.

    Args:
        source: path, or contents.
        name: what errors call it.
        max_pixels: refuse larger ones before they are decoded; None leaves it to Pillow.

    Raises:
        DataError: it is missing, damaged, no image, or holds more than 178 million pixels.
    """
    with opened(source, PICTURE, name=name) as image:
        width, height = image.size
        if max_pixels is not None and width * height > max_pixels:
            raise DataError(
                f"{name}: {width} x {height} pixels, at most {max_pixels / 1e6:.0f} million are"
                " taken; shrink it"
            )
        pixels = np.array(rgb_pixels(image, name=name, oriented=True, background="white"))
        frames = _count_frames(image)
    if frames > 1:
        logger.warning("%s: holds %d images; only the first is taken", name, frames)
    return pixels


def _count_frames(image: Image.Image) -> int:
    """Return the number of images in a file; a camera's MPO holds views of one."""
    if image.format == "MPO":
        return 1
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # a later image is damaged; the first, which is taken, is not
        return 1


def _frames(source: Source, every: int) -> Iterator[Picture]:
    capture = cv2.VideoCapture(str(source.path))
    try:
        expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
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
    if number < expected - _MISCOUNTED.get(source.path.suffix.lower(), 0):
        raise CutShortError(
            f"{source.path}: {number} of {expected} frames could be read; the video is damaged or"
            " cut short, give a sound copy of it"
        )


PICTURES = (".overlay.png", ".labels.png", ".segments.png")
_RECORD = ".json"
_KEYS = {"image", "frame", "weights", "vocabulary", "segments"}
_SOFTWARE = "maftp predict"


def png_note() -> PngInfo:
    """Return the note by which a PNG is known as a result."""
    note = PngInfo()
    note.add_text("Software", _SOFTWARE)
    return note


def is_result(path: Path) -> bool:
    """Tell whether a file was written by a prediction."""
    if path.name.endswith(_RECORD):
        return _is_record(path)
    for ending in PICTURES:
        if path.name.endswith(ending):
            beside = path.with_name(path.name.removesuffix(ending) + _RECORD)
            return _has_note(path) or _is_record(beside)  # earlier versions left no note
    return False


def check_results(sources: Sequence[Source], out: Path) -> None:
    """Check, before any work, that results can be written and replace nothing but results.

    Raises:
        MaftpError: `out` is not a folder that can be written to.
        DataError: a file that is not a result has the name of one.
    """
    check_output(out, folder=True)
    for source in sources:
        if source.is_video:
            check_output(out / source.name, folder=True)
        else:
            check_own(out / source.name)


def check_own(stem: Path) -> None:
    """Check that files that are there under the names of a picture's results are results.

    Raises:
        DataError: one is not.
    """
    for ending in (*PICTURES, _RECORD):
        path = stem.with_name(stem.name + ending)
        if path.exists() and not is_result(path):
            raise DataError(
                f"{path}: is not a result of an earlier prediction and would be lost; choose"
                " another folder with --out"
            )


def _is_record(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and _KEYS <= content.keys()


def _has_note(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == _SOFTWARE
    except Exception:  # damaged: no note can be read, so it is not known as a result
        return False
