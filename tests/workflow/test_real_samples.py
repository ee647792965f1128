"""Real photographs and annotations through the same pipeline, as an experiment of their own.

Two photographs of COCO 2017 with their panoptic annotation and one image of the full ADE20K,
with the smallest miniature model's weights: scores are low, and the table says whose they are.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import cv2
import pandas as pd
import pytest
import yaml

from tests.workflow.conftest import ROOT, Checkout, make_checkout

SAMPLES = ROOT.parent / "shared" / "samples"
ADE_STEM = "ADE_train_00016900"
# Train index of every id on the image: data of the public table, told apart by their pixel counts.
KNOWN_IDS = {
    1: 312, 2: 2420, 3: 2855, 4: 2131, 8: 2377, 11: 1831, 14: 401, 89: 2928, 91: 77, 93: 2880,
    103: 1563, 108: 187, 157: 2901, 160: 597, 245: 118, 590: 1231,
}  # fmt: skip
ADE_HISTOGRAM = {
    1: 69054, 2: 3031, 3: 87856, 4: 11344, 8: 120281, 11: 1659, 14: 27383, 89: 537, 91: 954,
    93: 1222, 103: 15972, 108: 1321, 157: 724, 160: 1121, 245: 487, 590: 1332,
}  # fmt: skip
ADE_SHA256 = "e7a3ba89e57e1cd800d6d5249648fa0747317b05944894dd2b985bca98831fa3"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SAMPLES.is_dir(), reason="the real samples are not on this machine"),
]


def pack(archive: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in sorted(files.items()):
            target.writestr(name, content)


def serve_samples(folder: Path) -> Path:
    """Pack the samples as the official archives and return the catalog that serves them."""
    folder.mkdir()
    coco, ade = SAMPLES / "coco_panoptic", SAMPLES / "ade20k_full" / "ADE20K_2021_17_01"
    images = {f"val2017/{f.name}": f.read_bytes() for f in (coco / "input_images").iterdir()}
    pack(folder / "val2017.zip", images)
    inner = folder / "inner.zip"
    labels = (coco / "panoptic_examples").iterdir()
    pack(inner, {f"panoptic_val2017/{f.name}": f.read_bytes() for f in labels})
    annotations = {
        "annotations/panoptic_val2017.json": (coco / "panoptic_examples.json").read_bytes(),
        "annotations/panoptic_val2017.zip": inner.read_bytes(),
    }
    pack(folder / "panoptic.zip", annotations)
    tree = {f"{ade.name}/{f.relative_to(ade)}": f for f in ade.rglob("*") if f.is_file()}
    pack(folder / "ade.zip", {name: file.read_bytes() for name, file in tree.items()})
    ids = [KNOWN_IDS.get(index, 4000 + index) for index in range(847)]
    rows = [{"name": str(i), "id": value, "trainId": i} for i, value in enumerate(ids)]
    (folder / "ids.py").write_text(f"ADE20K_SEM_SEG_FULL_CATEGORIES = {rows!r}\n")
    catalog = folder / "sources.yaml"
    catalog.write_text(yaml.safe_dump(overlay(), sort_keys=False))
    return catalog


def overlay() -> dict:
    here = "file://{here}"
    panoptic = ["coco/annotations/panoptic_val2017.json", "coco/panoptic_val2017"]
    names = (SAMPLES / "vocabularies").as_uri()
    vocabularies = {
        f"vocabulary_{stem}": {"url": f"{names}/{stem}_with_prompt_eng.txt"}
        for stem in ("ade20k_847", "coco_panoptic", "coco_stuff")
    }
    return {
        "sources": {
            "coco_val2017": {"url": f"{here}/val2017.zip"},
            "coco_panoptic_annotations": {
                "url": f"{here}/panoptic.zip",
                "nested": ["annotations/panoptic_val2017.zip"],
                "makes": panoptic,
            },
            "ade20k_full": {"url": f"{here}/ade.zip"},
            "ade20k_847_table": {"url": f"{here}/ids.py"},
            **vocabularies,
        },
        "datasets": {
            "coco_panoptic_val": {"splits": {"val": {"count": 2}}},
            "ade20k_847": {
                "id_table_sha256": None,
                "splits": {"train": {"count": 1}, "val": {"count": 0}},
            },
        },
        "benchmarks": {"A-847": {"split": "train"}},
    }


@pytest.fixture(scope="module")
def scored(finished, tmp_path_factory) -> Checkout:
    folder = tmp_path_factory.mktemp("samples")
    checkout = make_checkout(folder / "checkout")
    catalog = serve_samples(folder / "served")
    weights = finished.path / "results/smoke/maftp/seed0/weights.safetensors"
    experiment = {
        "experiment": "real_samples",
        "benchmarks": ["A-847", "COCO-panoptic"],
        "data": {"root": "datasets/samples", "catalog": str(catalog), "world": None},
        "input": {"test": {"short_side": 256, "max_side": 512}},
        "weights": str(weights),
        "variants": {"maftp": {}},
    }
    (checkout.path / "samples.yaml").write_text(yaml.safe_dump(experiment))
    checkout.snakemake("results/table.csv", params=["smoke.yaml", "samples.yaml"])
    return checkout


def test_the_table_says_whose_scores_these_are(scored):
    table = pd.read_csv(scored.path / "results/table.csv")
    assert list(table.experiment) == ["real_samples"]
    assert 0 <= table["A-847"][0] <= 100
    assert "Not comparable" in scored.read("results/table.md")


def test_the_full_ade20k_image_converts_to_the_published_labels(scored):
    folder = scored.path / "datasets/samples/ade/ADE20K_2021_17_01/annotations_detectron2/training"
    label = cv2.imread(str(folder / f"{ADE_STEM}.tif"), cv2.IMREAD_UNCHANGED)
    assert label.shape == (512, 683) and label.dtype == "uint16"
    assert hashlib.sha256(label.astype("<u2").tobytes()).hexdigest() == ADE_SHA256
    manifest = json.loads(scored.read("datasets/samples/manifests/ade20k_847.json"))
    pixels = manifest["splits"]["train"]["pixels"]
    assert {index: count for index, count in enumerate(pixels) if count} == ADE_HISTOGRAM


def test_coco_ground_truth_is_complete(scored):
    scores = json.loads(
        scored.read("results/real_samples/maftp/seed0/evaluation/COCO-panoptic.json")
    )
    assert scores["metric"] == "panoptic"
    manifest = json.loads(scored.read("datasets/samples/manifests/coco_panoptic_val.json"))
    assert manifest["splits"]["val"]["images"] == 2
    assert manifest["classes"] == 133


def test_pictures_are_drawn(scored):
    folder = scored.path / "results/real_samples/maftp/seed0/evaluation"
    assert list((folder / "A-847").glob("*.png")) and list((folder / "COCO-panoptic").glob("*.png"))
