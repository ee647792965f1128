import json
from pathlib import Path

import pytest
import torch

from maftp.api import experiment_params
from maftp.blocks import Adapter
from maftp.errors import CheckpointError
from maftp.modeling import mask_adapter
from maftp.modeling.build import build_model
from maftp.modeling.checkpoint import load_weights
from maftp.modeling.mask_adapter import MaskAdapter, pool_with_maps
from maftp.modeling.proposals import load_proposals, load_start
from maftp.modeling.released_weights import convert_released
from maftp.training.checkpoint import save_weights
from maftp.training.optimizer import build_optimizer

KEYS = Path(__file__).resolve().parents[2].parent / "shared" / "spec" / "keys"
TRAIN = ["person, child", "car", "sky"]
TEST = ["wall", "dog,puppy", "sky, heaven"]
RELEASED = [
    ("maskadapter_fcclip_large", "maskadapter_fcclip_large", "maskadapter_fcclip_large"),
    ("maskadapter_maftp_base", "maskadapter_maftp_base", "maskadapter_maftp_base"),
    ("maskadapter_maftp_large", "maskadapter_maftp_large", "maskadapter_maftp_large"),
    ("maskadapter_fcclip_large:warmup", *["maskadapter_warmup_fcclip_large"] * 2),
    ("maskadapter_maftp_base:warmup", *["maskadapter_warmup_maftp_base"] * 2),
]


@pytest.fixture(params=["over_fcclip", "over_maftp"])
def variant(request):
    return request.param


def prepared(build, variant, **adapter):
    model = build(variant, teacher=False, train={"adapter": Adapter(**adapter)})
    model.set_training_vocabulary(TRAIN)
    model.set_test_vocabulary(TEST)
    return model


@pytest.mark.parametrize("phase", ["warmup", "mixed"])
@pytest.mark.parametrize("void", [True, False])
def test_all_that_is_trained_gets_a_gradient(build, variant, batch, phase, void):
    model = prepared(build, variant, phase=phase, train_void=void)
    losses = model.train()(batch)
    assert list(losses) == ["loss_ce"] + ["loss_cosine"] * (phase == "mixed")
    sum(losses.values()).backward()
    with_gradient = {n for n, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == set(model.trainable_names())
    parts = {name.split(".")[0] for name in with_gradient}
    assert parts == {"mask_adapter"} | ({"void_embedding"} if void else set())
    assert model.parameter_groups()["backbone"] == []


@pytest.mark.parametrize("phase", ["warmup", "mixed"])
def test_a_batch_without_masks_breaks_nothing(build, variant, batch, phase):
    model = prepared(build, variant, phase=phase)
    for item in batch:
        item["instances"] = item["instances"][:0]
    losses = model.train()(batch)
    assert losses["loss_ce"].item() == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_draws_do_not_depend_on_how_a_batch_is_cut(build, batch):
    """More masks than slots, so that some are drawn."""
    from maftp.losses.batch_share import BatchShare, computing

    model = prepared(build, "over_fcclip", phase="warmup").train()
    for item in batch:
        masks = item["instances"].gt_masks
        item["instances"] = type(item["instances"])(
            item["instances"].image_size,
            gt_masks=masks[0].repeat(40, 1, 1),
            gt_classes=torch.arange(40) % 3,
        )
    batch[0]["image"] = batch[1]["image"] = torch.zeros(3, 128, 160, dtype=torch.uint8)
    for item in batch:
        item["instances"]._image_size = (128, 160)
    seen = []
    slots = mask_adapter._slots
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_adapter, "_slots", lambda *a: seen.append(slots(*a)) or seen[-1])
        torch.manual_seed(1)
        model(batch)
        for index in range(2):
            torch.manual_seed(1)
            with computing(BatchShare(masks=(40, 40), first=index, images=1)):
                model(batch[index : index + 1])
    labels = [label.tolist() for _, label in seen]
    assert labels[:2] == labels[2:] and labels[0] != labels[1]


def test_results_in_chunks_are_those_of_the_whole(build, variant, batch, monkeypatch):
    model = prepared(build, variant).eval()
    with torch.no_grad():
        whole = model(batch)
        monkeypatch.setattr(mask_adapter, "CHUNK", 4)
        parts = model(batch)
    for one, other in zip(whole, parts, strict=True):
        assert torch.allclose(one["sem_seg"], other["sem_seg"], atol=1e-5)


