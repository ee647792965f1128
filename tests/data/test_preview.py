import numpy as np
import pytest
from PIL import Image

from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.layout import archives_dir
from maftp.data.preview import NOTHING, load_samples
from maftp.data.unpack import unpack_source
from maftp.errors import DataError
from maftp.report import figures


@pytest.fixture
def load(overlay, tmp_path):
    root, catalog = tmp_path / "root", load_catalog(overlay)

    def prepare(name, **options):
        for source in catalog.datasets[name].sources:
            fetch(catalog.sources[source], archives_dir(root))
            unpack_source(source, catalog, root)
        convert(name, catalog, root, workers=1)
        samples = load_samples(name, catalog, root, **{"split": None, "count": 9} | options)
        return root, samples

    return prepare


def test_the_mark_for_no_class_is_the_drawings():
    assert NOTHING == figures.NOTHING


def test_semantic_labels(load):
    root, samples = load("pascal_ctx_459")
    assert [sample.stem for sample in samples] == ["2008_000001", "2008_000002"]
    for sample in samples:
        file = root / f"VOCdevkit/VOC2010/annotations_detectron2_ovs/pc459_val/{sample.stem}.tif"
        raw = np.asarray(Image.open(file)).astype(int)
        assert np.array_equal(sample.labels, np.where(raw == 65535, NOTHING, raw))


@pytest.mark.parametrize("name", ["ade20k_panoptic", "ade20k_instance"])
def test_segments(name, load):
    _, samples = load(name)
    for sample in samples:
        # instances of the tiny world: class 7 in rows 2..3, class 8 in rows 5..7
        assert set(np.unique(sample.labels[2:4, 2:6])) == {7}
        assert set(np.unique(sample.labels[5:8, 3:9])) == {8}
        if name == "ade20k_instance":
            assert (sample.labels[0] == NOTHING).all()
        assert sample.segments[2, 2] != sample.segments[5, 3]


def test_split_and_number(load):
    _, samples = load("ade20k_150", split="train", count=1)
    assert [sample.stem for sample in samples] == ["ADE_train_00000001"]
    with pytest.raises(DataError, match="no split 'test'; known: train, val"):
        load("ade20k_150", split="test")
