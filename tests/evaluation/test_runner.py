"""The runner with a real, untrained model on converted data sets of two images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maftp.config import Params
from maftp.data.catalog import Catalog
from maftp.data.images import read_label
from maftp.data.mapper import TestMapper
from maftp.errors import CheckpointError, DataError, MaftpError
from maftp.evaluation.control import shuffled_order
from maftp.evaluation.runner import evaluate, set_classes
from maftp.evaluation.scored_split import load_split
from maftp.modeling.build import load_model
from maftp.modeling.segmenter import Segmenter
from maftp.modeling.text_classifier import embed_vocabulary

TRAINING = ["lawn,meadow", "dog"]
Run = Callable[..., dict[str, Any]]


def loaded(params: Params, weights: Path) -> Segmenter:
    model = load_model(params, weights)
    model.set_training_vocabulary(TRAINING)
    return model


def changed(params: Params, variant: str, **evaluate: Any) -> Params:
    chosen = params.for_variant(variant)
    block = chosen.evaluate.model_copy(update=evaluate)
    return chosen.model_copy(update={"evaluate": block})


@pytest.fixture
def run(
    params: Params, weights: Callable[[str], Path], catalog: Catalog, root: Path, tmp_path: Path
) -> Run:
    """Evaluate a variant: run("A-150", variant="maftp", max_images=1, ...)."""

    def make(benchmark: str, *, variant: str = "maftp", **options: Any) -> dict[str, Any]:
        paths = {key: options.pop(key) for key in ("weights", "embeddings") if key in options}
        return evaluate(
            changed(params, variant, **options),
            variant=variant,
            seed=3,
            benchmark=benchmark,
            catalog=catalog,
            root=root,
            out=tmp_path / "run" / f"{benchmark}.json",
            overlays_dir=tmp_path / "run" / benchmark,
            device="cpu",
            **{"weights": weights(variant)} | paths,
        )

    return make


@pytest.mark.parametrize("variant", ["maftp", "fcclip"])
def test_semantic_result_is_what_the_model_says(
    run: Run, params: Params, weights, catalog: Catalog, root: Path, tmp_path: Path, variant: str
):
    result = run("A-150", variant=variant)
    assert json.loads((tmp_path / "run" / "A-150.json").read_text()) == result
    assert (result["metric"], result["mode"]) == ("semantic", "semantic-only")
    assert (result["experiment"], result["variant"], result["seed"]) == ("tiny", variant, 3)
    # one synonym, lawn, is in the training vocabulary
    assert [record["seen"] for record in result["per_class"]] == [False, True, False]
    assert result["scores"]["seen"]["classes"] == 1
    assert result["scores"]["images"] == 2
    assert len(result["provenance"]["vocabulary_sha256"]) == 64
    assert result["provenance"]["catalog"] == "official"

    chosen = params.for_variant(variant)
    split = load_split("A-150", params=chosen, catalog=catalog, root=root, training=TRAINING)
    model = loaded(chosen, weights(variant))
    model.set_test_vocabulary(split.names)
    right = total = 0
    for record in split.records:
        with torch.inference_mode():
            scores = model([TestMapper.from_params(chosen)(record)])[0]["sem_seg"]
        truth = read_label(Path(record["sem_seg_file_name"]))
        right += int((scores.argmax(0).numpy() == truth).sum())
        total += truth.size
    assert result["scores"]["pACC"] == pytest.approx(100 * right / total)


def test_panoptic_result_and_pictures(run: Run, tmp_path: Path):
    result = run("ADE-panoptic")
    assert (result["metric"], result["mode"]) == ("panoptic", "combined")
    assert result["scores"]["images"] == 2
    assert 0 <= result["scores"]["PQ"] <= 100
    counts = [record["TP"] + record["FN"] for record in result["per_class"]]
    assert counts == [2, 2, 2]  # every segment of the two images is found or missed
    pictures = list((tmp_path / "run" / "ADE-panoptic").iterdir())
    assert [path.name for path in pictures] == ["one.png"]
    assert Image.open(pictures[0]).width == 3 * 512 + 4 * 12


def test_a_subset_is_scored_against_its_part_of_the_ground_truth(run: Run):
    for benchmark in ("A-150", "ADE-panoptic"):
        result = run(benchmark, max_images=1)
        assert result["scores"]["images"] == result["max_images"] == 1


def test_instance_result(run: Run):
    result = run("ADE-instance")
    assert result["mode"] == "combined"
    assert 0 <= result["scores"]["AP"] <= result["scores"]["AP50"] <= 100


def test_two_runs_are_equal(run: Run):
    first, second = run("A-150"), run("A-150")
    assert {**first, "speed": 0} == {**second, "speed": 0}


@pytest.mark.parametrize("variant", ["maftp", "fcclip"])
@pytest.mark.parametrize("cached", [False, True])
def test_the_control_gives_each_class_the_scores_of_another(
    params: Params, weights, catalog: Catalog, root: Path, tmp_path: Path, variant: str, cached
):
    chosen = params.for_variant(variant)
    split = load_split("A-150", params=chosen, catalog=catalog, root=root, training=TRAINING)
    model = loaded(chosen, weights(variant))
    path = None
    if cached:
        path = tmp_path / "text.safetensors"
        embed_vocabulary(model.backbone, split.names, templates=model.templates).save(path)
    item = TestMapper.from_params(chosen)(split.records[0])
    scores = []
    for shuffle in (False, True):
        set_classes(model, split, path, shuffle=shuffle)
        model.semantic_output = "scores"
        with torch.inference_mode():
            scores.append(model([item])[0]["sem_seg"])
    rounding = (scores[1] - scores[0][shuffled_order(3)]).abs().max()
    effect = (scores[1] - scores[0]).abs().max()
    assert rounding < effect / 10


def test_panoptic_output_is_off_for_semantic_benchmarks(
    params: Params, weights, catalog: Catalog, root: Path
):
    chosen = params.for_variant("maftp")
    model = loaded(chosen, weights("maftp"))
    for benchmark, on in (("ADE-panoptic", True), ("A-150", False)):
        split = load_split(benchmark, params=chosen, catalog=catalog, root=root, training=TRAINING)
        set_classes(model, split, None, shuffle=False)
        assert model.panoptic_on is on


def test_wrong_weights_leave_nothing_behind(run: Run, weights, tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        run("A-150", weights=tmp_path / "gone.safetensors")
    with pytest.raises(CheckpointError, match=r"fcclip\.safetensors"):
        run("A-150", weights=weights("fcclip"))
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_user_is_not_replaced_by_pictures(run: Run, tmp_path: Path):
    mine = tmp_path / "run" / "A-150" / "holiday.png"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(MaftpError, match=r"A-150: holds holiday\.png, which was not written here"):
        run("A-150")
    assert mine.read_bytes() == b"mine"


def test_a_result_that_cannot_be_written_is_found_before_the_work(run: Run, tmp_path: Path):
    (tmp_path / "run" / "A-150.json").mkdir(parents=True)
    with pytest.raises(MaftpError, match=r"A-150\.json: is a folder"):
        run("A-150", weights=tmp_path / "none")


def test_a_damaged_image_is_named_and_leaves_nothing_behind(run: Run, root: Path, tmp_path: Path):
    image = root / "ade/ADEChallengeData2016/images/validation/two.jpg"
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(DataError, match=r"two\.jpg") as caught:
        run("A-150")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_label_of_another_size_is_named(run: Run, root: Path):
    label = root / "ade/ADEChallengeData2016/annotations_detectron2/validation/two.png"
    Image.fromarray(np.zeros((64, 48), np.uint8)).save(label)
    with pytest.raises(DataError, match=r"two\.png.*64 x 48.*48 x 64"):
        run("A-150")


def test_embeddings_of_another_vocabulary_are_refused(
    run: Run, params: Params, weights, tmp_path: Path
):
    model = loaded(params.for_variant("maftp"), weights("maftp"))
    embed_vocabulary(model.backbone, ["sky"], templates=model.templates).save(tmp_path / "text")
    with pytest.raises(DataError, match="not the names of openvocab_ade20k_sem_seg_val"):
        run("A-150", embeddings=tmp_path / "text")


def test_an_unknown_benchmark_is_named(run: Run):
    with pytest.raises(DataError, match="A-151"):
        run("A-151")
