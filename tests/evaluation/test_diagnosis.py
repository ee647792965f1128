"""The diagnosis of real, untrained models of the whole family on two images."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from maftp.errors import DataError
from maftp.evaluation.diagnosis import _by_relation, _gap, _naming, _parts, _recall, diagnose
from maftp.evaluation.runner import evaluate
from maftp.evaluation.word_relations import WordRelations
from maftp.modeling.build import build_model

FAMILY: dict[str, dict] = {
    "maftp": {},
    "fcclip": {"name": "fcclip"},
    "ovrcoat": {"name": "ovrcoat", "trust_weight": 0.5},
    "maskclippp": {
        "name": "maskclippp",
        "maskclippp": {"student_short_side": 64, "proposal_short_side": 96},
    },
    "mask_adapter": {"name": "mask_adapter", "mask_adapter": {"width": 16}},
}
BENCHMARKS = ("A-150", "ADE-panoptic")


@pytest.fixture
def made(params, tmp_path):
    """Return parameters and an untrained checkpoint of a method."""

    def make(method: str):
        values = params.for_variant("maftp").model_dump(mode="python")
        values["model"] |= FAMILY[method]
        chosen = type(params).model_validate(values)
        torch.manual_seed(1)
        model = build_model(chosen, num_training_classes=2, load_clip=None, teacher=False)
        path = tmp_path / f"{method}.safetensors"
        save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, path)
        return chosen, path

    return make


@pytest.mark.parametrize("method", FAMILY)
def test_every_method(made, method, catalog, root, tmp_path):
    params, weights = made(method)
    common = {"variant": method, "seed": 0, "weights": weights, "catalog": catalog, "root": root}
    common["device"] = "cpu"
    diagnose(params, benchmarks=BENCHMARKS, out=tmp_path / "diagnosis", **common)
    for benchmark, score in zip(BENCHMARKS, ("mIoU_b", "PQ"), strict=True):
        found = json.loads((tmp_path / f"diagnosis/{benchmark}.json").read_text())
        scored = evaluate(params, benchmark=benchmark, out=tmp_path / "score.json", **common)
        # nothing repaired is the evaluation itself, everything repaired is perfect
        assert found["scores"]["none"]["score"] == scored["scores"][score]
        assert found["scores"]["masks+classes+void"]["score"] == 100
        assert found["gap"]["rest"] == 0
        assert sum(found["gap"].values()) == pytest.approx(100)
        check_regions(found)


def check_regions(found: Mapping) -> None:
    """Sky, grass and a cat in each of two images."""
    assert found["naming"]["all"]["regions"] == 6
    assert (found["naming"]["seen"]["regions"], found["naming"]["unseen"]["regions"]) == (2, 4)
    assert found["calibration"]["classes"]["count"] == 6
    assert found["calibration"]["void"]["count"] == 12  # queries
    assert sum(found["words"]["regions"].values()) == pytest.approx(100)
    recall = [row["all"] for row in found["recall"]]
    assert recall == sorted(recall, reverse=True)
    assert [row["name"] for row in found["per_class"]] == ["sky", "grass,lawn", "cat"]


def test_a_benchmark_of_instances_is_refused(made, catalog, root, tmp_path):
    params, weights = made("maftp")
    with pytest.raises(DataError, match="ADE-instance.*instance; leave it out"):
        diagnose(
            params, variant="maftp", seed=0, benchmarks=["ADE-instance"], weights=weights,
            catalog=catalog, root=root, out=tmp_path,
        )  # fmt: skip


REGIONS = pd.DataFrame(
    {
        "truth": [0, 1, 1, 2],
        "share": [0.005, 0.01, 0.5, 0.2],
        "iou": [0.05, 0.5, 0.95, 0.75],
        "method": [0, 1, 2, 2],
        "clip": [0, 2, 2, 2],
        "proposal": [1, 1, 1, 2],
        "clip_top5": [True, True, False, True],
    }
)


def test_parts_naming_and_recall_by_hand():
    parts = _parts(REGIONS, np.array([True, False, False]))
    assert {name: int(part.sum()) for name, part in parts.items()} == {
        "all": 4, "seen": 1, "unseen": 3, "small": 1, "medium": 1, "large": 2,
    }  # fmt: skip
    assert _naming(REGIONS) == {
        "regions": 4, "clip": 50, "method": 75, "proposal": 75, "clip_top5": 75,
    }  # fmt: skip
    recall = {row["iou"]: row for row in _recall(REGIONS, parts)}
    assert (recall[0.1]["all"], recall[0.5]["all"], recall[0.9]["all"]) == (75, 75, 25)
    assert (recall[0.5]["small"], recall[0.5]["medium"], recall[0.9]["large"]) == (0, 100, 50)


def test_errors_by_relation_by_hand():
    names = ["dog", "animal", "cat", "sky"]
    relations = WordRelations(same=[], kinds={"animal": ["dog", "cat"]}, not_kinds=[])
    pixels = pd.Series({(0, 0): 50, (0, 1): 20, (0, 2): 10, (1, 0): 15, (0, 3): 5})
    assert _by_relation(pixels, names, relations) == {
        "right": 50, "same meaning": 0, "more general": 20, "more specific": 15,
        "same kind": 10, "unrelated": 5,
    }  # fmt: skip


def test_a_gap_is_shared_out():
    scores = {0: 40, 1: 60, 2: 80, 3: 90}
    found = _gap(lambda oracles: scores[len(oracles)])
    assert found == pytest.approx(
        {"score": 40, "masks": 50 / 3, "classes": 50 / 3, "void": 50 / 3, "rest": 10}
    )
    assert set(_gap(lambda oracles: None).values()) == {None}
