"""Raw archives of PASCAL: VOC 2012 and 2010, PASCAL-Context and PASCAL in Detail."""

from __future__ import annotations

import io
import json
from typing import Any

import cv2
import numpy as np
import scipy.io
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from maftp.miniworld.coco import bounding_box
from maftp.miniworld.label_spaces import LabelSpace, pascal_ctx_59, pascal_ctx_459, pascal_voc_21
from maftp.miniworld.packing import jpeg, png, tar_bytes, tar_gz_bytes
from maftp.miniworld.scenes import Scene, Style
from maftp.miniworld.splits import Split, draw_split
from maftp.miniworld.words import Thing

_BORDER = 255
_ANNOTATIONS = ("segmentation", "boundary", "occlusion")
"""Lists of PASCAL in Detail."""
_PORTRAITS = Style(
    things=(), stuff=(), count=(1, 2), size=(0.42, 0.64), middle=0.4, jitter=0.05, grain=0.02
)
_SHELVES = Style(
    things=(), stuff=(), count=(2, 4), size=(0.34, 0.54), middle=0.6, tint=0.04, grain=0.006
)
_VOC_SIZES = ((128, 168), (144, 192), (168, 128))
_CONTEXT_SIZES = ((128, 192), (144, 176), (192, 144))


def voc2012_archive(*, seed: int, train_images: int, val_images: int) -> dict[str, bytes]:
    """Return VOCtrainval_11-May-2012.tar: images, palette masks with void borders, image lists."""
    space, root = pascal_voc_21(), "VOCdevkit/VOC2012"
    split = Split(space=space, style=_PORTRAITS, sizes=_VOC_SIZES)
    pictures = draw_split(split, count=train_images + val_images, seed=(seed, 40))
    files: dict[str, bytes] = {}
    stems: list[str] = []
    for number, picture in enumerate(pictures, start=1):
        stems.append(f"2012_{number:06d}")
        label = _with_borders(picture.scene, space)
        files[f"{root}/JPEGImages/{stems[-1]}.jpg"] = jpeg(picture.scene.image)
        files[f"{root}/SegmentationClass/{stems[-1]}.png"] = png(label, palette=voc_palette())
    lists = {"train": stems[:train_images], "val": stems[train_images:], "trainval": stems}
    for name, part in lists.items():
        text = "".join(f"{stem}\n" for stem in part)
        files[f"{root}/ImageSets/Segmentation/{name}.txt"] = text.encode()
    return {"VOCtrainval_11-May-2012.tar": tar_bytes(files)}


def voc_palette() -> NDArray[np.uint8]:
    """Return VOC's colours (256, 3): the bits of an index, spread over the channels."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return palette


def _with_borders(scene: Scene, space: LabelSpace) -> NDArray[np.uint8]:
    """Return the class indices (H, W); 255 along the outline of every thing."""
    label = space.label_map(scene, unlabelled=_BORDER).astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    for instance in scene.instances:
        mask = instance.mask.astype(np.uint8)
        label[cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, disc) > 0] = _BORDER
    return label


def context_archives(*, seed: int, train_images: int, val_images: int) -> dict[str, bytes]:
    """Return VOC 2010's images and both annotations of them, by file name.

    The label maps hold fine classes, the records coarse ones, of the same pictures.
    """
    fine, coarse, root = pascal_ctx_459(), pascal_ctx_59(), "VOCdevkit/VOC2010"
    split = Split(space=fine, style=_SHELVES, sizes=_CONTEXT_SIZES, stray=0.04)
    pictures = draw_split(split, count=train_images + val_images, seed=(seed, 50))
    images: dict[str, bytes] = {}
    maps = {"labels.txt": "".join(f"{r.code}: {r.names[0]}\n" for r in fine.rows).encode()}
    records: dict[str, list[Any]] = {"images": [], **{f"annos_{name}": [] for name in _ANNOTATIONS}}
    for number, picture in enumerate(pictures, start=1):
        stem = f"2010_{number:06d}"
        phase = "train" if number <= train_images else "val"
        images[f"{root}/JPEGImages/{stem}.jpg"] = jpeg(picture.scene.image)
        maps[f"trainval/{stem}.mat"] = _mat(fine.label_map(picture.scene, unlabelled=0))
        _add_records(records, picture.scene, coarse, stem, phase)
    details = {"info": {"description": "miniature world"}, **records, **_categories(coarse)}
    return {
        "VOCtrainval_03-May-2010.tar": tar_bytes(images),
        "trainval.tar.gz": tar_gz_bytes(maps),
        "trainval_merged.json": json.dumps(details).encode(),
    }


def _mat(label: NDArray[np.uint16]) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"LabelMap": label}, do_compression=True)
    data = bytearray(buffer.getvalue())
    # The header's text names the time of writing; it is 116 bytes, blank-padded.
    data[:116] = b"MATLAB 5.0 MAT-file, miniature world".ljust(116)
    return bytes(data)


def _categories(space: LabelSpace) -> dict[str, list[dict[str, Any]]]:
    """Return the classes, and the parts of things: each has one, its rim, of the same number."""
    things = [row.code for row in space.rows if row.isthing]
    return {
        "categories": [
            {
                "category_id": row.code,
                "name": row.names[0],
                "onlysemantic": int(not row.isthing),
                "parts": [row.code] if row.isthing else [],
            }
            for row in space.rows
        ],
        "parts": [{"part_id": code, "category_id": code, "name": "rim"} for code in things],
    }


def _add_records(
    records: dict[str, list[Any]], scene: Scene, space: LabelSpace, stem: str, phase: str
) -> None:
    """Append a picture and its segments: stuff with what stands on it, then things over it.

    A mask per picture of all outlines, and one of those of things, stand for PASCAL in Detail's
    boundaries and occlusions.
    """
    height, width = scene.stuff.shape
    image_id = int(stem.replace("_", ""))
    records["images"].append(
        {
            "image_id": image_id,
            "file_name": f"{stem}.jpg",
            "height": height,
            "width": width,
            "phase": phase,
        }
    )
    # Things without a class leave a hole in the stuff, so that their pixels stay unlabelled.
    hole = np.zeros(scene.stuff.shape, bool)
    for instance in scene.instances:
        if space.code(instance.thing) is None:
            hole |= instance.mask
    regions = [(name, (scene.stuff == i) & ~hole) for i, name in enumerate(scene.stuff_names)]
    things = [(instance.thing, instance.mask) for instance in scene.instances]
    boundary, occlusion = np.zeros((2, height, width), bool)
    for member, mask in [*regions, *things]:
        code = space.code(member)
        if code is None or not mask.any():
            continue
        rim, isthing = _rim(mask), isinstance(member, Thing)
        boundary |= rim
        occlusion |= rim & isthing
        parts = [{"part_id": code, "segmentation": _run_lengths(rim)}] if isthing else []
        records["annos_segmentation"].append(
            {
                "id": len(records["annos_segmentation"]) + 1,
                "image_id": image_id,
                "category_id": code,
                "segmentation": _run_lengths(mask),
                "area": int(mask.sum()),
                "bbox": bounding_box(mask),
                "iscrowd": 0,
                "parts": parts,
            }
        )
    for name, mask in (("boundary", boundary), ("occlusion", occlusion)):
        found = records[f"annos_{name}"]
        found.append({"id": len(found) + 1, "image_id": image_id, name: _run_lengths(mask)})


def _rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the outermost pixels of a mask (H, W)."""
    return mask & (cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 0)


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(code["size"]), "counts": code["counts"].decode("ascii")}
