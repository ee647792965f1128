"""Finished runs of a made-up experiment: two variants, a control, two seeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from maftp.api import DEFAULT_PARAMS
from maftp.config import load_params

PARAMS = load_params(DEFAULT_PARAMS)
CLASSES = ["sky,heaven", "grass", "cat", "red car,car"]
SEEN = [True, True, False, False]
BENCHMARKS = ["A-150", "PC-59", "ADE-panoptic"]
VARIANTS = ["maftp", "fcclip", "fcclip_shuffled"]
SEEDS = [0, 1]


def write_run(results: Path, variant: str, seed: int, quality: float) -> None:
    """Write manifest, history, evaluations and statistics; `quality`: right pixels of one."""
    run = results / variant / f"seed{seed}"
    rng = np.random.default_rng([len(variant), seed])
    for benchmark in BENCHMARKS:
        write_evaluation(run, benchmark, quality, rng)
    if not variant.endswith("shuffled"):
        manifest = {
            "commit": "c0ffee", "dirty": False, "params_digest": variant, "device": "cpu",
            "platform": "Linux", "inputs": {"clip": "12ab"}, "packages": {"torch": "2"},
            "training_seconds": 60.0 * (seed + 1), "trainable_parameters": 2_000_000,
            "peak_host_memory_mb": 900, "command": ["maftp", "train"], "seed": seed,
            "params": PARAMS.for_variant(variant).model_dump(mode="json"),
        }  # fmt: skip
        (run / "manifest.json").write_text(json.dumps(manifest))
        rows = [f"{step},{9 / step},{3 / step},{1 / step}" for step in range(1, 30)]
        text = "step,loss_ce,loss_mask,rc_loss\n" + "\n".join(rows) + "\n"
        (run / "history.csv").write_text(text)


def write_evaluation(run: Path, benchmark: str, quality: float, rng: np.random.Generator) -> None:
    panoptic = benchmark == "ADE-panoptic"
    iou = 100 * np.clip(quality + rng.uniform(-0.1, 0.1, len(CLASSES)), 0, 1)
    scores = {"PQ": iou.mean(), "SQ": 60.0, "RQ": 50.0}
    if not panoptic:
        scores = {"mIoU_b": iou.mean(), "mIoU_a": 0.9 * iou.mean(), "images": 8}
    per_class = [
        {"id": k, "name": name, "seen": SEEN[k], ("PQ" if panoptic else "IoU"): iou[k]}
        for k, name in enumerate(CLASSES)
    ]
    result = {
        "metric": "panoptic" if panoptic else "semantic",
        "scores": scores,
        "per_class": per_class,
        "provenance": {"weights_sha256": "34", "vocabulary_sha256": "56", "device": "cpu"},
    }
    folder = run / "evaluation" / f"{benchmark}.statistics"
    folder.mkdir(parents=True)
    (run / "evaluation" / f"{benchmark}.json").write_text(json.dumps(result))
    if panoptic:
        lines = ["image,class,iou,true_positives,false_positives,false_negatives"]
        lines += [f"i{n},{k},{iou[k] / 100:.4f},1,0,{n % 2}" for n in range(8) for k in range(4)]
        (folder / "images.csv").write_text("\n".join(lines) + "\n")
        return
    correct = rng.integers(int(80 * quality), int(100 * quality) + 1, (8, 4))
    lines = ["image,class,correct,truth,predicted"]
    lines += [f"i{n},{k},{correct[n, k]},100,100" for n in range(8) for k in range(4)]
    (folder / "images.csv").write_text("\n".join(lines) + "\n")
    pairs = ["truth,predicted,pixels"]
    for k in range(4):
        right = int(correct[:, k].sum())
        pairs += [f"{k},{k},{right}", f"{k},{(k + 1) % 4},{800 - right}"]
    (folder / "confusion.csv").write_text("\n".join(pairs) + "\n")


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Return results/made_up with finished runs; tests must not change it."""
    folder = tmp_path_factory.mktemp("results") / "made_up"
    qualities = {"maftp": 0.6, "fcclip": 0.4, "fcclip_shuffled": 0.15}
    for variant, quality in qualities.items():
        for seed in SEEDS:
            write_run(folder, variant, seed, quality)
    return folder
