"""Evaluation of an image: network and labels, against the textbook recipe, by number of classes."""

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
import torch.nn.functional as F
from torch import Tensor

from maftp.modeling.label_map import label_map
from maftp.modeling.postprocessing import Frame
from maftp.ops import backends

CLASSES = (20, 59, 150, 459, 847)
QUERIES = 100
CANVAS = (640, 800)
SMALLER = (480, 600)
NOTE_IMAGE = (
    "{experiment}, one image of 640 x 800, float32, two names a class, network and labels. "
    "Processor seconds (wall clock on a GPU), medians of {repetitions} interleaved rounds."
)
NOTE_LABELS = (
    "From class scores and mask logits of 100 queries on a canvas of 640 x 800 to labels. "
    "Processor seconds, medians of {repetitions} interleaved rounds; memory is what the step adds "
    "to the process at most, in a process of its own; the last column counts "
    "pixels whose labels differ."
)


def main() -> None:
    """Measure labels for every number of classes, then whole images for some."""
    options = _options()
    if options.peak:
        print(measure.peak_megabytes(_label_variants(*_peak_arguments(options))[options.peak]))
        return
    if not options.images_only:
        _labels(options)
    if not options.labels_only:
        _images(options)


def _options() -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument(
        "--classes", type=int, nargs="+", default=[150, 847], help="of whole images"
    )
    parser.add_argument("--experiment", default="maftp_base", help="of whole images")
    parser.add_argument("--labels-only", action="store_true")
    parser.add_argument("--images-only", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--resize", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _peak_arguments(options: argparse.Namespace) -> tuple[int, tuple[int, int]]:
    return options.count, SMALLER if options.resize else CANVAS


def _labels(options: argparse.Namespace) -> None:
    rows = []
    for count in CLASSES:
        for size in (CANVAS, SMALLER):
            variants = _label_variants(count, size)
            times = measure.interleaved(variants, repetitions=options.repetitions, warm_up=0)
            more = ["--count", str(count), *(["--resize"] if size == SMALLER else [])]
            peaks = {
                name: measure.in_fresh_process(__file__, "--peak", name, *more) for name in variants
            }
            different = (variants["textbook"]() != variants["ours"]()).sum()
            rows.append(
                {
                    "classes": count,
                    "result": "{} x {}".format(*size),
                    "textbook s": times["textbook"],
                    "ours s": times["ours"],
                    "time ratio": measure.ratio(times["ours"], times["textbook"]),
                    "textbook MiB": round(peaks["textbook"]),
                    "ours MiB": round(peaks["ours"]),
                    "memory ratio": measure.ratio(peaks["ours"], peaks["textbook"]),
                    "differing pixels": int(different),
                }
            )
    note = NOTE_LABELS.format(**vars(options))
    measure.publish("evaluation_labels", rows, options=options, note=note)


def _label_variants(count: int, size: tuple[int, int]) -> dict[str, Callable[[], Tensor]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, QUERIES, 21, 26, generator=generator) * 6
    quarter = (CANVAS[0] // 4, CANVAS[1] // 4)
    masks = F.interpolate(coarse, size=quarter, mode="bicubic")[0].to(device) - 3
    scores = torch.randn(QUERIES, count + 1, generator=generator).to(device) * 4
    arguments = (scores.log_softmax(-1), masks, Frame(CANVAS, CANVAS, size))
    return {
        "textbook": partial(textbook.label_map, *arguments, masks_first=False),
        "ours": partial(label_map, *arguments, masks_first=False),
    }


def _images(options: argparse.Namespace) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = subject.model_of(options.experiment, num_classes=2, training=False).to(device)
    model.semantic_output = "labels"
    item = {"image": subject.image(*CANVAS)}
    usable = [name for name in backends.PREFERENCE[device] if backends.status()[name] is None]
    rows = []
    for count in options.classes:
        names, embeddings = subject.vocabulary(count, model.backbone.embed_dim)
        model.set_test_vocabulary(names, embeddings=embeddings)
        evaluate = partial(_evaluate, model, item)
        variants = {"textbook": partial(evaluate, textbook.textbook_evaluation, "torch")}
        for name in reversed(usable):
            variants[f"ours, operator: {name}"] = partial(evaluate, nullcontext, name)
        times = measure.interleaved(variants, repetitions=options.repetitions)
        rows += [
            {
                "classes": count,
                "variant": name,
                "seconds": seconds,
                "time ratio": measure.ratio(seconds, times["textbook"]),
                "images/s ratio": measure.ratio(times["textbook"], seconds),
            }
            for name, seconds in times.items()
        ]
    note = NOTE_IMAGE.format(**vars(options))
    measure.publish("evaluation", rows, options=options, note=note)


@torch.inference_mode()
def _evaluate(model: Any, item: dict[str, Any], recipe: Callable[[], Any], backend: str) -> None:
    os.environ[backends.VARIABLE] = backend
    with recipe():
        model([item])


if __name__ == "__main__":
    main()
