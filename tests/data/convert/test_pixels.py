"""Every conversion pixel by pixel, with every official class, against a pass per class.

The archives hold all ids of the official label spaces, images of one pixel up to beyond the size
that A-847 shrinks to, grey-scale and four-colour JPEGs, and EXIF orientations, sound or broken.
The references are written from the description of each data set alone, as slow loops.
"""

import io
import json
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import scipy.io
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.layout import archives_dir
from maftp.data.unpack import unpack_source
from tests.data.conftest import encoded, palette_png, rle, segment_png, tarred, zipped

SIZES = [(1, 1), (1, 9), (7, 1), (2, 600), (16, 16), (61, 47), (513, 512), (514, 700), (700, 513)]
REMOVED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
STUFF_IDS = [i for i in range(1, 183) if i not in REMOVED]
PANOPTIC_IDS = [
    *range(1, 12), *range(13, 26), 27, 28, *range(31, 45), *range(46, 66), 67, 70, *range(72, 83),
    *range(84, 91), 92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141,
    144, 145, 147, 148, 149, 151, 154, 155, 156, 159, 161, 166, 168, 171, *range(175, 179), 180,
    181, *range(184, 201),
]  # fmt: skip
ADE_STUFF = {
    0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60,
    61, 63, 68, 77, 79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131,
    140, 141, 145,
}  # fmt: skip
DETAIL_IDS = [
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
]  # fmt: skip
FULL_IDS = sorted({*range(6, 3156, 4), 255, 256, 257, 3156, *range(1000, 1150)})[:846] + [3156]


def vocabulary(rows, last=0):
    """Rows with the given indices; those up to `last` that are not among them are placeholders."""
    named = set(rows)
    indices = sorted(named | set(range(last + 1)))
    texts = [f"{i}:{f'class {i}' if i in named else 'invalid_class_id'}" for i in indices]
    return "\n".join(texts).encode()


