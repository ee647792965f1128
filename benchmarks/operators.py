"""Operators of one training step, by the lines that call them: what a GPU's host has to launch."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import measure
import subject
from torch.utils._python_dispatch import TorchDispatchMode

from maftp.api import experiment_params
from maftp.config import Params
from maftp.modeling.segmenter import Segmenter
from maftp.training.distributed import Batch, NextAction, Worker, gather_batch
from maftp.training.trainer import Trainer

CLASSES = 171
PACKAGE = str(Path(measure.__file__).resolve().parents[1] / "maftp")
FREE = {"detach", "alias", "_unsafe_view", "lift_fresh", "is_same_size"}
FREE |= {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
"""What makes a tensor without computing it, as views do."""
NOTE = (
    "ATen operators of one training step of MAFT+ {experiment} at {height} x {width}, {masks} true "
    "masks an image, {batch} image(s), without views and allocations, optimizer included{mixed}. "
    "Their number does not depend on the image's size."
)


class OperatorCount(TorchDispatchMode):
    """Counts operators that compute something, by the function of the package that called them."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self.names: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """All of them."""
        return self.places.total()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Count and call."""
        name = func.overloadpacket.__name__
        if not func.is_view and name not in FREE:
            self.places[_place(sys._getframe(1))] += 1
            self.names[name] += 1
        return func(*args, **(kwargs or {}))


def _place(frame: FrameType | None) -> str:
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if file.endswith("torch/autograd/graph.py"):
            return "backward pass"
        if file.startswith(PACKAGE):
            return f"{file.removeprefix(PACKAGE).lstrip('/')}: {name}"
        frame = frame.f_back
    return "elsewhere"


def count(model: Segmenter, params: Params, batch: Batch) -> OperatorCount:
    """Count the operators of a training step, after one that makes what is kept between steps."""
    worker = Worker()
    folder = Path(tempfile.gettempdir())
    trainer = Trainer(model, params=params, seed=0, folder=folder, worker=worker)
    whole = gather_batch(batch, action=NextAction.CONTINUE, worker=worker)
    trainer.step(batch, whole, step=0)
    with OperatorCount() as counted:
        trainer.step(batch, whole, step=1)
    return counted


def main() -> None:
    """Count, and publish the places with most operators."""
    options = _options()
    params = experiment_params(options.experiment)
    recipe = {"amp": options.amp, "amp_dtype": "bfloat16"}
    params = params.model_copy(update={"train": params.train.model_copy(update=recipe)})
    model = subject.model_of(options.experiment, num_classes=CLASSES, training=True)
    size = (options.height, options.width)
    batch = [
        subject.training_item(*size, num_masks=options.masks, num_classes=CLASSES, seed=index)
        for index in range(options.batch)
    ]
    counted = count(model, params, batch)
    rows = [{"place": "all", "operators": counted.total}]
    rows += [{"place": place, "operators": n} for place, n in counted.places.most_common(25)]
    mixed = f", {recipe['amp_dtype']} autocast" if options.amp else ""
    note = NOTE.format(**vars(options), mixed=mixed)
    measure.publish("operators", rows, options=options, note=note)


def _options() -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--experiment", default="maftp_base")
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=160)
    parser.add_argument("--masks", type=int, default=9)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--amp", action="store_true", help="with autocast")
    return parser.parse_args()


if __name__ == "__main__":
    main()
