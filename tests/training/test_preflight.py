"""Parameters that a machine cannot train with."""

from __future__ import annotations

import pytest
import torch

from maftp.config import parse_params
from maftp.errors import ParamsError
from maftp.training.allocation import Allocation
from maftp.training.preflight import check_params


def changed(params, block, **values):
    dumped = params.model_dump(mode="python")
    for key, value in values.items():
        dumped[block][key] = dumped[block][key] | value if isinstance(value, dict) else value
    return parse_params(dumped, source="test")


def test_the_repository_s_parameters_pass(params):
    check_params(params)


def test_mixed_precision_needs_a_gpu(params):
    with pytest.raises(ParamsError, match="train.amp"):
        check_params(changed(params, "train", amp=True))


def test_gpus_must_be_there(params, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    two = changed(params, "execution", gpus_per_worker=1, workers=2)
    with pytest.raises(ParamsError, match="2 workers want 2 GPUs, found 1"):
        check_params(two)
    check_params(changed(changed(params, "train", amp=True), "execution", gpus_per_worker=1))
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    check_params(two)


def test_narrow_inputs(params):
    # Sides are padded to multiples of 32: 97 gives 4 columns at stride 32, enough for scale 4.
    check_params(changed(params, "input", train={"short_side": 97}))
    narrow = changed(params, "input", train={"short_side": 96})
    with pytest.raises(ParamsError, match="at least 128 pixels wide.*found 96"):
        check_params(narrow)
    check_params(changed(narrow, "train", rc_weight=0.0))
    check_params(changed(narrow, "train", rc_scales=(1, 2)))
    check_params(changed(narrow, "model", name="fcclip"))
    crops = changed(params, "input", train={"mapper": "panoptic", "crop_size": 64})
    with pytest.raises(ParamsError, match="found 64"):
        check_params(crops)


def test_nodes_must_be_there(params, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    two = changed(changed(params, "execution", workers=2), "resources", nodes=2)
    with pytest.raises(ParamsError, match="2 nodes wanted, this is one machine"):
        check_params(two)
    with pytest.raises(ParamsError, match="2 nodes wanted, job 7 has 1"):
        check_params(two, Allocation(job="7", nodes=("n1",)))
    check_params(two, Allocation(job="7", nodes=("n1", "n2")))
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")
    check_params(two)