def test_even_maps_give_the_mean_and_masks_of_any_size_are_taken():
    features = torch.randn(1, 3, 4, 5)
    found = pool_with_maps(features, torch.zeros(1, 2, 6, 4, 5))
    assert torch.allclose(found, features.mean((2, 3))[:, None, None].expand(1, 2, 6, 3), atol=1e-6)
    adapter = MaskAdapter(embed_dim=8, width=8, num_maps=3)
    masks = torch.rand(1, 2, 40, 50).round()
    assert adapter(torch.randn(1, 8, 4, 5), masks).shape == (1, 2, 3, 4, 5)


def test_the_second_phase_starts_from_the_first_and_keeps_the_heads_void(build, variant, tmp_path):
    family = variant.removeprefix("over_")
    proposing = build(family, teacher=False, train={"rc_weight": 0.0})
    proposing.set_training_vocabulary(["wall", "tree"])
    save_weights(tmp_path / "proposing.safetensors", proposing, {})
    first = prepared(build, variant, phase="warmup")
    with torch.no_grad():
        for parameter in first.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    save_weights(tmp_path / "first.safetensors", first, {})
    second = prepared(build, variant)
    load_proposals(second, tmp_path / "proposing.safetensors")
    load_start(second, tmp_path / "first.safetensors")
    assert torch.equal(second.mask_adapter.final.weight, first.mask_adapter.final.weight)
    assert torch.equal(second.void_embedding.weight, proposing.void_embedding.weight)
    assert second.seen().tolist() == [True, False, False]
    if family == "maftp":
        own = proposing.cdt.state_dict()
        assert all(torch.equal(t, own[n]) for n, t in second.cdt.state_dict().items())


def test_another_method_starts_from_the_whole_of_its_own_weights(build, tmp_path):
    first = build("maftp")
    first.set_training_vocabulary(["wall", "tree"])
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1.0)
    save_weights(tmp_path / "first.safetensors", first, {})
    second = build("maftp")
    second.set_training_vocabulary(TRAIN)
    teacher = {n: t.clone() for n, t in second.state_dict().items() if n.startswith("backbone_t.")}
    load_start(second, tmp_path / "first.safetensors")
    found, wanted = second.state_dict(), first.state_dict()
    trained = [name for name in wanted if not name.startswith("backbone_t.")]
    assert teacher and all(torch.equal(found[name], tensor) for name, tensor in teacher.items())
    different = [name for name in trained if found[name].shape != wanted[name].shape]
    assert different == ["criterion.empty_weight"]  # another number of classes
    assert all(torch.equal(found[n], wanted[n]) for n in trained if n not in different)
    assert second.training_names == tuple(TRAIN)
    other = build("fcclip", teacher=False)
    with pytest.raises(CheckpointError, match="trained with model 'maftp', the parameters"):
        load_start(other, tmp_path / "first.safetensors")


@pytest.mark.skipif(not KEYS.is_dir(), reason="lists of released entries are not here")
@pytest.mark.parametrize(("experiment", "keys", "trainable"), RELEASED)
def test_entries_of_released_checkpoints(experiment, keys, trainable):
    params = experiment_params(experiment)
    with torch.device("meta"):
        model = build_model(params, num_training_classes=171, load_clip=None, teacher=False)
    released = json.loads((KEYS / f"{keys}.json").read_text())
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if "warmup" in keys:  # the public warm-up has no head
        own = {name: shape for name, shape in own.items() if not name.startswith("sem_seg_head.")}
    assert own == released
    expected = json.loads((KEYS / f"trainable_{trainable}.json").read_text())
    assert sorted(model.trainable_names()) == sorted(expected)
    exempt = {"mask_adapter.norm.weight", "mask_adapter.norm.bias", "void_embedding.weight"}
    names = {id(p): n for n, p in model.named_parameters()}
    for group in build_optimizer(model, model.parameter_groups(), params=params).param_groups:
        assert group["lr"] == 1e-4
        for parameter in group["params"]:
            decayed = group["weight_decay"] == params.train.weight_decay
            assert decayed == (names[id(parameter)] not in exempt)


def test_released_form(build, variant, tiny_params, tmp_path):
    model = prepared(build, variant)
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "adapter.pth")
    out = tmp_path / "out.safetensors"
    params = tiny_params.for_variant(variant)
    convert_released(params, tmp_path / "adapter.pth", out, name="adapter", num_training_classes=3)
    load_weights(model, out)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
