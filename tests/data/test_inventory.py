import shutil

import pytest

from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.download import fetch
from maftp.data.inventory import (
    benchmark_words,
    count_missing,
    file_counts,
    is_needless,
    repairs,
)
from maftp.data.layout import archives_dir, stamp_path, vocabulary_path
from maftp.data.unpack import unpack_source

LABEL = "coco/stuffthingmaps_detectron2/train2017/000000000002.png"


@pytest.fixture
def converted(overlay, tmp_path):
    """Return catalog and root with COCO-Stuff converted."""
    root, catalog = tmp_path / "root", load_catalog(overlay)
    for source in catalog.datasets["coco_stuff"].sources:
        fetch(catalog.sources[source], archives_dir(root))
        unpack_source(source, catalog, root)
    convert("coco_stuff", catalog, root, workers=1)
    return catalog, root


def test_official_counts(tmp_path):
    """Images and labels of both splits, and of the panoptic set two JSON files and PNGs as well."""
    catalog = load_catalog()
    expected = {
        "ade20k_150": 2 * 20_210 + 2 * 2_000,
        "coco_panoptic": 3 * 118_287 + 1,
        "ade20k_instance": 20_210 + 1 + 2_000 + 1,
        "pascal_voc_20": 2 * 1_449,
    }
    for name, count in expected.items():
        assert count_missing(catalog.datasets[name], tmp_path) == count


def test_words_of_the_benchmarks_whose_lists_are_there(tmp_path):
    catalog = load_catalog()
    assert benchmark_words(catalog, tmp_path) == {}
    path = vocabulary_path(tmp_path, "ade20k_150")
    path.parent.mkdir()
    path.write_text("0:invalid_class_id\n1:wall\n2:screen,crt screen\n3:screen")
    # ADE-panoptic has the same words.
    assert benchmark_words(catalog, tmp_path) == {"A-150": ["wall", "screen,crt screen", "screen"]}


def test_files_are_counted_by_their_suffix(converted):
    catalog, root = converted
    dataset = catalog.datasets["coco_stuff"]
    assert [(held.expected, held.found) for held in file_counts(dataset, root)] == [(3, 3), (3, 3)]
    folder = (root / LABEL).parent
    (folder / "note.txt").touch()
    (folder / ".000.png.part").touch()
    assert count_missing(dataset, root) == 0
    (root / LABEL).unlink()
    assert count_missing(dataset, root) == 1


def test_a_lost_file_moves_the_number_of_repairs_once(converted):
    catalog, root = converted
    dataset = catalog.datasets["coco_stuff"]
    assert repairs("coco_stuff", dataset, root) == 0
    (root / LABEL).unlink()
    assert repairs("coco_stuff", dataset, root) == 1
    convert("coco_stuff", catalog, root, workers=1)
    assert repairs("coco_stuff", dataset, root) == 1
    convert("coco_stuff", catalog, root, workers=1)
    assert repairs("coco_stuff", dataset, root) == 1
    (root / LABEL).unlink()
    assert repairs("coco_stuff", dataset, root) == 2


def test_a_first_conversion_is_no_repair(overlay, tmp_path):
    catalog = load_catalog(overlay)
    assert repairs("coco_stuff", catalog.datasets["coco_stuff"], tmp_path) == 0


def test_what_a_ready_dataset_was_made_from_is_needless(converted):
    catalog, root = converted
    users = ["coco_stuff"]
    for name in catalog.datasets["coco_stuff"].sources:
        assert not is_needless(name, catalog, users, root)  # obtained: stays what it is made from
    shutil.rmtree(archives_dir(root))
    shutil.rmtree(root / "coco/stuffthingmaps")
    assert is_needless("coco_stuffthingmaps", catalog, users, root)
    assert not is_needless("coco_train2017", catalog, users, root)  # its images are in place
    assert not is_needless("vocabulary_coco_stuff", catalog, users, root)
    assert not is_needless("coco_stuffthingmaps", catalog, [*users, "coco_stuff_val"], root)
    stamp = stamp_path(root, "coco_stuffthingmaps")
    stamp.parent.mkdir(parents=True)
    stamp.touch()
    assert not is_needless("coco_stuffthingmaps", catalog, users, root)
