"""Deformable attention by its definition in float64, random problems, and the command."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("output", "value", "locations", "weights")
Shapes = list[tuple[int, int]]


def run_maftp(*arguments, cache, **environment):
    """Run the command in a process of its own, as a user does."""
    code = "import sys; from maftp.cli import main; sys.exit(main())"
    environment = (
        os.environ | {"MAFTP_OPS_CACHE": str(cache), "PYTHONPATH": str(ROOT)} | environment
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True
    )


@dataclass(frozen=True)
class Problem:
    value: Tensor
    shapes: Shapes
    locations: Tensor
    weights: Tensor
    grad: Tensor

    def to(self, dtype: torch.dtype) -> Problem:
        return Problem(self.value.to(dtype), self.shapes, *(t.to(dtype) for t in self.rest()))

    def rest(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.locations, self.weights, self.grad

    def numel(self) -> int:
        return self.grad.numel()


def neighbour_sum(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sum over the four neighbours (j, i) of (1 - |u - j|) (1 - |t - i|) where they are inside."""
    batch, _, heads, channels = value.shape
    output = value.new_zeros(batch, locations.shape[1], heads, channels)
    output = output + 0 * (value.sum() + locations.sum() + weights.sum())  # a graph in any case
    image, head = torch.arange(batch)[:, None, None, None], torch.arange(heads)[:, None]
    start = 0
    for level, (height, width) in enumerate(shapes):
        u = locations[:, :, :, level, :, 0] * width - 0.5  # (B, Q, M, P)
        t = locations[:, :, :, level, :, 1] * height - 0.5
        for down in (0, 1):
            for right in (0, 1):
                i, j = t.detach().floor() + down, u.detach().floor() + right
                inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
                share = (1 - (u - j).abs()) * (1 - (t - i).abs()) * inside
                token = torch.where(inside, start + i * width + j, 0).long()
                if height * width:
                    corner = value[image, token, head]  # (B, Q, M, P, C)
                    share = share * weights[:, :, :, level]
                    output = output + (share[..., None] * corner).sum(3)
        start += height * width
    return output.flatten(2)


def gradients(function, problem: Problem) -> tuple[Tensor, ...]:
    """Return output and the gradients of value, locations and weights."""
    inputs = [t.detach().clone().requires_grad_() for t in (
        problem.value, problem.locations, problem.weights
    )]  # fmt: skip
    output = function(inputs[0], problem.shapes, *inputs[1:])
    parts = torch.autograd.grad(output, inputs, problem.grad, allow_unused=True)
    zeros = [
        p if p is not None else torch.zeros_like(i) for p, i in zip(parts, inputs, strict=True)
    ]
    return output.detach(), *zeros


def expected(problem: Problem) -> tuple[Tensor, ...]:
    return gradients(neighbour_sum, problem.to(torch.float64))


def assert_close(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...], relative: float) -> None:
    """Compare each tensor relative to its largest entry; what cancels rounds like a tenth."""
    for name, ours, theirs in zip(NAMES[: len(found)], found, wanted, strict=True):
        assert ours.shape == theirs.shape, name
        if theirs.numel():
            worst = (ours.double() - theirs).abs().max() / theirs.abs().max().clamp(min=0.1)
            assert worst < relative, f"{name}: {worst:.1e}"


def make_problem(
    *, seed: int, batch: int, queries: int, heads: int, channels: int, points: int, shapes: Shapes
) -> Problem:
    """Draw locations from two cells outside to two cells outside, in float32.

    They keep away from the borders between cells, where the derivative jumps and rounding decides
    on which side it is taken.
    """
    g = torch.Generator().manual_seed(seed)
    size = (batch, queries, heads, len(shapes), points)
    places = []
    for side in (1, 0):
        sides = torch.tensor([shape[side] for shape in shapes], dtype=torch.float64)[:, None]
        cell = (torch.rand(size, generator=g, dtype=torch.float64) * (sides + 4)).floor() - 2.5
        inside = torch.rand(size, generator=g, dtype=torch.float64) * 0.9 + 0.05
        places.append((cell + inside + 1) / sides.clamp(min=1))
    tokens = sum(h * w for h, w in shapes)
    return Problem(
        value=torch.randn(batch, tokens, heads, channels, generator=g),
        shapes=shapes,
        locations=torch.stack(places, dim=-1).float(),
        weights=torch.rand(size, generator=g),
        grad=torch.randn(batch, queries, heads * channels, generator=g),
    )


def problems(max_channels: int = 40) -> st.SearchStrategy[Problem]:
    """Random shapes, empty and one-pixel levels among them."""
    side = st.integers(0, 6)
    return st.builds(
        make_problem,
        seed=st.integers(0, 2**31),
        batch=st.integers(0, 2),
        queries=st.integers(0, 9),
        heads=st.integers(1, 3),
        channels=st.integers(1, max_channels),
        points=st.integers(1, 4),
        shapes=st.lists(st.tuples(side, side), min_size=1, max_size=3),
    )
