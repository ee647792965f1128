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
from torch.optim import AdamW

from maftp.api import experiment_params
from maftp.modeling.segmenter import Segmenter
from maftp.ops import backends, native
from maftp.training.optimizer import build_optimizer, clip_gradients

CLASSES = 171
NOTE = (
    "MAFT+ {experiment}, {height} x {width}, batch {batch}, {masks} true masks an image, {classes} "
    "classes, {precision}: forward and backward, {update}. Seconds are processor seconds (wall "
    "clock on a GPU), medians of {repetitions} interleaved rounds; memory is what a step adds at "
    "most to a process of its own that holds parameters and gradients already: activations."
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
    sizes = [*map(str, size), "--experiment", options.experiment, "--batch", str(options.batch)]
    sizes += [] if options.amp is None else ["--amp", options.amp]
    peaks = {name: measure.in_fresh_process(__file__, "--peak", name, *sizes) for name in variants}
    rows = [
        {
            "variant": name,
            "seconds": times[name],
            "time ratio": measure.ratio(times[name], times["textbook"]),
            "images/s": options.batch / times[name],
            "MiB": round(peaks[name]),
            "memory ratio": measure.ratio(peaks[name], peaks["textbook"]),
        }
        for name in variants
    ]
    precision = "float32" if options.amp is None else f"autocast in {options.amp}"
    update = "clipping and AdamW" if options.optimizer else "no optimizer"
    note = NOTE.format(**vars(options), classes=CLASSES, precision=precision, update=update)
    measure.publish("step", rows, options=options, note=note)


def _options() -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--experiment", default="maftp_base")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--masks", type=int, default=9)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--amp", choices=["float16", "bfloat16"], help="autocast (none)")
    parser.add_argument("--optimizer", action="store_true", help="clip and update as well")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def _variants(options: argparse.Namespace) -> tuple[dict[str, Callable[[], Any]], Segmenter]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = subject.model_of(options.experiment, num_classes=CLASSES, training=True).to(device)
    size = (options.height, options.width)
    batch = [
        subject.training_item(*size, num_masks=options.masks, num_classes=CLASSES, seed=index)
        for index in range(options.batch)
    ]
    update = partial(model.zero_grad)
    if options.optimizer and not options.peak:
        # Hardly any learning: all variants are timed with the same weights.
        params = experiment_params(options.experiment)
        recipe = params.train.model_copy(update={"learning_rate": 1e-9})
        params = params.model_copy(update={"train": recipe})
        update = partial(_update, build_optimizer(model, model.parameter_groups(), params=params))
    step = partial(_step, model, batch, options.amp, update)
    variants = {"textbook": partial(step, textbook.textbook_step, "torch")}
    usable = [name for name in backends.PREFERENCE[device] if backends.status()[name] is None]
    for name in reversed(usable):
        variants[f"ours, operator: {name}"] = partial(step, nullcontext, name)
    return variants, model


def _step(
    model: Segmenter,
    batch: list[dict[str, Any]],
    amp: str | None,
    update: Callable[[], Any],
    recipe: Callable[[], Any],
    backend: str,
) -> None:
    os.environ[backends.VARIABLE] = backend
    torch.manual_seed(0)
    dtype = getattr(torch, amp or "bfloat16")
    with recipe():
        with torch.autocast(model.device.type, dtype=dtype, enabled=amp is not None):
            losses = model(batch)
        sum(losses.values()).backward()
    update()


def _update(optimizer: AdamW) -> None:
    clip_gradients(optimizer, max_norm=0.01)
    optimizer.step()
    optimizer.zero_grad()


if __name__ == "__main__":
    if native.why_not("cpu") is not None:
        print("The CPU kernel is left out: run `maftp ops build` first.")
    main()
