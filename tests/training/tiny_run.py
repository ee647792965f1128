"""A model of a few numbers with the interface of the real ones, its batches, a driver for Ray."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import nn

from maftp.config import Params, load_params, parse_params
from maftp.errors import MaftpError
from maftp.losses.batch_share import current_share
from maftp.training.distributed import Worker
from maftp.training.launch import launch
from maftp.training.run_folder import RunFolder
from maftp.training.worker import train

ROOT = Path(__file__).resolve().parents[2]


class TinyModel(nn.Module):
    """Regression with every kind of parameter the rules tell apart, and a random loss term."""

    architecture = {"model": "tiny", "cdt_form": None}
    training_names = ("cat", "dog,hound")

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8))
        self.backbone_t = nn.Linear(4, 8).requires_grad_(False)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.queries = nn.Embedding(3, 8)
        self.head = nn.Linear(8, 1)
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("empty_weight", torch.ones(3))

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        named = [(n, p) for n, p in self.named_parameters() if p.requires_grad]
        return {
            "backbone": [(n, p) for n, p in named if n.startswith("backbone.")],
            "head": [(n, p) for n, p in named if not n.startswith("backbone.")],
        }

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = [item["image"].to(self.scale.device) - 0.5 for item in batch]
        x = torch.stack(images).flatten(1)
        y = torch.stack([item["target"] for item in batch]).to(self.scale.device)
        hidden = self.frozen(self.backbone(x)) + self.queries.weight.sum(0) * self.scale
        share = current_share([{"labels": item["instances"]} for item in batch])
        noise = torch.cat(share.rand_per_image(8, device=x.device))  # like the losses' points
        return {
            "loss_ce": (self.head(hidden).squeeze(1) - y).square().mean(),
            "rc_loss": 0.1 * (hidden * noise - self.backbone_t(x)).square().mean(),
        }


def tiny_batches(
    rank: int = 0, world_size: int = 1, batch: int = 4, seconds: float = 0.0
) -> Callable[[int], Iterator[list[dict[str, Any]]]]:
    """Like the loader: sample n is a function of n alone, whoever asks for it."""

    def sample(index: int) -> dict[str, Any]:
        x = torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(index))
        masks = [0] * (index % 3)
        return {
            "image": x, "target": x.sum(), "instances": masks, "file_name": f"image_{index}.jpg"
        }  # fmt: skip

    def batches(start: int) -> Iterator[list[dict[str, Any]]]:
        local = batch // world_size
        step = start
        while True:
            first = step * batch + rank * local
            time.sleep(seconds)
            yield [sample(index) for index in range(first, first + local)]
            step += 1

    return batches


def tiny_params(*, nodes: int = 1, **train: Any) -> Params:
    """The repository's parameters with a training of a few steps.

    `train` holds keys of that block or of `execution`.
    """
    values = load_params(ROOT / "params.yaml").for_variant("maftp").model_dump(mode="python")
    execution = {key: train.pop(key) for key in list(train) if key in values["execution"]}
    values["train"] |= {
        "iterations": 12, "batch_size": 4,
        "learning_rate": 1e-3, "backbone_multiplier": 0.1, "weight_decay": 2e-5,
    } | train  # fmt: skip
    values["execution"] |= {
        "workers": 1, "cpus_per_worker": 1,
        "checkpoint_period": 4, "checkpoints_kept": 2, "log_period": 3,
    } | execution  # fmt: skip
    values["resources"]["nodes"] = nodes
    return parse_params(values, source="tests")


def prepare(
    params: Params, *, seed: int, worker: Worker, seconds: float, fault: int | None, pids: Path
) -> tuple[nn.Module, Callable]:
    """Stand for `maftp.training.worker.prepare`; note which process this worker is."""
    batches = tiny_batches(
        worker.rank, worker.world_size, batch=params.train.batch_size, seconds=seconds
    )
    pids.mkdir(exist_ok=True)
    (pids / f"{worker.rank}.pid").write_text(str(os.getpid()))

    def faulty(start: int) -> Iterator[list[dict[str, Any]]]:
        for step, batch in enumerate(batches(start), start):
            if step == fault:
                batch[0]["target"] = torch.tensor(torch.nan)
            yield batch

    return TinyModel(seed), faulty


def train_without_ray(out: Path, params: Params) -> None:
    """Train in forked workers that nobody disturbs; leaves history.csv and weights in `out`."""
    workers = params.execution.workers
    folder = RunFolder(out, digest="abc")
    folder.begin()
    children = []
    for rank in range(workers):
        if (child := os.fork()) == 0:
            store = f"file://{out}.store"
            torch.distributed.init_process_group("gloo", store, rank=rank, world_size=workers)
            train(
                TinyModel(0),
                tiny_batches(rank, workers),
                params=params,
                seed=0,
                folder=folder.checkpoints,
                report=lambda row, path: None,
                facts={"run": "abc"},
                worker=Worker(rank=rank, world_size=workers),
            )
            os._exit(0)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit("a worker failed")
    folder.publish({})


def main() -> None:
    """Train the tiny model, under Ray unless told otherwise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=0.0, help="between steps")
    parser.add_argument("--fault", type=int, help="step whose data are broken")
    parser.add_argument("--micro-batch-size", type=int)
    parser.add_argument("--without-ray", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    params = tiny_params(
        workers=options.workers, nodes=options.nodes, iterations=options.steps,
        micro_batch_size=options.micro_batch_size,
    )  # fmt: skip
    out = options.out.resolve()
    if options.without_ray:
        train_without_ray(out, params)
        return
    launch(
        params,
        variant="maftp",
        seed=0,
        clip=Path(__file__),
        embeddings=Path(__file__),
        out=out,
        prepare=by_value(
            prepare, seconds=options.seconds, fault=options.fault, pids=out.with_suffix(".pids")
        ),
    )


def by_value(function: Callable, **options: Any) -> Callable:
    """Return `function` with options; workers get its code, as they cannot import this file."""

    def call(params: Params, *, seed: int, worker: Worker, **_: Any) -> tuple[nn.Module, Callable]:
        return function(params, seed=seed, worker=worker, **options)

    return call


if __name__ == "__main__":
    try:
        main()
    except MaftpError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
