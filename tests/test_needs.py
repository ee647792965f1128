"""What an experiment needs: only what it reads."""

from pathlib import Path

import pytest

from maftp.config import load_params
from maftp.data.catalog import load_catalog
from maftp.errors import DataError, ParamsError
from maftp.needs import needs_of

ROOT = Path(__file__).resolve().parent.parent
IMAGES = {"ade20k_challenge", "ade20k_full", "voc2010", "voc2012"}


def needs(experiment):
    params = load_params(ROOT / "params.yaml", ROOT / f"workflow/experiments/{experiment}.yaml")
    return needs_of(params, load_catalog())


def test_released_weights_need_no_training_images():
    trained, released = needs("maftp_base"), needs("maftp_base_released")
    assert trained.datasets == ["coco_stuff", *released.datasets] and trained.released == {}
    assert IMAGES <= set(released.sources) and list(released.released) == ["maftp_b"]
    # the names of the training set tell seen classes from unseen ones
    assert released.training_names == "vocabulary_coco_stuff"
    only = set(trained.sources) - set(released.sources)
    assert only == {"coco_train2017", "coco_stuffthingmaps"}
    assert set(released.sources) <= set(trained.sources)


@pytest.mark.parametrize("experiment", ["maftp_base", "maftp_large_panoptic_released"])
def test_each_once(experiment):
    found = needs(experiment)
    assert len(set(found.sources)) == len(found.sources)
    assert not set(found.kin) & set(found.datasets)
    assert found.kin and "ade20k_instances" in found.sources


@pytest.mark.parametrize(
    ("train", "mapper", "sentence"),
    [
        ("cityscapes", "semantic", "cityscapes has no images to train on"),
        ("ade20k_150", "panoptic", "ade20k_150 has no panoptic ground truth"),
        ("ade20k_847", "semantic", "ade20k_847 has no 8-bit label maps"),
        ("ade20k_panoptic", "semantic", "choose another set or the mapper panoptic"),
        ("street", "semantic", "dataset 'street' is not in the catalog"),
    ],
)
def test_a_set_that_cannot_be_trained_on_is_refused(tmp_path, train, mapper, sentence):
    (tmp_path / "mine.yaml").write_text(
        f"data: {{train: {train}}}\ninput: {{train: {{mapper: {mapper}}}}}"
    )
    params = load_params(ROOT / "params.yaml", tmp_path / "mine.yaml")
    with pytest.raises((DataError, ParamsError), match=sentence):
        needs_of(params, load_catalog())


def test_a_variant_whose_weights_are_given_starts_from_nothing(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "train: {start: weights/released/maftp_b.safetensors}\nablations: null\n"
        "variants: {tuned: {}, before: {weights: weights/released/maftp_b.safetensors}}"
    )
    params = load_params(ROOT / "params.yaml", tmp_path / "mine.yaml")
    assert params.for_variant("before").other_weights(0) == {}
    assert list(params.for_variant("tuned").other_weights(0)) == ["start"]
    assert needs_of(params, load_catalog()).released == {"maftp_b": "before"}
