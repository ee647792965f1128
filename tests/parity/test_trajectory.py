"""Six optimizer steps against those of the public code, in float64 (README.md beside this file)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Instances

from maftp.config import load_params, parse_params
from maftp.losses import mask_aware
from maftp.modeling import pixel_decoder, position_encoding
from maftp.modeling.build import build_model
from maftp.modeling.text_classifier import TextEmbeddings
from maftp.training.distributed import NextAction, Worker, gather_batch
from maftp.training.trainer import Trainer
from tests.parity.weights import fixed_rand, fixture_tensor

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FLOAT = torch.float32


def forget_constants() -> None:
    """Drop tensors that are kept between calls: they are of the precision they were made in."""
    for module in (mask_aware, pixel_decoder, position_encoding):
        for value in vars(module).values():
            getattr(value, "forget", lambda: None)()


def rand(*size, **kwargs) -> torch.Tensor:
    """The fixture's numbers, which are of single precision."""
    torch.set_default_dtype(FLOAT)
    try:
        return fixed_rand(*size).double()
    finally:
        torch.set_default_dtype(torch.float64)


def item(fixture, step: int, index: int) -> dict:
    image = torch.from_numpy(fixture[f"image_{step}_{index}"]).permute(2, 0, 1)
    labels = torch.from_numpy(fixture[f"labels_{step}_{index}"])
    classes = labels.unique()
    instances = Instances(tuple(labels.shape))
    instances.gt_classes = classes[classes != 255].long()
    instances.gt_masks = BitMasks(labels == instances.gt_classes[:, None, None])
    return {"image": image, "instances": instances, "file_name": f"{step}_{index}"}


@pytest.fixture(params=["maftp", "fcclip"])
def trajectory(request, tmp_path, monkeypatch):
    fixture = np.load(HERE / f"{request.param}_trajectory.npz")
    values = load_params(ROOT / "params.yaml").for_variant("maftp").model_dump(mode="python")
    values["clip"]["config"] = str(ROOT / values["clip"]["config"])
    values["model"] |= json.loads(str(fixture["model"]))
    values["train"] |= json.loads(str(fixture["recipe"]))
    values["train"]["rc_scales"] = tuple(values["train"]["rc_scales"])
    params = parse_params(values, source="trajectory")
    names = fixture["names"].tolist()
    teacher = request.param == "maftp"
    model = build_model(params, num_training_classes=len(names), load_clip=None, teacher=teacher)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(fixture_tensor(name.replace("backbone_t.", "backbone."), tensor))
    model.double()
    text = torch.from_numpy(fixture["text"]).double()
    embeddings = TextEmbeddings(text, tuple(fixture["num_synonyms"].tolist()), tuple(names))
    model.set_training_vocabulary(names, embeddings)
    # float32 is where a model casts on purpose; here it would end the agreement at 1e-6
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "rand", rand)
    torch.set_default_dtype(torch.float64)
    forget_constants()
    worker = Worker(rank=0, world_size=1, device=torch.device("cpu"))
    trainer = Trainer(model, params=params, seed=0, folder=tmp_path, worker=worker)
    yield fixture, model, trainer, worker
    torch.set_default_dtype(FLOAT)
    forget_constants()


def test_six_steps(trajectory):
    fixture, model, trainer, worker = trajectory
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for step, expected in enumerate(json.loads(str(fixture["steps"]))):
        batch = [item(fixture, step, index) for index in range(2)]
        whole = gather_batch(batch, action=NextAction.CONTINUE, worker=worker)
        assert trainer.learning_rate == pytest.approx(expected["learning_rate"], rel=1e-12)
        losses, norm = trainer.step(batch, whole, step=step)
        tolerance = 1e-10 if step == 0 else 1e-8
        assert losses == pytest.approx(expected["losses"], rel=tolerance, abs=1e-12)
        assert float(norm) == pytest.approx(expected["gradient_norm"], rel=tolerance)
    norms = json.loads(str(fixture["weight_norms"]))
    changes = json.loads(str(fixture["weight_changes"]))
    after = dict(model.named_parameters())
    assert set(norms) == set(before)
    assert {n: after[n].norm().item() for n in norms} == pytest.approx(norms, rel=1e-8)
    moved = {n: (after[n] - before[n]).norm().item() for n in changes}
    assert moved == pytest.approx(changes, rel=1e-6, abs=1e-10)
