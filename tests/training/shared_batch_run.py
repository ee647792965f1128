"""Train the real model for a few steps with the batch shared out in several ways; no Ray.

Usage: shared_batch_run.py OUT; writes OUT/{workers}x{images}.json, a list of rows, and weights.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from detectron2.structures import BitMasks, Instances
from torch import nn

from maftp.config import Params, load_params, parse_params
from maftp.data.loader import training_batches
from maftp.modeling.build import build_model
from maftp.training.distributed import Worker
from maftp.training.worker import train

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("sky", "grass", "red car", "boat,ship")
WAYS = ((1, None), (2, None), (4, None), (1, 2))
"""Workers, and images per pass where a worker takes its share in several."""


def params(workers: int, images: int | None) -> Params:
    """The miniature experiment at the size of the workflow's smallest test, 8 images a step."""
    files = (ROOT / "params.yaml", ROOT / "tests/workflow/smoke.yaml")
    values = load_params(*files).for_variant("maftp").model_dump(mode="python")
    values["train"] |= {
        "iterations": 3, "batch_size": 8,
    }  # fmt: skip
    values["execution"] |= {
        "workers": workers, "micro_batch_size": images, "log_period": 1, "checkpoint_period": 100,
    }  # fmt: skip
    return parse_params(values, source="tests")


def sample(record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """An image of coloured stripes whose size and number of masks the generator decides."""
    height, width = 32 * rng.integers(2, 4), 32 * 4 + 8 * rng.integers(0, 5)
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    instances = Instances((int(height), int(width)))
    classes = rng.permutation(len(CLASSES))[: rng.integers(0, len(CLASSES) + 1)]
    stripes = torch.arange(width) * len(CLASSES) // width
    instances.gt_classes = torch.from_numpy(classes.astype(np.int64))
    masks = stripes[None] == torch.from_numpy(classes)[:, None]
    instances.gt_masks = BitMasks(masks[:, None].expand(-1, int(height), -1))
    return {"image": image, "instances": instances, "file_name": f"{record['number']}.jpg"}


def work(out: Path, workers: int, images: int | None, rank: int) -> None:
    """Be one of the workers."""
    torch.set_num_threads(1)
    store = f"file://{out}/{workers}x{images}.store"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=workers)
    recipe = params(workers, images)
    torch.manual_seed(0)
    model: nn.Module = build_model(
        recipe,
        num_training_classes=len(CLASSES),
        load_clip=ROOT / recipe.clip.pretrained,
        teacher=True,
    )
    model.set_training_vocabulary(CLASSES)
    records = [{"number": n, "width": 2 + n % 2, "height": 2} for n in range(20)]

    def batches(start: int) -> Any:
        return training_batches(
            records, sample, batch_size=8, seed=0, start_iteration=start, rank=rank,
            world_size=workers,
        )  # fmt: skip

    rows: list[dict[str, float]] = []
    folder = out / f"{workers}x{images or 8 // workers}"
    train(
        model,
        batches,
        params=recipe,
        seed=0,
        folder=folder / "checkpoints",
        report=lambda row, path: rows.append(row),
        facts={"run": "abc"},
        worker=Worker(rank=rank, world_size=workers),
    )
    if rank == 0:
        (folder / "rows.json").write_text(json.dumps(rows))


def main(out: Path) -> None:
    """Fork the workers of each way, one way after the other."""
    for workers, images in WAYS:
        children = []
        for rank in range(workers):
            child = os.fork()
            if child == 0:
                work(out, workers, images, rank)
                sys.stdout.flush()
                os._exit(0)
            children.append(child)
        codes = [os.waitpid(child, 0)[1] for child in children]
        if any(codes):
            sys.exit(f"{workers} workers ended with {codes}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
