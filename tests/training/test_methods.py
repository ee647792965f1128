"""The loop with the methods that train otherwise: killed and resumed, and in micro-batches."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from maftp.modeling.build import build_model
from maftp.training.distributed import Worker
from maftp.training.worker import train
from tests.modeling.conftest import batch, tiny_params  # noqa: F401, fixtures

METHODS = ("ovrcoat", "maskclippp", "over_fcclip", "over_maftp")
NAMES = ["person, child", "car", "sky"]


class Killed(Exception):
    """Stands for the end of the process."""


def run(params, items, folder, *, stop_after=None, **execution):
    """Train four steps; return the rows, or stop after some step as a kill would."""
    blocks = {
        "train": {"iterations": 4, "batch_size": 2, "validation": None},
        "execution": {"checkpoint_period": 2, "log_period": 1} | execution,
    }
    for name, values in blocks.items():
        block = getattr(params, name).model_copy(update=values)
        params = params.model_copy(update={name: block})
    torch.manual_seed(0)
    model = build_model(params, num_training_classes=3, load_clip=None, teacher=False)
    model.set_training_vocabulary(NAMES)
    rows = []

    def report(row, checkpoint):
        rows.append(row)
        if row["step"] == stop_after:
            raise Killed

    def batches(start):
        while True:
            yield [{**item, "file_name": "x.png"} for item in items]

    train(
        model,
        batches,
        params=params,
        seed=0,
        folder=folder,
        report=report,
        facts={"run": "abc"},
        worker=Worker(rank=0, world_size=1, device=torch.device("cpu")),
    )
    return rows


@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_is_the_unbroken_run(method, tiny_params, batch, tmp_path):  # noqa: F811
    params = tiny_params.for_variant(method)
    run(params, batch, tmp_path / "a")
    with pytest.raises(Killed):
        run(params, batch, tmp_path / "b", stop_after=3)
    rows = run(params, batch, tmp_path / "b")
    assert [row["step"] for row in rows] == [3, 4]
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", ["ovrcoat", "maskclippp"])
def test_micro_batches_change_rounding_only(method, tiny_params, batch, tmp_path):  # noqa: F811
    params = tiny_params.for_variant(method)
    still = params.model.maskclippp.model_copy(update={"attention_dropout": 0.0})
    model = params.model.model_copy(update={"maskclippp": still})
    params = params.model_copy(update={"model": model})
    whole = run(params, batch, tmp_path / "a")
    parts = run(params, batch, tmp_path / "b", micro_batch_size=1)
    keys = [key for key in whole[0] if "loss" in key]
    for one, other in zip(whole, parts, strict=True):
        assert [other[key] for key in keys] == pytest.approx([one[key] for key in keys], rel=1e-4)
