"""A training step stays a step of few operators: each is a launch that a GPU waits for."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
import yaml
from timm.models import register_model
from timm.models.convnext import ConvNeXt, _create_convnext

from maftp.config import Params, load_params
from maftp.data.loader import _pinned
from maftp.modeling.build import build_model
from maftp.modeling.segmenter import Segmenter
from maftp.training.distributed import NextAction, Worker, gather_batch
from maftp.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benchmarks"))
import operators  # noqa: E402  # its folder had to be found first
import subject  # noqa: E402

CLASSES = 7


@register_model
def maftp_narrow_base(pretrained: bool = False, **options: object) -> ConvNeXt:
    """ConvNeXt-Base's blocks at an eighth of its width and less."""
    shape = {"depths": [3, 3, 27, 3], "dims": [8, 16, 24, 32]}
    return _create_convnext("maftp_narrow_base", pretrained=pretrained, **shape, **options)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Segmenter, Params]:
    """MAFT+ Base as the paper has it but for its widths: blocks, layers, heads and levels."""
    folder = tmp_path_factory.mktemp("narrow")
    vision = {"timm_model_name": "maftp_narrow_base", "timm_model_pretrained": False}
    vision |= {"timm_pool": "", "timm_proj": "linear", "timm_drop": 0.0, "timm_drop_path": 0.0}
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    clip = {"embed_dim": 32, "vision_cfg": vision | {"image_size": 64}, "text_cfg": text}
    (folder / "maftp_narrow.json").write_text(json.dumps(clip))
    overlay = {
        "clip": {"model": "maftp_narrow", "config": str(folder / "maftp_narrow.json")},
        "model": {"hidden_dim": 32, "num_queries": 12},
        "train": {"num_points": 64, "amp": False},
    }
    (folder / "narrow.yaml").write_text(yaml.safe_dump(overlay))
    files = ROOT / "params.yaml", ROOT / "workflow/experiments/maftp_base.yaml"
    params = load_params(*files, folder / "narrow.yaml").for_variant("maftp")
    assert (params.model.encoder_layers, params.model.decoder_layers) == (6, 9)
    torch.manual_seed(0)
    model = build_model(params, num_training_classes=CLASSES, load_clip=None, teacher=True)
    model.set_training_vocabulary(*subject.vocabulary(CLASSES, model.backbone.embed_dim))
    return model, params


def batch(images: int) -> list[dict[str, object]]:
    return [
        subject.training_item(64, 128, num_masks=3, num_classes=CLASSES, seed=index)
        for index in range(images)
    ]


def test_a_step_of_base_has_at_most_2500_operators_and_300_more_an_image(base):
    counts = [operators.count(*base, batch(images)) for images in (1, 2, 3)]
    one, two, three = (count.total for count in counts)
    assert one <= 2500, counts[0].places.most_common(20)
    assert two - one <= 300 and three - two <= 300, counts[2].places.most_common(20)
    waits = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim"}
    assert not waits & set(counts[2].names)  # a GPU's host would stop at each of these


def test_a_step_with_autocast_casts_weights_together(base):
    model, params = base
    mixed = params.train.model_copy(update={"amp": True, "amp_dtype": "bfloat16"})
    counted = operators.count(model, params.model_copy(update={"train": mixed}), batch(1))
    assert counted.total <= 3300, counted.places.most_common(20)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_host_waits_twice_in_a_step(base):
    """For the costs of the matching, and for the losses when all else is on its way."""
    worker = Worker(device=torch.device("cuda"))
    model, params = base
    trainer = Trainer(model, params=params, seed=0, folder=ROOT, worker=worker)
    items = [_pinned(item) for item in batch(2)]
    whole = gather_batch(items, action=NextAction.CONTINUE, worker=worker)
    trainer.step(items, whole, step=0)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.step(items, whole, step=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        model.cpu()
    waits = [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing" in str(w.message)]
    assert len(waits) <= 2, waits


def test_timm_knows_the_narrow_trunk_for_this_test_only():
    assert "maftp_narrow_base" in timm.list_models()
