"""Converted data sets of two images and three classes, and an untrained model of tiny size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import save_file

from maftp.config import Params, load_params
from maftp.data.catalog import Catalog, load_catalog
from maftp.modeling.build import build_model

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ["sky", "grass,lawn", "cat"]
CHALLENGE = "ade/ADEChallengeData2016"
TINY_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {
        "timm_model_name": "test_convnext",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 64,
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 1,
    },
}


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load_catalog()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write what the conversions of the A-150 sets make."""
    root = tmp_path / "datasets"
    for folder in ("images", "annotations_detectron2", "ade20k_panoptic_val"):
        below = "" if folder == "ade20k_panoptic_val" else "validation"
        (root / CHALLENGE / folder / below).mkdir(parents=True)
    (root / "vocabularies").mkdir()
    (root / "manifests").mkdir()
    write_vocabulary(root, "ade20k_150", CLASSES)
    write_vocabulary(root, "coco_stuff", ["lawn,meadow", "dog"])
    names = ["one", "two"]
    annotations = [write_image(root, name, number) for number, name in enumerate(names)]
    things = [{"id": 2, "name": "cat", "isthing": 1}]
    categories = [{"id": k, "name": CLASSES[k], "isthing": 0} for k in (0, 1)] + things
    panoptic = {"categories": categories, "annotations": [pan for pan, _ in annotations]}
    (root / CHALLENGE / "ade20k_panoptic_val.json").write_text(json.dumps(panoptic))
    instances = {
        "images": [{"id": name, "height": 48, "width": 64} for name in names],
        "categories": things,
        "annotations": [instance for _, instance in annotations],
    }
    (root / CHALLENGE / "ade20k_instance_val.json").write_text(json.dumps(instances))
    for name, known in (("150", []), ("panoptic", categories), ("instance", things)):
        manifest = root / "manifests" / f"ade20k_{name}.json"
        manifest.write_text(json.dumps({"categories": known}))
        rows = "".join(f"{stem},64,48,1\n" for stem in names)
        (root / "manifests" / f"ade20k_{name}_val.csv").write_text(
            "stem,width,height,trainable\n" + rows
        )
    return root


def write_vocabulary(root: Path, stem: str, names: list[str]) -> None:
    rows = ["0:invalid_class_id", *(f"{k}:{name}" for k, name in enumerate(names, start=1))]
    (root / "vocabularies" / f"{stem}_with_prompt_eng.txt").write_text("\n".join(rows))


def write_image(root: Path, stem: str, number: int) -> tuple[dict, dict]:
    """Write sky above grass and a cat; return the panoptic and the instance annotation."""
    folder = root / CHALLENGE
    label = np.repeat(np.array([0, 1], np.uint8), 24)[:, None].repeat(64, axis=1)
    label[10:40, 10 + number : 40] = 2
    noise = np.random.default_rng(number).integers(0, 80, (48, 64, 3))
    Image.fromarray((label[..., None] * 60 + noise).astype(np.uint8)).save(
        folder / "images" / "validation" / f"{stem}.jpg"
    )
    Image.fromarray(label).save(folder / "annotations_detectron2" / "validation" / f"{stem}.png")
    ids = np.stack([label + 1, label * 0, label * 0], axis=-1)
    Image.fromarray(ids).save(folder / "ade20k_panoptic_val" / f"{stem}.png")
    areas = np.bincount(label.ravel()).tolist()
    segments = [
        {"id": k + 1, "category_id": k, "area": area, "bbox": [0, 0, 1, 1], "iscrowd": 0}
        for k, area in enumerate(areas)
    ]
    panoptic = {"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments}
    code = coco_mask.encode(np.asfortranarray(label == 2))
    mask = {"size": code["size"], "counts": code["counts"].decode()}
    common = {"id": number + 1, "image_id": stem, "category_id": 2, "iscrowd": 0}
    return panoptic, common | {"segmentation": mask, "area": areas[2], "bbox": [0, 0, 1, 1]}


@pytest.fixture(scope="session")
def params(tmp_path_factory: pytest.TempPathFactory) -> Params:
    folder = tmp_path_factory.mktemp("params")
    (folder / "clip.json").write_text(json.dumps(TINY_CLIP))
    overlay = {
        "experiment": "tiny",
        "data": {"catalog": None},
        "input": {"test": {"short_side": 64, "max_side": 96}},
        "clip": {"model": "clip", "config": str(folder / "clip.json"), "templates": 1},
        "model": {"num_queries": 6, "hidden_dim": 32, "cdt": {"num_heads": 4}},
        "evaluate": {"object_threshold": 0.0, "overlap_threshold": 0.0, "overlays": 1},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(overlay))
    return load_params(ROOT / "params.yaml", folder / "tiny.yaml")


@pytest.fixture(scope="session")
def weights(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the checkpoint of an untrained model of a variant."""
    folder = tmp_path_factory.mktemp("weights")

    def make(variant: str) -> Path:
        path = folder / f"{variant}.safetensors"
        if not path.exists():
            torch.manual_seed(1)  # with 0 all masks of MAFT+ are empty
            model = build_model(
                params.for_variant(variant), num_training_classes=2, load_clip=None, teacher=False
            )
            save_file({name: tensor.clone() for name, tensor in model.state_dict().items()}, path)
        return path

    return make
