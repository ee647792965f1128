"""Real images of COCO and ADE20K through download, unpack, convert and registration."""

import hashlib
import json
import zipfile

import numpy as np
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.images import read_label, segment_ids
from maftp.data.layout import archives_dir
from maftp.data.records import register
from maftp.data.unpack import unpack_source

# id of the ADE object index: training index, for the ids that occur in the sample image
SAMPLE_IDS = {
    312: 1, 2420: 2, 2855: 3, 2131: 4, 2377: 8, 1831: 11, 401: 14, 2928: 89, 77: 91, 2880: 93,
    1563: 103, 187: 108, 2901: 157, 597: 160, 118: 245, 1231: 590,
}  # fmt: skip


def zip_files(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, source in members.items():
            file.write(source, name)


def prepare(dataset, served, overlay, root):
    path = served / "sources.yaml"
    path.write_text(yaml.safe_dump(overlay))
    catalog = load_catalog(path)
    for source in catalog.datasets[dataset].sources:
        fetch(catalog.sources[source], archives_dir(root))
        unpack_source(source, catalog, root)
    manifest = json.loads(convert(dataset, catalog, root, workers=1).read_text())
    register(catalog, root)
    return manifest


def test_coco_panoptic(samples, tmp_path):
    served, folder = tmp_path / "served", samples / "coco_panoptic"
    images = sorted((folder / "input_images").glob("*.jpg"))
    zip_files(served / "val2017.zip", {f"val2017/{path.name}": path for path in images})
    pngs = sorted((folder / "panoptic_examples").glob("*.png"))
    zip_files(served / "inner.zip", {f"panoptic_val2017/{path.name}": path for path in pngs})
    members = {
        "annotations/panoptic_val2017.json": folder / "panoptic_examples.json",
        "annotations/panoptic_val2017.zip": served / "inner.zip",
    }
    zip_files(served / "annotations.zip", members)
    here = {"coco_val2017": "val2017.zip", "coco_panoptic_annotations": "annotations.zip"}
    sources = {name: {"url": f"file://{{here}}/{file}"} for name, file in here.items()}
    sources["coco_panoptic_annotations"] |= {
        "nested": ["annotations/panoptic_val2017.zip"],
        "makes": ["coco/annotations/panoptic_val2017.json", "coco/panoptic_val2017"],
    }
    stem = "vocabularies/coco_panoptic_with_prompt_eng.txt"
    # another address, the same file: the published digest is stated again and holds
    digest = load_catalog().sources["vocabulary_coco_panoptic"].sha256
    sources["vocabulary_coco_panoptic"] = {"url": f"file://{samples / stem}", "sha256": digest}
    datasets = {"coco_panoptic_val": {"splits": {"val": {"count": 2}}}}
    overlay = {"sources": sources, "datasets": datasets}
    manifest = prepare("coco_panoptic_val", served, overlay, tmp_path / "root")
    assert manifest["splits"]["val"]["ignored_pixels"] == 2712 + 7189
    name = "openvocab_coco_2017_val_panoptic_with_sem_seg"
    records = DatasetCatalog.get(name)
    assert [record["image_id"] for record in records] == [142238, 439180]
    assert [len(record["segments_info"]) for record in records] == [18, 32]
    assert [sum(s["iscrowd"] for s in record["segments_info"]) for record in records] == [1, 2]
    assert MetadataCatalog.get(name).things == list(range(80))
    for record in records:
        ids = segment_ids(read_label(record["pan_seg_file_name"], modes=("RGB",)))
        label = read_label(record["sem_seg_file_name"])
        for segment in record["segments_info"]:
            assert set(np.unique(label[ids == segment["id"]])) == {segment["category_id"]}


def test_ade20k_full(samples, tmp_path):
    served, tree = tmp_path / "served", samples / "ade20k_full"
    files = [path for path in tree.rglob("*") if path.is_file()]
    zip_files(served / "ade.zip", {str(path.relative_to(tree)): path for path in files})
    # The official table is not among the samples: other classes get ids the image does not hold.
    ids = {index: identity for identity, index in SAMPLE_IDS.items()}
    records = [{"name": "x", "id": ids.get(t, 4000 + t), "trainId": t} for t in range(847)]
    (served / "table.txt").write_text(f"TABLE = {records}")
    vocabulary = samples / "vocabularies/ade20k_847_with_prompt_eng.txt"
    overlay = {
        "sources": {
            "ade20k_full": {"url": "file://{here}/ade.zip"},
            "ade20k_847_table": {"url": "file://{here}/table.txt"},
            "vocabulary_ade20k_847": {"url": f"file://{vocabulary}"},
        },
        "datasets": {
            "ade20k_847": {
                "id_table_sha256": None,
                "splits": {"train": {"count": 1}, "val": {"count": 0}},
            }
        },
        "benchmarks": {"A-847": {"split": "train"}},
    }
    manifest = prepare("ade20k_847", served, overlay, tmp_path / "root")
    pixels = manifest["splits"]["train"]["pixels"]
    assert len(pixels) == 847 and pixels[8] == 120_281 and pixels[590] == 1332
    assert manifest["splits"]["train"]["ignored_pixels"] == 5418
    (record,) = DatasetCatalog.get("openvocab_ade20k_full_sem_seg_train")
    label = read_label(record["sem_seg_file_name"])
    digest = hashlib.sha256(label.astype("<u2").tobytes()).hexdigest()
    assert digest == "e7a3ba89e57e1cd800d6d5249648fa0747317b05944894dd2b985bca98831fa3"
    assert (record["height"], record["width"]) == (512, 683) == label.shape
    with Image.open(record["file_name"]) as image:
        assert image.size == (683, 512) and image.format == "JPEG"
