"""What makes a step or an evaluation cheaper changes no number: ours against the plain recipe."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from detectron2.structures import Instances

from maftp.config import load_params
from maftp.modeling.build import build_model

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("textbook", ROOT / "benchmarks" / "textbook.py")
sys.modules["textbook"] = textbook = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(textbook)
NAMES = ["cat,kitten,tomcat", "dog", "sky,cloud", "grass"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny MAFT+ whose teacher differs from its student."""
    folder = tmp_path_factory.mktemp("tiny")
    vision = {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": ""}
    vision |= {"timm_proj": "linear", "timm_drop": 0.0, "timm_drop_path": 0.0, "image_size": 64}
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    clip = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}
    (folder / "maftp_bench.json").write_text(json.dumps(clip))
    overlay = {
        "clip": {"model": "maftp_bench", "config": str(folder / "maftp_bench.json")},
        "model": {"num_queries": 9, "hidden_dim": 32, "cdt": {"num_heads": 4}},
        "train": {"num_points": 128},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    params = load_params(ROOT / "params.yaml", folder / "tiny.yaml").for_variant("maftp")
    torch.manual_seed(0)
    model = build_model(params, num_training_classes=4, load_clip=None, teacher=True)
    with torch.no_grad():
        for parameter in model.backbone_t.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.set_training_vocabulary(NAMES)
    return model


def items():
    generator = torch.Generator().manual_seed(0)
    batch = []
    for height, width, count in ((128, 160, 3), (96, 128, 1)):
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        instances = Instances((height, width))
        instances.gt_classes = torch.arange(count)
        instances.gt_masks = torch.rand(count, height, width, generator=generator) > 0.6
        batch.append({"image": image, "instances": instances, "height": height, "width": width})
    return batch


def step(model):
    torch.manual_seed(1)
    model.zero_grad()
    losses = model.train()(items())
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def test_a_step_has_the_losses_and_gradients_of_the_plain_recipe(model):
    losses, gradients = step(model)
    gradients = {name: gradient.clone() for name, gradient in gradients.items()}
    with textbook.textbook_step():
        plain_losses, plain_gradients = step(model)
    assert len(losses) == 14 and losses.keys() == plain_losses.keys()
    assert losses["rc_loss"] > 0 and losses["ranking_loss"] > 0
    for name, loss in losses.items():
        torch.testing.assert_close(loss, plain_losses[name], rtol=1e-4, atol=1e-6, msg=name)
    assert gradients.keys() == plain_gradients.keys()
    for name, gradient in gradients.items():
        plain = plain_gradients[name]
        # 5e-6: a bias before a normalisation has no gradient but rounding
        assert (gradient - plain).norm() < 5e-5 * plain.norm() + 5e-6, name


@pytest.mark.parametrize("panoptic", [False, True])
def test_an_evaluation_has_the_labels_of_the_plain_recipe(model, panoptic):
    model.eval().set_test_vocabulary(NAMES, things=[0] if panoptic else [])
    model.semantic_output = "labels"
    results = []
    with torch.inference_mode():
        results.append(model(items()))
        with textbook.textbook_evaluation():
            results.append(model(items()))
    for ours, plain in zip(*results, strict=True):
        assert torch.equal(ours["labels"], plain["labels"])
        if panoptic:
            assert torch.equal(ours["panoptic_seg"][0], plain["panoptic_seg"][0])
            assert ours["panoptic_seg"][1] == plain["panoptic_seg"][1]


def test_one_pass_of_the_student(model):
    passes = []
    hook = model.backbone.register_forward_hook(lambda *_: passes.append(1))
    step(model)
    assert len(passes) == 1
    with textbook.textbook_step():
        step(model)
    assert len(passes) == 1 + 2
    hook.remove()
