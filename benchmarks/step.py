"""One training step of MAFT+ Base: time and memory, against the textbook recipe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import measure
import subject
import textbook
import torch

from maftp.modeling.segmenter import Segmenter
from maftp.ops import backends, native

CLASSES = 171
NOTE = (
    "MAFT+ {experiment}, {height} x {width}, batch 1, {masks} true masks, {classes} classes, "
    "float32: forward and backward, no optimizer. Seconds are processor seconds (wall clock on a "
    "GPU), medians of {repetitions} interleaved rounds; memory is what a step adds at most to a "
    "process of its own that holds parameters and gradients already: activations."
)


def main() -> None:
    """Time all variants, then measure each one's memory in a process of its own."""
    options = _options()
    if options.peak:
        variants, model = _variants(options)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        print(measure.peak_megabytes(variants[options.peak]))
        return
    variants, _ = _variants(options)
    times = measure.interleaved(variants, repetitions=options.repetitions)
    size = ["--height", options.height, "--width", options.width, "--masks", options.masks]
    sizes = [*map(str, size), "--experiment", options.experiment]
    peaks = {name: measure.in_fresh_process(__file__, "--peak", name, *sizes) for name in variants}
    rows = [
        {
            "variant": name,
            "seconds": times[name],
            "time ratio": measure.ratio(times[name], times["textbook"]),
            "images/s": 1 / times[name],
            "MiB": round(peaks[name]),
            "memory ratio": measure.ratio(peaks[name], peaks["textbook"]),
        }
        for name in variants
    ]
    note = NOTE.format(**vars(options), classes=CLASSES)
    measure.publish("step", rows, options=options, note=note)


def _options() -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--experiment", default="maftp_base")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--masks", type=int, default=9)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def _variants(options: argparse.Namespace) -> tuple[dict[str, Callable[[], Any]], Segmenter]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = subject.model_of(options.experiment, num_classes=CLASSES, training=True).to(device)
    item = subject.training_item(
        options.height, options.width, num_masks=options.masks, num_classes=CLASSES
    )
    step = partial(_step, model, item)
    variants = {"textbook": partial(step, textbook.textbook_step, "torch")}
    usable = [name for name in backends.PREFERENCE[device] if backends.status()[name] is None]
    for name in reversed(usable):
        variants[f"ours, operator: {name}"] = partial(step, nullcontext, name)
    return variants, model


def _step(model: Any, item: dict[str, Any], recipe: Callable[[], Any], backend: str) -> None:
    os.environ[backends.VARIABLE] = backend
    torch.manual_seed(0)
    with recipe():
        losses = model([item])
        sum(losses.values()).backward()
    model.zero_grad()


if __name__ == "__main__":
    if native.why_not("cpu") is not None:
        print("The CPU kernel is left out: run `maftp ops build` first.")
    main()
