"""Multi-scale deformable attention at the shapes of the pixel decoder: every backend there is."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import measure
import torch
from torch import Tensor

from maftp.modeling.pixel_decoder import pixel_centres
from maftp.ops import backends, deformops_backend

HEADS, WIDTH, POINTS = 8, 32, 4
OPERANDS = 3
"""Sets of operands that calls take in turn, so that a GPU's cache holds none of them ready."""
NOTE = (
    "8 heads of 32 channels, 4 points on each of 3 levels, input of {height} x {width}, float32. "
    "Medians of {repetitions} calls of each backend's own forward and backward, on random operands "
    "(events on a GPU, processor time on a CPU). GB/s counts what must be read and written once; "
    "the share of the floor compares it with {bandwidth} GB/s ({bandwidth_of})."
)
Operands = tuple[Tensor, list[tuple[int, int]], Tensor, Tensor]


def main() -> None:
    """Time forward and backward of every usable backend."""
    options = _options()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bandwidth = _copy_bandwidth(device)
    usable = [name for name in backends.PREFERENCE[device] if backends.status()[name] is None]
    rows = []
    for batch in options.batch:
        size = (batch, options.height, options.width)
        operands = [_inputs(*size, device, seed) for seed in range(OPERANDS)]
        gradients = [torch.randn_like(value).flatten(2) for value, *_ in operands]
        for name in usable:
            calls = _calls(name, operands, gradients)
            for kind, run, moved in zip(
                ("forward", "backward"), calls, _traffic(*size), strict=True
            ):
                seconds = measure.seconds_by_events(run, calls=options.repetitions, warm_up=1)
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


def _inputs(batch: int, height: int, width: int, device: str, seed: int) -> Operands:
    """Sample near each query's own place, as trained models do: a few cells around."""
    torch.manual_seed(seed)
    shapes = _shapes(height, width)
    tokens = sum(h * w for h, w in shapes)
    centres = torch.cat([pixel_centres(h, w, device=torch.device("cpu")) for h, w in shapes])
    sizes = torch.tensor([(w, h) for h, w in shapes]).float()
    offsets = 2 * torch.randn(batch, tokens, HEADS, len(shapes), POINTS, 2) / sizes[:, None]
    locations = centres[:, None, None, None] + offsets
    weights = torch.rand(batch, tokens, HEADS, len(shapes) * POINTS).softmax(-1)
    return (
        torch.randn(batch, tokens, HEADS, WIDTH).to(device),
        shapes,
        locations.to(device),
        weights.unflatten(-1, (len(shapes), POINTS)).to(device),
    )


def _calls(
    name: str, operands: list[Operands], gradients: list[Tensor]
) -> tuple[Callable[[int], object], Callable[[int], object]]:
    """Return a backend's forward and backward, which take the number of the call.

    The operators are called directly, but for that of deformops, which only autograd reaches.
    """
    if name == "deformops":
        return _deformops_calls(operands, gradients)

    def forward(number: int) -> object:
        value, shapes, locations, weights = operands[number % len(operands)]
        flat = [side for shape in shapes for side in shape]
        return torch.ops.maftp.ms_deform_attn(value, flat, locations, weights, name)

    def backward(number: int) -> object:
        value, shapes, locations, weights = operands[number % len(operands)]
        flat = [side for shape in shapes for side in shape]
        grad = gradients[number % len(operands)]
        return torch.ops.maftp.ms_deform_attn_backward(grad, value, flat, locations, weights, name)

    return forward, backward


def _deformops_calls(
    operands: list[Operands], gradients: list[Tensor]
) -> tuple[Callable[[int], object], Callable[[int], object]]:
    ready = []
    for value, shapes, locations, weights in operands:
        parts = [part.clone().requires_grad_() for part in (value, locations, weights)]
        output = deformops_backend.ms_deform_attn(parts[0], shapes, parts[1], parts[2])
        ready.append((shapes, parts, output))

    @torch.no_grad()
    def forward(number: int) -> object:
        shapes, (value, locations, weights), _ = ready[number % len(ready)]
        return deformops_backend.ms_deform_attn(value, shapes, locations, weights)

    def backward(number: int) -> object:
        _, parts, output = ready[number % len(ready)]
        grad = gradients[number % len(ready)]
        return torch.autograd.grad(output, parts, grad, retain_graph=True)

    return forward, backward


def _traffic(batch: int, height: int, width: int) -> tuple[int, int]:
    """Return the bytes that forward and backward must move at least."""
    tokens = batch * sum(h * w for h, w in _shapes(height, width))
    values, samples = tokens * HEADS * WIDTH, tokens * HEADS * 3 * POINTS
    forward = 4 * (2 * values + 3 * samples)
    return forward, forward + 4 * (values + 3 * samples)


def _copy_bandwidth(device: str) -> float:
    """Return bytes read and written per second by a copy of 256 MiB."""
    source = torch.randn(2**26, device=device)
    target = torch.empty_like(source)
    seconds = measure.seconds_by_events(lambda _: target.copy_(source), calls=5)
    return 2 * source.numel() * 4 / seconds


if __name__ == "__main__":
    main()
