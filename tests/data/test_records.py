import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.images import read_label
from maftp.data.layout import archives_dir
from maftp.data.records import register
from maftp.data.unpack import unpack_source
from maftp.errors import DataError


@pytest.fixture
def converted(overlay, tmp_path):
    """Return a function that converts a dataset, registers the catalog and returns its root."""
    root, catalog = tmp_path / "root", load_catalog(overlay)

    def prepare(dataset):
        for source in catalog.datasets[dataset].sources:
            fetch(catalog.sources[source], archives_dir(root))
            unpack_source(source, catalog, root)
        convert(dataset, catalog, root, workers=1)
        register(catalog, root)
        return root

    return prepare


def test_semantic_records(converted):
    root = converted("coco_stuff")
    name = "openvocab_coco_2017_train_stuff_sem_seg"
    records = DatasetCatalog.get(name)
    assert [record["image_id"] for record in records] == [f"{i:012d}" for i in (1, 2, 3)]
    assert [record["trainable"] for record in records] == [True, True, False]
    assert [(record["height"], record["width"]) for record in records] == [(8, 12), (12, 8), (6, 6)]
    for record in records:
        assert record["file_name"].startswith(str(root / "coco/train2017"))
        assert read_label(record["sem_seg_file_name"]).shape == (record["height"], record["width"])
    metadata = MetadataCatalog.get(name)
    assert (
        metadata.vocabulary == metadata.stuff_classes == ["person,man", "bicycle", "banner, sign"]
    )
    assert metadata.ignore_label == 255 and metadata.evaluator_type == "sem_seg"
    assert len(metadata.stuff_colors) == 3 and not hasattr(metadata, "things")


def test_panoptic_records_have_contiguous_classes(converted):
    root = converted("coco_panoptic_val")
    name = "openvocab_coco_2017_val_panoptic_with_sem_seg"
    (record,) = DatasetCatalog.get(name)
    assert record["image_id"] == 1
    assert record["pan_seg_file_name"] == str(root / "coco/panoptic_val2017/000000000001.png")
    found = [
        (s["id"], s["category_id"], s["isthing"], s["iscrowd"]) for s in record["segments_info"]
    ]
    # categories 1, 2, 92 become 0, 1, 2
    assert found == [(70000, 2, False, 0), (300, 0, True, 0), (9, 0, True, 1)]
    metadata = MetadataCatalog.get(name)
    assert metadata.things == [0, 1]
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0, 2: 1}
    assert metadata.stuff_dataset_id_to_contiguous_id == {92: 2}
    assert metadata.panoptic_json.endswith("panoptic_val2017.json")
    assert metadata.evaluator_type == "coco_panoptic_seg"


def test_ade_panoptic_and_instance_records(converted):
    converted("ade20k_panoptic")
    converted("ade20k_instance")
    records = DatasetCatalog.get("openvocab_ade20k_panoptic_val")
    assert [record["image_id"] for record in records] == ["ADE_val_00000001", "ADE_val_00000002"]
    assert {s["category_id"] for s in records[0]["segments_info"] if s["isthing"]} == {7, 8}
    assert MetadataCatalog.get("openvocab_ade20k_panoptic_val").things == [7, 8]
    record = DatasetCatalog.get("openvocab_ade20k_instance_val")[0]
    assert [a["category_id"] for a in record["annotations"]] == [7, 8]
    assert record["annotations"][0]["bbox_mode"] == BoxMode.XYWH_ABS
    assert record["annotations"][0]["bbox"] == [2, 2, 4, 2]
    assert MetadataCatalog.get("openvocab_ade20k_instance_val").things == [7, 8]


def test_label_maps_of_16_bits(converted):
    converted("ade20k_847")
    records = DatasetCatalog.get("openvocab_ade20k_full_sem_seg_val")
    label = read_label(records[0]["sem_seg_file_name"])
    assert label.dtype == np.uint16 and set(np.unique(label)) <= {0, 1, 2, 65535}
    assert MetadataCatalog.get("openvocab_ade20k_full_sem_seg_val").ignore_label == 65535


def test_equal_counts_with_other_names_do_not_pair(converted):
    root = converted("coco_stuff")
    labels = root / "coco/stuffthingmaps_detectron2/train2017"
    os.rename(labels / "000000000001.png", labels / "000000000004.png")
    with pytest.raises(
        DataError, match=r"nothing for '000000000001'.*2 such differences in 3 images"
    ):
        DatasetCatalog.get("openvocab_coco_2017_train_stuff_sem_seg")


def test_an_unconverted_dataset_says_so(converted):
    converted("coco_stuff")
    with pytest.raises(
        DataError, match="dataset pascal_ctx_59 is not converted; run 'maftp convert"
    ):
        DatasetCatalog.get("openvocab_pascal_ctx59_sem_seg_val")


def test_registering_again_takes_the_new_root(converted, overlay, tmp_path):
    converted("coco_stuff")
    register(load_catalog(overlay), tmp_path / "elsewhere")
    with pytest.raises(DataError, match="elsewhere"):
        DatasetCatalog.get("openvocab_coco_2017_train_stuff_sem_seg")
    register(load_catalog(overlay), tmp_path / "root")
    assert len(DatasetCatalog.get("openvocab_coco_2017_train_stuff_sem_seg")) == 3
