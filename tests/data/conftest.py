"""Tiny archives in the official formats, and a catalog overlay that serves them."""

import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from maftp.data.catalog import load_catalog

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "samples"

VOCABULARIES = {
    "coco_stuff": "0:invalid_class_id\n1:person,man\n2:bicycle\n"
    "12:invalid_class_id\n92:banner, sign",
    "coco_panoptic": "0:invalid_class_id\n1:person,man\n2:bicycle\n92:banner",
    "ade20k_150": "0:invalid_class_id\n"
    + "\n".join(f"{i + 1}:{name}" for i, name in enumerate("wall a b c d e f bed pane".split())),
    "ade20k_847": "0:invalid_class_id\n1:tree\n2:sky,heaven\n3:car",
    "pascal_ctx_59": "0:invalid_class_id\n1:aeroplane\n2:bag\n3:bed",
    "pascal_ctx_459": "0:invalid_class_id\n1:one\n2:two\n3:three\n4:four",
    "pascal_voc_21": "0:background,wall\n1:aeroplane\n2:bicycle\n3:bird",
    "cityscapes": "0:road,street\n1:sidewalk\n2:building",
    "mapillary_vistas": "0:invalid_class_id\n1:bird,birds\n2:ground animal,dog",
}
ADE_TABLE = """
import nothing_that_exists
raise RuntimeError("must not run")
OTHER = [{"name": "x"}]
CLASSES = [
    {"name": "tree", "id": 2978, "trainId": 0},
    {"name": "sky", "id": 312, "trainId": 1},
    {"name": "car", "id": 6, "trainId": 2},
]
"""


def encoded(array, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=form, **options)
    return buffer.getvalue()


