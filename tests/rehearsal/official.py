"""Archives in the official formats: real picture sizes and numbers of classes, few images.

What a picture shows is noise: a rehearsal asks whether everything fits together, not for scores.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import scipy.io
import yaml

from maftp.data.catalog import load_catalog
from maftp.data.convert.ade20k import thing_ids
from maftp.data.convert.coco import REMOVED_IDS
from maftp.data.convert.pascal_context import CONTEXT_59_IDS
from tests.data.conftest import encoded, palette_png, rle, segment_png, tarred, zipped

IMAGES = 2
"""Pictures of every split."""
STUFF_IDS = [i for i in range(1, 183) if i not in REMOVED_IDS]
PANOPTIC_IDS = STUFF_IDS[:133]
_COLOURS = "red blue green dark pale old new small round wooden tall broken".split()
_NOUNS = (
    "wall building sky tree road floor ceiling bed pavement cabinet grass window person door "
    "table mountain plant curtain chair car sea painting sofa shelf house mirror rug field "
    "armchair seat fence desk rock wardrobe lamp bath railing cushion base box column sign "
    "chest counter sand sink tower fireplace fridge stand path stairs runway case pool pillow "
    "screen river bridge bookcase blind coffee toilet flower book hill bench worktop stove palm "
    "kitchen computer boat bar machine hut bus towel light truck chandelier awning lantern"
).split()
NAMES = [f"{colour} {noun}" for colour, noun in itertools.product(_COLOURS, _NOUNS)]

Rng = np.random.Generator


def picture(rng: Rng, height: int, width: int) -> bytes:
    small = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    pixels = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return encoded(pixels, "JPEG", quality=90)


def regions(rng: Rng, height: int, width: int, values) -> np.ndarray:
    """Draw a label map (H, W) of 24 rectangles, each of one of `values`."""
    chosen = rng.choice(np.asarray(values), (4, 6))
    return np.kron(chosen, np.ones((-(-height // 4), -(-width // 6)), int))[:height, :width]


def coco(rng: Rng) -> dict[str, bytes]:
    images: dict[str, dict[str, bytes]] = {"train2017": {}, "val2017": {}}
    maps, outer = {}, {}
    categories = [{"id": i, "name": NAMES[i], "isthing": int(i <= 90)} for i in PANOPTIC_IDS]
    for split, pictures in images.items():
        inner, records = {}, []
        for number, (height, width) in enumerate([(480, 640), (640, 480)] * (IMAGES // 2), 1):
            stem = f"{number:012d}"
            pictures[f"{split}/{stem}.jpg"] = picture(rng, height, width)
            label = regions(rng, height, width, [*(i - 1 for i in STUFF_IDS), 255])
            maps[f"{split}/{stem}.png"] = encoded(label.astype(np.uint8), "PNG")
            ids = regions(rng, height, width, PANOPTIC_IDS)
            segments = [
                {"id": int(i) * 700, "category_id": int(i), "iscrowd": 0, "area": int(n)}
                for i, n in zip(*np.unique(ids, return_counts=True), strict=True)
            ]
            inner[f"panoptic_{split}/{stem}.png"] = segment_png(ids * 700)
            records.append(
                {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
            )
        content = {"images": [], "annotations": records, "categories": categories}
        outer[f"annotations/panoptic_{split}.json"] = json.dumps(content).encode()
        outer[f"annotations/panoptic_{split}.zip"] = zipped(inner)
    return {
        "coco_train2017": zipped(images["train2017"]),
        "coco_val2017": zipped(images["val2017"]),
        "coco_stuffthingmaps": zipped(maps),
        "coco_panoptic_annotations": zipped(outer),
    }


def ade20k(rng: Rng) -> dict[str, bytes]:
    challenge, instances, full = {}, {}, {}
    things = thing_ids(150)
    ids = ade20k_847_ids()
    splits = [("training", "train"), ("validation", "val")]
    for (folder, short), number in itertools.product(splits, range(1, IMAGES + 1)):
        stem, height, width = f"ADE_{short}_{number:08d}", 512, 683
        root = f"ADEChallengeData2016/{{}}/{folder}/{stem}"
        label = regions(rng, height, width, range(151))
        challenge[root.format("images") + ".jpg"] = picture(rng, height, width)
        challenge[root.format("annotations") + ".png"] = encoded(label.astype(np.uint8), "PNG")
        codes = np.zeros((height, width, 3), np.uint8)
        for rank, thing in enumerate(things, start=1):
            codes[label == thing + 1, :2] = rank, rank  # one instance of each
        instances[f"annotations_instance/{folder}/{stem}.png"] = encoded(codes, "PNG")
        path = f"ADE20K_2021_17_01/images/ADE/{folder}/urban/street/{stem}"
        height, width = (1536, 2048) if number == 1 else (960, 1280)  # both are shrunk
        classes = regions(rng, height, width, [0, *ids])
        seg = np.stack((classes // 256 * 10, classes % 256, 0 * classes), -1).astype(np.uint8)
        full[f"{path}.jpg"] = picture(rng, height, width)
        full[f"{path}_seg.png"] = encoded(seg, "PNG")
        full[f"{path}.json"] = b"{}"
    table = [{"name": NAMES[i], "id": value, "trainId": i} for i, value in enumerate(ids)]
    return {
        "ade20k_challenge": zipped(challenge),
        "ade20k_instances": tarred(instances),
        "ade20k_full": zipped(full),
        "ade20k_847_table": f"CATEGORIES = {table!r}\n".encode(),
    }


def ade20k_847_ids() -> list[int]:
    return [3 * index + 5 for index in range(847)]


def pascal(rng: Rng) -> dict[str, bytes]:
    voc2012, voc2010, context = {}, {}, {}
    height, width = 375, 500
    stems = [f"2008_{number:06d}" for number in range(1, IMAGES + 1)]
    records = {"images": [], "annos_segmentation": [], "annos_boundary": [], "parts": []}
    for stem in stems:
        voc2012[f"VOCdevkit/VOC2012/JPEGImages/{stem}.jpg"] = picture(rng, height, width)
        voc2010[f"VOCdevkit/VOC2010/JPEGImages/{stem}.jpg"] = picture(rng, height, width)
        label = regions(rng, height, width, [*range(21), 255]).astype(np.uint8)
        voc2012[f"VOCdevkit/VOC2012/SegmentationClass/{stem}.png"] = palette_png(label)
        buffer = io.BytesIO()
        fine = regions(rng, height, width, range(1, 460)).astype(np.uint16)
        scipy.io.savemat(buffer, {"LabelMap": fine}, do_compression=True)
        context[f"trainval/{stem}.mat"] = buffer.getvalue()
        image_id = int(stem.replace("_", ""))
        records["images"].append(
            {"image_id": image_id, "file_name": f"{stem}.jpg", "height": height, "width": width,
             "phase": "val"}
        )  # fmt: skip
        coarse = regions(rng, height, width, CONTEXT_59_IDS)
        for value in np.unique(coarse):
            records["annos_segmentation"].append(
                {"id": len(records["annos_segmentation"]), "image_id": image_id,
                 "category_id": int(value), "iscrowd": 0, "segmentation": rle(coarse == value)}
            )  # fmt: skip
    listed = "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    voc2012[listed] = "".join(f"{stem}\n" for stem in stems).encode()
    return {
        "voc2012": tarred(voc2012),
        "voc2010": tarred(voc2010),
        "pascal_context": tarred(context, "w:gz"),
        "pascal_in_detail": json.dumps(records).encode(),
    }


def vocabularies() -> dict[str, bytes]:
    """Return the lists of class names with the official numbers of classes and row indices."""
    rows = {
        "coco_stuff": STUFF_IDS,
        "coco_panoptic": PANOPTIC_IDS,
        "ade20k_150": range(1, 151),
        "ade20k_847": range(1, 848),
        "pascal_ctx_59": range(1, 60),
        "pascal_ctx_459": range(1, 460),
        "pascal_voc_21": range(21),
    }
    texts = {}
    for stem, used in rows.items():
        names = {index: f"{NAMES[index]},{NAMES[-1 - index // 2]}" if index % 8 == 0
                 else NAMES[index] for index in used}  # fmt: skip
        lines = [f"{i}:{names.get(i, 'invalid_class_id')}" for i in range(max(used) + 1)]
        texts[f"vocabulary_{stem}"] = "\n".join(lines).encode()
    return texts


def write_archives(served: Path, url: Callable[[str], str]) -> Path:
    """Write the archives and an overlay of the catalog that names them at `url`; return it."""
    rng = np.random.default_rng(0)
    catalog = load_catalog()
    served.mkdir(parents=True)
    contents = coco(rng) | ade20k(rng) | pascal(rng) | vocabularies()
    sources = {}
    for name, data in contents.items():
        (served / catalog.sources[name].file).write_bytes(data)
        sources[name] = {"url": url(catalog.sources[name].file), "mirrors": []}
    del sources["ade20k_full"]["url"]  # only who has registered gets it
    datasets = {
        name: {"splits": {split: {"count": IMAGES} for split in dataset.splits}}
        for name, dataset in catalog.datasets.items()
        if not name.startswith("cityscapes")
    }
    datasets["ade20k_847"]["id_table_sha256"] = None
    weights = {
        name: {"url": entry.url.replace("https://drive.google.com", url("").rstrip("/"))}
        for name, entry in catalog.weights.items()
    }
    overlay = served / "sources.yaml"
    overlay.write_text(
        yaml.safe_dump({"sources": sources, "datasets": datasets, "weights": weights})
    )
    return overlay
