"""Raw archives of COCO 2017: images, COCO-Stuff pixel maps and panoptic annotations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maftp.miniworld.label_spaces import LabelSpace, coco
from maftp.miniworld.packing import jpeg, png, zip_bytes
from maftp.miniworld.scenes import Scene, Style
from maftp.miniworld.splits import Picture, Split, draw_split

UNLABELLED = 255
_PORTRAIT_AND_LANDSCAPE = ((128, 160), (128, 176), (160, 128), (128, 144), (144, 128), (128, 128))
_WHOLLY_UNLABELLED = 150
"""Every so many pictures one has no annotation at all, as seven of the official ones."""


def coco_archives(*, seed: int, train_images: int, val_images: int) -> dict[str, bytes]:
    """Return file name to content of the four COCO archives."""
    split = Split(
        space=coco(),
        style=Style(things=(), stuff=(), count=(1, 3), size=(0.36, 0.65)),
        sizes=_PORTRAIT_AND_LANDSCAPE,
        stray=0.08,
        crowds=0.03,
    )
    stuff: dict[str, bytes] = {}
    panoptic: dict[str, bytes] = {}
    archives: dict[str, bytes] = {}
    for part, (name, count) in enumerate((("train2017", train_images), ("val2017", val_images))):
        pictures = draw_split(split, count=count, seed=(seed, 10 + part))
        images, labels, segments, records = _split_files(name, pictures)
        archives[f"{name}.zip"] = zip_bytes(images)
        stuff |= labels
        panoptic[f"annotations/panoptic_{name}.json"] = json.dumps(records).encode()
        panoptic[f"annotations/panoptic_{name}.zip"] = zip_bytes(segments)
    archives["stuffthingmaps_trainval2017.zip"] = zip_bytes(stuff)
    archives["panoptic_annotations_trainval2017.zip"] = zip_bytes(panoptic)
    return archives


def _split_files(
    name: str, pictures: Iterable[Picture]
) -> tuple[dict[str, bytes], dict[str, bytes], dict[str, bytes], dict[str, Any]]:
    space = coco()
    images: dict[str, bytes] = {}
    labels: dict[str, bytes] = {}
    segments: dict[str, bytes] = {}
    records: dict[str, Any] = {
        "info": {"description": f"Miniature world, panoptic {name}", "version": "1.0"},
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": ""}],
        "images": [],
        "annotations": [],
        "categories": _categories(space),
    }
    for index, picture in enumerate(pictures):
        image_id = 139 + 7 * index
        stem, scene = f"{image_id:012d}", picture.scene
        height, width = scene.stuff.shape
        bare = index % _WHOLLY_UNLABELLED == _WHOLLY_UNLABELLED - 1
        # A pixel map holds category id - 1.
        label = space.label_map(scene, unlabelled=UNLABELLED, shift=-1).astype(np.uint8)
        label = np.full_like(label, UNLABELLED) if bare else label
        ids, described = _segments(picture, space)
        described = [] if bare else described
        images[f"{name}/{stem}.jpg"] = jpeg(scene.image)
        labels[f"{name}/{stem}.png"] = png(label)
        segments[f"panoptic_{name}/{stem}.png"] = png(np.zeros_like(ids) if bare else ids)
        sizes = {"height": height, "width": width}
        records["images"].append({"id": image_id, "file_name": f"{stem}.jpg", **sizes})
        records["annotations"].append(
            {"image_id": image_id, "file_name": f"{stem}.png", "segments_info": described}
        )
    return images, labels, segments, records


def _segments(
    picture: Picture, space: LabelSpace
) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Return the segment PNG (H, W, 3), id = R + 256 G + 65536 B, and what each segment is."""
    scene = picture.scene
    ids = np.zeros(scene.stuff.shape, np.uint32)
    described: list[dict[str, Any]] = []
    for number, (code, mask, crowd) in enumerate(
        _regions(scene, space, crowd=picture.crowd), start=1
    ):
        identity = (number * 2654435) % (1 << 24)
        ids[mask] = identity
        described.append(
            {
                "id": identity,
                "category_id": code,
                "area": int(mask.sum()),
                "bbox": bounding_box(mask),
                "iscrowd": int(crowd),
            }
        )
    channels = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1)
    return channels.astype(np.uint8), described


def _regions(
    scene: Scene, space: LabelSpace, *, crowd: bool
) -> list[tuple[int, NDArray[np.bool_], bool]]:
    """List the annotated regions that have pixels: code, mask (H, W), whether it is a crowd."""
    covered = scene.things_mask
    regions = [
        (space.code(name), (scene.stuff == index) & ~covered, False)
        for index, name in enumerate(scene.stuff_names)
    ]
    regions += [(space.code(item.thing), item.mask, crowd) for item in scene.instances]
    return [(code, mask, flag) for code, mask, flag in regions if code is not None and mask.any()]


def bounding_box(mask: NDArray[np.bool_]) -> list[int]:
    """Return x, y, width, height of the pixels of a mask (H, W)."""
    ys, xs = np.nonzero(mask)
    return [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]


def _categories(space: LabelSpace) -> list[dict[str, Any]]:
    return [
        {
            "id": row.code,
            "name": row.names[0],
            "supercategory": row.names[0].split()[-1],
            "isthing": int(row.isthing),
            "color": [37 * row.code % 256, 91 * row.code % 256, 149 * row.code % 256],
        }
        for row in space.rows
    ]
