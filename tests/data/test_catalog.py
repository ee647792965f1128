import pytest
import yaml

from maftp.data.catalog import load_catalog
from maftp.data.layout import datasets_root
from maftp.errors import DataError


def written(tmp_path, values):
    path = tmp_path / "overlay.yaml"
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return path


def test_official_catalog():
    catalog = load_catalog()
    table = {name: b for name, b in catalog.benchmarks.items() if not b.optional}
    assert list(table) == ["A-847", "A-150", "PC-459", "PC-59", "PAS-20", "ADE-panoptic"]
    classes = [catalog.datasets[b.dataset].classes for b in table.values()]
    assert classes == [847, 150, 459, 59, 20, 150]
    counts = [catalog.datasets[b.dataset].splits[b.split].count for b in table.values()]
    assert counts == [2000, 2000, 5104, 5104, 1449, 2000]
    ignored = [catalog.datasets[b.dataset].ignore_label for b in table.values()]
    assert ignored == [65535, 255, 65535, 255, 255, 255]
    assert len(catalog.datasets["pascal_ctx_459"].splits["val"].absent) == 114
    assert catalog.datasets["coco_stuff"].splits["train"].count == 118_287


def test_official_names_are_the_references():
    catalog = load_catalog()
    names = {split.name for d in catalog.datasets.values() for split in d.splits.values()}
    assert names >= {
        "openvocab_coco_2017_train_stuff_sem_seg",
        "openvocab_coco_2017_val_panoptic_with_sem_seg",
        "openvocab_ade20k_panoptic_val",
        "openvocab_ade20k_full_sem_seg_val",
        "openvocab_pascal_ctx59_sem_seg_val",
        "openvocab_pascal_ctx459_sem_seg_val",
        "openvocab_pascal20_sem_seg_val",
        "openvocab_pascal21_sem_seg_val",
    }


def test_every_file_has_its_own_name():
    catalog = load_catalog()
    files = [source.file for source in catalog.sources.values()]
    assert len(files) == len(set(files))


def test_registration_only_source_has_no_address():
    source = load_catalog().source("ade20k_full")
    assert source.urls == () and source.registration.startswith("https://ade20k.csail.mit.edu")


def test_vocabulary_sources():
    catalog = load_catalog()
    for dataset in catalog.datasets.values():
        assert catalog.source_of_vocabulary(dataset.vocabulary) in dataset.sources
    with pytest.raises(DataError, match="no source of the catalog makes vocabularies/x_with"):
        catalog.source_of_vocabulary("x")


def test_an_overlays_other_file_forgets_the_official_digest(tmp_path):
    overlay = written(tmp_path, {"sources": {"voc2012": {"url": "file://{here}/small.tar"}}})
    source = load_catalog(overlay).sources["voc2012"]
    assert source.url == f"file://{tmp_path}/small.tar"
    assert source.digests == {} and source.megabytes is None and source.unpack == "."


def test_an_overlays_mirror_keeps_the_official_digest(tmp_path):
    overlay = written(tmp_path, {"sources": {"voc2012": {"mirrors": ["http://near/voc.tar"]}}})
    source = load_catalog(overlay).sources["voc2012"]
    assert source.urls[1] == "http://near/voc.tar" and set(source.digests) == {"sha1", "md5"}


def test_here_is_quoted_in_addresses(tmp_path):
    folder = tmp_path / "with space # and hash"
    folder.mkdir()
    overlay = written(folder, {"sources": {"voc2012": {"url": "file://{here}/small.tar"}}})
    assert (
        load_catalog(overlay)
        .sources["voc2012"]
        .url.endswith("/with%20space%20%23%20and%20hash/small.tar")
    )


def test_another_count_forgets_which_classes_are_absent(tmp_path):
    values = {"datasets": {"pascal_ctx_459": {"classes": 9, "splits": {"val": {"count": 3}}}}}
    entry = load_catalog(written(tmp_path, values)).datasets["pascal_ctx_459"]
    assert entry.splits["val"].absent is None and entry.splits["val"].count == 3
    assert entry.splits["val"].labels.endswith("pc459_val")