def photo(number, height, width):
    """A JPEG whose form depends on its number: colour mode, coding, EXIF."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = {4: 6, 5: 3, 6: 8}.get(number, 1)
    form = {1: "L", 2: "CMYK", 6: "L"}.get(number, "RGB")
    options = {"progressive": number == 3}
    if number in (4, 5, 6):
        options["exif"] = exif
    if number == 7:
        options["exif"] = b"Exif\0\0II*\0\xff\xff\xff\xff broken"
    buffer = io.BytesIO()
    image.convert(form).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def spread(values, number, height, width):
    """An array with `values` in random places; images with enough room hold each of them."""
    rng = np.random.default_rng(100 + number)
    values = np.asarray(values)
    flat = values[rng.integers(0, len(values), height * width)]
    if flat.size >= len(values):
        flat[rng.permutation(flat.size)[: len(values)]] = values
    return flat.reshape(height, width)


def blocks(count, number, height, width):
    """Numbers 0..count-1 in rectangles over each other, as segments are."""
    rng = np.random.default_rng(200 + number)
    found = np.zeros((height, width), int)
    for value in range(1, count):
        top, left = rng.integers(0, height), rng.integers(0, width)
        found[top : top + height // 12 + 1, left : left + width // 12 + 1] = value
    return found


@dataclass
class Case:
    """Archives of one dataset, and what comes out of each image."""

    archives: dict
    """Contents by source."""
    expected: dict
    """Label map by stem."""
    split: str = "val"


def stems(pattern):
    return [(number, pattern.format(number), *size) for number, size in enumerate(SIZES)]


def coco_stuff():
    images, maps, expected = {}, {}, {}
    for number, stem, height, width in stems("{:012d}"):
        raw = spread([*(i - 1 for i in STUFF_IDS), 255], number, height, width).astype(np.uint8)
        images[f"train2017/{stem}.jpg"] = photo(number, height, width)
        maps[f"train2017/{stem}.png"] = encoded(raw, "PNG")
        maps[f"val2017/{stem}.png"] = encoded(raw, "PNG")
        expected[stem] = np.full(raw.shape, 255, np.uint8)
        for index, identity in enumerate(STUFF_IDS):
            expected[stem][raw == identity - 1] = index
    archives = {
        "coco_train2017": zipped(images),
        "coco_stuffthingmaps": zipped(maps),
        "vocabulary_coco_stuff": vocabulary(STUFF_IDS, 182),
    }
    return Case(archives, expected, "train")


def coco_panoptic():
    images, pngs, expected, annotations = {}, {}, {}, []
    for number, stem, height, width in stems("{:012d}"):
        painted = blocks(134, number, height, width)
        ids = np.where(painted > 0, painted * 77_777, 0)  # uses all three channels
        segments = []
        expected[stem] = np.full(ids.shape, 255, np.uint8)
        for value in np.unique(painted[painted > 0]).tolist():
            identity = PANOPTIC_IDS[value - 1]
            segments.append(
                {"id": value * 77_777, "category_id": identity, "iscrowd": value % 2, "area": 1}
            )
            expected[stem][painted == value] = value - 1
        images[f"train2017/{stem}.jpg"] = photo(number, height, width)
        pngs[f"panoptic_train2017/{stem}.png"] = segment_png(ids)
        annotations.append(
            {"image_id": number, "file_name": f"{stem}.png", "segments_info": segments}
        )
    categories = [
        {"id": i, "name": str(i), "isthing": int(i < 91), "color": [0, 0, 0]} for i in PANOPTIC_IDS
    ]
    content = {"images": [], "annotations": annotations, "categories": categories}
    outer = {
        "annotations/panoptic_train2017.json": json.dumps(content),
        "annotations/panoptic_val2017.json": json.dumps(content),
        "annotations/panoptic_train2017.zip": zipped(pngs),
        "annotations/panoptic_val2017.zip": zipped({"panoptic_val2017/x.png": b""}),
    }
    archives = {
        "coco_train2017": zipped(images),
        "coco_panoptic_annotations": zipped(outer),
        "vocabulary_coco_panoptic": vocabulary(PANOPTIC_IDS, 200),
    }
    return Case(archives, expected, "train")


def ade20k_150():
    members, expected = {}, {}
    for number, stem, height, width in stems("ADE_val_{:08d}"):
        raw = spread(range(151), number, height, width).astype(np.uint8)
        members[f"ADEChallengeData2016/images/validation/{stem}.jpg"] = photo(number, height, width)
        members[f"ADEChallengeData2016/annotations/validation/{stem}.png"] = encoded(raw, "PNG")
        expected[stem] = np.full(raw.shape, 255, np.uint8)
        for value in range(1, 151):
            expected[stem][raw == value] = value - 1
    names = vocabulary(range(1, 151))
    return Case({"ade20k_challenge": zipped(members), "vocabulary_ade20k_150": names}, expected)


def ade20k_instances():
    """Semantic maps as above; instance maps with all 100 categories, two instances of some."""
    case = ade20k_150()
    things = [i for i in range(150) if i not in ADE_STUFF]
    members, raws = {}, {}
    for number, stem, height, width in stems("ADE_val_{:08d}"):
        numbers = blocks(131, number, height, width)
        coded = np.zeros((height, width, 3), np.uint8)
        coded[..., 0] = np.where(numbers > 0, (numbers - 1) % 100 + 1, 0)
        coded[..., 1] = numbers
        coded[..., 2] = 9
        members[f"annotations_instance/validation/{stem}.png"] = encoded(coded, "PNG")
        semantic = spread(range(151), number, height, width)
        raws[stem] = semantic, numbers, {n: things[(n - 1) % 100] for n in range(1, 131)}
    case.archives["ade20k_instances"] = tarred(members)
    return case, raws


def ade20k_847():
    members, expected = {}, {}
    for number, stem, height, width in stems("ADE_val_{:08d}"):
        ids = spread([0, *FULL_IDS, 5, 3157, 4000], number, height, width)
        rng = np.random.default_rng(number)
        red = ids // 256 * 10 + rng.integers(0, 10, ids.shape)
        seg = np.stack((red, ids % 256, rng.integers(0, 256, ids.shape)), -1).astype(np.uint8)
        folder = f"ADE20K_2021_17_01/images/ADE/validation/scene/s{number % 2}/{stem}"
        members[f"{folder}.jpg"] = photo(number, height, width)
        members[f"{folder}_seg.png"] = encoded(seg, "PNG")
        if min(height, width) > 512:
            wide = width >= height
            size = (
                (round(width / height * 512), 512) if wide else (512, round(height / width * 512))
            )
            ids = cv2.resize(ids.astype(np.int32), size, interpolation=cv2.INTER_NEAREST)
        expected[stem] = np.full(ids.shape, 65535, np.uint16)
        for index, identity in enumerate(FULL_IDS):
            expected[stem][ids == identity] = index
    table = [{"name": "x", "id": i, "trainId": t} for t, i in enumerate(FULL_IDS)]
    archives = {
        "ade20k_full": zipped(members),
        "ade20k_847_table": f"TABLE = {table}".encode(),
        "vocabulary_ade20k_847": vocabulary(range(1, 848)),
    }
    return Case(archives, expected)


def context(kind):
    photos, mats, images, records, expected = {}, {}, [], [], {}
    for number, stem, height, width in stems("2008_{:06d}"):
        image_id = int(stem.replace("_", ""))
        photos[f"VOCdevkit/VOC2010/JPEGImages/{stem}.jpg"] = photo(number, height, width)
        raw = spread(range(460), number, height, width).astype(np.uint16)
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"LabelMap": raw}, do_compression=True)
        mats[f"trainval/{stem}.mat"] = buffer.getvalue()
        images.append({"image_id": image_id, "file_name": f"{stem}.jpg", "phase": "val"})
        images[-1] |= {"height": height, "width": width}
        if kind == 459:
            expected[stem] = np.full(raw.shape, 65535, np.uint16)
            for value in range(1, 460):
                expected[stem][raw == value] = value - 1
            continue
        expected[stem] = np.full(raw.shape, 255, np.uint8)
        rng = np.random.default_rng(number)
        for index in rng.permutation(59).tolist():
            mask = rng.random((height, width)) < 0.1
            record = {"id": len(records), "image_id": image_id, "segmentation": rle(mask)}
            records.append(record | {"category_id": DETAIL_IDS[index], "iscrowd": index % 2})
            expected[stem][mask] = index  # a later one overwrites
    details = {"annos_segmentation": records, "images": images}
    archives = {
        "voc2010": tarred(photos),
        "pascal_context": tarred(mats, "w:gz"),
        "pascal_in_detail": json.dumps(details).encode(),
        f"vocabulary_pascal_ctx_{kind}": vocabulary(range(1, kind + 1)),
    }
    return Case(archives, expected)


def voc(background):
    members, expected = {}, {}
    for number, stem, height, width in stems("2009_{:06d}"):
        raw = spread([*range(21), 255], number, height, width).astype(np.uint8)
        members[f"VOCdevkit/VOC2012/JPEGImages/{stem}.jpg"] = photo(number, height, width)
        members[f"VOCdevkit/VOC2012/SegmentationClass/{stem}.png"] = palette_png(raw)
        expected[stem] = np.full(raw.shape, 255, np.uint8)
        for value in range(0 if background else 1, 21):
            expected[stem][raw == value] = value if background else value - 1
    listed = "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    members[listed] = "".join(f"{stem}\n" for stem in expected).encode()
    names = vocabulary(range(21))
    return Case({"voc2012": tarred(members), "vocabulary_pascal_voc_21": names}, expected)


def cityscapes():
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    images, labels, expected = {}, {}, {}
    for number, stem, height, width in stems("ulm_{:06d}_000019"):
        raw = spread(range(34), number, height, width).astype(np.uint8)
        pixels = np.zeros((height, width, 3), np.uint8)
        images[f"leftImg8bit/val/ulm/{stem}_leftImg8bit.png"] = encoded(pixels, "PNG")
        labels[f"gtFine/val/ulm/{stem}_gtFine_labelIds.png"] = encoded(raw, "PNG")
        expected[stem] = np.full(raw.shape, 255, np.uint8)
        for index, identity in enumerate(ids):
            expected[stem][raw == identity] = index
    archives = {"cityscapes_images": zipped(images), "cityscapes_labels": zipped(labels)}
    archives["vocabulary_cityscapes"] = vocabulary(range(19))
    return Case(archives, expected)


SEMANTIC = {
    "coco_stuff": coco_stuff,
    "coco_panoptic": coco_panoptic,
    "ade20k_150": ade20k_150,
    "ade20k_847": ade20k_847,
    "pascal_ctx_59": lambda: context(59),
    "pascal_ctx_459": lambda: context(459),
    "pascal_voc_20": lambda: voc(False),
    "pascal_voc_21": lambda: voc(True),
    "cityscapes": cityscapes,
}


def converted(name, case, tmp_path):
    """Take the archives through the commands; return the dataset, what was noted, and the root."""
    served, root = tmp_path / "served", tmp_path / "root"
    served.mkdir()
    official = load_catalog()
    sources = {}
    for source, data in case.archives.items():
        (served / official.sources[source].file).write_bytes(data)
        sources[source] = {"url": f"file://{{here}}/{official.sources[source].file}"}
    splits = dict.fromkeys(official.datasets[name].splits, {"count": 0})
    splits[case.split] = {"count": len(SIZES)}
    dataset = {"splits": splits}
    if name == "ade20k_847":
        dataset["id_table_sha256"] = None
    overlay = served / "sources.yaml"
    benchmarks = {}
    overlay.write_text(
        yaml.safe_dump({"sources": sources, "datasets": {name: dataset}, "benchmarks": benchmarks})
    )
    catalog = load_catalog(overlay)
    assert catalog.datasets[name].classes == official.datasets[name].classes
    for source in catalog.datasets[name].sources:
        fetch(catalog.sources[source], archives_dir(root))
        unpack_source(source, catalog, root)
    manifest = json.loads(convert(name, catalog, root, workers=1).read_text())
    return catalog.datasets[name], manifest["splits"][case.split], root


@pytest.mark.parametrize("name", SEMANTIC)
def test_label_maps(name, tmp_path):
    case = SEMANTIC[name]()
    dataset, noted, root = converted(name, case, tmp_path)
    split = dataset.splits[case.split]
    counts = np.zeros(dataset.classes, int)
    for stem, label in case.expected.items():
        with Image.open(root / str(split.labels) / f"{stem}{dataset.label_suffix}") as image:
            found = np.asarray(image)
            assert image.n_frames == 1 if dataset.label_suffix == ".tif" else image.mode == "L"
        assert found.dtype == label.dtype
        np.testing.assert_array_equal(found, label, err_msg=stem)
        counts += np.bincount(label[label != dataset.ignore_label], minlength=dataset.classes)
    assert noted["pixels"] == counts.tolist()
    assert (counts > 0).all()  # the archives hold every class


def test_images_of_the_full_ade20k(tmp_path):
    """Encoded anew at Pillow's defaults, shrunk by OpenCV, without EXIF and without turning."""
    case = ade20k_847()
    dataset, _, root = converted("ade20k_847", case, tmp_path)
    for number, stem, height, width in stems("ADE_val_{:08d}"):
        with Image.open(io.BytesIO(photo(number, height, width))) as image:
            pixels = np.asarray(image.convert("RGB"))
        if min(height, width) > 512:
            size = case.expected[stem].shape[::-1]
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG")
        path = root / dataset.splits["val"].images / f"{stem}.jpg"
        assert path.read_bytes() == buffer.getvalue()
        with Image.open(path) as image:
            assert not image.getexif() and image.mode == "RGB"
            assert image.size == case.expected[stem].shape[::-1]


