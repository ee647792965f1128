"""A model of a few numbers with the interface of the real ones, its batches, a driver for Ray."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from maftp.config import Params, load_params, parse_params
from maftp.errors import MaftpError
from maftp.training.launch import launch
from maftp.training.worker import Place

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
        x = torch.stack([item["image"] for item in batch]).to(self.scale.device)
        y = torch.stack([item["target"] for item in batch]).to(self.scale.device)
        hidden = self.frozen(self.backbone(x)) + self.queries.weight.sum(0) * self.scale
        noise = torch.rand(len(x), 8, device=x.device)  # like the losses' points
        return {
            "loss_ce": (self.head(hidden).squeeze(1) - y).square().mean(),
            "rc_loss": 0.1 * (hidden * noise - self.backbone_t(x)).square().mean(),
        }


def tiny_batches(
    rank: int = 0, world_size: int = 1, batch: int = 4, seconds: float = 0.0
) -> Callable[[int], Iterator[list[dict[str, Any]]]]:
    """Like the loader: sample n is a function of n alone, whoever asks for it."""

    def sample(index: int) -> dict[str, Any]:
        x = torch.randn(4, generator=torch.Generator().manual_seed(index))
        return {"image": x, "target": x.sum(), "file_name": f"image_{index}.jpg"}

    def batches(start: int) -> Iterator[list[dict[str, Any]]]:
        local = batch // world_size
        step = start
        while True:
            first = step * batch + rank * local
            time.sleep(seconds)
            yield [sample(index) for index in range(first, first + local)]
            step += 1

    return batches


def tiny_params(**train: Any) -> Params:
    """The repository's parameters with a training of a few steps."""
    values = load_params(ROOT / "params.yaml").for_variant("maftp").model_dump(mode="python")
    values["train"] |= {
        "iterations": 12, "batch_size": 4, "workers": 1, "cpus_per_worker": 1,
        "checkpoint_period": 4, "checkpoints_kept": 2, "log_period": 3,
        "learning_rate": 1e-3, "backbone_multiplier": 0.1, "weight_decay": 2e-5,
    } | train  # fmt: skip
    return parse_params(values, source="tests")


def main(out: str, workers: str, seconds: str, fault: str = "") -> None:
    """Train the tiny model under Ray; `fault` is the step whose data are broken."""

    def prepare(params: Params, *, seed: int, place: Place, **_: Any) -> tuple[nn.Module, Callable]:
        batches = tiny_batches(place.rank, place.world_size, seconds=float(seconds))

        def faulty(start: int) -> Iterator[list[dict[str, Any]]]:
            for step, batch in enumerate(batches(start), start):
                if fault and step == int(fault):
                    batch[0]["target"] = torch.tensor(torch.nan)
                yield batch

        return TinyModel(seed), faulty

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    launch(
        tiny_params(workers=int(workers)),
        variant="maftp",
        seed=0,
        clip=Path(__file__),
        embeddings=Path(__file__),
        out=Path(out),
        prepare=prepare,
    )


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except MaftpError as error:
        sys.exit(str(error))
