"""Training throughput when one batch is shared out among workers, and the work in a full-size step.

    python benchmarks/scaling.py [--steps 6] [--repeats 3] [--out benchmarks/results/scaling]
    python benchmarks/scaling.py --full-size

The first form trains MAFT+ of the miniature experiment on drawn images, 8 a step, with the loop of
`maftp train` in processes of one thread each, joined by gloo; Ray only starts such processes. The
wall clock decides what a user waits for, but not on a machine that does other work at the same
time; processor time per image is nearly free of that.

The second form counts the floating-point operations of one training step of MAFT+ Base on one image
of 800 x 1067 pixels, with random weights: what docs/clusters.md estimates other machines from.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from detectron2.structures import BitMasks, Instances
from torch.utils.flop_counter import FlopCounterMode

from maftp.config import Params, load_params, parse_params
from maftp.data.loader import training_batches
from maftp.modeling.build import build_model
from maftp.training.distributed import Worker
from maftp.training.worker import train

ROOT = Path(__file__).resolve().parent.parent
CLASSES = tuple(f"class {index}" for index in range(20))
BATCH = 8
WAYS = ((1, None), (1, 2), (2, None), (4, None))
"""Workers, and images per pass where a worker takes its share in several."""


def miniature(workers: int, images: int | None, steps: int) -> Params:
    """Return the miniature experiment's parameters; the second half of the steps is measured."""
    values = load_params(ROOT / "params.yaml").for_variant("maftp").model_dump(mode="python")
    values["clip"]["config"] = str(ROOT / values["clip"]["config"])
    values["train"] |= {
        "iterations": 2 * steps, "batch_size": BATCH,
    }  # fmt: skip
    values["execution"] |= {
        "workers": workers, "cpus_per_worker": 1, "micro_batch_size": images,
        "log_period": steps, "checkpoint_period": 2 * steps,
    }  # fmt: skip
    return parse_params(values, source="benchmark")


