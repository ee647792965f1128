"""What an experiment needs: only what it reads."""

from pathlib import Path

import pytest

from maftp.config import load_params
from maftp.data.catalog import load_catalog
from maftp.errors import DataError, ParamsError
from maftp.needs import missing_files, needs_of

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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "clip: {pretrained: a.safetensors}",
            "clip.pretrained: there is no file a.safetensors",
        ),
        ("clip: {config: a.json}", "clip.config: there is no file a.json; put it there, or mend"),
        ("variants: {x: {weights: a.pth}}", "weights: there is no file a.pth; put it there"),
        (
            "variants: {x: {weights: weights/released/maft_b.safetensors}}",
            "weights: there is no file weights/released/maft_b.safetensors; put it there",
        ),
        (
            "{variants: {x: {}}, train: {start: 'results/other/y/seed{seed}/weights.safetensors'}}",
            "train.start: there is no file results/other/y/seed7/weights.safetensors; make it",
        ),
        ("variants: {maftp: {train: {student: a.pt}}}", "train.student: there is no file a.pt"),
    ],
)
def test_a_missing_file_is_named_once_with_its_key(tmp_path, monkeypatch, text, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    (tmp_path / "seeds.yaml").write_text("{ablations: null, seeds: [7]}")
    files = ("mine.yaml", "seeds.yaml")
    params = load_params(ROOT / "params.yaml", *files)
    (found,) = missing_files(params, load_catalog())
    assert found.startswith(sentence) and "mend the path" in found


def test_what_jobs_make_and_what_is_there_is_not_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiments = sorted((ROOT / "workflow/experiments").glob("*.yaml"))
    catalog, missing = load_catalog(), set()
    for overlays in ([], *[[file] for file in experiments]):
        missing |= set(missing_files(load_params(ROOT / "params.yaml", *overlays), catalog))
    (eva,) = missing  # which the page on methods says how to get
    name = "weights/clip/EVA02_CLIP_L_336_psz14_s6B.pt"
    assert eva.startswith(f"train.student: there is no file {name}")
    assert Path(name).name in (ROOT / "docs/methods.md").read_text()
    (tmp_path / "weights/clip").mkdir(parents=True)
    (tmp_path / name).touch()
    file = ROOT / "workflow/experiments/maskclippp_eva_large.yaml"
    assert missing_files(load_params(ROOT / "params.yaml", file), catalog) == []


@pytest.mark.parametrize(
    ("experiment", "variants", "sentence"),
    [
        ("maskadapter_maftp_large_released", "{b: {weights: weights/released/maftp_b.safetensors}}",
         r"clip\.pretrained: weights/released/maskadapter_maftp_l\.safetensors belongs to no"),
        ("maskclippp_base_released", "{b: {weights: weights/released/maftp_b.safetensors}}",
         r"variants\.b: weights and train\.proposals are the same file, weights/released/maftp_b"),
        ("maskclippp_base", "{b: {}}",
         r"train\.proposals: weights/released/maftp_b\.safetensors belongs to no variant"),
    ],
)  # fmt: skip
def test_released_weights_belong_to_a_variant(tmp_path, experiment, variants, sentence):
    (tmp_path / "mine.yaml").write_text(f"variants: {variants}")
    file = ROOT / f"workflow/experiments/{experiment}.yaml"
    params = load_params(ROOT / "params.yaml", file, tmp_path / "mine.yaml")
    with pytest.raises(ParamsError, match=sentence):
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
