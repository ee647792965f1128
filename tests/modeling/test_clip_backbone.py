import json

import pytest
import torch
from safetensors.torch import load_file

from maftp.errors import CheckpointError, ParamsError
from maftp.modeling.clip_backbone import (
    ClipBackbone,
    create_clip,
    fetch_clip,
    find_pretrained,
    load_clip_weights,
)


@pytest.fixture(scope="module")
def backbone(tiny_params):
    torch.manual_seed(0)
    return ClipBackbone.from_params(tiny_params, weights=None)


def test_features_at_four_strides(backbone):
    features = backbone(torch.randn(1, 3, 64, 96))
    shapes = {name: tuple(feature.shape[1:]) for name, feature in features.items()}
    assert shapes == {
        "res2": (24, 16, 24),
        "res3": (32, 8, 12),
        "res4": (48, 4, 6),
        "res5": (64, 2, 3),
    }
    assert backbone.channels == {"res2": 24, "res3": 32, "res4": 48, "res5": 64}


def test_visual_head_of_pooled_dense_is_open_clip_s_image_embedding(backbone):
    images = torch.randn(2, 3, 64, 64)
    pooled = backbone(images)["res5"].mean((-2, -1))
    expected = backbone.clip_model.encode_image(images)
    torch.testing.assert_close(backbone.visual_head(pooled), expected, atol=1e-5, rtol=1e-5)


def test_visual_head_keeps_leading_shape(backbone):
    tokens = torch.randn(2, 5, 64)
    embedded = backbone.visual_head(tokens)
    assert embedded.shape == (2, 5, 32)
    torch.testing.assert_close(embedded[1, 3:4], backbone.visual_head(tokens[1, 3:4]))


def test_text_cut_after_the_longest_sentence_is_exact(backbone):
    sentences = ["a photo of a red circle.", "sky", "This is a photo of a large traffic light."]
    full = backbone.clip_model.encode_text(backbone.tokenizer(sentences))
    torch.testing.assert_close(backbone.encode_text(sentences), full, atol=1e-5, rtol=1e-4)
    # open_clip's own positions are untouched afterwards
    assert backbone.clip_model.positional_embedding.shape[0] == 32


def test_training_mode_drops_no_block(backbone):
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(backbone(images)["res5"], backbone(images)["res5"])


def test_stochastic_depth_on_request(tiny_params):
    clip = tiny_params.clip.model_copy(update={"stochastic_depth": True})
    params = tiny_params.model_copy(update={"clip": clip})
    backbone = ClipBackbone.from_params(params, weights=None)
    torch.nn.init.ones_(backbone.clip_model.visual.trunk.stages[3].blocks[-1].gamma)
    images = torch.randn(4, 3, 64, 64)
    backbone.train()
    assert not torch.equal(backbone(images)["res5"], backbone(images)["res5"])
    assert not backbone.clip_model.transformer.training
    backbone.eval()
    assert torch.equal(backbone(images)["res5"], backbone(images)["res5"])


def test_frozen_until_asked_and_head_stays_frozen(tiny_params):
    backbone = ClipBackbone.from_params(tiny_params, weights=None)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    backbone.unfreeze_trunk()
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    prefix = "clip_model.visual.trunk."
    assert all(name.startswith((f"{prefix}stem.", f"{prefix}stages.")) for name in trained)
    assert f"{prefix}stem.0.weight" in trained


def test_frozen_copy_shares_nothing(backbone):
    teacher = backbone.frozen_copy(trunk_only=True)
    assert all(name.startswith("clip_model.visual.trunk.") for name in teacher.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(teacher(images)["res5"], backbone(images)["res5"])
    pointers = {parameter.data_ptr() for parameter in backbone.parameters()}
    assert not pointers & {parameter.data_ptr() for parameter in teacher.parameters()}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_text_digest_depends_on_the_text_tower_only(tiny_params):
    backbone = ClipBackbone.from_params(tiny_params, weights=None)
    before = backbone.text_digest()
    with torch.no_grad():
        backbone.clip_model.visual.trunk.stem[0].weight.add_(1)
    assert backbone.text_digest() == before
    with torch.no_grad():
        backbone.clip_model.ln_final.weight.add_(1)
    assert backbone.text_digest() != before


def test_pretrained_weights_round_trip(tiny_params, tmp_path):
    clip_model = create_clip(tiny_params.clip)
    torch.save(clip_model.state_dict() | {"attn_mask": torch.zeros(32, 32)}, tmp_path / "clip.pt")
    clip = tiny_params.clip.model_copy(update={"pretrained": str(tmp_path / "clip.pt")})
    fetch_clip(clip, tmp_path / "out" / "clip.safetensors")
    written = load_file(tmp_path / "out" / "clip.safetensors")
    assert set(written) == set(clip_model.state_dict())
    other = create_clip(tiny_params.clip)
    load_clip_weights(other, tmp_path / "out" / "clip.safetensors")
    assert torch.equal(other.token_embedding.weight, clip_model.token_embedding.weight)


def test_wrong_pretrained_weights(tiny_params, tmp_path):
    state = create_clip(tiny_params.clip).state_dict()
    state.pop("ln_final.weight")
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match="clip.pt.*1 missing: ln_final.weight"):
        load_clip_weights(create_clip(tiny_params.clip), tmp_path / "clip.pt")


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"config": "no/such.json"}, "clip.config: no file no/such.json"),
        ({"config": None, "model": "no_such_clip"}, "open_clip has no model 'no_such_clip'"),
        ({"config": None, "model": "coca_base"}, "is not a plain CLIP model"),
    ],
)
def test_wrong_clip_model(tiny_params, update, message):
    with pytest.raises(ParamsError, match=message):
        create_clip(tiny_params.clip.model_copy(update=update))


def test_only_convnext_towers(tiny_params, tmp_path):
    config = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 1, "width": 64, "patch_size": 16, "image_size": 32},
        "text_cfg": {"width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "maftp_vit.json").write_text(json.dumps(config))
    update = {"model": "maftp_vit", "config": str(tmp_path / "maftp_vit.json")}
    params = tiny_params.model_copy(update={"clip": tiny_params.clip.model_copy(update=update)})
    with pytest.raises(ParamsError, match="choose an open_clip model with a ConvNeXt tower"):
        ClipBackbone.from_params(params, weights=None)


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"pretrained": "no/such.safetensors"}, "no such CLIP weight file"),
        ({"model": "convnext_base_w_320", "pretrained": "laion_nope"}, "tags: laion_aesthetic"),
    ],
)
def test_missing_pretrained_weights(tiny_params, update, message):
    with pytest.raises((CheckpointError, ParamsError), match=message):
        find_pretrained(tiny_params.clip.model_copy(update=update))
