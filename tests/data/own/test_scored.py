"""Every form of own data is a benchmark: scored by an untrained tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from maftp.api import load
from maftp.config import parse_params
from maftp.data.catalog import load_catalog
from maftp.data.convert.run import convert
from maftp.data.mapper import PanopticMapper, SemanticMapper
from maftp.data.own.entry import enter
from maftp.data.own.forms import Given, check
from maftp.data.records import list_records
from maftp.evaluation.runner import evaluate
from tests.data.own.conftest import (
    grey,
    instance_json,
    panoptic_json,
    write_json,
)


def given(form, made) -> Given:
    if form == "semantic":
        return Given(made.images, made.masks, names=made.names)
    if form == "panoptic":
        return Given(made.images, made.masks, write_json(made, panoptic_json(made)))
    return Given(made.images, annotations=write_json(made, instance_json(made)))


@pytest.mark.parametrize(
    ("form", "score"), [("semantic", "mIoU_b"), ("panoptic", "PQ"), ("instance", "AP")]
)
def test_it_is_scored(folders, weights, tmp_path, form, score):
    root = tmp_path / "root"
    checked = check(given(form, folders(grey)))
    own = root / "own.yaml"
    enter(checked, name="street", split="val", root=root, own=own, replace=False)
    enter(checked, name="street", split="train", root=root, own=own, replace=False)
    catalog = load_catalog(own=own)
    convert("street", catalog, root, workers=1)
    loaded = load(weights, device="cpu")
    values = loaded.params.model_dump(mode="python")
    values["data"] |= {"own": str(own), "root": str(root), "catalog": None, "train": "street"}
    params = parse_params(values, source="test")
    found = evaluate(
        params,
        variant="maftp",
        seed=0,
        benchmark="street",
        weights=weights,
        catalog=catalog,
        root=root,
        out=tmp_path / "out.json",
        overlays_dir=tmp_path / "pictures",
        statistics_dir=tmp_path / "counts",
        model=loaded.model,
    )
    assert found["metric"] == form and 0 <= found["scores"][score] <= 100
    assert json.loads((tmp_path / "out.json").read_text())["images_of_benchmark"] == 3
    mapper = PanopticMapper if form == "panoptic" else SemanticMapper
    (record, *_) = list_records("street", catalog.dataset("street"), "train", root=root)
    item = mapper.from_params(params)(record, np.random.default_rng(0))
    assert len(item["instances"]) >= 2
