"""Instance maps to segments, by hand; and the whole way from archives to records."""

from pathlib import Path

import numpy as np
import pytest

from maftp.data.catalog import load_catalog
from maftp.data.convert.cityscapes_panoptic import describe
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.layout import archives_dir
from maftp.data.records import list_records
from maftp.data.unpack import unpack_source
from maftp.errors import DataError
from maftp.evaluation.panoptic import PanopticTruth

HERE = Path("instances.png")


def test_things_groups_and_stuff():
    """Label ids: 4 static, 7 road, 23 sky, 26 car, 29 caravan, of which 7, 23 and 26 are scored."""
    values = np.array(
        [
            [23, 23, 23, 4],
            [26000, 26, 26001, 29000],
            [7, 7, 26001, 4],
        ],
        np.uint16,
    )
    ids, segments = describe(values, classes=19, path=HERE)
    assert ids.tolist() == [[23, 23, 23, 0], [26000, 26, 26001, 0], [7, 7, 26001, 0]]
    found = [tuple(segment.values()) for segment in segments]
    # class: rank of the label id among the 19; box: x, y, width, height; a group of cars: crowd
    assert found == [
        (7, 0, 2, [0, 2, 2, 1], 0),
        (23, 10, 3, [0, 0, 3, 1], 0),
        (26, 13, 1, [1, 1, 1, 1], 1),
        (26000, 13, 1, [0, 1, 1, 1], 0),
        (26001, 13, 2, [2, 1, 1, 2], 0),
    ]


@pytest.mark.parametrize("value", [34, 7000, 34000, 65535])
def test_what_is_no_label_id_is_refused(value):
    with pytest.raises(DataError, match=rf"instances\.png: value {value} is no label id; unpack"):
        describe(np.array([[7, value]], np.uint16), classes=19, path=HERE)


def test_a_class_that_the_vocabulary_lacks_is_refused():
    with pytest.raises(DataError, match="label id 12 is not among the 3 classes"):
        describe(np.array([[7, 12]], np.uint16), classes=3, path=HERE)


def test_from_archives_to_records(overlay, tmp_path):
    root, catalog = tmp_path / "root", load_catalog(overlay)
    dataset = catalog.dataset("cityscapes_panoptic")
    for source in dataset.sources:
        fetch(catalog.source(source), archives_dir(root))
        unpack_source(source, catalog, root)
    convert("cityscapes_panoptic", catalog, root, workers=1)
    records = list_records("cityscapes_panoptic", dataset, "val", root=root)
    assert [record["image_id"] for record in records] == [
        "bonn_000000_000019", "bonn_000001_000019", "ulm_000007_000019",
    ]  # fmt: skip
    split = dataset.splits["val"]
    truth = PanopticTruth.read(root / split.annotations, root / split.panoptic)
    for record in records:
        # road 7, sidewalk 8, building 11 as the archive draws them; ground 4 is not scored
        assert {segment["id"] for segment in record["segments_info"]} <= {7, 8, 11}
        assert truth.segments(record["image_id"])
    assert [truth.categories[i]["isthing"] for i in truth.category_ids] == [0, 0, 0]