def paint(semantic, numbers, category_of):
    """Return the ids that are left in the end, and the segments in the order of painting."""
    ids, segments, count = np.zeros(semantic.shape, int), [], {}

    def add(category, mask):
        count[category] = count.get(category, 0) + 1
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        identity = 256 * (category + 1) + count[category]
        ids[mask] = identity
        segments.append((identity, category, int(mask.sum()), [int(side) for side in box]))

    for category in sorted(ADE_STUFF):
        if (semantic == category + 1).any():
            add(category, semantic == category + 1)
    for number in sorted(set(np.unique(numbers).tolist()) - {0}):
        add(category_of[number], numbers == number)
    return ids, segments


def test_ade20k_panoptic(tmp_path):
    case, raws = ade20k_instances()
    dataset, noted, root = converted("ade20k_panoptic", case, tmp_path)
    split = dataset.splits["val"]
    content = json.loads((root / str(split.annotations)).read_text())
    found = {entry["image_id"]: entry for entry in content["annotations"]}
    seen, over = set(), 0
    for stem, raw in raws.items():
        ids, segments = paint(*raw)
        with Image.open(root / str(split.panoptic) / f"{stem}.png") as image:
            colors = np.asarray(image).astype(int)
        decoded = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
        np.testing.assert_array_equal(decoded, ids, err_msg=stem)
        listed = found[stem]["segments_info"]
        assert [(s["id"], s["category_id"], s["area"], s["bbox"]) for s in listed] == segments
        assert found[stem]["file_name"] == f"{stem}.png"
        assert not any(s["iscrowd"] for s in listed)
        seen |= {category for _, category, _, _ in segments}
        over += sum((ids == identity).sum() != area for identity, _, area, _ in segments)
    assert seen == set(range(150)) and noted["segments_painted_over"] == over > 0
    assert [c["id"] for c in content["categories"] if not c["isthing"]] == sorted(ADE_STUFF)


def test_ade20k_instance(tmp_path):
    case, raws = ade20k_instances()
    dataset, _, root = converted("ade20k_instance", case, tmp_path)
    content = json.loads((root / str(dataset.splits["val"].annotations)).read_text())
    expected = [
        (stem, category_of[number], numbers == number)
        for stem, (_, numbers, category_of) in raws.items()
        for number in sorted(set(np.unique(numbers).tolist()) - {0})
    ]
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(expected) + 1))
    for annotation, (stem, category, mask) in zip(content["annotations"], expected, strict=True):
        assert (annotation["image_id"], annotation["category_id"]) == (stem, category)
        decoded = coco_mask.decode(annotation["segmentation"])
        np.testing.assert_array_equal(decoded, mask)
        rows, columns = np.nonzero(mask)
        assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box
    things = [c["id"] for c in content["categories"]]
    assert things == [i for i in range(150) if i not in ADE_STUFF]
    assert {category for _, category, _ in expected} == set(things)
