"""A model small enough to build in a moment: tiny ConvNeXt CLIP, width 32, 3 decoder layers."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from maftp.config import Params, load_params
from maftp.modeling.build import build_model

ROOT = Path(__file__).resolve().parents[2]

TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {
        "timm_model_name": "test_convnext",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "timm_drop": 0.0,
        "timm_drop_path": 0.5,
        "image_size": 64,
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


@pytest.fixture(scope="session")
def tiny_params(tmp_path_factory) -> Params:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "maftp_tiny.json").write_text(json.dumps(TINY_CLIP))
    overlay = {
        "experiment": "tiny",
        "clip": {
            "model": "maftp_tiny",
            "config": str(folder / "maftp_tiny.json"),
            "pretrained": str(folder / "clip.safetensors"),
        },
        "model": {"num_queries": 6, "hidden_dim": 32, "cdt": {"num_heads": 4}},
        "train": {"num_points": 64},
        "variants": {
            "maftp": {},
            "fcclip": {"model": {"name": "fcclip"}},
            "ovrcoat": {"model": {"name": "ovrcoat"}},
            "maskclippp": {
                "model": {
                    "name": "maskclippp",
                    "maskclippp": {"student_short_side": 64, "proposal_short_side": 96},
                }
            },
            "over_fcclip": {"model": {"name": "mask_adapter", "mask_adapter": {"width": 16}}},
            "over_maftp": {
                "model": {
                    "name": "mask_adapter",
                    "mask_adapter": {"width": 16, "family": "maftp", "mask_cut": 0.45},
                }
            },
        },
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(overlay, sort_keys=False))
    return load_params(ROOT / "params.yaml", folder / "tiny.yaml")


@pytest.fixture
def build(tiny_params):
    """Build a tiny model: build("maftp", train={"rc_weight": 0.0}, ...)."""

    def make(variant="maftp", *, teacher=True, classes=3, whole_teacher=False, **blocks):
        torch.manual_seed(0)
        params = tiny_params.for_variant(variant)
        for name, values in blocks.items():
            block = getattr(params, name).model_copy(update=values)
            params = params.model_copy(update={name: block})
        return build_model(
            params,
            num_training_classes=classes,
            load_clip=None,
            teacher=teacher,
            whole_teacher=whole_teacher,
        )

    return make


@pytest.fixture
def batch():
    """Two images of different sizes with two ground-truth masks each."""
    from detectron2.structures import Instances

    generator = torch.Generator().manual_seed(0)
    items = []
    for height, width in ((128, 160), (96, 128)):
        instances = Instances((height, width))
        instances.gt_classes = torch.tensor([0, 2])
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, : height // 2] = True
        masks[1, height // 2 :, : width // 2] = True
        instances.gt_masks = masks
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        items.append({"image": image, "instances": instances})
    return items