def test_an_overlay_adds_a_benchmark(tmp_path):
    values = {
        "benchmarks": {"mine": {"dataset": "ade20k_847", "split": "train", "metric": "semantic"}}
    }
    assert load_catalog(written(tmp_path, values)).benchmark("mine").split == "train"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": {"voc2012": {"urll": "x"}}}, r"overlay\.yaml: sources\.voc2012\.urll: extra"),
        ({"sources": {"new": {"title": "x"}}}, r"sources\.new\.file: field required"),
        ({"sources": {"voc2012": 3}}, "sources: expected a mapping"),
        ({"datasets": {"coco_stuff": {"sources": ["nope"]}}}, "there is no source 'nope'"),
        (
            {"benchmarks": {"B": {"dataset": "coco_stuff", "split": "val", "metric": "semantic"}}},
            "no such dataset and split",
        ),
        (
            {
                "datasets": {
                    "coco_stuff": {"splits": {"train": {"name": "openvocab_ade20k_sem_seg_val"}}}
                }
            },
            "name 'openvocab_ade20k_sem_seg_val' is taken",
        ),
        ("[1, 2]", "expected keys and values"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_wrong_overlays_name_file_and_key(values, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_catalog(written(tmp_path, values))


@pytest.mark.parametrize("path", ["/etc", "../../home", "a/../../b", "a\0b"])
@pytest.mark.parametrize(
    "place",
    [
        "sources.voc2012.makes.0",
        "sources.voc2012.unpack",
        "sources.ade20k_847_table.place",
        "sources.coco_panoptic_annotations.nested.0",
        "datasets.ade20k_150.splits.val.labels",
        "datasets.ade20k_847.splits.val.images",
        "datasets.ade20k_panoptic.splits.val.annotations",
    ],
)
def test_nothing_outside_the_root_can_be_replaced(place, path, tmp_path):
    values = path
    for key in reversed(place.split(".")):
        values = [values] if key == "0" else {key: values}
    with pytest.raises(DataError, match=r"must be a path below the datasets root"):
        load_catalog(written(tmp_path, values))


@pytest.mark.parametrize("file", ["..", ".", "", "a/b", "a\\b"])
def test_a_file_of_a_source_is_a_plain_name(file, tmp_path):
    with pytest.raises(DataError, match=r"sources\.voc2012\.file"):
        load_catalog(written(tmp_path, {"sources": {"voc2012": {"file": file}}}))


def test_a_missing_overlay(tmp_path):
    with pytest.raises(DataError, match="no such catalog"):
        load_catalog(tmp_path / "none.yaml")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(
        DataError, match="benchmark 'A-151' is not in the catalog; known: A-847, A-150"
    ):
        load_catalog().benchmark("A-151")
    with pytest.raises(DataError, match="source 'x' is not in the catalog"):
        load_catalog().source("x")


def test_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert datasets_root(None) == tmp_path / "datasets"
    monkeypatch.setenv("DETECTRON2_DATASETS", "elsewhere")
    assert datasets_root(None) == tmp_path / "elsewhere"
    assert datasets_root("/fixed") == datasets_root("/fixed/")


def test_own_data_lie_over_all_other_catalogs(tmp_path, overlay):
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"datasets": {"coco_stuff": {"title": "mine"}}}))
    catalog = load_catalog(overlay, own)
    assert catalog.datasets["coco_stuff"].title == "mine"
    assert (
        catalog.datasets["coco_stuff"].classes
        == load_catalog(overlay).datasets["coco_stuff"].classes
    )
    with pytest.raises(DataError, match=r"none\.yaml.*run 'maftp data add' first"):
        load_catalog(overlay, tmp_path / "none.yaml")
    own.write_text(yaml.safe_dump({"benchmarks": {"x": {"dataset": "y", "split": "val"}}}))
    with pytest.raises(DataError, match=r"own\.yaml: benchmarks\.x\.metric: field required"):
        load_catalog(overlay, own)
