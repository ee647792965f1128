"""Multi-scale deformable attention at the shapes of the pixel decoder: every backend there is."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial

import measure
import torch
from torch import Tensor

from maftp.modeling.pixel_decoder import pixel_centres
from maftp.ops import backends, ms_deform_attn

HEADS, WIDTH, POINTS = 8, 32, 4
NOTE = (
    "8 heads of 32 channels, 4 points on each of 3 levels, input of {height} x {width}, float32. "
    "Medians of {repetitions} interleaved rounds. GB/s counts what must be read and written once; "
    "the share of the floor compares it with {bandwidth} GB/s ({bandwidth_of})."
)


def main() -> None:
    """Time forward and forward with backward of every usable backend."""
    options = _options()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bandwidth = _copy_bandwidth(device)
    usable = [name for name in backends.PREFERENCE[device] if backends.status()[name] is None]
    rows = []
    for batch in options.batch:
        inputs = _inputs(batch, options.height, options.width, device)
        forward = {name: partial(_forward, name, *inputs) for name in usable}
        both = {name: partial(_both, name, *inputs) for name in usable}
        once, twice = _traffic(batch, options.height, options.width)
        times = measure.interleaved(forward, repetitions=options.repetitions)
        whole = measure.interleaved(both, repetitions=options.repetitions)
        for name in usable:
            for kind, seconds, moved in (
                ("forward", times[name], once),
                ("backward", whole[name] - times[name], twice),
            ):
                rows.append(
                    {
                        "batch": batch,
                        "backend": name,
                        "pass": kind,
                        "ms": 1e3 * seconds,
                        "GB/s": moved / seconds / 1e9,
                        "share of floor": moved / seconds / bandwidth,
                    }
                )
    note = NOTE.format(
        **vars(options), bandwidth=round(bandwidth / 1e9), bandwidth_of="a copy, measured here"
    )
    measure.publish("deformable_attention", rows, options=options, note=note)


def _options() -> argparse.Namespace:
    parser = measure.parser(__doc__)
    batches = [1, 2, 4, 8] if torch.cuda.is_available() else [1]
    parser.add_argument("--batch", type=int, nargs="+", default=batches)
    parser.add_argument("--height", type=int, default=800)
    parser.add_argument("--width", type=int, default=1216)
    return parser.parse_args()


def _shapes(height: int, width: int) -> list[tuple[int, int]]:
    return [(height // stride, width // stride) for stride in (32, 16, 8)]


def _inputs(
    batch: int, height: int, width: int, device: str
) -> tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]:
    """Sample near each query's own place, as trained models do: a few cells around."""
    torch.manual_seed(0)
    shapes = _shapes(height, width)
    tokens = sum(h * w for h, w in shapes)
    centres = torch.cat([pixel_centres(h, w, device=torch.device("cpu")) for h, w in shapes])
    sizes = torch.tensor([(w, h) for h, w in shapes]).float()
    offsets = 2 * torch.randn(batch, tokens, HEADS, len(shapes), POINTS, 2) / sizes[:, None]
    locations = centres[:, None, None, None] + offsets
    weights = torch.rand(batch, tokens, HEADS, len(shapes) * POINTS).softmax(-1)
    return (
        torch.randn(batch, tokens, HEADS, WIDTH).to(device).requires_grad_(),
        shapes,
        locations.to(device).requires_grad_(),
        weights.unflatten(-1, (len(shapes), POINTS)).to(device).requires_grad_(),
    )


@torch.no_grad()
def _forward(backend: str, *inputs: object) -> Tensor:
    os.environ[backends.VARIABLE] = backend
    return ms_deform_attn(*inputs)


def _both(backend: str, *inputs: object) -> None:
    os.environ[backends.VARIABLE] = backend
    output = ms_deform_attn(*inputs)
    output.backward(torch.ones_like(output))


def _traffic(batch: int, height: int, width: int) -> tuple[int, int]:
    """Return the bytes that forward and backward must move at least."""
    tokens = batch * sum(h * w for h, w in _shapes(height, width))
    values, samples = tokens * HEADS * WIDTH, tokens * HEADS * 3 * POINTS
    forward = 4 * (2 * values + 3 * samples)
    return forward, forward + 4 * (values + 3 * samples)


def _copy_bandwidth(device: str) -> float:
    """Return bytes read and written per second by a copy of 256 MiB."""
    source = torch.zeros(2**26, device=device)
    target = torch.empty_like(source)
    copy: Callable[[], object] = partial(target.copy_, source)
    seconds = measure.interleaved({"copy": copy}, repetitions=5)["copy"]
    return 2 * source.numel() * 4 / seconds


if __name__ == "__main__":
    main()
