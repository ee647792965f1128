import json
from pathlib import Path

import pytest
import torch
from open_clip.transformer import TextTransformer

from maftp.api import experiment_params
from maftp.errors import CheckpointError
from maftp.modeling.build import build_model
from maftp.modeling.eva_tower import EvaTower
from maftp.modeling.maskclippp_eva import (
    EvaEncoder,
    EvaMaskCLIPpp,
    EvaText,
    SimilarityMap,
    load_student,
)
from maftp.modeling.segmenter import Normalisation
from maftp.training.optimizer import build_optimizer

KEYS = Path(__file__).resolve().parents[2].parent / "shared" / "spec" / "keys"
TRAIN = ["person, child", "car", "sky"]
TEST = ["wall", "dog,puppy", "sky, heaven"]


@pytest.fixture
def model(build):
    base = build("maskclippp", teacher=False)
    torch.manual_seed(0)
    tower = EvaTower(width=32, depth=2, heads=2, hidden=40, embed_dim=16, patch=14, side=4)
    for table in (tower.cls_token, tower.pos_embed):
        torch.nn.init.normal_(table)
    model = EvaMaskCLIPpp(
        visual_encoder=EvaEncoder(tower, mask_blocks=1),
        text_encoder=EvaText(TextTransformer(width=32, heads=2, layers=1, output_dim=16)),
        psm=SimilarityMap(sentences=1, width=8),
        student_short_side=56,
        proposal_short_side=96,
        alpha=0.9,
        beta=1.0,
        backbone=base.backbone,
        sem_seg_head=base.sem_seg_head,
        normalisation=Normalisation((120.0, 120.0, 120.0), (70.0, 70.0, 70.0)),
        inference=base.inference,
    )
    model.set_training_vocabulary(TRAIN)
    model.set_test_vocabulary(TEST)
    return model


def test_all_that_is_trained_gets_a_gradient(model, batch):
    model.train()(batch)["loss_ce"].backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(model.trainable_names())
    assert {name.split(".")[0] for name in with_gradient} == {
        "visual_encoder",
        "text_encoder",
        "psm",
    }


def test_masks_that_cover_no_patch_are_left_out(model, batch, monkeypatch):
    torch.manual_seed(3)
    expected = model.train()(batch)["loss_ce"].item()
    for item in batch:
        instances = item["instances"]
        speck = torch.zeros_like(instances.gt_masks[:1])
        item["instances"] = type(instances)(
            instances.image_size,
            gt_masks=torch.cat([instances.gt_masks, speck]),
            gt_classes=torch.cat([instances.gt_classes, torch.tensor([1])]),
        )
    torch.manual_seed(3)
    assert model(batch)["loss_ce"].item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_masks_breaks_nothing(model, batch):
    for item in batch:
        item["instances"] = item["instances"][:0]
    loss = model.train()(batch)["loss_ce"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_results(model, batch):
    with torch.no_grad():
        results = model.eval()(batch)
    assert [tuple(r["sem_seg"].shape) for r in results] == [(3, 128, 160), (3, 96, 128)]
    assert all(torch.isfinite(r["sem_seg"]).all() for r in results)


def test_the_text_follows_training(model, batch):
    with torch.no_grad():
        before = model.eval()(batch)[0]["sem_seg"]
        model.train()
        model.text_encoder.proxy.positional_embedding.add_(torch.randn(77, 32))
        after = model.eval()(batch)[0]["sem_seg"]
    assert not torch.allclose(before, after)


@pytest.mark.skipif(not KEYS.is_dir(), reason="lists of released entries are not here")
def test_entries_and_optimizer_of_the_released_checkpoint():
    params = experiment_params("maskclippp_eva_large")
    with torch.device("meta"):
        model = build_model(params, num_training_classes=171, load_clip=None, teacher=False)
    released = json.loads((KEYS / "maskclippp_eva_l_wtext.json").read_text())
    own = {n: list(t.shape) for n, t in model.state_dict().items()}
    assert {n: s for n, s in own.items() if n.startswith(model.released_parts)} == released
    names = {id(p): n for n, p in model.named_parameters()}
    groups = build_optimizer(model, model.parameter_groups(), params=params).param_groups
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    expected = json.loads((KEYS / "optimizer_maskclippp_eva_l_wtext.json").read_text())
    assert set(found) == set(expected)
    for name, rule in expected.items():
        assert found[name] == pytest.approx((rule["lr"], rule["weight_decay"])), name


def test_a_student_is_loaded_from_eva_clips_own_file(model, tmp_path):
    moved = {"visual_encoder.proxy.": "visual.", "text_encoder.proxy.": "text."}
    state = {"visual.rope.freqs_cos": torch.zeros(2)}
    for name, tensor in model.state_dict().items():
        for old, new in moved.items():
            if name.startswith(old):
                state[name.replace(old, new)] = tensor + 1
    state["logit_scale"] = torch.tensor(4.0)
    torch.save(state, tmp_path / "eva.pt")
    load_student(model, tmp_path / "eva.pt")
    assert model.text_encoder.logit_scale == 4
    head = model.visual_encoder.proxy.head.weight
    assert torch.equal(head, state["visual.head.weight"])
    del state["visual.head.weight"]
    torch.save(state, tmp_path / "less.pt")
    with pytest.raises(CheckpointError, match=r"1 missing: visual_encoder\.proxy\.head\.weight"):
        load_student(model, tmp_path / "less.pt")
