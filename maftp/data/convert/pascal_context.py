"""PASCAL-Context: 59 classes from PASCAL in Detail, 459 from the LabelMap files.

Both use the validation images of PASCAL in Detail (5,104 of VOC 2010); the two annotations come
from different files and need not agree pixel by pixel.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io
from pycocotools import mask as coco_mask

from maftp.data.convert.driver import (
    Conversion,
    Made,
    Outcome,
    Task,
    finished_tasks,
    make_tasks,
    map_values,
    semantic_outcome,
)
from maftp.data.convert.linking import link_images
from maftp.data.convert.pascal_voc import listed_stems
from maftp.errors import DataError

_COMPRESSED, _TYPE_U16, _CLASS_U16 = 15, 4, 11  # of MATLAB's format
IGNORE_59 = 255
IGNORE_459 = 65535
_REFUSED_59 = 254
_REFUSED_459 = 65534
_LARGEST_459 = 459

CONTEXT_59_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""Ids of the 59 classes among the 459, ascending."""


def context_59_table(classes: int) -> np.ndarray:
    """Return the class of every id 0..458, (459,) u8: rank among the first `classes` of the 59 ids.

    0, no annotation, is ignored. Any other id has entry 254, which no class has.

    Raises:
        DataError: there are more than 59 classes.
    """
    if classes > len(CONTEXT_59_IDS):
        raise DataError(f"vocabulary pascal_ctx_59: {classes} classes, at most 59 are possible")
    table = np.full(max(CONTEXT_59_IDS) + 1, _REFUSED_59, np.uint8)
    table[0] = IGNORE_59
    table[list(CONTEXT_59_IDS[:classes])] = np.arange(classes, dtype=np.uint8)
    return table


def paint_segments(
    height: int, width: int, records: Sequence[tuple[int, dict[str, Any]]], path: Path
) -> np.ndarray:
    """Paint category ids over each other in file order, crowd included, on a canvas of 0.

    Args:
        height: of the canvas.
        width: of the canvas.
        records: (category id, compressed RLE) in file order.
        path: file of the records, for errors.

    Returns:
        (H, W) u16.

    Raises:
        DataError: a segmentation is not an RLE of that size.
    """
    canvas = np.zeros((height, width), np.uint16)
    for category, segmentation in records:
        if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
            raise DataError(
                f"{path}: a segmentation is not a run-length code of {height} x {width} pixels;"
                " obtain the file again"
            )
        canvas[coco_mask.decode(segmentation).view(bool)] = category
    return canvas


def context_459_table(classes: int) -> np.ndarray:
    """Return the class of every LabelMap value 0..classes, (classes + 1,) u16; 0 is ignored."""
    table = np.arange(-1, classes, dtype=np.int64)
    table[0] = IGNORE_459
    return table.astype(np.uint16)


def read_label_map(path: Path) -> np.ndarray:
    """Read `LabelMap` (H, W) u16 of a .mat file.

    Raises:
        DataError: the file is missing or damaged, or the variable is missing or of another type.
    """
    try:
        data = path.read_bytes()
        found = _plain_label_map(data)
        if found is not None:
            return found
        content = scipy.io.loadmat(io.BytesIO(data), variable_names=["LabelMap"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such label map; unpack its archive again") from None
    except Exception as error:  # scipy raises whatever the damaged bytes lead it to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"{path}: damaged or cut short ({reason}); unpack its archive again"
        ) from None
    label = content.get("LabelMap")
    if label is None:
        raise DataError(f"{path}: variable LabelMap is missing; unpack its archive again")
    if label.dtype != np.uint16 or label.ndim != 2:
        raise DataError(f"{path}: LabelMap is {label.dtype}, expected uint16 with 2 axes")
    return np.ascontiguousarray(label)


def _plain_label_map(data: bytes) -> np.ndarray | None:
    """Read the one form that the release has: a single compressed u16 matrix called LabelMap.

    None for any other, which SciPy reads, in three times the time: MATLAB's format 5, where every
    element has a tag of type and size (MAT-File Format, MathWorks).
    """
    if data[124:128] != b"\0\1IM" or len(data) < 136:
        return None
    kind, size = struct.unpack_from("<II", data, 128)
    if kind != _COMPRESSED or 136 + size != len(data):
        return None
    matrix = zlib.decompress(data[136:])
    expected = struct.pack("<IIII", 6, 8, _CLASS_U16, 0)  # flags: neither complex nor logical
    if matrix[8:24] != expected or matrix[24:32] != struct.pack("<II", 5, 8):
        return None
    height, width = struct.unpack_from("<ii", matrix, 32)
    name = struct.pack("<II", 1, 8) + b"LabelMap"
    content = struct.pack("<II", _TYPE_U16, 2 * height * width)
    if matrix[40:56] != name or matrix[56:64] != content:
        return None
    values = np.frombuffer(matrix, "<u2", height * width, 64)
    return cv2.transpose(values.reshape(width, height))  # column by column, in the file


def convert_59(conversion: Conversion) -> Outcome:
    """Write the label maps of PC-59.

    Raises:
        DataError: a file is missing, damaged or not as described.
    """
    table = context_59_table(len(conversion.vocabulary))
    tasks = finished_tasks(conversion) or _tasks_59(conversion)
    return semantic_outcome(conversion, tasks, partial(_make_59, table=table), IGNORE_59)


def convert_459(conversion: Conversion) -> Outcome:
    """Write the label maps of PC-459.

    Raises:
        DataError: a file is missing, damaged or not as described.
    """
    table = context_459_table(len(conversion.vocabulary))
    tasks = finished_tasks(conversion) or _tasks_459(conversion)
    return semantic_outcome(conversion, tasks, partial(_make_459, table=table), IGNORE_459)


def convert_59_from_459(conversion: Conversion) -> Outcome:
    """Write label maps of the 59 classes from the LabelMap files, without PASCAL in Detail.

    The ids are the same, the pixels need not be: scores on these are not those of PC-59.

    Raises:
        DataError: a file is missing, damaged or not as described.
    """
    table = context_59_table(len(conversion.vocabulary))
    every = np.full(_LARGEST_459 + 1, IGNORE_59, np.uint8)  # the other 400 classes
    classes = list(CONTEXT_59_IDS[: len(conversion.vocabulary)])
    every[classes] = table[classes]
    tasks = finished_tasks(conversion) or _tasks_listed(conversion)
    return semantic_outcome(conversion, tasks, partial(_make_59_from_459, table=every), IGNORE_59)


def iterate_array(path: Path, key: str) -> Iterator[Any]:
    """Yield the elements of the top-level array `key` of a JSON object, one at a time.

    Decoded at once, the file of 590 MB would take several GB.

    Raises:
        DataError: the file is missing or no JSON object.
    """
    try:
        text = path.read_text()
        yield from _elements(text, key)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; obtain it first") from None
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            f"{path}: damaged or cut short ({error}); delete it and obtain it again"
        ) from None