def palette_png(array):
    image = Image.fromarray(array)
    image.putpalette([(7 * i + 40 * c) % 256 for i in range(256) for c in range(3)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def tarred(members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def photo(rng, height, width):
    return encoded(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "JPEG")


def segment_png(ids):
    return encoded(np.stack((ids & 255, ids >> 8 & 255, ids >> 16), -1).astype(np.uint8), "PNG")


def rle(mask):
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": code["counts"].decode()}


def coco_archives(rng):
    sizes = {"train2017": [(8, 12), (12, 8), (6, 6)], "val2017": [(7, 9)]}
    values = np.array([0, 1, 91, 255], np.uint8)
    images, maps, outer, inner = {}, {}, {}, {}
    for split, shapes in sizes.items():
        annotations = []
        for number, (height, width) in enumerate(shapes, start=1):
            stem = f"{number:012d}"
            images.setdefault(split, {})[f"{split}/{stem}.jpg"] = photo(rng, height, width)
            label = values[rng.integers(0, 4, (height, width))]
            if number == 3:
                label[:] = 255  # wholly unlabelled, as seven files of the official maps
            maps[f"{split}/{stem}.png"] = encoded(label, "PNG")
            ids = np.zeros((height, width), int)
            ids[:3], ids[3:5] = 70000, 300
            ids[5:, :2] = 9
            segments = [
                {"id": 70000, "category_id": 92, "iscrowd": 0, "area": 3 * width},
                {"id": 300, "category_id": 1, "iscrowd": 0, "area": 2 * width},
                {"id": 9, "category_id": 1, "iscrowd": 1, "area": 2 * (height - 5)},
            ]
            inner.setdefault(split, {})[f"panoptic_{split}/{stem}.png"] = segment_png(ids)
            annotations.append(
                {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
            )
        categories = [
            {"id": 92, "name": "banner", "isthing": 0, "color": [9, 9, 9]},
            {"id": 1, "name": "person", "isthing": 1, "color": [1, 1, 1]},
            {"id": 2, "name": "bicycle", "isthing": 1, "color": [2, 2, 2]},
        ]
        content = {"images": [], "annotations": annotations, "categories": categories}
        outer[f"annotations/panoptic_{split}.json"] = json.dumps(content)
    for split, members in inner.items():
        outer[f"annotations/panoptic_{split}.zip"] = zipped(members)
    return {
        "coco_train2017": zipped(images["train2017"]),
        "coco_val2017": zipped(images["val2017"]),
        "coco_stuffthingmaps": zipped(maps),
        "coco_panoptic_annotations": zipped(outer),
    }


def ade_archives(rng):
    challenge, instances, full = {}, {}, {}
    for split, short in (("training", "train"), ("validation", "val")):
        for number in (1, 2):
            stem = f"ADE_{short}_{number:08d}"
            challenge[f"ADEChallengeData2016/images/{split}/{stem}.jpg"] = photo(rng, 10, 14)
            semantic = rng.integers(0, 10, (10, 14), dtype=np.uint8)
            challenge[f"ADEChallengeData2016/annotations/{split}/{stem}.png"] = encoded(
                semantic, "PNG"
            )
            coded = np.zeros((10, 14, 3), np.uint8)
            coded[2:4, 2:6, :2] = 1, 1  # thing 1 = class 7, instance 1
            coded[5:8, 3:9, :2] = 2, 2  # thing 2 = class 8, instance 2
            instances[f"annotations_instance/{split}/{stem}.png"] = encoded(coded, "PNG")
            folder = f"ADE20K_2021_17_01/images/ADE/{split}/urban/street/{stem}"
            ids = np.array([0, 2978, 312, 6, 77])[rng.integers(0, 5, (20, 30))]
            red = ids // 256 * 10 + rng.integers(0, 10, ids.shape)
            seg = np.stack((red, ids % 256, rng.integers(0, 9, ids.shape)), -1).astype(np.uint8)
            full[f"{folder}.jpg"] = photo(rng, 20, 30)
            full[f"{folder}_seg.png"] = encoded(seg, "PNG")
            full[f"{folder}.json"] = "{}"
    return {
        "ade20k_challenge": zipped(challenge),
        "ade20k_instances": tarred(instances),
        "ade20k_full": zipped(full),
        "ade20k_847_table": ADE_TABLE.encode(),
    }


def pascal_archives(rng):
    voc2012, voc2010, context = {}, {}, {}
    stems = ["2008_000002", "2008_000001", "2009_000003"]
    for stem in stems:
        voc2012[f"VOCdevkit/VOC2012/JPEGImages/{stem}.jpg"] = photo(rng, 9, 11)
        voc2010[f"VOCdevkit/VOC2010/JPEGImages/{stem}.jpg"] = photo(rng, 9, 11)
        label = np.array([0, 1, 2, 3, 255], np.uint8)[rng.integers(0, 5, (9, 11))]
        voc2012[f"VOCdevkit/VOC2012/SegmentationClass/{stem}.png"] = palette_png(label)
        buffer = io.BytesIO()
        labels = rng.integers(0, 5, (9, 11)).astype(np.uint16)
        scipy.io.savemat(buffer, {"LabelMap": labels}, do_compression=True)
        context[f"trainval/{stem}.mat"] = buffer.getvalue()
    listed = "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    voc2012[listed] = b"2008_000002\n2008_000001\n"
    plain = {
        f"SegmentationClassAug/{stem}.png": encoded(
            np.array([0, 1, 2, 3, 255], np.uint8)[rng.integers(0, 5, (9, 11))], "PNG"
        )
        for stem in stems
    }
    top, low = np.zeros((9, 11), bool), np.zeros((9, 11), bool)
    top[:6], low[4:] = True, True
    details = {
        # records stand before the images on purpose: the order of keys is not promised
        "annos_segmentation": [
            {"id": 1, "image_id": 2008000001, "category_id": 2, "segmentation": rle(top)},
            {"id": 2, "image_id": 2008000001, "category_id": 18, "segmentation": rle(low)},
            {"id": 3, "image_id": 2008000002, "category_id": 9, "segmentation": rle(low)},
            {"id": 4, "image_id": 2009000003, "category_id": 459, "segmentation": rle(low)},
        ],
        "info": {"note": "an object, [not] an array"},
        "empty": [],
        "images": [
            {
                "image_id": int(stem.replace("_", "")),
                "file_name": f"{stem}.jpg",
                "height": 9,
                "width": 11,
                "phase": "train" if stem.startswith("2009") else "val",
            }
            for stem in stems
        ],
    }
    return {
        "voc2012": tarred(voc2012),
        "voc2010": tarred(voc2010),
        "pascal_context": tarred(context, "w:gz"),
        "pascal_in_detail": json.dumps(details, indent=1).encode(),
        "voc2012_aug": zipped(plain),
        "pascal_context_val_list": b"2008_000002\n2008_000001\n",
    }


def cityscapes_archives(rng):
    images, labels = {}, {}
    for city, frames in (("bonn", ["000001_000019", "000000_000019"]), ("ulm", ["000007_000019"])):
        for frame in frames:
            path = f"val/{city}/{city}_{frame}"
            pixels = rng.integers(0, 256, (8, 16, 3), dtype=np.uint8)
            images[f"leftImg8bit/{path}_leftImg8bit.png"] = encoded(pixels, "PNG")
            ids = np.array([0, 4, 7, 8, 11], np.uint8)[rng.integers(0, 5, (8, 16))]
            labels[f"gtFine/{path}_gtFine_labelIds.png"] = encoded(ids, "PNG")
            labels[f"gtFine/{path}_gtFine_instanceIds.png"] = encoded(ids.astype(np.uint16), "PNG")
            labels[f"gtFine/{path}_gtFine_color.png"] = encoded(pixels, "PNG")
            labels[f"gtFine/{path}_gtFine_polygons.json"] = b"{}"
    return {"cityscapes_images": zipped(images), "cityscapes_labels": zipped(labels)}


def mapillary_archive(rng):
    """Two panoptic images; their PNGs lie beside the JSON, as in the release."""
    members, annotations = {}, []
    for stem, category in (("zAb", 1), ("aBc", 2)):
        folder = "validation"
        members[f"{folder}/images/{stem}.jpg"] = photo(rng, 6, 9)
        ids = np.zeros((6, 9), int)
        ids[2:5, 1:7] = 8000
        members[f"{folder}/panoptic/{stem}.png"] = segment_png(ids)
        segment = {"id": 8000, "category_id": category, "iscrowd": 0, "area": 18}
        annotations.append(
            {"image_id": stem, "file_name": f"{stem}.png", "segments_info": [segment]}
        )
    categories = [{"id": 1, "name": "bird", "isthing": 1}, {"id": 2, "name": "dog", "isthing": 1}]
    content = {"images": [], "annotations": annotations, "categories": categories}
    members["validation/panoptic/panoptic_2018.json"] = json.dumps(content).encode()
    return {"mapillary_vistas": zipped(members)}


COUNTS = {
    "coco_stuff": {"train": 3},
    "coco_stuff_val": {"val": 1},
    "coco_panoptic": {"train": 3},
    "coco_panoptic_val": {"val": 1},
    "ade20k_150": {"train": 2, "val": 2},
    "ade20k_panoptic": {"train": 2, "val": 2},
    "ade20k_instance": {"train": 2, "val": 2},
    "ade20k_847": {"train": 2, "val": 2},
    "pascal_ctx_59": {"val": 2},
    "pascal_ctx_459": {"val": 2},
    "pascal_voc_20": {"val": 2},
    "pascal_voc_21": {"val": 2},
    "cityscapes": {"val": 3},
    "cityscapes_panoptic": {"val": 3},
    "mapillary_vistas": {"val": 2},
    "pascal_ctx_59_labelmap": {"val": 2},
    "pascal_voc_20_aug": {"val": 2},
}
CLASSES = {
    "coco_stuff": 3,
    "coco_stuff_val": 3,
    "coco_panoptic": 3,
    "coco_panoptic_val": 3,
    "ade20k_150": 9,
    "ade20k_panoptic": 9,
    "ade20k_instance": 9,
    "ade20k_847": 3,
    "pascal_ctx_59": 3,
    "pascal_ctx_459": 4,
    "pascal_voc_20": 3,
    "pascal_voc_21": 4,
    "cityscapes": 3,
    "cityscapes_panoptic": 3,
    "mapillary_vistas": 2,
    "pascal_ctx_59_labelmap": 3,
    "pascal_voc_20_aug": 3,
}


def write_world(served, seed=0):
    """Write archives and overlay into folder `served`; return the overlay."""
    rng = np.random.default_rng(seed)
    served.mkdir(parents=True, exist_ok=True)
    contents = coco_archives(rng) | ade_archives(rng) | pascal_archives(rng)
    contents |= cityscapes_archives(rng) | mapillary_archive(rng)
    for stem, text in VOCABULARIES.items():
        contents[f"vocabulary_{stem}"] = text.encode()
    official = load_catalog()
    sources = {}
    for name, data in contents.items():
        path = served / official.sources[name].file
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        sources[name] = {"url": f"file://{{here}}/{path.name}", "sha256": digest}
    datasets = {
        name: {
            "classes": CLASSES[name],
            "splits": {split: {"count": count} for split, count in splits.items()},
        }
        for name, splits in COUNTS.items()
    }
    overlay = served / "sources.yaml"
    overlay.write_text(yaml.safe_dump({"sources": sources, "datasets": datasets}))
    return overlay


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *arguments):
        pass


@contextmanager
def on_the_web(overlay):
    """Serve the folder of an overlay on the loopback device, where its addresses lead then."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=overlay.parent)) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        before = r"file://\{here\}|http://127\.0\.0\.1:\d+"
        overlay.write_text(re.sub(before, address, overlay.read_text()))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield address
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture
def overlay(world, tmp_path):
    """Return the overlay of a tiny world, served from the disk."""
    served = tmp_path / "served with space"
    shutil.copytree(world, served)
    return served / "sources.yaml"


@pytest.fixture
def make_world():
    return write_world


@pytest.fixture
def samples():
    if not SAMPLES.is_dir():
        pytest.skip(f"no sample data at {SAMPLES}")
    return SAMPLES
