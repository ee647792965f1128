"""ADE20K, full release: 847 classes as 16-bit label maps on re-encoded images.

The benchmark is defined on these images: larger ones are shrunk by OpenCV to a shorter side of 512
(bilinear without antialiasing for images, floor-nearest for labels), and every image is saved anew
at Pillow's default JPEG settings. The file tree is walked; the pickled index of the release is not
read.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from maftp.data.convert.driver import (
    Conversion,
    Made,
    Outcome,
    Task,
    finished_tasks,
    make_tasks,
    prepare_folder,
    semantic_outcome,
)
from maftp.data.images import read_label, read_rgb, write_bytes
from maftp.errors import DataError
from maftp.files import atomic_path

IGNORE = 65535
_SHORT_SIDE = 512
_CODES = 26 * 256


def parse_id_table(source: str, path: Path, *, classes: int) -> list[int]:
    """Return the class ids in the order of their training index.

    The table is published inside a source file: a literal list of records with the fields `name`,
    `id` and `trainId`. Such a file may hold lists of other data sets too, so the number of classes
    decides. The file is parsed as data; nothing of it is run.

    Raises:
        DataError: there is no such list, or ids or training indices repeat or have holes.
    """
    try:
        lists = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.List)]
    except (SyntaxError, ValueError) as error:
        raise DataError(f"{path}: not parsed ({error}); delete it and obtain it again") from None
    tables = [records for node in lists if (records := _literal_records(node))]
    records = next((table for table in tables if len(table) == classes), None)
    if records is None:
        lengths = ", ".join(str(len(table)) for table in tables) or "none"
        raise DataError(
            f"{path}: no list of {classes} records with name, id and trainId (found: {lengths}); "
            "use a table and a vocabulary that belong together"
        )
    ids = {record["trainId"]: record["id"] for record in records}
    in_order = [ids[index] for index in sorted(ids)]
    if sorted(ids) != list(range(len(records))) or len(set(in_order)) != len(records):
        raise DataError(f"{path}: ids or training indices repeat or have holes")
    return in_order


def canonical_table(ids: Sequence[int]) -> str:
    """Return the table as text, one `id,index` row per class."""
    return "".join(f"{identity},{index}\n" for index, identity in enumerate(ids))


def class_ids(codes: np.ndarray) -> np.ndarray:
    """Return floor(R / 10) * 256 + G of `_seg.png` pixels (..., 3) u8 as u16; 0 is unlabelled."""
    return (codes[..., 0] // 10).astype(np.uint16) << 8 | codes[..., 1]


def class_table(ids: Sequence[int]) -> np.ndarray:
    """Return the training index of every u16 class id, (65536,) u16; all others are ignored."""
    table = np.full(2**16, IGNORE, np.uint16)
    table[list(ids)] = np.arange(len(ids), dtype=np.uint16)
    return table


def shrunk_size(height: int, width: int) -> tuple[int, int]:
    """Return (height, width) with the shorter side at most 512, rounded half to even."""
    if width >= height > _SHORT_SIDE:
        return _SHORT_SIDE, round(width / height * _SHORT_SIDE)
    if height >= width > _SHORT_SIDE:
        return round(height / width * _SHORT_SIDE), _SHORT_SIDE
    return height, width


def shrink_image(image: np.ndarray) -> np.ndarray:
    """Return the (H, W, 3) u8 image at the size of `shrunk_size`, by OpenCV's bilinear rule."""
    height, width = shrunk_size(*image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def shrink_label(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the label map (h, w) u16 of `_seg.png` pixels (H, W, 3), size by `shrunk_size`.

    `table` is one of `class_table`. Target index d comes from floor(d * (1 / (shrunk / size))) in
    doubles: OpenCV's rule.
    """
    height, width = shrunk_size(*codes.shape[:2])
    if (height, width) != codes.shape[:2]:
        codes = cv2.resize(codes, (width, height), interpolation=cv2.INTER_NEAREST)
    return cv2.LUT(class_ids(codes), table)


def is_validation(file_name: str) -> bool:
    """Tell the split by the second part of the file name; the folder does not matter."""
    return file_name.split("_")[1] == "val"


def convert_847(conversion: Conversion) -> Outcome:
    """Write the shrunk images and label maps of a split.

    Raises:
        DataError: the id table is not the pinned one, or a file is missing, damaged or unpaired.
    """
    ids = _read_id_table(conversion)
    tasks = finished_tasks(conversion) or _tasks(conversion)
    outcome = semantic_outcome(conversion, tasks, partial(_make, table=class_table(ids)), IGNORE)
    digest = hashlib.sha256(canonical_table(ids).encode()).hexdigest()
    return replace(outcome, details={"id_table_sha256": digest})


def _literal_records(node: ast.List) -> list[dict[str, Any]]:
    try:
        records = ast.literal_eval(node)
    except ValueError:
        return []
    wanted = {"name", "id", "trainId"}
    fitting = all(isinstance(record, dict) and wanted <= record.keys() for record in records)
    return records if fitting else []


def _read_id_table(conversion: Conversion) -> list[int]:
    dataset = conversion.dataset
    if dataset.id_table is None:
        raise DataError(f"catalog, dataset {conversion.name}: key 'id_table' is missing; add it")
    path = conversion.root / dataset.id_table
    try:
        ids = parse_id_table(path.read_text(), path, classes=len(conversion.vocabulary))
    except FileNotFoundError:
        raise DataError(f"{path}: no such table; obtain it first") from None
    text = canonical_table(ids)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if dataset.id_table_sha256 not in (None, digest):
        raise DataError(
            f"{path}: table has digest {digest}, expected {dataset.id_table_sha256};"
            " obtain it again"
        )
    if not all(0 < identity < _CODES for identity in ids):
        raise DataError(f"{path}: a class id is not in 1..{_CODES - 1}; obtain it again")
    with atomic_path(path.with_name(f"{conversion.name}_ids.csv")) as temporary:
        temporary.write_text("id,index\n" + text)
    return ids


def _tasks(conversion: Conversion) -> list[Task]:
    tree = conversion.raw("tree")
    found: dict[str, Path] = {}
    for folder, _, names in os.walk(tree):
        for name in names:
            if name.startswith("ADE_") and name.endswith(".jpg"):
                if is_validation(name) == (conversion.split_name == "val"):
                    found[name[: -len(".jpg")]] = Path(folder) / name
    if not found:
        raise DataError(
            f"{tree}: no image of split {conversion.split_name}; unpack its archive first"
        )
    prepare_folder(conversion.images)
    return make_tasks(conversion, found)


def _make(task: Task, *, table: np.ndarray) -> Made:
    assert task.raw is not None
    image = read_rgb(task.raw, oriented=False)
    codes_path = task.raw.with_name(f"{task.stem}_seg.png")
    codes = read_label(codes_path, modes=("RGB",))
    if codes.shape != image.shape:
        raise DataError(
            f"{codes_path}: {codes.shape[1]} x {codes.shape[0]} pixels, but {task.raw} has"
            f" {image.shape[1]} x {image.shape[0]}; unpack the archive again"
        )
    buffer = io.BytesIO()
    Image.fromarray(shrink_image(image)).save(buffer, format="JPEG")
    write_bytes(task.image, buffer.getvalue())
    return shrink_label(codes, table), 0