def _elements(text: str, wanted: str) -> Iterator[Any]:
    decode = json.JSONDecoder().raw_decode
    position = _skip(text, 0, "{")
    while text[position] != "}":
        key, position = decode(text, position)
        position = _skip(text, position, ":")
        if text[position] == "[":
            position = _skip(text, position, "[")
            while text[position] != "]":
                element, position = decode(text, position)
                if key == wanted:
                    yield element
                position = _next(text, position, "]")
            position = _next(text, position + 1, "}")
        else:
            _, position = decode(text, position)
            position = _next(text, position, "}")


def _skip(text: str, position: int, mark: str) -> int:
    position = WHITESPACE.match(text, position).end()
    if text[position] != mark:
        raise ValueError(f"expected {mark!r} at character {position}")
    return WHITESPACE.match(text, position + 1).end()


def _next(text: str, position: int, end: str) -> int:
    """Return the position after a comma, or of `end`."""
    position = WHITESPACE.match(text, position).end()
    return position if text[position] == end else _skip(text, position, ",")


def _validation_images(conversion: Conversion) -> dict[int, dict[str, Any]]:
    images = {}
    path = conversion.raw("records")
    for image in iterate_array(path, "images"):
        if _field(image, "phase", path) == "val":
            images[_field(image, "image_id", path)] = image
    if not images:
        raise DataError(f"{path}: no image of phase 'val'; obtain the file again")
    return images


def _field(record: dict[str, Any], key: str, path: Path) -> Any:
    if key not in record:
        raise DataError(f"{path}: a record lacks {key!r}; obtain the file again")
    return record[key]


def _tasks_59(conversion: Conversion) -> list[Task]:
    path = conversion.raw("records")
    images = _validation_images(conversion)  # a pass of its own: only their segments are kept
    segments: dict[int, list[tuple[int, dict[str, Any]]]] = {}
    for record in iterate_array(path, "annos_segmentation"):
        image_id = _field(record, "image_id", path)
        if image_id in images:
            entry = _field(record, "category_id", path), _field(record, "segmentation", path)
            segments.setdefault(image_id, []).append(entry)
    records = {}
    for image_id, image in images.items():
        size = _field(image, "height", path), _field(image, "width", path)
        records[_stem(image, path)] = (*size, segments.get(image_id, []))
    return _linked(conversion, dict.fromkeys(records, path), records)


def _tasks_459(conversion: Conversion) -> list[Task]:
    path, folder = conversion.raw("records"), conversion.raw("labels")
    stems = [_stem(image, path) for image in _validation_images(conversion).values()]
    return _linked(conversion, {stem: folder / f"{stem}.mat" for stem in stems}, None)


def _tasks_listed(conversion: Conversion) -> list[Task]:
    folder = conversion.raw("labels")
    stems = listed_stems(conversion.raw("list"))
    return _linked(conversion, {stem: folder / f"{stem}.mat" for stem in stems}, None)


def _stem(image: dict[str, Any], path: Path) -> str:
    return Path(_field(image, "file_name", path)).stem


def _linked(
    conversion: Conversion, raw: dict[str, Path], records: dict[str, Any] | None
) -> list[Task]:
    source = conversion.raw("images")
    link_images({stem: source / f"{stem}.jpg" for stem in sorted(raw)}, conversion.images)
    return make_tasks(conversion, raw, records)


def _make_59(task: Task, *, table: np.ndarray) -> Made:
    assert task.raw is not None
    height, width, records = task.records
    where = Path(f"{task.raw} ({task.stem})")
    canvas = paint_segments(height, width, records, where)
    return map_values(canvas, table, where, refused=_REFUSED_59), 0


def _make_59_from_459(task: Task, *, table: np.ndarray) -> Made:
    assert task.raw is not None
    return map_values(read_label_map(task.raw), table, task.raw, refused=_REFUSED_59), 0


def _make_459(task: Task, *, table: np.ndarray) -> Made:
    assert task.raw is not None
    return map_values(read_label_map(task.raw), table, task.raw, refused=_REFUSED_459), 0