def draw(record: dict[str, int], rng: np.random.Generator, *, height: int, width: int) -> Any:
    """Return a noisy image with six of the classes in upright stripes."""
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    classes = torch.from_numpy(rng.permutation(len(CLASSES))[:6].copy())
    stripes = classes[torch.arange(width) * len(classes) // width]
    instances = Instances((height, width))
    instances.gt_classes = classes
    masks = (stripes[None] == classes[:, None])[:, None]
    instances.gt_masks = BitMasks(masks.expand(-1, height, -1).contiguous())
    return {"image": image, "instances": instances, "file_name": f"{record['number']}.jpg"}


def build(params: Params, clip: Path | None) -> torch.nn.Module:
    """Return the model in its initial state."""
    torch.manual_seed(0)
    model = build_model(params, num_training_classes=len(CLASSES), load_clip=clip, teacher=True)
    model.set_training_vocabulary(CLASSES)
    return model


def work(folder: Path, params: Params, rank: int, clip: Path) -> None:
    """Be one of the workers; the first one writes the row of the measured steps."""
    workers = params.execution.workers
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=workers
    )
    records = [{"number": number, "width": 2, "height": 1} for number in range(40)]

    def batches(start: int) -> Iterator[Any]:
        return training_batches(
            records, lambda record, rng: draw(record, rng, height=160, width=216),
            batch_size=BATCH, seed=0, start_iteration=start, rank=rank, world_size=workers,
        )  # fmt: skip

    rows: list[dict[str, float]] = []
    seconds: list[float] = []

    def report(row: dict[str, float], checkpoint: Path | None) -> None:
        rows.append(row)
        seconds.append(time.process_time())

    train(
        build(params, clip), batches, params=params, seed=0, folder=folder / "checkpoints",
        report=report, facts={"run": "benchmark"}, worker=Worker(rank=rank, world_size=workers),
    )  # fmt: skip
    own = (seconds[1] - seconds[0]) / (params.train.iterations // 2 * BATCH)
    (folder / f"{rank}.json").write_text(json.dumps({**rows[1], "processor_seconds": own}))


def measure(params: Params) -> tuple[float, float]:
    """Return images per second, and processor seconds of all workers per image."""
    clip = ROOT / params.clip.pretrained
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        children = []
        for rank in range(params.execution.workers):
            if (child := os.fork()) == 0:
                work(folder, params, rank, clip)
                os._exit(0)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            sys.exit("a worker failed")
        rows = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    return rows[0]["images_per_second"], sum(row["processor_seconds"] for row in rows)


def measure_all(steps: int, repeats: int) -> list[dict[str, Any]]:
    """Measure every way so many times, one after the other, so that other work hits all alike."""
    found: dict[tuple[int, int | None], list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            found[way].append(measure(miniature(*way, steps=steps)))
            print(way, found[way][-1], file=sys.stderr)
    results = []
    base = statistics.median(speed for speed, _ in found[WAYS[0]])
    base_work = statistics.median(work for _, work in found[WAYS[0]])
    for (workers, images), runs in found.items():
        speed = statistics.median(speed for speed, _ in runs)
        work_per_image = statistics.median(work for _, work in runs)
        usable = min(workers, os.cpu_count() or 1)
        results.append(
            {
                "workers": workers,
                "images_per_worker": BATCH // workers,
                "micro_batch_size": images or BATCH // workers,
                "images_per_second": round(speed, 2),
                "runs": [round(speed, 2) for speed, _ in runs],
                "efficiency": round(speed / (usable * base), 3),
                "processor_ms_per_image": round(1000 * work_per_image, 1),
                "work_efficiency": round(base_work / work_per_image, 3),
            }
        )
    return results


def count_full_size() -> dict[str, Any]:
    """Count the operations of a step of MAFT+ Base on one image, forward and backward.

    Backward is reckoned as two products for each forward one, of everything but the teacher:
    PyTorch's counter takes the gradients of depthwise convolutions for those of full ones.
    """
    files = (ROOT / "params.yaml", ROOT / "workflow/experiments/maftp_base.yaml")
    params = load_params(*files).for_variant("maftp")
    model = build(params, None).train()
    item = draw({"number": 0}, np.random.default_rng(0), height=800, width=1067)
    model.text_embeddings(model.training_names)  # once per training, not part of a step
    start = time.process_time()
    with FlopCounterMode(display=False) as forward:
        losses = model([item])
    sum(losses.values()).backward()
    seconds = time.process_time() - start
    height, width = (-(-side // 32) * 32 for side in item["image"].shape[1:])
    with FlopCounterMode(display=False) as teacher, torch.no_grad():
        model.backbone_t(torch.zeros(1, 3, height, width))
    gflop = {"forward": forward.get_total_flops() / 1e9, "teacher": teacher.get_total_flops() / 1e9}
    gflop["backward"] = 2 * (gflop["forward"] - gflop["teacher"])
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        **{f"{name}_gflop": round(value) for name, value in gflop.items()},
        "trained_parameters": trained,
        "processor_seconds": round(seconds, 1),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def describe(measured: Callable[[], Any]) -> dict[str, Any]:
    """Return what was measured, where, when, and with what."""
    before = os.getloadavg()[0]
    results = measured()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "command": " ".join(["python", "benchmarks/scaling.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()}-core {platform.machine()} machine, {memory:.0f} GB, no GPU",
        "load": f"load average {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end",
        "busy": before > 0.5,
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "results": results,
    }


def as_markdown(report: dict[str, Any]) -> str:
    """Return the table of workers."""
    lines = [
        f"`{report['command']}`, {report['date']}, {report['machine']}; {report['load']}.",
        f"{report['versions']}.",
        "",
        "| workers x images | images per pass | images/s | scaling efficiency |"
        " processor ms per image | of one worker's work |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report["results"]:
        lines.append(
            f"| {row['workers']} x {row['images_per_worker']} | {row['micro_batch_size']} |"
            f" {row['images_per_second']} | {row['efficiency']:.0%} |"
            f" {row['processor_ms_per_image']} | {row['work_efficiency']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=6, help="measured; as many warm up (6)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    parser.add_argument("--full-size", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.full_size:
        report = describe(count_full_size)
        text = json.dumps(report, indent=2) + "\n"
    else:
        report = describe(lambda: measure_all(options.steps, options.repeats))
        text = as_markdown(report)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
        if not options.full_size:
            options.out.with_suffix(".md").write_text(f"# Scaling of training\n\n{text}")


if __name__ == "__main__":
    main()
