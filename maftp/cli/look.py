"""`maftp predict | demo | export`: what a model sees in one's own pictures, or other programs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from maftp.cli.options import NewFile, NewFolder, Positive

if TYPE_CHECKING:
    from maftp.api import Loaded

logger = logging.getLogger("maftp")


@Parameter(name="*")
@dataclass(frozen=True)
class Model:
    """Which model.

    Attributes:
        weights: released or own checkpoint; by default the miniature world's.
        experiment: recipe of released weights, such as maftp_base; own weights record it.
        device: cpu, cuda or cuda:1; by default a GPU if there is one.
    """

    weights: Path | None = None
    experiment: str | None = None
    device: str | None = None

    def load(self) -> Loaded:
        """Read the weights."""
        from maftp.api import load

        return load(self.weights, experiment=self.experiment, device=self.device)


SHIPPED = Model()


def predict(
    images: tuple[str, ...],
    /,
    *,
    vocabulary: str | None = None,
    model: Model = SHIPPED,
    short_side: Positive | None = None,
    panoptic: bool = False,
    stuff: str | None = None,
    out: NewFolder = Path("predictions"),
    every: Positive = 1,
    strict: bool = False,
) -> None:
    """Segment your own pictures with your own words.

    Args:
        images: images, videos, folders or patterns.
        vocabulary: classes, such as "sky; building, edifice; red car", or a text file of them; by
            default those of the model's training.
        short_side: shorter side for the network, in pixels; by default the experiment's.
        panoptic: find separate segments.
        stuff: with --panoptic, classes without instances, such as "sky; road".
        out: folder to write.
        every: every Nth frame of videos.
        strict: end with an error when a file of a folder, or the end of a video, cannot be read.
    """
    from maftp.apps.pictures import check_results, find_sources
    from maftp.apps.words import class_indices, read_words
    from maftp.errors import DataError

    names = None if vocabulary is None else read_words(vocabulary)
    sources = find_sources(images)
    check_results(sources, out)
    from maftp.apps.predict import predict

    loaded = model.load()
    if names is None:
        if loaded.training_names is None:
            raise DataError("--vocabulary: these weights do not say their classes; give some")
        names = list(loaded.training_names)
        logger.info("no --vocabulary given; using the %d classes of training", len(names))
    predictor = loaded.predictor(
        names,
        panoptic=panoptic,
        stuff=class_indices(stuff or "", names),
        short_side=short_side,
    )
    written = predict(sources, predictor, out, every=every, strict=strict)
    logger.info("%s: %d pictures segmented", out, len(written))


def demo(
    *,
    model: Model = SHIPPED,
    short_side: Positive | None = None,
    host: str = "127.0.0.1",
    port: Positive = 8080,
    no_browser: bool = False,
) -> None:
    """Serve a page on this machine: drop a picture, type words, see the segmentation.

    Args:
        short_side: shorter side for the network, in pixels; by default the experiment's.
        host: address to listen on.
        port: port to listen on.
        no_browser: do not open a browser.
    """
    from maftp.apps.demo import Engine, check_free, serve

    check_free(host, port)
    engine = Engine(model.load(), short_side=short_side)
    logger.info("the page is at http://%s:%d; Ctrl-C ends it", host, port)
    serve(engine, host=host, port=port, show=not no_browser)


def export(
    *,
    format: Literal["torch-export", "onnx"] = "onnx",
    model: Model = SHIPPED,
    size: tuple[Positive, Positive] | None = None,
    vocabulary: str | None = None,
    out: NewFile | None = None,
) -> None:
    """Write the image path for other runtimes, text embeddings being an input.

    Args:
        format: what the other runtime reads.
        size: height and width in pixels, multiples of 32; by default a square of the
            experiment's shorter side.
        vocabulary: words whose embeddings are written too; by default training's.
        out: file to write; by default model.onnx or model.pt2.
    """
    from maftp.apps.export import LIMITS, SUFFIX, export_model
    from maftp.apps.words import read_words
    from maftp.files import check_output

    names = None if vocabulary is None else read_words(vocabulary)
    out = out or Path("model").with_suffix(SUFFIX[format])
    check_output(out)
    loaded = model.load()
    side = -(-loaded.params.input.test.short_side // 32) * 32
    export_model(
        loaded,
        names or list(loaded.training_names or ["thing"]),
        out,
        kind=format,
        size=size or (side, side),
    )
    logger.info("%s: written and checked; limits: %s", out, LIMITS)
