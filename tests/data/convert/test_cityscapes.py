import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maftp.data.catalog import load_catalog
from maftp.data.convert.cityscapes import label_table
from maftp.data.convert.driver import map_values
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.layout import archives_dir
from maftp.data.records import register
from maftp.data.unpack import unpack_source
from maftp.errors import DataError

HERE = Path("labels.png")


@pytest.fixture
def prepared(overlay, tmp_path):
    root, catalog = tmp_path / "root", load_catalog(overlay)
    for source in catalog.datasets["cityscapes"].sources:
        fetch(catalog.sources[source], archives_dir(root))
        unpack_source(source, catalog, root)
    return catalog, root


def test_official_table():
    """Ids and training ids as the data set's paper lists them, by class."""
    table = label_table(19)
    spots = {7: 0, 8: 1, 11: 2, 17: 5, 19: 6, 20: 7, 23: 10, 24: 11, 26: 13, 28: 15, 31: 16, 33: 18}
    assert {value: int(table[value]) for value in spots} == spots
    evaluated = [value for value in range(256) if table[value] < 19]
    assert len(evaluated) == 19
    # unlabeled, ego vehicle, ..., guard rail, caravan, trailer: annotated, but not evaluated
    ignored = [0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30]
    assert [value for value in range(256) if table[value] == 255] == ignored
    assert (table[34:] == 254).all()


def test_a_prefix_of_the_classes():
    table = label_table(3)
    assert table[11] == 2 and table[12] == 254 and table[30] == 255
    with pytest.raises(DataError, match="at most 19"):
        label_table(20)


def test_an_unknown_id_fails():
    with pytest.raises(DataError, match=r"labels\.png: value 34 is not a class"):
        map_values(np.array([[7, 34]], np.uint8), label_table(19), HERE, refused=254)


def test_the_official_names_in_the_order_of_the_ids(samples):
    names = (samples / "vocabularies/cityscapes_with_prompt_eng.txt").read_text().split("\n")
    firsts = [row.split(":")[1].split(",")[0] for row in names]
    assert firsts[0] == "road" and firsts[10] == "sky" and firsts[18] == "bicycle"
    assert len(firsts) == load_catalog().datasets["cityscapes"].classes


def test_all_cities_in_one_folder(prepared):
    from detectron2.data import DatasetCatalog

    catalog, root = prepared
    manifest = json.loads(convert("cityscapes", catalog, root, workers=1).read_text())
    assert manifest["splits"]["val"]["images"] == 3
    register(catalog, root)
    records = DatasetCatalog.get("openvocab_cityscapes_fine_sem_seg_val")
    stems = ["bonn_000000_000019", "bonn_000001_000019", "ulm_000007_000019"]
    assert [record["image_id"] for record in records] == stems
    for record in records:
        city = record["image_id"].split("_")[0]
        raw = root / f"cityscapes/gtFine/val/{city}/{record['image_id']}_gtFine_labelIds.png"
        ids = np.asarray(Image.open(raw))
        expected = np.full(ids.shape, 255, np.uint8)
        for index, identity in enumerate((7, 8, 11)):
            expected[ids == identity] = index
        label = np.asarray(Image.open(record["sem_seg_file_name"]))
        assert label.dtype == np.uint8 and np.array_equal(label, expected)
        assert Image.open(record["file_name"]).size == (record["width"], record["height"])


def test_an_image_without_annotation(prepared):
    catalog, root = prepared
    (root / "cityscapes/gtFine/val/ulm/ulm_000007_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DataError, match="nothing for 'ulm_000007_000019'"):
        convert("cityscapes", catalog, root, workers=1)
